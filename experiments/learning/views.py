"""What is shown of trainings on a task: learning curves, the gradient against lag, and a row a network."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import style, verdicts
from experiments.learning.training import AFTER, BEFORE, Learned
from experiments.verdicts import Verdict
from rnn_jax.tasks import Task

LOWEST = -16
"""Power of ten below which nothing of a gradient is left beside others in float64: curves leave the figure there."""


def figure(task: Task, learned: Mapping[str, Learned], chunk: int, unit: str) -> Figure:
    """Held-out loss against updates, and the gradient of the last step against lag before and after training."""
    with style.figure(10.2, 3.6) as figure:
        axes = figure.subplots(1, 3)
        draw_losses(axes[0], {name: training.looks.loss for name, training in learned.items()}, chunk)
        axes[0].axhline(task.baseline, color="0.4", linestyle=":", label="without memory")
        axes[0].set(ylabel=f"held-out loss, {unit}", yscale="log", ylim=(None, 5 * task.baseline))
        draw_gradients(axes[1:], learned, "steps back from the last")
        for axis in axes[1:]:
            axis.axvline(task.lag, color="0.4", linewidth=0.8, label="lag that the task asks for")
        legend(figure)
    return figure


def draw_losses(axis: Axes, losses: Mapping[str, np.ndarray], chunk: int) -> None:
    """Losses `(R, U/chunk + 1)` against updates: means and ranges over seeds."""
    for (name, loss), line in zip(losses.items(), style.FEW, strict=False):
        updates = chunk * np.arange(loss.shape[1])
        axis.plot(updates, loss.mean(0), label=name, markevery=0.2, **line)
        axis.fill_between(updates, loss.min(0), loss.max(0), color=line["color"], alpha=0.15, linewidth=0)
    axis.set(title="learning (mean and range over seeds)", xlabel="updates")


def draw_gradients(axes: Sequence[Axes], learned: Mapping[str, Learned], back: str) -> None:
    """The gradient against lag, mean of logarithms over seeds: on one axis before training, on the other after it."""
    axes[1].sharey(axes[0])
    lowest = 0.0
    for axis, when, title in zip(axes, (BEFORE, AFTER), ("before", "after"), strict=True):
        for training, line in zip(learned.values(), style.FEW, strict=False):
            reach = training.measured[when].mean(0) / np.log(10)
            lowest = min(lowest, reach.min())
            axis.plot(reach, markevery=0.2, **line)
        axis.set(title=f"gradient, {title} training", xlabel=f"lag $n$, {back}")
    if lowest < LOWEST:
        axes[0].set_ylim(bottom=LOWEST)
    axes[0].set_ylabel(r"$\log_{10} \|\partial L_T / \partial s_{T-n}\|$, relative to $n = 0$")


def legend(figure: Figure) -> None:
    """One for all axes, below them."""
    handles = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))


def table(task: Task, learned: Mapping[str, Learned], chunk: int, judged: list[Verdict]) -> str:
    """A row a network, and the verdicts: at most 100 columns."""
    return "\n".join(["", *_rows(task, learned, chunk), "", *verdicts.lines(judged)])


def _rows(task: Task, learned: Mapping[str, Learned], chunk: int) -> list[str]:
    """The head of the table and a row a network."""
    layout = "{:20} {:>18} {:>10} {:>8} {:>12} {:>12}"
    head = [
        f"loss      held out, median over the last {LAST} looks; without memory {task.baseline:.4f}",
        "relative  the same over that without memory",
        "wrong     share of held-out sequences with a mistake",
        "solved    the first update with less than a tenth of the loss without memory, median over seeds",
        f"reach     decades that the last step's gradient has lost at lag {task.lag}, before training",
        "          means ± standard deviation over seeds",
        "",
        layout.format("", "loss", "relative", "wrong", "solved", "reach"),
    ]
    return head + [
        layout.format(
            name,
            _spread(task.baseline * relative(task, training)),
            f"{relative(task, training).mean():.3f}",
            f"{training.looks.wrong[:, -1].mean():.2f}",
            _solved(task, training, chunk),
            f"{-reach_at_lag(task, training, BEFORE).mean():z.1f}",
        )
        for name, training in learned.items()
    ]


def reach_at_lag(task: Task, training: Learned, when: int) -> np.ndarray:
    """log₁₀ of what is left of the last step's gradient at the lag that the task asks for, `(R,)`."""
    return training.measured[when][:, task.lag] / np.log(10)


def _spread(samples: np.ndarray) -> str:
    """Mean ± standard deviation."""
    return f"{samples.mean():.4f} ± {samples.std(ddof=1):.4f}"


def _solved(task: Task, training: Learned, chunk: int) -> str:
    below = training.looks.loss < 0.1 * task.baseline
    first = np.where(below.any(1), chunk * below.argmax(1), np.inf)
    median = np.median(first)
    return f"{median:.0f}" if np.isfinite(median) else "never"


def lines(
    learned: Mapping[str, Learned], chunk: int, names: Sequence[str] = ("held_out_loss", "wrong")
) -> Iterator[dict[str, Any]]:
    """The metrics, one line a network, seed and look, whose fields are given these names."""
    for name, training in learned.items():
        for seed, fields in enumerate(zip(*training.looks, strict=True)):
            for i, values in enumerate(zip(*fields, strict=True)):
                numbers = dict(zip(names, map(float, values), strict=True))
                yield {"network": name, "seed": seed, "update": i * chunk, **numbers}


LAST = 5
"""Looks that count as after training: the loss at a single one of them jumps."""


def relative(task: Task, training: Learned) -> np.ndarray:
    """The held-out loss after training, median over the last looks, over that without memory, `(R,)`."""
    return np.median(training.looks.loss[:, -LAST:], axis=1) / task.baseline
