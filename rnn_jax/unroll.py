"""A step along a sequence: h_t = step(θ, h_{t−1}, x_t) for t = 1 … T, the same θ at every t.

`unroll` is a `lax.scan` and `unroll_loop` its twin, a Python loop. Both differentiate in either mode by JAX's
own rules; `rnn_jax.bptt.unroll` gives the same states with the hand-written backward pass.

With `lengths`, a sequence is over after its own number of steps: from there on the state is frozen and
receives no input. `states[t - 1]` for t > length is therefore h_length, and h_0 if the length is 0.
With `reverse`, the recurrence runs from t = T (from t = length) down to 1: `states[t - 1]` is the state that has
read x_T … x_t. Outputs stay aligned with their inputs, and over the padding the state is the initial one.

Values are checked here (finite, lengths in range) where arrays are concrete; jit around the call skips that.
Call these under `jax.jit`: outside of it every call traces and compiles its scan anew.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax import checks, losses
from rnn_jax.types import Cell, PyTree, Step, as_step


def unroll(
    step: Cell | Step,
    params: PyTree,
    state: PyTree,
    xs: PyTree,
    *,
    lengths: Any = None,
    reverse: bool = False,
) -> PyTree:
    """The states h_1 … h_T.

    Args:
      step: a cell, or any pure `step(params, state, x) -> state`.
      params: θ, shared by all steps.
      state: h_0, leaves `(*B, …)`.
      xs: x_1 … x_T, leaves `(T, *B, …)`, T ≥ 1.
      lengths: number of valid steps of each sequence, integers `(*B,)` in [0, T]; all T if not given.
      reverse: run from the last step to the first.

    Returns:
      The tree of the state with a leading time axis: `states[t - 1]` is h_t.

    Raises:
      ValueError: no time step; lengths or sizes that do not fit; a step that changes the state's shape or
        dtype; NaN or infinity in concrete parameters, state or inputs.

    >>> def count(params, state, x):
    ...     return state + params * x
    >>> unroll(count, 1.0, jnp.zeros(2), jnp.ones((3, 2)), lengths=jnp.array([1, 3]))
    Array([[1., 1.],
           [1., 2.],
           [1., 3.]], dtype=float32)
    """
    params, state, xs, lengths = arguments(params, state, xs, lengths)
    body = body_of(as_step(step), params)
    _, states = lax.scan(
        lambda carry, inputs: (new := body(carry, inputs), new),
        state,
        (xs, valid(xs, lengths)),
        reverse=reverse,
    )
    return states


def unroll_loop(
    step: Cell | Step,
    params: PyTree,
    state: PyTree,
    xs: PyTree,
    *,
    lengths: Any = None,
    reverse: bool = False,
) -> PyTree:
    """The plain twin of `unroll`: a Python loop over time, for reading and for checking.

    >>> unroll_loop(lambda params, state, x: state + x, None, jnp.zeros(1), jnp.ones((3, 1))).T
    Array([[1., 2., 3.]], dtype=float32)
    """
    params, state, xs, lengths = arguments(params, state, xs, lengths)
    body = body_of(as_step(step), params)
    inputs = (xs, valid(xs, lengths))
    steps = checks.sequence_length(xs)
    states: list = [None] * steps
    for t in reversed(range(steps)) if reverse else range(steps):
        states[t] = state = body(state, jax.tree.map(lambda leaf, t=t: leaf[t], inputs))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def final_state(
    step: Cell | Step,
    params: PyTree,
    state: PyTree,
    xs: PyTree,
    *,
    lengths: Any = None,
    reverse: bool = False,
) -> PyTree:
    """h_T alone (h_length with `lengths`; the state after x_1 with `reverse`); the others are not kept.

    Arguments and errors as for `unroll`.

    >>> final_state(lambda params, state, x: state + x, None, jnp.zeros(1), jnp.ones((3, 1)))
    Array([3.], dtype=float32)
    """
    params, state, xs, lengths = arguments(params, state, xs, lengths)
    body = body_of(as_step(step), params)
    inputs = (xs, valid(xs, lengths))
    return lax.scan(lambda carry, inputs: (body(carry, inputs), None), state, inputs, reverse=reverse)[0]


class Bidirectional(NamedTuple):
    """States of two recurrences over one sequence, each aligned with its inputs.

    Attributes:
      forward: `forward[t - 1]` has read x_1 … x_t.
      backward: `backward[t - 1]` has read x_T … x_t.
    """

    forward: PyTree
    backward: PyTree


def bidirectional(
    step: Cell | Step,
    params: tuple,
    state: tuple,
    xs: PyTree,
    *,
    lengths: Any = None,
    unroll: Callable = unroll,
) -> Bidirectional:
    """One recurrence forward in time and one backward (Schuster and Paliwal 1997).

    Args:
      step: a cell or a step, used in both directions.
      params: `(forward, backward)` parameters.
      state: `(forward, backward)` initial states; the second is where the backward recurrence starts.
      xs: `(T, *B, D)`.
      lengths: as in `unroll`.
      unroll: what unrolls each direction: this module's, or `bptt.unroll` for the hand-written gradients.

    >>> both = bidirectional(lambda p, s, x: s + x, (None, None), (jnp.zeros(1), jnp.zeros(1)), jnp.ones((3, 1)))
    >>> both.backward.T
    Array([[3., 2., 1.]], dtype=float32)
    """
    return Bidirectional(
        forward=unroll(step, params[0], state[0], xs, lengths=lengths),
        backward=unroll(step, params[1], state[1], xs, lengths=lengths, reverse=True),
    )


def with_initial(state: PyTree, states: PyTree, *, reverse: bool = False) -> PyTree:
    """h_0 … h_T, `(T + 1, …)`: entry t is h_t.

    With `reverse` the initial state comes last.

    >>> with_initial(jnp.zeros(1), jnp.array([[1.0], [2.0]])).T
    Array([[0., 1., 2.]], dtype=float32)
    """

    def join(first, rest):
        first = jnp.asarray(first)[None]
        return jnp.concatenate([rest, first] if reverse else [first, rest])

    return jax.tree.map(join, state, states)


def previous_states(state: PyTree, states: PyTree, *, reverse: bool = False) -> PyTree:
    """What each step started from: entry t − 1 is h_{t−1}, t = 1 … T.

    With `reverse` it is h_{t+1}.

    >>> previous_states(jnp.zeros(1), jnp.array([[1.0], [2.0]])).T
    Array([[0., 1.]], dtype=float32)
    """
    kept = jax.tree.map(lambda leaf: leaf[1:] if reverse else leaf[:-1], states)
    return with_initial(state, kept, reverse=reverse)


def arguments(params: PyTree, state: PyTree, xs: PyTree, lengths: Any) -> tuple[PyTree, PyTree, PyTree, Any]:
    """The arguments of an unrolling as checked arrays; shared by all that unroll."""
    params, state, xs = jax.tree.map(jnp.asarray, (params, state, xs))
    steps = checks.sequence_length(xs)
    for name, tree in (("params", params), ("state", state), ("xs", xs)):
        checks.finite(name, tree)
    if lengths is not None:
        lengths = checks.sequence_lengths(lengths, steps, state, xs)
    return params, state, xs, lengths


def valid(xs: PyTree, lengths: jax.Array | None) -> jax.Array | None:
    """Which steps are within each sequence, boolean `(T, *B)`; None stands for all of them."""
    if lengths is None:
        return None
    return losses.valid_steps(checks.sequence_length(xs), lengths)


def where_valid(mask: jax.Array | None, new: PyTree, old: PyTree) -> PyTree:
    """`new` where a step is valid, else `old`; `mask` has the leading axes of the leaves."""
    if mask is None:
        return new

    def select(new, old):
        return jnp.where(mask.reshape(mask.shape + (1,) * (new.ndim - mask.ndim)), new, old)

    return jax.tree.map(select, new, old)


_REMEDY = (
    "Common causes: inputs, state and parameters in different dtypes, or an initial state without the batch axes "
    "of the inputs."
)


def body_of(step: Step, params: PyTree) -> Callable[[PyTree, PyTree], PyTree]:
    """(h_{t−1}, (x_t, valid_t)) ↦ h_t, frozen where not valid: the body of every scan along a sequence.

    >>> body_of(lambda params, state, x: state + x, None)(jnp.zeros(2), (jnp.ones(2), jnp.array([True, False])))
    Array([1., 0.], dtype=float32)
    """

    def body(state, inputs):
        x, mask = inputs
        # Padding may hold anything under jit: with zeros in its place it cannot send NaN into a gradient, unless
        # the step itself has no finite derivative at x = 0.
        x = where_valid(mask, x, jax.tree.map(jnp.zeros_like, x))
        new = step(params, state, x)
        checks.same_signature(
            "the state that the step returns", new, "the state it was given", state, _REMEDY
        )
        return where_valid(mask, new, state)

    return body
