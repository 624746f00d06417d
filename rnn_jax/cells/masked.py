"""Dropout inside the recurrence, and zoneout: cells whose steps take a mask beside their input.

    recurrent dropout    r_t = R (m ∘ h_{t−1}) + b_r                        m_i = 0 with probability p, else 1/(1 − p)
    candidate dropout    c_t = f_t ∘ c_{t−1} + i_t ∘ (m_t ∘ g_t)            of an LSTM
                         h_t = z_t ∘ h_{t−1} + (1 − z_t) ∘ (m_t ∘ n_t)      of a GRU
    zoneout              s_t = m_t ∘ s_{t−1} + (1 − m_t) ∘ s̃_t              m_i = 1 with probability p, else 0

s̃_t is the state that the cell itself would go to. Recurrent dropout is that of Gal and Ghahramani (2016): one mask for
a whole sequence, in the recurrent product alone, so that what a gate keeps (h of a GRU, c of an LSTM) passes untouched.
Candidate dropout (Semeniuta, Severyn and Barth 2016) masks what is written and neither what is read nor what is kept;
the authors draw one mask for a sequence or one for each step. Zoneout (Krueger et al. 2017) draws anew at each step,
for h and c apart: where m_t is 1 a gradient passes untouched.

A step is a pure function, so masks are drawn outside, by a key, and travel with the inputs: `xs` is `(xs, masks)`. At
test time there is no dropout, so use the cell itself; and zoneout uses the mean p of its masks.

The wrapped cells are plain steps: backpropagation through time runs on `jax.vjp` of the step.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax import checks
from rnn_jax.cells.gru import gru
from rnn_jax.cells.lstm import lstm
from rnn_jax.types import Cell, PyTree, Step, as_step


def recurrent_dropout(cell: Cell) -> Cell:
    """The cell with inputs `(x, mask)`: its recurrent product sees mask ∘ h_{t−1}.

    Args:
      cell: Elman, leaky, GRU, LSTM, or a stack of these, whose mask is a tuple, one for each layer.

    Raises:
      ValueError: for a bare step, or a cell whose step is not made of parts (`gru_reset_before`); by the step, for a
        mask of another shape than h's.

    >>> from rnn_jax import cells, unroll
    >>> cell = cells.lstm()
    >>> params = cell.init(jax.random.key(0), 3, 8)
    >>> state, xs = cell.initial_state(params, (2,)), jnp.ones((5, 2, 3))
    >>> masks = dropout_masks(jax.random.key(1), cell.emit(state), 5, rate=0.25)
    >>> unroll.unroll(recurrent_dropout(cell), params, state, (xs, masks)).h.shape
    (5, 2, 8)
    """
    checks.unclipped("recurrent_dropout()", cell)
    if not isinstance(cell, Cell) or not (cell.layers or cell.gates):
        raise ValueError(
            f"recurrent_dropout() needs a cell made of drive, recur, gates and update, or a stack of such; got a "
            f"{type(cell).__name__} without. In a step of your own multiply h where the recurrent product reads it."
        )
    return _dropped(cell, recurrent_dropout, _gates_of_masked_state)


def candidate_dropout(cell: Cell) -> Cell:
    """The cell with inputs `(x, mask)`: what it would write, g_t of an LSTM or n_t of a GRU, is multiplied by the mask.

    Args:
      cell: GRU, LSTM, or a stack of these, whose mask is a tuple, one for each layer.

    Raises:
      ValueError: for another cell; by the step, for a mask of another shape than h's.

    >>> from rnn_jax import cells, unroll
    >>> cell = cells.gru()
    >>> params = cell.init(jax.random.key(0), 3, 8)
    >>> state, xs = cell.initial_state(params, (2,)), jnp.ones((5, 2, 3))
    >>> masks = dropout_masks(jax.random.key(1), state, 5, rate=0.25, each_step=True)
    >>> unroll.unroll(candidate_dropout(cell), params, state, (xs, masks)).shape
    (5, 2, 8)
    """
    checks.unclipped("candidate_dropout()", cell)
    known = isinstance(cell, Cell) and cell.gates is not None and cell.init in (lstm().init, gru().init)
    if not known and not (isinstance(cell, Cell) and cell.layers):
        raise ValueError(
            "candidate_dropout() needs cells.lstm(), cells.gru() or a stack of these, whose gates say how much is kept "
            f"and how much written; got another {type(cell).__name__}. In a step of your own multiply what it writes; "
            "zoneout goes around it: zoneout(candidate_dropout(cell))."
        )
    return _dropped(cell, candidate_dropout, _gates_with_masked_candidate)


@cache
def _dropped(cell: Cell, of_layer: Callable[[Cell], Cell], masked_gates: Callable[..., PyTree]) -> Cell:
    layers = tuple(map(of_layer, cell.layers))

    def step(params, state, inputs):
        x, mask = inputs
        jax.eval_shape(cell.step, params, state, x)  # for its checks
        h = cell.emit(state)
        checks.same_signature(
            "the mask", mask, "h", h, "Draw it with dropout_masks(key, cell.emit(state), …)."
        )
        return cell.update(state, masked_gates(cell, params, h, x, mask))  # type: ignore[misc]

    return _with_step(cell, _in_turn(layers) if layers else step)


def _gates_of_masked_state(cell, params, h, x, mask) -> PyTree:
    return cell.gates(cell.drive(params, x), cell.recur(params, mask * h))


def _gates_with_masked_candidate(cell, params, h, x, mask) -> PyTree:
    gates, tree = jax.tree.flatten(cell.gates(cell.drive(params, x), cell.recur(params, h)))
    gates[2] = mask * gates[2]  # the third both of i, f, g, o and of r, z, n
    return jax.tree.unflatten(tree, gates)


def dropout_masks(key: jax.Array, h: PyTree, steps: int, *, rate: float, each_step: bool = False) -> PyTree:
    """One mask for each sequence, or one for each of its steps: entries 0 with probability p, else 1/(1 − p).

    Args:
      key: a `jax.random.key`.
      h: `cell.emit(state)`, `(*B, N)`, for its shape and dtype; for a stack a tuple, what each layer emits.
      steps: T.
      rate: p, in [0, 1).
      each_step: a new mask at every step; otherwise it is the same at all of them.

    Returns:
      The tree of h, leaves `(T, *B, N)`.

    Raises:
      ValueError: for another rate.

    >>> masks = dropout_masks(jax.random.key(1), jnp.ones(400), 5, rate=0.5)
    >>> bool((masks == masks[0][None]).all()), sorted(set(masks[0].tolist())), bool(abs(masks.mean() - 1) < 0.2)
    (True, [0.0, 2.0], True)
    """
    rate, steps = _rate(rate, excluding_one=True), checks.integer("steps", steps, 1)

    def draw(key, leaf):
        kept = jax.random.bernoulli(key, 1 - rate, (steps if each_step else 1, *leaf.shape))
        return jnp.broadcast_to(kept.astype(leaf.dtype) / (1 - rate), (steps, *leaf.shape))

    return _for_each(draw, key, h)


def zoneout(cell: Cell | Step) -> Cell | Step:
    """The cell or step with inputs `(x, mask)`: where its mask is 1 the state stays as it was.

    Args:
      cell: any cell or step whose state is floating point. The mask of one step has the tree, shapes and dtypes of the
        state: `zoneout_masks` draws them, `zoneout_means` is for test time. In a stack a layer reads what the layer
        below shows after its mask.

    >>> from rnn_jax import cells, unroll
    >>> cell = cells.lstm()
    >>> params = cell.init(jax.random.key(0), 3, 8)
    >>> state, xs = cell.initial_state(params, (2,)), jnp.ones((5, 2, 3))
    >>> masks = zoneout_masks(jax.random.key(1), state, 5, rates=cells.LSTMState(h=0.05, c=0.5))
    >>> unroll.unroll(zoneout(cell), params, state, (xs, masks)).h.shape
    (5, 2, 8)
    """
    return _zoned_cell(cell) if isinstance(cell, Cell) else _zoned_step(as_step(cell))  # type: ignore[arg-type]


@cache
def _zoned_cell(cell: Cell) -> Cell:
    layers = tuple(_zoned_cell(layer) for layer in cell.layers)
    return _with_step(cell, _in_turn(layers) if layers else _zoned_step(cell.step))


@cache
def _zoned_step(step: Callable[..., PyTree]) -> Step:
    def zoned(params, state, inputs):
        x, mask = inputs
        new = step(params, state, x)
        checks.same_signature(
            "the mask", mask, "the state", state, "Draw it with zoneout_masks(key, state, …)."
        )
        return jax.tree.map(lambda m, old, new: m * old + (1 - m) * new, mask, state, new)

    return zoned


def zoneout_masks(key: jax.Array, state: PyTree, steps: int, *, rates: Any) -> PyTree:
    """A mask for each step, sequence and component: 1 with probability p, else 0.

    Args:
      key: a `jax.random.key`.
      state: for its tree, shapes and dtypes.
      steps: T.
      rates: p, in [0, 1]: one number, or a tree like the state's with one for each leaf.

    Returns:
      The tree of the state, leaves `(T, *shape)`.

    Raises:
      ValueError: for another rate.

    >>> masks = zoneout_masks(jax.random.key(1), jnp.zeros(400), 5, rates=0.25)
    >>> masks.shape, sorted(set(masks.ravel().tolist())), bool(abs(masks.mean() - 0.25) < 0.05)
    ((5, 400), [0.0, 1.0], True)
    """
    steps = checks.integer("steps", steps, 1)
    all_rates = iter(jax.tree.leaves(jax.tree.map(lambda _, rate: _rate(rate), state, _rates(state, rates))))

    def draw(key, leaf):
        # From the rate itself: half precision has it in coarse steps.
        return jax.random.bernoulli(key, next(all_rates), (steps, *leaf.shape)).astype(leaf.dtype)

    return _for_each(draw, key, state)


def zoneout_means(state: PyTree, steps: int, *, rates: Any) -> PyTree:
    """The means of `zoneout_masks`, for test time; arguments as there.

    >>> zoneout_means(jnp.zeros(2), 1, rates=0.25)
    Array([[0.25, 0.25]], dtype=float32)
    """
    steps = checks.integer("steps", steps, 1)
    return jax.tree.map(
        lambda leaf, rate: jnp.full((steps, *leaf.shape), _rate(rate), leaf.dtype),
        state,
        _rates(state, rates),
    )


def _rates(state: PyTree, rates: Any) -> PyTree:
    """One for each leaf."""
    alone = jax.tree.leaves(rates)[:1] == [rates]
    return jax.tree.map(lambda _: rates, state) if alone else rates


def _in_turn(layers: tuple[Cell, ...]) -> Step:
    """The step of a stack of masked layers: a tuple of masks, one for each."""

    def step(params, state, inputs):
        x, masks = inputs
        for name, tree in (("params", params), ("state", state), ("the mask", masks)):
            checks.layers(name, tree, len(layers))
        new = []
        for layer, p, s, mask in zip(layers, params, state, masks, strict=True):
            new.append(layer.step(p, s, (x, mask)))
            x = layer.emit(new[-1])
        return tuple(new)

    return step


def _with_step(cell: Cell, step: Step) -> Cell:
    """The cell with another step, which its parts do not describe."""
    return Cell(
        init=cell.init,
        initial_state=cell.initial_state,
        step=step,
        emit=cell.emit,
        emit_pullback=cell.emit_pullback,
    )


def _for_each(draw: Callable, key: jax.Array, tree: PyTree) -> PyTree:
    """Each leaf with its own key."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(structure, [draw(k, leaf) for k, leaf in zip(keys, leaves, strict=True)])


def _rate(rate: float, *, excluding_one: bool = False) -> float:
    if not 0 <= rate <= 1 or (excluding_one and rate == 1):
        raise ValueError(
            f"rate is {rate}; expected a probability in [0, 1{')' if excluding_one else ']'}, such as 0.1."
        )
    return float(rate)
