"""Recurrent cells as data: pure functions bundled in a `Cell` (see `rnn_jax.types`)."""

from rnn_jax.cells.activations import identity as identity
from rnn_jax.cells.activations import max_slope as max_slope
from rnn_jax.cells.gru import GRUParams as GRUParams
from rnn_jax.cells.gru import GRUResetBeforeParams as GRUResetBeforeParams
from rnn_jax.cells.gru import gru as gru
from rnn_jax.cells.gru import gru_reset_before as gru_reset_before
from rnn_jax.cells.leaky import leaky as leaky
from rnn_jax.cells.lstm import LSTMParams as LSTMParams
from rnn_jax.cells.lstm import LSTMState as LSTMState
from rnn_jax.cells.lstm import lstm as lstm
from rnn_jax.cells.stacked import stack as stack
from rnn_jax.cells.vanilla import ElmanParams as ElmanParams
from rnn_jax.cells.vanilla import elman as elman
from rnn_jax.types import Cell as Cell
