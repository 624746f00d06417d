"""Training: Adam on clipped gradients by the hand-written backward pass, with the gradient's decay recorded.

The seeds are one program (`jax.vmap`) inside the loop over updates, and the recorder stands outside of that `vmap`:
so it measures when it is due, and not at every update.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.flatten_util import ravel_pytree

from experiments.laboratory.measurement import decay_curve
from experiments.laboratory.networks import per_step_loss
from rnn_jax import bptt, unroll
from rnn_jax.recording import Records, recorder
from rnn_jax.types import Cell, PyTree


class Task(NamedTuple):
    """Sequences read and predicted, `(T, n, 1)`: for training, for testing, and of these the recorded ones."""

    train_xs: jax.Array
    train_ys: jax.Array
    test_xs: jax.Array
    test_ys: jax.Array
    recorded_xs: jax.Array
    recorded_ys: jax.Array


class Trained(NamedTuple):
    """R trained networks.

    Attributes:
      params: cell parameters and readout, leaves `(R, …)`.
      loss: of each update's batch, `(U, R)`, mean of L_t.
      gradient_norm: of each update, before clipping, `(U, R)`.
      test_loss: after every chunk, `(U/chunk, R)`.
      records: decay curves along the way, results `(M, R, T)`: mean over the recorded sequences.
    """

    params: PyTree
    loss: jax.Array
    gradient_norm: jax.Array
    test_loss: jax.Array
    records: Records


class Schedule(NamedTuple):
    """Settings of a training: see `Config`."""

    updates: int
    chunk: int
    every: int
    learning_rate: float
    clip_norm: float


class _Run(NamedTuple):
    """R networks between two updates."""

    update: jax.Array
    params: PyTree
    optimiser: Any
    records: Records


def train(
    cell: Cell, params: PyTree, batches: jax.Array, task: Task, schedule: Schedule, progress: Callable
) -> Trained:
    """R runs side by side.

    Args:
      cell: the cell.
      params: cell parameters and readout to start from, leaves `(R, …)`.
      batches: training sequences of each update, `(R, U, B)`.
      task: the data.
      schedule: the settings.
      progress: called with the range of chunks, gives it back one by one.
    """
    start, advance = _functions(cell, schedule)
    run, batches = start(params, task), np.asarray(batches).swapaxes(0, 1)
    kept = []
    for i in progress(range(schedule.updates // schedule.chunk)):
        chunk = batches[i * schedule.chunk : (i + 1) * schedule.chunk]
        run, *measured = jax.block_until_ready(advance(run, chunk, task))
        kept.append(measured)
    (losses, norms), test_loss = jax.tree.map(lambda *leaves: np.stack(leaves), *kept)
    return Trained(
        params=run.params,
        loss=losses.reshape(schedule.updates, -1),
        gradient_norm=norms.reshape(schedule.updates, -1),
        test_loss=test_loss,
        records=run.records,
    )


def loss(cell: Cell, params: PyTree, xs: jax.Array, ys: jax.Array) -> jax.Array:
    """The mean of L_t over steps and sequences `(T, B, 1)`, by `bptt.unroll`."""
    cell_params, readout_params = params
    states = bptt.unroll(cell, cell_params, cell.initial_state(cell_params, xs.shape[1:-1]), xs)
    return per_step_loss(cell, readout_params, states, ys).mean()


@cache
def _functions(cell: Cell, schedule: Schedule) -> tuple[Callable, Callable]:
    """`(params, task) -> run`, and, jitted, `(run, batches, task) -> run, (losses, norms), test loss` of a chunk."""
    optimiser = optax.chain(optax.clip_by_global_norm(schedule.clip_norm), optax.adam(schedule.learning_rate))

    def recorder_of(task):
        def measure(params):
            curve = partial(decay_curve, cell, cell)
            return jax.vmap(curve, in_axes=(0, None, None))(params, task.recorded_xs, task.recorded_ys)

        # The last is taken before the last update: what comes after is not seen from inside of the loop.
        return recorder(measure, every=schedule.every, updates=schedule.updates - 1)

    def start(params, task):
        init, _ = recorder_of(task)
        return _Run(jnp.zeros((), jnp.int32), params, jax.vmap(optimiser.init)(params), init(params))

    def update_one(params, state, batch, task):
        xs, ys = task.train_xs[:, batch], task.train_ys[:, batch]
        value, gradient = jax.value_and_grad(partial(loss, cell))(params, xs, ys)
        step, state = optimiser.update(gradient, state)
        norm = jnp.linalg.norm(ravel_pytree(gradient)[0])
        return optax.apply_updates(params, step), state, value, norm

    def advance(run, batches, task):
        _, record = recorder_of(task)

        def body(run, batch):
            records = record(run.records, run.update, run.params)
            params, optimiser, value, norm = jax.vmap(update_one, in_axes=(0, 0, 0, None))(
                run.params, run.optimiser, batch, task
            )
            return _Run(run.update + 1, params, optimiser, records), (value, norm)

        run, kept = lax.scan(body, run, batches)
        return run, kept, jax.vmap(partial(test_loss, cell, task=task))(run.params)

    return start, jax.jit(advance)


def test_loss(cell: Cell, params: PyTree, task: Task) -> jax.Array:
    """The mean of L_t over the test sequences."""
    cell_params, readout_params = params
    state = cell.initial_state(cell_params, task.test_xs.shape[1:-1])
    states = unroll.unroll(cell, cell_params, state, task.test_xs)
    return per_step_loss(cell, readout_params, states, task.test_ys).mean()
