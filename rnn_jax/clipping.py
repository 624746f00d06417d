"""Clipping δ_t along time, inside backpropagation through time.

    δ_t        = ∂L/∂s_t (immediate) + J_{t+1}ᵀ clip(δ_{t+1})
    ∂L/∂θ      = Σ_t (∂s_t/∂θ)ᵀ clip(δ_t)                         ∂L/∂x_t likewise
    clip(δ)    = δ · min(1, max_norm / ‖δ‖)                       ‖δ‖ of one sequence, over all components of its state

This is not the clipping of Pascanu, Mikolov and Bengio (2013, section 3.2), which scales the finished gradient of all
parameters by one number and so keeps its direction: that one is `optax.clip_by_global_norm`, and belongs to the update.
Here each time is scaled by its own number, inside the recursion. No δ_t that is passed on is longer than max_norm, so
that a product of Jacobians which explodes on the way back cannot drown what later steps say; and the sum is no longer
the gradient of L, nor of any other loss in general: it is biased, in its direction too. Where no ‖δ_t‖ exceeds max_norm
nothing is changed. Both can be had at once:

>>> import optax
>>> optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))

Neither brings back a gradient that has vanished.
"""

import math
from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax import checks
from rnn_jax.cells import stack
from rnn_jax.types import Cell, PyTree, Step, accumulator, as_step


def clip_along_time(cell: Cell | Step, max_norm: float) -> Cell | Step:
    """The same cell or step, but what goes back through it is clip(δ_t) in place of δ_t.

    `bptt` and its custom VJPs keep their hand-written derivatives; `jax.grad` of the plain unrolling gives the same.
    The `deltas` that `bptt.bptt` returns are the δ_t before they are clipped: `norms(deltas)` says which were too long.
    In a stack each layer's δ_t is clipped by its own norm.

    It is for BPTT alone, whole or in windows: take Jacobians, spectra, profiles and the gradients of other methods of
    the cell that was passed in. (Most refuse a clipped one; a vector that is pulled back is clipped as a gradient
    would be.) Clip what masks make of a cell, and not the cell that they are put on.

    Args:
      cell: a cell, or any `step(params, state, x) -> state` whose state has leaves `(*B, N)`, features last.
      max_norm: the longest δ_t that is passed on, >= 0; 0 passes nothing on.

    Raises:
      ValueError: for another max_norm; for a state with a leaf that has no feature axis, or with different batch axes.

    >>> from rnn_jax import bptt, cells
    >>> cell = cells.elman(cells.identity)
    >>> params = cells.ElmanParams(w_hh=jnp.array([[2.0]]), w_xh=jnp.array([[1.0]]), b_h=jnp.zeros(1))
    >>> xs, last = jnp.ones((5, 1)), jnp.zeros((5, 1)).at[-1].set(1.0)
    >>> bptt.bptt(clip_along_time(cell, 3.0), params, jnp.zeros(1), xs, last).deltas.T  # the plain ones: 16, 8, 4, 2, 1
    Array([[6., 6., 4., 2., 1.]], dtype=float32)
    """
    if not 0 <= max_norm < math.inf:
        raise ValueError(f"max_norm is {max_norm}; expected a finite number >= 0, such as 1.0.")
    max_norm = float(max_norm)  # a NumPy float would be the same key, and change the dtype of every gradient
    if isinstance(cell, Cell):
        return _clipped_cell(cell, max_norm)
    return _clipped_step(as_step(cell), max_norm)  # type: ignore[arg-type]


@cache
def _clipped_cell(cell: Cell, max_norm: float) -> Cell:
    if cell.layers:
        return stack(*(_clipped_cell(layer, max_norm) for layer in cell.layers))

    def pullback(state, a, new, dnew):
        return cell.pullback(state, a, new, _clip(max_norm, dnew))  # type: ignore[misc]

    def step_pullback(params, state, x, new, dnew):
        return cell.step_pullback(params, state, x, new, _clip(max_norm, dnew))  # type: ignore[misc]

    return cell._replace(
        step=_clipped_step(cell.step, max_norm),
        pullback=cell.pullback and pullback,
        step_pullback=cell.step_pullback and step_pullback,
    )


@cache
def _clipped_step(step: Callable[..., PyTree], max_norm: float) -> Step:
    """The step, its result passed through an identity that clips what comes back."""

    @jax.custom_vjp
    def identity(state):
        return state

    identity.defvjp(lambda state: (state, None), lambda _, delta: (_clip(max_norm, delta),))

    def clipped(params, state, x):
        return identity(step(params, state, x))

    clipped.clips_cotangents = True  # type: ignore[attr-defined]  # for `checks.unclipped`
    return clipped


def _clip(max_norm: float, delta: PyTree) -> PyTree:
    """δ · min(1, max_norm / ‖δ‖), sequence by sequence."""
    norm = norms(delta)
    long = norm > max_norm
    scale = jnp.where(long, max_norm / jnp.where(long, norm, 1), 1)
    return jax.tree.map(lambda leaf: (leaf * scale[..., None]).astype(leaf.dtype), delta)


def norms(deltas: PyTree) -> jax.Array:
    """‖δ‖ of each sequence, over all components of its state; at every time, if the leaves have a time axis.

    Args:
      deltas: a tree of arrays `(…, N)`, all with the same axes before the last.

    Returns:
      `(…)`, float32 for half precision. Its gradient at δ = 0 is 0.

    Raises:
      ValueError: a leaf without a feature axis, or with other axes before it.

    >>> from rnn_jax import cells
    >>> norms(cells.LSTMState(h=jnp.array([[3.0], [0.0]]), c=jnp.array([[4.0], [0.0]])))
    Array([5., 0.], dtype=float32)
    """
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(deltas)]
    if not shapes or () in shapes or len({shape[:-1] for shape in shapes}) > 1:
        raise ValueError(
            f"the state is {checks.signature(deltas)}; expected leaves (*B, N), features last, with the same batch "
            "axes *B for all: each sequence has one norm."
        )
    wide = [leaf.astype(accumulator(leaf.dtype)) for leaf in map(jnp.asarray, jax.tree.leaves(deltas))]
    # Of length about 1, no square is out of range.
    size = lax.stop_gradient(jnp.stack([jnp.abs(leaf).max(-1) for leaf in wide]).max(0))
    unit = jnp.where(size > 0, size, 1)[..., None]
    square = jnp.stack([((leaf / unit) ** 2).sum(-1) for leaf in wide]).sum(0)
    return size * jnp.sqrt(jnp.where(square > 0, square, 1))
