"""Long short-term memory (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000).

Gates in the order i, f, g, o:

    i_t = σ(W_i x_t + R_i h_{t−1} + b_i)        g_t = tanh(W_g x_t + R_g h_{t−1} + b_g)
    f_t = σ(W_f x_t + R_f h_{t−1} + b_f)        o_t = σ(W_o x_t + R_o h_{t−1} + b_o)
    c_t = f_t ∘ c_{t−1} + i_t ∘ g_t
    h_t = o_t ∘ tanh(c_t)

The state is (h, c), in this order also when flattened: its Jacobian is 2N × 2N. The block ∂h_t/∂h_{t−1} alone,
at fixed c_{t−1}, leaves out diag(f_t), the path that keeps the signal.
"""

import math
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from rnn_jax import initializers
from rnn_jax.cells.structure import gates_together, hidden_state, sizes, stacked_gates, structured_cell
from rnn_jax.initializers import Initializer
from rnn_jax.types import Cell


class LSTMParams(NamedTuple):
    """`w_hh` (4, N, N), `w_xh` (4, N, D), `b_h` (4, N), gates i, f, g, o."""

    w_hh: jax.Array
    w_xh: jax.Array
    b_h: jax.Array


class LSTMState(NamedTuple):
    """`h` and `c`, each `(*B, N)`."""

    h: jax.Array
    c: jax.Array


def _init(
    key: jax.Array,
    input_size: int,
    hidden_size: int,
    *,
    recurrent: Initializer = initializers.orthogonal(),
    kernel: Initializer = initializers.gaussian(),
    bias: Initializer = initializers.zeros,
    dtype: DTypeLike = float,
) -> LSTMParams:
    d, n = sizes(input_size, hidden_size)
    key_hh, key_xh, key_b = jax.random.split(key, 3)
    return LSTMParams(
        w_hh=stacked_gates(recurrent, key_hh, 4, (n, n), dtype),
        w_xh=stacked_gates(kernel, key_xh, 4, (n, d), dtype),
        b_h=bias(key_b, (4, n), dtype),
    )


def _initial_state(params: LSTMParams, batch_shape: tuple[int, ...] = ()) -> LSTMState:
    zeros = hidden_state(params, batch_shape)
    return LSTMState(h=zeros, c=zeros)


def _emit(state: LSTMState) -> jax.Array:
    return state.h


def _emit_pullback(state: LSTMState, dh: jax.Array) -> LSTMState:
    return LSTMState(h=dh, c=jnp.zeros_like(state.c))


def lstm(forget_bias: float = 0.0) -> Cell:
    """The LSTM; its state is `LSTMState(h, c)`.

    Args:
      forget_bias: a constant added to the forget gate's pre-activation in every step. It is no parameter:
        weight decay does not see it and training does not move it. For the other custom, a *parameter* that
        starts at 1, pass `bias=initializers.forget_gate(1.0)` to `init`; doing both gives 2.

    >>> cell = lstm()
    >>> params = cell.init(jax.random.key(0), 3, 8, bias=initializers.forget_gate(1.0))
    >>> cell.step(params, cell.initial_state(params), jnp.ones(3)).c.shape
    (8,)
    """
    if not math.isfinite(forget_bias):
        raise ValueError(f"forget_bias is {forget_bias}; expected a finite number, such as 0 or 1.")
    # A NumPy float would be the same key, and change the dtype of every state.
    return _lstm(float(forget_bias))


@cache
def _lstm(forget_bias: float) -> Cell:
    def gates(u, r):
        # Added gate by gate, so that gates that were put together for this come apart again (`sweeps`).
        ai, af, ag, ao = (u[..., gate, :] + r[..., gate, :] for gate in range(4))
        i = jax.nn.sigmoid(ai)
        f = jax.nn.sigmoid(af + forget_bias)
        g = jnp.tanh(ag)
        o = jax.nn.sigmoid(ao)
        return i, f, g, o

    def update(state, a):
        i, f, g, o = a
        c = f * state.c + i * g
        return LSTMState(h=o * jnp.tanh(c), c=c)

    def pullback(state, a, new, dnew):
        # dc gathers both ways out of c_t: into c_{t+1}, and through tanh into h_t.
        i, f, g, o = a
        tanh_c = jnp.tanh(new.c)
        dc = dnew.c + dnew.h * o * (1 - tanh_c * tanh_c)
        da = gates_together(
            dc * g * i * (1 - i),
            dc * state.c * f * (1 - f),
            dc * i * (1 - g * g),
            dnew.h * tanh_c * o * (1 - o),
        )
        return LSTMState(h=jnp.zeros_like(state.h), c=dc * f), da, da

    return structured_cell(
        init=_init,
        gate_shape=(4,),
        initial_state=_initial_state,
        gates=gates,
        update=update,
        pullback=pullback,
        emit=_emit,
        emit_pullback=_emit_pullback,
    )
