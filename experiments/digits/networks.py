"""The six networks: three tanh networks that differ in their gain, ReLU from the identity, GRU, LSTM."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.digits.config import CLASSES, Config
from rnn_jax import cells, initializers, readout
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


BELOW, AT, ABOVE, IRNN, GRU, LSTM = range(6)
"""Positions in `networks(config)`."""


def networks(config: Config) -> tuple[Network, ...]:
    """All networks, one input and N hidden units each; matrices but for those named are the library's defaults.

    The Elman networks have zero biases; LSTM and GRU start with chrono biases. Measured before training at lag 60:
    with zero biases a gradient has lost 11 decades in the LSTM and 10 in the GRU, with a forget bias of 1 the
    LSTM's has lost 5, with chrono biases both have lost 1.
    """
    tanh, relu = cells.elman(), cells.elman(jax.nn.relu)
    chrono = initializers.chrono(config.longest_memory)

    def start(cell: Cell, **how) -> Callable:
        def init(key):
            key_cell, key_readout = jax.random.split(key)
            params = cell.init(key_cell, 1, config.hidden_size, dtype=jnp.float32, **how)
            return params, readout.init(key_readout, config.hidden_size, CLASSES, dtype=jnp.float32)

        return init

    def gaussian(gain: float) -> Network:
        recurrent = initializers.gaussian(gain)
        return Network(f"tanh g={gain:g}", tanh, start(tanh, recurrent=recurrent), cells.max_slope(jnp.tanh))

    identity = start(relu, recurrent=initializers.identity())
    return (
        gaussian(config.gain_below),
        gaussian(config.gain_at),
        gaussian(config.gain_above),
        Network("ReLU W=I", relu, identity, cells.max_slope(jax.nn.relu)),
        Network("GRU", cells.gru(), start(cells.gru(), bias=chrono)),
        Network("LSTM", cells.lstm(), start(cells.lstm(), bias=chrono)),
    )
