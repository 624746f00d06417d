"""The gradient-flow profile: who sends how much gradient to whom, across which lag.

Each loss L_t depends on s_t alone, and reaches s_k through the steps between, J_t = ∂s_t/∂s_{t−1}:

    ∂L_t/∂s_k    = J_{k+1}ᵀ … J_tᵀ ∂L_t/∂s_t                     all t ≥ k, one row a lag n = t − k
    δ_k          = Σ_{t≥k} ∂L_t/∂s_k                             the total derivative, as in `rnn_jax.bptt`
    ∂L/∂θ        = Σ_n Σ_t (∂⁺s_{t−n}/∂θ)ᵀ ∂L_t/∂s_{t−n}         by lag; immediate ∂⁺s/∂θ: s_{t−1} held fixed
    ‖∂L_t/∂s_k‖  ≤ ‖∂L_t/∂s_t‖ (γ σ_max(W_hh))^(t−k)             Pascanu, Mikolov and Bengio (2013), section 2.1

One reverse sweep of k from T to 0 carries all rows at once, so that a step is one product for all of them. Rows
are mantissa · 2^exponent and do not underflow: their norms are natural logarithms at any lag.

Any step will do. A Flax cell, of linen or nnx, is one in two lines:

>>> from flax import linen, nnx
>>> cell = linen.GRUCell(features=8)
>>> step = lambda params, carry, x: cell.apply(params, carry, x)[0]
>>> graph, params = nnx.split(nnx.LSTMCell(3, 8, rngs=nnx.Rngs(0)))
>>> step = lambda params, carry, x: nnx.merge(graph, params)(carry, x)[0]

`profile` takes one sequence and `jax.vmap` is the batch, which its targets are part of:
`jax.vmap(lambda h, x, y: profile(cell, params, h, x, lambda s: loss(s, y)), in_axes=(0, 1, 1))`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

from rnn_jax import checks, decay, products, spectrum, tables
from rnn_jax import unroll as unrolling
from rnn_jax.products import Scaled
from rnn_jax.types import Cell, PyTree, Step, as_step


class Profile(NamedTuple):
    """The gradient flow of one sequence, t = 1 … T, k = 0 … T; L is the number of lags told apart.

    Attributes:
      losses: L_t, `(T,)`.
      immediate: ∂L_t/∂s_t, the tree of the state, leaves `(T, …)`, entry t − 1.
      total: δ_k, the tree of the state, leaves `(T + 1, …)`, entry k.
      log_norms: ln‖∂L_t/∂s_k‖, `(T, T + 1)`, entry [t − 1, k]; −∞ for k > t and where it is exactly zero.
      component_log_norms: the same for each component of the state, such as h and c of an LSTM; the tree of the
        state, leaves `(T, T + 1)`.
      contributions: the part of ∂L/∂θ of each lag n = 0 … L − 1, then of all lags ≥ L together (zeros if L = T);
        the tree of the parameters, leaves `(L + 1, …)`, which sum to ∂L/∂θ.
      contribution_norms: their norms over all parameters, `(L + 1,)`.
      shares: ⟨contribution, ∂L/∂θ⟩ / ‖∂L/∂θ‖², `(L + 1,)`, which sum to 1; below 0 where a lag works against the
        gradient. All 0 where ∂L/∂θ = 0.
      alignment: `(T + 1, m)`, entry [k, i − 1] is the share of ‖δ_k‖² in the span of the i leading directions at
        time k, those in which a perturbation of s_k grows most until T. A random vector has i/S on average, and
        so do the directions at T, where they are random themselves. 0 where δ_k = 0.
      log_bound: ln‖∂L_t/∂s_t‖ + (t − k) ln(γ σ_max(W_hh)), `(T, T + 1)`, which `log_norms` cannot exceed; −∞ for
        k > t, NaN everywhere if no bound was given.
      per_step: whether the loss was found to be per step, boolean. If not, the rest means nothing. (Nor is it found
        for a loss that is NaN.)
    """

    losses: jax.Array
    immediate: PyTree
    total: PyTree
    log_norms: jax.Array
    component_log_norms: PyTree
    contributions: PyTree
    contribution_norms: jax.Array
    shares: jax.Array
    alignment: jax.Array
    log_bound: jax.Array
    per_step: jax.Array

    def __repr__(self) -> str:
        return tables.render(self, self.losses.ndim - 1, _layout)


def profile(
    step: Cell | Step,
    params: PyTree,
    state: PyTree,
    xs: PyTree,
    loss: Callable[[PyTree], jax.Array],
    *,
    lags: int | None = None,
    directions: int | None = None,
    log_step_bound: jax.Array | float | None = None,
    key: jax.Array | None = None,
) -> Profile:
    """The gradient flow of one sequence, in one reverse sweep.

    The sweep costs T vector-Jacobian products at each of T steps, T + m with directions. `contributions` take
    (L + 1) · |θ| of memory and as many outer products a step: with a long sequence or a large network give `lags`.
    As in any backward pass `total` and `contributions` underflow or overflow where the gradient does, and
    `log_norms` do not.

    Args:
      step: a cell, or any `step(params, state, x) -> state`.
      params: θ, floating point.
      state: s_0 of one sequence, floating point; S is the number of its entries.
      xs: x_1 … x_T, `(T, D)`.
      loss: `loss(states) -> (T,)`, entry t − 1 being L_t, a function of s_t alone. It closes over targets and
        weights, and over `cell.emit` if it reads h_t.
      lags: L, 0 … T, how many lags to tell apart in `contributions`; T if not given. 0 leaves the total alone.
      directions: m, 0 … S, how many leading directions to follow; min(3, S) if not given. They start at T from a
        random frame, are carried back by J_tᵀ and made orthonormal at every step: lags later they are the leading
        right singular vectors of ∂s_T/∂s_k. No gradient passes through them.
      log_step_bound: ln(γ σ_max(W_hh)) of an Elman cell, `products.log_bound(params.w_hh, 1, gamma)[1]`.
      key: for the random frame; `jax.random.key(0)` if not given.

    Raises:
      ValueError: as `unroll.unroll`; parameters or a state that are not floating point; a cell's state with batch
        axes; lags or directions out of range; a loss that is not `(T,)` floating point. On concrete arrays also a
        loss or a gradient of it that is not finite, and a loss that is not per step: random weights w_t must give
        w_t ∂L_t/∂s_t, to √ε of the largest of them. (Under a trace look at `per_step`.)

    >>> from rnn_jax import cells
    >>> cell = cells.elman(cells.identity)
    >>> params = cells.ElmanParams(w_hh=jnp.array([[0.5]]), w_xh=jnp.array([[1.0]]), b_h=jnp.zeros(1))
    >>> @jax.jit
    ... def run(params, xs):
    ...     bound = products.log_bound(params.w_hh, 1)[1]
    ...     return profile(cell, params, jnp.zeros(1), xs, lambda h: h[:, 0], log_step_bound=bound)
    >>> run(params, jnp.ones((5, 1)))
    Gradient flow over T = 5 steps, S = 1 state entries
    lag  mean ln ratio  mean ln bound  share of gradient
      0              0              0             0.6433
      1        -0.6931        -0.6931             0.2435
      2         -1.386         -1.386            0.08397
      4         -2.773         -2.773           0.004776
    ln ratio: ln(‖∂L_t/∂s_(t−lag)‖ / ‖∂L_t/∂s_t‖), over all t that have the lag
    horizon: no lag is below 0.001
    share of ‖δ_0‖² in the 1 leading directions: 1 (random: 1)
    """
    params, state, xs = _arguments(step, params, state, xs)
    steps = checks.sequence_length(xs)
    flat_state, unravel = ravel_pytree(state)
    lags = steps if lags is None else checks.integer("lags", lags, 0, steps, "T, the number of steps")
    size = flat_state.size
    directions = min(3, size) if directions is None else directions
    directions = checks.integer("directions", directions, 0, size, "S, the size of the state")

    with jax.default_matmul_precision("highest"):
        states = unrolling.unroll(step, params, state, xs)
        per_time = _differentiate(loss, states, steps)
        sweep = _Sweep(as_step(step), params, unravel, lags, directions)
        frame = jnp.zeros((0, size), flat_state.dtype)
        if directions:
            frame = spectrum.random_frame(key, size, directions, flat_state.dtype).T
        at_0, at_k, contributions = sweep(frame, unrolling.previous_states(state, states), xs, per_time.flat)

        t, k = jnp.arange(1, steps + 1)[:, None], jnp.arange(steps + 1)[None]

        def by_time(first, rest):
            """ln-norms by [k, lag], from lag 1 on at k = 0, to [t − 1, k]."""
            first, rest = jnp.pad(first[None], ((0, 0), (1, 0))), jnp.pad(rest, ((0, 0), (0, 1)))
            return jnp.where(t >= k, jnp.concatenate([first, rest])[k, jnp.maximum(t - k, 0)], -jnp.inf)

        log_norms = by_time(at_0.log_norms, at_k.log_norms)
        return Profile(
            losses=per_time.losses,
            immediate=per_time.immediate,
            total=jax.vmap(unravel)(_value(unrolling.with_initial(at_0.delta, at_k.delta))),
            log_norms=log_norms,
            component_log_norms=jax.tree.map(by_time, at_0.component_log_norms, at_k.component_log_norms),
            contributions=contributions,
            **_sizes(contributions, lags + 1, flat_state.dtype),
            alignment=unrolling.with_initial(at_0.alignment, at_k.alignment),
            log_bound=_bound(at_k.log_norms[:, :1], t - k, log_step_bound),
            per_step=per_time.per_step,
        )


class _PerTime(NamedTuple):
    losses: jax.Array
    immediate: PyTree
    flat: jax.Array
    per_step: jax.Array


def _differentiate(loss: Callable[[PyTree], jax.Array], states: PyTree, steps: int) -> _PerTime:
    """L_t and ∂L_t/∂s_t of all steps, `flat` being (T, S), and whether each loss is one of its own state alone.

    The derivative of Σ w_t L_t for s_k is w_k ∂L_k/∂s_k then, and only then. The weights are powers of two, by
    which a floating-point derivative scales exactly even where it cancels to nothing but rounding: the digits, to the
    base of 16 weights, of a number that each step is given, so that any two steps differ in one of them.
    """
    losses, pullback = jax.vjp(loss, states)
    remedy = "Return one number a step, (T,): sum over units and outputs, not over time."
    expected = jax.ShapeDtypeStruct((steps,), jnp.result_type(jnp.float32))
    if getattr(losses, "shape", None) != (steps,):
        raise ValueError(
            f"a loss that is not per step: loss(states) is {checks.signature(losses)}; expected "
            f"{checks.signature(expected)}. {remedy}"
        )
    if not jnp.issubdtype(losses.dtype, jnp.floating):
        raise ValueError(f"loss(states) is {losses.dtype}; expected floating point. {remedy}")
    checks.finite("loss(states)", losses)

    rng = np.random.default_rng(0)
    powers = np.outer([1, -1], 2.0 ** np.arange(-4, 4)).ravel()
    numbers, digits = rng.permutation(steps), max(1, math.ceil(math.log(steps, powers.size)))
    orders = [powers[numbers // powers.size**digit % powers.size] for digit in range(digits)]
    weights = jnp.asarray(np.stack([np.ones(steps), *orders]), losses.dtype)
    (pulled,) = jax.vmap(pullback)(weights)
    immediate = jax.tree.map(lambda leaf: leaf[0], pulled)
    checks.finite("the gradient of loss(states)", immediate)

    flat = jax.vmap(jax.vmap(lambda s: ravel_pytree(s)[0]))(pulled)
    unweighted = lax.stop_gradient(flat / weights.astype(flat.dtype)[:, :, None])
    difference = jnp.abs(unweighted - unweighted[:1])
    tolerance = max(float(jnp.finfo(dtype).eps) for dtype in (flat.dtype, losses.dtype)) ** 0.5
    per_step = difference.max() <= tolerance * jnp.abs(unweighted).max()
    if checks.is_concrete(per_step) and not per_step:
        where = int(jnp.argmax(difference.max((0, 2))))
        raise ValueError(
            f"a loss that is not per step: another loss than L_{where + 1} depends on s_{where + 1}, though "
            "loss(states)[t - 1] must be a function of the state at t alone. Do not normalise, smooth or compare "
            "over time inside the loss; weights that do not depend on the states may be used."
        )
    return _PerTime(losses, immediate, flat[0], per_step)


class _AtTime(NamedTuple):
    """What is kept of one k: log-norms (T,) by lag, δ_k flat and scaled, and its alignment (m,)."""

    log_norms: jax.Array
    component_log_norms: PyTree
    delta: Scaled
    alignment: jax.Array


class _Sweep(NamedTuple):
    """The reverse sweep; rows are cotangents ∂L_t/∂s_k by lag, scaled, (T, S), and the frame is (m, S)."""

    step: Step
    params: PyTree
    unravel: Callable[[jax.Array], PyTree]
    lags: int
    directions: int

    def __call__(self, frame, previous, xs, immediate) -> tuple[_AtTime, _AtTime, PyTree]:
        """What is kept of k = 0 and, stacked, of k = 1 … T; contributions by lag."""
        steps = immediate.shape[0]
        none = Scaled(jnp.zeros_like(immediate), jnp.zeros(steps, jnp.int32))
        kept_lags = min(self.lags + 1, steps)
        sums = jax.tree.map(lambda p: jnp.zeros((kept_lags, *p.shape), p.dtype), self.params)
        inputs = (previous, xs, immediate)
        (rows, frame, sums), at_k = lax.scan(self.one_step_back, (none, frame, sums), inputs, reverse=True)
        if self.lags == steps:
            sums = jax.tree.map(lambda s: jnp.concatenate([s, jnp.zeros_like(s[:1])]), sums)
        return self.measure(_normal(rows), frame), at_k, sums

    def one_step_back(self, carry, inputs):
        """From the rows of k that come from later losses, entry n for lag n + 1, to those of k − 1."""
        later, frame, sums = carry
        previous, x, immediate = inputs
        # The row dropped is that of lag T, which for k ≥ 1 no loss has.
        own = Scaled(immediate[None], jnp.zeros(1, jnp.int32))
        rows = _normal(jax.tree.map(lambda first, rest: jnp.concatenate([first, rest[:-1]]), own, later))

        def flat_step(params, state):
            return ravel_pytree(self.step(params, state, x))[0]

        _, pullback = jax.vjp(flat_step, self.params, previous)
        by_lag = jax.vmap(lambda row: pullback(row)[0])(self.lag_rows(rows))
        sums = jax.tree.map(jnp.add, sums, by_lag)

        cotangents = jnp.concatenate([rows.mantissa, lax.stop_gradient(frame)])
        pulled = jax.vmap(lambda row: ravel_pytree(pullback(row)[1])[0])(cotangents)
        earlier = Scaled(pulled[: len(rows.mantissa)], rows.exponent)
        next_frame = _orthonormal(pulled[len(rows.mantissa) :]) if self.directions else frame
        return (earlier, next_frame, sums), self.measure(rows, frame)

    def lag_rows(self, rows: Scaled) -> jax.Array:
        """Lags 0 … L − 1 as plain numbers, and the sum of the others if there are any."""
        near, far = (Scaled(*(x[part] for x in rows)) for part in np.s_[: self.lags, self.lags :])
        if self.lags < rows.exponent.size:
            near = jax.tree.map(lambda rest, last: jnp.concatenate([rest, last[None]]), near, _sum(far))
        return _value(near)

    def measure(self, rows: Scaled, frame: jax.Array) -> _AtTime:
        def component(leaf):
            # Scaled anew: it may be too small to be squared though the row is not.
            return _log_norms(_normal(Scaled(leaf.reshape(rows.exponent.size, -1), rows.exponent)))

        delta = _sum(rows)
        square = (delta.mantissa * delta.mantissa).sum()
        within = jnp.cumsum((frame @ delta.mantissa) ** 2)
        return _AtTime(
            log_norms=_log_norms(rows),
            component_log_norms=jax.tree.map(component, jax.vmap(self.unravel)(rows.mantissa)),
            delta=delta,
            alignment=within / jnp.where(square > 0, square, 1),
        )


def _normal(rows: Scaled) -> Scaled:
    """The same rows, the largest entry of each in [½, 1)."""
    return products.carry(rows, axes=-1)


def _log_norms(rows: Scaled) -> jax.Array:
    """ln of the norms of normal rows; −∞, with the gradient 0, for a row of zeros."""
    square = (rows.mantissa * rows.mantissa).sum(-1)
    log_norms = 0.5 * jnp.log(jnp.where(square == 0, 1, square))
    log_scale = rows.exponent.astype(square.dtype) * math.log(2)
    return jnp.where(square == 0, -jnp.inf, log_norms + log_scale)


def _value(rows: Scaled) -> jax.Array:
    """Rows as plain numbers, zero or infinite outside their range."""
    return products.times_power_of_two(rows.mantissa, rows.exponent[..., None])


def _sum(rows: Scaled) -> Scaled:
    """The sum of normal rows, relative to the largest of them."""
    zero = (rows.mantissa == 0).all(-1)
    top = jnp.where(zero, jnp.iinfo(rows.exponent.dtype).min, rows.exponent).max()
    top = jnp.where(zero.all(), 0, top)
    shift = jnp.where(zero, 0, rows.exponent - top)
    return Scaled(products.times_power_of_two(rows.mantissa, shift[:, None]).sum(0), top)


def _orthonormal(rows: jax.Array) -> jax.Array:
    return lax.stop_gradient(jnp.linalg.qr(lax.stop_gradient(rows.T))[0].T)


def _sizes(contributions: PyTree, number: int, dtype: Any) -> dict[str, jax.Array]:
    """Norms of the contributions and their shares of the sum."""
    # With a column of zeros, as a step may have no parameters.
    columns = [leaf.reshape(number, -1) for leaf in jax.tree.leaves(contributions)]
    rows = jnp.concatenate([jnp.zeros((number, 1), dtype), *columns], axis=1)
    scaled = products.rescale(rows, axes=(0, 1)).mantissa
    gradient = scaled.sum(0)
    square = gradient @ gradient
    return {
        "contribution_norms": jnp.exp(_log_norms(_normal(Scaled(rows, jnp.zeros(number, jnp.int32))))),
        "shares": scaled @ gradient / jnp.where(square > 0, square, 1),
    }


def _bound(immediate: jax.Array, lag: jax.Array, log_step_bound: jax.Array | float | None) -> jax.Array:
    """ln‖∂L_t/∂s_t‖ (T, 1) + n · log_step_bound at lags n (T, T + 1)."""
    if log_step_bound is None:
        return jnp.full(lag.shape, jnp.nan, immediate.dtype)
    log_step_bound = jnp.asarray(log_step_bound, immediate.dtype)
    if log_step_bound.ndim:
        raise ValueError(
            f"log_step_bound has shape {log_step_bound.shape}; expected one number, ln(γ σ_max(W_hh)): "
            "products.log_bound(params.w_hh, 1, gamma)[1]."
        )
    # No multiple of −∞, the bound of zero weights, at lag 0.
    bound = immediate + jnp.where(lag > 0, lag, 1).astype(immediate.dtype) * log_step_bound
    return jnp.where(lag > 0, bound, jnp.where(lag == 0, immediate, -jnp.inf))


def _arguments(step: Cell | Step, params: PyTree, state: PyTree, xs: PyTree) -> tuple[PyTree, PyTree, PyTree]:
    params, state, xs, _ = unrolling.arguments(params, state, xs, None)
    for leaf in jax.tree.leaves(params):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"params has a leaf of dtype {leaf.dtype}; a profile is of floating-point numbers. Hand "
                "counters, masks and keys in with xs."
            )
    checks.one_sequence(step, state, "a profile is")
    return params, state, xs


def _layout(p: Profile) -> str:
    """One profile, as NumPy arrays, as a table of at most 100 columns."""
    steps, lags, m = p.losses.size, p.shares.size - 1, p.alignment.shape[1]
    entries = sum(math.prod(leaf.shape[1:]) for leaf in jax.tree.leaves(p.total))
    components = jax.tree_util.tree_leaves_with_path(p.component_log_norms)
    shown = components[:4] if len(components) > 1 else []
    curve = decay.relative_log_norms(p.log_norms)

    columns: dict[str, Any] = {"mean ln ratio": np.asarray(curve)}
    for path, leaf in shown:
        with np.errstate(invalid="ignore"):  # −∞ less −∞: no gradient to have a share of
            share = np.exp(2 * (np.asarray(decay.by_lag(leaf)) - np.asarray(decay.by_lag(p.log_norms))))
        number = np.maximum(np.isfinite(share).sum(0), 1)
        columns[f"in {jax.tree_util.keystr(path).lstrip('.')[:12]}"] = np.nansum(share, axis=0) / number
    if not np.isnan(p.log_bound).all():
        columns["mean ln bound"] = np.asarray(decay.relative_log_norms(p.log_bound))
    if lags:
        columns["share of gradient"] = p.shares[:-1]
    rows = [n for n in (0, *(2**i for i in range(steps.bit_length()))) if n < steps]
    cells = [[str(n), *(tables.number(c[n]) if n < len(c) else "" for c in columns.values())] for n in rows]

    lines = [
        f"Gradient flow over T = {steps} steps, S = {entries} state entries",
        tables.columns(["lag", *columns], cells),
        "ln ratio: ln(‖∂L_t/∂s_(t−lag)‖ / ‖∂L_t/∂s_t‖), over all t that have the lag",
    ]
    if shown:
        more = f" ({len(components) - 4} more not shown)" if len(components) > 4 else ""
        lines.append(f"in …: mean share of ‖∂L_t/∂s_(t−lag)‖² in that component of the state{more}")
    if 0 < lags < steps:
        lines.append(f"share of gradient at lags >= {lags}: {tables.number(p.shares[-1])}")
    reached = float(decay.horizon(curve))
    first = f"lag {reached:.0f} is the first" if reached < steps else "no lag is"
    lines.append(f"horizon: {first} below 0.001")
    if m:
        share, random = tables.number(p.alignment[0, -1]), tables.number(m / entries)
        lines.append(f"share of ‖δ_0‖² in the {m} leading directions: {share} (random: {random})")
    silent = int(np.isneginf(np.diagonal(p.log_norms, 1)).sum())
    if silent:
        lines.append(f"losses without a gradient, left out of the means: {silent} of {steps}")
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((p.total, p.contributions))):
        lines.append("NOT RESOLVED: the gradient overflows; of this only the log-norms hold")
    if not p.per_step:
        lines.append("NOT PER STEP: a loss depends on another state than its own; none of this holds")
    return "\n".join(lines)
