"""The networks, what they predict, and the steps with a path cut.

    ŷ_t = W_hy h_t + b_y,   L_t = ½ (ŷ_t − x_{t+1})²,   t = 1 … 63

The gates of GRU and LSTM start with chrono biases, for memories of up to a whole image, as the question is what open
gates do: with zero biases they would keep a half at every step, not much more than the Elman network, whose weights
are Gaussian with gain 1, at the edge of stability without input, and whose biases are zero.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from experiments.laboratory.config import Config
from rnn_jax import cells, initializers, losses, readout
from rnn_jax.types import Cell, PyTree


class Network(NamedTuple):
    """A cell with the way it starts.

    Attributes:
      name: as it is printed.
      cell: the cell.
      init: `key -> (cell parameters, readout)`, float32.
      slope: γ = max |f'|, for the bound (γ σ_max)ⁿ; None for gated cells, which the bound does not cover.
    """

    name: str
    cell: Cell
    init: Callable[[jax.Array], PyTree]
    slope: float | None = None


ELMAN, GRU, LSTM = "Elman", "GRU", "LSTM"
NAMES = (ELMAN, GRU, LSTM)


def networks(config: Config) -> dict[str, Network]:
    """All networks by name, one input, N hidden units and one output each."""
    chrono = initializers.chrono(config.longest_memory)

    def network(name: str, cell: Cell, slope: float | None = None, **how) -> Network:
        def init(key):
            key_cell, key_readout = jax.random.split(key)
            params = cell.init(key_cell, 1, config.hidden_size, dtype=jnp.float32, **how)
            return params, readout.init(key_readout, config.hidden_size, 1, dtype=jnp.float32)

        return Network(name, cell, init, slope)

    return {
        ELMAN: network(ELMAN, cells.elman(), cells.max_slope(jnp.tanh), recurrent=initializers.gaussian(1.0)),
        GRU: network(GRU, cells.gru(), bias=chrono),
        LSTM: network(LSTM, cells.lstm(), bias=chrono),
    }


def per_step_loss(cell: Cell, readout_params: readout.Readout, states: PyTree, ys: jax.Array) -> jax.Array:
    """L_t, `(T, *B)`, from states s_1 … s_T and the pixels to predict, `(T, *B, 1)`."""
    return losses.squared_error(readout.linear(readout_params, cell.emit(states)), ys)


class Paths(NamedTuple):
    """An input with the paths back that are open at its step, booleans."""

    x: jax.Array
    h: jax.Array
    c: jax.Array


def with_paths(params: cells.LSTMParams, state: cells.LSTMState, paths: Paths) -> cells.LSTMState:
    """The LSTM's step that sends nothing back to h_{t−1} or c_{t−1} where that path is cut; forward it is the same."""
    h = jnp.where(paths.h, state.h, lax.stop_gradient(state.h))
    c = jnp.where(paths.c, state.c, lax.stop_gradient(state.c))
    return cells.lstm().step(params, cells.LSTMState(h, c), paths.x)


def shut_forget_gates(params: cells.LSTMParams, by: float) -> cells.LSTMParams:
    """Parameters of an LSTM, `by` taken from the forget gates' pre-activations."""
    return params._replace(b_h=jnp.asarray(params.b_h).at[..., 1, :].add(-by))
