"""Gradients forward in time: what the state owes to the parameters is carried along with it, and nothing is kept.

Real-time recurrent learning (Williams and Zipser 1989). With J_t = ∂s_t/∂s_{t−1} and the immediate ∂s_t/∂θ,
s_{t−1} held fixed, the *influence* is the total derivative of the state:

    P_t = ds_t/dθ   = J_t P_{t−1} + ∂s_t/∂θ,      P_0 = 0
    Φ_t = ds_t/dh_0 = J_t Φ_{t−1},                Φ_0 = 1
    ∂L/∂θ = Σ_t (∂L_t/∂s_t) P_t,                  ∂L/∂h_0 = Σ_t (∂L_t/∂s_t) Φ_t

The gradients are those of BPTT, to rounding. The memory is that of one influence, S (P + S) numbers a sequence for S
state entries and P parameters, whatever T is; a step costs S² (P + S) multiplications. For small networks.

It is a sum over time that may be cut anywhere: with the influence handed on, the gradients of all windows add up to
those of the whole sequence, which those of truncated BPTT do not. Or go step by step, the loss not yet known:

>>> from rnn_jax import cells
>>> cell = cells.elman()
>>> params = cell.init(jax.random.key(0), 1, 3)
>>> state = cell.initial_state(params)
>>> carried = no_influence(cell, params, state)
>>> def learn(params, state, carried, x, target):
...     state, carried = rtrl_step(cell, params, state, x, carried)
...     gradient = contract(cell, carried, state - target).params  # of ½ ‖h_t − y_t‖²
...     return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient), state, carried
>>> for x in jnp.full((150, 1), 0.3):
...     params, state, carried = jax.jit(learn)(params, state, carried, x, jnp.full(3, 0.5))
>>> bool(abs(state - 0.5).max() < 0.01)
True

When θ changes on the way, as it does there, P_t is made of Jacobians at different θ, most of them old: the gradient is
off by the order of the learning rate. It is that of one θ again once the network has forgotten the older ones.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from rnn_jax import checks
from rnn_jax import unroll as unrolling
from rnn_jax.bptt import Gradients
from rnn_jax.types import Cell, PyTree, Step, accumulator, as_step

_MOST_BYTES = 4 * 2**30
"""The largest influence. Its successor and ∂s_t/∂θ stand beside it: 12 GiB, and seconds for the product with J_t."""


class Influence(NamedTuple):
    """How the state depends on what came before, S its flattened entries.

    Attributes:
      params: P_t = ds_t/dθ, the tree of the parameters, leaves `(*B, S, *shape of the parameter)`.
      state: Φ_t = ds_t/dh_0, the tree of the state, leaves `(*B, S, *shape in one sequence)`; h_0 is the state at which
        the influence began.
    """

    params: PyTree
    state: PyTree


class OnlineGradients(NamedTuple):
    """The fields of `bptt.Gradients`, None where a method forward in time gives nothing; and what goes on.

    Attributes:
      params: ∂L/∂θ.
      state: ∂L/∂h_0, h_0 being the state at which the influence began: the argument, if none was handed in.
      xs, deltas: None. δ_t and ∂L/∂x_t come from later losses.
      last: s_T, the state to go on from.
      influence: P_T and Φ_T, to hand on with it.
    """

    params: PyTree
    state: PyTree
    xs: None
    deltas: None
    last: PyTree
    influence: Influence


def rtrl(
    cell: Cell | Step,
    params: PyTree,
    state: PyTree,
    xs: PyTree,
    cotangents: PyTree,
    *,
    lengths: Any = None,
    influence: Influence | None = None,
) -> OnlineGradients:
    """Gradients of L by real-time recurrent learning, from ∂L/∂s_t of every step.

    Args:
      cell: a cell, or any `step(params, state, x) -> state`. The sequences of a cell's batch have an influence each;
        a bare step's state is taken as a whole.
      params: θ, floating point.
      state, xs, cotangents, lengths: as in `bptt.bptt`.
      influence: that of `state`, such as the last one of the window before; that of a new beginning if not given.

    Returns:
      `OnlineGradients`. Over windows that hand on `last` and `influence`, `params` and `state` add up to those of the
      whole sequence.

    Raises:
      ValueError: as `bptt.bptt`; parameters that are not floating point; an influence of other shapes, or larger than
        4 GiB.

    >>> from rnn_jax import cells
    >>> cell = cells.elman(cells.identity)
    >>> params = cells.ElmanParams(w_hh=jnp.array([[0.5]]), w_xh=jnp.array([[1.0]]), b_h=jnp.zeros(1))
    >>> xs, last = jnp.ones((4, 1)), jnp.zeros((4, 1)).at[-1].set(1.0)
    >>> gradients = jax.jit(rtrl, static_argnums=0)(cell, params, jnp.zeros(1), xs, last)
    >>> gradients.params.b_h, gradients.state  # 1 + 0.5 + 0.25 + 0.125, and 0.5 to the power of 4
    (Array([1.875], dtype=float32), Array([0.0625], dtype=float32))
    """
    params, state, xs, lengths = unrolling.arguments(params, state, xs, lengths)
    checks.unclipped("rtrl()", cell)
    states = jax.eval_shape(partial(unrolling.unroll, cell), params, state, xs)
    cotangents = checks.cotangents(cotangents, states)
    beginning = no_influence(cell, params, state)
    influence = beginning if influence is None else jax.tree.map(jnp.asarray, influence)
    remedy = "Hand on the influence that came with this state, or None to begin anew."
    checks.same_signature("influence", influence, "that of such a state", beginning, remedy)

    def step(carry, inputs):
        state, influence, sums = carry
        x, mask, cotangent = inputs
        state, influence = _advance(cell, params, state, x, mask, influence)
        share = contract(cell, influence, cotangent)
        return (state, influence, jax.tree.map(jnp.add, sums, share)), None

    like = Gradients(params, state, None, None)
    sums = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, accumulator(leaf.dtype)), like)
    inputs = (xs, _valid(cell, state, xs, lengths), cotangents)
    (last, influence, sums), _ = lax.scan(step, (state, influence, sums), inputs)
    gradients = jax.tree.map(lambda total, leaf: total.astype(leaf.dtype), sums, like)
    return OnlineGradients(gradients.params, gradients.state, None, None, last, influence)


def no_influence(cell: Cell | Step, params: PyTree, state: PyTree) -> Influence:
    """P_0 = 0 and Φ_0 = 1: where the influence begins. That of half precision is in single, as it adds up.

    Args:
      cell, params: as in `rtrl`.
      state: h_0, for its shapes.

    Raises:
      ValueError: parameters or a state that are not floating point; an influence larger than 4 GiB.

    >>> influence = no_influence(lambda p, s, x: p * s + x, jnp.ones(()), jnp.ones(2))
    >>> influence.params, influence.state
    (Array([0., 0.], dtype=float32), Array([[1., 0.],
           [0., 1.]], dtype=float32))
    """
    params, state = jax.tree.map(jnp.asarray, (params, state))
    _floating("params", params)
    _floating("the state", state)
    batch = _batch_shape(cell, state)
    one = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[len(batch) :], leaf.dtype), state)
    flat, unravel = ravel_pytree(one)
    entries = flat.size + sum(leaf.size for leaf in jax.tree.leaves(params))
    size = math.prod(batch) * flat.size * entries * flat.dtype.itemsize
    if size > _MOST_BYTES:
        raise ValueError(
            f"the influence of {entries} parameters and initial values on {flat.size} state entries takes "
            f"{size / 2**30:.1f} GiB for batch {batch}; at most {_MOST_BYTES / 2**30:.0f}. Real-time recurrent "
            "learning is for small networks: take bptt.bptt or truncated.windows, or a smaller batch."
        )

    def zeros(leaf):
        return jnp.zeros((*batch, flat.size, *leaf.shape), accumulator(jnp.result_type(flat, leaf)))

    def for_each_sequence(leaf):
        return jnp.broadcast_to(leaf, (*batch, *leaf.shape)).astype(accumulator(leaf.dtype))

    identity = jax.vmap(unravel)(jnp.eye(flat.size, dtype=flat.dtype))
    return Influence(jax.tree.map(zeros, params), jax.tree.map(for_each_sequence, identity))


def rtrl_step(
    cell: Cell | Step, params: PyTree, state: PyTree, x: PyTree, influence: Influence
) -> tuple[PyTree, Influence]:
    """s_t, P_t and Φ_t from s_{t−1}, P_{t−1} and Φ_{t−1}: one step, for a loss of your own after it.

    Args:
      cell, params: as in `rtrl`; θ may be another at every step.
      state: s_{t−1}.
      x: x_t, `(*B, D)`.
      influence: that of s_{t−1}; of h_0 `no_influence`.

    >>> step, state = lambda p, s, x: p * s + x, jnp.array([2.0])
    >>> influence = no_influence(step, jnp.array(0.5), state)
    >>> run = jax.jit(rtrl_step, static_argnums=0)
    >>> state, influence = run(step, jnp.array(0.5), state, jnp.ones(1), influence)
    >>> state, influence.params, influence.state
    (Array([2.], dtype=float32), Array([2.], dtype=float32), Array([[0.5]], dtype=float32))
    """
    params, state, x = jax.tree.map(jnp.asarray, (params, state, x))
    return _advance(cell, params, state, x, None, influence)


def contract(cell: Cell | Step, influence: Influence, cotangents: PyTree) -> Gradients:
    """(∂L_t/∂s_t) P_t, summed over the batch, and (∂L_t/∂s_t) Φ_t: what one loss says of θ and h_0.

    Args:
      cell: as in `rtrl`.
      influence: P_t and Φ_t.
      cotangents: ∂L_t/∂s_t, the tree of the state, leaves `(*B, N)`.

    Returns:
      `bptt.Gradients` with None for xs and deltas.

    >>> influence = Influence(params=jnp.array([2.0, 3.0]), state=jnp.eye(2))
    >>> contract(lambda p, s, x: p * s + x, influence, jnp.array([1.0, 10.0])).params
    Array(32., dtype=float32)
    """
    cotangents = jax.tree.map(jnp.asarray, cotangents)
    axes = len(_batch_shape(cell, cotangents))
    with jax.default_matmul_precision("highest"):
        flat = _per_sequence(axes, lambda tree: ravel_pytree(tree)[0], 0)(cotangents)
        # Over the batch and the state at once.
        d_params = jax.tree.map(lambda p: jnp.tensordot(flat, p, axes + 1), influence.params)
        product = lambda c, phi: jax.tree.map(lambda leaf: jnp.tensordot(c, leaf, 1), phi)
        return Gradients(d_params, _per_sequence(axes, product, 0)(flat, influence.state), None, None)


def _advance(cell, params, state, x, mask, influence) -> tuple[PyTree, Influence]:
    """One step of all sequences; where the mask is false, state and influence stay."""

    def one(params, state, x, mask, influence):
        flat, unravel = ravel_pytree(state)

        def flat_step(params, flat):
            body = unrolling.body_of(as_step(cell), params)
            return ravel_pytree(body(unravel(flat), (x, mask)))[0]

        new, pull = jax.vjp(flat_step, params, flat)
        immediate, jacobian = jax.vmap(pull)(jnp.eye(flat.size, dtype=flat.dtype))
        carried = jax.tree.map(lambda leaf: jnp.tensordot(jacobian, leaf, 1), influence)
        return unravel(new), carried._replace(params=jax.tree.map(jnp.add, carried.params, immediate))

    axes = len(_batch_shape(cell, state))
    with jax.default_matmul_precision("highest"):
        return _per_sequence(axes, one, (None, 0, 0, 0, 0))(params, state, x, mask, influence)


def _batch_shape(cell: Cell | Step, state: PyTree) -> tuple[int, ...]:
    """*B of a cell's state; of a bare step's nothing is known, and all of it counts as one sequence."""
    return jax.tree.leaves(state)[0].shape[:-1] if isinstance(cell, Cell) else ()


def _per_sequence(axes: int, function: Callable, in_axes: Any) -> Callable:
    """The function of one sequence for so many batch axes."""
    for _ in range(axes):
        function = jax.vmap(function, in_axes=in_axes)
    return function


def _valid(cell, state, xs, lengths):
    """Which steps are valid, for each sequence: `lengths` may have fewer axes than the batch."""
    if lengths is None:
        return None
    batch = _batch_shape(cell, state) or lengths.shape
    lengths = lengths.reshape(lengths.shape + (1,) * (len(batch) - lengths.ndim))
    return unrolling.valid(xs, jnp.broadcast_to(lengths, batch))


def _floating(name: str, tree: PyTree) -> None:
    for leaf in jax.tree.leaves(tree):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"{name} has a leaf of dtype {leaf.dtype}; an influence is that of floating-point parameters on a "
                "floating-point state. Hand counters, masks and keys in with xs."
            )
