"""How fast perturbations grow, in every direction: singular values of long products, and Lyapunov exponents.

    J_t Q_{t−1} = Q_t R_t                    a frame of k tangents, carried along and made orthonormal again
    λ_i = (1/T) Σ_t ln |R_t,ii|              Lyapunov exponents, nats per step (Benettin et al. 1980)
    J_T … J_1 Q_0 = Q_T (R_T … R_1)          a product as an orthogonal and a graded triangular matrix

For a driven network the exponents belong to its input: no one of them has to be zero. They are of the state that
is reached, so the state is burned in first; then the frame is aligned, its logarithms discarded; then the rest
counts. The frame starts at random: a triangular matrix would otherwise never sort its exponents.

A length R_ii is known to about ε ‖J Q‖. What is smaller than that is zero to working precision: the exponent is
given as −∞, with an upper bound, and as not resolved; so are those below it, whose lengths count from a direction
that is lost. Orthogonalising only every n steps saves time and loses what has shrunk by more than ε within them.
Several steps at once can be tried and the rounding within them followed; where it is too much, they are made again one
by one. A long sequence can be cut into segments of time, side by side, each with a burn-in and an alignment of its own.
From the first step on whose state or Jacobian is not finite, all is NaN.

Dimension, entropy rate and participation ratio are functions of exponents. One sequence, `jax.vmap` is the batch.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap
from jax.flatten_util import ravel_pytree

from rnn_jax import checks, graded, jacobians, orthogonal, products, tables
from rnn_jax import unroll as unrolling
from rnn_jax.types import Cell, PyTree, Step

TOGETHER = 4
"""Steps that `every=None` tries at once: most of what fewer orthogonalisations can save, and few frames fail."""

_SHORTEST_PAUSE, _LONGEST_PAUSE = 8, 64
"""Groups that go step by step after one that failed, twice as many after each failure more: so that a network on which
all fail loses little."""


class Continuation(NamedTuple):
    """From where exponents go on: s_T and the frame there, `(S, k)`."""

    state: PyTree
    frame: jax.Array


class Lyapunov(NamedTuple):
    """Lyapunov exponents in nats per step, in the order of the frame: largest first, up to their errors; B blocks.

    Attributes:
      values: λ_i, `(k,)`; −∞ where some R_jj, j ≤ i, was zero to working precision; NaN where the trajectory has
        left the finite numbers.
      standard_errors: of each λ_i, from the spread of the blocks, `(k,)`; infinite for one block or a λ_i of −∞.
        They are right if a block is much longer than the network remembers.
      resolved: `(k,)`: no R_jj was lost, and rounding is below the accuracy that was asked for.
      upper_bounds: `(k,)`: λ_i, with the smallest length that could have been seen where R_ii was lost; below the
        first lost direction that of the one above, if it is smaller.
      rounding: `(k,)`: the error of λ_i that rounding may have made, at most; infinite where R_ii was lost.
      finite_time: the exponents of each block by itself, `(B, k)`: their distribution.
      history: the exponents of the first 1, 2, … B blocks, `(B, k)`: their convergence.
      block_steps: steps of each block, `(B,)`.
      last: where it stopped, for `resume`.
    """

    values: jax.Array
    standard_errors: jax.Array
    resolved: jax.Array
    upper_bounds: jax.Array
    rounding: jax.Array
    finite_time: jax.Array
    history: jax.Array
    block_steps: jax.Array
    last: Continuation

    def __repr__(self) -> str:
        return tables.render(self, self.values.ndim - 1, _lyapunov_table)


def lyapunov(
    step: Cell | Step,
    params: PyTree,
    state: PyTree,
    xs: PyTree,
    *,
    k: int | None = None,
    burn_in: int | None = None,
    align: int | None = None,
    every: int | None = 1,
    blocks: int = 10,
    segments: int = 1,
    accuracy: float = 1e-3,
    key: jax.Array | None = None,
    resume: Lyapunov | None = None,
) -> Lyapunov:
    """The k leading Lyapunov exponents along a trajectory, from products J_t Q; no Jacobian is formed.

    Args:
      step: a cell, or any `step(params, state, x) -> state`.
      params: θ.
      state: s_0 of one sequence; S is the number of its entries.
      xs: x_1 … x_T, `(T, D)`; for a network without input, `jnp.zeros((T, D))`.
      k: how many exponents, in [1, S]; all S if not given.
      burn_in: first steps in which the state alone is run; T // 10 if not given.
      align: steps after them in which the frame turns into place, not counted; T // 10 if not given.
      every: steps from one orthogonalisation to the next. None: 4 where what rounding may have made of every length
        within them stays below `accuracy`, else 1. The exponents are then those of 1 to within `accuracy`. It saves
        time for many exponents of well-conditioned steps (`rarely` in docs/performance.md), and loses some where single
        steps are ill conditioned, and for few exponents, whose orthogonalisation costs little.
      blocks: into how many blocks of time the counted steps are cut; fewer if there are fewer orthogonalisations.
      segments: into how many equal segments of time the counted steps are cut, run side by side: about
        T/segments + burn_in + align steps in turn instead of T. Each starts from `state` and a random frame, burn_in +
        align steps before its own (what is left over is aligned with), and has its share of the blocks, at least one.
        It assumes that the state is forgotten within burn_in steps and the frame within align: give both, as many as
        the network needs. Segments of a chaotic network are other trajectories of the same attractor; of one with
        several attractors each may be in another. Inputs that are the same at all times are refused: segments would be
        too, and the errors those of one of them (under a trace this is not seen).
      accuracy: nats per step to which an exponent must be known to count as resolved.
      key: of the random start frame; `jax.random.key(0)` if not given.
      resume: the result that this run continues, at its state and frame: no burn-in, no alignment, `state` and `key`
        are ignored, and the result is that of both together. The same k, one segment.

    Returns:
      `Lyapunov`. Differentiable in params, state and xs while all is resolved: minimise `(values**2).mean()` for
      gradient flossing (Engelken 2023).

    Raises:
      ValueError: as `unroll.unroll`; a cell's state with batch axes; k outside [1, S]; no step left to count, or
        fewer than segments; an accuracy that the dtype does not have; more than one segment with `resume`, or for an
        input that is the same at all times.

    >>> def rotate_and_stretch(params, state, x):
    ...     return params @ state + x
    >>> matrix = jnp.array([[0.0, -0.5], [2.0, 0.0]])  # |eigenvalues| 1 and 1
    >>> result = lyapunov(rotate_and_stretch, matrix, jnp.ones(2), jnp.zeros((1000, 2)))
    >>> bool(jnp.abs(result.values).max() < 2e-3)
    True
    >>> noise = jax.random.normal(jax.random.key(0), (1000, 2))
    >>> lyapunov(rotate_and_stretch, matrix, jnp.ones(2), noise, burn_in=0, align=8, segments=31)
    Lyapunov exponents, nats per step: 992 steps in 31 blocks
    ...
    """
    params, state, xs, _ = unrolling.arguments(params, state, xs, None)
    checks.one_sequence(step, state, "exponents are")

    def burned_in(state, xs):
        with jax.default_matmul_precision("highest"):
            return unrolling.final_state(step, params, state, xs)

    def advance(state, x, frame):
        return *jacobians.push(step, params, state, x, frame), 0

    flat, _ = ravel_pytree(state)
    settings = _Settings(k, burn_in, align, every, blocks, segments, accuracy, key)
    return _lyapunov(advance, burned_in, state, xs, flat, settings, resume)


def lyapunov_from_jacobians(
    jacobians: jax.Array,
    *,
    k: int | None = None,
    align: int | None = None,
    every: int | None = 1,
    blocks: int = 10,
    segments: int = 1,
    accuracy: float = 1e-3,
    key: jax.Array | None = None,
    resume: Lyapunov | None = None,
) -> Lyapunov:
    """The k leading Lyapunov exponents of a given stack of Jacobians; the twin of `lyapunov`.

    Args:
      jacobians: J_1 … J_T along a trajectory that has been burned in, `(T, S, S)`.
      k, align, every, blocks, segments, accuracy, key, resume: as in `lyapunov`. What segments discard or align with
        is copied for them.

    Raises:
      ValueError: as `products.prefix` and `lyapunov`.

    >>> lyapunov_from_jacobians(jnp.broadcast_to(jnp.diag(jnp.array([0.5, 2.0])), (200, 2, 2)))
    Lyapunov exponents, nats per step: 180 steps in 10 blocks
    i    value  std. error
    1   0.6931   ...
    2  -0.6931   ...
    """
    stack = products.check_stack(jacobians)

    def advance(state, jacobian, frame):
        return state, *_push(jacobian, frame)

    settings = _Settings(k, 0, align, every, blocks, segments, accuracy, key)
    return _lyapunov(advance, lambda state, xs: state, (), stack, stack[0, 0], settings, resume)


class _Settings(NamedTuple):
    """The options that both forms share, as they were given."""

    k: Any
    burn_in: Any
    align: Any
    every: Any
    blocks: Any
    segments: Any
    accuracy: Any
    key: Any


def _lyapunov(
    advance: Callable,
    burned_in: Callable,
    state: PyTree,
    xs: PyTree,
    like: jax.Array,
    settings: _Settings,
    resume: Lyapunov | None,
) -> Lyapunov:
    """Exponents of `advance(state, x, frame) -> (state, J frame 2^−e, e)`; `like` is a vector of the tangent space."""
    size, steps = like.size, checks.sequence_length(xs)
    k = size if resume is None else resume.last.frame.shape[-1]
    if settings.k is not None:
        k = checks.integer("k", settings.k, 1, size, "S, the size of the state")
    if settings.every is not None:
        checks.integer("every", settings.every, 1)
    blocks = checks.integer("blocks", settings.blocks, 1)
    check_accuracy(settings.accuracy, like.dtype)
    burn_in, align = _discarded(settings, steps, resume)
    segments = checks.integer(
        "segments", settings.segments, 1, steps - burn_in - align, "the steps that count"
    )
    if segments > 1 and all(map(_constant, jax.tree.leaves(xs))):
        raise ValueError(
            f"segments is {segments}, and the input is the same at all times: every segment would be the same. Take "
            "segments=1, or jax.vmap over initial states."
        )
    if resume is None:
        frame = random_frame(settings.key, size, k, like.dtype)
    else:
        state, frame = resume.last
        if segments > 1:
            raise ValueError(
                f"segments is {segments} with resume; expected 1, the run goes on from one state."
            )
        if frame.shape != (size, k):
            raise ValueError(
                f"resume has a frame of shape {frame.shape}; expected (S, k) = {(size, k)}. Ask for the same k."
            )
    counted, spare = divmod(steps - burn_in - align, segments)
    # What segments of equal length leave over is aligned with.
    align += spare
    sweep = partial(_sweep, advance, every=settings.every, accuracy=settings.accuracy)

    def segment(xs):
        start, turned = state, frame
        if burn_in:
            start = burned_in(start, _first(xs, burn_in))
        if align:
            start, turned, _ = sweep(start, turned, _first(_rest(xs, burn_in), align), blocks=1)
        return sweep(start, turned, _rest(xs, burn_in + align), blocks=-(-blocks // segments))

    if segments == 1:
        *last, sums = segment(xs)
    else:
        times = np.arange(burn_in + align + counted)[:, None] + counted * np.arange(segments)
        windows = jax.tree.map(lambda leaf: leaf[times], xs)
        *last, sums = jax.vmap(segment, in_axes=1)(windows)
        last = jax.tree.map(lambda leaf: leaf[-1], last)
        sums = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), sums)
    return _summary(sums, settings.accuracy, Continuation(*last), resume)


def _constant(leaf: jax.Array) -> bool:
    """Whether a concrete input is the same at all times."""
    return checks.is_concrete(leaf) and bool((leaf == leaf[:1]).all())


def _discarded(settings: _Settings, steps: int, resume: Lyapunov | None) -> tuple[int, int]:
    """Steps of burn-in and of alignment."""
    if resume is not None:
        for name, reached in (("burn_in", "the state was burned in"), ("align", "the frame was aligned")):
            if value := getattr(settings, name):
                raise ValueError(f"{name} is {value} with resume; expected none, {reached} before.")
        return 0, 0
    burn_in, align = (
        checks.integer(name, steps // 10 if value is None else value, 0)
        for name, value in (("burn_in", settings.burn_in), ("align", settings.align))
    )
    if burn_in + align >= steps:
        raise ValueError(
            f"burn_in is {burn_in} and align {align}, and there are {steps} steps: none is left to count. Give more "
            "steps, or discard fewer."
        )
    return burn_in, align


class _Sums(NamedTuple):
    """What is added up along the way, for each of B blocks.

    Attributes:
      logs: Σ ln |R_ii|, lost lengths replaced by the floor, `(B, k)`.
      compensation: what rounding has taken from `logs` (Neumaier 1974), so that 10⁶ steps lose nothing.
      lost: some R_jj, j ≤ i, was below the floor, `(B, k)`.
      rounding: Σ floor / |R_ii|, `(B, k)`.
      steps: `(B,)`.
    """

    logs: jax.Array
    compensation: jax.Array
    lost: jax.Array
    rounding: jax.Array
    steps: jax.Array


class _Carry(NamedTuple):
    """What goes from one orthogonalisation to the next.

    Attributes:
      state, frame: s_t and Q_t.
      sums: so far.
      pause: how many groups more go step by step before one is tried at once.
      penalty: the pause that the last failure brought.
    """

    state: PyTree
    frame: jax.Array
    sums: _Sums
    pause: jax.Array
    penalty: jax.Array


def _sweep(
    advance: Callable,
    state: PyTree,
    frame: jax.Array,
    xs: PyTree,
    *,
    every: int | None,
    blocks: int,
    accuracy: float,
) -> tuple[PyTree, jax.Array, _Sums]:
    """Carry the frame along, orthonormal again every `every` steps and after the last one."""
    steps = checks.sequence_length(xs)
    size = TOGETHER if every is None else every
    groups, left_over = divmod(steps, size)
    lengths = [size] * groups + [left_over] * (left_over > 0)
    blocks = min(blocks, len(lengths))
    block_of = np.arange(len(lengths)) * blocks // len(lengths)
    closes = np.append(np.diff(block_of) > 0, True)
    shape = (blocks, frame.shape[1])
    zeros = jnp.zeros(shape, frame.dtype)
    counted = np.bincount(block_of, lengths, blocks).astype(int)
    sums = _Sums(zeros, zeros, jnp.zeros(shape, bool), zeros, jnp.asarray(counted))
    group, rest = _one_step if every == 1 else _at_once, _at_once
    if every is None:
        group, rest = partial(_at_once_if_resolved, accuracy), _one_by_one

    def grouped(leaf):
        return leaf if size == 1 else leaf[: groups * size].reshape(groups, size, *leaf.shape[1:])

    carry = _Carry(state, frame, sums, pause=jnp.array(0), penalty=jnp.array(0))
    if groups:
        marks = jnp.asarray(block_of[:groups]), jnp.asarray(closes[:groups])
        inputs = (jax.tree.map(grouped, xs), *marks)
        carry, _ = lax.scan(lambda carry, each: (group(advance, carry, *each), None), carry, inputs)
    if left_over:
        carry = rest(advance, carry, _rest(xs, groups * size), block_of[-1], closes[-1])
    return carry.state, carry.frame, carry.sums


def _one_step(advance: Callable, carry: _Carry, x: PyTree, block: jax.Array, closes: jax.Array) -> _Carry:
    """One step and an orthogonalisation; a loop of one step would copy its Jacobian."""
    (state, frame, exponent), _ = _move(advance, (carry.state, carry.frame, jnp.zeros((), jnp.int32)), x)
    return _orthonormal(carry, state, frame, exponent, block, closes)[0]


def _one_by_one(advance: Callable, carry: _Carry, xs: PyTree, block: jax.Array, closes: jax.Array) -> _Carry:
    """Some steps, each with an orthogonalisation."""
    steps = checks.sequence_length(xs)
    last = closes & (jnp.arange(steps) == steps - 1)
    return lax.scan(
        lambda c, each: (_one_step(advance, c, each[0], block, each[1]), None), carry, (xs, last)
    )[0]


def _at_once(advance: Callable, carry: _Carry, xs: PyTree, block: jax.Array, closes: jax.Array) -> _Carry:
    """Some steps and one orthogonalisation."""
    start = (carry.state, carry.frame, jnp.zeros((), jnp.int32))
    (state, frame, exponent), _ = lax.scan(partial(_move, advance), start, xs)
    return _orthonormal(carry, state, frame, exponent, block, closes)[0]


def _at_once_if_resolved(
    accuracy: float, advance: Callable, carry: _Carry, xs: PyTree, block: jax.Array, closes: jax.Array
) -> _Carry:
    """`_at_once` where the rounding of every length stays below the accuracy, else `_one_by_one`.

    Rounding is followed through the steps: one column more is pushed along, to which every step adds what it may
    round, in random directions. After failures in a row, no more than one group in `_LONGEST_PAUSE` is tried.
    """
    least, k = resolution(carry.frame.dtype), carry.frame.shape[1]

    def noisily(state, inputs, both):
        x, signs = inputs
        state, both, exponent = advance(state, x, both)
        size = least * _norm(both[:, :k])
        return state, both + jnp.pad((size * signs)[:, None], ((0, 0), (k, 0))), exponent

    def attempt():
        steps, size = checks.sequence_length(xs), len(carry.frame)
        signs = np.random.default_rng(0).choice([-1.0, 1.0], (steps, size)) / np.sqrt(size)
        both = jnp.pad(carry.frame, ((0, 0), (0, 1)))
        start = (carry.state, both, jnp.zeros((), jnp.int32))
        (state, both, exponent), _ = lax.scan(
            partial(_move, noisily), start, (xs, jnp.asarray(signs, both.dtype))
        )
        noise = _norm(both[:, k])
        reached, rounding = _orthonormal(carry, state, both[:, :k], exponent, block, closes, noise)
        return reached, rounding.max() <= accuracy

    tried = carry.pause == 0
    reached, good = lax.cond(tried, attempt, lambda: (carry, jnp.array(False)))
    good = _everywhere(good)
    reached = lax.cond(good, lambda: reached, lambda: _one_by_one(advance, carry, xs, block, closes))
    failed = jnp.clip(2 * carry.penalty, _SHORTEST_PAUSE, _LONGEST_PAUSE)
    penalty = jnp.where(tried, jnp.where(good, 0, failed), carry.penalty)
    pause = jnp.where(tried, jnp.where(good, 0, failed), carry.pause - 1)
    return reached._replace(pause=pause, penalty=penalty)


@jax.custom_jvp
def _push(jacobian: jax.Array, frame: jax.Array) -> tuple[jax.Array, jax.Array]:
    """J Q 2^−e and e, which is 0 unless the product comes near the ends of the range.

    There the products of entries are out of it, and half of what J is away from 1 is taken out, of the frame: it is
    smaller than J. To look at J itself, each time, would take as long as a product with a few columns.
    """
    product = _matmul(jacobian, frame)

    def scaled():
        half = products.rescale(jacobian).exponent // 2
        return _matmul(jacobian, products.times_power_of_two(frame, -half)), half

    in_range = _everywhere(_well_within_range(product))
    return lax.cond(in_range, lambda: (product, jnp.zeros((), jnp.int32)), scaled)


@_push.defjvp
def _push_jvp(primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    """Outside of the branch, which would keep what both its sides need, for every step."""
    (jacobian, frame), (d_jacobian, d_frame) = primals, tangents
    product, half = _push(jacobian, frame)
    frame, d_frame = (products.times_power_of_two(each, -half) for each in (frame, d_frame))
    d_product = _matmul(d_jacobian, frame) + _matmul(jacobian, d_frame)
    return (product, half), (d_product, np.zeros(half.shape, jax.dtypes.float0))


def _matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    with jax.default_matmul_precision("highest"):
        return a @ b


def _well_within_range(x: jax.Array) -> jax.Array:
    """Whether max |x| is so far from under- and overflow that neither took a digit of it."""
    info = jnp.finfo(x.dtype)
    largest = jnp.abs(x).max()
    return (largest > info.tiny / info.eps) & (largest < info.max * info.eps)


@custom_vmap
def _everywhere(flag: jax.Array) -> jax.Array:
    """The flag; under `jax.vmap` that of the whole batch, so that a branch on it stays one branch."""
    return flag


@_everywhere.def_vmap
def _everywhere_batch(size: int, batched: list[bool], flag: jax.Array) -> tuple[jax.Array, bool]:
    return _everywhere(flag.all()), False


def _move(advance: Callable, carry: tuple, x: PyTree) -> tuple[tuple, None]:
    """The frame one step on, and the exponent of two that was taken out of it."""
    state, frame, exponent = carry
    state, frame, taken = advance(state, x, frame)
    # A derivative may stay finite, or zero, where the state is not: no number may come of that.
    for leaf in jax.tree.leaves(state):
        frame = jnp.where(jnp.isfinite(leaf).all(), frame, jnp.nan)
    frame, shift = products.rescale(frame)
    return (state, frame, exponent + taken + shift), None


def _orthonormal(
    carry: _Carry,
    state: PyTree,
    frame: jax.Array,
    exponent: jax.Array,
    block: jax.Array,
    closes: bool | jax.Array,
    noise: float | jax.Array = 0.0,
) -> tuple[_Carry, jax.Array]:
    """The frame made orthonormal, its lengths added up; and what rounding may be of each of them.

    Sums of ln R_ii telescope: only where a block `closes` has Q to be orthonormal to rounding (`orthogonal`). Below
    the floor, that of this step or the `noise` that comes from the steps before it, a length is rounding.
    """
    q, lengths = orthogonal.factor(frame, closes)
    floor = jnp.maximum(resolution(frame.dtype) * _norm(frame), lax.stop_gradient(noise))
    floor = jnp.maximum(floor, jnp.finfo(frame.dtype).tiny)
    sums = _add(carry.sums, block, lengths, floor, exponent)
    return carry._replace(state=state, frame=q, sums=sums), floor / lengths


def _norm(x: jax.Array) -> jax.Array:
    """‖x‖ (Frobenius) of what is close to 1, taken as a constant."""
    return jnp.sqrt((lax.stop_gradient(x) ** 2).sum())


def resolution(dtype: Any) -> float:
    """The length that rounding leaves of a vector that should be zero, as a share of ‖J Q‖_F: 8 ε.

    After one product and one orthogonalisation of rank-deficient matrices of 2 to 128 rows it was 0.2 ε in the
    median and beyond 8 ε once in fifty times, where the other columns were nearly dependent too.

    >>> resolution(jnp.float32) == 8 * float(jnp.finfo(jnp.float32).eps)
    True
    """
    return 8 * float(jnp.finfo(dtype).eps)


def _add(sums: _Sums, block: jax.Array, lengths: jax.Array, floor: jax.Array, exponent: jax.Array) -> _Sums:
    # Below a lost length, lengths count from a direction that is lost too.
    lost = jnp.cumsum(~(lengths > floor)) > 0
    logs = jnp.log(jnp.where(lengths > floor, lengths, jnp.where(jnp.isnan(lengths), lengths, floor)))
    term = logs + exponent * jnp.log(2.0).astype(logs.dtype)
    before = sums.logs[block]
    after = before + term
    # What the smaller of the two has lost in the sum.
    missing = jnp.where(jnp.abs(before) >= jnp.abs(term), (before - after) + term, (term - after) + before)
    return sums._replace(
        logs=sums.logs.at[block].set(after),
        compensation=sums.compensation.at[block].add(missing),
        lost=sums.lost.at[block].set(sums.lost[block] | lost),
        rounding=sums.rounding.at[block].add(lax.stop_gradient(floor / jnp.maximum(lengths, floor))),
    )


def _summary(sums: _Sums, accuracy: float, last: Continuation, resume: Lyapunov | None) -> Lyapunov:
    """The result, together with that of the run before."""
    steps = sums.steps.astype(sums.logs.dtype)
    finite_time = jnp.where(
        sums.lost & ~jnp.isnan(sums.logs), -jnp.inf, (sums.logs + sums.compensation) / steps[:, None]
    )
    bounds = (sums.logs + sums.compensation).sum(0)
    rounding = jnp.where(sums.lost.any(0), jnp.inf, sums.rounding.sum(0))
    block_steps = sums.steps
    if resume is not None:
        earlier = resume.block_steps.sum().astype(steps.dtype)
        bounds = bounds + earlier * resume.upper_bounds
        rounding = rounding + earlier * resume.rounding
        finite_time = jnp.concatenate([resume.finite_time, finite_time])
        block_steps = jnp.concatenate([resume.block_steps, block_steps])
    weights = block_steps.astype(steps.dtype)[:, None]
    total = weights.sum()
    history = jnp.cumsum(weights * finite_time, axis=0) / jnp.cumsum(weights, axis=0)
    values, rounding = history[-1], rounding / total
    return Lyapunov(
        values=values,
        standard_errors=_standard_errors(finite_time, weights, values),
        resolved=rounding <= accuracy,
        upper_bounds=jnp.where(jnp.isneginf(values), lax.cummin(bounds / total), bounds / total),
        rounding=rounding,
        finite_time=finite_time,
        history=history,
        block_steps=block_steps,
        last=last,
    )


def _standard_errors(finite_time: jax.Array, weights: jax.Array, values: jax.Array) -> jax.Array:
    """√(Σ w (λ_block − λ)² / ((B − 1) Σ w)), infinite where it says nothing."""
    blocks = finite_time.shape[0]
    finite = jnp.isfinite(values)
    deviations = jnp.where(finite, finite_time - jnp.where(finite, values, 0)[None], 0)
    if blocks == 1:
        return jnp.full_like(values, jnp.inf)
    variance = (weights * deviations**2).sum(0) / ((blocks - 1) * weights.sum())
    # The square root has no derivative at 0, where all blocks agree.
    return jnp.where(
        finite, jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1)), 0), jnp.inf
    )


class SingularValues(NamedTuple):
    """Singular values of L matrices, largest first.

    Attributes:
      values: ln σ_i in nats, `(L, S)`; −∞ where σ_i is zero to working precision, NaN where a factor is not finite.
      resolved: `(L, S)`: the relative error of σ_i is below the accuracy that was asked for. What is zero is not.
      errors: the estimated relative error of σ_i through rounding, `(L, S)`; 1 where nothing is known.
    """

    values: jax.Array
    resolved: jax.Array
    errors: jax.Array

    def __repr__(self) -> str:
        return tables.render(self, self.values.ndim - 2, _singular_table)


def log_singular_values(
    jacobians: jax.Array,
    *,
    lags: Sequence[int] | None = None,
    accuracy: float = 1e-2,
    key: jax.Array | None = None,
) -> SingularValues:
    """All singular values of ∂h_T/∂h_{T−n}, far below ε σ_max, at the lags n that are asked for.

    The transposed product is carried as Q_n (R_n … R_1) Q_0ᵀ, the triangular factor with an exponent for each row, and
    decomposed by rotations of its rows (`rnn_jax.graded`). What limits a σ_i is the condition of the single steps,
    not that of the product.

    Args:
      jacobians: J_1 … J_T, `(T, S, S)`.
      lags: L lags in [0, T]; all of 0 … T if not given.
      accuracy: relative error at which a σ_i counts as resolved.
      key: of the random frame Q_0; `jax.random.key(0)` if not given.

    Returns:
      `SingularValues`, entry l for lag `lags[l]`. Forward-mode derivatives only; for a loss take `lyapunov` or
      `products.log_norms`.

    Raises:
      ValueError: as `products.prefix`; a lag out of range; an accuracy that the dtype does not have.

    >>> shear = jnp.array([[2.0, 1.0], [0.0, 0.5]])
    >>> result = log_singular_values(jnp.broadcast_to(shear, (500, 2, 2)), lags=(100, 500))
    >>> bool(jnp.abs(result.values.sum(-1)).max() < 1e-2), bool(result.resolved.all())  # |det| = 1
    (True, True)
    """
    stack = products.check_stack(jacobians)
    steps, size, _ = stack.shape
    check_accuracy(accuracy, stack.dtype)
    wanted = np.arange(steps + 1) if lags is None else np.asarray([_lag(lag, steps) for lag in lags], int)
    if wanted.size == 0:
        raise ValueError("lags is empty; expected one or more lags in [0, T].")
    distinct, where = np.unique(wanted, return_inverse=True)
    # Entry n of `slot` is where the rows of lag n go; those not asked for go out of bounds, and are dropped.
    slot = np.full(steps + 1, distinct.size)
    slot[distinct] = np.arange(distinct.size)

    def keep(kept, slot, rows):
        return jax.tree.map(lambda all, one: all.at[slot].set(one, mode="drop"), kept, rows)

    def body(carry, inputs):
        frame, rows, kept = carry
        jacobian, slot = inputs
        jacobian, exponent = products.rescale(jacobian)
        with jax.default_matmul_precision("highest"):
            pulled, shift = products.rescale(jacobian.T @ frame)
            frame, triangular = jnp.linalg.qr(pulled)
        error = resolution(stack.dtype) * jnp.sqrt((pulled**2).sum())
        rows = graded.multiply(jnp.triu(triangular), exponent + shift, error, rows)
        return (frame, rows, keep(kept, slot, rows)), None

    frame = random_frame(key, size, size, stack.dtype)
    rows = graded.rows_of(jnp.eye(size, dtype=stack.dtype))
    kept = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (distinct.size, *leaf.shape)), rows)
    inputs = (stack, jnp.asarray(slot[:0:-1]))  # from the last Jacobian to the first, lag 1 to lag T
    (_, _, kept), _ = lax.scan(body, (frame, rows, kept), inputs, reverse=True)
    return _singular_values(jax.tree.map(lambda leaf: leaf[where], kept), accuracy)


def step_log_singular_values(jacobians: jax.Array, *, accuracy: float = 1e-2) -> SingularValues:
    """All singular values of every step's Jacobian by itself.

    Args:
      jacobians: J_1 … J_T, `(T, S, S)`, taken as exact.
      accuracy: relative error at which a σ_i counts as resolved.

    Returns:
      `SingularValues`, entry t − 1 for J_t. Tiny rows, as of saturated units, are no obstacle.

    >>> step_log_singular_values(jnp.diag(jnp.array([1e-30, 1.0]))[None]).values
    Array([[  0.     , -69.07755]], dtype=float32)
    """
    stack = products.check_stack(jacobians)
    check_accuracy(accuracy, stack.dtype)
    return _singular_values(jax.vmap(graded.rows_of)(stack), accuracy)


def _singular_values(rows: graded.Rows, accuracy: float) -> SingularValues:
    log_values, errors = jax.vmap(graded.singular_values)(rows)
    known = (errors < 1) | jnp.isnan(log_values)
    return SingularValues(
        values=jnp.where(known, log_values, -jnp.inf),
        resolved=(errors < 1) & (errors <= accuracy),
        errors=errors,
    )


def kaplan_yorke(exponents: jax.Array, *, size: int | None = None) -> jax.Array:
    """Kaplan–Yorke dimension D = j + (λ_1 + … + λ_j)/|λ_{j+1}|, j the most exponents whose sum is not negative.

    Args:
      exponents: λ, `(k,)`; −∞ is allowed.
      size: S; needed if all S exponents are given and do not sum to less than 0 (D is then S).

    Returns:
      A number in [0, S]; under a trace NaN where too few exponents are given.

    Raises:
      ValueError: the sum of the given exponents is not negative, so that those left out count (concrete arrays).

    >>> round(float(kaplan_yorke(jnp.array([0.41922, -1.62319]))), 5)  # Hénon's map
    1.25827
    """
    values = _sorted(exponents)
    sums = jnp.cumsum(values)
    complete = _complete(values, size)
    if checks.is_concrete(sums) and not complete and bool(sums[-1] >= 0):
        raise ValueError(_too_few(f"the {values.shape[0]} exponents sum to {float(sums[-1]):.3g}"))
    count = (sums >= 0).sum()
    here = jnp.where(count > 0, sums[jnp.maximum(count - 1, 0)], 0)
    dimension = count + here / jnp.abs(values[jnp.minimum(count, values.shape[0] - 1)])
    full = jnp.asarray(float(values.shape[0]) if complete else jnp.nan, values.dtype)
    return jnp.where(sums[-1] >= 0, full, dimension)


def entropy_rate(exponents: jax.Array, *, size: int | None = None) -> jax.Array:
    """Σ λ_i over λ_i > 0, nats per step: an upper bound of the entropy rate, reached by SRB measures (Pesin 1977).

    Args:
      exponents, size: as in `kaplan_yorke`.

    Raises:
      ValueError: all given exponents are positive, so that those left out may be (concrete arrays).

    >>> entropy_rate(jnp.array([0.5, 0.25, -1.0]))
    Array(0.75, dtype=float32)
    """
    values = _sorted(exponents)
    complete = _complete(values, size)
    if checks.is_concrete(values) and not complete and bool(values[-1] > 0):
        raise ValueError(_too_few(f"the smallest of {values.shape[0]} exponents is {float(values[-1]):.3g}"))
    rate = jnp.maximum(values, 0).sum()  # of NaN it is NaN
    return rate if complete else jnp.where(values[-1] > 0, jnp.nan, rate)


def participation_ratio(log_weights: jax.Array) -> jax.Array:
    """(Σ w)² / Σ w²: how many of the weights count, from 1 (one) to S (all alike); 0 if all are zero.

    Args:
      log_weights: ln w_i, `(…, S)`, −∞ for 0. With w = σ², `2 * log_singular_values(…).values`, it is the number of
        directions along which a product passes a gradient on.

    Returns:
      `(…)`.

    >>> participation_ratio(jnp.array([-1000.0, -1000.0, -jnp.inf]))
    Array(2., dtype=float32)
    """
    log_weights = jnp.asarray(log_weights)
    largest = log_weights.max(-1, keepdims=True)
    weights = jnp.exp(log_weights - jnp.where(largest == -jnp.inf, 0, largest))
    squares = (weights**2).sum(-1)
    return jnp.where(squares == 0, 0, weights.sum(-1) ** 2 / jnp.where(squares == 0, 1, squares))


def check_accuracy(accuracy: float, dtype: Any) -> None:
    """Raise unless numbers of this dtype can be as accurate as is asked.

    >>> check_accuracy(1e-9, jnp.float32)
    Traceback (most recent call last):
        ...
    ValueError: accuracy is 1e-09, but a step in float32 rounds at 9.5e-07. Ask for less, or compute in float64: ...
    """
    if not accuracy > 0:
        raise ValueError(f"accuracy is {accuracy}; expected a positive number, such as 1e-3.")
    least = resolution(dtype)
    if accuracy < least:
        raise ValueError(
            f"accuracy is {accuracy:g}, but a step in {jnp.dtype(dtype)} rounds at {least:.1e}. Ask for less, or "
            'compute in float64: jax.config.update("jax_enable_x64", True).'
        )


def random_frame(key: jax.Array | None, size: int, k: int, dtype: Any) -> jax.Array:
    """k orthonormal columns in random directions, `(S, k)`; from `jax.random.key(0)` if no key is given.

    >>> random_frame(None, 5, 2, jnp.float32).shape
    (5, 2)
    """
    key = jax.random.key(0) if key is None else key
    # Drawn column by column: the frame of k exponents is the beginning of that of all.
    return jnp.linalg.qr(jax.random.normal(key, (k, size), dtype).T)[0]


def _sorted(exponents: jax.Array) -> jax.Array:
    values = jnp.asarray(exponents, jnp.result_type(exponents, float))
    if values.ndim != 1 or values.shape[0] == 0:
        raise ValueError(
            f"exponents has shape {values.shape}; expected (k,) with k >= 1. For a batch, jax.vmap."
        )
    return jnp.sort(values)[::-1]


def _complete(values: jax.Array, size: int | None) -> bool:
    """Whether these are all exponents of a state of `size` entries."""
    if size is not None:
        checks.integer("size", size, values.shape[0])
    return values.shape[0] == size


def _too_few(what: str) -> str:
    return f"{what}, so those that are left out count. Give more exponents, or size=S if these are all."


def _lag(lag: Any, steps: int) -> int:
    return checks.integer("lag", lag, 0, steps, "T, the number of Jacobians")


def _first(xs: PyTree, steps: int) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[:steps], xs)


def _rest(xs: PyTree, steps: int) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[steps:], xs)


def _lyapunov_table(result: Lyapunov) -> str:
    rows = []
    for i in tables.ends(len(result.values), 12):
        if result.resolved[i]:
            value, error = tables.number(result.values[i]), tables.number(result.standard_errors[i])
        else:
            value, error = f"< {tables.number(result.upper_bounds[i])}", "not resolved"
        rows.append([str(i + 1), value, error])
    steps, blocks = result.block_steps.sum(), len(result.block_steps)
    title = f"Lyapunov exponents, nats per step: {steps} steps in {blocks} block{'s' * (blocks > 1)}"
    return f"{title}\n{tables.columns(['i', 'value', 'std. error'], rows)}"


def _singular_table(result: SingularValues) -> str:
    size = result.values.shape[-1]
    shown = tables.ends(size, 6)
    rows = [
        [str(entry)]
        + [
            tables.number(result.values[entry, i]) if result.resolved[entry, i] else "not resolved"
            for i in shown
        ]
        for entry in tables.ends(len(result.values), 10)
    ]
    count = f"{result.resolved.sum()} of {result.resolved.size} resolved"
    header = ["entry", *(f"ln σ_{i + 1}" for i in shown)]
    return f"singular values, natural logarithms: {count}\n{tables.columns(header, rows)}"
