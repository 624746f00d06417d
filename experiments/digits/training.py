"""Training: Adam on the cross-entropy of the last step, gradients by the hand-written backward pass.

Clipped and unclipped runs are one program: without clipping the threshold is infinite. What clipping does to a
gradient is measured on every gradient met in training, in float64, beside clipping each entry by itself.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.flatten_util import ravel_pytree

from experiments.digits.data import Digits
from rnn_jax import bptt, losses, readout, unroll
from rnn_jax.types import Cell, PyTree


class Update(NamedTuple):
    """What is kept of each update; leaves `(R, U)` after training.

    Attributes:
      loss: mean cross-entropy of the batch before the update, in nats.
      gradient_norm: ‖g‖, over all parameters.
      clipped_norm: ‖clip(g)‖, what the optimiser is given.
      cosine: between g and clip(g).
      entrywise_cosine: between g and its entries clipped one by one to ± threshold/√P, P the number of parameters,
        which bounds the same norm.
    """

    loss: jax.Array
    gradient_norm: jax.Array
    clipped_norm: jax.Array
    cosine: jax.Array
    entrywise_cosine: jax.Array


class Trained(NamedTuple):
    """R trained networks.

    Attributes:
      params: cell parameters and readout, leaves `(R, …)`.
      updates: `Update` with leaves `(R, U)`.
      accuracy: on the test set after every chunk, `(R, U/chunk)`, in [0, 1].
    """

    params: PyTree
    updates: Update
    accuracy: jax.Array


class _Run(NamedTuple):
    """One run between two chunks."""

    params: PyTree
    optimiser: Any
    threshold: jax.Array


def train(
    cell: Cell,
    params: PyTree,
    batches: jax.Array,
    thresholds: jax.Array,
    digits: Digits,
    *,
    chunk: int,
    learning_rate: float,
    progress: Callable,
) -> Trained:
    """R runs side by side.

    Args:
      cell: the cell.
      params: cell parameters and readout to start from, leaves `(R, …)`.
      batches: training sequences of each update, `(R, U, B)`.
      thresholds: `(R,)`, global norms to clip to; infinity for none.
      digits: the data.
      chunk: updates between two looks at the test accuracy; divides U.
      learning_rate: of Adam.
      progress: called with the range of chunks, gives it back one by one.
    """
    run = _Run(
        params=params,
        optimiser=jax.vmap(optax.adam(learning_rate).init)(params),
        threshold=thresholds,
    )
    advance = _advance(cell, learning_rate)
    kept, accuracies = [], []
    for i in progress(range(batches.shape[1] // chunk)):
        run, updates, accuracy = jax.block_until_ready(
            advance(run, batches[:, i * chunk : (i + 1) * chunk], digits)
        )
        kept.append(updates)
        accuracies.append(accuracy)
    return Trained(
        params=run.params,
        updates=jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), *kept),
        accuracy=jnp.stack(accuracies, axis=1),
    )


def loss(cell: Cell, params: PyTree, xs: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean cross-entropy of the readout of h_T, for sequences `(T, B, 1)` and labels `(B,)`, in nats."""
    cell_params, readout_params = params
    h_0 = cell.initial_state(cell_params, labels.shape)
    h_T = cell.emit(bptt.final_state(cell, cell_params, h_0, xs))
    return losses.cross_entropy(readout.linear(readout_params, h_T), labels).mean()


def accuracy(cell: Cell, params: PyTree, xs: jax.Array, labels: jax.Array) -> jax.Array:
    """Share of the sequences `(T, B, 1)` whose largest output is the label."""
    cell_params, readout_params = params
    h_0 = cell.initial_state(cell_params, labels.shape)
    h_T = cell.emit(unroll.final_state(cell, cell_params, h_0, xs))
    return (readout.linear(readout_params, h_T).argmax(-1) == labels).mean(dtype=jnp.float32)


@cache
def _advance(cell: Cell, learning_rate: float) -> Callable:
    """The jitted `(runs, batches, digits) -> (runs, updates, accuracy)` that carries R runs one chunk further."""

    def advance(run: _Run, batches: jax.Array, digits: Digits):
        def body(run, batch):
            return _update(cell, learning_rate, run, digits.train_xs[:, batch], digits.train_labels[batch])

        run, updates = lax.scan(body, run, batches)
        return run, updates, accuracy(cell, run.params, digits.test_xs, digits.test_labels)

    return jax.jit(jax.vmap(advance, in_axes=(0, 0, None)))


def _update(
    cell: Cell, learning_rate: float, run: _Run, xs: jax.Array, labels: jax.Array
) -> tuple[_Run, Update]:
    """One update on one batch, `(T, B, 1)` and `(B,)`."""
    value, gradient = jax.value_and_grad(partial(loss, cell))(run.params, xs, labels)
    clipped = _apply(optax.clip_by_global_norm(run.threshold), gradient)
    step, optimiser = optax.adam(learning_rate).update(clipped, run.optimiser)

    entries = sum(leaf.size for leaf in jax.tree.leaves(gradient))
    entrywise = _apply(optax.clip(run.threshold / jnp.sqrt(jnp.float32(entries))), gradient)
    g, clipped_g, entrywise_g = _vector(gradient), _vector(clipped), _vector(entrywise)
    update = Update(
        loss=value,
        gradient_norm=jnp.linalg.norm(g),
        clipped_norm=jnp.linalg.norm(clipped_g),
        cosine=_cosine(g, clipped_g),
        entrywise_cosine=_cosine(g, entrywise_g),
    )
    return run._replace(params=optax.apply_updates(run.params, step), optimiser=optimiser), update


def _apply(transformation: optax.GradientTransformation, gradient: PyTree) -> PyTree:
    """A stateless transformation of one gradient."""
    return transformation.update(gradient, transformation.init(gradient))[0]


def _vector(tree: PyTree) -> jax.Array:
    """All entries in one vector, float64: sums of squares of exploding gradients overflow float32."""
    return ravel_pytree(tree)[0].astype(jnp.float64)


def _cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    return a @ b / (jnp.linalg.norm(a) * jnp.linalg.norm(b))
