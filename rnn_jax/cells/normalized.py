"""Cells with layer normalisation (Ba, Kiros and Hinton 2016).

    LN(a)   = (a − mean a) / √(var a + ε)                 over the units of a layer, at each step and for each sequence

    Elman   z_t = g ∘ LN(W_hh h_{t−1} + W_xh x_t) + b,    h_t = f(z_t)                                     (eq. 4)

    LSTM    (i, f, g, o) = g_h ∘ LN(W_hh h_{t−1}) + g_x ∘ LN(W_xh x_t) + b,    all 4 N together            (eq. 20)
            c_t = σ(f) ∘ c_{t−1} + σ(i) ∘ tanh(g)                                                          (eq. 21)
            h_t = σ(o) ∘ tanh(g_c ∘ LN(c_t) + b_c)                                                         (eq. 22)

    GRU     (r, z) = g_h ∘ LN(W_hh h_{t−1}) + g_x ∘ LN(W_xh x_t) + b,          both gates together
            n = tanh(g_x ∘ LN(W_n x_t) + b_n + σ(r) ∘ (g_h ∘ LN(R_n h_{t−1}) + b_hn))
            h_t = σ(z) ∘ h_{t−1} + (1 − σ(z)) ∘ n                                       z keeps, as in `cells.gru`

The paper's two biases inside a sum are one here. Gains g start at 1 (`gain` of the Elman cell; `gain_hh`, `gain_xh`).

A step does not change when all weights inside one LN are multiplied by a positive number (but for ε), so neither do
its Jacobians. In LSTM and GRU W_hh stands alone: its scale makes gradients neither vanish nor explode, and the gains
take its place. In the Elman cell that holds of W_hh and W_xh together. One place is dangerous: LN(0) = 0 with the
derivative 1/√ε. An LSTM or a GRU that starts from h_0 = 0 passes to h_0 a gradient larger by up to that factor.

These are plain steps: backpropagation through time runs on `jax.vjp` of the step.
"""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.cells.activations import Activation, check_activation
from rnn_jax.cells.gru import gru
from rnn_jax.cells.lstm import LSTMState, lstm
from rnn_jax.cells.structure import (
    add_bias,
    check_parameters,
    emit_hidden,
    emit_hidden_pullback,
    hidden_state,
    project,
)
from rnn_jax.cells.vanilla import init_elman
from rnn_jax.types import Cell, PyTree, accumulator

EPSILON = 1e-5
"""ε, as in torch's LayerNorm: far below a variance of 1, far above the rounding of float32."""


class LayerNormElmanParams(NamedTuple):
    """`w_hh` (N, N), `w_xh` (N, D), `b_h` (N,), `gain` (N,)."""

    w_hh: jax.Array
    w_xh: jax.Array
    b_h: jax.Array
    gain: jax.Array


class LayerNormLSTMParams(NamedTuple):
    """`w_hh` (4, N, N), `w_xh` (4, N, D), `b_h`, `gain_hh`, `gain_xh` (4, N): i, f, g, o; `gain_c`, `b_c` (N,)."""

    w_hh: jax.Array
    w_xh: jax.Array
    b_h: jax.Array
    gain_hh: jax.Array
    gain_xh: jax.Array
    gain_c: jax.Array
    b_c: jax.Array


class LayerNormGRUParams(NamedTuple):
    """`w_hh` (3, N, N), `w_xh` (3, N, D), `b_h`, `gain_hh`, `gain_xh` (3, N), gates r, z, n; `b_hn` (N,)."""

    w_hh: jax.Array
    w_xh: jax.Array
    b_h: jax.Array
    b_hn: jax.Array
    gain_hh: jax.Array
    gain_xh: jax.Array


def layer_norm_elman(activation: Activation = jnp.tanh) -> Cell:
    """The Elman cell with its pre-activation normalised; its state is h, `(*B, N)`.

    >>> cell = layer_norm_elman()
    >>> params = cell.init(jax.random.key(0), 3, 8)
    >>> cell.step(params, cell.initial_state(params), jnp.ones(3)).shape
    (8,)
    """
    check_activation(activation)
    return _elman(activation)


@cache
def _elman(activation: Activation) -> Cell:
    def init(key, input_size, hidden_size, **options) -> LayerNormElmanParams:
        plain = init_elman(key, input_size, hidden_size, **options)
        return LayerNormElmanParams(**plain._asdict(), gain=jnp.ones_like(plain.b_h))

    def step(params: LayerNormElmanParams, h: jax.Array, x: jax.Array) -> jax.Array:
        recurrent, driven = _products(params, h, x, ())
        z = _scaled(params.gain, _normalize(recurrent + driven, 1))
        return activation(add_bias(z, params.b_h))

    return Cell(init, hidden_state, step, emit_hidden, emit_pullback=emit_hidden_pullback)


@cache
def layer_norm_lstm() -> Cell:
    """The LSTM with both products and the cell state's way out normalised; its state is `LSTMState(h, c)`.

    >>> cell = layer_norm_lstm()
    >>> params = cell.init(jax.random.key(0), 3, 8)
    >>> cell.step(params, cell.initial_state(params), jnp.ones(3)).c.shape
    (8,)
    """

    def init(key, input_size, hidden_size, **options) -> LayerNormLSTMParams:
        plain = lstm().init(key, input_size, hidden_size, **options)
        one, unit = jnp.ones_like(plain.b_h), jnp.ones_like(plain.b_h[0])
        return LayerNormLSTMParams(**plain._asdict(), gain_hh=one, gain_xh=one, gain_c=unit, b_c=0 * unit)

    def step(params: LayerNormLSTMParams, state: LSTMState, x: jax.Array) -> LSTMState:
        recurrent, driven = _products(params, state.h, x, (4,))
        a = _scaled(params.gain_hh, _normalize(recurrent, 2)) + _scaled(params.gain_xh, _normalize(driven, 2))
        i, f, g, o = jnp.moveaxis(add_bias(a, params.b_h), -2, 0)
        c = jax.nn.sigmoid(f) * state.c + jax.nn.sigmoid(i) * jnp.tanh(g)
        shown = add_bias(_scaled(params.gain_c, _normalize(c, 1)), params.b_c)
        return LSTMState(h=jax.nn.sigmoid(o) * jnp.tanh(shown), c=c)

    plain = lstm()
    return Cell(init, plain.initial_state, step, plain.emit, emit_pullback=plain.emit_pullback)


@cache
def layer_norm_gru() -> Cell:
    """The GRU (reset after the product) with its products normalised; its state is h, `(*B, N)`.

    >>> cell = layer_norm_gru()
    >>> params = cell.init(jax.random.key(0), 3, 8)
    >>> cell.step(params, cell.initial_state(params), jnp.ones(3)).shape
    (8,)
    """

    def init(key, input_size, hidden_size, **options) -> LayerNormGRUParams:
        plain = gru().init(key, input_size, hidden_size, **options)
        one = jnp.ones_like(plain.b_h)
        return LayerNormGRUParams(**plain._asdict(), gain_hh=one, gain_xh=one)

    def normalize(product: jax.Array) -> jax.Array:
        return jnp.concatenate(
            [_normalize(product[..., :2, :], 2), _normalize(product[..., 2:, :], 2)], axis=-2
        )

    def step(params: LayerNormGRUParams, h: jax.Array, x: jax.Array) -> jax.Array:
        recurrent, driven = _products(params, h, x, (3,))
        r = _scaled(params.gain_hh, normalize(recurrent))
        u = add_bias(_scaled(params.gain_xh, normalize(driven)), params.b_h)
        reset, keep = jnp.moveaxis(jax.nn.sigmoid(u[..., :2, :] + r[..., :2, :]), -2, 0)
        candidate = jnp.tanh(u[..., 2, :] + reset * add_bias(r[..., 2, :], params.b_hn))
        return keep * h + (1 - keep) * candidate

    return Cell(init, hidden_state, step, emit_hidden, emit_pullback=emit_hidden_pullback)


def _products(
    params: PyTree, h: jax.Array, x: jax.Array, gate_shape: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    """W_hh h_{t−1} and W_xh x_t, `(*B, [G,] N)`, of checked arguments."""
    check_parameters(params, gate_shape)
    for name, value in params._asdict().items():
        expected = params.b_h.shape[-1:] if name in ("gain_c", "b_c") else params.b_h.shape
        if name.startswith(("gain", "b_c")) and value.shape != expected:
            raise ValueError(
                f"{name} has shape {value.shape}; expected {expected}. Make it with the cell's init."
            )
    x = jnp.asarray(x)
    checks.operand("x", x, "w_xh", params.w_xh)
    checks.operand("h", h, "w_hh", params.w_hh)
    checks.batch("x", x, "h", h)
    return project(params.w_hh, h), project(params.w_xh, x)


def _normalize(a: jax.Array, axes: int) -> jax.Array:
    """LN over the last one or two axes."""
    over, dtype = tuple(range(-axes, 0)), a.dtype
    a = a.astype(accumulator(dtype))
    centred = a - a.mean(over, keepdims=True)
    return (centred * jax.lax.rsqrt((centred * centred).mean(over, keepdims=True) + EPSILON)).astype(dtype)


def _scaled(gain: jax.Array, a: jax.Array) -> jax.Array:
    return jax.lax.broadcast_to_rank(gain, a.ndim) * a
