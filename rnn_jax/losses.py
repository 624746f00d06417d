"""Losses of the note, L = Σ_t w_t L_t, their derivatives by hand, and the weights that mask them.

    cross-entropy     L_t = −ln softmax(o_t)[y_t]       ∂L_t/∂o_t = softmax(o_t) − onehot(y_t) = ŷ_t − y_t
    of K binary ones  L_t = Σ_k ln(1 + eᵒ) − y o        ∂L_t/∂o_t = σ(o_t) − y_t               = ŷ_t − y_t
    squared error     L_t = ½ ‖o_t − y_t‖²              ∂L_t/∂o_t = o_t − y_t                  = ŷ_t − y_t

The losses are optax's; the derivatives are ours, so that backpropagation through time can be written without
automatic differentiation from end to end. Per-step losses have the shape (T, *B), and so have the weights.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from rnn_jax import checks


class Loss(NamedTuple):
    """A per-step loss and its derivative, both functions of outputs (T, *B, K) and targets.

    Attributes:
      per_step: `(outputs, targets) -> L_t`, `(T, *B)`.
      derivative: `(outputs, targets) -> ∂L_t/∂o_t`, `(T, *B, K)`.
    """

    per_step: Callable[[jax.Array, jax.Array], jax.Array]
    derivative: Callable[[jax.Array, jax.Array], jax.Array]


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """L_t = −ln softmax(o_t)[y_t], in nats.

    Args:
      logits: o_t, `(T, *B, K)`.
      labels: y_t, integers in [0, K), `(T, *B)`.

    Returns:
      L_t, `(T, *B)`.

    >>> cross_entropy(jnp.zeros((1, 4)), jnp.array([2]))
    Array([1.3862944], dtype=float32)
    """
    labels = _labels(logits, labels)
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)


def cross_entropy_derivative(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """∂L_t/∂o_t = ŷ_t − y_t, with ŷ_t = softmax(o_t) and y_t one-hot, `(T, *B, K)`.

    >>> cross_entropy_derivative(jnp.zeros((1, 4)), jnp.array([2]))
    Array([[ 0.25,  0.25, -0.75,  0.25]], dtype=float32)
    """
    labels = _labels(logits, labels)
    return jax.nn.softmax(logits) - jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)


def squared_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """L_t = ½ ‖ŷ_t − y_t‖², summed over the K outputs.

    Args:
      outputs: ŷ_t, `(T, *B, K)`.
      targets: y_t, `(T, *B, K)`.

    Returns:
      L_t, `(T, *B)`.

    >>> squared_error(jnp.array([[1.0, 3.0]]), jnp.zeros((1, 2)))
    Array([5.], dtype=float32)
    """
    _same_shape(outputs, targets)
    return optax.losses.l2_loss(outputs, targets).sum(-1)


def squared_error_derivative(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """∂L_t/∂ŷ_t = ŷ_t − y_t, `(T, *B, K)`.

    >>> squared_error_derivative(jnp.array([[1.0, 3.0]]), jnp.zeros((1, 2)))
    Array([[1., 3.]], dtype=float32)
    """
    _same_shape(outputs, targets)
    return outputs - targets


def binary_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """L_t = −Σ_k [y_t,k ln σ(o_t,k) + (1 − y_t,k) ln σ(−o_t,k)], in nats, summed over the K outputs.

    Args:
      logits: o_t, `(T, *B, K)`.
      targets: y_t, 0 or 1 or a probability between, in the dtype of the logits, `(T, *B, K)`.

    Returns:
      L_t, `(T, *B)`.

    >>> binary_cross_entropy(jnp.zeros((1, 2)), jnp.array([[0.0, 1.0]]))
    Array([1.3862944], dtype=float32)
    """
    _same_shape(logits, targets)
    return optax.losses.sigmoid_binary_cross_entropy(logits, targets).sum(-1)


def binary_cross_entropy_derivative(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """∂L_t/∂o_t = ŷ_t − y_t, with ŷ_t = σ(o_t), `(T, *B, K)`.

    >>> binary_cross_entropy_derivative(jnp.zeros((1, 2)), jnp.array([[0.0, 1.0]]))
    Array([[ 0.5, -0.5]], dtype=float32)
    """
    _same_shape(logits, targets)
    return jax.nn.sigmoid(logits) - targets


CROSS_ENTROPY = Loss(per_step=cross_entropy, derivative=cross_entropy_derivative)
"""Softmax outputs and integer labels."""

BINARY_CROSS_ENTROPY = Loss(per_step=binary_cross_entropy, derivative=binary_cross_entropy_derivative)
"""Independent sigmoid outputs and targets of 0 and 1."""

SQUARED_ERROR = Loss(per_step=squared_error, derivative=squared_error_derivative)
"""Linear outputs and real targets."""


def valid_steps(steps: int, lengths: jax.Array) -> jax.Array:
    """Which steps belong to each sequence: boolean `(T, *B)`, true at t = 1 … length.

    >>> valid_steps(3, jnp.array([1, 3])).T
    Array([[ True, False, False],
           [ True,  True,  True]], dtype=bool)
    """
    lengths = jnp.asarray(lengths)
    return _times(steps, lengths) <= lengths[None]


def last_step(steps: int, lengths: jax.Array) -> jax.Array:
    """The last step of each sequence: boolean `(T, *B)`, true at t = length; nowhere if the length is 0.

    >>> last_step(3, jnp.array([1, 3])).T
    Array([[ True, False, False],
           [False, False,  True]], dtype=bool)
    """
    lengths = jnp.asarray(lengths)
    return _times(steps, lengths) == lengths[None]


def _times(steps: int, lengths: jax.Array) -> jax.Array:
    """t = 1 … T, `(T, 1, …)`."""
    return jnp.arange(1, steps + 1).reshape(-1, *(1,) * lengths.ndim)


def total(per_step: jax.Array, weights: jax.Array | None = None) -> jax.Array:
    """L = Σ_t w_t L_t over time and batch; a step of weight 0 (or False) does not enter even if L_t is NaN.

    Args:
      per_step: L_t, `(T, *B)`.
      weights: w_t, `(T, *B)`, numbers or booleans; 1 if not given.

    >>> total(jnp.array([1.0, 2.0, jnp.nan]), jnp.array([True, True, False]))
    Array(3., dtype=float32)
    """
    if weights is None:
        return per_step.sum()
    _same_shape(per_step, weights, names=("per_step", "weights"))
    return jnp.where(weights != 0, weights * per_step, 0).sum()


def mean(per_step: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """The mean of L_t over the steps that `mask` keeps; 0 if it keeps none.

    Args:
      per_step: L_t, `(T, *B)`.
      mask: boolean `(T, *B)`, from `valid_steps` or `last_step`; all steps if not given.

    >>> mean(jnp.array([1.0, 2.0, 9.0]), jnp.array([True, True, False]))
    Array(1.5, dtype=float32)
    """
    if mask is None:
        return per_step.mean()
    if mask.dtype != bool:
        raise ValueError(
            f"mask is {mask.dtype}; expected bool. For a weighted sum use total(per_step, weights)."
        )
    return total(per_step, mask) / jnp.maximum(mask.sum(), 1)


def _labels(logits: jax.Array, labels: jax.Array) -> jax.Array:
    labels = jnp.asarray(labels)
    classes = logits.shape[-1]
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"labels is {labels.dtype}; expected integers in [0, {classes}). From one-hot targets take "
            "targets.argmax(-1)."
        )
    if labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"labels has shape {labels.shape} but logits {logits.shape}; expected {logits.shape[:-1]}, one "
            "label a step and sequence. To score the last step only, mask with last_step()."
        )
    if checks.is_concrete(labels) and labels.size:
        with jax.ensure_compile_time_eval():
            low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            raise ValueError(
                f"labels holds {low if low < 0 else high}; expected 0 <= label < {classes}, the last axis of "
                "logits. Fill padding with any class and mask it with valid_steps()."
            )
    return labels


def _same_shape(
    outputs: jax.Array, targets: jax.Array, names: tuple[str, str] = ("outputs", "targets")
) -> None:
    if names[1] == "targets" and jnp.result_type(outputs) != jnp.result_type(targets):
        raise ValueError(
            f"targets is {jnp.result_type(targets)} but outputs {jnp.result_type(outputs)}; they must be the same. "
            f"Convert with targets.astype({jnp.result_type(outputs)})."
        )
    if jnp.shape(outputs) != jnp.shape(targets):
        raise ValueError(
            f"{names[0]} has shape {jnp.shape(outputs)} but {names[1]} {jnp.shape(targets)}; they must be "
            "equal, nothing is broadcast."
        )
