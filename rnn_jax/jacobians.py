"""Exact Jacobians of every step along a trajectory.

    J_t = ∂s_t/∂s_{t−1}        ∂s_t/∂x_t        immediate ∂s_t/∂θ  (s_{t−1} held fixed)

s is the flattened state (h for Elman and GRU, then c for the LSTM; layers in turn for a stack), [i, j] is
∂(output i)/∂(input j). For the Elman cell J_t = diag(f'(z_t)) W_hh.

The functions take one sequence, `(T, D)`; `jax.vmap` is the batch. `state_jacobians` is `jax.jacfwd` of the
step; `structured` is its twin, which uses the cell's hand-written derivatives and never differentiates through
the matrix product. All products run at the highest precision of the device.
"""

import operator
from collections.abc import Callable, Iterable
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from rnn_jax import checks
from rnn_jax import unroll as unrolling
from rnn_jax.types import Cell, PyTree, Step, as_step, pull_emit


def state_jacobians(step: Cell | Step, params: PyTree, state: PyTree, xs: PyTree) -> jax.Array:
    """J_t = ∂s_t/∂s_{t−1} of every step, by `jax.jacfwd`.

    Args:
      step: a cell, or any `step(params, state, x) -> state`.
      params: θ.
      state: s_0 of one sequence; S is the number of its entries.
      xs: x_1 … x_T, `(T, D)`.

    Returns:
      `(T, S, S)`, entry t − 1 is J_t.

    Raises:
      ValueError: as `unroll.unroll`, or a cell's state with batch axes.

    >>> from rnn_jax import cells
    >>> cell = cells.elman()
    >>> params = cell.init(jax.random.key(0), 3, 8)
    >>> run = jax.jit(state_jacobians, static_argnums=0)
    >>> run(cell, params, cell.initial_state(params), jnp.ones((5, 3))).shape
    (5, 8, 8)
    """
    return _along_trajectory(jax.jacfwd, 1, step, params, state, xs)


def input_jacobians(step: Cell | Step, params: PyTree, state: PyTree, xs: jax.Array) -> jax.Array:
    """∂s_t/∂x_t of every step, by `jax.jacfwd`: `(T, S, D)`, entry t − 1 for step t. Arguments as above.

    >>> from rnn_jax import cells
    >>> cell = cells.lstm()
    >>> params = cell.init(jax.random.key(0), 3, 8)
    >>> run = jax.jit(input_jacobians, static_argnums=0)
    >>> run(cell, params, cell.initial_state(params), jnp.ones((5, 3))).shape
    (5, 16, 3)
    """
    return _along_trajectory(jax.jacfwd, 2, step, params, state, xs)


def parameter_jacobians(step: Cell | Step, params: PyTree, state: PyTree, xs: PyTree) -> PyTree:
    """The immediate ∂s_t/∂θ of every step, by `jax.jacfwd`: s_{t−1} does not vary with θ. Arguments as above.

    Returns:
      The tree of the parameters, leaves `(T, S, *shape of the parameter)`. (S × as large as the parameters, at
      every step: meant for small networks.)

    >>> from rnn_jax import cells
    >>> cell = cells.gru()
    >>> params = cell.init(jax.random.key(0), 3, 8)
    >>> run = jax.jit(parameter_jacobians, static_argnums=0)
    >>> run(cell, params, cell.initial_state(params), jnp.ones((5, 3))).w_hh.shape
    (5, 8, 3, 8, 8)
    """
    return _along_trajectory(jax.jacfwd, 0, step, params, state, xs)


def _along_trajectory(
    jacobian: Callable, argument: int, step: Cell | Step, params: PyTree, state: PyTree, xs: PyTree
) -> PyTree:
    """The Jacobian of the flattened step for one of (θ, s_{t−1}, x_t), at every step of the trajectory."""
    params, state, xs = _arguments(step, params, state, xs)
    _, unravel = ravel_pytree(state)

    def flat_step(params, flat_state, x):
        return ravel_pytree(as_step(step)(params, unravel(flat_state), x))[0]

    with jax.default_matmul_precision("highest"):
        states = unrolling.unroll(step, params, state, xs)
        previous = jax.vmap(lambda s: ravel_pytree(s)[0])(unrolling.previous_states(state, states))
        return jax.vmap(jacobian(flat_step, argnums=argument), in_axes=(None, 0, 0))(params, previous, xs)


def push(
    step: Cell | Step, params: PyTree, state: PyTree, x: PyTree, tangents: jax.Array
) -> tuple[PyTree, jax.Array]:
    """(s_t, J_t Q): one step, and its Jacobian times the columns of a matrix; the Jacobian is not formed.

    A structured cell goes by its parts, with one product for all gates and columns; any other step, and a stack, by
    `jax.linearize`, column by column. The twin of the first is the second with `cell.step`.

    Args:
      step, params: as in `state_jacobians`.
      state: s_{t−1} of one sequence.
      x: x_t.
      tangents: Q, `(S, K)`.

    Raises:
      ValueError: a matrix of another shape.

    >>> new, pushed = push(lambda p, s, x: p * s + x, 3.0, jnp.ones(2), jnp.ones(2), jnp.eye(2))
    >>> pushed
    Array([[3., 0.],
           [0., 3.]], dtype=float32)
    """
    flat, flat_step, unravel = _flat_step(step, params, state, x)
    _columns("tangents", tangents, flat.size)
    with jax.default_matmul_precision("highest"):
        if isinstance(step, Cell) and step.pullback is not None:
            return _push_by_parts(step, params, state, x, tangents)
        new, jvp = jax.linearize(flat_step, flat)
        return unravel(new), jax.vmap(jvp, in_axes=1, out_axes=1)(tangents)


def _push_by_parts(
    cell: Cell, params: PyTree, state: PyTree, x: jax.Array, tangents: jax.Array
) -> tuple[PyTree, jax.Array]:
    """`push` of a structured cell."""
    jax.eval_shape(cell.step, params, state, x)  # for its checks
    gates = _gates(cell, params, state, x)
    new = cell.update(state, gates)  # type: ignore[misc]
    parts = _parts(cell, gates, state, new)
    columns = tangents.reshape(len(parts.emit), -1, tangents.shape[-1])
    emitted = _sum(parts.emit[:, :, None] * columns)
    # The weights to the left and Q as it lies: XLA on the CPU would transpose the other order, in every step.
    recurrent = _recurrent(cell, params)
    product = (recurrent.reshape(-1, len(emitted)) @ emitted).reshape(*recurrent.shape[:-1], -1)
    rows = [
        _sum(update[:, :, None] * columns) + _sum(recur[:, :, None] * product)
        for update, recur in zip(parts.update, parts.recur, strict=True)
    ]
    return new, jnp.concatenate(rows)


def pull(step: Cell | Step, params: PyTree, state: PyTree, x: PyTree, cotangents: jax.Array) -> jax.Array:
    """J_tᵀ Q, `(S, K)`: the transposed Jacobian of one step times the columns of a matrix. Arguments as in `push`.

    >>> pull(lambda p, s, x: p @ s, jnp.array([[0.0, 2.0], [0.0, 0.0]]), jnp.ones(2), None, jnp.eye(2))
    Array([[0., 0.],
           [2., 0.]], dtype=float32)
    """
    flat, flat_step, _ = _flat_step(step, params, state, x)
    _columns("cotangents", cotangents, flat.size)
    with jax.default_matmul_precision("highest"):
        _, vjp = jax.vjp(flat_step, flat)
        return jax.vmap(lambda column: vjp(column)[0], in_axes=1, out_axes=1)(cotangents)


def _columns(name: str, matrix: jax.Array, size: int) -> None:
    if jnp.ndim(matrix) != 2 or jnp.shape(matrix)[0] != size:
        raise ValueError(
            f"{name} has shape {jnp.shape(matrix)}; expected (S, K) with S = {size}, the size of the state, one column "
            "a vector."
        )


def _flat_step(
    step: Cell | Step, params: PyTree, state: PyTree, x: PyTree
) -> tuple[jax.Array, Callable, Callable]:
    """The flattened s_{t−1}, the step as a function of it, and what gives a state its tree back."""
    flat, unravel = ravel_pytree(state)
    return flat, lambda flat: ravel_pytree(as_step(step)(params, unravel(flat), x))[0], unravel


def structured(cell: Cell, params: PyTree, state: PyTree, xs: jax.Array) -> jax.Array:
    """J_t of every step from the structure of the cell: the twin of `state_jacobians`.

        J_t = ∂update/∂s + ∂update/∂r · R · ∂emit/∂s

    ∂update and ∂emit act unit by unit: their diagonals come from the hand-written pullbacks of the cell with
    cotangents of ones, one for each component of the state. In a stack the row of layer l also
    holds what comes from below within the same step,

        J_{l,k} += ∂update_l/∂u · W_x · ∂emit_{l−1} · J_{l−1,k},      k < l.

    Args:
      cell: a structured cell, or a stack of such.
      params, state, xs: as in `state_jacobians`; one sequence.

    Returns:
      `(T, S, S)`.

    Raises:
      ValueError: for a cell without the structure (`gru_reset_before`, a bare step).

    >>> from rnn_jax import cells
    >>> cell = cells.lstm()
    >>> params = cell.init(jax.random.key(0), 3, 8)
    >>> run = jax.jit(structured, static_argnums=0)
    >>> run(cell, params, cell.initial_state(params), jnp.ones((5, 3))).shape
    (5, 16, 16)
    """
    _require_structure(cell)
    params, state, xs = _arguments(cell, params, state, xs)
    with jax.default_matmul_precision("highest"):
        states = unrolling.unroll(cell, params, state, xs)
        rows, _ = _layer_rows(cell, params, unrolling.previous_states(state, states), states, xs, None)
    return rows


def _layer_rows(
    cell: Cell, params: PyTree, previous: PyTree, states: PyTree, inputs: jax.Array, below: jax.Array | None
) -> tuple[jax.Array, Any]:
    """Rows of the joint Jacobian for one layer, (T, S_l, S_1 + … + S_l), and those of what it emits.

    `below` are the rows ∂h_{l−1,t}/∂s_{t−1} of the layer's input, `(T, N_{l−1}, S_1 + … + S_{l−1})`.
    """
    if cell.layers:
        rows: list[jax.Array] = []
        for layer, p, s0, s1 in zip(cell.layers, params, previous, states, strict=True):
            layer_rows, below = _layer_rows(layer, p, s0, s1, inputs, below)
            rows.append(layer_rows)
            inputs = layer.emit(s1)
        width = rows[-1].shape[-1]
        rows = [jnp.pad(r, ((0, 0), (0, 0), (0, width - r.shape[-1]))) for r in rows]
        return jnp.concatenate(rows, axis=1), below

    parts = _parts(cell, _gates(cell, params, previous, inputs), previous, states)
    recurrent = _recurrent(cell, params)
    # Axes (i's component, t, unit i, j's component, unit j), broadcast and summed: XLA writes the stack once.
    diagonal = jnp.eye(recurrent.shape[-1], dtype=recurrent.dtype)[None, None, :, None, :]
    through = _sum(
        [
            parts.recur[:, :, g, :, None, None] * matrix[None, None, :, None, :]
            for g, matrix in enumerate(recurrent)
        ]
    )
    update = parts.update.transpose(0, 2, 3, 1)[..., None] * diagonal
    own = update + through * parts.emit.swapaxes(0, 1)[None, :, None]
    own = own.reshape(*own.shape[:3], -1)
    if below is not None:
        input_weights = _matrix(lambda x: cell.drive(params, x), inputs[0])  # type: ignore[misc]
        from_below = jnp.einsum("ctgi,gij->ctij", parts.drive, input_weights) @ below[None]
        own = jnp.concatenate([from_below, own], axis=-1)
    emits = jnp.stack(jax.tree.leaves(pull_emit(cell, states, jnp.ones_like(cell.emit(states)))))
    # (C, T, N, …) → (T, C N, …); for one component a reshape, where XLA would copy a transposition.
    joint = own[0] if len(own) == 1 else own.swapaxes(0, 1).reshape(own.shape[1], -1, own.shape[-1])
    return joint, (emits[..., None] * own).sum(0)


class _Parts(NamedTuple):
    """The diagonals of the local derivatives of one step or of many, for the C components of the state.

    Attributes:
      update: ∂(component i of s_t)/∂(component j of s_{t−1}) at fixed r_t, `(C, C, *B, N)`.
      drive, recur: ∂(component i of s_t)/∂u_t and ∂r_t, `(C, *B, G, N)`.
      emit: ∂h_{t−1}/∂(component j of s_{t−1}), `(C, *B, N)`.
    """

    update: jax.Array
    drive: jax.Array
    recur: jax.Array
    emit: jax.Array


def _gates(cell: Cell, params: PyTree, previous: PyTree, inputs: jax.Array) -> PyTree:
    return cell.gates(cell.drive(params, inputs), cell.recur(params, cell.emit(previous)))  # type: ignore[misc]


def _parts(cell: Cell, gates: PyTree, previous: PyTree, states: PyTree) -> _Parts:
    """By the hand-written pullbacks with cotangents of ones, one for each component of the state."""
    h = cell.emit(previous)
    gate_axis = (*h.shape[:-1], -1, h.shape[-1])
    updates, drives, recurs = [], [], []
    for cotangent in _unit_cotangents(states):
        ds, du, dr = cell.pullback(previous, gates, states, cotangent)  # type: ignore[misc]
        updates.append(jnp.stack(jax.tree.leaves(ds)))
        drives.append(du.reshape(gate_axis))
        recurs.append(dr.reshape(gate_axis))
    emits = jax.tree.leaves(pull_emit(cell, previous, jnp.ones_like(h)))
    return _Parts(jnp.stack(updates), jnp.stack(drives), jnp.stack(recurs), jnp.stack(emits))


def _recurrent(cell: Cell, params: PyTree) -> jax.Array:
    """R, gates first: `(G, N, N)`."""
    checks.unclipped("a Jacobian from the structure of a cell", cell)
    matrix = cell.recurrent(params)  # type: ignore[misc]
    return matrix.reshape(-1, *matrix.shape[-2:])


def _sum(terms: Iterable[jax.Array]) -> jax.Array:
    """Term by term: a few large terms then fuse with what makes them, where a reduction would be a loop of its own."""
    return reduce(operator.add, terms)


def _unit_cotangents(states: PyTree) -> list[PyTree]:
    """For each component of the state, cotangents that are one there and zero elsewhere."""
    leaves, tree = jax.tree.flatten(states)
    return [
        jax.tree.unflatten(tree, [jnp.full_like(leaf, i == chosen) for i, leaf in enumerate(leaves)])
        for chosen in range(len(leaves))
    ]


def _matrix(affine: Callable, at: jax.Array) -> jax.Array:
    """The matrix of an affine map of one vector, gates first: (G, N, N_in). Any `at` gives the same."""
    matrix = jax.jacfwd(affine)(at)
    return matrix.reshape(-1, *matrix.shape[-2:])


def _arguments(step: Cell | Step, params: PyTree, state: PyTree, xs: PyTree) -> tuple[PyTree, PyTree, PyTree]:
    params, state, xs, _ = unrolling.arguments(params, state, xs, None)
    checks.one_sequence(step, state, "Jacobians are")
    return params, state, xs


def _require_structure(cell: Cell) -> None:
    layers = cell.layers if isinstance(cell, Cell) else ()
    for layer in layers:
        _require_structure(layer)
    if not layers and getattr(cell, "pullback", None) is None:
        raise ValueError(
            "structured() needs a cell, or a stack of cells, with drive, recur, update and their hand-written "
            f"derivatives; got a {type(cell).__name__} without. Use state_jacobians(), which takes any step."
        )
