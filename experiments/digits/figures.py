"""Three pictures of a run: gradient flow against lag, singular values at a few lags, training."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments import style
from experiments.digits.config import STEPS, Config
from experiments.digits.flow import CLIPPED, UNCLIPPED, Result
from experiments.digits.networks import AT, BELOW, networks

LOWEST, HIGHEST = -16, 8
"""Powers of ten that are shown: below 1e-16 nothing of a gradient is left beside others in float64."""

_BOUND = {"linestyle": (0, (5, 4)), "linewidth": 1.0}
_MARKERS = "osD^v<>p"


def gradient_flow(config: Config, result: Result) -> Figure:
    """Norms of products and of gradients against lag, before and after training, and what was learned."""
    after = result.after
    with style.figure(10.2, 6.4) as figure:
        axes = figure.subplots(2, 3, sharex="col", gridspec_kw={"width_ratios": [1, 1, 0.85]})
        for row, (when, log_norms, log_gradients, bound) in enumerate(
            [
                (
                    "before training",
                    result.before.log_norms,
                    result.before.log_gradients,
                    result.before.log_bound,
                ),
                (
                    "after training",
                    *(a[:, CLIPPED] for a in (after.log_norms, after.log_gradients, after.log_bound)),
                ),
            ]
        ):
            _against_lag(axes[row, 0], log_norms)
            for m in (BELOW, AT):
                axes[row, 0].plot(bound[m].mean(0) / np.log(10), color=style.LINES[m]["color"], **_BOUND)
            axes[row, 0].set(
                title=f"Jacobian product, {when}", ylabel=r"$\|\,\partial h_T\, /\, \partial h_{T-n}\,\|$"
            )
            with np.errstate(invalid="ignore"):  # a dead network has no gradient at either lag
                _against_lag(axes[row, 1], log_gradients - log_gradients[..., :1])
            axes[row, 1].set(
                title=f"gradient, {when}",
                ylabel=r"$\|\,\partial L\, /\, \partial h_{T-n}\,\|$, relative to $n = 0$",
            )
        for axis in axes[1, :2]:
            axis.set_xlabel("lag $n$, steps back from the last pixel")
        for row, (setting, title) in enumerate(
            [
                (CLIPPED, f"learning, norm clipped at {config.clip_norm:g}"),
                (UNCLIPPED, "learning, no clipping"),
            ]
        ):
            _accuracy(axes[row, 2], config, result.accuracy[:, setting])
            axes[row, 2].set_title(title)
        axes[1, 2].set_xlabel("updates")

        handles = [
            Line2D([], [], label=network.name, **line)
            for network, line in zip(networks(config), style.LINES, strict=True)
        ]
        handles.append(
            Line2D(
                [],
                [],
                color="0.4",
                label=r"bound $(\gamma\,\sigma_{\max})^n$, in the network's colour",
                **_BOUND,
            )
        )
        figure.legend(
            handles=handles, loc="outside lower center", ncols=7, handlelength=2.6, columnspacing=1.3
        )
    return figure


def singular_values(config: Config, result: Result) -> Figure:
    """All singular values of ∂h_T/∂h_{T−n} of one sequence, at a few lags, before and after training."""
    names = [network.name for network in networks(config)]
    shades = [str(shade) for shade in np.linspace(0.72, 0.0, len(config.lags_shown))]
    lags = [
        {"color": shade, "marker": _MARKERS[i % len(_MARKERS)], "label": f"lag {lag}"}
        for i, (lag, shade) in enumerate(zip(config.lags_shown, shades, strict=True))
    ]
    with style.figure(10.2, 5.4) as figure:
        axes = figure.subplots(2, len(names), sharey=True, sharex="col")
        before, after = result.before.log_singular_values, result.after.log_singular_values[:, CLIPPED]
        for row, (when, values) in enumerate([("before", before), ("after", after)]):
            for m, name in enumerate(names):
                axis = axes[row, m]
                size = config.hidden_size * (2 if name == "LSTM" else 1)  # (h, c)
                for lag, line in enumerate(lags):
                    shown = values[m, 0, lag, :size] / np.log(10)
                    axis.plot(np.arange(1, size + 1), shown, markersize=2.2, linewidth=0.9, **line)
                axis.axhline(0, color="#D55E00", linewidth=0.8)
                axis.set(ylim=(LOWEST - 4, HIGHEST), xlim=(0, size + 1))
                if row == 0:
                    axis.set_title(name)
            axes[row, 0].set_ylabel(rf"$\log_{{10}}\,\sigma_i$, {when} training")
        for axis in axes[1]:
            axis.set_xlabel("index $i$")
        handles = [Line2D([], [], markersize=4, **line) for line in lags]
        handles.append(Line2D([], [], color="#D55E00", linewidth=0.8, label=r"$\sigma = 1$"))
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
        figure.suptitle(
            r"Singular values of $\partial h_T\, /\, \partial h_{T-n}$ on one sequence; "
            r"those below rounding, $S\,\varepsilon\,\sigma_1$ in float64, are left out",
            fontsize=9.5,
        )
    return figure


def training(config: Config, result: Result) -> Figure:
    """Loss and gradient norm against updates, with and without clipping."""
    width = max(1, config.updates // 40)
    with style.figure(10.2, 5.8) as figure:
        axes = figure.subplots(2, 2, sharex=True, sharey="row")
        for column, (setting, title) in enumerate(
            [(CLIPPED, f"global norm clipped at {config.clip_norm:g}"), (UNCLIPPED, "no clipping")]
        ):
            loss, norms = axes[0, column], axes[1, column]
            for m, line in enumerate(style.LINES):
                plain = {key: value for key, value in line.items() if key != "marker"}
                loss.plot(*_smooth(result.updates.loss[m, setting].mean(0), width), **plain)
                with np.errstate(divide="ignore"):
                    logs = np.log10(result.updates.gradient_norm[m, setting]).mean(0)
                norms.plot(*_smooth(logs, width), **plain)
            loss.set_title(title)
            _level(loss, config.updates, np.log(10), "guessing: ln 10")
            if setting == CLIPPED:
                norms.axhline(np.log10(config.clip_norm), color="0.35", linewidth=1.0, zorder=1.8)
            norms.set_xlabel("updates")
        axes[0, 0].set_ylabel("cross-entropy (nats)")
        axes[1, 0].set_ylabel(r"$\log_{10}$ of the gradient's norm")
        handles = [
            Line2D([], [], label=network.name, color=line["color"], linestyle=line["linestyle"])
            for network, line in zip(networks(config), style.LINES, strict=True)
        ]
        handles.append(Line2D([], [], label="clipping threshold", color="0.35", linewidth=1.0))
        figure.legend(handles=handles, loc="outside lower center", ncols=7, handlelength=2.6)
    return figure


def _against_lag(axis: Axes, logs: np.ndarray) -> None:
    """One curve a network: the median over seeds and sequences in powers of ten, its quartiles as a band."""
    for m, line in enumerate(style.LINES):
        # Quantiles of −∞ are NaN: a number below the axis stands for it.
        samples = np.clip(np.nan_to_num(logs[m], nan=-np.inf), -1e3, 1e3).reshape(-1, STEPS + 1) / np.log(10)
        low, middle, high = np.quantile(samples, [0.25, 0.5, 0.75], axis=0)
        lags = np.arange(STEPS + 1)
        axis.plot(lags, middle, markevery=(4 + m, 12), **line)
        axis.fill_between(lags, low, high, color=line["color"], alpha=0.15, linewidth=0)
        if middle[-1] < -100:  # not small but zero, as no network reaches that by shrinking here
            dead = lags[np.argmax(middle < -100)]
            axis.annotate(
                "exactly 0: all\nReLUs were off",
                (dead - 2, LOWEST + 0.4),
                fontsize=8,
                color="0.2",
                va="bottom",
                ha="right",
            )
    axis.axhline(0, color="0.5", linewidth=0.8, zorder=0)
    axis.set(xlim=(0, STEPS), ylim=(LOWEST, HIGHEST))
    axis.yaxis.set_major_formatter(lambda value, _: f"$10^{{{value:.0f}}}$")


def _accuracy(axis: Axes, config: Config, accuracy: np.ndarray) -> None:
    """Test accuracy against updates: mean over seeds, the range as a band; `(M, R, chunks)`."""
    updates = np.arange(1, accuracy.shape[-1] + 1) * config.chunk
    for runs, line in zip(100 * accuracy, style.LINES, strict=True):
        axis.plot(updates, runs.mean(0), **line)
        axis.fill_between(updates, runs.min(0), runs.max(0), color=line["color"], alpha=0.12, linewidth=0)
    axis.set(ylabel="test accuracy (%)", ylim=(0, 100))


def _level(axis: Axes, right: float, level: float, text: str) -> None:
    """A labelled horizontal line."""
    axis.axhline(level, color="0.5", linewidth=0.8, zorder=0)
    axis.annotate(text, (right, level), fontsize=8, color="0.35", va="bottom", ha="right")


def _smooth(values: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of blocks of `width` updates, and the updates at their centres."""
    blocks = values[: values.size // width * width].reshape(-1, width)
    return (np.arange(len(blocks)) + 0.5) * width, blocks.mean(-1)
