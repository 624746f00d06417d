"""The hand-written gradient of a sequence keeps weight gradients out of its loop and is faster than the others'.

The gradient is that of `workloads`, and its outputs h_1 … h_T alone are timed too; the contenders, in one process and
in turn, are

    hand-written   `rnn_jax.bptt.unroll` under `jax.grad`
    autodiff       `rnn_jax.unroll.unroll` under `jax.grad`: the same cell, JAX's own backward pass
    the peers      of `benchmarks.peers`, with one step or four in a turn of their loops, whichever is faster

Outputs and gradients are compared before the clock starts.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks import harness, loops, tables, verdicts, workloads
from benchmarks.peers import Entrant, equinox_scan, flax_linen, flax_nnx, own, strongest, torch_nn
from benchmarks.runner import Benchmark, Case, Preset, Setup
from benchmarks.workloads import Plan, Shape

HAND_WRITTEN, AUTODIFF, TORCH = "hand-written", "autodiff", torch_nn.PEER.name

JAX_PEERS = (flax_linen.PEER, flax_nnx.PEER, equinox_scan.PEER)

ALL_SHAPES = {**workloads.SHAPES, **workloads.EXTREMES}

# Time of the best of the JAX peers over hand-written: geometric mean over shapes, the least of them, the least of the
# extremes; time of torch over it, geometric mean.
MEAN_TARGET = {"tanh": 1.3, "gru": 1.5, "lstm": 1.5}
LEAST_TARGET = {"tanh": 1.0, "gru": 1.1, "lstm": 1.1}
EXTREMES_TARGET = 1.0
TORCH_TARGET = {"tanh": 1.6, "gru": 1.6, "lstm": 1.0}

FORWARD_TARGET = 1.0
"""Of outputs alone: time of the best of the JAX peers over ours, as above, and of torch, the geometric mean."""


def cases(plan: Plan, setup: Setup) -> Iterator[Case]:
    """Every cell at every shape."""
    return workloads.cases(plan, partial(measure, setup))


def measure(setup: Setup, shape_name: str, shape: Shape, cell: str) -> dict[str, dict[str, Any]]:
    """What is recorded of each contender, for one cell at one shape: checked equal first, then timed in turn."""
    problem = workloads.problem(workloads.CELLS[cell], shape, setup.dtype)
    entrants = {HAND_WRITTEN: own.hand_written(cell, *problem), **others(cell, problem, setup)}
    measured = compare(entrants, shape, setup, setup.folder(shape_name, cell))
    outputs = {name: entrant.outputs for name, entrant in entrants.items()}
    folder = setup.folder(shape_name, cell, "outputs")
    for name, times in harness.timed(outputs, HAND_WRITTEN, setup.rounds, folder).items():
        measured[name]["forward"] = times
    return measured


def others(cell: str, problem: workloads.Problem, setup: Setup, last: bool = False) -> dict[str, Entrant]:
    """All contenders but the hand-written one."""
    peers = {peer.name: strongest(peer, cell, *problem, last) for peer in setup.peers if cell in peer.cells}
    return {AUTODIFF: own.autodiff(cell, *problem, last), **peers}


def compare(
    entrants: Mapping[str, Entrant], shape: Shape, setup: Setup, profile: Any = None
) -> dict[str, dict[str, Any]]:
    """Measurements of the entrants, the first of which is the one that ratios are taken to."""
    errors = workloads.check_equal(entrants, AUTODIFF, setup.dtype)
    calls = {name: entrant.gradient for name, entrant in entrants.items()}
    times = harness.timed(calls, next(iter(entrants)), setup.rounds, profile)
    unit = workloads.floats(shape) * np.dtype(setup.dtype).itemsize
    return {
        name: {
            **times[name],
            "relative_error": errors[name],
            "lacks": list(entrant.lacks),
            "turns": list(entrant.turns),
            **_compiled(entrant.program, unit),
        }
        for name, entrant in entrants.items()
    }


def _compiled(program: harness.Compiled | None, unit: int) -> dict[str, Any]:
    """What is recorded of a program beside its time; nothing of a library that compiles none."""
    if program is None:
        return {}
    temporary = program.temporary_bytes
    return {
        "trace_seconds": program.trace_seconds,
        "compile_seconds": program.compile_seconds,
        "temporary_bytes": temporary,
        "temporary_per_TBN": None if temporary is None else temporary / unit,
        "weight_gradient_products_in_loops": loops.weight_gradient_products(program.jaxpr),
    }


def judge(cases: Sequence[Case], rounds: int) -> list[dict[str, Any]]:
    """What the measurements say of the claim."""
    names = {peer.name for peer in JAX_PEERS}

    def ratios(cell, contenders, extreme=False, of=None):
        judged = [case for case in cases if (case["shape"] in workloads.EXTREMES) == extreme]
        mine = [case for case in judged if case["cell"] == cell]
        return [ratio for case in mine if (ratio := best_ratio(case, contenders, of))]

    found = [_loop_verdict(cases)]
    for cell in dict.fromkeys(case["cell"] for case in cases):
        best = ratios(cell, names)
        title = f"{cell}: time of the best of flax and equinox over hand-written"
        found += _across(f"{title}, geometric mean", MEAN_TARGET[cell], best, harness.geometric_mean, rounds)
        found += _across(f"{title}, the least", LEAST_TARGET[cell], best, min, rounds)
        extreme = ratios(cell, names, extreme=True)
        found += _across(f"{title}, the least of the extremes", EXTREMES_TARGET, extreme, min, rounds)
        torch = ratios(cell, {TORCH})
        title = f"{cell}: time of torch over hand-written, geometric mean"
        found += _across(title, TORCH_TARGET[cell], torch, harness.geometric_mean, rounds)
        for peers, contenders in (("the best of flax and equinox", names), ("torch", {TORCH})):
            forward = ratios(cell, contenders, of="forward")
            title = f"{cell}, outputs alone: time of {peers} over hand-written"
            found += _across(
                f"{title}, geometric mean", FORWARD_TARGET, forward, harness.geometric_mean, rounds
            )
            if contenders is names:
                extreme = ratios(cell, names, extreme=True, of="forward")
                found += _across(f"{title}, the least", FORWARD_TARGET, forward, min, rounds)
                found += _across(f"{title}, the least of the extremes", FORWARD_TARGET, extreme, min, rounds)
    return found + _of_less_work(cases)


def best_ratio(case: Case, names: set[str], of: str | None = None) -> dict[str, float] | None:
    """The time of the fastest of the contenders named over hand-written; None if none of them took part.

    That of the gradient, or what is recorded `of` something else. One that has less to do is left out.
    """
    measured = [each for name, each in case["contenders"].items() if name in names and not each["lacks"]]
    found = [(each if of is None else each[of])["ratio"] for each in measured]
    return harness.across(found, min) if found else None


def _of_less_work(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """The contenders that have less to do: no comparison, but nothing to hide."""
    ratios: dict[str, list[float]] = {}
    for case in cases:
        for name, measured in case["contenders"].items():
            if measured["lacks"] and case["shape"] not in workloads.EXTREMES:
                less = f"{name}, which has no {', '.join(measured['lacks'])},"
                title = f"{case['cell']}: time of {less} over hand-written, geometric mean"
                ratios.setdefault(title, []).append(measured["ratio"]["median"])
    return [verdicts.reported(title, harness.geometric_mean(found)) for title, found in ratios.items()]


def _across(
    claim: str, target: float, ratios: Sequence[Mapping[str, float]], combine: Callable, rounds: int
) -> list[dict[str, Any]]:
    return [verdicts.at_least(claim, target, harness.across(ratios, combine), rounds)] if ratios else []


def _loop_verdict(cases: Sequence[Case]) -> dict[str, Any]:
    """Automatic differentiation is the negative control: the count must see what it leaves in the loop."""

    def products(name):
        return [case["contenders"][name]["weight_gradient_products_in_loops"] for case in cases]

    claim = "weight-gradient products inside the hand-written loop"
    verdict = verdicts.at_most(claim, 0, max(products(HAND_WRITTEN)))
    control = min(products(AUTODIFF))
    if control == 0:
        verdict["verdict"] = verdicts.FAILS
    return {**verdict, "note": f"the control, autodiff, has {control} or more"}


KEYS = (tables.entry("shape", -5), tables.entry("cell", -4))
MEDIAN = tables.milliseconds("median ms", 9, "spread", "median")
RATIO = tables.number("x hand", 6, "ratio", "median")
OUTPUTS = tables.milliseconds("outputs ms", 10, "forward", "spread", "median")

BENCHMARK = Benchmark(
    name="gradient",
    claim="the hand-written gradient keeps weight gradients out of its loop and is faster than the others",
    legend=(
        *(
            f"{name}          " + ", ".join(f"{axis} = {size}" for axis, size in shape._asdict().items())
            for name, shape in ALL_SHAPES.items()
        ),
        "x hand      time over the hand-written one's, median over rounds",
        "outputs ms  h_1 … h_T alone, median over rounds",
        "temp        peak temporary memory, in units of T·B·N floats",
        "in loop     weight-gradient products inside the time loops",
    ),
    columns=(
        *KEYS,
        tables.entry("contender", -12),
        MEDIAN,
        tables.quartiles("quartiles ms", 17),
        RATIO,
        OUTPUTS,
        tables.number("temp", 6, "temporary_per_TBN", form="{:.1f}"),
        tables.number("in loop", 7, "weight_gradient_products_in_loops", form="{:.0f}"),
    ),
    presets={
        "quick": Preset(Plan(workloads.FEW), rounds=5),
        "full": Preset(Plan(ALL_SHAPES), rounds=9),
    },
    cases=cases,
    verdicts=judge,
    peers=(*JAX_PEERS, torch_nn.PEER),
    packages=("flax", "equinox", "torch"),
    pivots=(
        tables.Pivot("Milliseconds, median", KEYS, MEDIAN),
        tables.Pivot("Time over hand-written, median", KEYS, RATIO),
        tables.Pivot("Milliseconds for the outputs alone, median", KEYS, OUTPUTS),
    ),
)
