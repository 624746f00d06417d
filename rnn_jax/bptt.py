"""Backpropagation through time, by hand.

The states of the forward pass are kept; then, from t = T down to 1, with J_t = ∂s_t/∂s_{t−1},

    δ_t     = ∂L/∂s_t (immediate) + J_{t+1}ᵀ δ_{t+1}          the total derivative dL/ds_t; the sum ends with δ_0
    ∂L/∂θ   = Σ_t (∂s_t/∂θ)ᵀ δ_t                              immediate ∂s_t/∂θ: s_{t−1} held fixed
    ∂L/∂x_t = (∂s_t/∂x_t)ᵀ δ_t

For a structured cell (see `rnn_jax.types`) J_tᵀ δ_t is composed of the cell's hand-written `pullback` and the
transposed recurrent product. What the pullback says of u_t = drive(θ, x_t) and r_t = recur(θ, h_{t−1}) is
collected, and every parameter gradient is formed after the loop, as one product over all of time:
the loop holds the sequential path and nothing else. A bare step goes through `jax.vjp` of the step.

A stack is backpropagated layer by layer, top to bottom: a layer's ∂L/∂x_t is a cotangent of the layer below.

`bptt` returns everything; `unroll` and `final_state` are the functions of the same names in `rnn_jax.unroll`
with this backward pass as their derivative, for `jax.grad` of a loss of your own. Having a custom VJP they have
no forward mode: for `jvp`, `jacfwd` or `linearize` use `rnn_jax.unroll`. Write batches in the batch axes:
under `vmap` with shared parameters a weight gradient is formed for each example before they are summed.
What is differentiated must come in through params, state or xs: a step must not close over it.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax import checks, losses, readout
from rnn_jax import unroll as unrolling
from rnn_jax.types import Cell, PyTree, Step, as_step, pull_emit


class Gradients(NamedTuple):
    """Derivatives of L, each with the tree of what it is the gradient of.

    Attributes:
      params: ∂L/∂θ.
      state: ∂L/∂h_0 = δ_0.
      xs: ∂L/∂x_1 … ∂L/∂x_T.
      deltas: δ_1 … δ_T, the total dL/ds_t; `deltas[t - 1]` is δ_t. In a stack s_t is the joint state: what a
        layer passes to the layer above within step t counts for the upper layer's component, so that
        δ_{t−1} = J_tᵀ δ_t + ∂L/∂s_{t−1} holds with the Jacobian of the joint state.
    """

    params: PyTree
    state: PyTree
    xs: PyTree
    deltas: PyTree


def bptt(
    cell: Cell | Step,
    params: PyTree,
    state: PyTree,
    xs: PyTree,
    cotangents: PyTree,
    *,
    lengths: Any = None,
    reverse: bool = False,
) -> Gradients:
    """Gradients of L by backpropagation through time, from ∂L/∂s_t of every step.

    Args:
      cell: a cell (hand-written derivatives) or any `step(params, state, x) -> state` (through `jax.vjp`).
      params: θ.
      state: h_0, leaves `(*B, N)`.
      xs: `(T, *B, D)`.
      cotangents: the immediate ∂L/∂s_1 … ∂L/∂s_T, the tree of the states, leaves `(T, *B, N)`. For a loss on
        h_t use `cell.emit_pullback(states, dL_dh)`; for a loss of the last step, zeros but in the last entry.
      lengths, reverse: as in `rnn_jax.unroll.unroll`.

    Returns:
      `Gradients` for params, h_0 and xs, and all δ_t.

    Raises:
      ValueError: as `unroll.unroll`, or if the cotangents do not have the tree and shapes of the states.

    >>> from rnn_jax import cells
    >>> cell = cells.elman(cells.identity)
    >>> params = cells.ElmanParams(w_hh=jnp.array([[0.5]]), w_xh=jnp.array([[1.0]]), b_h=jnp.zeros(1))
    >>> xs, last = jnp.ones((4, 1)), jnp.zeros((4, 1)).at[-1].set(1.0)
    >>> bptt(cell, params, jnp.zeros(1), xs, last).deltas.T  # 0.5 to the power of the lag
    Array([[0.125, 0.25 , 0.5  , 1.   ]], dtype=float32)
    """
    params, state, xs, lengths = unrolling.arguments(params, state, xs, lengths)
    states = _layered_unroll(cell, reverse, params, state, xs, lengths)
    cotangents = jax.tree.map(jnp.asarray, cotangents)
    remedy = "From a gradient for h_t make them with cell.emit_pullback(states, dL_dh)."
    checks.same_signature("cotangents", cotangents, "the states", states, remedy)
    checks.finite("cotangents", cotangents)
    return _backward(cell, reverse, params, state, xs, lengths, states, cotangents)


class LossGradients(NamedTuple):
    """A loss and its derivatives for a network with a readout.

    Attributes:
      loss: L = Σ_t w_t L_t.
      params: ∂L/∂θ of the recurrent cell.
      readout: ∂L/∂W_hy and ∂L/∂b_y.
      state, xs, deltas: as in `Gradients`.
    """

    loss: jax.Array
    params: PyTree
    readout: readout.Readout
    state: PyTree
    xs: PyTree
    deltas: PyTree


def loss_gradients(
    cell: Cell,
    params: PyTree,
    readout_params: readout.Readout,
    state: PyTree,
    xs: PyTree,
    targets: jax.Array,
    *,
    loss: losses.Loss = losses.CROSS_ENTROPY,
    weights: jax.Array | None = None,
    lengths: Any = None,
) -> LossGradients:
    """The note's gradient from end to end, without automatic differentiation: L = Σ_t w_t L_t(ŷ_t, y_t).

        o_t = W_hy h_t + b_y  →  ∂L/∂o_t = w_t (ŷ_t − y_t)  →  ∂L/∂W_hy, ∂L/∂b_y, ∂L/∂h_t  →  `bptt`

    Args:
      cell: a cell.
      params, state, xs, lengths: as in `bptt`.
      readout_params: W_hy and b_y.
      targets: labels `(T, *B)` for cross-entropy, `(T, *B, K)` for squared error.
      loss: `losses.CROSS_ENTROPY` (softmax outputs) or `losses.SQUARED_ERROR` (linear outputs), or your own.
      weights: w_t, `(T, *B)`; 1 if not given, and 0 over the padding in any case. `losses.last_step(T, lengths)`
        scores the last step only.

    Raises:
      ValueError: as `bptt`; a bare step, which does not say what it emits; weights, targets or readout of
        another shape or dtype.

    >>> from rnn_jax import cells
    >>> cell = cells.gru()
    >>> params = cell.init(jax.random.key(0), 3, 8)
    >>> out = readout.init(jax.random.key(1), 8, 2)
    >>> h_0 = cell.initial_state(params, (5,))
    >>> g = loss_gradients(cell, params, out, h_0, jnp.ones((7, 5, 3)), jnp.zeros((7, 5), int))
    >>> g.readout.w_hy.shape, g.deltas.shape
    ((2, 8), (7, 5, 8))
    """
    if not isinstance(cell, Cell):
        raise ValueError(
            f"loss_gradients() needs a cell, whose emit() the readout reads; got a {type(cell).__name__}. For a bare "
            "step call losses and readout.pullback on its states, and bptt() with the resulting cotangents."
        )
    params, state, xs, lengths = unrolling.arguments(params, state, xs, lengths)
    checks.finite("readout_params", readout_params)
    states = _layered_unroll(cell, False, params, state, xs, lengths)
    h = cell.emit(states)
    outputs = readout.linear(readout_params, h)
    per_step = loss.per_step(outputs, targets)
    weights = jnp.ones_like(per_step) if weights is None else jnp.asarray(weights).astype(per_step.dtype)
    if weights.shape != per_step.shape:
        raise ValueError(
            f"weights has shape {weights.shape}; expected (T, *B) = {per_step.shape}, one a loss."
        )
    weights = unrolling.where_valid(unrolling.valid(xs, lengths), weights, jnp.zeros_like(weights))

    # A step that does not count may have a target that is not a number.
    do = jnp.where(weights[..., None] != 0, weights[..., None] * loss.derivative(outputs, targets), 0)
    d_readout, dh = readout.pullback(readout_params, h, do)
    cotangents = pull_emit(cell, states, dh)
    gradients = _backward(cell, False, params, state, xs, lengths, states, cotangents)
    return LossGradients(loss=losses.total(per_step, weights), readout=d_readout, **gradients._asdict())


def unroll(
    cell: Cell | Step,
    params: PyTree,
    state: PyTree,
    xs: PyTree,
    *,
    lengths: Any = None,
    reverse: bool = False,
) -> PyTree:
    """The states h_1 … h_T, with the hand-written backward pass as the VJP.

    Arguments, result and errors as for `rnn_jax.unroll.unroll`; reverse mode only.

    >>> from rnn_jax import cells
    >>> cell = cells.lstm()
    >>> params = cell.init(jax.random.key(0), 3, 8)
    >>> h_0, xs = cell.initial_state(params), jnp.ones((5, 3))
    >>> grads = jax.grad(lambda p: (unroll(cell, p, h_0, xs).h ** 2).sum())(params)
    >>> grads.w_hh.shape
    (4, 8, 8)
    """
    return _unroll(cell, reverse, *unrolling.arguments(params, state, xs, lengths))


def final_state(
    cell: Cell | Step,
    params: PyTree,
    state: PyTree,
    xs: PyTree,
    *,
    lengths: Any = None,
    reverse: bool = False,
) -> PyTree:
    """h_T alone, with the hand-written backward pass as the VJP.

    It starts from ∂L/∂h_T; no (T, B, N) array of cotangents that are zero is made.

    Arguments, result and errors as for `rnn_jax.unroll.final_state`; reverse mode only.

    >>> from rnn_jax import cells
    >>> cell = cells.elman()
    >>> params = cell.init(jax.random.key(0), 3, 8)
    >>> h_0, xs = cell.initial_state(params), jnp.ones((5, 3))
    >>> jax.grad(lambda h: final_state(cell, params, h, xs).sum())(h_0).shape
    (8,)
    """
    return _final_state(cell, reverse, *unrolling.arguments(params, state, xs, lengths))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _unroll(cell, reverse, params, state, xs, lengths):
    return _layered_unroll(cell, reverse, params, state, xs, lengths)


def _unroll_forward(cell, reverse, params, state, xs, lengths):
    states = _layered_unroll(cell, reverse, params, state, xs, lengths)
    return states, (params, state, xs, lengths, states)


def _unroll_backward(cell, reverse, residuals, cotangents):
    params, state, xs, lengths, states = residuals
    gradients = _backward(cell, reverse, params, state, xs, lengths, states, cotangents)
    return gradients.params, gradients.state, gradients.xs, None


_unroll.defvjp(_unroll_forward, _unroll_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _final_state(cell, reverse, params, state, xs, lengths):
    return unrolling.final_state(cell, params, state, xs, lengths=lengths, reverse=reverse)


def _final_state_forward(cell, reverse, params, state, xs, lengths):
    states = _layered_unroll(cell, reverse, params, state, xs, lengths)
    return _last(states, reverse), (params, state, xs, lengths, states)


def _final_state_backward(cell, reverse, residuals, cotangent):
    params, state, xs, lengths, states = residuals
    gradients = _backward(cell, reverse, params, state, xs, lengths, states, None, cotangent)
    return gradients.params, gradients.state, gradients.xs, None


_final_state.defvjp(_final_state_forward, _final_state_backward)


def _layered_unroll(cell, reverse, params, state, xs, lengths):
    """The forward pass: a stack layer by layer, so that each layer's inputs are at hand for the way back."""
    if not (isinstance(cell, Cell) and cell.layers):
        return unrolling.unroll(cell, params, state, xs, lengths=lengths, reverse=reverse)
    checks.layers("params", params, len(cell.layers))
    checks.layers("state", state, len(cell.layers))
    states = []
    for layer, p, s in zip(cell.layers, params, state, strict=True):
        states.append(_layered_unroll(layer, reverse, p, s, xs, lengths))
        xs = layer.emit(states[-1])
    return tuple(states)


def _backward(
    cell, reverse, params, state, xs, lengths, states, cotangents, final_cotangent=None
) -> Gradients:
    """The backward pass from the states of the forward one.

    `cotangents` are those of every step, or None for zeros; `final_cotangent` is one more on the last state.
    """
    if final_cotangent is None:
        final_cotangent = jax.tree.map(jnp.zeros_like, state)
    sweep = _sweep_stack if isinstance(cell, Cell) and cell.layers else _sweep
    swept = sweep(cell, reverse, params, state, xs, lengths, states, cotangents, final_cotangent)
    return Gradients(swept.params, swept.state, swept.xs, deltas=_add(swept.carried, cotangents))


class _Swept(NamedTuple):
    """Gradients, and carried[t − 1] = J_{t+1}ᵀ δ_{t+1}: what reaches s_t from later steps."""

    params: PyTree
    state: PyTree
    xs: PyTree
    carried: PyTree


def _sweep(cell, reverse, params, state, xs, lengths, states, cotangents, final_cotangent) -> _Swept:
    """δ_t = ∂L/∂s_t + J_{t+1}ᵀ δ_{t+1} for one cell or step, then the products over all of time."""
    previous = unrolling.previous_states(state, states, reverse=reverse)
    valid = unrolling.valid(xs, lengths)
    xs = unrolling.where_valid(valid, xs, jax.tree.map(jnp.zeros_like, xs))
    for leaf in jax.tree.leaves(state):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise ValueError(
                f"the state has a leaf of dtype {leaf.dtype}; backpropagation by hand takes floating-point states. "
                "Hand counters and keys in with xs, or use jax.grad of rnn_jax.unroll.unroll."
            )
    local = _local_derivatives(cell, params, previous, xs, states)

    def body(carried, inputs):
        cotangent, mask, residual = inputs
        delta = _add(carried, cotangent)
        # Past the end of a sequence the state was copied: δ passes unchanged, and nothing reaches θ and x_t.
        reaching = unrolling.where_valid(mask, delta, jax.tree.map(jnp.zeros_like, delta))
        passed, collected = local.pullback(residual, reaching)
        return unrolling.where_valid(mask, passed, delta), (carried, collected)

    inputs = (cotangents, valid, local.residuals)
    # The scan runs against the direction of the recurrence.
    d_state, (carried, collected) = lax.scan(body, final_cotangent, inputs, reverse=not reverse)
    d_params, d_xs = local.finish(collected)
    return _Swept(d_params, d_state, d_xs, carried)


def _sweep_stack(cell, reverse, params, state, xs, lengths, states, cotangents, final_cotangent) -> _Swept:
    """Layers from the top down; each layer's ∂L/∂x_t joins the cotangents of the layer below."""
    swept: list[_Swept] = []
    from_above = None
    for level in reversed(range(len(cell.layers))):
        layer = cell.layers[level]
        below = cell.layers[level - 1] if level else None
        sweep = _sweep_stack if layer.layers else _sweep
        gradients = sweep(
            layer,
            reverse,
            params[level],
            state[level],
            xs if below is None else below.emit(states[level - 1]),
            lengths,
            states[level],
            _add(from_above, None if cotangents is None else cotangents[level]),
            final_cotangent[level],
        )
        swept.insert(0, gradients)
        if below is not None:
            from_above = pull_emit(below, states[level - 1], gradients.xs)
    layers = _Swept(*zip(*swept, strict=True))
    return layers._replace(xs=swept[0].xs)


class _Local(NamedTuple):
    """One step's transposed derivatives, along time.

    Attributes:
      residuals: what the pullback needs of each step, leaves with a leading time axis.
      pullback: `(residual, δ_t) -> (J_tᵀ δ_t, collected)`, inside the loop.
      finish: `collected` of all steps `-> (∂L/∂θ, ∂L/∂x_1…T)`, after the loop.
    """

    residuals: PyTree
    pullback: Any
    finish: Any


def _local_derivatives(
    cell: Cell | Step, params: PyTree, previous: PyTree, xs: PyTree, states: PyTree
) -> _Local:
    if isinstance(cell, Cell) and cell.pullback is not None:
        return _structured_derivatives(cell, params, previous, xs, states)
    if isinstance(cell, Cell) and cell.step_pullback is not None:
        return _whole_step_derivatives(cell, params, previous, xs, states)
    return _autodiff_derivatives(as_step(cell), params, previous, xs)


def _structured_derivatives(cell, params, previous, xs, states) -> _Local:
    """J_tᵀ δ = ∂update/∂sᵀ δ + ∂emit/∂sᵀ Rᵀ ∂update/∂rᵀ δ, the elementwise derivatives by hand.

    drive and recur are affine: their VJPs transpose a product, and differentiate nothing.
    """
    h_previous = cell.emit(previous)

    def pullback(residual, delta):
        s_previous, u, r, s = residual
        ds, du, dr = cell.pullback(s_previous, u, r, s, delta)
        (dh,) = jax.vjp(partial(cell.recur, params), cell.emit(s_previous))[1](dr)
        return _add(ds, pull_emit(cell, s_previous, dh)), (du, dr)

    def finish(collected):
        du, dr = collected
        d_params_drive, d_xs = jax.vjp(cell.drive, params, xs)[1](du)
        (d_params_recur,) = jax.vjp(lambda p: cell.recur(p, h_previous), params)[1](dr)
        return _add(d_params_drive, d_params_recur), d_xs

    # u_t and r_t are formed again for all of time, in two products, rather than kept by the forward pass.
    residuals = (previous, cell.drive(params, xs), cell.recur(params, h_previous), states)
    return _Local(residuals, pullback, finish)


def _whole_step_derivatives(cell, params, previous, xs, states) -> _Local:
    """The cell's derivative of the whole step: inside the loop for the state, once after it for θ and x."""

    def pullback(residual, delta):
        _, ds, _ = cell.step_pullback(params, *residual, delta)
        return ds, delta

    def finish(deltas):
        d_params, _, d_xs = cell.step_pullback(params, previous, xs, states, deltas)
        return d_params, d_xs

    return _Local((previous, xs, states), pullback, finish)


def _autodiff_derivatives(step, params, previous, xs) -> _Local:
    """`jax.vjp` of a step that says nothing about itself; only the recursion is by hand."""

    def pullback(residual, delta):
        s_previous, x = residual
        (ds,) = jax.vjp(lambda s: step(params, s, x), s_previous)[1](delta)
        return ds, delta

    def finish(deltas):
        def all_steps(params, xs):
            return jax.vmap(step, in_axes=(None, 0, 0))(params, previous, xs)

        return jax.vjp(all_steps, params, xs)[1](deltas)

    return _Local((previous, xs), pullback, finish)


def _add(a: PyTree, b: PyTree) -> PyTree:
    """The sum of two trees, None standing for zeros."""
    if a is None or b is None:
        return b if a is None else a
    return jax.tree.map(jnp.add, a, b)


def _last(states: PyTree, reverse: bool) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[0 if reverse else -1], states)
