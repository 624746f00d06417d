"""What the cells share: parameters from initialisers, zero states, affine maps, and the step of a structured cell."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax import checks
from rnn_jax.initializers import Initializer
from rnn_jax.types import Cell, PyTree


def stacked_gates(
    initializer: Initializer, key: jax.Array, gates: int, shape: Sequence[int], dtype
) -> jax.Array:
    """`(G, *shape)`: the initialiser called gate by gate, each with its own key."""
    keys = jax.random.split(key, gates)
    return jnp.stack([initializer(keys[g], tuple(shape), dtype) for g in range(gates)])


def sizes(input_size: int, hidden_size: int) -> tuple[int, int]:
    """The two sizes; raise unless both are positive integers."""
    for name, size in (("input_size", input_size), ("hidden_size", hidden_size)):
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} is {size!r}; expected an integer >= 1.")
    return input_size, hidden_size


def project(weights: jax.Array, x: jax.Array) -> jax.Array:
    """W x over any batch axes: `(N, D)`, `(…, D)` → `(…, N)`; with gates `(G, N, D)` → `(…, G, N)`, in one GEMM."""
    flat = weights.reshape(-1, weights.shape[-1])
    return (x @ flat.T).reshape(*x.shape[:-1], *weights.shape[:-1])


def add_bias(a: jax.Array, bias: jax.Array) -> jax.Array:
    """A bias for every batch entry; broadcast in so many words, for `jax_numpy_rank_promotion="raise"`."""
    return a + lax.broadcast_to_rank(bias, a.ndim)


def drive(params: PyTree, x: jax.Array) -> jax.Array:
    """u_t = W_xh x_t + b_h, `(*B, N)` or `(*B, G, N)`."""
    checks.operand("x", x, "w_xh", params.w_xh)
    return add_bias(project(params.w_xh, x), params.b_h)


def recur(params: PyTree, h: jax.Array) -> jax.Array:
    """r_t = W_hh h_{t−1}, `(*B, N)` or `(*B, G, N)`."""
    checks.square("w_hh", params.w_hh.shape)
    checks.operand("h", h, "w_hh", params.w_hh)
    return project(params.w_hh, h)


def hidden_state(params: PyTree, batch_shape: tuple[int, ...] = ()) -> jax.Array:
    """h_0 = 0, `(*batch_shape, N)`, in the parameters' dtype."""
    return jnp.zeros((*batch_shape, params.w_hh.shape[-1]), params.w_hh.dtype)


def emit_hidden(state: jax.Array) -> jax.Array:
    """h_t is the state itself."""
    return state


def emit_hidden_pullback(state: jax.Array, dh: jax.Array) -> jax.Array:
    """∂L/∂s_t = ∂L/∂h_t."""
    del state
    return dh


def structured_cell(
    *,
    init: Callable[..., PyTree],
    update: Callable[..., PyTree],
    pullback: Callable[..., tuple],
    initial_state: Callable[..., PyTree] = hidden_state,
    drive: Callable[..., jax.Array] = drive,
    recur: Callable[..., jax.Array] = recur,
    emit: Callable[[PyTree], jax.Array] = emit_hidden,
    emit_pullback: Callable[..., PyTree] = emit_hidden_pullback,
) -> Cell:
    """A cell from its parts; the step is s_t = update(s_{t−1}, drive(x_t), recur(emit(s_{t−1})))."""

    def step(params: PyTree, state: PyTree, x: jax.Array) -> PyTree:
        x, h = jnp.asarray(x), emit(state)
        u, r = drive(params, x), recur(params, h)
        checks.batch("x", x, "h", h)
        return update(state, u, r)

    return Cell(
        init=init,
        initial_state=initial_state,
        step=step,
        emit=emit,
        drive=drive,
        recur=recur,
        update=update,
        pullback=pullback,
        emit_pullback=emit_pullback,
    )
