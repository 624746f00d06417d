"""A task as data: batches drawn from a key, the loss to score them with, and what chance and perfection cost.

What a scored step costs on average is `losses.mean(task.loss.per_step(outputs, targets), weights)`. Two numbers bound
its expectation:

    baseline    inf over constants c_t of  E L(c_t, y_t): a predictor that knows the step, but sees no input
    floor       the least that any predictor of y_t from x_1 … x_t reaches; 0 unless targets are random given the inputs

Both are exact, from formulas. Squared errors are ½ ‖ŷ − y‖², as in `rnn_jax.losses`: a mean squared error of the
literature is twice the number here. `losses.total`, and with it `bptt.loss_gradients`, sums over steps and batch:
divide its result by `batch.weights.sum()`.

The length is that of the arrays and belongs to the task: for another length make another task. Where a paper draws the
length of each batch, draw one of several tasks. Equal settings give the same `sample`, which `jax.jit` does not trace
again; its batch shape is static: `jax.jit(task.sample, static_argnums=1)(key, (32,))`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax import losses


class Batch(NamedTuple):
    """Sequences with their targets, time first.

    Attributes:
      xs: x_1 … x_T, `(T, *B, D)`.
      targets: y_1 … y_T, labels `(T, *B)` or values `(T, *B, K)`; 0 where they are not scored.
      weights: which steps are scored, boolean `(T, *B)`.
    """

    xs: jax.Array
    targets: jax.Array
    weights: jax.Array


class Task(NamedTuple):
    """A task of one length.

    Attributes:
      sample: `(key, batch_shape=(), dtype=float) -> Batch`, pure; all that it does is done on the device.
      loss: `losses.CROSS_ENTROPY` for labels, `losses.SQUARED_ERROR` for values.
      input_size: D.
      output_size: K, the number of classes or of values.
      length: T.
      lag: the greatest distance in steps from a scored step to an input that its target depends on.
      baseline: the expected loss of the best constants, on average over the scored steps.
      floor: the least expected loss, likewise.
      tolerance: a value that is off by less is right, see `wrong`; None for labels.
    """

    sample: Callable[..., Batch]
    loss: losses.Loss
    input_size: int
    output_size: int
    length: int
    lag: int
    baseline: float
    floor: float = 0.0
    tolerance: float | None = None


def wrong(task: Task, outputs: jax.Array, batch: Batch) -> jax.Array:
    """Which sequences are wrong: boolean `(*B,)`; their mean is the error rate that papers give.

    A sequence is wrong if any of its scored steps is: if another class has the largest output, if a value is off by
    `task.tolerance` or more, or if an output is not finite.

    Args:
      task: the task of the batch.
      outputs: `(T, *B, K)`.
      batch: what `task.sample` gave.

    >>> from rnn_jax import tasks
    >>> task = tasks.random_permutation(8)
    >>> batch = jax.jit(task.sample, static_argnums=1)(jax.random.key(0), (4,))
    >>> remembered = jnp.broadcast_to(batch.xs[0], batch.xs.shape)  # the first symbol is the answer
    >>> tasks.wrong(task, remembered, batch)
    Array([False, False, False, False], dtype=bool)
    """
    expected = (*batch.weights.shape, task.output_size)
    if outputs.shape != expected:
        raise ValueError(
            f"outputs has shape {outputs.shape}; expected (T, *B, K) = {expected}, as the batch has."
        )
    if task.tolerance is None:
        right = (outputs.argmax(-1) == batch.targets) & jnp.isfinite(outputs).all(-1)
    else:
        right = (jnp.abs(outputs - batch.targets) < task.tolerance).all(-1)
    return (batch.weights & ~right).any(0)
