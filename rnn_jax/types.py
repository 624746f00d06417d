"""The words of this library: shapes, times, and what a step and a cell are.

Shapes

    T  time steps            B  batch, any number of axes      D  input features
    N  hidden units          G  gates                          K  outputs
    S  the flattened state: N for Elman and GRU, 2N for LSTM, the sum over its layers for a stack

Time comes first, then the batch axes, features last: `xs` is `(T, *B, D)`. A matrix entry `[i, j]` leads
from unit j to unit i, and a Jacobian entry `[i, j]` is ∂(output i)/∂(input j).

Times

    x_1 … x_T and h_1 … h_T; h_0 is the `state` argument. (Where only a step is known, h is the whole state. A cell
    tells its state s_t from what it emits: for an LSTM s = (h, c), and the `state` argument is s_0.)
    `xs[t - 1]` is x_t and `states[t - 1]` is h_t; so are cotangents, deltas and Jacobians indexed.
    J_t = ∂h_t/∂h_{t−1}, and ∂h_t/∂h_k = J_t J_{t−1} … J_{k+1}, the newest factor on the left.

A step is any pure function `step(params, state, x) -> state`. That is all that the algorithms need. A `Cell`
says more about itself, and that is what the hand-written gradients and the structured Jacobians use:

    u_t = W_x x_t + b            drive(params, x)        affine in x, no state in it
    r_t = R emit(s_{t−1}) + b_r  recur(params, h)        affine in h, the one product on the sequential path
    a_t = gates(u_t, r_t)                                elementwise over hidden units, no parameters
    s_t = update(s_{t−1}, a_t)                           elementwise over hidden units, no parameters
    h_t = emit(s_t)                                      elementwise: what the recurrent weights, the readout
                                                         and the next layer see
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

PyTree = Any
"""A tree of arrays: parameters, a state, inputs."""


class Step(Protocol):
    """One time step of a recurrence, a pure function: h_t from h_{t−1} and x_t.

    The new state has the tree, the shapes and the dtypes of the old one.
    """

    def __call__(self, params: PyTree, state: PyTree, x: PyTree, /) -> PyTree:
        """h_t from θ, h_{t−1} and x_t."""


class Cell(NamedTuple):
    """A recurrent cell as data: pure functions of parameters, state and input.

    Every cell has the first four functions. A *structured* cell also has the parts that its step is composed
    of and their derivatives, written by hand. All functions take any batch axes before the last one; `drive`,
    `recur` and `emit` therefore also take a whole sequence at once, time being one more batch axis.

    Attributes:
      init: `(key, input_size, hidden_size, *, recurrent, kernel, bias, dtype) -> params`. `recurrent` and
        `kernel` are called gate by gate with the shapes (N, N) and (N, D), `bias` once with the whole bias.
      initial_state: `(params, batch_shape=()) -> state`, zeros.
      step: `(params, state, x) -> state`.
      emit: `state -> h`, `(*B, N)`.
      drive: `(params, x) -> u`.
      recur: `(params, h, *, transposed=None) -> r`; a loop may have Rᵀ at hand, `(N, N)` or `(N, G · N)`.
      recurrent: `params -> R`, the matrix of `recur`, `(N, N)` or `(G, N, N)`.
      gates: `(u, r) -> a`, a tree of arrays `(*B, N)`: what `update` and `pullback` need of u_t and r_t. The gates of a
        gated cell, the pre-activation of another: what a forward pass may keep for the way back.
      update: `(state, a) -> state`.
      pullback: `(s, a, s_new, ds_new) -> (ds, du, dr)`, the transposed derivative of `update` and `gates` together;
        du and dr are one and the same array where u and r enter by their sum.
      emit_pullback: `(s, dh) -> ds`, the transposed derivative of `emit`.
      drive_pullback: `(params, du) -> dx`, the transposed affine map.
      recur_pullback: `(params, dr) -> dh`, the same of `recur`.
      params_sums: `(params, x, h, du, dr) -> sums`, what both say of the parameters, summed over all batch axes: a tree
        that adds up over steps, in whatever layout is the fastest to sum.
      params_gradient: `(params, sums) -> dparams`, the gradient that such sums amount to.
      step_pullback: `(params, s, x, s_new, ds_new) -> (dparams, ds, dx)`, the transposed derivative of a whole
        step by hand, for a cell that does not fit the structure; `dparams` is summed over all batch axes.
      layers: the cells of a stack, bottom first; empty for a single cell.
    """

    init: Callable[..., PyTree]
    initial_state: Callable[..., PyTree]
    step: Callable[[PyTree, PyTree, PyTree], PyTree]
    emit: Callable[[PyTree], jax.Array]
    drive: Callable[[PyTree, jax.Array], jax.Array] | None = None
    recur: Callable[..., jax.Array] | None = None
    recurrent: Callable[[PyTree], jax.Array] | None = None
    gates: Callable[[jax.Array, jax.Array], PyTree] | None = None
    update: Callable[[PyTree, PyTree], PyTree] | None = None
    pullback: Callable[..., tuple[PyTree, jax.Array, jax.Array]] | None = None
    emit_pullback: Callable[[PyTree, jax.Array], PyTree] | None = None
    drive_pullback: Callable[[PyTree, jax.Array], jax.Array] | None = None
    recur_pullback: Callable[[PyTree, jax.Array], jax.Array] | None = None
    params_sums: Callable[..., PyTree] | None = None
    params_gradient: Callable[[PyTree, PyTree], PyTree] | None = None
    step_pullback: Callable[..., tuple[PyTree, PyTree, jax.Array]] | None = None
    layers: tuple["Cell", ...] = ()


def as_step(cell_or_step: Cell | Step) -> Step:
    """The step of a cell; a bare step is returned as it is.

    >>> def decay(params, state, x):
    ...     return params * state + x
    >>> as_step(decay) is decay
    True
    """
    if not callable(cell_or_step) and not isinstance(cell_or_step, Cell):
        raise ValueError(f"expected a cell or a step(params, state, x) -> state; got {cell_or_step!r}.")
    return cell_or_step.step if isinstance(cell_or_step, Cell) else cell_or_step


def layers_of(cell: Cell | Step) -> tuple[Cell, ...]:
    """The layers of a stack, bottom first; none for a single cell or a bare step.

    >>> from rnn_jax import cells
    >>> len(layers_of(cells.stack(cells.gru(), cells.lstm()))), layers_of(cells.gru())
    (2, ())
    """
    return cell.layers if isinstance(cell, Cell) else ()


def is_structured(cell: Cell | Step) -> bool:
    """Whether a cell has the parts that its step is composed of, and their derivatives by hand.

    >>> from rnn_jax import cells
    >>> is_structured(cells.gru()), is_structured(cells.gru_reset_before())
    (True, False)
    """
    return isinstance(cell, Cell) and cell.pullback is not None


def accumulator(dtype: DTypeLike) -> jnp.dtype:
    """A dtype in which many terms add up: half precision would lose those after the first few hundred.

    >>> accumulator(jnp.bfloat16), accumulator(jnp.float64)
    (dtype('float32'), dtype('float64'))
    """
    return jnp.promote_types(dtype, jnp.float32)


def pull_emit(cell: Cell, state: PyTree, dh: jax.Array) -> PyTree:
    """∂L/∂s from ∂L/∂h for h = emit(s): the cell's derivative by hand, or `jax.vjp` of `emit` if it has none.

    >>> from rnn_jax import cells
    >>> pull_emit(cells.lstm(), cells.LSTMState(h=jnp.ones(1), c=jnp.ones(1)), jnp.array([3.0]))
    LSTMState(h=Array([3.], dtype=float32), c=Array([0.], dtype=float32))
    """
    if cell.emit_pullback is not None:
        return cell.emit_pullback(state, dh)
    return jax.vjp(cell.emit, state)[1](dh)[0]
