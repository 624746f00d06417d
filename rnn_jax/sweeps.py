"""The two sweeps of backpropagation through time: forward along the sequence, and back, chunk by chunk.

The backward sweep is a scan over chunks of C steps, from the last to the first, and in it a scan over steps that
holds the sequential path and nothing else:

    δ_t = ∂L/∂s_t + J_{t+1}ᵀ δ_{t+1}                          t = T … 1, step by step
    ∂L/∂θ += Σ_{t in chunk} (∂s_t/∂θ)ᵀ δ_t                    one product a chunk and weight
    ∂L/∂x_t = (∂s_t/∂x_t)ᵀ δ_t                                one product a chunk

The loop takes its steps one by one or, on an accelerator and for very few units, several in each turn. What a step
says of its parameters lives for one chunk only. What the forward sweep keeps is a choice, `store`:

    "gates"         s_t, and what the pullback reads of a_t        S + A numbers a step: A is 4 N for GRU and LSTM, N
                                                                   for leaky, 0 for tanh, which s_t says all about
    "states"        s_t; the gates are formed again, for a chunk   S numbers a step, one more product with the weights
                    at once
    "checkpoints"   s_t before each chunk of √T steps, and         about √T (2 S + A) numbers, one more forward sweep;
                    s_t and a_t of one chunk at a time             beside them s_1 … s_T, where they are the result

A stack is swept layer by layer within a chunk, top to bottom: a layer's ∂L/∂x_t is a cotangent of the layer below.
The backward sweep's own derivative is that of its plain twin, `jax.vjp` of `rnn_jax.unroll.unroll`.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from rnn_jax import checks, pullbacks
from rnn_jax import unroll as unrolling
from rnn_jax.types import Cell, PyTree, Step, as_step, is_structured, layers_of, pull_emit

STORES = ("gates", "states", "checkpoints")

# On a CPU, steps × batch of a chunk: enough rows for the products over a chunk to run at full speed, few enough to stay
# in a cache. On an accelerator its steps: what it waits for are the launches of a chunk, whatever the batch.
_ROWS = 512
_STEPS = 512
# So that gates that are formed again are those of a small part of the sequence, where memory is what counts.
_LEAST_CHUNKS = {"gates": 1, "states": 32}
_LEAST_STEPS = 4  # with fewer, summing a chunk's share into the weight gradients would be a step's work

_STEPS_A_TURN = 4
"""Steps that a turn of the loop over a chunk takes on an accelerator, and on a CPU for tiny cells; else it is one.

An accelerator launches fewer kernels for them: what a turn does beside its steps is done once, four results are written
together, and a turn of many kernels runs as one graph.
"""

_TINY = 64
"""Numbers of u_t up to which a turn of a loop that keeps or reads several gates costs a CPU more than the step in it.

The other loops of so few numbers XLA compiles as one function, as long as a turn is one step.
"""

_FEW_INPUTS = 8
"""Units to each input from which on the product with the inputs costs little, in whatever pieces."""

_CACHED = 2**16
"""Numbers of u_t that are still in a CPU's fast cache when the loop over steps comes to read them."""

_KEPT_BYTES = 2**30
"""What the forward sweep may keep where nothing is asked for: gates up to here, else states."""


class Plan(NamedTuple):
    """How the sweeps are made; all of it is static.

    Attributes:
      cell: the cell or step.
      store: what the forward sweep keeps, one of `STORES`.
      reverse: whether the recurrence runs from t = T down to 1.
      chunk: C, the steps of a chunk of the backward sweep.
    """

    cell: Cell | Step
    store: str
    reverse: bool
    chunk: int


class Kept(NamedTuple):
    """What the forward sweep leaves for the backward one, in the order in which the recurrence runs.

    Attributes:
      states: s_1 … s_T, `(T, *B, N)`; None with "checkpoints".
      gates: a_1 … a_T, a tuple for the layers of a stack, None in place of what the pullback does not read; all None
        unless `store` is "gates".
      checkpoints: the state before each chunk, `(chunks, *B, N)`; None unless `store` is "checkpoints".
    """

    states: PyTree
    gates: PyTree
    checkpoints: PyTree


class Swept(NamedTuple):
    """What the backward sweep gives.

    Attributes:
      params, state: ∂L/∂θ and ∂L/∂h_0; of one chunk, its sums and what reaches the state before it.
      xs: ∂L/∂x_1 … ∂L/∂x_T.
      carried: J_{t+1}ᵀ δ_{t+1}, what reaches s_t from later steps, t = 1 … T.
    """

    params: PyTree
    state: PyTree
    xs: PyTree
    carried: PyTree


def plan(
    cell: Cell | Step, store: str | None, reverse: bool, params: PyTree, state: PyTree, xs: PyTree
) -> Plan:
    """The plan for these shapes, and for the device that programs run on by default; `store` is chosen if it is None.

    Raises:
      ValueError: a `store` that there is not; an empty state, or one of integers.

    >>> from rnn_jax import cells
    >>> cell = cells.lstm()
    >>> params = cell.init(jax.random.key(0), 3, 8)
    >>> made = plan(cell, None, False, params, cell.initial_state(params, (64,)), jnp.ones((200, 64, 3)))
    >>> made.store, made.chunk
    ('gates', 8)
    """
    if not jax.tree.leaves(state):
        raise ValueError(
            f"the state is {state!r}; expected one array or more, such as cell.initial_state(params)."
        )
    for leaf in jax.tree.leaves(state):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise ValueError(
                f"the state has a leaf of dtype {leaf.dtype}; backpropagation by hand takes floating-point states. "
                "Hand counters and keys in with xs, or use jax.grad of rnn_jax.unroll.unroll."
            )
    if store not in (None, *STORES):
        raise ValueError(f"store is {store!r}; expected one of {STORES}, or None for a choice by size.")
    steps = checks.sequence_length(xs)
    if store is None:
        first = partial(jax.tree.map, lambda leaf: leaf[:1])
        one_step = lambda params, state, xs: _layered(cell, True, 1, params, state, first(xs), None)
        kept = jax.tree.leaves(jax.eval_shape(one_step, params, state, xs))
        size = steps * sum(leaf.size * leaf.dtype.itemsize for leaf in kept)
        store = "gates" if size <= _KEPT_BYTES else "states"
    if store == "checkpoints":
        chunk = math.isqrt(steps - 1) + 1
    else:
        # For a bare step this takes all but the last axis of its state for a batch: a guess at its size, no more.
        rows = max(1, math.prod(jax.tree.leaves(state)[0].shape[:-1]))
        chunk = min(steps // _LEAST_CHUNKS[store], _ROWS // rows if _on_a_cpu() else _STEPS)
        chunk = min(steps, max(_LEAST_STEPS, chunk))
    return Plan(cell, store, reverse, _evenly(steps, chunk))


def _on_a_cpu() -> bool:
    """Whether programs run on a CPU, unless asked otherwise. Of this only their speed depends."""
    return jax.default_backend() == "cpu"


def _evenly(steps: int, chunk: int) -> int:
    """The largest divisor of `steps` in (chunk/2, chunk]: a chunk that is not full costs a mask, and steps for nothing.

    Where there is none, as many chunks as of `chunk` steps, as nearly equal as they can be.
    """
    even = -(-steps // -(-steps // chunk))
    return next((c for c in range(chunk, chunk // 2, -1) if steps % c == 0), even)


def forward(plan: Plan, params: PyTree, state: PyTree, xs: PyTree, lengths: Any) -> tuple[PyTree, Kept]:
    """s_1 … s_T, aligned with their inputs, and what is kept of them.

    >>> from rnn_jax import cells
    >>> cell = cells.lstm()
    >>> params = cell.init(jax.random.key(0), 3, 8)
    >>> state, xs = cell.initial_state(params), jnp.ones((5, 3))
    >>> states, kept = forward(plan(cell, "gates", False, params, state, xs), params, state, xs, None)
    >>> states.h.shape, [gate.shape for gate in kept.gates]
    ((5, 8), [(5, 8), (5, 8), (5, 8), (5, 8)])
    """
    return _forward(plan, (params, state, xs), lengths)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _forward(plan, operands, lengths):
    params, state, xs = operands
    valid, xs = _in_order(plan, (unrolling.valid(xs, lengths), xs))
    keep_gates = plan.store == "gates"
    states, gates = _layered(plan.cell, keep_gates, plan.chunk, params, state, xs, valid)
    if plan.store == "checkpoints":
        starts, _ = _starts(plan, checks.sequence_length(xs))
        before = jax.tree.map(lambda leaf: leaf[starts[1:] - 1], states)
        kept = Kept(None, None, unrolling.with_initial(state, before))
    else:
        kept = Kept(states, gates, None)
    return _in_order(plan, states), kept


@_forward.defjvp
def _forward_jvp(plan, primals, tangents):
    operands, lengths = primals
    run = partial(unrolling.unroll, plan.cell, lengths=lengths, reverse=plan.reverse)
    return _with_plain_derivative(_forward, run, plan, operands, lengths, tangents[0])


def forward_final(plan: Plan, params: PyTree, state: PyTree, xs: PyTree, lengths: Any) -> tuple[PyTree, Kept]:
    """s_T alone, and what is kept; with "checkpoints" no other states are held than those of one chunk.

    >>> def count(params, state, x):
    ...     return state + params * x
    >>> params, state, xs = jnp.ones(()), jnp.zeros(1), jnp.ones((6, 1))
    >>> last, kept = forward_final(plan(count, "checkpoints", False, params, state, xs), params, state, xs, None)
    >>> last, kept.checkpoints.T  # before the chunks of 3 steps
    (Array([6.], dtype=float32), Array([[0., 3.]], dtype=float32))
    """
    if plan.store == "checkpoints":
        return _forward_final(plan, (params, state, xs), lengths)
    states, kept = forward(plan, params, state, xs, lengths)
    return jax.tree.map(lambda leaf: leaf[0 if plan.reverse else -1], states), kept


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _forward_final(plan, operands, lengths):
    params, state, xs = operands
    inputs = _in_order(plan, (xs, unrolling.valid(xs, lengths)))
    starts, padding = _starts(plan, checks.sequence_length(xs))

    def chunk(before, start, steps=plan.chunk):
        x, mask = pullbacks.rows(inputs, start, steps)
        states, _ = _layered(plan.cell, False, steps, params, before, x, mask)
        return jax.tree.map(lambda leaf: leaf[-1], states), before

    if not padding:
        last, before = lax.scan(chunk, state, starts)
        return last, Kept(None, None, before)
    after, _ = chunk(state, 0, plan.chunk - padding)
    last, before = lax.scan(chunk, after, starts[1:])
    return last, Kept(None, None, unrolling.with_initial(state, before))


@_forward_final.defjvp
def _forward_final_jvp(plan, primals, tangents):
    operands, lengths = primals
    run = partial(unrolling.final_state, plan.cell, lengths=lengths, reverse=plan.reverse)
    return _with_plain_derivative(_forward_final, run, plan, operands, lengths, tangents[0])


def _with_plain_derivative(clever, plain, plan, operands, lengths, d_operands):
    """The derivative is that of the plain unrolling; what is kept is read by the backward sweep alone."""
    _, d_states = jax.jvp(plain, operands, d_operands)
    states, kept = clever(plan, operands, lengths)
    return (states, kept), (d_states, jax.tree.map(jnp.zeros_like, kept))


def _starts(plan: Plan, steps: int) -> tuple[np.ndarray, int]:
    """The first step of each chunk, and how many steps the first chunk has too few: it is the one that is not full."""
    padding = -steps % plan.chunk
    return np.maximum(np.arange(0, steps + padding, plan.chunk) - padding, 0), padding


def _in_order(plan: Plan, tree: PyTree) -> PyTree:
    """Leaves along time in the order of the recurrence, or back."""
    return jax.tree.map(lambda leaf: jnp.flip(leaf, 0), tree) if plan.reverse else tree


def _layered(cell, keep_gates, chunk, params, state, xs, valid):
    """States and gates along `xs`: a stack layer by layer, so that each layer's inputs are at hand for the way back."""
    if not layers_of(cell):
        run = _structured_layer if is_structured(cell) else _plain_layer
        return run(cell, keep_gates, chunk, params, state, xs, valid)
    checks.layers("params", params, len(cell.layers))
    checks.layers("state", state, len(cell.layers))
    states, gates = [], []
    for layer, p, s in zip(cell.layers, params, state, strict=True):
        layer_states, layer_gates = _layered(layer, keep_gates, chunk, p, s, xs, valid)
        states.append(layer_states)
        gates.append(layer_gates)
        xs = layer.emit(layer_states)
    return tuple(states), tuple(gates)


def _plain_layer(cell, keep_gates, chunk, params, state, xs, valid):
    """A cell or step that has no gates to keep, and no part that can be taken out of the loop."""
    del keep_gates
    body = unrolling.body_of(as_step(cell), params)

    def step(s, inputs):
        s = body(s, inputs)
        return s, s

    return lax.scan(step, state, (xs, valid), unroll=_steps_a_turn(chunk))[1], None


def _structured_layer(cell, keep_gates, chunk, params, state, xs, valid):
    """A layer in chunks: those of the backward sweep, or shorter ones on a CPU where inputs are few.

    An accelerator would wait longer for the launches of more chunks than its caches save.
    """
    body, steps = unrolling.body_of(cell.step, params), checks.sequence_length(xs)
    if not isinstance(xs, jax.Array):
        raise ValueError(f"xs is {checks.signature(xs)}; expected one array (T, *B, D) for a cell.")
    # The step says what is wrong with its arguments; its parts do not.
    jax.eval_shape(body, state, (xs[0], None if valid is None else valid[0]))
    chunk = min(chunk, steps)
    if _on_a_cpu():
        chunk = _cached_chunk(chunk, jax.eval_shape(cell.drive, params, xs[0]), xs)
    return _chunked_layer(cell, keep_gates, chunk, params, state, xs, valid)


def _cached_chunk(chunk, u_t, xs):
    """Steps whose u_t fit a cache, at most `chunk`; all of them where the inputs are not few."""
    if _FEW_INPUTS * xs.shape[-1] > u_t.shape[-1]:
        return chunk
    return _evenly(len(xs), min(chunk, max(2, _CACHED // max(1, u_t.size))))


def _transposed(cell, params, h):
    """Rᵀ for a loop over steps on a CPU; None where R as it lies is no slower: for one sequence.

    XLA there packs the matrix of a product anew at every step, which is faster row by row. The barrier keeps it from
    putting the transposition back into the product.
    """
    *batch, units = h.shape
    if not _on_a_cpu() or math.prod(batch) <= 1:
        return None
    return lax.optimization_barrier(cell.recurrent(params).reshape(-1, units).T)


def _steps_a_turn(steps: int, tiny: bool = False) -> int:
    """How many of `steps` steps the loop takes in one turn; what is left over has a turn of its own."""
    return 1 if _on_a_cpu() and not tiny else min(steps, _STEPS_A_TURN)


def _is_tiny(cell, params, xs) -> bool:
    """Whether a loop that keeps or reads the gates of the cell spends its time on turns, on a CPU: see `_TINY`."""
    if not is_structured(cell):
        return False
    u_t = jax.eval_shape(cell.drive, params, xs[0])
    has_gates = u_t.ndim > xs[0].ndim
    return has_gates and u_t.size <= _TINY


def _chunked_layer(cell, keep_gates, chunk, params, state, xs, valid):
    """u_t of a chunk in one product, then step by step r_t, a_t and s_t, each written where it stays."""
    steps = len(xs)
    recur = partial(
        cell.recur, params, transposed=_transposed(cell, params, jax.eval_shape(cell.emit, state))
    )
    new, a = jax.eval_shape(partial(pullbacks.step_and_gates, cell), params, state, xs[0])
    needed = _needed(cell, new, a)
    a_turn = _steps_a_turn(chunk, keep_gates and _is_tiny(cell, params, xs))

    def keep(a):
        return jax.tree.map(lambda needed, leaf: leaf if needed else None, needed, a) if keep_gates else None

    def run(carry, k):
        s, written = carry
        # The last chunk begins early enough to be full: some steps are done again, from the same state.
        start = jnp.minimum(k * chunk, steps - chunk)
        if steps % chunk:
            s = pullbacks.row(written[0], jnp.maximum(start - 1, 0))
        mask, x = pullbacks.rows((valid, xs), start, chunk)
        u = cell.drive(params, unrolling.where_valid(mask, x, jnp.zeros_like(x)))

        def step(s, j, mask):
            h = cell.emit(s)
            u_t = _row_gate_by_gate(u, j) if u.ndim > h.ndim + 1 else pullbacks.row(u, j)
            a = cell.gates(u_t, recur(h))
            return unrolling.where_valid(mask, cell.update(s, a), s), a

        def turn(count, carry, inputs):
            s, written = carry
            first, masks = inputs
            made = []
            for i in range(count):
                s, a = step(s, first + i, None if masks is None else masks[i])
                made.append((s, keep(a)))
            made = jax.tree.map(lambda *entries: jnp.stack(entries), *made)
            return (s, pullbacks.write(written, start + first, made)), None

        rest = chunk % a_turn
        whole = chunk - rest
        masks = None if mask is None else mask[:whole].reshape(whole // a_turn, a_turn, *mask.shape[1:])
        carry, _ = lax.scan(partial(turn, a_turn), (s, written), (np.arange(0, whole, a_turn), masks))
        if rest:
            carry, _ = turn(rest, carry, (whole, None if mask is None else mask[whole:]))
        return carry, None

    nothing = jax.tree.map(lambda leaf: jnp.zeros((steps, *leaf.shape), leaf.dtype), keep(a))
    # The first chunk may read the state before it like the others, from a row of what has been written.
    written = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (steps, *leaf.shape)), state), nothing
    (_, written), _ = lax.scan(run, (state, written), np.arange(-(-steps // chunk)))
    return written


def _row_gate_by_gate(u, j):
    """u_t of step j, `(C, *B, G, N)` → `(*B, G, N)`, each gate cut from the chunk by itself.

    XLA's CPU backend computes what reads several slices of one slice entry by entry, many times slower than in vectors.
    Here every slice is one of the whole chunk: that they are put together and taken apart again cancels out.
    """
    _, *batch, gates, size = u.shape
    cut = partial(lax.dynamic_slice, u, slice_sizes=(1, *batch, 1, size), allow_negative_indices=False)
    return jnp.concatenate([cut((j, *[0] * len(batch), g, 0))[0] for g in range(gates)], axis=-2)


def _needed(cell, state, a):
    """Which leaves of a_t the pullback reads: tanh' is known from h_t, so that z_t need not be kept."""

    def pullback(a, state):
        return cell.pullback(state, a, state, state)

    jaxpr = jax.make_jaxpr(pullback)(a, state).jaxpr
    operands = (var for equation in jaxpr.eqns for var in equation.invars)
    read = {var for var in (*operands, *jaxpr.outvars) if not isinstance(var, core.Literal)}
    leaves, tree = jax.tree.flatten(a)
    return jax.tree.unflatten(tree, [var in read for var in jaxpr.invars[: len(leaves)]])


def backward(
    plan: Plan,
    params: PyTree,
    state: PyTree,
    xs: PyTree,
    lengths: Any,
    kept: Kept,
    cotangents: PyTree,
    final_cotangent: PyTree,
) -> Swept:
    """All gradients from what the forward sweep kept.

    `cotangents` are those of s_1 … s_T, a leaf or all of them None for zeros; `final_cotangent` is one more on the
    state in which the recurrence ends, None for zeros.

    >>> def decay(params, state, x):
    ...     return params * state + x
    >>> operands = (jnp.array(0.5), jnp.zeros(1), jnp.ones((3, 1)), None)
    >>> made = plan(decay, "states", False, *operands[:3])
    >>> _, kept = forward(made, *operands)
    >>> backward(made, *operands, kept, None, jnp.ones(1)).xs.T  # of the last state: 0.5 to the power of the lag
    Array([[0.25, 0.5 , 1.  ]], dtype=float32)
    """
    if final_cotangent is None:
        final_cotangent = jax.tree.map(jnp.zeros_like, state)
    swept = _backward(plan, (params, state, xs, cotangents, final_cotangent), lengths, kept)
    return swept._replace(
        params=_with_float0(params, swept.params),
        xs=_with_float0(xs, swept.xs),
    )


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _backward(plan, operands, lengths, kept):
    params, state, xs, cotangents, carried = operands
    steps = checks.sequence_length(xs)
    valid, xs, cotangents = _in_order(plan, (unrolling.valid(xs, lengths), xs, cotangents))
    starts, padding = _starts(plan, steps)

    # What is kept is read in place. Cotangents are cut: where they are constant, a chunk's are, and XLA would make all
    # of them anew for every chunk.
    def chunk(carry, k):
        carried, sums = carry
        start = jnp.maximum(k * plan.chunk - padding, 0)
        cut = partial(pullbacks.rows, start=start, count=plan.chunk)
        mask = cut(valid)
        x = unrolling.where_valid(mask, cut(xs), jax.tree.map(jnp.zeros_like, cut(xs)))
        steps_of_chunk = _steps_of_chunk(plan, params, state, kept, x, mask, k, start)
        dL_ds = cut(cotangents)
        if padding:
            own = (k > 0) | (jnp.arange(plan.chunk) < plan.chunk - padding)
            dL_ds = unrolling.where_valid(own, dL_ds, jax.tree.map(jnp.zeros_like, dL_ds))
            mask = own if mask is None else mask & own.reshape(-1, *[1] * (mask.ndim - 1))
        swept = _sweep(plan.cell, params, x, steps_of_chunk, mask, dL_ds, carried)
        # What of these nobody reads, the compiler leaves out.
        return (swept.state, pullbacks.add(sums, swept.params)), (swept.xs, swept.carried)

    sums = pullbacks.zero_sums(plan.cell, params, state, jax.tree.map(lambda leaf: leaf[0], xs))
    (d_state, sums), outputs = lax.scan(chunk, (carried, sums), np.arange(len(starts)), reverse=True)
    d_params = pullbacks.gradient(plan.cell, params, sums)
    d_xs, carried = _in_order(plan, jax.tree.map(partial(_joined, padding), outputs))
    return Swept(d_params, d_state, d_xs, carried)


@_backward.defjvp
def _backward_jvp(plan, primals, tangents):
    operands, lengths, kept = primals
    _, d_swept = jax.jvp(partial(_plain, plan, lengths=lengths), (operands,), (tangents[0],))
    return _backward(plan, operands, lengths, kept), d_swept


def _plain(plan, operands, lengths):
    """The plain twin: `jax.vjp` of the plain unrolling, a shift ε_t = 0 after each step: dL/dε_t = δ_t."""
    params, state, xs, cotangents, final_cotangent = operands

    def shifted(params, state, inputs):
        x, mask, shift = inputs
        x = unrolling.where_valid(mask, x, jax.tree.map(jnp.zeros_like, x))
        new = as_step(plan.cell)(params, state, x)
        return jax.tree.map(jnp.add, unrolling.where_valid(mask, new, state), shift)

    def run(params, state, xs, shifts):
        inputs = (xs, unrolling.valid(xs, lengths), shifts)
        return unrolling.unroll(shifted, params, state, inputs, reverse=plan.reverse)

    steps = checks.sequence_length(xs)
    zeros = jax.tree.map(lambda leaf: jnp.zeros((steps, *leaf.shape), leaf.dtype), state)
    _, pull = jax.vjp(run, params, state, xs, zeros)
    end = 0 if plan.reverse else -1
    ends = jax.tree.map(lambda leaf, last: leaf.at[end].add(last), zeros, final_cotangent)
    d_params, d_state, d_xs, deltas = pull(pullbacks.add(ends, cotangents))
    carried = jax.tree.map(jnp.subtract, deltas, pullbacks.add(zeros, cotangents))
    return Swept(pullbacks.differentiable(d_params), d_state, pullbacks.differentiable(d_xs), carried)


def _steps_of_chunk(plan, params, state, kept, x, mask, k, start) -> pullbacks.Chunk:
    """What the loop over the steps of a chunk reads: what is kept, or made again from a checkpoint."""
    if plan.store != "checkpoints":
        return pullbacks.Chunk(state, kept.states, plan.store == "gates", kept.gates, start, plan.chunk)
    before = pullbacks.row(kept.checkpoints, k)
    states, gates = _layered(plan.cell, True, plan.chunk, params, before, x, mask)
    return pullbacks.Chunk(before, states, True, gates, 0, plan.chunk)


def _joined(padding: int, chunks: jax.Array) -> jax.Array:
    """(chunks, C, …) → (T, …); what the first chunk has too many at its end is left out."""
    count, size = chunks.shape[:2]
    joined = chunks.reshape(count * size, *chunks.shape[2:])
    if not padding:
        return joined
    return jnp.concatenate([joined[: size - padding], joined[size:]])


def _sweep(cell, params, xs, chunk, mask, cotangents, carried) -> Swept:
    """One chunk of a cell, or of a stack from its top layer down."""
    if not layers_of(cell):
        return _sweep_layer(cell, params, xs, chunk, mask, cotangents, carried)
    swept: list[Swept] = []
    from_above = None
    for level in reversed(range(len(cell.layers))):
        below = cell.layers[level - 1] if level else None
        states_below = chunk.layer(level - 1).all_states() if level else None
        layer = _sweep(
            cell.layers[level],
            params[level],
            xs if below is None else below.emit(states_below),
            chunk.layer(level),
            mask,
            pullbacks.add(from_above, None if cotangents is None else cotangents[level]),
            carried[level],
        )
        swept.insert(0, layer)
        if below is not None:
            from_above = pull_emit(below, states_below, layer.xs)
    layers = Swept(*zip(*swept, strict=True))
    return layers._replace(xs=swept[0].xs)


def _sweep_layer(cell, params, xs, chunk, mask, cotangents, carried) -> Swept:
    local = pullbacks.of_chunk(cell, params, xs, chunk)

    def one_step(carried, inputs):
        j, cotangent, mask = inputs
        delta = pullbacks.add(carried, cotangent)
        # Past the end of a sequence the state was copied: δ passes unchanged, and nothing reaches θ and x_t.
        reaching = unrolling.where_valid(mask, delta, jax.tree.map(jnp.zeros_like, delta))
        passed, collected = local.pullback(j, reaching)
        return unrolling.where_valid(mask, passed, delta), (carried, collected)

    inputs = (np.arange(chunk.size), cotangents, mask)
    a_turn = _steps_a_turn(chunk.size, _is_tiny(cell, params, xs))
    d_state, (carried, collected) = lax.scan(one_step, carried, inputs, reverse=True, unroll=a_turn)
    sums, d_xs = local.finish(collected)
    return Swept(sums, d_state, d_xs, carried)


def _with_float0(tree: PyTree, gradients: PyTree) -> PyTree:
    """Gradients as JAX has them: those of integer leaves are zeros of a dtype that takes no memory."""

    def zero(gradient, leaf):
        if gradient is not None or leaf is None:
            return gradient
        return np.zeros(jnp.shape(leaf), jax.dtypes.float0)

    return jax.tree.map(zero, gradients, tree, is_leaf=lambda leaf: leaf is None)
