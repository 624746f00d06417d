"""Six pictures of a run, drawn by `rnn_jax.plotting`."""

import math
from collections.abc import Iterable

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import style
from experiments.laboratory import claims
from experiments.laboratory.config import Config
from experiments.laboratory.flow import AFTER, BEFORE, Result, Training
from experiments.laboratory.networks import ELMAN, LSTM, NAMES
from rnn_jax import drawing, plotting
from rnn_jax.recording import Records
from rnn_jax.types import PyTree

LINES = dict(zip(NAMES, (style.LINES[1], style.LINES[4], style.LINES[5]), strict=True))

"""Powers of ten that maps show at most: what is smaller than that beside the largest is lost in a float64 sum."""
_HIGHEST = 4
"""Power of ten at which a bound that grows leaves the picture."""


def decay_with_lag(config: Config, result: Result) -> Figure:
    """The norm of the gradient against the lag, with its rate, its horizon and its bound."""
    with style.figure(10.2, 5.8) as figure:
        axes = figure.subplots(1, 2, sharey=True)
        for axis, (when, title) in zip(axes, claims.WHEN.items(), strict=True):
            for name, flow in result.flow.items():
                curve = flow.curves[when].mean(0)
                plotting.norms_against_lag(
                    axis,
                    curve,
                    label=name,
                    line=LINES[name],
                    bound=_bound(flow.log_bound[when]) if name == ELMAN else None,
                    fit=claims.rates(config, curve),
                    window=(config.fit_first, config.fit_last),
                    floor=1e-3,
                )
            axis.set(title=title, ylabel=plotting.RELATIVE)
            _below(axis, 0.12)
        axes[0].set_ylim(top=_HIGHEST)
        axes[1].set_ylabel("")
    return figure


def maps(config: Config, result: Result) -> Figure:
    """Which state gets how much gradient from which loss: one sequence of the first seed."""
    del config
    log_norms = {name: flow.log_norms[:, 0, 0] for name, flow in result.flow.items()}
    decades = _decades(log_norms.values())
    with style.figure(10.2, 6.4) as figure:
        axes = figure.subplots(2, len(NAMES), sharex=True, sharey=True)
        for row, (when, title) in zip(axes, claims.WHEN.items(), strict=True):
            for axis, name in zip(row, NAMES, strict=True):
                plotting.norms_by_time(axis, log_norms[name][when], decades=decades)
                axis.set_title(f"{name}, {title}")
                axis.get_legend().remove()
            _share_bar(row)
        for axis in axes[0]:
            axis.set_xlabel("")
        figure.suptitle("One image. White: the state comes after the loss, $k > t$", fontsize="medium")
    return figure


def paths(config: Config, result: Result) -> Figure:
    """Through which part of the LSTM's state the gradient travels."""
    del config
    flow, cut = result.flow[LSTM], result.controls
    with style.figure(10.2, 6.4) as figure:
        axes = figure.subplots(2, 2, sharex=True)
        for row, (when, title) in zip(axes, claims.WHEN.items(), strict=True):
            for curves, label, line in (
                (flow.curves, "the LSTM as it is", LINES[LSTM]),
                (cut.no_hidden_path, r"nothing sent back to $h_{t-1}$", style.LINES[0]),
                (cut.no_cell_path, r"nothing sent back to $c_{t-1}$", style.LINES[2]),
            ):
                plotting.norms_against_lag(row[0], curves[when].mean(0), label=label, line=line)
            row[0].set(title=f"LSTM with a path cut, {title}", ylabel=plotting.RELATIVE)
            # The means of the logarithms: no sequence alone decides.
            components = jax.tree.map(
                lambda leaf, when=when: leaf[when].mean((0, 1)), flow.component_log_norms
            )
            plotting.components_by_lag(row[1], components)
            row[1].set_title(f"where the gradient of the LSTM is, {title}")
        for axis in axes[0]:
            axis.set_xlabel("")
    return figure


def shares(config: Config, result: Result) -> Figure:
    """How much of the gradient of the parameters comes across each lag."""
    with style.figure(10.2, 5.4) as figure:
        axes = figure.subplots(2, len(NAMES), sharex=True, sharey="row")
        for row, (when, title) in zip(axes, claims.WHEN.items(), strict=True):
            for axis, name in zip(row, NAMES, strict=True):
                shares = result.flow[name].shares[when]
                plotting.shares_by_lag(axis, shares.mean((0, 1)))
                far = claims.far_shares(config, shares).mean()
                axis.axvspan(config.row - 0.5, shares.shape[-1] - 1.5, color="0.93", linewidth=0, zorder=0.5)
                text = f"$n \\geq {config.row}$, a row or more:\n{round(100 * float(far))} % of the gradient"
                axis.text(0.94, 0.5, text, transform=axis.transAxes, ha="right")
                axis.set_title(f"{name}, {title}")
        _outer_labels(axes)
    return figure


def spectra(config: Config, result: Result) -> Figure:
    """Singular values of products against the lag, and Lyapunov spectra, of the first seed."""
    with style.figure(10.2, 8.8) as figure:
        axes = figure.subplots(3, len(NAMES), sharey="row")
        for column, name in zip(axes.T, NAMES, strict=True):
            spectra = result.spectra[name]
            for axis, (when, title) in zip(column, claims.WHEN.items(), strict=False):
                values = _first_seed(spectra.singular_values, when)
                axis.set_ylabel(r"singular values of $\partial s_T\, /\, \partial s_{T-n}$")
                plotting.singular_values_against_lag(axis, values, config.lags_shown)
                axis.set_title(f"{name}, {title}")
            for when, line in ((BEFORE, style.LINES[0]), (AFTER, style.LINES[2])):
                exponents = _first_seed(spectra.lyapunov, when)
                plotting.lyapunov_spectrum(column[2], exponents, label=claims.WHEN[when], line=line)
            column[2].set_title(f"{name}, Lyapunov exponents")
        for axis in axes[:, 1:].flat:
            axis.set_ylabel("")
    return figure


def training(config: Config, result: Result) -> Figure:
    """The loss, and how far the gradient reaches, while the networks learn."""
    records = {name: _over_seeds(training) for name, training in result.training.items()}
    decades = _decades(r.results - r.results[:, :1] for r in records.values())
    with style.figure(10.2, 6.8) as figure:
        upper, lower = figure.subfigures(2, 1, height_ratios=[1.25, 1])
        loss, horizon, norms = upper.subplots(1, 3)
        _loss(loss, config, result)
        for name, recorded in records.items():
            plotting.horizon_over_training(horizon, recorded, label=name, line=LINES[name])
        horizon.set_title("how far the gradient reaches")
        lags = tuple(sorted({1, config.row, 2 * config.row, config.far, config.fit_last}))
        plotting.norms_over_training(norms, records[ELMAN], lags)
        norms.set_title("Elman, a few lags")
        for axis in (loss, horizon, norms):
            _below(axis, 0.22)

        axes = lower.subplots(1, len(NAMES), sharey=True)
        for axis, name in zip(axes, NAMES, strict=True):
            plotting.norms_by_lag_over_training(axis, records[name], decades=decades)
            axis.set_title(f"{name}, all lags")
        _share_bar(axes)
    return figure


def _loss(axis: Axes, config: Config, result: Result) -> None:
    """The held-out loss against updates: mean over seeds, the range as a band."""
    for name, training in result.training.items():
        updates = np.arange(1, len(training.test_loss) + 1) * config.chunk
        axis.plot(updates, training.test_loss.mean(1), label=name, **LINES[name])
        low, high = training.test_loss.min(1), training.test_loss.max(1)
        axis.fill_between(updates, low, high, color=LINES[name]["color"], alpha=0.15, linewidth=0)
    guessing = {"color": "0.35", "linewidth": 0.9, "label": "each pixel guessed by its mean"}
    axis.axhline(float(result.guessing), **guessing)
    axis.set(title="learning", xlabel="updates", ylabel=r"mean of $L_t$, held-out images", ylim=(0, None))
    axis.legend()


def _over_seeds(training: Training) -> Records:
    """The decay curves along the way, mean over seeds."""
    return training.records._replace(results=training.records.results.mean(1))


def _bound(log_bound: np.ndarray) -> np.ndarray:
    """The bound of the last loss's gradient by lag, relative to lag 0, mean over seeds; `(R, E, T, T + 1)`."""
    by_lag = log_bound[:, 0, -1, :0:-1]
    return (by_lag - by_lag[:, :1]).mean(0)


def _first_seed(tree: PyTree, when: int) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[when, 0], tree)


def _decades(log_norms: Iterable[np.ndarray]) -> tuple[int, int]:
    """The powers of ten that maps of all of these show."""
    powers = np.concatenate([np.ravel(logs) for logs in log_norms]) / math.log(10)
    return drawing.limits(powers[np.isfinite(powers)], None)


def _share_bar(axes: Iterable[Axes]) -> None:
    """Keeps the last map's colour bar, which is that of all maps in the row, and its first label."""
    *others, _ = axes
    for axis in others:
        axis.collections[0].colorbar.remove()
    for axis in list(axes)[1:]:
        axis.set_ylabel("")


def _outer_labels(axes: np.ndarray) -> None:
    """Labels at the left and at the bottom of a grid alone."""
    for axis in axes[:, 1:].flat:
        axis.set_ylabel("")
    for axis in axes[:-1].flat:
        axis.set_xlabel("")


def _below(axis: Axes, gap: float) -> None:
    """Moves the legend under the axis and its label, by a share of the axis' height."""
    legend = axis.get_legend()
    legend.set_loc("upper center")
    legend.set_bbox_to_anchor((0.5, -gap), transform=axis.transAxes)
