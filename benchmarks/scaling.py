"""The time of a gradient grows in proportion to T, and how it grows with N and B.

T, N and B are doubled and halved around a centre, one at a time. ln time = a + p ln size is fitted by least squares
to the medians; p is reported with its standard error.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks import gradient, tables, verdicts, workloads
from benchmarks.gradient import HAND_WRITTEN
from benchmarks.peers import flax_linen, own
from benchmarks.runner import Benchmark, Case, Preset, Setup
from benchmarks.workloads import Shape

TARGET = 1.1
"""Of the exponent in T: work is proportional to T, and what a longer run leaves the cache for is within a tenth."""


class Grid(NamedTuple):
    """A centre, the factors that T, N and B are multiplied by in turn, and cells."""

    centre: Shape
    factors: tuple[float, ...]
    cells: tuple[str, ...]


def cases(plan: Grid, setup: Setup) -> Iterator[Case]:
    """Every cell along every axis."""
    for cell in plan.cells:
        for axis in "TNB":
            for factor in plan.factors:
                shape = plan.centre._replace(**{axis: int(factor * getattr(plan.centre, axis))})
                asked = {"axis": axis, **shape._asdict(), "cell": cell}
                yield {**asked, "contenders": measure(shape, cell, setup, f"{axis}{getattr(shape, axis)}")}


def measure(shape: Shape, cell: str, setup: Setup, title: str) -> dict[str, dict[str, Any]]:
    """What is recorded of each contender, checked equal first, then timed in turn."""
    problem = workloads.problem(workloads.CELLS[cell], shape, setup.dtype)
    entrants = {HAND_WRITTEN: own.hand_written(cell, *problem), **gradient.others(cell, problem, setup)}
    return gradient.compare(entrants, shape, setup, setup.folder(cell, title))


def judge(cases: Sequence[Case], rounds: int) -> list[dict[str, Any]]:
    """The exponents; that of the hand-written gradient in T has a target."""
    found = []
    for (cell, axis, name), (sizes, seconds) in series(cases).items():
        exponent, error = fit(sizes, seconds)
        claim, note = f"{cell}, {name}: exponent of the time in {axis}", f"± {error:.2f}"
        if axis == "T" and name == HAND_WRITTEN:
            # The standard error takes the place of the quartiles.
            bounds = {
                "lower_quartile": exponent - error,
                "median": exponent,
                "upper_quartile": exponent + error,
            }
            found.append({**verdicts.at_most(claim, TARGET, bounds, rounds), "note": note})
        else:
            found.append(verdicts.reported(claim, exponent, note))
    return found


def series(cases: Sequence[Case]) -> dict[tuple[str, str, str], tuple[list[int], list[float]]]:
    """Sizes and median seconds by (cell, axis, contender)."""
    found: dict[tuple[str, str, str], tuple[list[int], list[float]]] = {}
    for row in tables.rows(cases):
        sizes, seconds = found.setdefault((row["cell"], row["axis"], row["contender"]), ([], []))
        sizes.append(row[row["axis"]])
        seconds.append(row["spread"]["median"])
    return found


def fit(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """p of seconds ∝ size^p by least squares in logarithms, and its standard error.

    >>> p, error = fit([1, 2, 4, 8], [3.0, 12.0, 48.0, 192.0])
    >>> round(p, 6), round(error, 6)
    (2.0, 0.0)
    """
    x, y = np.log(sizes), np.log(seconds)
    x = x - x.mean()
    slope = x @ y / (x @ x)
    residual = y - y.mean() - slope * x
    return float(slope), float(np.sqrt(residual @ residual / (len(x) - 2) / (x @ x)))


CENTRE = Shape(B=16, T=256, N=128, D=16)

KEYS = (
    tables.entry("cell", -4),
    tables.entry("varied", -6, "axis"),
    *(tables.entry(axis, 5) for axis in "TNB"),
)
MEDIAN = tables.milliseconds("median ms", 9, "spread", "median")

BENCHMARK = Benchmark(
    name="scaling",
    claim="the time of the hand-written gradient grows no faster than in proportion to T",
    legend=(f"one of T, N and B varies around {CENTRE}", "x hand   time over the hand-written one's"),
    columns=(
        *KEYS,
        tables.entry("contender", -12),
        MEDIAN,
        tables.quartiles("quartiles ms", 17),
        tables.number("x hand", 6, "ratio", "median"),
    ),
    presets={
        "quick": Preset(Grid(CENTRE, (0.5, 1, 2), ("lstm",)), rounds=5),
        "full": Preset(Grid(CENTRE, (0.25, 0.5, 1, 2, 4), ("tanh", "gru", "lstm")), rounds=9),
    },
    cases=cases,
    verdicts=judge,
    peers=(flax_linen.PEER,),
    packages=("flax",),
    pivots=(tables.Pivot("Milliseconds, median", KEYS, MEDIAN),),
)
