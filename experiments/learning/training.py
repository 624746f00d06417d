"""Training on fresh sequences, seeds side by side: losses, mistakes, and how far the gradient of the last step reaches.

Gradients are those of the hand-written backward pass. Sequences are drawn on the device, new ones at every update, so
that nothing can be learned by heart; those that are held out come from a key of their own and stay the same.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from rnn_jax import bptt, losses, readout, unroll
from rnn_jax.tasks import Batch, Task, wrong
from rnn_jax.types import Cell, PyTree

BEFORE, AFTER = 0, 1
"""Positions in `Learned.reach`."""


class Network(NamedTuple):
    """A cell with the way it starts.

    Attributes:
      name: as it is printed.
      cell: the cell.
      options: of `cell.init`: initialisers.
    """

    name: str
    cell: Cell
    options: Mapping[str, Any]

    def init(self, key: jax.Array, task: Task, hidden_size: int) -> PyTree:
        """Parameters and readout, float32."""
        key_cell, key_readout = jax.random.split(key)
        params = self.cell.init(key_cell, task.input_size, hidden_size, dtype=jnp.float32, **self.options)
        return params, readout.init(key_readout, hidden_size, task.output_size, dtype=jnp.float32)


class Schedule(NamedTuple):
    """Settings of a training.

    Attributes:
      updates: how many.
      chunk: updates between two looks at the held-out loss; divides `updates`.
      batch_size: sequences an update.
      held_out: sequences of the held-out loss.
      optimiser: `learning_rate -> optax.GradientTransformation`.
      learning_rate: its argument.
      clip_norm: global norm to which gradients are clipped.
    """

    updates: int
    chunk: int
    batch_size: int
    held_out: int
    optimiser: Callable[[float], optax.GradientTransformation]
    learning_rate: float
    clip_norm: float


class Learned(NamedTuple):
    """R trainings of one network.

    Attributes:
      loss: of each update's batch, `(R, U)`, mean over scored steps.
      held_out: before training and after each chunk, `(R, U/chunk + 1)`.
      wrong: share of held-out sequences with a mistake, `(R, U/chunk + 1)`.
      reach: ln ‖∂L_T/∂h_{T−n}‖ − ln ‖∂L_T/∂h_T‖ for n = 0 … T − 1, mean over held-out sequences, before and after
        training, `(2, R, T)`.
    """

    loss: np.ndarray
    held_out: np.ndarray
    wrong: np.ndarray
    reach: np.ndarray


class Result(NamedTuple):
    """Trainings by the name of the network."""

    learned: dict[str, Learned]


def train_all(
    networks: Sequence[Network],
    task: Task,
    hidden_size: int,
    schedule: Schedule,
    key: jax.Array,
    seeds: int,
    progress: Callable,
) -> Result:
    """Every network from the same keys, and so on the same sequences; `progress` as in `runner.Experiment`."""
    keys = jax.random.split(key, seeds)

    def trained(network):
        shown = lambda chunks: progress(chunks, network.name, schedule.chunk)
        return train(network, task, hidden_size, schedule, keys, shown)

    return Result({network.name: trained(network) for network in networks})


def train(
    network: Network, task: Task, hidden_size: int, schedule: Schedule, keys: jax.Array, progress: Callable
) -> Learned:
    """R trainings, one a key; `progress` is called with the range of chunks, and gives it back one by one."""
    start, advance, look, reach = _functions(network.cell, task, schedule)
    key_params, key_batches, key_held_out = (
        jax.vmap(partial(jax.random.fold_in, data=i))(keys) for i in range(3)
    )
    params = jax.vmap(lambda key: network.init(key, task, hidden_size))(key_params)
    run, held_out = start(params, key_batches), key_held_out[0]
    first, seen, kept = reach(params, held_out), [look(params, held_out)], []
    for _ in progress(range(schedule.updates // schedule.chunk)):
        run, values = jax.block_until_ready(advance(run))
        kept.append(np.asarray(values))
        seen.append(look(run.params, held_out))
    values, mistakes = (np.stack(column, axis=1) for column in zip(*seen, strict=True))
    return Learned(
        loss=np.concatenate(kept, axis=1),
        held_out=values,
        wrong=mistakes,
        reach=np.stack([first, reach(run.params, held_out)]),
    )


class _Run(NamedTuple):
    """One training between two updates."""

    params: PyTree
    optimiser: Any
    key: jax.Array


@cache
def _functions(cell: Cell, task: Task, schedule: Schedule) -> tuple[Callable, ...]:
    """`start`, `advance` by a chunk, `look` at held-out loss and mistakes, and `reach`: jitted, for all seeds."""
    optimiser = optax.chain(
        optax.clip_by_global_norm(schedule.clip_norm), schedule.optimiser(schedule.learning_rate)
    )

    def draw(key, size):
        return task.sample(key, (size,), jnp.float32)

    def update(run, _):
        key, now = jax.random.split(run.key)
        batch = draw(now, schedule.batch_size)
        value, gradient = jax.value_and_grad(partial(loss, cell, task, bptt.unroll))(run.params, batch)
        step, state = optimiser.update(gradient, run.optimiser, run.params)
        return _Run(optax.apply_updates(run.params, step), state, key), value

    def start(params, key):
        return _Run(params, optimiser.init(params), key)

    def advance(run):
        return lax.scan(update, run, length=schedule.chunk)

    def look(params, key):
        batch = draw(key, schedule.held_out)
        mistakes = wrong(task, outputs(cell, unroll.unroll, params, batch), batch)
        return loss(cell, task, unroll.unroll, params, batch), mistakes.mean(dtype=jnp.float32)

    def reach(params, key):
        params, batch = jax.tree.map(_double, (params, draw(key, schedule.held_out)))
        return gradient_reach(cell, task, params, batch)

    over_seeds = partial(jax.vmap, in_axes=(0, None))
    return (
        jax.jit(jax.vmap(start)),
        jax.jit(jax.vmap(advance)),
        jax.jit(over_seeds(look)),
        jax.jit(over_seeds(reach)),
    )


def outputs(cell: Cell, run: Callable, params: PyTree, batch: Batch) -> jax.Array:
    """o_t, `(T, B, K)`; `run` is `bptt.unroll` or `unroll.unroll`."""
    cell_params, readout_params = params
    h_0 = cell.initial_state(cell_params, batch.xs.shape[1:-1])
    return readout.linear(readout_params, cell.emit(run(cell, cell_params, h_0, batch.xs)))


def loss(cell: Cell, task: Task, run: Callable, params: PyTree, batch: Batch) -> jax.Array:
    """The mean of L_t over scored steps and sequences."""
    per_step = task.loss.per_step(outputs(cell, run, params, batch), batch.targets)
    return losses.mean(per_step, batch.weights)


def gradient_reach(cell: Cell, task: Task, params: PyTree, batch: Batch) -> jax.Array:
    """ln ‖∂L_T/∂h_{T−n}‖ − ln ‖∂L_T/∂h_T‖ for n = 0 … T − 1, mean over sequences, `(T,)`."""
    cell_params, readout_params = params
    h_0 = cell.initial_state(cell_params, batch.xs.shape[1:-1])
    lengths = jnp.full(batch.xs.shape[1:-1], task.length)
    gradients = bptt.loss_gradients(
        cell,
        cell_params,
        readout_params,
        h_0,
        batch.xs,
        batch.targets,
        loss=task.loss,
        weights=losses.last_step(task.length, lengths),
    )
    norms = jnp.log(jnp.linalg.norm(cell.emit(gradients.deltas), axis=-1))[::-1]
    return (norms - norms[:1]).mean(1)


def _double(leaf):
    return leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
