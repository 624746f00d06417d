"""Backpropagation through time, by hand.

The states of the forward pass are kept; then, from t = T down to 1, with J_t = ∂s_t/∂s_{t−1},

    δ_t     = ∂L/∂s_t (immediate) + J_{t+1}ᵀ δ_{t+1}          the total derivative dL/ds_t; the sum ends with δ_0
    ∂L/∂θ   = Σ_t (∂s_t/∂θ)ᵀ δ_t                              immediate ∂s_t/∂θ: s_{t−1} held fixed
    ∂L/∂x_t = (∂s_t/∂x_t)ᵀ δ_t

For a structured cell (see `rnn_jax.types`) J_tᵀ δ_t is composed of the cell's hand-written `pullback` and the
transposed recurrent product, and every parameter gradient is one product over a chunk of time, outside of the loop
over steps (`rnn_jax.sweeps`). A bare step goes through `jax.vjp` of the step.

`bptt` returns everything; `unroll` and `final_state` are the functions of the same names in `rnn_jax.unroll`
with this backward pass as their derivative, for `jax.grad` of a loss of your own. What the forward pass keeps for it is
their option `store`:

    "gates"         states, and what the way back reads of the gates: the fastest
    "states"        states alone; the gates are formed again, for a whole chunk at once
    "checkpoints"   every √T-th state; the rest is run again. `unroll`, `bptt` and `loss_gradients` have all states in
                    hand, so there it saves little; `final_state` then holds about √T steps: 1000 of a sequence of 10⁶
    None            "gates" while both take up to 1 GiB, else "states": chosen from shapes alone

How a sequence is cut, and how many steps a turn of a loop takes, is chosen for the device that programs run on by
default when they are traced, a CPU or an accelerator (`jax.default_backend()`). Elsewhere only the speed differs.

Having a custom VJP they have no forward mode: for `jvp`, `jacfwd` or `linearize` use `rnn_jax.unroll`. Second
derivatives are those of the plain unrolling. Write batches in the batch axes: under `vmap` with shared parameters a
weight gradient is formed for each example before they are summed, and `store` is chosen by the size of one. What is
differentiated, once or twice, must come in through params, state or xs: a step must not close over it.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero

from rnn_jax import checks, losses, readout, sweeps
from rnn_jax import unroll as unrolling
from rnn_jax.types import Cell, PyTree, Step, pull_emit


class Gradients(NamedTuple):
    """Derivatives of L, each with the tree of what it is the gradient of.

    Attributes:
      params: ∂L/∂θ.
      state: ∂L/∂s_0 = δ_0.
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
    store: str | None = None,
) -> Gradients:
    """Gradients of L by backpropagation through time, from ∂L/∂s_t of every step.

    Args:
      cell: a cell, by the derivatives that it has by hand, or any `step(params, state, x) -> state`, through `jax.vjp`.
      params: θ.
      state: s_0, leaves `(*B, N)`; h_0 for a cell whose state is h.
      xs: `(T, *B, D)`.
      cotangents: the immediate ∂L/∂s_1 … ∂L/∂s_T, the tree of the states, leaves `(T, *B, N)`. For a loss on
        h_t use `cell.emit_pullback(states, dL_dh)`; for a loss of the last step, zeros but in the last entry.
      lengths, reverse: as in `rnn_jax.unroll.unroll`.
      store: what the forward pass keeps, see above.

    Returns:
      `Gradients` for params, s_0 and xs, and all δ_t.

    Raises:
      ValueError: as `unroll.unroll`; a `store` that there is not; a state of integers; cotangents that do not have the
        tree and shapes of the states.

    >>> from rnn_jax import cells
    >>> cell = cells.elman(cells.identity)
    >>> params = cells.ElmanParams(w_hh=jnp.array([[0.5]]), w_xh=jnp.array([[1.0]]), b_h=jnp.zeros(1))
    >>> xs, last = jnp.ones((4, 1)), jnp.zeros((4, 1)).at[-1].set(1.0)
    >>> jax.jit(bptt, static_argnums=0)(cell, params, jnp.zeros(1), xs, last).deltas.T  # 0.5 to the power of the lag
    Array([[0.125, 0.25 , 0.5  , 1.   ]], dtype=float32)
    """
    params, state, xs, lengths = unrolling.arguments(params, state, xs, lengths)
    plan = sweeps.plan(cell, store, reverse, params, state, xs)
    states, kept = sweeps.forward(plan, params, state, xs, lengths)
    cotangents = checks.cotangents(cotangents, states)
    return _gradients(plan, params, state, xs, lengths, kept, cotangents)


def _gradients(plan, params, state, xs, lengths, kept, cotangents) -> Gradients:
    swept = sweeps.backward(plan, params, state, xs, lengths, kept, cotangents, None)
    deltas = jax.tree.map(jnp.add, swept.carried, cotangents)
    return Gradients(swept.params, swept.state, swept.xs, deltas)


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
    store: str | None = None,
) -> LossGradients:
    """The gradient of a network with a readout, from end to end by the chain rule: L = Σ_t w_t L_t(ŷ_t, y_t).

        o_t = W_hy h_t + b_y  →  ∂L/∂o_t = w_t (ŷ_t − y_t)  →  ∂L/∂W_hy, ∂L/∂b_y, ∂L/∂h_t  →  `bptt`

    Args:
      cell: a cell.
      params, state, xs, lengths, store: as in `bptt`.
      readout_params: W_hy and b_y.
      targets: labels `(T, *B)` for cross-entropy, `(T, *B, K)` for squared error.
      loss: `losses.CROSS_ENTROPY` (softmax outputs) or `losses.SQUARED_ERROR` (linear outputs), or your own.
      weights: w_t, `(T, *B)`; 1 if not given, and 0 over the padding in any case. `losses.last_step(T, lengths)`
        scores the last step only.

    Raises:
      ValueError: as `bptt`; a bare step, which does not say what it emits; weights, targets or readout of
        another shape or dtype.

    >>> from rnn_jax import cells
    >>> params = cells.ElmanParams(w_hh=0.5 * jnp.eye(8), w_xh=jnp.ones((8, 3)), b_h=jnp.zeros(8))
    >>> out = readout.Readout(w_hy=jnp.ones((2, 8)), b_y=jnp.zeros(2))
    >>> h_0, xs, labels = jnp.zeros((5, 8)), jnp.ones((7, 5, 3)), jnp.zeros((7, 5), int)
    >>> g = jax.jit(loss_gradients, static_argnums=0)(cells.elman(), params, out, h_0, xs, labels)
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
    plan = sweeps.plan(cell, store, False, params, state, xs)
    states, kept = sweeps.forward(plan, params, state, xs, lengths)
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
    gradients = _gradients(plan, params, state, xs, lengths, kept, cotangents)
    return LossGradients(loss=losses.total(per_step, weights), readout=d_readout, **gradients._asdict())


def unroll(
    cell: Cell | Step,
    params: PyTree,
    state: PyTree,
    xs: PyTree,
    *,
    lengths: Any = None,
    reverse: bool = False,
    store: str | None = None,
) -> PyTree:
    """The states h_1 … h_T, with the hand-written backward pass as the VJP.

    Arguments, result and errors as for `rnn_jax.unroll.unroll`, with `store` as above; reverse mode only.

    >>> from rnn_jax import cells
    >>> cell = cells.elman(cells.identity)
    >>> params = cells.ElmanParams(w_hh=jnp.array([[0.5]]), w_xh=jnp.array([[1.0]]), b_h=jnp.zeros(1))
    >>> loss = lambda h_0: unroll(cell, params, h_0, jnp.ones((4, 1))).sum()
    >>> jax.jit(jax.grad(loss))(jnp.zeros(1))  # 0.5 + 0.5² + 0.5³ + 0.5⁴
    Array([0.9375], dtype=float32)
    """
    params, state, xs, lengths = unrolling.arguments(params, state, xs, lengths)
    return _unroll(sweeps.plan(cell, store, reverse, params, state, xs), params, state, xs, lengths)


def final_state(
    cell: Cell | Step,
    params: PyTree,
    state: PyTree,
    xs: PyTree,
    *,
    lengths: Any = None,
    reverse: bool = False,
    store: str | None = None,
) -> PyTree:
    """h_T alone, with the hand-written backward pass as the VJP.

    It starts from ∂L/∂h_T; no (T, B, N) array of cotangents that are zero is made.

    Arguments, result and errors as for `rnn_jax.unroll.final_state`, with `store` as above; reverse mode only.

    >>> from rnn_jax import cells
    >>> cell = cells.elman(cells.identity)
    >>> params = cells.ElmanParams(w_hh=jnp.array([[0.5]]), w_xh=jnp.array([[1.0]]), b_h=jnp.zeros(1))
    >>> loss = lambda h_0: final_state(cell, params, h_0, jnp.ones((4, 1))).sum()
    >>> jax.jit(jax.grad(loss))(jnp.zeros(1))  # 0.5⁴
    Array([0.0625], dtype=float32)
    """
    params, state, xs, lengths = unrolling.arguments(params, state, xs, lengths)
    return _final_state(sweeps.plan(cell, store, reverse, params, state, xs), params, state, xs, lengths)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _unroll(plan, params, state, xs, lengths):
    without_gates = plan._replace(store="states")  # there is no way back that would read them
    return sweeps.forward(without_gates, params, state, xs, lengths)[0]


def _unroll_forward(plan, params, state, xs, lengths):
    params, state, xs, lengths = _primals(params, state, xs, lengths)
    states, kept = sweeps.forward(plan, params, state, xs, lengths)
    return states, (params, state, xs, lengths, kept)


def _unroll_backward(plan, residuals, cotangents):
    cotangents = jax.tree.map(_none_for_zeros, cotangents, is_leaf=_is_symbolic)
    return _pull(plan, residuals, cotangents, None)


_unroll.defvjp(_unroll_forward, _unroll_backward, symbolic_zeros=True)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _final_state(plan, params, state, xs, lengths):
    return unrolling.final_state(plan.cell, params, state, xs, lengths=lengths, reverse=plan.reverse)


def _final_state_forward(plan, params, state, xs, lengths):
    params, state, xs, lengths = _primals(params, state, xs, lengths)
    last, kept = sweeps.forward_final(plan, params, state, xs, lengths)
    return last, (params, state, xs, lengths, kept)


def _final_state_backward(plan, residuals, cotangent):
    cotangent = jax.tree.map(_zeros_for_zeros, cotangent, is_leaf=_is_symbolic)
    return _pull(plan, residuals, None, cotangent)


_final_state.defvjp(_final_state_forward, _final_state_backward, symbolic_zeros=True)


def _primals(*arguments):
    """The values of arguments of a custom VJP."""
    is_primal = lambda leaf: isinstance(leaf, CustomVJPPrimal)
    return jax.tree.map(lambda leaf: leaf.value, arguments, is_leaf=is_primal)


def _pull(plan, residuals, cotangents, final_cotangent):
    """The backward pass, for the arguments of the custom VJPs; lengths have no derivative."""
    params, state, xs, lengths, kept = residuals
    swept = sweeps.backward(plan, params, state, xs, lengths, kept, cotangents, final_cotangent)
    return swept.params, swept.state, swept.xs, None


def _is_symbolic(leaf):
    return isinstance(leaf, SymbolicZero)


def _none_for_zeros(leaf):
    return None if _is_symbolic(leaf) else leaf


def _zeros_for_zeros(leaf):
    return jnp.zeros(leaf.shape, leaf.dtype) if _is_symbolic(leaf) else leaf
