"""Training on drawn batches, seeds side by side: the loss of every update, and a look at the network now and then.

What is learned is a `Problem`; batches are drawn on the device. Gradients of a task's loss are those of the
hand-written backward pass, where the cell has one.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from rnn_jax import bptt, readout, unroll
from rnn_jax.types import Cell, PyTree

BEFORE, AFTER = 0, 1
"""Positions in `Learned.measured`."""


class Network(NamedTuple):
    """A cell with the way it starts, and what is done to it while it is trained.

    Attributes:
      name: as it is printed.
      cell: the cell.
      options: of `cell.init`: initialisers.
      free: `(problem, (cell parameters, readout), key) -> trained`, what is trained in their place.
      settled: `trained -> (cell parameters, readout)`.
      objective: `(network, problem, trained, batch, key) -> value`, what an update descends.
    """

    name: str
    cell: Cell
    options: Mapping[str, Any]
    free: Callable = lambda problem, params, key: params
    settled: Callable = lambda trained: trained
    objective: Callable = lambda network, problem, trained, batch, key: task_loss(
        network.cell, problem, network.settled(trained), batch
    )

    def init(self, key: jax.Array, input_size: int, hidden_size: int, output_size: int) -> PyTree:
        """Cell parameters and readout, float32."""
        key_cell, key_readout = jax.random.split(key)
        params = self.cell.init(key_cell, input_size, hidden_size, dtype=jnp.float32, **self.options)
        return params, readout.init(key_readout, hidden_size, output_size, dtype=jnp.float32)


class Problem(NamedTuple):
    """What is learned. `network(xs, lengths=None)` gives the outputs `(T, B, K)` of a network.

    Attributes:
      input_size, output_size: D and K.
      draw: `key -> batch` of an update.
      loss: `(network, batch) -> value`, to be minimised.
      look: `(network, key) -> tree` of numbers, the key being the same at every look.
      measure: `(cell, params, key) -> tree`, in float64, before training and after it.
    """

    input_size: int
    output_size: int
    draw: Callable[[jax.Array], PyTree]
    loss: Callable[[Callable, PyTree], jax.Array]
    look: Callable[[Callable, jax.Array], PyTree]
    measure: Callable[[Cell, PyTree, jax.Array], PyTree]


class Schedule(NamedTuple):
    """Settings of a training.

    Attributes:
      hidden_size: N.
      updates: how many.
      chunk: updates between two looks; divides `updates`.
      optimiser: `learning_rate -> optax.GradientTransformation`.
      learning_rate: its argument.
      clip_norm: global norm to which gradients are clipped.
    """

    hidden_size: int
    updates: int
    chunk: int
    optimiser: Callable[[float], optax.GradientTransformation]
    learning_rate: float
    clip_norm: float


class Learned(NamedTuple):
    """R trainings of one network.

    Attributes:
      loss: the objective on each update's batch, `(R, U)`.
      looks: before training and after each chunk, leaves `(R, U/chunk + 1)`.
      measured: before training and after it, leaves `(2, R, …)`.
    """

    loss: np.ndarray
    looks: PyTree
    measured: PyTree


class Result(NamedTuple):
    """Trainings by the name of the network."""

    learned: dict[str, Learned]


def train_all(
    networks: Sequence[Network],
    problem: Problem,
    schedule: Schedule,
    key: jax.Array,
    seeds: int,
    progress: Callable,
) -> Result:
    """Every network from the same keys, and so on the same batches; `progress` as in `runner.Experiment`."""
    keys = jax.random.split(key, seeds)

    def trained(network):
        shown = lambda chunks: progress(chunks, network.name, schedule.chunk)
        return train(network, problem, schedule, keys, shown)

    return Result({network.name: trained(network) for network in networks})


def train(
    network: Network, problem: Problem, schedule: Schedule, keys: jax.Array, progress: Callable
) -> Learned:
    """R trainings, one a key; `progress` is called with the range of chunks, and gives it back one by one."""
    start, advance, look, measure = _functions(network, problem, schedule)
    key_look = jax.random.fold_in(keys[0], 2)
    run = start(keys)
    seen, kept, before = [look(run.params, key_look)], [], measure(run.params, key_look)
    for _ in progress(range(schedule.updates // schedule.chunk)):
        run, values = jax.block_until_ready(advance(run))
        kept.append(values)
        seen.append(look(run.params, key_look))
    return Learned(
        loss=np.concatenate(kept, axis=1),
        looks=jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *seen),
        measured=jax.tree.map(lambda *leaves: np.stack(leaves), before, measure(run.params, key_look)),
    )


class _Run(NamedTuple):
    """One training between two updates."""

    params: PyTree
    optimiser: Any
    key: jax.Array


def _functions(network: Network, problem: Problem, schedule: Schedule) -> tuple[Callable, ...]:
    """`start`, `advance` by a chunk, `look` and `measure`: jitted, for all seeds at once."""
    cell = network.cell
    optimiser = optax.chain(
        optax.clip_by_global_norm(schedule.clip_norm), schedule.optimiser(schedule.learning_rate)
    )

    def start(key):
        params = network.init(
            jax.random.fold_in(key, 0), problem.input_size, schedule.hidden_size, problem.output_size
        )
        trained = network.free(problem, params, jax.random.fold_in(key, 3))
        return _Run(trained, optimiser.init(trained), jax.random.fold_in(key, 1))

    def update(run, _):
        key, key_batch, key_objective = jax.random.split(run.key, 3)
        batch = problem.draw(key_batch)
        objective = partial(network.objective, network, problem, batch=batch, key=key_objective)
        value, gradient = jax.value_and_grad(objective)(run.params)
        step, state = optimiser.update(gradient, run.optimiser, run.params)
        return _Run(optax.apply_updates(run.params, step), state, key), value

    def advance(run):
        return lax.scan(update, run, length=schedule.chunk)

    def look(trained, key):
        return problem.look(partial(outputs, cell, unroll.unroll, network.settled(trained)), key)

    def measure(trained, key):
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), network.settled(trained))
        return problem.measure(cell, params, key)

    over_seeds = partial(jax.vmap, in_axes=(0, None))
    return (
        jax.jit(jax.vmap(start)),
        jax.jit(jax.vmap(advance)),
        jax.jit(over_seeds(look)),
        jax.jit(over_seeds(measure)),
    )


def task_loss(cell: Cell, problem: Problem, params: PyTree, batch: PyTree) -> jax.Array:
    """The loss of a batch, with the hand-written backward pass."""
    return problem.loss(partial(outputs, cell, bptt.unroll, params), batch)


def outputs(cell: Cell, run: Callable, params: PyTree, xs: jax.Array, lengths: Any = None) -> jax.Array:
    """o_t, `(T, B, K)`; `run` is `bptt.unroll` or `unroll.unroll`."""
    cell_params, readout_params = params
    h_0 = cell.initial_state(cell_params, xs.shape[1:-1])
    return readout.linear(readout_params, cell.emit(run(cell, cell_params, h_0, xs, lengths=lengths)))
