"""Results drawn on an axis of yours.

    norms_against_lag              ln‖∂h_T/∂h_{T−n}‖ or another curve of norms, with bound, rate and horizon
    norms_by_time                  the map of ‖∂L_t/∂s_k‖, t against k
    singular_values_against_lag    all σ_i of ∂h_T/∂h_{T−n}: the fan that opens with n
    lyapunov_spectrum              λ_i with their errors, and what theory says
    shares_by_lag                  how much of ∂L/∂θ comes across each lag
    components_by_lag              through which component of the state it comes
    horizon_over_training          the effective horizon while the network learns
    norms_over_training            the gradient at a few lags while it learns
    norms_by_lag_over_training     the same at all lags, as a map

Every function takes a matplotlib axis and results with values (not under `jit`), draws, labels what has no label
yet, and returns the axis. Nothing else changes: no figure is made or saved, no setting is touched. The legend is drawn
anew each time, from all that is on the axis; for one of the whole figure take `axis.get_legend_handles_labels()` and
`axis.get_legend().remove()`.

Norms go in as natural logarithms, as everywhere in the package, and are drawn as powers of ten however large or
small they are: the axis is linear in log₁₀. A norm that is exactly zero has no place on it, and is marked at the lower
edge. One result, or one of a batch: index it, or average over it, first.

Importing this module does not import matplotlib. It draws as your settings say; `matplotlib.rc_context(SETTINGS)`
around making *and* saving a figure gives the look of the project's own.

>>> from matplotlib.figure import Figure
>>> axis = Figure().add_subplot()
>>> for rate, name, line in zip((-0.5, -0.1), ("Elman", "GRU"), LINES, strict=False):
...     axis = norms_against_lag(axis, rate * np.arange(50), label=name, line=line)
>>> [text.get_text() for text in axis.get_legend().get_texts()]
['Elman', 'GRU']
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import checks, decay, drawing
from rnn_jax.decay import Rate
from rnn_jax.recording import Records
from rnn_jax.spectrum import Lyapunov, SingularValues
from rnn_jax.types import PyTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINES: tuple[Mapping[str, Any], ...] = (
    {"color": "#56B4E9", "linestyle": (0, (1, 1)), "marker": "v"},
    {"color": "#0072B2", "linestyle": (0, (4, 1.5)), "marker": "o"},
    {"color": "#D55E00", "linestyle": (0, (6, 1.5, 1, 1.5)), "marker": "^"},
    {"color": "#CC79A7", "linestyle": (0, (2, 1)), "marker": "D"},
    {"color": "#009E73", "linestyle": "-", "marker": "s"},
    {"color": "#000000", "linestyle": "-", "marker": "x"},
)
"""Okabe and Ito's colours, told apart by colour-blind readers, each with a line and a marker of its own for grey."""

SETTINGS: Mapping[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "legend.frameon": False,
}
"""Text sizes and strokes, for `matplotlib.rc_context`."""

_BOUND: dict[str, Any] = {"linestyle": (0, (5, 4)), "linewidth": 1.0}
_FIT: dict[str, Any] = {"linestyle": "-", "linewidth": 0.8, "marker": "|", "markersize": 9, "zorder": 1.8}
_HORIZON: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 11, "markerfacecolor": "none"}
_APART = (1, 2, 5, 4, 3, 0)
"""Which of `LINES` to take first: the most different."""

_LEVEL: dict[str, Any] = {"color": drawing.GREY, "linewidth": 0.9, "linestyle": "-", "zorder": 1.6}


def norms_against_lag(
    axis: "Axes",
    log_norms: jax.Array,
    *,
    label: str,
    line: Mapping[str, Any] = LINES[1],
    lags: Sequence[int] | jax.Array | None = None,
    bound: jax.Array | None = None,
    fit: Rate | None = None,
    window: tuple[int, int] | None = None,
    floor: float | None = None,
) -> "Axes":
    """A curve of norms against the lag; call it again for the next curve.

    Args:
      axis: to draw on.
      log_norms: in nats, entry n for lag n, `(lags,)`: `products.log_norms`, `decay.relative_log_norms`, a row of
        `decay.by_lag`.
      label: its name in the legend. What the norm is of says the label of the axis: `axis.set_ylabel(…)`.
      line: colour, linestyle and marker, one of `LINES`.
      lags: lags of the entries, increasing, `(lags,)`; 0, 1, 2, … if not given. For a `streaming.Stream` its `factors`.
      bound: ln of an upper bound of each, `(lags,)`, such as `products.log_bound`: dashed, and cut off where it leaves
        the range of the curves.
      fit: the rate of the curve on `window`, `decay.fit_rate(log_norms, *window)`: a thin straight line, with the rate
        and its interval in the legend.
      window: first and last lag of the fit.
      floor: mark the effective horizon, the first lag at which the norm is below this share of that at the first.

    Raises:
      ValueError: an array of another shape, NaN, or numbers that do not fit together.

    >>> from matplotlib.figure import Figure
    >>> curve = -0.25 * np.arange(50.0)
    >>> axis = norms_against_lag(
    ...     Figure().add_subplot(), curve, label="GRU", fit=decay.fit_rate(curve, 10, 40), window=(10, 40), floor=1e-3
    ... )
    >>> axis.get_legend().get_texts()[0].get_text()
    'GRU: −0.25 nats per step, horizon 28'
    """
    logs = drawing.numbers("log_norms", log_norms, "(lags,)", 1)
    x = drawing.increasing("lags", lags, logs.size)
    limit = None if bound is None else drawing.numbers("bound", bound, f"({logs.size},)", 1, size=logs.size)
    name = label
    if (fit is None) != (window is None):
        raise ValueError("fit and window belong together; give both, fit=decay.fit_rate(log_norms, *window).")
    if window is not None and not x[0] <= window[0] < window[1] <= x[-1]:
        raise ValueError(f"window is {window}; expected two lags, {x[0]:g} <= first < last <= {x[-1]:g}.")
    if fit is not None:
        if not np.array_equal(x, np.arange(x.size)):
            raise ValueError(f"fit with lags {x}: a rate is per entry; fit a curve of all lags, 0, 1, 2, …")
        rate, low, high = (float(drawing.numbers("fit", part, "()", 0, infinite=True)) for part in fit[:3])
        name += f": {drawing.interval(rate, low, high)} nats per step"
    if floor is not None:
        horizon = float(decay.horizon(jnp.asarray(logs), floor))
        reached = math.isfinite(horizon)
        name += f", horizon {x[int(horizon)]:g}" if reached else f", no horizon up to {x[-1]:g}"

    powers = drawing.curve(axis, x, logs, name, line)
    if limit is not None:
        # The curves alone set the limits: a bound that grows would flatten all of them.
        limits = axis.dataLim.frozen()
        axis.plot(x, drawing.drawable(limit), color=line["color"], **_BOUND)
        axis.dataLim.set(limits)
        drawing.once(axis, "upper bound, in the colour of its curve", color=drawing.GREY, **_BOUND)
    if fit is not None and window is not None and math.isfinite(rate):
        first, last = window
        start = np.interp(first, x, powers)
        end = start + rate / math.log(10) * (last - first)
        axis.plot([first, last], [start, end], color=line["color"], **_FIT)
        drawing.once(axis, "rate, over its window of lags", color=drawing.GREY, **_FIT)
    if floor is not None:
        if reached and math.isfinite(powers[int(horizon)]):
            axis.plot(x[int(horizon)], powers[int(horizon)], color=line["color"], **_HORIZON)
        drawing.once(axis, f"horizon: first below {floor:g} of lag {x[0]:g}", color=drawing.GREY, **_HORIZON)
    axis.set_xlim(axis.dataLim.x0, auto=True)
    drawing.describe(axis, "lag $n$, in steps", "norm")
    drawing.powers_of_ten(axis)
    return drawing.with_legend(axis)


def norms_by_time(axis: "Axes", log_norms: jax.Array, *, decades: tuple[int, int] | None = None) -> "Axes":
    """The map of ‖∂L_t/∂s_k‖: each row a loss, each column a state that its gradient reaches.

    Args:
      axis: to draw on; a colour bar is put beside it.
      log_norms: in nats, `(T, T + 1)`, entry [t − 1, k]: `flow.Profile.log_norms` or a leaf of its
        `component_log_norms`. Exact zeros are hatched, and k > t, where there is nothing, is white.
      decades: lowest and highest power of ten of the colours, so that several maps share them; the range of the
        norms if not given, at most 16 of them.

    Raises:
      ValueError: an array of another shape, NaN, decades that are not increasing.

    >>> from matplotlib.figure import Figure
    >>> t, k = np.arange(1, 9)[:, None], np.arange(9)
    >>> axis = norms_by_time(Figure().add_subplot(), np.where(k <= t, -0.5 * (t - k), -np.inf))
    >>> axis.get_xlabel(), axis.get_ylabel()
    ('state at step $k$', 'loss at step $t$')
    """
    logs = drawing.numbers("log_norms", log_norms, "(T, T + 1), entry [t - 1, k]", 2)
    steps = logs.shape[0]
    if logs.shape != (steps, steps + 1):
        raise ValueError(f"log_norms has shape {logs.shape}; expected (T, T + 1), entry [t - 1, k].")
    t, k = np.arange(1, steps + 1), np.arange(steps + 1)
    empty = k > t[:, None]
    drawing.draw_map(
        axis, drawing.Map(k, t, logs, empty, r"$\|\,\partial L_t\, /\, \partial s_k\,\|$", decades)
    )
    axis.invert_yaxis()
    # The border of what there is, drawn so that white is seen to be outside of it.
    axis.step(k + 0.5, k + 0.5, where="post", color=drawing.GREY, linewidth=0.6)
    axis.set(xlim=(-0.5, steps + 0.5), ylim=(steps + 0.5, 0.5), aspect="equal")
    drawing.describe(axis, "state at step $k$", "loss at step $t$")
    drawing.explain_map(axis, logs[~empty], "none: the state is later, $k > t$")
    return axis


def singular_values_against_lag(
    axis: "Axes", result: SingularValues, lags: Sequence[int] | jax.Array | None = None
) -> "Axes":
    r"""All singular values of ∂h_T/∂h_{T−n} against n: a fan, with its edges and its middle drawn out.

    Args:
      axis: to draw on.
      result: of `spectrum.log_singular_values`, values `(L, S)`. Those that are not resolved are crosses if they are
        numbers and left out if not, and counted in the legend.
      lags: the L lags it was asked for, increasing; 0, 1, 2, … if not given.

    Raises:
      ValueError: arrays of other shapes, NaN, lags that do not increase.

    >>> from matplotlib.figure import Figure
    >>> values = -np.arange(10)[:, None] * np.array([0.1, 0.5, 2.0])
    >>> result = SingularValues(values, np.ones((10, 3), bool), np.zeros((10, 3)))
    >>> axis = singular_values_against_lag(Figure().add_subplot(), result)
    >>> [text.get_text() for text in axis.get_legend().get_texts()]
    ['$\\sigma_{1}$, largest', '$\\sigma_{2}$', '$\\sigma_{3}$, smallest', '$\\sigma = 1$']
    """
    logs = drawing.numbers("result.values", result.values, "(L, S)", 2)
    resolved = np.asarray(result.resolved, bool)
    if resolved.shape != logs.shape:
        raise ValueError(
            f"result.resolved has shape {resolved.shape}; expected {logs.shape}, as result.values."
        )
    x = drawing.increasing("lags", lags, logs.shape[0])
    size = logs.shape[1]
    shown = np.where(resolved & np.isfinite(logs), logs, np.nan) / math.log(10)

    drawn_out = {1: LINES[1], (size + 1) // 2: LINES[4], size: LINES[2]}
    rest = [i - 1 for i in range(1, size + 1) if i not in drawn_out]
    axis.plot(x, shown[:, rest], color="0.6", linewidth=0.7, zorder=1.8)
    for number, (i, line) in enumerate(drawn_out.items()):
        what = {1: ", largest", size: ", smallest"}.get(i, "") if size > 1 else ""
        count = np.isfinite(shown[:, i - 1]).sum()
        if count < x.size:
            what += f" ({count} of {x.size} lags)"
        axis.plot(
            x, shown[:, i - 1], label=rf"$\sigma_{{{i}}}${what}", **line, **drawing.markers(x.size, number)
        )
    if rest:
        drawing.once(axis, "the others", color="0.6", linewidth=0.7)
    lost = ~np.isfinite(shown)
    if lost.any():
        lags_of, indices = np.nonzero(lost & np.isfinite(logs))
        left_out = lost.sum() - lags_of.size
        look: dict[str, Any] = {"color": "0.45", "marker": "x", "markersize": 2.5, "markeredgewidth": 0.5}
        look["linestyle"] = "none"
        axis.plot(x[lags_of], logs[lags_of, indices] / math.log(10), **look)
        omitted = f",\n{left_out} of them not drawn" if left_out else ""
        drawing.once(axis, f"{lost.sum()} of {lost.size} not resolved{omitted}", **look)
    axis.axhline(0, **_LEVEL)
    drawing.once(axis, r"$\sigma = 1$", **_LEVEL)
    axis.set_xlim(x[0], auto=True)
    drawing.describe(axis, "lag $n$, in steps", r"singular values of $\partial h_T\, /\, \partial h_{T-n}$")
    drawing.powers_of_ten(axis)
    return drawing.with_legend(axis)


def lyapunov_spectrum(
    axis: "Axes",
    result: Lyapunov,
    *,
    label: str,
    line: Mapping[str, Any] = LINES[1],
    theory: jax.Array | None = None,
    theory_deviations: jax.Array | None = None,
    theory_label: str = "theory",
    relative: bool = False,
) -> "Axes":
    r"""Lyapunov exponents with their errors; call it again for another spectrum.

    Args:
      axis: to draw on.
      result: of `spectrum.lyapunov`, values `(k,)`. Exponents of −∞ are arrows that hang from their upper bound; others
        that are not resolved are hollow, and what rounding may have done is added to their error bar.
      label: its name in the legend.
      line: colour and marker, one of `LINES`.
      theory: the exponents that are expected, in nats per step, `(k,)`.
      theory_deviations: standard deviations of a measurement about them, `(k,)`: a band of ±1.96 of them.
      theory_label: its name in the legend.
      relative: against i/S rather than i, to compare networks of different size.

    Raises:
      ValueError: arrays of other shapes, NaN, negative deviations.

    >>> from matplotlib.figure import Figure
    >>> from rnn_jax import spectrum
    >>> import jax.numpy as jnp
    >>> result = spectrum.lyapunov_from_jacobians(jnp.broadcast_to(jnp.diag(jnp.array([0.5, 2.0])), (200, 2, 2)))
    >>> axis = lyapunov_spectrum(Figure().add_subplot(), result, label="diagonal", theory=jnp.log(jnp.array([2, 0.5])))
    >>> axis.get_ylabel()
    'Lyapunov exponent $\\lambda_i$ (nats per step)'
    """
    values = drawing.numbers("result.values", result.values, "(k,)", 1)
    k = values.size
    errors = drawing.numbers(
        "result.standard_errors", result.standard_errors, f"({k},)", 1, size=k, infinite=True
    )
    rounding = drawing.numbers("result.rounding", result.rounding, f"({k},)", 1, size=k, infinite=True)
    bounds = drawing.numbers("result.upper_bounds", result.upper_bounds, f"({k},)", 1, size=k)
    resolved = np.asarray(result.resolved, bool)
    x = np.arange(1, k + 1) / (np.shape(result.last.frame)[-2] if relative else 1)

    if theory is None and theory_deviations is not None:
        raise ValueError("theory_deviations without theory; give both.")
    if theory is not None:
        expected = drawing.numbers("theory", theory, f"({k},)", 1, size=k)
        expected = np.where(np.isfinite(expected), expected, np.nan)
        if theory_deviations is not None:
            deviations = drawing.numbers("theory_deviations", theory_deviations, f"({k},)", 1, size=k)
            if (deviations < 0).any():
                raise ValueError(f"theory_deviations holds {deviations.min():g}; expected numbers >= 0.")
            band = (expected - 1.96 * deviations, expected + 1.96 * deviations)
            axis.fill_between(x, *band, color="0.8", linewidth=0, label=f"{theory_label}, 95 % of runs")
        axis.plot(x, expected, color="black", linewidth=0.9, label=theory_label)

    color, marker = line["color"], line["marker"]
    finite = np.isfinite(values)
    errors_known = np.isfinite(errors[finite]).all()
    errors = np.where(np.isfinite(errors), 1.96 * errors, 0)
    with_rounding = errors + np.where(np.isfinite(rounding), rounding, 0)
    bars: dict[str, Any] = {"fmt": marker, "color": color, "elinewidth": 1, "capsize": 1.5, "zorder": 2.5}
    for which, reach, fill, what in (
        (
            finite & resolved,
            errors,
            color,
            "±1.96 std. errors" if errors_known else "one block, so no errors",
        ),
        (finite & ~resolved, with_rounding, "white", "not resolved: bar holds rounding too"),
    ):
        if which.any():
            name = f"{label}, {what}"
            axis.errorbar(x[which], values[which], reach[which], markerfacecolor=fill, label=name, **bars)
    if not finite.all():
        name = f"{label}, not resolved: upper bound"
        look: dict[str, Any] = {
            "linestyle": "none",
            "marker": _ARROW,
            "markersize": 14,
            "markeredgewidth": 0.5,
        }
        axis.plot(x[~finite], bounds[~finite], color=color, label=name, **look)
    if not any(drawn.get_gid() == "zero" for drawn in axis.lines):
        axis.axhline(0, gid="zero", **_LEVEL)
    index = r"$i\, /\, S$" if relative else "index $i$"
    drawing.describe(axis, index, r"Lyapunov exponent $\lambda_i$ (nats per step)")
    return drawing.with_legend(axis)


def shares_by_lag(axis: "Axes", shares: jax.Array) -> "Axes":
    """The share of the gradient of the parameters that comes across each lag.

    Args:
      axis: to draw on.
      shares: lag 0 … L − 1, then all lags ≥ L together, `(L + 1,)`, such as `flow.Profile.shares`. The last is drawn
        apart, and left out if it is 0, as it is for L = T.

    Raises:
      ValueError: an array of another shape, NaN or infinity.

    >>> from matplotlib.figure import Figure
    >>> axis = shares_by_lag(Figure().add_subplot(), np.array([0.7, 0.4, -0.2, 0.1]))
    >>> [text.get_text() for text in axis.get_legend().get_texts()]
    ['along the gradient', 'against it', 'all lags ≥ 3']
    """
    values = drawing.numbers("shares", shares, "(L + 1,)", 1)
    if not np.isfinite(values).all():
        raise ValueError("shares holds an infinity; expected shares of the gradient, which sum to 1.")
    lags, (by_lag, rest) = values.size - 1, (values[:-1], values[-1])
    edges = np.arange(lags + 1) - 0.5
    look: dict[str, Any] = {"fill": True, "zorder": 1.8}
    axis.stairs(np.maximum(by_lag, 0), edges, color="#0072B2", label="along the gradient", **look)
    if by_lag.min(initial=0) < -5e-3 * np.abs(values).max():  # less than that is not seen
        look |= {"facecolor": "white", "edgecolor": "#D55E00", "hatch": "/////"}
        axis.stairs(np.minimum(by_lag, 0), edges, label="against it", **look)
    if rest:
        width = max(1.0, 0.06 * lags)
        look = {"facecolor": "0.8", "edgecolor": "0.25", "hatch": "....", "zorder": 1.8}
        axis.bar(lags + width, rest, width, label=f"all lags ≥ {lags}", **look)
        above: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "fontsize": "small"}
        axis.annotate(f"≥ {lags}", (lags + width, max(rest, 0)), (0, 2), **above)
    axis.axhline(0, **_LEVEL)
    axis.locator_params(axis="x", integer=True)
    drawing.describe(axis, "lag $n$, in steps", r"share of $\partial L\, /\, \partial\theta$")
    if not values.any():
        axis.text(0.5, 0.5, "the gradient is exactly 0", transform=axis.transAxes, ha="center")
        return axis
    return drawing.with_legend(axis)


def components_by_lag(
    axis: "Axes", component_log_norms: PyTree, *, labels: Sequence[str] | None = None
) -> "Axes":
    """In which component of the state the gradient is, lag by lag: h or c of an LSTM, the layers of a stack.

    Args:
      axis: to draw on.
      component_log_norms: ln‖∂L_t/∂(component)_k‖ in nats, leaves `(T, T + 1)`, entry [t − 1, k], such as
        `flow.Profile.component_log_norms`. At most as many as there are `LINES`.
      labels: names of the leaves, in order; if not given, such as "h", or "layer 1" for the first entry of a tuple.

    Returns:
      The axis, with the share of ‖∂L_t/∂s_{t−n}‖² in each component, averaged over those t that have the lag n and a
      gradient there.

    Raises:
      ValueError: leaves of other shapes, NaN, too many of them.

    >>> from matplotlib.figure import Figure
    >>> t, k = np.arange(1, 9)[:, None], np.arange(9)
    >>> h, c = (np.where(k <= t, rate * (t - k), -np.inf) for rate in (-1.0, -0.5))
    >>> axis = components_by_lag(Figure().add_subplot(), {"h": h, "c": c})
    >>> [round(float(line.get_ydata()[0]), 3) for line in axis.lines]  # half of it in each, at lag 0
    [0.5, 0.5]
    """
    paths = jax.tree_util.tree_leaves_with_path(component_log_norms)
    names = [" ".join(map(drawing.name_of, path)) or "the state" for path, _ in paths]
    if not 1 <= len(paths) <= len(LINES):
        raise ValueError(
            f"component_log_norms has {len(paths)} leaves; expected 1 to {len(LINES)}: join some of them."
        )
    if labels is not None:
        if len(labels) != len(paths):
            raise ValueError(f"labels are {list(labels)}; expected one a component, {len(paths)}: {names}.")
        names = list(labels)
    arrays = []
    for name, (_, leaf) in zip(names, paths, strict=True):
        logs = drawing.numbers(f"component_log_norms {name}", leaf, "(T, T + 1), entry [t - 1, k]", 2)
        if logs.shape != (logs.shape[0], logs.shape[0] + 1) or logs.shape != np.shape(paths[0][1]):
            raise ValueError(
                f"component_log_norms {name} has shape {logs.shape}; expected (T, T + 1), the same for all."
            )
        arrays.append(np.asarray(decay.by_lag(jnp.asarray(logs)), np.float64))
    by_lag = 2 * np.stack(arrays)
    has_gradient = np.isfinite(by_lag).any(0)
    largest = np.where(has_gradient, by_lag.max(0), 0)
    squares = np.exp(np.where(has_gradient, by_lag, -np.inf) - largest)
    squares = squares / np.where(has_gradient, squares.sum(0), 1)
    number = has_gradient.sum(0)
    mean = np.where(number > 0, squares.sum(1) / np.maximum(number, 1), np.nan)
    lags = np.arange(mean.shape[1])
    for i, (name, share) in enumerate(zip(names, mean, strict=True)):
        axis.plot(lags, share, label=f"in {name}", **LINES[_APART[i]], **drawing.markers(lags.size, i))
    axis.set(xlim=(0, lags[-1]), ylim=(-0.04, 1.04))
    axis.locator_params(axis="x", integer=True)
    drawing.describe(
        axis, "lag $n$, in steps", r"mean share of $\|\,\partial L_t\, /\, \partial s_{t-n}\,\|^2$"
    )
    return drawing.with_legend(axis)


def horizon_over_training(
    axis: "Axes", records: Records, *, label: str, line: Mapping[str, Any] = LINES[1], floor: float = 1e-3
) -> "Axes":
    """The effective horizon against the number of updates; call it again for another training.

    Args:
      axis: to draw on.
      records: of a recorder whose measurement is a curve of log-norms in nats, entry n for lag n, results `(M, lags)`:
        `decay.relative_log_norms`. Measurements not yet taken are left out.
      label: its name in the legend.
      line: colour, linestyle and marker, one of `LINES`.
      floor: the horizon is the first lag at which the norm is below this share of that at lag 0. Where no lag is, it
        is beyond those that were measured, and marked at the upper edge.

    Raises:
      ValueError: results of another shape, NaN, no measurement.

    >>> from matplotlib.figure import Figure
    >>> curves = np.array([-1.0, -0.1])[:, None] * np.arange(50.0)
    >>> axis = horizon_over_training(Figure().add_subplot(), Records(np.array([0, 100]), curves), label="GRU")
    >>> axis.lines[0].get_ydata()  # e⁻⁷ is below 1/1000; e^−4.9 is not
    array([ 7., nan])
    """
    updates, logs = _measurements(records)
    lags = logs.shape[1]
    horizons = np.asarray(decay.horizon(jnp.asarray(logs), floor), np.float64)
    beyond, nothing = np.isposinf(horizons), np.isnan(horizons)
    axis.plot(updates, np.where(beyond, np.nan, horizons), label=label, **line)
    if beyond.any():
        drawing.at_edge(
            axis,
            updates,
            beyond,
            line,
            f"beyond the {lags - 1} lags measured (upper edge)",
            upper=True,
        )
    if nothing.any():
        drawing.at_edge(axis, updates, nothing, line, "no gradient at all (lower edge)")
    axis.set_ylim(0, auto=True)
    drawing.describe(axis, "updates", f"effective horizon (lags):\nfirst below {floor:g} of lag 0")
    return drawing.with_legend(axis)


def norms_over_training(axis: "Axes", records: Records, lags: Sequence[int]) -> "Axes":
    """The norm of the gradient at a few lags, relative to that at lag 0, against the number of updates.

    Args:
      axis: to draw on.
      records: as for `horizon_over_training`.
      lags: which lags, in [0, lags); at most as many as there are `LINES`.

    Raises:
      ValueError: as `horizon_over_training`; a lag out of range.

    >>> from matplotlib.figure import Figure
    >>> curves = np.array([-1.0, -0.1])[:, None] * np.arange(50.0)
    >>> axis = norms_over_training(Figure().add_subplot(), Records(np.array([0, 100]), curves), lags=(1, 10))
    >>> [text.get_text() for text in axis.get_legend().get_texts()]
    ['lag 1', 'lag 10']
    """
    updates, logs = _measurements(records)
    relative = _relative(logs)
    if not 1 <= len(lags) <= len(LINES) or not all(0 <= lag < logs.shape[1] for lag in lags):
        raise ValueError(f"lags is {list(lags)}; expected 1 to {len(LINES)} lags in [0, {logs.shape[1]}).")
    for lag, line in zip(lags, LINES, strict=False):
        drawing.curve(axis, updates, relative[:, lag], f"lag {lag}", line)
    drawing.describe(axis, "updates", RELATIVE)
    drawing.powers_of_ten(axis)
    return drawing.with_legend(axis)


def norms_by_lag_over_training(
    axis: "Axes", records: Records, *, decades: tuple[int, int] | None = None
) -> "Axes":
    """The norm of the gradient at all lags, relative to that at lag 0, against the number of updates, as a map.

    Args:
      axis: to draw on; a colour bar is put beside it.
      records: as for `horizon_over_training`, of two measurements or more.
      decades: as for `norms_by_time`.

    Raises:
      ValueError: as `horizon_over_training`; fewer than two measurements.

    >>> from matplotlib.figure import Figure
    >>> curves = np.array([-1.0, -0.1])[:, None] * np.arange(50.0)
    >>> axis = norms_by_lag_over_training(Figure().add_subplot(), Records(np.array([0, 100]), curves))
    >>> axis.get_xlabel(), axis.get_ylabel()
    ('updates', 'lag $n$, in steps')
    """
    updates, logs = _measurements(records)
    if updates.size < 2:
        raise ValueError("records holds one measurement; expected two or more for a map.")
    relative = _relative(logs).T
    nowhere = np.zeros(relative.shape, bool)
    drawing.draw_map(
        axis, drawing.Map(updates, np.arange(logs.shape[1]), relative, nowhere, RELATIVE, decades)
    )
    drawing.describe(axis, "updates", "lag $n$, in steps")
    drawing.explain_map(axis, relative)
    return axis


RELATIVE = r"$\|\,\partial L_t\, /\, \partial s_{t-n}\,\|$, relative to $n = 0$"

_ARROW = [(-0.3, 0), (0.3, 0), (0.3, -0.08), (0.06, -0.08), (0.06, -0.6), (0.25, -0.6), (0, -1)]
_ARROW += [(-x, y) for x, y in reversed(_ARROW[2:-1])] + _ARROW[:1]
"""A marker that hangs from the value: a bar, and an arrow that points down from it."""


def _measurements(records: Records) -> tuple[np.ndarray, np.ndarray]:
    """Updates and curves of those measurements that were taken."""
    if isinstance(records.results, tuple | list | dict):
        raise ValueError(
            f"records.results is a tree, {checks.signature(records.results)}; expected curves (M, lags). Pick one: "
            "records._replace(results=…)."
        )
    updates = np.asarray(records.updates)
    if updates.ndim != 1:
        raise ValueError(
            f"records.updates has shape {updates.shape}; expected (M,), of one training. Index a batch of them first: "
            "jax.tree.map(lambda leaf: leaf[0], records)."
        )
    taken = updates >= 0
    if not taken.any():
        raise ValueError("records holds no measurement yet; expected one or more.")
    results = np.asarray(records.results)
    if results.ndim != 2 or results.shape[0] != updates.size:
        raise ValueError(
            f"records.results has shape {results.shape}; expected ({updates.size}, lags), one curve a measurement. "
            "Index a batch of curves, or average over it, first."
        )
    return updates[taken], drawing.numbers("records.results", results[taken], "(M, lags)", 2)


def _relative(logs: np.ndarray) -> np.ndarray:
    """Curves relative to lag 0; −∞ where there is no gradient there either."""
    start = logs[:, :1]
    return logs - np.where(np.isfinite(start), start, 0)
