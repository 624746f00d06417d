"""Gated recurrent units, in the two forms that share the name. Gates in the order r, z, n.

reset after (torch, cuDNN, Flax): the reset gate acts on the product

    r_t = σ(W_r x_t + b_r + R_r h_{t−1})
    z_t = σ(W_z x_t + b_z + R_z h_{t−1})
    n_t = tanh(W_n x_t + b_n + r_t ∘ (R_n h_{t−1} + b_hn))
    h_t = z_t ∘ h_{t−1} + (1 − z_t) ∘ n_t

reset before (Cho et al. 2014): the reset gate acts on the state, and two products follow each other

    n_t = tanh(W_n x_t + b_n + R_n (r_t ∘ h_{t−1}))

z keeps the state, as in torch, Flax, Keras and Cho et al.; in Chung et al. (2014) and Haiku it replaces it.
"""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from rnn_jax import checks, initializers
from rnn_jax.cells.structure import (
    add_bias,
    bias_gradient,
    check_parameters,
    drive,
    emit_hidden,
    emit_hidden_pullback,
    gates_together,
    hidden_state,
    params_sums,
    project,
    recur,
    sizes,
    stacked_gates,
    structured_cell,
)
from rnn_jax.initializers import Initializer
from rnn_jax.types import Cell


class GRUParams(NamedTuple):
    """`w_hh` (3, N, N), `w_xh` (3, N, D), `b_h` (3, N), gates r, z, n; `b_hn` (N,), inside the reset gate."""

    w_hh: jax.Array
    w_xh: jax.Array
    b_h: jax.Array
    b_hn: jax.Array


class GRUResetBeforeParams(NamedTuple):
    """`w_hh` (3, N, N), `w_xh` (3, N, D), `b_h` (3, N), gates r, z, n."""

    w_hh: jax.Array
    w_xh: jax.Array
    b_h: jax.Array


def _init_reset_before(
    key: jax.Array,
    input_size: int,
    hidden_size: int,
    *,
    recurrent: Initializer = initializers.orthogonal(),
    kernel: Initializer = initializers.gaussian(),
    bias: Initializer = initializers.zeros,
    dtype: DTypeLike = float,
) -> GRUResetBeforeParams:
    d, n = sizes(input_size, hidden_size)
    key_hh, key_xh, key_b = jax.random.split(key, 3)
    return GRUResetBeforeParams(
        w_hh=stacked_gates(recurrent, key_hh, 3, (n, n), dtype),
        w_xh=stacked_gates(kernel, key_xh, 3, (n, d), dtype),
        b_h=bias(key_b, (3, n), dtype),
    )


def _init_reset_after(key: jax.Array, input_size: int, hidden_size: int, **options) -> GRUParams:
    """As for the other form; b_hn starts at zero."""
    shared = _init_reset_before(key, input_size, hidden_size, **options)
    return GRUParams(*shared, b_hn=jnp.zeros_like(shared.b_h[2]))


def _recur(params: GRUParams, h: jax.Array, *, transposed: jax.Array | None = None) -> jax.Array:
    """R h_{t−1}, with b_hn added to the candidate's product, `(*B, 3, N)`."""
    if not hasattr(params, "b_hn"):
        raise ValueError("params has no b_hn, which gru() needs. Make parameters with gru().init.")
    bias = jnp.where(np.arange(3)[:, None] == 2, params.b_hn[None], 0)
    return add_bias(recur(params, h, transposed=transposed), bias)


def _params_sums(params: GRUParams, x, h, du, dr) -> GRUParams:
    shared = params_sums(params, x, h, du, dr)
    return shared._replace(b_hn=bias_gradient(dr[..., 2, :], params.b_hn))


class _Gates(NamedTuple):
    """r_t, z_t, n_t, and R_n h_{t−1} + b_hn, which the reset gate multiplies."""

    reset: jax.Array
    keep: jax.Array
    candidate: jax.Array
    product: jax.Array


def _gates(u: jax.Array, r: jax.Array) -> _Gates:
    reset = jax.nn.sigmoid(u[..., 0, :] + r[..., 0, :])
    keep = jax.nn.sigmoid(u[..., 1, :] + r[..., 1, :])
    product = r[..., 2, :]
    return _Gates(reset, keep, jnp.tanh(u[..., 2, :] + reset * product), product)


def _update(h: jax.Array, a: _Gates) -> jax.Array:
    return a.keep * h + (1 - a.keep) * a.candidate


def _pullback(h, a, h_new, dh_new):
    """The local derivatives, gate by gate; da is the cotangent of a gate's pre-activation."""
    del h_new
    da_keep = dh_new * (h - a.candidate) * a.keep * (1 - a.keep)
    da_candidate = dh_new * (1 - a.keep) * (1 - a.candidate * a.candidate)
    da_reset = da_candidate * a.product * a.reset * (1 - a.reset)
    du = gates_together(da_reset, da_keep, da_candidate)
    dr = gates_together(da_reset, da_keep, da_candidate * a.reset)
    return dh_new * a.keep, du, dr


@cache
def gru() -> Cell:
    """The GRU with the reset gate after the product (torch's); its state is h, `(*B, N)`.

    `init` takes `recurrent`, `kernel` (called gate by gate) and `bias` (called once, (3, N)); b_hn is 0.

    >>> cell = gru()
    >>> params = cell.init(jax.random.key(0), 3, 8, bias=initializers.chrono(50.0))
    >>> cell.step(params, cell.initial_state(params), jnp.ones(3)).shape
    (8,)
    """
    return structured_cell(
        init=_init_reset_after,
        gate_shape=(3,),
        gates=_gates,
        recur=_recur,
        params_sums=_params_sums,
        update=_update,
        pullback=_pullback,
    )


def _reset_before_gates(
    params: GRUResetBeforeParams, h: jax.Array, x: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """r_t, z_t and n_t of the form with the reset before the product."""
    check_parameters(params, (3,))
    if hasattr(params, "b_hn"):
        raise ValueError(
            "params has a b_hn, which only gru() uses. Make parameters with gru_reset_before().init."
        )
    checks.operand("h", h, "w_hh", params.w_hh)
    u = drive(params, x)
    checks.batch("x", x, "h", h)
    a = u[..., :2, :] + project(params.w_hh[:2], h)
    reset, keep = jax.nn.sigmoid(a[..., 0, :]), jax.nn.sigmoid(a[..., 1, :])
    candidate = jnp.tanh(u[..., 2, :] + project(params.w_hh[2], reset * h))
    return reset, keep, candidate


def _reset_before_step(params: GRUResetBeforeParams, h: jax.Array, x: jax.Array) -> jax.Array:
    _, keep, candidate = _reset_before_gates(params, h, jnp.asarray(x))
    return keep * h + (1 - keep) * candidate


def _reset_before_pullback(params, h, x, h_new, dh_new):
    """The whole step's derivative by hand; parameter gradients summed over all batch axes."""
    del h_new
    reset, keep, candidate = _reset_before_gates(params, h, x)
    da_keep = dh_new * (h - candidate) * keep * (1 - keep)
    da_candidate = dh_new * (1 - keep) * (1 - candidate * candidate)
    d_reset_h = da_candidate @ params.w_hh[2]  # the cotangent of r_t ∘ h_{t−1}
    da_reset = d_reset_h * h * reset * (1 - reset)
    dh = dh_new * keep + d_reset_h * reset + da_keep @ params.w_hh[1] + da_reset @ params.w_hh[0]

    da = jnp.stack([da_reset, da_keep, da_candidate], axis=-2)
    operands = jnp.stack([h, h, reset * h], axis=-2)  # what each gate's recurrent matrix multiplied
    dparams = GRUResetBeforeParams(
        w_hh=jnp.einsum("...gi,...gj->gij", da, operands),
        w_xh=jnp.einsum("...gi,...j->gij", da, x),
        b_h=da.sum(tuple(range(da.ndim - 2))),
    )
    return dparams, dh, jnp.einsum("...gi,gij->...j", da, params.w_xh)


@cache
def gru_reset_before() -> Cell:
    """The GRU with the reset gate before the product (Cho et al. 2014); its state is h, `(*B, N)`.

    Two matrix products follow each other in one step, which the structure of `Cell` does not hold; so this is
    a plain step that carries the derivative of the whole step by hand.

    >>> cell = gru_reset_before()
    >>> params = cell.init(jax.random.key(0), 3, 8)
    >>> cell.step(params, cell.initial_state(params), jnp.ones(3)).shape
    (8,)
    """
    return Cell(
        init=_init_reset_before,
        initial_state=hidden_state,
        step=_reset_before_step,
        emit=emit_hidden,
        emit_pullback=emit_hidden_pullback,
        step_pullback=_reset_before_pullback,
    )
