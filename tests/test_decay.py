"""Curves of log-norms: by lag, their mean, their rate with an interval that covers, their horizon."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from rnn_jax import decay
from tests.cases import rounding

T = 7


def log_norms(dtype, seed=0):
    """Random entries [t − 1, k], −∞ for k > t."""
    values = np.random.default_rng(seed).normal(size=(T, T + 1))
    later = np.arange(T + 1)[None] > np.arange(1, T + 1)[:, None]
    return np.where(later, -np.inf, values).astype(dtype)


def plain_curve(values):
    """The mean over t, written out."""
    curve = []
    for n in range(T):
        times = [t for t in range(1, T + 1) if t >= n and values[t - 1, t] > -np.inf]
        curve.append(np.mean([values[t - 1, t - n] - values[t - 1, t] for t in times]) if times else np.nan)
    return np.array(curve)


def test_lag_n_of_a_row_is_n_steps_before_its_own_time(dtype):
    values = log_norms(dtype)
    lagged = np.asarray(jax.jit(decay.by_lag)(values))
    for t in range(1, T + 1):
        np.testing.assert_array_equal(lagged[t - 1, : t + 1], values[t - 1, t::-1])
        assert np.isnan(lagged[t - 1, t + 1 :]).all()


def test_the_curve_is_the_mean_over_those_that_have_the_lag_and_a_gradient(dtype):
    values = log_norms(dtype)
    run = jax.jit(decay.relative_log_norms)
    np.testing.assert_allclose(run(values), plain_curve(values), rtol=0, atol=rounding(dtype))
    values[2] = -np.inf  # a loss without a gradient
    values[-1] = -np.inf  # and the only one but one that has the last lag
    np.testing.assert_allclose(run(values), plain_curve(values), rtol=0, atol=rounding(dtype))
    values[-2] = -np.inf
    assert np.isnan(run(values)[-1])
    values[4, 3] = -np.inf  # one zero: the mean is −∞ and no other
    assert np.flatnonzero(np.isneginf(run(values))).tolist() == [2]


def test_vmap_is_the_batch_of_curves():
    batch = np.stack([log_norms("float32", seed) for seed in range(3)])
    together = jax.jit(jax.vmap(decay.relative_log_norms))(batch)
    np.testing.assert_allclose(together, [plain_curve(values) for values in batch], rtol=0, atol=1e-5)


def test_the_gradient_of_a_curve_is_finite_where_losses_have_none():
    values = log_norms("float32")
    values[2] = -np.inf
    gradient = jax.jit(jax.grad(lambda x: decay.relative_log_norms(x)[1]))(values)
    expected = np.zeros_like(values)
    for t in (1, 2, 4, 5, 6, 7):
        expected[t - 1, [t, t - 1]] = [-1 / 6, 1 / 6]
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


# --- Horizon. -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("floor", "lag"), [(0.5, 2), (0.3, 2), (0.2, 3), (1e-3, 10)])
def test_the_horizon_is_the_first_lag_below_the_floor(floor, lag):
    curve = 5.0 + np.log(0.5) * np.arange(20)
    assert decay.horizon(curve, floor=floor) == lag


def test_the_horizon_is_infinite_if_none_is_and_the_first_of_several():
    rises_again = np.log([[1, 0.1, 1, 0.1], [1, 1, 1, 0.5], [1, 1, 1e-300, 1], [1, 0.1, 1e-30, np.nan]])
    np.testing.assert_array_equal(decay.horizon(rises_again, floor=0.2), [1, np.inf, 2, 1])
    assert np.isnan(decay.horizon(np.array([-np.inf, 0.0])))


# --- Rate. ----------------------------------------------------------------------------------------------------


def random_walks(correlation, size=100, number=4000, drift=-0.1):
    """Curves whose increments are an AR(1) sequence around their drift, of unit variance."""
    rng = np.random.default_rng(11)
    noise = rng.normal(size=(number, size + 50)) * np.sqrt(1 - correlation**2)
    increments = np.zeros((number, size + 50))
    for i in range(1, size + 50):
        increments[:, i] = correlation * increments[:, i - 1] + noise[:, i]
    curves = np.cumsum(drift + increments[:, 50:], axis=1)
    return np.concatenate([np.zeros((number, 1)), curves], axis=1).astype(np.float32), drift


fit_rate = jax.jit(decay.fit_rate, static_argnums=(1, 2))


def covered(rate, drift):
    return float(((rate.low <= drift) & (drift <= rate.high)).mean())


def newey_west(increments):
    """The long-run variance with Bartlett's weights, written out, and the number of lags it reaches."""
    size = len(increments)
    reach, centred = int(np.ceil(1.3 * size**0.5)), increments - increments.mean()
    covariances = [(centred[j:] * centred[: size - j]).sum() / size for j in range(reach)]
    return covariances[0] + 2 * sum((1 - j / reach) * covariances[j] for j in range(1, reach)), reach


@pytest.mark.parametrize("size", [3, 40])
def test_the_interval_is_that_of_the_formula(size, float64):
    curve = np.cumsum(np.random.default_rng(4).normal(size=size + 1))
    variance, reach = newey_west(np.diff(curve))
    b = reach / size
    half_width = stats.t.ppf(0.975, 1.5 / b) * np.sqrt(variance / (1 - b + b * b / 3) / size)
    rate = fit_rate(curve, 0, size)
    np.testing.assert_allclose([rate.high - rate.rate, rate.rate - rate.low], half_width, rtol=1e-11)


@pytest.mark.parametrize(
    ("correlation", "size", "lowest"),
    [(-0.4, 100, 0.94), (0.0, 100, 0.935), (0.5, 100, 0.92), (0.5, 400, 0.935), (0.0, 12, 0.93)],
)
def test_the_interval_of_the_rate_covers_it_as_often_as_it_says(correlation, size, lowest):
    # 4000 curves: the standard error of a coverage of 95 % is .35 %. With correlation .5 between neighbours a
    # hundred increments are worth thirty, and the interval is a little short.
    curves, drift = random_walks(correlation, size)
    rate = fit_rate(curves, 0, size)
    assert lowest <= covered(rate, drift) <= 0.99
    np.testing.assert_allclose(rate.rate, (curves[:, -1] - curves[:, 0]) / size, rtol=1e-4, atol=1e-5)


def test_the_interval_of_least_squares_does_not():
    curves, drift = random_walks(0.0, 100, number=200)
    lags = np.arange(101)
    fits = [stats.linregress(lags, curve) for curve in curves]
    inside = [abs(fit.slope - drift) < stats.t.ppf(0.975, 99) * fit.stderr for fit in fits]
    assert np.mean(inside) < 0.4
    np.testing.assert_allclose(
        fit_rate(curves, 0, 100).r_squared, [fit.rvalue**2 for fit in fits], rtol=1e-3, atol=1e-5
    )


def test_a_straight_line_has_its_slope_and_no_interval(dtype):
    curve = np.asarray(3 - 0.25 * np.arange(40), dtype)
    rate = fit_rate(np.stack([curve, 0 * curve]), 5, 30)
    # To rounding: optimised code may fuse the sums of the mean and miss its last bit.
    np.testing.assert_allclose(rate.rate, [-0.25, 0], rtol=8 * jnp.finfo(dtype).eps)
    np.testing.assert_allclose(rate.low, rate.high, rtol=8 * jnp.finfo(dtype).eps)
    np.testing.assert_allclose(rate.r_squared, 1, rtol=rounding(dtype))


def test_only_the_window_counts():
    curve = np.concatenate([[9.0, -4.0], -0.5 * np.arange(10), [7.0]])
    assert fit_rate(curve, 2, 11).rate == -0.5


def test_a_gradient_that_is_zero_in_the_window_has_no_rate():
    curve = np.log(0.5) * np.arange(20.0)
    curve[9] = -np.inf
    rate = fit_rate(curve, 0, 19)
    assert [float(x) for x in rate[:3]] == [-np.inf, -np.inf, np.inf]
    assert np.isnan(rate.r_squared)
    assert np.isfinite(fit_rate(curve, 10, 19)).all()


class TestBadInput:
    def test_a_window_outside_the_curve_is_refused(self):
        with pytest.raises(ValueError, match="lags 3 to 20; expected 0 <= first < last <= 19"):
            decay.fit_rate(jnp.zeros(20), 3, 20)
        with pytest.raises(ValueError, match="lags -1 to 5"):
            decay.fit_rate(jnp.zeros(20), -1, 5)

    def test_a_window_of_two_increments_is_refused(self):
        with pytest.raises(ValueError, match="has 2 increments; expected at least 3"):
            decay.fit_rate(jnp.zeros(20), 3, 5)

    @pytest.mark.parametrize("floor", [0.0, 1.0, -1.0, float("nan")])
    def test_a_floor_that_is_no_share_is_refused(self, floor):
        with pytest.raises(ValueError, match=r"floor is .*; expected 0 < floor < 1"):
            decay.horizon(jnp.zeros(3), floor)

    @pytest.mark.parametrize("function", [decay.by_lag, decay.relative_log_norms])
    def test_a_batch_of_log_norms_is_refused_with_the_way_to_map_it(self, function):
        with pytest.raises(ValueError, match=r"shape \(2, 7, 8\); expected \(T, T \+ 1\).*vmap"):
            function(jnp.zeros((2, 7, 8)))

    def test_curves_without_a_lag_or_of_integers_are_refused(self):
        with pytest.raises(ValueError, match=r"with shape \(3, 0\); expected floating-point curves"):
            decay.horizon(jnp.zeros((3, 0)))
        with pytest.raises(ValueError, match="log_norms is int32"):
            decay.horizon(jnp.arange(4))
