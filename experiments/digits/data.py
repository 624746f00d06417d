"""Handwritten digits as sequences: scikit-learn's 1797 images of 8 × 8 pixels, read row by row, one pixel a step.

Pixels are scaled to [0, 1], then centred and divided by the mean and the standard deviation of all training
pixels (two numbers, not 64), so that the input has unit variance whatever the position: with pixels in [0, 1]
the background would be an input of exactly 0, and ReLU networks with zero biases would never start.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from experiments.digits.config import STEPS


class Digits(NamedTuple):
    """Sequences `(T, n, 1)`, float32, time first, and labels `(n,)` in [0, 10)."""

    train_xs: np.ndarray
    train_labels: np.ndarray
    test_xs: np.ndarray
    test_labels: np.ndarray


def load(test_size: int) -> Digits:
    """The digits, split once and for all, with every class in the same proportion on both sides."""
    digits = load_digits()
    pixels = digits.images.reshape(-1, STEPS) / 16
    train, test, train_labels, test_labels = train_test_split(
        pixels, digits.target, test_size=test_size, random_state=0, stratify=digits.target
    )
    mean, deviation = train.mean(), train.std()

    def sequences(images):
        return ((images - mean) / deviation).astype(np.float32).T[..., None]

    return Digits(
        train_xs=sequences(train),
        train_labels=train_labels.astype(np.int32),
        test_xs=sequences(test),
        test_labels=test_labels.astype(np.int32),
    )


def draw_batches(keys: jax.Array, updates: int, batch_size: int, size: int) -> jax.Array:
    """Indices in [0, size) of each update's batch, with replacement, one key a run: `(R, U, B)`."""
    return jax.vmap(lambda key: jax.random.randint(key, (updates, batch_size), 0, size, jnp.int32))(keys)
