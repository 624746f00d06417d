"""What each cure does to the gradient-flow profile of a network that fails without it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnn_jax import bptt, cells, clipping, constraints, decay, flow, initializers, regularizers, unroll

N, D, T = 16, 2, 40
XS = np.random.default_rng(2).normal(size=(T, D))
TANH, LINEAR, LSTM = cells.elman(), cells.elman(cells.identity), cells.lstm()


@pytest.fixture(autouse=True)
def _in_float64(float64):
    pass


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def elman(gain):
    """Gaussian weights of the same draw: gradients vanish at g = 0.4 and explode at g = 5."""
    return cells.ElmanParams(
        w_hh=gain / np.sqrt(N) * normal(N, N), w_xh=normal(N, D, seed=1), b_h=jnp.zeros(N)
    )


@partial(jax.jit, static_argnums=0)
def profile(cell, params, state, xs):
    """The profile of L_t = Σ_i h_t,i."""
    loss = lambda states: cell.emit(states).sum(-1)
    return flow.profile(cell, params, state, xs, loss, lags=0, directions=0)


def curve(cell, params, state=None, xs=None):
    """Mean ln(‖∂L_t/∂s_{t−n}‖ / ‖∂L_t/∂s_t‖), n = 0 … T − 1."""
    state = cell.initial_state(params) if state is None else state
    return np.asarray(
        decay.relative_log_norms(profile(cell, params, state, XS if xs is None else xs).log_norms)
    )


def rate(curve):
    """Nats a lag, over the first 30 lags."""
    return (curve[30] - curve[0]) / 30


@partial(jax.jit, static_argnums=(0, 2, 3))
def descend(loss, params, updates=120, step_size=0.02):
    """Adam on a loss: the parameters reached, and the course of the loss."""
    optimiser = optax.adam(step_size)

    def update(carry, _):
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params)
        change, state = optimiser.update(gradient, state, params)
        return (optax.apply_updates(params, change), state), value

    (params, _), course = jax.lax.scan(update, (params, optimiser.init(params)), length=updates)
    return params, course


def test_the_networks_fail_without_a_cure():
    assert rate(curve(TANH, elman(0.4))) < -1
    assert decay.horizon(curve(TANH, elman(0.4))) < 8
    assert rate(curve(TANH, elman(5.0))) > 0.15
    assert rate(curve(LINEAR, elman(0.4))) < -0.7


def test_clipping_along_time_bounds_what_is_passed_on_and_so_the_gradient():
    params, cotangents = elman(5.0), jnp.ones((T, N))
    gradients = jax.jit(bptt.bptt, static_argnums=0)
    plain, clipped = (
        gradients(cell, params, jnp.zeros(N), XS, cotangents)
        for cell in (TANH, clipping.clip_along_time(TANH, 2.0))
    )
    assert clipping.norms(plain.deltas).max() > 1e4
    # The longest δ_t: the immediate one, and what a clipped one becomes in one step.
    assert clipping.norms(clipped.deltas).max() <= np.sqrt(N) + 2.0 * np.linalg.norm(params.w_hh, 2)
    assert optax.tree.norm(clipped.params) < 1e-2 * optax.tree.norm(plain.params)


def of_the_last_state(states):
    return states[-1].sum()


def omega(params):
    return regularizers.omega(TANH, params, jnp.zeros(N), XS, of_the_last_state)


def omega_immediate(params):
    return regularizers.omega_immediate(TANH, params, jnp.zeros(N), XS, of_the_last_state)


@pytest.mark.parametrize("form", [omega, omega_immediate])
def test_descending_omega_brings_the_gradient_of_the_last_loss_across_all_of_time(form):
    params, course = descend(form, elman(0.4))
    assert course[-1] < 0.3 * course[0]
    assert rate(curve(TANH, params)) > -0.25
    last = profile(TANH, params, jnp.zeros(N), XS).log_norms[-1]
    assert last[0] - last[-1] > np.log(1e-4)  # from e^−46


def flossing(params):
    return regularizers.flossing(TANH, params, jnp.zeros(N), XS, k=2, burn_in=0, align=10)


def test_flossing_before_training_brings_the_leading_exponents_to_zero():
    params, course = descend(flossing, elman(0.4))
    assert course[0] > 1
    assert course[-1] < 1e-3
    assert abs(rate(curve(TANH, params))) < 0.1


def test_descending_the_penalty_makes_a_linear_network_keep_the_length_of_gradients():
    def penalty(params):
        return constraints.orthogonality_penalty(params.w_hh)

    params, _ = descend(penalty, elman(0.4))
    assert np.abs(curve(LINEAR, params)).max() < 0.05


def task(params):
    """Far outputs to be learnt, which moves the weights."""
    h = unroll.final_state(LINEAR, params, jnp.zeros(N), XS)
    return ((h - 10) ** 2).mean()


def test_cayley_weights_keep_it_exactly_whatever_the_training_does_and_free_ones_do_not():
    start = elman(1.0)._replace(w_hh=initializers.orthogonal()(jax.random.key(0), (N, N), float))
    form = constraints.cayley_inverse(start.w_hh)

    def weights(free):
        return start._replace(w_hh=constraints.cayley(free, form.signs))

    free, _ = descend(lambda free: task(weights(free)), form.free)
    assert np.abs(weights(free).w_hh - start.w_hh).max() > 0.3
    assert np.abs(curve(LINEAR, weights(free))).max() < 1e-12
    unheld, _ = descend(lambda w_hh: task(start._replace(w_hh=w_hh)), start.w_hh)
    assert np.abs(curve(LINEAR, start._replace(w_hh=unheld))).max() > 1


def test_a_margin_bounds_the_rate_from_both_sides():
    u, v = (constraints.cayley(normal(N, N, seed=s)) for s in (3, 4))
    params = elman(1.0)._replace(w_hh=constraints.margin(u, 3 * normal(N, seed=5), v, 0.1))
    lags = np.arange(T)
    logs = curve(LINEAR, params)
    assert (logs <= lags * np.log(1.1) + 1e-12).all()
    assert (logs >= lags * np.log(0.9) - 1e-12).all()
    assert np.abs(logs).max() > 0.05


def test_spectral_normalisation_stops_an_explosion_and_does_not_start_what_vanishes():
    params = elman(5.0)
    made = constraints.spectral_normalize(params.w_hh, normal(N, seed=6), steps=300)
    lagged = decay.by_lag(profile(TANH, params._replace(w_hh=made.w), jnp.zeros(N), XS).log_norms)
    growth = np.diff(lagged, axis=1)
    assert np.nanmax(growth) <= 1e-9
    assert np.nanmean(growth) < -0.3


def test_zoneout_lets_gradients_pass_where_units_wait():
    params = elman(0.4)
    masks = cells.zoneout_masks(jax.random.key(0), jnp.zeros(N), T, rates=0.9)
    means = cells.zoneout_means(jnp.zeros(N), T, rates=0.9)
    for mask in (masks, means):
        zoned = curve(cells.zoneout(TANH), params, jnp.zeros(N), (XS, mask))
        assert -0.2 < rate(zoned) < 0
    # At the mean J_t = 0.9 I + 0.1 diag(f') W_hh.
    assert rate(zoned) > np.log(0.9 - 0.1 * np.linalg.norm(params.w_hh, 2))


def test_recurrent_dropout_leaves_the_mean_square_of_a_step_larger_by_one_over_one_minus_p():
    params, rows = elman(1.0), 4000
    masks = cells.dropout_masks(jax.random.key(0), jnp.zeros((rows, N)), 1, rate=0.5)[0]
    delta = normal(N, seed=7)

    def back(mask):
        step = lambda h: cells.recurrent_dropout(LINEAR).step(params, h, (XS[0], mask))
        return jax.vjp(step, jnp.zeros(N))[1](delta)[0]

    squares = np.asarray((jax.jit(jax.vmap(back))(masks) ** 2).sum(-1))
    plain = np.asarray(params.w_hh.T @ delta)
    assert abs(squares.mean() / (plain @ plain) - 2) < 4 * squares.std() / np.sqrt(rows) / (plain @ plain)


def test_layer_normalisation_makes_the_profile_blind_to_the_scale_of_the_weights():
    cell = cells.layer_norm_elman()
    small, large = (
        cells.LayerNormElmanParams(
            w_hh=g * elman(1.0).w_hh, w_xh=g * elman(1.0).w_xh, b_h=jnp.zeros(N), gain=jnp.ones(N)
        )
        for g in (0.4, 4.0)
    )
    np.testing.assert_allclose(curve(cell, large)[:20], curve(cell, small)[:20], atol=1e-2)
    plain = [curve(TANH, cells.ElmanParams(*p[:3])) for p in (small, large)]
    assert abs(rate(plain[1]) - rate(plain[0])) > 0.5


def test_a_forget_bias_sets_the_timescale_and_chrono_the_longest_one():
    nothing = cells.LSTMParams(w_hh=jnp.zeros((4, N, N)), w_xh=jnp.zeros((4, N, D)), b_h=jnp.zeros((4, N)))
    # Published timescales at zero weights, 1 / −ln σ(b_f).
    for bias, timescale in ((0.0, 1.4427), (1.0, 3.1922), (np.log(99), 99.4992)):
        params = nothing._replace(b_h=nothing.b_h.at[1].set(bias).at[2].set(1.0))
        of_the_last = profile(LSTM, params, LSTM.initial_state(params), XS).log_norms[-1]
        np.testing.assert_allclose(1 / np.diff(of_the_last[:-1]), timescale, rtol=1e-4)
    weights = nothing._replace(w_hh=normal(4, N, N) / np.sqrt(N) / 2, w_xh=normal(4, N, D, seed=1) / 2)
    chrono = weights._replace(b_h=initializers.chrono(200.0)(jax.random.key(0), (4, N), float))
    assert decay.horizon(curve(LSTM, weights)) < 25
    assert decay.horizon(curve(LSTM, chrono), 0.1) == np.inf
