"""A synthetic task as a problem: new sequences at every update, so that nothing can be learned by heart."""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.learning.training import Problem
from rnn_jax import bptt, clipping, losses
from rnn_jax.tasks import Task, wrong
from rnn_jax.types import Cell, PyTree


class Look(NamedTuple):
    """On sequences that are held out.

    Attributes:
      loss: the mean of L_t over scored steps.
      wrong: the share of sequences with a mistake.
    """

    loss: jax.Array
    wrong: jax.Array


@cache
def of_task(task: Task, batch_size: int, held_out: int) -> Problem:
    """The task, and as its measurement how far the gradient of the last step reaches."""

    def loss(network, batch):
        return losses.mean(task.loss.per_step(network(batch.xs), batch.targets), batch.weights)

    def look(network, key):
        batch = task.sample(key, (held_out,), jnp.float32)
        mistakes = wrong(task, network(batch.xs), batch)
        return Look(loss(network, batch), mistakes.mean(dtype=jnp.float32))

    def measure(cell, params, key):
        batch = task.sample(key, (held_out,), jnp.float64)
        return gradient_reach(cell, task.loss, params, batch.xs, batch.targets)

    return Problem(
        input_size=task.input_size,
        output_size=task.output_size,
        draw=lambda key: task.sample(key, (batch_size,), jnp.float32),
        loss=loss,
        look=look,
        measure=measure,
    )


def gradient_reach(
    cell: Cell, loss: losses.Loss, params: PyTree, xs: jax.Array, targets: jax.Array
) -> jax.Array:
    """ln (‖∂L_T/∂s_{T−n}‖ / ‖∂L_T/∂s_T‖) for n = 0 … T − 1, the norms being means over sequences, `(T,)`.

    s is the whole state, of an LSTM (h, c).
    """
    cell_params, readout_params = params
    steps, sequences = xs.shape[0], xs.shape[1:-1]
    gradients = bptt.loss_gradients(
        cell,
        cell_params,
        readout_params,
        cell.initial_state(cell_params, sequences),
        xs,
        targets,
        loss=loss,
        weights=losses.last_step(steps, jnp.full(sequences, steps)),
    )
    norms = jnp.log(clipping.norms(gradients.deltas).mean(1))[::-1]
    return norms - norms[0]
