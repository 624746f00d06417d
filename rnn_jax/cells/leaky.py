"""The leaky rate network, an Elman network that moves only a fraction α of the way (α = Δt/τ, Euler's step).

    post-activation   h_t = (1 − α) h_{t−1} + α f(W_hh h_{t−1} + W_xh x_t + b_h)             state h
    pre-activation    v_t = (1 − α) v_{t−1} + α (W_hh f(v_{t−1}) + W_xh x_t + b_h)           state v, h_t = f(v_t)

With α = 1 both give Elman's h_t (the second one from h_0 = f(v_0)).
The pre-activation form without input is the rate map of Sompolinsky, Crisanti and Sommers (1988).
"""

from functools import cache

import jax.numpy as jnp

from rnn_jax.cells.activations import Activation, check_activation, derivative
from rnn_jax.cells.structure import structured_cell
from rnn_jax.cells.vanilla import init_elman, total_input
from rnn_jax.types import Cell


def leaky(leak: float, activation: Activation = jnp.tanh, *, pre_activation: bool = False) -> Cell:
    """The leaky cell, in the post-activation form or the pre-activation form above; parameters as Elman's.

    Args:
      leak: α, 0 < α ≤ 1, fixed (a learned leak is a step of your own).
      activation: f, as for `cells.elman`.
      pre_activation: whether the state is v (the input of f) rather than h.

    Raises:
      ValueError: for a leak outside (0, 1].

    >>> import jax
    >>> cell = leaky(0.1)
    >>> params = cell.init(jax.random.key(0), 3, 8)
    >>> cell.step(params, jnp.ones(8), jnp.zeros(3)).shape
    (8,)
    """
    if not 0 < leak <= 1:
        raise ValueError(f"leak is {leak}; expected 0 < leak <= 1. leak = dt / tau; 1 is the Elman cell.")
    check_activation(activation)
    form = _pre_activation if pre_activation else _post_activation
    return form(float(leak), activation)  # a NumPy float would be the same key, and change the state's dtype


@cache
def _post_activation(leak: float, activation: Activation) -> Cell:
    slope = derivative(activation)

    def gates(u, r):
        z = u + r
        return z, activation(z)

    def update(h, a):
        _, f = a
        return (1 - leak) * h + leak * f

    def pullback(h, a, h_new, dh_new):
        del h, h_new
        dz = leak * dh_new * slope(*a)
        return (1 - leak) * dh_new, dz, dz

    return structured_cell(init=init_elman, gates=gates, update=update, pullback=pullback)


@cache
def _pre_activation(leak: float, activation: Activation) -> Cell:
    slope = derivative(activation)

    def update(v, z):
        return (1 - leak) * v + leak * z

    def pullback(v, z, v_new, dv_new):
        del v, z, v_new
        dz = leak * dv_new
        return (1 - leak) * dv_new, dz, dz

    def emit_pullback(v, dh):
        return dh * slope(v, activation(v))

    return structured_cell(
        init=init_elman,
        gates=total_input,
        update=update,
        pullback=pullback,
        emit=activation,
        emit_pullback=emit_pullback,
    )
