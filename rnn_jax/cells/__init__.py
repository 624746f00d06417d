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
from rnn_jax.cells.masked import candidate_dropout as candidate_dropout
from rnn_jax.cells.masked import dropout_masks as dropout_masks
from rnn_jax.cells.masked import recurrent_dropout as recurrent_dropout
from rnn_jax.cells.masked import zoneout as zoneout
from rnn_jax.cells.masked import zoneout_masks as zoneout_masks
from rnn_jax.cells.masked import zoneout_means as zoneout_means
from rnn_jax.cells.normalized import LayerNormElmanParams as LayerNormElmanParams
from rnn_jax.cells.normalized import LayerNormGRUParams as LayerNormGRUParams
from rnn_jax.cells.normalized import LayerNormLSTMParams as LayerNormLSTMParams
from rnn_jax.cells.normalized import layer_norm_elman as layer_norm_elman
from rnn_jax.cells.normalized import layer_norm_gru as layer_norm_gru
from rnn_jax.cells.normalized import layer_norm_lstm as layer_norm_lstm
from rnn_jax.cells.stacked import stack as stack
from rnn_jax.cells.vanilla import ElmanParams as ElmanParams
from rnn_jax.cells.vanilla import elman as elman
from rnn_jax.types import Cell as Cell
