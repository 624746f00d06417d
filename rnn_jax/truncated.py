"""Truncated backpropagation through time: each loss goes back through a few steps only.

With J_t = ∂s_t/∂s_{t−1}, and from every sum those pairs left out in which the loss L_t does not see the step k,

    δ_k      = Σ_{t sees k} J_{k+1}ᵀ … J_tᵀ ∂L_t/∂s_t          k ≤ t ≤ T
    ∂L/∂θ    ≈ Σ_k (∂s_k/∂θ)ᵀ δ_k                              immediate ∂s_k/∂θ: s_{k−1} held fixed
    ∂L/∂x_k  ≈ (∂s_k/∂x_k)ᵀ δ_k
    ∂L/∂h_0  ≈ J_1ᵀ δ_1

There are two truncations, and they are not the same:

    windows    t sees k if both lie in one of the windows 1 … K, K + 1 … 2K, …       0 to K − 1 steps back
    sliding    t sees k if t − k < K                                                 K − 1 steps back, for every loss

Each is the sum of what BPTT gives for pieces of the sequence, into which the state comes as a constant: of one piece a
window, with all of its losses; of one piece a loss, the K steps that end with it (BPTT(K) of Williams and Peng 1990).
Over one window, K ≥ T, both are BPTT. Both are biased; `rnn_jax.online` is not, and forgets nothing either.

The forward pass is that of BPTT, and in it the state is carried over all windows. On the way back all windows go side
by side, as one more batch axis: K steps in sequence in the place of T. The sliding window takes the same from
windows of one step, K times:

    δ_k^(1) = ∂L_k/∂s_k,    δ_k^(n+1) = ∂L_k/∂s_k + J_{k+1}ᵀ δ_{k+1}^(n),    δ_k = δ_k^(K)          all k at once

`windows_loop` and `sliding_loop` are their twins: one loss after another, by `jax.vjp` of a Python loop.

Here θ is the same for all windows. To train with one update a window, hand the state on and nothing else:

>>> import optax
>>> from rnn_jax import bptt, cells
>>> cell, optimiser = cells.elman(), optax.sgd(0.1)
>>> def update(params, moments, state, xs, targets):
...     def loss(params):  # the state that comes in is a constant: no gradient goes back to the window before
...         states = bptt.unroll(cell, params, state, xs)
...         return ((states - targets) ** 2).mean(), states[-1]
...     (value, state), gradient = jax.value_and_grad(loss, has_aux=True)(params)
...     updates, moments = optimiser.update(gradient, moments)
...     return optax.apply_updates(params, updates), moments, state, value
>>> params = cell.init(jax.random.key(0), 1, 1)
>>> moments, state = optimiser.init(params), cell.initial_state(params)
>>> for xs in jnp.sin(jnp.arange(60.0)).reshape(6, 10, 1):
...     params, moments, state, value = jax.jit(update)(params, moments, state, xs, 0.5 * xs)
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax import checks, sweeps
from rnn_jax import unroll as unrolling
from rnn_jax.bptt import Gradients
from rnn_jax.types import Cell, PyTree, Step, as_step


def windows(
    cell: Cell | Step,
    params: PyTree,
    state: PyTree,
    xs: PyTree,
    cotangents: PyTree,
    *,
    window: int,
    lengths: Any = None,
) -> Gradients:
    """Truncated BPTT over windows that do not overlap: the state is carried from one to the next, δ is not.

    Costs what BPTT costs, with `window` steps in sequence on the way back.

    Args:
      cell: a cell (hand-written derivatives) or any `step(params, state, x) -> state` (through `jax.vjp`).
      params, state, xs, cotangents, lengths: as in `bptt.bptt`.
      window: K ≥ 1, the steps of a window. The last one may be shorter.

    Returns:
      `bptt.Gradients` of the losses of each window for what lies in it: δ_t is ∂L_t/∂s_t alone at the end of a
      window, `state` comes from the first window only.

    Raises:
      ValueError: as `bptt.bptt`, or a window that is not a positive integer.

    >>> from rnn_jax import cells
    >>> cell = cells.elman(cells.identity)
    >>> params = cells.ElmanParams(w_hh=jnp.array([[0.5]]), w_xh=jnp.array([[1.0]]), b_h=jnp.zeros(1))
    >>> xs = ones = jnp.ones((5, 1))
    >>> run = jax.jit(partial(windows, cell, window=2))
    >>> run(params, jnp.zeros(1), xs, ones).deltas.T  # steps 1 and 2, 3 and 4, and 5
    Array([[1.5, 1. , 1.5, 1. , 1. ]], dtype=float32)
    """
    window = checks.integer("window", window, 1)
    params, state, xs, cotangents, lengths = _arguments(cell, params, state, xs, cotangents, lengths)
    steps = checks.sequence_length(xs)
    window = min(window, steps)
    if steps % window:
        xs, cotangents = jax.tree.map(partial(_pad, -steps % window), (xs, cotangents))
        lengths = jnp.asarray(steps if lengths is None else lengths)
    pieces = _cut(cell, params, state, xs, lengths, window)
    folded = _fold(window, cotangents)
    swept = _pull(pieces, folded)
    deltas = jax.tree.map(jnp.add, swept.carried, folded)
    return Gradients(swept.params, _first(swept.state), _unfold(steps, swept.xs), _unfold(steps, deltas))


def sliding(
    cell: Cell | Step,
    params: PyTree,
    state: PyTree,
    xs: PyTree,
    cotangents: PyTree,
    *,
    steps: int,
    lengths: Any = None,
) -> Gradients:
    """Truncated BPTT with a sliding window: every loss L_t goes back through the K steps t, t − 1, … t − K + 1.

    Costs T (K − 1) products with a transposed Jacobian, K − 1 of them in sequence, and the weight gradients once; two
    to three times the memory of BPTT. For K near T take `bptt.bptt`, which needs T.

    Args:
      cell: a cell (hand-written derivatives) or any `step(params, state, x) -> state` (through `jax.vjp`).
      params, state, xs, cotangents, lengths: as in `bptt.bptt`; a step in the padding counts as one.
      steps: K ≥ 1.

    Returns:
      `bptt.Gradients` of all losses at lags 0 … K − 1: δ_t = Σ_{u = t}^{t + K − 1} ∂L_u/∂s_t, `state` comes from the
      losses L_1 … L_K.

    Raises:
      ValueError: as `bptt.bptt`, or `steps` that is not a positive integer.

    >>> from rnn_jax import cells
    >>> cell = cells.elman(cells.identity)
    >>> params = cells.ElmanParams(w_hh=jnp.array([[0.5]]), w_xh=jnp.array([[1.0]]), b_h=jnp.zeros(1))
    >>> xs = ones = jnp.ones((5, 1))
    >>> jax.jit(partial(sliding, cell, steps=2))(params, jnp.zeros(1), xs, ones).deltas.T
    Array([[1.5, 1.5, 1.5, 1.5, 1. ]], dtype=float32)
    """
    steps = checks.integer("steps", steps, 1)
    checks.unclipped("sliding()", cell)
    params, state, xs, cotangents, lengths = _arguments(cell, params, state, xs, cotangents, lengths)
    total = checks.sequence_length(xs)
    pieces = _cut(cell, params, state, xs, lengths, 1)

    def one_lag_more(_, deltas):
        reaching = _pull(pieces, _fold(1, deltas)).state
        # J_tᵀ δ_t is for s_{t−1}: one entry earlier. To s_T nothing comes from later steps.
        return jax.tree.map(lambda leaf, back: leaf.at[:-1].add(back[1:]), cotangents, reaching)

    deltas = lax.fori_loop(0, min(steps, total) - 1, one_lag_more, cotangents)
    swept = _pull(pieces, _fold(1, deltas))
    return Gradients(swept.params, _first(swept.state), _unfold(total, swept.xs), deltas)


def windows_loop(
    cell: Cell | Step,
    params: PyTree,
    state: PyTree,
    xs: PyTree,
    cotangents: PyTree,
    *,
    window: int,
    lengths: Any = None,
) -> Gradients:
    """The plain twin of `windows`: one loss after another, by `jax.vjp`.

    >>> ones, step = jnp.ones((5, 1)), lambda p, s, x: 0.5 * s + x
    >>> jax.jit(partial(windows_loop, step, window=2))(None, jnp.zeros(1), ones, ones).deltas.T
    Array([[1.5, 1. , 1.5, 1. , 1. ]], dtype=float32)
    """
    window = checks.integer("window", window, 1)
    start = lambda t: (t - 1) // window * window
    return _loss_by_loss(start, cell, params, state, xs, cotangents, lengths)


def sliding_loop(
    cell: Cell | Step,
    params: PyTree,
    state: PyTree,
    xs: PyTree,
    cotangents: PyTree,
    *,
    steps: int,
    lengths: Any = None,
) -> Gradients:
    """The plain twin of `sliding`: one loss after another, by `jax.vjp`.

    >>> ones, step = jnp.ones((5, 1)), lambda p, s, x: 0.5 * s + x
    >>> jax.jit(partial(sliding_loop, step, steps=2))(None, jnp.zeros(1), ones, ones).deltas.T
    Array([[1.5, 1.5, 1.5, 1.5, 1. ]], dtype=float32)
    """
    steps = checks.integer("steps", steps, 1)
    start = lambda t: max(t - steps, 0)
    return _loss_by_loss(start, cell, params, state, xs, cotangents, lengths)


def _loss_by_loss(start: Callable[[int], int], cell, params, state, xs, cotangents, lengths) -> Gradients:
    """L_t is a function of θ, the inputs, and the constant s_k, k = start(t), from which the recurrence is run again.

    After each step a shift ε_k = 0 is added: the gradient of ε_k is δ_k.
    """
    checks.unclipped("a sum loss by loss", cell)
    params, state, xs, cotangents, lengths = _arguments(cell, params, state, xs, cotangents, lengths)
    steps = checks.sequence_length(xs)
    mask = unrolling.valid(xs, lengths)
    constants = unrolling.with_initial(state, unrolling.unroll(cell, params, state, xs, lengths=lengths))

    def ends(params, state, xs, shifts):
        body = unrolling.body_of(as_step(cell), params)
        reached = []
        for t in range(1, steps + 1):
            at = lambda tree, k: jax.tree.map(lambda leaf: leaf[k], tree)
            s = at(constants, start(t)) if start(t) else state
            for k in range(start(t), t):
                s = jax.tree.map(jnp.add, body(s, at((xs, mask), k)), at(shifts, k))
            reached.append(s)
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *reached)

    _, pull = jax.vjp(ends, params, state, xs, jax.tree.map(jnp.zeros_like, cotangents))
    return Gradients(*pull(cotangents))


class _Pieces(NamedTuple):
    """A sequence in W windows of K steps, side by side: in front of the batch axes there is one more.

    Attributes:
      plan, params: as in `rnn_jax.sweeps`.
      starts: the state before each window, `(W, *B, N)`.
      xs: `(K, W, *B, D)`.
      lengths: how many steps of each window are valid, `(W, *B)`; None for all.
      kept: what the forward sweep leaves, leaves `(K, W, *B, …)`.
    """

    plan: sweeps.Plan
    params: PyTree
    starts: PyTree
    xs: PyTree
    lengths: jax.Array | None
    kept: sweeps.Kept


def _cut(cell, params, state, xs, lengths, window: int) -> _Pieces:
    """The forward pass, over a sequence of W · K steps, and its pieces."""
    plan = sweeps.plan(cell, None, False, params, state, xs)
    states, kept = sweeps.forward(plan, params, state, xs, lengths)
    ends = jax.tree.map(lambda leaf: leaf[window - 1 : -1 : window], states)
    starts = unrolling.with_initial(state, ends)
    folded = _fold(window, xs)
    if lengths is not None:
        before = jnp.arange(0, checks.sequence_length(xs), window).reshape(-1, *(1,) * lengths.ndim)
        lengths = jnp.clip(lengths[None] - before, 0, window)
    # A cell takes any batch axes; a bare step may know of none.
    cell = cell if isinstance(cell, Cell) else jax.vmap(cell, in_axes=(None, 0, 0))
    plan = sweeps.plan(cell, plan.store, False, params, starts, folded)
    return _Pieces(plan, params, starts, folded, lengths, _fold(window, kept))


def _pull(pieces: _Pieces, cotangents: PyTree) -> sweeps.Swept:
    """The backward sweep of all windows together, from cotangents `(K, W, *B, N)`."""
    plan, params, starts, xs, lengths, kept = pieces
    return sweeps.backward(plan, params, starts, xs, lengths, kept, cotangents, None)


def _arguments(cell, params, state, xs, cotangents, lengths):
    """The arguments of BPTT as checked arrays."""
    params, state, xs, lengths = unrolling.arguments(params, state, xs, lengths)
    states = jax.eval_shape(partial(unrolling.unroll, cell), params, state, xs)
    cotangents = checks.cotangents(cotangents, states)
    return params, state, xs, cotangents, lengths


def _pad(steps: int, leaf: jax.Array) -> jax.Array:
    """Zeros for so many more steps."""
    return jnp.concatenate([leaf, jnp.zeros((steps, *leaf.shape[1:]), leaf.dtype)])


def _fold(window: int, tree: PyTree) -> PyTree:
    """Leaves (W · K, …) as (K, W, …); W is given, for -1 is undetermined where the batch is empty."""
    return jax.tree.map(
        lambda leaf: leaf.reshape(len(leaf) // window, window, *leaf.shape[1:]).swapaxes(0, 1), tree
    )


def _unfold(steps: int, tree: PyTree) -> PyTree:
    """Leaves (K, W, …) as (T, …), T ≤ W · K."""
    return jax.tree.map(
        lambda leaf: leaf.swapaxes(0, 1).reshape(math.prod(leaf.shape[:2]), *leaf.shape[2:])[:steps], tree
    )


def _first(tree: PyTree) -> PyTree:
    """Of the first window."""
    return jax.tree.map(lambda leaf: leaf[0], tree)
