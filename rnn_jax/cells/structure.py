"""What the cells share: parameters from initialisers, zero states, affine maps, and the step of a structured cell."""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnn_jax import checks
from rnn_jax.initializers import Initializer
from rnn_jax.types import Cell, PyTree, accumulator


def stacked_gates(
    initializer: Initializer, key: jax.Array, gates: int, shape: Sequence[int], dtype
) -> jax.Array:
    """`(G, *shape)`: the initialiser called gate by gate, each with its own key."""
    keys = jax.random.split(key, gates)
    return jnp.stack([initializer(keys[g], tuple(shape), dtype) for g in range(gates)])


def sizes(input_size: int, hidden_size: int) -> tuple[int, int]:
    """The two sizes; raise unless both are positive integers."""
    for name, size in (("input_size", input_size), ("hidden_size", hidden_size)):
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
            raise ValueError(f"{name} is {size!r}; expected an integer >= 1, as in cell.init(key, 28, 128).")
    return int(input_size), int(hidden_size)


def project(weights: jax.Array, x: jax.Array) -> jax.Array:
    """W x over any batch axes: `(N, D)`, `(…, D)` → `(…, N)`; with gates `(G, N, D)` → `(…, G, N)`, in one GEMM."""
    flat = weights.reshape(-1, weights.shape[-1])
    # Contracted as it lies: inside a loop, XLA on the CPU would carry out the transposition of x @ flat.T each time.
    product = lax.dot_general(x, flat, (((x.ndim - 1,), (1,)), ((), ())))
    return product.reshape(*x.shape[:-1], *weights.shape[:-1])


def gates_together(*gates: jax.Array) -> jax.Array:
    """G arrays `(*B, N)` as one `(*B, G, N)`."""
    # Side by side as the product with the weights reads them: stacked, XLA would compute them a second time for it.
    return jnp.concatenate(gates, axis=-1).reshape(*gates[0].shape[:-1], len(gates), gates[0].shape[-1])


def project_back(weights: jax.Array, dy: jax.Array) -> jax.Array:
    """Wᵀ dy, the transpose of `project`: weights `([G,] N, D)`, dy `(…, [G,] N)` → `(…, D)`."""
    flat = weights.reshape(-1, weights.shape[-1])
    dy = dy.reshape(*dy.shape[: dy.ndim - weights.ndim + 1], len(flat))
    return lax.dot_general(dy, flat, (((dy.ndim - 1,), (0,)), ((), ())))


def outer_products(x: jax.Array, dy: jax.Array) -> jax.Array:
    """Σ x dyᵀ over all batch axes: `(…, D)`, `(…, [G,] N)` → `(D, G N)`, in one GEMM.

    To sum over its rows a backend transposes the left operand, so that is x, which is G times smaller. The result is
    transposed once, after the last sum. Half precision adds up in float32.
    """
    batch = x.shape[:-1]
    rows = math.prod(batch)
    x, dy = x.reshape(rows, x.shape[-1]), dy.reshape(rows, math.prod(dy.shape[len(batch) :]))
    return lax.dot_general(x, dy, (((0,), (0,)), ((), ())), preferred_element_type=accumulator(dy.dtype))


def bias_gradient(dy: jax.Array, bias: jax.Array) -> jax.Array:
    """Σ dy over all batch axes; half precision adds up in float32."""
    return dy.sum(tuple(range(dy.ndim - bias.ndim)), dtype=accumulator(dy.dtype))


def check_parameters(params: PyTree, gate_shape: tuple[int, ...]) -> None:
    """Raise unless w_hh, w_xh, b_h (and b_hn) fit each other: nothing of them is broadcast or left out.

    Args:
      params: the parameters of one layer.
      gate_shape: `()` for a cell without gates, `(G,)` for one with G.
    """
    checks.square("w_hh", params.w_hh.shape)
    n, d = params.w_hh.shape[-1], params.w_xh.shape[-1] if params.w_xh.ndim else 0
    expected = {"w_hh": (*gate_shape, n, n), "w_xh": (*gate_shape, n, d), "b_h": (*gate_shape, n)}
    if hasattr(params, "b_hn"):
        expected["b_hn"] = (n,)
    for name, shape in expected.items():
        value = getattr(params, name)
        if value.shape != shape:
            raise ValueError(
                f"{name} has shape {value.shape}; expected {shape}, with N = {n} of w_hh, for a cell with "
                f"{gate_shape[0] if gate_shape else 'no'} gates. Make parameters with the init of the same cell."
            )
        if value.dtype != params.w_hh.dtype or not jnp.issubdtype(value.dtype, jnp.floating):
            raise ValueError(
                f"{name} is {value.dtype} and w_hh is {params.w_hh.dtype}; all parameters must have one "
                "floating-point dtype. Convert them with jax.tree.map(lambda leaf: leaf.astype(dtype), params)."
            )


def add_bias(a: jax.Array, bias: jax.Array) -> jax.Array:
    """A bias for every batch entry; broadcast in so many words, for `jax_numpy_rank_promotion="raise"`."""
    return a + lax.broadcast_to_rank(bias, a.ndim)


def drive(params: PyTree, x: jax.Array) -> jax.Array:
    """u_t = W_xh x_t + b_h, `(*B, N)` or `(*B, G, N)`."""
    checks.operand("x", x, "w_xh", params.w_xh)
    return add_bias(project(params.w_xh, x), params.b_h)


def recur(params: PyTree, h: jax.Array, *, transposed: jax.Array | None = None) -> jax.Array:
    """r_t = W_hh h_{t−1}, `(*B, N)` or `(*B, G, N)`; with `transposed`, W_hhᵀ as `(N, [G ·] N)`, from that."""
    checks.square("w_hh", params.w_hh.shape)
    checks.operand("h", h, "w_hh", params.w_hh)
    if transposed is None:
        return project(params.w_hh, h)
    return (h @ transposed).reshape(*h.shape[:-1], *params.w_hh.shape[:-1])


def recurrent(params: PyTree) -> jax.Array:
    """W_hh, the matrix of `recur`."""
    return params.w_hh


def recur_pullback(params: PyTree, dr: jax.Array) -> jax.Array:
    """∂L/∂h_{t−1} = W_hhᵀ dr."""
    return project_back(params.w_hh, dr)


def drive_pullback(params: PyTree, du: jax.Array) -> jax.Array:
    """∂L/∂x_t = W_xhᵀ du."""
    return project_back(params.w_xh, du)


def params_sums(params: PyTree, x: jax.Array, h: jax.Array, du: jax.Array, dr: jax.Array) -> PyTree:
    """Σ h drᵀ, Σ x duᵀ and Σ du: the gradients of W_hh, W_xh and b_h, the matrices transposed."""
    return params._replace(
        w_hh=outer_products(h, dr), w_xh=outer_products(x, du), b_h=bias_gradient(du, params.b_h)
    )


def params_gradient(params: PyTree, sums: PyTree) -> PyTree:
    """The tree and the shapes of the parameters."""
    sums = sums._replace(
        w_hh=sums.w_hh.T.reshape(params.w_hh.shape), w_xh=sums.w_xh.T.reshape(params.w_xh.shape)
    )
    return jax.tree.map(lambda total, leaf: total.astype(leaf.dtype), sums, params)


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
    gate_shape: tuple[int, ...] = (),
    gates: Callable[[jax.Array, jax.Array], PyTree],
    update: Callable[[PyTree, PyTree], PyTree],
    pullback: Callable[..., tuple],
    initial_state: Callable[..., PyTree] = hidden_state,
    recur: Callable[..., jax.Array] = recur,
    params_sums: Callable[..., PyTree] = params_sums,
    emit: Callable[[PyTree], jax.Array] = emit_hidden,
    emit_pullback: Callable[..., PyTree] = emit_hidden_pullback,
) -> Cell:
    """A cell from its parts; the step is s_t = update(s_{t−1}, gates(drive(x_t), recur(emit(s_{t−1}))))."""

    def step(params: PyTree, state: PyTree, x: jax.Array) -> PyTree:
        check_parameters(params, gate_shape)
        x, h = jnp.asarray(x), emit(state)
        u, r = drive(params, x), recur(params, h)
        checks.batch("x", x, "h", h)
        return update(state, gates(u, r))

    return Cell(
        init=init,
        initial_state=initial_state,
        step=step,
        emit=emit,
        drive=drive,
        recur=recur,
        recurrent=recurrent,
        gates=gates,
        update=update,
        pullback=pullback,
        emit_pullback=emit_pullback,
        drive_pullback=drive_pullback,
        recur_pullback=recur_pullback,
        params_sums=params_sums,
        params_gradient=params_gradient,
    )
