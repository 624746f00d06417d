"""Losses whose descent mends a gradient that vanishes or explodes; they are added to the loss of the task.

    Ω      = Σ_t (‖J_tᵀ δ_t‖ / ‖δ_t‖ − 1)²           t = 1 … T; Pascanu, Mikolov and Bengio (2013), eq. 9
    floss  = (1/k) Σ_i λ_i²                          the k leading Lyapunov exponents; Engelken (2023)

δ_t is the total ∂L/∂s_t and J_t = ∂s_t/∂s_{t−1}, so J_tᵀ δ_t is what of it arrives at t − 1. Ω asks that the gradient
of *this* loss keeps its length from step to step, in the direction that it happens to have; flossing asks that the k
directions which decay least neither grow nor decay, whatever the loss is. Both are differentiated through the
trajectory and through the Jacobians (second derivatives of the step):

    loss(params) = task(params) + weight * omega(step, params, state, xs, task_of_states).mean()

`omega_immediate` is the form that the authors of Ω trained with (their eq. 10, and their code): squared norms, a
derivative for W_hh alone.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax import bptt, checks, clipping, spectrum
from rnn_jax import unroll as unrolling
from rnn_jax.types import Cell, PyTree, Step, as_step, is_structured, pull_emit


def omega(
    step: Cell | Step, params: PyTree, state: PyTree, xs: PyTree, loss: Callable[[PyTree], jax.Array]
) -> jax.Array:
    """Ω of each sequence, differentiable in params, state and xs: δ_t, s_t and J_t all move with them.

    A step with δ_t = 0 has no direction to keep and does not count: those after the last loss, and, where the gradient
    has vanished below the smallest number of its dtype, those before.

    Args:
      step: a cell, or any `step(params, state, x) -> state`.
      params, state: θ and s_0, leaves `(*B, N)`, features last.
      xs: x_1 … x_T, `(T, *B, D)`.
      loss: `loss(states) -> ()`, L as a function of s_1 … s_T. The sequences of a batch add up in it. It closes over
        targets, and over `cell.emit` if it reads h_t.

    Returns:
      `(*B,)`.

    Raises:
      ValueError: as `unroll.unroll`; a state without a feature axis; a loss that is not one number.

    >>> def shrink(params, state, x):
    ...     return params * state + x
    >>> last = lambda states: states[-1].sum()
    >>> omega(shrink, jnp.array(0.5), jnp.zeros(2), jnp.ones((4, 2)), last)  # 4 (0.5 − 1)²
    Array(1., dtype=float32)
    """
    checks.unclipped("omega()", step)
    params, state, xs, _ = unrolling.arguments(params, state, xs, None)
    jax.eval_shape(clipping.norms, state)  # for its check
    states = unrolling.unroll(step, params, state, xs)
    previous = unrolling.previous_states(state, states)

    def back(carried, inputs):
        previous, x, immediate = inputs
        delta = jax.tree.map(jnp.add, carried, immediate)
        size = _largest(delta)
        counts = size > 0
        # Of length about 1, so that no square underflows: the ratio does not depend on it.
        divisor = jnp.where(counts, size, 1)[..., None]
        direction = jax.tree.map(lambda leaf: leaf / divisor, delta)
        _, pull = jax.vjp(lambda s: as_step(step)(params, s, x), previous)
        (pulled,) = pull(direction)
        ratio = clipping.norms(pulled) / jnp.where(counts, clipping.norms(direction), 1)
        return _times(size, pulled), jnp.where(counts, (ratio - 1) ** 2, 0)

    nothing = jax.tree.map(jnp.zeros_like, state)
    _, terms = lax.scan(back, nothing, (previous, xs, _immediate(loss, states)), reverse=True)
    return terms.sum(0)


_FLOOR = 1e-10
"""‖δ_t‖ from which on a step counts in the released code, which compares the square with 10⁻²⁰."""


def omega_immediate(
    cell: Cell, params: PyTree, state: PyTree, xs: jax.Array, loss: Callable[[PyTree], jax.Array]
) -> jax.Array:
    """Ω as the authors' eq. 10 and code have it (github.com/pascanur/trainingRNNs, RNN.py): a mean of squared norms.

        mean over t and sequences with ‖δ_t‖² ≥ 10⁻²⁰ of (‖J_tᵀ δ_t‖² / ‖δ_t‖² − 1)²,    J_tᵀ = … W_hhᵀ diag(f'(z_t))

    Its derivative is the immediate one: W_hh as it stands in J_t is all that varies, and trajectory, gates and δ_t are
    constants. So it costs one product more than the gradient, and has a gradient for the recurrent weights alone.

    Args:
      cell: a structured cell: Elman, leaky, GRU, LSTM. (Of an LSTM J_t is that of the whole state.)
      params, state, xs, loss: as in `omega`.

    Returns:
      `()`, one number for the batch; 0 if no step counts.

    Raises:
      ValueError: as `omega`; for a stack, a bare step or another cell without structure.

    >>> from rnn_jax import cells
    >>> cell = cells.elman(cells.identity)
    >>> params = cells.ElmanParams(w_hh=jnp.array([[0.5]]), w_xh=jnp.array([[1.0]]), b_h=jnp.zeros(1))
    >>> last = lambda h: h[-1].sum()
    >>> omega_immediate(cell, params, jnp.zeros(1), jnp.ones((4, 1)), last)  # (0.5² − 1)²
    Array(0.5625, dtype=float32)
    """
    if not is_structured(cell):
        raise ValueError(
            f"omega_immediate() needs a cell with one recurrent product; got a {type(cell).__name__} without (a stack "
            "has several). Use omega(), which takes any step."
        )
    checks.unclipped("omega_immediate()", cell)
    params, state, xs, _ = unrolling.arguments(params, state, xs, None)
    fixed, state, xs = lax.stop_gradient((params, state, xs))
    states = unrolling.unroll(cell, fixed, state, xs)
    # The loss may close over a readout that is trained as well.
    deltas = lax.stop_gradient(bptt.bptt(cell, fixed, state, xs, _immediate(loss, states)).deltas)
    previous = unrolling.previous_states(state, states)

    h = cell.emit(previous)
    gates = cell.gates(cell.drive(fixed, xs), cell.recur(fixed, h))  # type: ignore[misc]
    ds, _, dr = cell.pullback(previous, gates, states, deltas)  # type: ignore[misc]
    (dh,) = jax.vjp(lambda h: cell.recur(params, h), h)[1](dr)  # type: ignore[misc]
    pulled = jax.tree.map(jnp.add, ds, pull_emit(cell, previous, dh))

    norms = clipping.norms(deltas)
    counts = norms >= _FLOOR
    ratio = clipping.norms(pulled) / jnp.where(counts, norms, 1)
    return jnp.where(counts, (ratio**2 - 1) ** 2, 0).sum() / jnp.maximum(counts.sum(), 1)


def flossing(
    step: Cell | Step, params: PyTree, state: PyTree, xs: PyTree, *, k: int, **options: Any
) -> jax.Array:
    """The mean of λ_i² over the k leading Lyapunov exponents along the trajectory of one sequence.

    Descend it before the training, to begin with k directions in which gradients live, or now and then during it; a
    task with a dependency in each of k directions asks for k of them. Exponents of few steps are noisy ones: let `xs`
    be longer than what is to be bridged.

    Args:
      step: a cell, or any `step(params, state, x) -> state`.
      params, state, xs: as in `spectrum.lyapunov`; one sequence, `jax.vmap` is the batch.
      k: how many exponents, in [1, S].
      options: of `spectrum.lyapunov`: `burn_in`, `align`, `every`, `key`.

    Returns:
      `()`. It is infinite, and has no gradient, if one of the k exponents is lost to rounding (−∞): take fewer, or
      float64.

    Raises:
      ValueError: as `spectrum.lyapunov`.

    >>> import optax
    >>> xs, optimiser = jnp.zeros((30, 2)), optax.sgd(0.1)
    >>> def floss(matrix):
    ...     return flossing(lambda p, s, x: p @ s + x, matrix, jnp.ones(2), xs, k=2)
    >>> @jax.jit
    ... def descend(matrix, _):
    ...     updates, _ = optimiser.update(jax.grad(floss)(matrix), optimiser.init(matrix))
    ...     return optax.apply_updates(matrix, updates), floss(matrix)
    >>> _, course = jax.lax.scan(descend, jnp.array([[0.2, -0.6], [0.3, 0.4]]), length=50)
    >>> bool(course[0] > 0.3) and bool(course[-1] < 1e-3)
    True
    """
    exponents = spectrum.lyapunov(step, params, state, xs, k=k, **options).values
    return (exponents**2).mean()


def _immediate(loss: Callable[[PyTree], jax.Array], states: PyTree) -> PyTree:
    """∂L/∂s_1 … ∂L/∂s_T."""
    value, pull = jax.vjp(loss, states)
    if jnp.shape(value) != ():
        raise ValueError(
            f"loss(states) is {checks.signature(value)}; expected one number: sum over time, sequences and outputs."
        )
    return pull(jnp.ones_like(value))[0]


def _largest(delta: PyTree) -> jax.Array:
    """max |δ| of each sequence, `(*B,)`, as a constant."""
    largest = [jnp.abs(leaf).max(-1) for leaf in jax.tree.leaves(delta)]
    return lax.stop_gradient(jnp.stack(largest).max(0))


def _times(scale: jax.Array, tree: PyTree) -> PyTree:
    """A factor for each sequence."""
    return jax.tree.map(lambda leaf: leaf * scale[..., None], tree)
