"""Ω and flossing are what they are defined as, in value and derivative, where gradients vanish too."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import bptt, cells, jacobians, regularizers, spectrum, unroll
from tests.cases import STACKS, N, assert_close, example, random_cotangents

ELMAN, LSTM = cells.elman(), cells.lstm()
WEIGHTS = np.random.default_rng(1).normal(size=(12, 2, N))


def loss_of(cell, weights=WEIGHTS):
    """A loss that adds up over steps and sequences."""
    return lambda states: (cell.emit(states) * weights.astype(cell.emit(states).dtype)).sum()


@partial(jax.jit, static_argnums=0)
def pulled_and_deltas(cell, params, state, xs):
    """J_tᵀ δ_t and δ_t of every step and sequence, (T, B, S), from all Jacobians and BPTT."""
    states = unroll.unroll(cell, params, state, xs)
    deltas = bptt.bptt(cell, params, state, xs, jax.grad(loss_of(cell))(states)).deltas
    js = jax.vmap(partial(jacobians.state_jacobians, cell), (None, 0, 1), 1)(params, state, xs)
    flat = jnp.concatenate(jax.tree.leaves(deltas), axis=-1)
    return jnp.einsum("tbij,tbi->tbj", js, flat), flat


def ratios(cell, case):
    pulled, deltas = pulled_and_deltas(cell, *case)
    return np.linalg.norm(pulled, axis=-1) / np.linalg.norm(deltas, axis=-1)


def test_omega_is_the_sum_of_its_definition_for_each_sequence(float64):
    cell = STACKS["stack-reset-before"]
    case = example(cell, float64)
    omega = jax.jit(partial(regularizers.omega, cell, loss=loss_of(cell)))(*case)
    np.testing.assert_allclose(omega, ((ratios(cell, case) - 1) ** 2).sum(0), rtol=1e-11)


def test_the_derivative_of_omega_is_the_full_one(float64):
    case = example(LSTM, float64)
    direction = random_cotangents(case)

    @jax.jit
    def omega(distance):
        moved = jax.tree.map(lambda x, d: x + distance * d, case, direction)
        return regularizers.omega(LSTM, *moved, loss_of(LSTM)).sum()

    difference = (omega(1e-6) - omega(-1e-6)) / 2e-6
    assert abs(difference) > 1
    np.testing.assert_allclose(jax.jit(jax.grad(omega))(0.0), difference, rtol=1e-7)


def test_the_released_form_is_the_mean_of_squared_norms(float64):
    case = example(LSTM, float64)
    omega = jax.jit(partial(regularizers.omega_immediate, LSTM, loss=loss_of(LSTM)))(*case)
    np.testing.assert_allclose(omega, ((ratios(LSTM, case) ** 2 - 1) ** 2).mean(), rtol=1e-11)


def test_the_released_form_differentiates_the_recurrent_weights_where_they_stand_and_nothing_else(float64):
    cell = cells.leaky(1.0)  # Elman's equations, but its pullback reads the gates
    params, state, xs = example(cell, float64)
    # Of the second sequence only the first half has a loss, and of the first a part is too small to count.
    weights = WEIGHTS.copy()
    weights[6:, 1] = 0
    weights[:, 0] = 0
    weights[-1, 0] = 1e-9
    loss = loss_of(cell, weights)

    gradient = jax.jit(jax.grad(partial(regularizers.omega_immediate, cell, loss=loss)))(params, state, xs)
    states = jax.jit(partial(unroll.unroll, cell))(params, state, xs)
    deltas = jax.jit(partial(bptt.bptt, cell))(params, state, xs, jnp.asarray(weights)).deltas
    expected, number = np.zeros((N, N)), 0
    for delta, h in zip(np.asarray(deltas).reshape(-1, N), np.asarray(states).reshape(-1, N), strict=True):
        if delta @ delta >= 1e-20:
            v = delta * (1 - h**2)
            pulled = params.w_hh.T @ v
            excess = pulled @ pulled / (delta @ delta) - 1
            expected += 2 * excess * 2 * np.outer(v, pulled) / (delta @ delta)
            number += 1
    assert 8 < number < 18
    np.testing.assert_allclose(gradient.w_hh, expected / number, rtol=1e-10)
    assert not gradient.w_xh.any()
    assert not gradient.b_h.any()


@partial(jax.jit, static_argnums=0)
def value_and_gradient(omega, weights, params, state, xs):
    return jax.value_and_grad(lambda p: omega(ELMAN, p, state, xs, loss_of(ELMAN, weights)).sum())(params)


def test_the_length_of_the_gradient_does_not_matter_even_where_its_square_underflows():
    case, weights = example(ELMAN, "float32"), WEIGHTS.astype(np.float32)
    tiny = value_and_gradient(regularizers.omega, 2.0**-90 * weights, *case)
    assert_close(tiny, value_and_gradient(regularizers.omega, weights, *case), 1e-5)


@pytest.mark.parametrize("omega", [regularizers.omega, regularizers.omega_immediate])
def test_where_there_is_no_gradient_there_is_no_omega_and_no_nan(omega):
    early = WEIGHTS.astype(np.float32) * (np.arange(12) == 3)[:, None, None]
    for weights in (0 * early, early):
        value, gradient = value_and_gradient(omega, weights, *example(ELMAN, "float32"))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
        assert (value > 0) == gradient.w_hh.any() == weights.any()


def test_flossing_is_the_mean_square_of_the_leading_exponents(float64):
    params, state, xs = example(ELMAN, float64, batch=(), steps=40)

    @jax.jit
    def both(params):
        floss = regularizers.flossing(ELMAN, params, state, xs, k=2, burn_in=5, align=5, every=2)
        return floss, spectrum.lyapunov(ELMAN, params, state, xs, burn_in=5, align=5, every=2).values

    floss, values = both(params)
    np.testing.assert_allclose(floss, (values[:2] ** 2).mean(), rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda f, case: f(ELMAN, *case, lambda h: h.sum(-1)),
            r"loss\(states\) is float32\[12,2\]; expected one",
        ),
        (lambda f, case: f(ELMAN, case[0], case[1], case[2][:0], loss_of(ELMAN)), "no time step"),
    ],
)
@pytest.mark.parametrize("omega", [regularizers.omega, regularizers.omega_immediate])
def test_bad_arguments_name_the_remedy(omega, call, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(partial(call, omega), example(ELMAN, "float32"))


def test_what_a_form_cannot_take_names_the_remedy():
    deep, plain = STACKS["stack"], cells.gru_reset_before()
    for cell in (deep, plain, plain.step):
        with pytest.raises(ValueError, match=r"with one recurrent product.*Use omega\(\)"):
            regularizers.omega_immediate(cell, None, None, None, None)
    with pytest.raises(ValueError, match=r"expected leaves \(\*B, N\)"):
        regularizers.omega(lambda p, s, x: p * s, jnp.ones(()), jnp.ones(()), jnp.ones(3), jnp.sum)


def test_omega_counts_no_step_below_the_range_of_half_precision():
    def shrink(params, state, x):
        return (params * state + x).astype(state.dtype)

    xs = jnp.ones((20, 1), jnp.float16)
    value, gradient = jax.jit(
        jax.value_and_grad(
            lambda p: regularizers.omega(shrink, p, jnp.zeros(1, jnp.float16), xs, lambda s: s[-1].sum())
        )
    )(jnp.float16(0.5))
    assert 3.5 <= value <= 5
    assert np.isfinite(gradient)


def test_the_released_form_moves_no_readout_that_the_loss_reads(float64):
    cell = cells.elman(cells.identity)
    params = cells.ElmanParams(w_hh=jnp.diag(jnp.array([0.5, 2.0])), w_xh=jnp.ones((2, 1)), b_h=jnp.zeros(2))

    def value(params, readout):
        loss = lambda h: (h[-1] * readout).sum()
        return regularizers.omega_immediate(cell, params, jnp.zeros(2), jnp.ones((4, 1)), loss)

    d_params, d_readout = jax.jit(jax.grad(value, (0, 1)))(params, jnp.array([1.0, 2.0]))
    assert not d_readout.any()
    assert d_params.w_hh.any()
