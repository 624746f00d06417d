"""How fast gradients decay with the lag: curves of log-norms, their rate and where they end.

    by lag      ln‖∂L_t/∂s_{t−n}‖  from  ln‖∂L_t/∂s_k‖,  n = t − k
    curve       y_n = mean over t of ln(‖∂L_t/∂s_{t−n}‖ / ‖∂L_t/∂s_t‖)
    rate        (y_last − y_first) / (last − first), in nats a lag: the mean increment of y
    horizon     the smallest n with exp(y_n − y_0) < floor

A log-norm of a product of Jacobians is a random walk with drift, one increment a factor. The residuals of a
straight line through it are as dependent as the walk itself, and the usual interval of least squares, which
takes them for independent, is several times too narrow. The increments depend on each other little, and their
mean is the rate. The tests show both.

`by_lag` and `relative_log_norms` take one sequence, and `jax.vmap` is the batch; `horizon` and `fit_rate` take curves
with any axes before the lags.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from rnn_jax import tables


def by_lag(log_norms: ArrayLike) -> jax.Array:
    """From the source of the gradient and the time it reaches, (t, k), to the source and the lag, (t, t − k).

    Args:
      log_norms: `(T, T + 1)`, entry [t − 1, k], such as `flow.Profile.log_norms`.

    Returns:
      `(T, T + 1)`, entry [t − 1, n] for lag n, k = t − n; NaN where n > t, as there is no such lag (−∞ is a
      gradient that is zero).

    Raises:
      ValueError: an array of another shape.

    >>> by_lag(jnp.array([[-1.0, 0.0, -jnp.inf], [-2.0, -1.0, 0.0]]))
    Array([[ 0., -1., nan],
           [ 0., -1., -2.]], dtype=float32)
    """
    log_norms = _by_time(log_norms)
    t, n = _times_and_lags(log_norms)
    return jnp.where(n <= t, jnp.take_along_axis(log_norms, jnp.maximum(t - n, 0), axis=1), jnp.nan)


def relative_log_norms(log_norms: ArrayLike) -> jax.Array:
    """The decay curve of one sequence: y_n = mean over t of ln(‖∂L_t/∂s_{t−n}‖ / ‖∂L_t/∂s_t‖).

    Args:
      log_norms: `(T, T + 1)`, entry [t − 1, k], such as `flow.Profile.log_norms`.

    Returns:
      `(T,)`, entry n for lag n = 0 … T − 1: the mean over those t that have the lag (t ≥ n) and a loss with a
      gradient (‖∂L_t/∂s_t‖ > 0); NaN if there are none. It is −∞ if one of the gradients is exactly zero.
      Different lags are means over different t: for a curve of one t take its row of `by_lag`.

    Raises:
      ValueError: an array of another shape.

    >>> relative_log_norms(jnp.array([[-1.0, 0.0, -jnp.inf], [-1.0, 1.0, 2.0]]))
    Array([ 0., -1.], dtype=float32)
    """
    lagged = by_lag(log_norms)
    t, n = _times_and_lags(lagged)
    counts = (n <= t) & (lagged[:, :1] > -jnp.inf)
    # A subtraction that is not wanted could be of infinities: NaN, which would pass into a gradient.
    start = jnp.where(counts, lagged[:, :1], 0)
    relative = jnp.where(counts, lagged, 0) - start
    number = counts.sum(0)
    mean = relative.sum(0) / jnp.maximum(number, 1)
    return jnp.where(number > 0, mean, jnp.nan)[:-1]


def horizon(log_norms: ArrayLike, floor: float = 1e-3) -> jax.Array:
    """The effective horizon: the smallest lag at which a gradient is below `floor` of that at lag 0.

    Args:
      log_norms: curves `(…, lags)`, from lag 0 on.
      floor: in (0, 1).

    Returns:
      `(…)`, floating point: +∞ where no lag is below, NaN where the curve does not start from a finite number.
      A curve that rises again later is not followed there.

    Raises:
      ValueError: `floor` out of range, or no lag.

    >>> horizon(jnp.log(0.5) * jnp.arange(20.0))  # 2⁻¹⁰ is the first below 1/1000
    Array(10., dtype=float32)
    """
    log_norms = _curves(log_norms)
    if not 0 < floor < 1:
        raise ValueError(f"floor is {floor}; expected 0 < floor < 1, a share of the gradient at lag 0.")
    start = log_norms[..., :1]
    below = log_norms - start < math.log(floor)
    first = jnp.argmax(below, axis=-1).astype(log_norms.dtype)
    reached = jnp.where(below.any(-1), first, jnp.inf)
    return jnp.where(jnp.isfinite(start[..., 0]), reached, jnp.nan)


class Rate(NamedTuple):
    """The rate of curves on a window of lags, in nats a lag, each `(…)`.

    Attributes:
      rate: the mean increment.
      low, high: its 95 % interval.
      r_squared: of the least-squares line, how straight the curve is; 1 for a constant one.
    """

    rate: jax.Array
    low: jax.Array
    high: jax.Array
    r_squared: jax.Array

    def __repr__(self) -> str:
        return tables.render(self, 0, _layout)


def fit_rate(log_norms: ArrayLike, first: int, last: int) -> Rate:
    """The rate at which curves grow (positive) or decay (negative) on a window of lags, with a 95 % interval.

        rate = (y_last − y_first) / M,  M = last − first increments
        rate ± t_ν √(Ω / M),  Ω = (γ_0 + 2 Σ_{j<H} (1 − j/H) γ_j) / (1 − b + b²/3)

    γ_j are the autocovariances of the increments, and the sum is their long-run variance after Newey and West
    (1987) with Bartlett weights over H = 1.3 √M lags; ν = 3 / (2b) with b = H/M is the number of degrees of
    freedom of that estimate (Lazarus, Lewis, Stock and Watson 2018, for H and ν). The denominator undoes what
    subtracting the mean takes from it (Kiefer and Vogelsang 2005). The interval is that of a stationary
    sequence of increments: leave the transient of the first lags out of the window. In simulations it covers 94 to 96 %
    for independent increments, and 93 % for a hundred whose neighbours have a correlation of one half.

    Args:
      log_norms: curves `(…, lags)`, entry n for lag n.
      first, last: the window, both included: 0 ≤ first, first + 3 ≤ last < lags.

    Returns:
      `Rate`. With −∞ in the window the rate is −∞, the interval unbounded and r_squared NaN.

    Raises:
      ValueError: a window out of range, or with fewer than three increments.

    >>> jax.jit(fit_rate, static_argnums=(1, 2))(-0.25 * jnp.arange(50.0), 10, 40)
    nats per lag, with a 95 % interval
     rate    low   high  r²
    -0.25  -0.25  -0.25   1
    """
    log_norms = _curves(log_norms)
    lags = log_norms.shape[-1]
    if not 0 <= first < last < lags:
        raise ValueError(
            f"the window is lags {first} to {last}; expected 0 <= first < last <= {lags - 1}, the last lag of the "
            "curve."
        )
    if last - first < 3:
        raise ValueError(
            f"the window of lags {first} to {last} has {last - first} increments; expected at least 3, as an "
            "interval is estimated from how they vary. Widen it."
        )
    y = log_norms[..., first : last + 1]
    zero = jnp.isneginf(y).any(-1)
    y = jnp.where(zero[..., None], 0, y)
    increments = jnp.diff(y)
    rate = increments.mean(-1)
    half_width = _half_width(increments - rate[..., None])
    return Rate(
        rate=jnp.where(zero, -jnp.inf, rate),
        low=jnp.where(zero, -jnp.inf, rate - half_width),
        high=jnp.where(zero, jnp.inf, rate + half_width),
        r_squared=jnp.where(zero, jnp.nan, _r_squared(y)),
    )


def _half_width(centred: jax.Array) -> jax.Array:
    """Half the 95 % interval of the mean of a stationary sequence, from its deviations from the mean (…, M)."""
    from scipy.special import stdtrit  # a dependency of JAX, slow to import

    size = centred.shape[-1]
    reach = math.ceil(1.3 * math.sqrt(size))  # at most M, as M ≥ 3
    share = reach / size
    # With Bartlett's weights the long-run variance is the mean square of the sums of `reach` neighbours.
    summed = jnp.cumsum(jnp.pad(centred, [(0, 0)] * (centred.ndim - 1) + [(reach, reach)]), axis=-1)
    sums = summed[..., reach:] - summed[..., :-reach]
    variance = (sums * sums).sum(-1) / (reach * size * (1 - share + share**2 / 3))
    return float(stdtrit(1.5 / share, 0.975)) * jnp.sqrt(variance / size)


def _r_squared(y: jax.Array) -> jax.Array:
    """The squared correlation of curves (…, M + 1) with the lag."""
    x = jnp.arange(y.shape[-1], dtype=y.dtype) - (y.shape[-1] - 1) / 2
    deviations = y - y.mean(-1, keepdims=True)
    square = (deviations * deviations).sum(-1)
    flat = square == 0
    return jnp.where(
        flat,
        1,
        jnp.matmul(deviations, x, precision="highest") ** 2 / ((x * x).sum() * jnp.where(flat, 1, square)),
    )


def _layout(rate: Rate) -> str:
    """One row a curve, those at both ends if they are many."""
    fields = [np.ravel(field) for field in rate]
    rows = [[tables.number(field[i]) for field in fields] for i in tables.ends(fields[0].size, 10)]
    return f"nats per lag, with a 95 % interval\n{tables.columns(['rate', 'low', 'high', 'r²'], rows)}"


def _times_and_lags(array: jax.Array) -> tuple[jax.Array, jax.Array]:
    """t = 1 … T down the rows and n = 0 … T along the columns of an array (T, T + 1)."""
    shape = array.shape
    return jnp.arange(1, shape[0] + 1)[:, None], jnp.arange(shape[1])[None]


def _by_time(log_norms: ArrayLike) -> jax.Array:
    log_norms = jnp.asarray(log_norms)
    if log_norms.ndim != 2 or log_norms.shape[1] != log_norms.shape[0] + 1:
        raise ValueError(
            f"log_norms has shape {log_norms.shape}; expected (T, T + 1), entry [t - 1, k], of one sequence. For a "
            "batch, jax.vmap over it."
        )
    return log_norms


def _curves(log_norms: ArrayLike) -> jax.Array:
    log_norms = jnp.asarray(log_norms)
    if log_norms.ndim == 0 or log_norms.shape[-1] == 0 or not jnp.issubdtype(log_norms.dtype, jnp.floating):
        raise ValueError(
            f"log_norms is {log_norms.dtype} with shape {log_norms.shape}; expected floating-point curves "
            "(…, lags), lags last."
        )
    return log_norms
