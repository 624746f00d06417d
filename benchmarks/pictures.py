"""Pictures of records: the same record gives the same file."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.roofline import LIMIT
from rnn_jax import plotting

# Okabe and Ito's colours with a marker each, black for this library.
_LOOKS = (
    plotting.LINES[-1],
    *plotting.LINES[:-1],
    {"color": "#E69F00", "linestyle": (0, (3, 1, 1, 1)), "marker": "P"},
    {"color": "0.5", "linestyle": "-", "marker": "*"},
)
_FILLS = (
    ("#0072B2", ""),
    ("#56B4E9", "////"),
    ("#D55E00", ""),
    ("#CC79A7", "...."),
    ("#009E73", ""),
    ("0.8", "xxxx"),
)


class Picture(NamedTuple):
    """A way to draw the cases of a record.

    Attributes:
      caption: what is seen, in a line.
      size: of the figure, in inches.
      draw: `(figure, cases)`.
    """

    caption: str
    size: tuple[float, float]
    draw: Callable[[Any, list[Mapping[str, Any]]], None]


def draw(record: Mapping[str, Any], path: Path) -> None:
    """The picture of a record, if its benchmark has one."""
    if record["benchmark"] not in DRAWN:
        return
    import matplotlib
    from matplotlib.figure import Figure

    picture = DRAWN[record["benchmark"]]
    with matplotlib.rc_context(plotting.SETTINGS):
        figure = Figure(figsize=picture.size, layout="constrained")
        picture.draw(figure, record["cases"])
        figure.savefig(path, dpi=120, metadata={"Software": None})  # the file changes with the record alone


def _values(cases, name, *path):
    """Of one contender, case by case: the entry that `path` leads to, None where there is none."""

    def of(case):
        value = case["contenders"].get(name)
        for key in path:
            value = None if value is None else value.get(key)
        return value

    return [of(case) for case in cases]


def _dots(figure, cases, path, label, reference=None):
    """A panel a cell, a band a shape, a mark a contender, each at a height of its own: they often coincide."""
    names = dict.fromkeys(name for case in cases for name in case["contenders"])
    cells = list(dict.fromkeys(case["cell"] for case in cases))
    axes = figure.subplots(1, len(cells), sharex=True, squeeze=False)[0]
    for axis, cell in zip(axes, cells, strict=True):
        chosen = [case for case in cases if case["cell"] == cell]
        for name, look, shift in zip(names, _LOOKS, np.linspace(-0.3, 0.3, len(names)), strict=False):
            marks = [(v, y + shift) for y, v in enumerate(_values(chosen, name, *path)) if v is not None]
            if marks:
                x, y = zip(*marks, strict=True)
                axis.plot(x, y, linestyle="none", marker=look["marker"], color=look["color"], label=name)
        if reference is not None:
            axis.axvline(reference, color="0.4", linewidth=0.8)
        axis.set(xscale="log", title=cell, xlabel=label, ylim=(len(chosen) - 0.5, -0.5))
        axis.set_yticks(range(len(chosen)), [case["shape"] for case in chosen])
        axis.set_yticks(np.arange(len(chosen) - 1) + 0.5, minor=True)
        axis.tick_params(axis="y", which="both", length=0)
        axis.grid(visible=False, which="major", axis="y")
        axis.grid(visible=True, which="minor", axis="y", color="0.8", linewidth=0.6)
        _logarithmic(axis.xaxis)
    _legend(figure, axes)


def _logarithmic(scale):
    """Marks at 1, 2 and 5 times the powers of ten, as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    scale.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    scale.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    scale.set_minor_locator(NullLocator())


def _legend(figure, axes):
    found = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    columns = len(found) if len(found) <= 6 else -(-len(found) // 2)
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=columns)


def _gradient(figure, cases):
    _dots(figure, cases, ("ratio", "median"), "time over hand-written (beyond 1: slower)", reference=1.0)


def _memory(figure, cases):
    _dots(figure, cases, ("temporary_per_TBN",), "temporary memory / T·B·N floats")


def _roofline(figure, cases):
    """A panel a cell, a bar a shape: the parts of the limit side by side; it ends at η."""
    cells = list(dict.fromkeys(case["cell"] for case in cases))
    axes = figure.subplots(1, len(cells), sharex=True, squeeze=False)[0]
    for axis, cell in zip(axes, cells, strict=True):
        chosen = [case for case in cases if case["cell"] == cell]
        parts = [name for name in list(chosen[0]["contenders"])[1:] if name != LIMIT]
        left = [0.0] * len(chosen)
        for name, (color, hatch) in zip(parts, _FILLS, strict=True):
            widths = _values(chosen, name, "ratio", "median")
            look = {"color": color, "hatch": hatch, "edgecolor": "white", "height": 0.7}
            axis.barh(range(len(chosen)), widths, left=left, label=name, **look)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        axis.axvline(1.0, color="black", linewidth=1.0, label="the gradient itself")
        axis.set_axisbelow(True)
        axis.set(title=cell, xlabel="share of the gradient's time")
        axis.set_yticks(range(len(chosen)), [case["shape"] for case in chosen])
        axis.invert_yaxis()
    _legend(figure, axes)


def _scaling(figure, cases):
    """A row a cell, a panel an axis: milliseconds against size."""
    cells = list(dict.fromkeys(case["cell"] for case in cases))
    names = list(dict.fromkeys(name for case in cases for name in case["contenders"]))
    figure.set_figheight(1 + 3 * len(cells))
    axes = figure.subplots(len(cells), 3, squeeze=False, sharey="row")
    for row, cell in zip(axes, cells, strict=True):
        for panel, varied in zip(row, "TNB", strict=True):
            chosen = [case for case in cases if case["cell"] == cell and case["axis"] == varied]
            for name, look in zip(names, _LOOKS, strict=False):
                seconds = _values(chosen, name, "spread", "median")
                panel.plot([case[varied] for case in chosen], [1e3 * s for s in seconds], label=name, **look)
            fixed = ", ".join(f"{other} = {chosen[0][other]}" for other in "TNB" if other != varied)
            panel.set(xscale="log", yscale="log", title=f"{cell}, {fixed}", xlabel=varied)
            sizes = [case[varied] for case in chosen]
            panel.set_xticks(sizes, [str(size) for size in sizes])
            panel.minorticks_off()
            _logarithmic(panel.yaxis)
        row[0].set_ylabel("milliseconds")
    _legend(figure, axes.flat)


DRAWN: Mapping[str, Picture] = {
    "gradient": Picture("Time over the hand-written gradient's, by cell and shape", (10, 5.0), _gradient),
    "memory": Picture("Peak temporary memory in units of T·B·N floats", (10, 3.6), _memory),
    "roofline": Picture("Parts of the composed limit as shares of the gradient's time", (10, 3.2), _roofline),
    "scaling": Picture("Time of the gradient against T, N and B, on logarithmic scales", (10, 4), _scaling),
}
