"""Losses are optax's and the note's; derivatives are ŷ − y; masks leave out what they mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import losses
from tests.cases import assert_close, draw, rounding


def outputs_and_targets(loss, dtype):
    rng, array = np.random.default_rng(0), jax.ShapeDtypeStruct((6, 2, 4), dtype)
    outputs = draw(rng, array)
    if loss is losses.CROSS_ENTROPY:
        return outputs, jnp.asarray(rng.integers(4, size=(6, 2)))
    targets = draw(rng, array)
    return outputs, (targets > 0).astype(dtype) if loss is losses.BINARY_CROSS_ENTROPY else targets


@pytest.mark.parametrize(
    "loss",
    [losses.CROSS_ENTROPY, losses.BINARY_CROSS_ENTROPY, losses.SQUARED_ERROR],
    ids=["softmax", "sigmoid", "linear"],
)
def test_derivatives_by_hand_are_those_of_jax(loss, dtype):
    outputs, targets = outputs_and_targets(loss, dtype)
    automatic = jax.jit(jax.grad(lambda o: loss.per_step(o, targets).sum()))(outputs)
    assert_close(jax.jit(loss.derivative)(outputs, targets), automatic, rounding(dtype))


def test_cross_entropy_is_minus_the_log_of_the_probability_of_the_label(float64):
    logits, labels = outputs_and_targets(losses.CROSS_ENTROPY, float64)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = -np.log(np.take_along_axis(p, np.asarray(labels)[..., None], -1))[..., 0]
    assert_close(losses.cross_entropy(logits, labels), expected, rounding(float64))


def test_binary_cross_entropy_is_that_of_independent_coins(float64):
    logits, targets = outputs_and_targets(losses.BINARY_CROSS_ENTROPY, float64)
    p, y = 1 / (1 + np.exp(-np.asarray(logits))), np.asarray(targets)
    expected = -(y * np.log(p) + (1 - y) * np.log(1 - p)).sum(-1)
    assert_close(losses.binary_cross_entropy(logits, targets), expected, rounding(float64))


def test_squared_error_is_half_the_squared_distance(float64):
    outputs, targets = outputs_and_targets(losses.SQUARED_ERROR, float64)
    expected = 0.5 * ((np.asarray(outputs) - np.asarray(targets)) ** 2).sum(-1)
    assert_close(losses.squared_error(outputs, targets), expected, rounding(float64))


def test_masks_mark_the_valid_and_the_last_steps():
    lengths = jnp.array([2, 0, 3])
    np.testing.assert_array_equal(losses.valid_steps(3, lengths), [[1, 0, 1], [1, 0, 1], [0, 0, 1]])
    np.testing.assert_array_equal(losses.last_step(3, lengths), [[0, 0, 0], [1, 0, 0], [0, 0, 1]])
    assert losses.valid_steps(3, jnp.zeros((2, 5), int)).shape == (3, 2, 5)


def test_the_mean_is_over_the_steps_that_count_and_zero_if_none_does():
    per_step = jnp.array([[1.0, 7.0], [3.0, jnp.nan]])
    mask = losses.valid_steps(2, jnp.array([2, 1]))
    assert losses.mean(per_step, mask) == 11 / 3
    assert losses.mean(per_step, jnp.zeros((2, 2), bool)) == 0
    assert losses.mean(per_step[:1]) == 4
    assert losses.total(per_step, jnp.array([[0.5, 0.0], [2.0, 0.0]])) == 6.5


def test_a_masked_step_receives_no_gradient_even_if_it_is_not_a_number():
    gradient = jax.grad(losses.total)(jnp.array([2.0, jnp.nan]), jnp.array([0.5, 0.0]))
    np.testing.assert_array_equal(gradient, [0.5, 0.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.cross_entropy(jnp.ones((3, 4)), jnp.ones(3)), "labels is float32; expected integers"),
        (lambda: losses.cross_entropy(jnp.ones((3, 4)), jnp.array([0, 1])), r"labels has shape \(2,\)"),
        (lambda: losses.cross_entropy(jnp.ones((3, 4)), jnp.array([0, -1, 1])), "labels holds -1"),
        (lambda: losses.cross_entropy_derivative(jnp.ones((3, 4)), jnp.array([0, 9, 1])), "labels holds 9"),
        (
            lambda: losses.squared_error(jnp.ones((3, 4)), jnp.ones((3, 1))),
            r"targets \(3, 1\); they must be equal",
        ),
        (
            lambda: losses.squared_error(jnp.ones((3, 4)), jnp.ones((3, 4), int)),
            "targets is int32 but outputs float32",
        ),
        (lambda: losses.mean(jnp.ones(3), jnp.ones(3)), "mask is float32; expected bool"),
        (lambda: losses.total(jnp.ones((3, 4)), jnp.ones(3)), r"weights \(3,\)"),
    ],
)
def test_bad_targets_name_the_remedy(call, message):
    with pytest.raises(ValueError, match=message):
        call()
