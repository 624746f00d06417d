"""The transposed derivatives of the steps of a chunk, for every kind of cell: what the backward sweep is made of.

    structured cell     `pullback` by hand in the loop; parameters and inputs after it, one product each
    whole step          `step_pullback` by hand: in the loop for the state, once after it for the rest
    bare step           `jax.vjp` of the step, in the same two places

Whatever is summed over steps is summed in a layout of the cell's choice (`Cell.params_sums`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax import unroll as unrolling
from rnn_jax.types import Cell, PyTree, accumulator, as_step, is_structured, layers_of, pull_emit


class Chunk(NamedTuple):
    """The steps of a chunk: arrays along time that begin with it or before, which the loop reads where they are.

    Attributes:
      before: the state before the first entry of `states`.
      states: s_t, leaves with a leading time axis.
      has_gates: whether `gates` are kept; else they are formed again.
      gates: a_t, None in place of what the pullback does not read.
      start: the entry of the chunk's first step.
      size: C, the steps of the chunk.
    """

    before: PyTree
    states: PyTree
    has_gates: bool
    gates: PyTree
    start: Any
    size: int

    def state(self, j):
        """s_t of step j."""
        return row(self.states, self.start + j)

    def previous(self, j):
        """s_{t−1} of step j: the entry before, but for the first of all."""
        entry = self.start + j
        found = row(self.states, jnp.maximum(entry - 1, 0))
        return jax.tree.map(lambda before, leaf: jnp.where(entry == 0, before, leaf), self.before, found)

    def all_states(self):
        """s_t of all steps."""
        return rows(self.states, self.start, self.size)

    def all_previous(self):
        """s_{t−1} of all steps."""
        return unrolling.previous_states(self.previous(0), self.all_states())

    def layer(self, level: int) -> "Chunk":
        """That of one layer of a stack."""
        gates = self.gates[level] if self.has_gates else None
        return self._replace(before=self.before[level], states=self.states[level], gates=gates)


class Pullbacks(NamedTuple):
    """The transposed derivatives of the steps of a chunk.

    Attributes:
      pullback: `(j, δ) -> (J_tᵀ δ, collected)` of step j of the chunk, inside the loop.
      finish: `collected` of all steps `-> (sums, ∂L/∂x)`, after it; the sums over all chunks make ∂L/∂θ.
    """

    pullback: Callable
    finish: Callable


def of_chunk(cell, params: PyTree, xs: PyTree, chunk: Chunk) -> Pullbacks:
    """Those of a cell or step that is no stack; `xs` are the inputs of the chunk.

    >>> from rnn_jax import cells
    >>> cell = cells.elman(cells.identity)
    >>> params = cells.ElmanParams(w_hh=jnp.array([[0.5]]), w_xh=jnp.array([[3.0]]), b_h=jnp.zeros(1))
    >>> steps = jnp.ones((4, 1))
    >>> made = of_chunk(cell, params, steps, Chunk(jnp.ones(1), steps, False, None, start=0, size=4))
    >>> ds, collected = made.pullback(0, jnp.ones(1))
    >>> ds, made.finish(jnp.stack([collected] * 4))[1].T
    (Array([0.5], dtype=float32), Array([[3., 3., 3., 3.]], dtype=float32))
    """
    if is_structured(cell):
        return _structured_derivatives(cell, params, xs, chunk)
    if isinstance(cell, Cell) and cell.step_pullback is not None:
        return _whole_step_derivatives(cell, params, xs, chunk)
    return _autodiff_derivatives(as_step(cell), params, xs, chunk)


def _structured_derivatives(cell, params, xs, chunk) -> Pullbacks:
    """J_tᵀ δ = ∂update/∂sᵀ δ + ∂emit/∂sᵀ Rᵀ ∂update/∂rᵀ δ, by the derivatives of the cell's parts."""
    previous = chunk.all_previous()
    h_previous = cell.emit(previous)
    again = partial(step_and_gates, cell, params)
    gates, start = (chunk.gates, chunk.start) if chunk.has_gates else (again(previous, xs)[1], 0)
    # What is not read is not kept; but a pullback may ask for its shape.
    _, like = jax.eval_shape(again, chunk.previous(0), xs[0])
    unread = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)

    def pullback(j, delta):
        s_previous, a = chunk.previous(j), _merged(row(gates, start + j), unread)
        ds, du, dr = cell.pullback(s_previous, a, chunk.state(j), delta)
        dh = cell.recur_pullback(params, dr)
        return add(ds, pull_emit(cell, s_previous, dh)), du if du is dr else (du, dr)

    def finish(collected):
        du, dr = collected if isinstance(collected, tuple) else (collected, collected)
        return cell.params_sums(params, xs, h_previous, du, dr), cell.drive_pullback(params, du)

    return Pullbacks(pullback, finish)


def _whole_step_derivatives(cell, params, xs, chunk) -> Pullbacks:
    """The cell's derivative of the whole step: inside the loop for the state, once after it for θ and x."""

    def pullback(j, delta):
        _, ds, _ = cell.step_pullback(params, chunk.previous(j), row(xs, j), chunk.state(j), delta)
        return ds, delta

    def finish(deltas):
        d_params, _, d_xs = cell.step_pullback(params, chunk.all_previous(), xs, chunk.all_states(), deltas)
        return d_params, d_xs

    return Pullbacks(pullback, finish)


def _autodiff_derivatives(step, params, xs, chunk) -> Pullbacks:
    """`jax.vjp` of a step that says nothing about itself; only the recursion is by hand."""

    def pullback(j, delta):
        (ds,) = jax.vjp(lambda s: step(params, s, row(xs, j)), chunk.previous(j))[1](delta)
        return ds, delta

    def finish(deltas):
        def all_steps(some_params, some_xs):
            return jax.vmap(step, in_axes=(None, 0, 0))(
                _merged(some_params, params), chunk.all_previous(), _merged(some_xs, xs)
            )

        return jax.vjp(all_steps, differentiable(params), differentiable(xs))[1](deltas)

    return Pullbacks(pullback, finish)


def zero_sums(cell, params: PyTree, state: PyTree, x: PyTree) -> PyTree:
    """Zeros like what a chunk gives as its sums over steps.

    >>> zero_sums(lambda params, state, x: params * state, jnp.ones(2, jnp.float16), jnp.ones(2), None).dtype
    dtype('float32')
    """
    if layers_of(cell):
        sums = []
        for layer, p, s in zip(cell.layers, params, state, strict=True):
            sums.append(zero_sums(layer, p, s, x))
            x = layer.emit(s)
        return tuple(sums)
    if not is_structured(cell):
        return jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, accumulator(leaf.dtype)), differentiable(params)
        )

    def sums_of_one_step(params, state, x):
        h = cell.emit(state)
        return cell.params_sums(params, x, h, cell.drive(params, x), cell.recur(params, h))

    shapes = jax.eval_shape(sums_of_one_step, params, state, x)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def gradient(cell, params: PyTree, sums: PyTree) -> PyTree:
    """∂L/∂θ from the sums over all steps.

    >>> gradient(lambda params, state, x: params * state, jnp.ones(2, jnp.float16), jnp.ones(2)).dtype
    dtype('float16')
    """
    if layers_of(cell):
        return tuple(gradient(*layer) for layer in zip(cell.layers, params, sums, strict=True))
    if is_structured(cell):
        return cell.params_gradient(params, sums)
    return jax.tree.map(lambda total, leaf: total.astype(leaf.dtype), sums, differentiable(params))


def step_and_gates(cell, params: PyTree, state: PyTree, x: PyTree) -> tuple[PyTree, PyTree]:
    """s_t and a_t; None for the gates of a cell or step that has none.

    >>> step_and_gates(lambda params, state, x: params * state, 2.0, jnp.ones(1), None)
    (Array([2.], dtype=float32), None)
    """
    if not is_structured(cell):
        return as_step(cell)(params, state, x), None
    a = cell.gates(cell.drive(params, x), cell.recur(params, cell.emit(state)))
    return cell.update(state, a), a


def row(tree: PyTree, t: jax.Array | int) -> PyTree:
    """One entry along time.

    >>> row(jnp.arange(5), 2)
    Array(2, dtype=int32)
    """
    entry = partial(lax.dynamic_index_in_dim, index=t, keepdims=False, allow_negative_indices=False)
    return jax.tree.map(entry, tree)


def rows(tree: PyTree, start: jax.Array | int, count: int) -> PyTree:
    """Entries along time from `start` on.

    >>> rows(jnp.arange(5), 2, 3)
    Array([2, 3, 4], dtype=int32)
    """
    entries = partial(
        lax.dynamic_slice_in_dim, start_index=start, slice_size=count, allow_negative_indices=False
    )
    return jax.tree.map(entries, tree)


def write(tree: PyTree, start: jax.Array | int, entries: PyTree) -> PyTree:
    """The tree with its entries along time from `start` on replaced.

    >>> write(jnp.arange(4), 1, jnp.array([7, 8]))
    Array([0, 7, 8, 3], dtype=int32)
    """
    replaced = partial(
        lax.dynamic_update_slice_in_dim, start_index=start, axis=0, allow_negative_indices=False
    )
    return jax.tree.map(replaced, tree, entries)


def add(a: PyTree, b: PyTree) -> PyTree:
    """The sum of two trees, None standing for zeros: for all of one, or for leaves of b.

    >>> add((1, 2), (None, 3)), add(None, 4)
    ((1, 5), 4)
    """
    if a is None or b is None:
        return b if a is None else a
    return jax.tree.map(lambda y, x: x if y is None else x + y, b, a, is_leaf=lambda leaf: leaf is None)


def differentiable(tree: PyTree) -> PyTree:
    """The leaves that can be differentiated; None in place of integers, keys and the like.

    >>> differentiable((jnp.ones(1), jnp.arange(2)))
    (Array([1.], dtype=float32), None)
    """
    return jax.tree.map(lambda leaf: leaf if jnp.issubdtype(leaf.dtype, jnp.inexact) else None, tree)


def _merged(some: PyTree, all: PyTree) -> PyTree:
    """`all`, with the leaves of `some` that are not None."""
    return jax.tree.map(lambda a, b: b if a is None else a, some, all, is_leaf=lambda leaf: leaf is None)
