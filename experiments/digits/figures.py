"""Pictures of a result. Lines are medians over seeds, bands their range."""

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments import style
from experiments.digits.config import STEPS, Config
from experiments.digits.curves import LN10, relative_decades, typical
from experiments.digits.flow import CLIPPED, UNCLIPPED, Result
from experiments.digits.networks import networks
from experiments.verdicts import interval

LAG = "lag n (steps back from the last pixel)"
SMOOTH = 25
"""Updates over which losses and norms are averaged for the eye."""


def figures(config: Config, result: Result) -> dict[str, Figure]:
    """All figures by file name."""
    with matplotlib.rc_context(style.RC):
        return {
            "gradient_flow": gradient_flow(config, result),
            "singular_values": singular_values(config, result),
            "training": training(config, result),
        }


def gradient_flow(config: Config, result: Result) -> Figure:
    """Products and gradients against lag before (top) and after training (bottom), and what was learnt."""
    figure = Figure(figsize=(style.WIDTH, 6.4))
    axes = figure.subplots(2, 3)
    for row, when, profile in ((0, "before", result.before), (1, "after", _clipped(result))):
        _draw_products(axes[row, 0], profile)
        axes[row, 0].set(title=f"Jacobian products {when} training", ylabel="log₁₀ ‖∂h_T / ∂h_{T−n}‖")
        _draw_gradients(axes[row, 1], profile)
        axes[row, 1].set(title=f"Gradient {when} training", ylabel="log₁₀ ‖∂L/∂h_{T−n}‖ / ‖∂L/∂h_T‖")
        for axis in axes[row, :2]:
            axis.set(xlabel=LAG, xlim=(0, STEPS), xticks=range(0, STEPS + 1, 16))
    for column in range(2):
        _limit(axes[0, column], -38, 12)
        _limit(axes[1, column], -6, 6)
    _draw_learning(axes[0, 2], config, result)
    _draw_accuracy(axes[1, 2], config, result)

    names = [network.name for network in networks(config)]
    handles = [_handle(line) for line in style.LINES] + [Line2D([], [], color="0.35", linestyle=":", linewidth=1.2)]
    figure.legend(
        handles, [*names, "bound (γ σ_max)ⁿ"], loc="outside lower center", ncols=7, handlelength=3.2, columnspacing=1.2
    )
    return figure


def singular_values(config: Config, result: Result) -> Figure:
    """All singular values at a few lags before (top) and after training (bottom), one column a network."""
    figure = Figure(figsize=(style.WIDTH, 4.6))
    axes = figure.subplots(2, len(style.LINES), sharey=True, sharex=True)
    shades = [str(shade) for shade in np.linspace(0.72, 0.0, len(config.lags_shown))]
    for m, network in enumerate(networks(config)):
        for row, profile in ((0, result.before), (1, _clipped(result))):
            axis = axes[row, m]
            values = profile.log_singular_values[m, 0] / LN10
            size = config.hidden_size * (2 if network.name == "LSTM" else 1)
            share = 100 * np.arange(1, size + 1) / size
            for at_lag, shade, marker in zip(values, shades, "os^D", strict=False):
                axis.plot(share, at_lag[:size], color=shade, marker=marker, markevery=0.2, markersize=3.5)
        axes[0, m].set_title(network.name)
        axes[1, m].set(xlim=(0, 100), xticks=(0, 50, 100))
    axes[0, 0].set_ylabel("before training\nlog₁₀ σ_i")
    axes[1, 0].set_ylabel("after training\nlog₁₀ σ_i")
    figure.supxlabel("rank i of the singular value, % of the state's size", fontsize=9)
    handles = [
        Line2D([], [], color=shade, marker=marker, markersize=3.5)
        for shade, marker in zip(shades, "os^D", strict=False)
    ]
    labels = [f"n = {lag}" for lag in config.lags_shown]
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), title=SINGULAR_TITLE)
    return figure


SINGULAR_TITLE = "Singular values of ∂h_T/∂h_{T−n}, one sequence; a line ends where float64 resolves no more"


def training(config: Config, result: Result) -> Figure:
    """Loss and gradient norm against updates, with and without clipping, one column a network."""
    figure = Figure(figsize=(style.WIDTH, 4.6))
    axes = figure.subplots(2, len(style.LINES), sharex=True, sharey="row")
    settings = (
        (UNCLIPPED, "not clipped", "#D55E00", (0, (3, 1))),
        (CLIPPED, f"clipped to norm {config.clip_norm:g}", "#0072B2", "-"),
    )
    for m, network in enumerate(networks(config)):
        loss, norm = axes[:, m]
        for c, label, color, linestyle in settings:
            for axis, values in ((loss, result.updates.loss[m, c]), (norm, result.updates.gradient_norm[m, c])):
                updates, smooth = _smoothed(values, logarithm=axis is norm)
                axis.plot(updates, np.median(smooth, axis=0), color=color, linestyle=linestyle, label=label)
                axis.fill_between(updates, smooth.min(0), smooth.max(0), color=color, alpha=0.15, linewidth=0)
        norm.axhline(config.clip_norm, color="0.35", linestyle=":", linewidth=1.2)
        norm.set(yscale="log", xlabel="updates", xlim=(0, config.updates), xticks=(0, config.updates // 2))
        loss.set(title=network.name, ylim=(0, 2.6))
    axes[0, 0].set_ylabel("loss (nats)")
    axes[1, 0].set_ylabel("gradient norm\nbefore clipping")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        [*handles, Line2D([], [], color="0.35", linestyle=":", linewidth=1.2)],
        [*labels, "threshold"],
        loc="outside upper center",
        ncols=3,
    )
    return figure


def _draw_products(axis: Axes, profile) -> None:
    for log_norms, log_bound, line in zip(profile.log_norms, profile.log_bound, style.LINES, strict=True):
        if np.isfinite(log_bound).all():
            axis.plot(np.median(log_bound, axis=0) / LN10, color=line.color, linestyle=":", linewidth=1.2)
        _draw_curves(axis, typical(log_norms) / LN10, line)


def _draw_gradients(axis: Axes, profile) -> None:
    for log_gradients, line in zip(profile.log_gradients, style.LINES, strict=True):
        _draw_curves(axis, relative_decades(log_gradients), line)


def _draw_curves(axis: Axes, curves: np.ndarray, line: style.Line) -> None:
    """Median and range over seeds, `(R, n)`; a curve that falls to −∞ ends in a cross."""
    middle = np.median(curves, axis=0)
    lags = np.arange(curves.shape[1])
    shown = np.where(np.isfinite(middle), middle, np.nan)
    axis.plot(lags, shown, color=line.color, linestyle=line.linestyle, marker=line.marker, markevery=(8, 16))
    inside = np.isfinite(curves).all(0)
    axis.fill_between(
        lags, curves.min(0), curves.max(0), where=inside, color=line.color, alpha=0.15, linewidth=0
    )
    if not inside.all() and inside.any() and np.isneginf(middle).any():
        last = int(np.flatnonzero(np.isfinite(middle))[-1])
        axis.plot(last, middle[last], color=line.color, marker="x", markersize=8, markeredgewidth=2)
        axis.annotate(
            "ReLU: exactly 0 from here,\nall units were off",
            (last, middle[last]),
            xytext=(6, -5),
            textcoords="offset points",
            va="top",
            fontsize=8.6,
        )


def _draw_learning(axis: Axes, config: Config, result: Result) -> None:
    updates = config.chunk * np.arange(1, result.accuracy.shape[-1] + 1)
    for accuracy, line in zip(100 * result.accuracy[:, CLIPPED], style.LINES, strict=True):
        axis.plot(
            updates,
            np.median(accuracy, axis=0),
            color=line.color,
            linestyle=line.linestyle,
            marker=line.marker,
            markevery=2,
        )
        axis.fill_between(updates, accuracy.min(0), accuracy.max(0), color=line.color, alpha=0.15, linewidth=0)
    axis.axhline(10, color="0.35", linewidth=0.8)
    axis.text(config.updates, 11, "chance", ha="right", fontsize=8.6)
    axis.set(title="Learning, with clipping", xlabel="updates", ylabel="test accuracy (%)", ylim=(0, 100))
    axis.set_xlim(0, config.updates)


def _draw_accuracy(axis: Axes, config: Config, result: Result) -> None:
    """Mean and 95 % interval with and without clipping, one row a network."""
    names = [network.name for network in networks(config)]
    for c, offset, filled, label in ((CLIPPED, -0.16, True, "clipped"), (UNCLIPPED, 0.16, False, "not clipped")):
        for m, line in enumerate(style.LINES):
            measured = interval(100 * result.accuracy[m, c, :, -1])
            axis.plot([measured.low, measured.high], [m + offset] * 2, color=line.color)
            axis.plot(
                measured.value,
                m + offset,
                marker="o",
                markersize=6,
                color=line.color,
                markerfacecolor=line.color if filled else "white",
                linestyle="none",
            )
        face = "0.2" if filled else "white"
        axis.plot([], [], "o", color="0.2", markerfacecolor=face, markersize=6, label=label)
    axis.axvline(10, color="0.35", linewidth=0.8)
    axis.set(title="Accuracy at the end, 95 % over seeds", xlabel="test accuracy (%)", xlim=(0, 100))
    axis.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.4, -0.6))
    axis.legend(loc="lower left", bbox_to_anchor=(0.1, 0.0), handletextpad=0.2)


def _clipped(result: Result):
    """The profile after training with clipping, shaped like the one before."""
    return type(result.after)(*(leaf[:, CLIPPED] for leaf in result.after))


def _smoothed(values: np.ndarray, *, logarithm: bool) -> tuple[np.ndarray, np.ndarray]:
    """Running means over at most `SMOOTH` updates, geometric for norms: `(R, U)` → updates, `(R, U')`."""
    width = min(SMOOTH, values.shape[-1])
    kernel = np.full(width, 1 / width)
    values = np.log(values) if logarithm else values
    smooth = np.stack([np.convolve(run, kernel, mode="valid") for run in values])
    updates = np.arange(smooth.shape[-1]) + width / 2
    return updates, np.exp(smooth) if logarithm else smooth


def _limit(axis: Axes, low: float, high: float) -> None:
    """At least these limits of the data that need them: the bounds of expanding networks leave at the top."""
    axis.set_ylim(low, high)


def _handle(line: style.Line) -> Line2D:
    return Line2D([], [], color=line.color, linestyle=line.linestyle, marker=line.marker)
