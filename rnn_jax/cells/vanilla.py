"""The recurrence of the note (Elman 1990).

z_t = W_hh h_{t−1} + W_xh x_t + b_h
h_t = f(z_t)

∂h_t/∂h_{t−1} = diag(f'(z_t)) W_hh
"""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from rnn_jax import initializers
from rnn_jax.cells.activations import Activation, check_activation, derivative
from rnn_jax.cells.structure import sizes, structured_cell
from rnn_jax.initializers import Initializer
from rnn_jax.types import Cell


class ElmanParams(NamedTuple):
    """`w_hh` (N, N), `w_xh` (N, D), `b_h` (N,)."""

    w_hh: jax.Array
    w_xh: jax.Array
    b_h: jax.Array


def init_elman(
    key: jax.Array,
    input_size: int,
    hidden_size: int,
    *,
    recurrent: Initializer = initializers.orthogonal(),
    kernel: Initializer = initializers.gaussian(),
    bias: Initializer = initializers.zeros,
    dtype: DTypeLike = float,
) -> ElmanParams:
    """Parameters of an Elman or a leaky cell."""
    d, n = sizes(input_size, hidden_size)
    key_hh, key_xh, key_b = jax.random.split(key, 3)
    return ElmanParams(
        w_hh=recurrent(key_hh, (n, n), dtype),
        w_xh=kernel(key_xh, (n, d), dtype),
        b_h=bias(key_b, (n,), dtype),
    )


def total_input(u: jax.Array, r: jax.Array) -> jax.Array:
    """z_t = u_t + r_t: all that a cell without gates needs of the two.

    >>> total_input(jnp.ones(1), jnp.ones(1))
    Array([2.], dtype=float32)
    """
    return u + r


def elman(activation: Activation = jnp.tanh) -> Cell:
    """The Elman cell h_t = f(W_hh h_{t−1} + W_xh x_t + b_h); its state is h, `(*B, N)`.

    Args:
      activation: f, elementwise. `jnp.tanh`, `jax.nn.relu`, `jax.nn.sigmoid`, `jax.nn.hard_tanh` and
        `cells.identity` (the linear network) have their derivative by hand, any other by one `jvp`. Pass the
        same function object each time: a fresh lambda makes a new cell, and a new trace.

    >>> cell = elman()
    >>> params = cell.init(jax.random.key(0), 3, 8)
    >>> cell.step(params, cell.initial_state(params), jnp.ones(3)).shape
    (8,)
    """
    check_activation(activation)
    return _elman(activation)


@cache
def _elman(activation: Activation) -> Cell:
    slope = derivative(activation)

    def update(h, z):
        del h
        return activation(z)

    def pullback(h, z, h_new, dh_new):
        # ∂L/∂z = f'(z) ∘ ∂L/∂h_t;  h_{t−1} is reached through the recurrent product alone.
        dz = dh_new * slope(z, h_new)
        return jnp.zeros_like(h), dz, dz

    return structured_cell(init=init_elman, gates=total_input, update=update, pullback=pullback)
