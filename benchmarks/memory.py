"""A gradient needs little temporary memory: the ways of keeping the forward pass, and the peers, as compiled.

What XLA allocates beside arguments and results, in units of T·B·N floats, one state of every step. The time of
each way stands beside it, for memory can always be had for time. Peers keep what they keep unless asked; what
`jax.checkpoint` makes of automatic differentiation is shown beside them, and reported. Where the loss is that of the
last of many steps,

    ∂/∂θ ‖h_T‖²,

even the states need not be kept: `bptt.final_state` starts again from checkpoints.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from benchmarks import gradient, harness, tables, verdicts, workloads
from benchmarks.gradient import JAX_PEERS
from benchmarks.peers import own
from benchmarks.runner import Benchmark, Case, Preset, Setup
from benchmarks.workloads import SHAPES, Plan, Shape

TARGET = {"tanh": 2.2, "gru": 3.0, "lstm": 3.5}
LONG_TARGET, LONG_TIME_TARGET = 30.0, 1.4

WAYS: Mapping[str, dict[str, Any]] = {
    "gates kept": {"store": "gates"},
    "states kept": {"store": "states"},
    "checkpoints": {"store": "checkpoints"},
}
"""This library's ways of keeping the forward pass, and their options."""

REMATERIALISED = "jax.checkpoint"

ALL_STEPS, LAST_STEP = "all steps", "last step"


class Plans(NamedTuple):
    """Where the loss is that of all steps, and where it is that of the last."""

    every: Plan
    last: Plan


def cases(plan: Plans, setup: Setup) -> Iterator[Case]:
    """Every cell at every shape, for both losses."""
    for loss, part in ((ALL_STEPS, plan.every), (LAST_STEP, plan.last)):
        for case in workloads.cases(part, partial(measure, setup, loss)):
            yield {"loss": loss, **case}


def measure(setup: Setup, loss: str, shape_name: str, shape: Shape, cell: str) -> dict[str, dict[str, Any]]:
    """What is recorded of each contender, this library's ways first."""
    last = loss == LAST_STEP
    problem = workloads.problem(workloads.CELLS[cell], shape, setup.dtype)
    entrants = {name: own.hand_written(cell, *problem, last, **options) for name, options in WAYS.items()}
    entrants |= gradient.others(cell, problem, setup, last)
    entrants[REMATERIALISED] = own.rematerialised(cell, *problem, last)
    return gradient.compare(entrants, shape, setup, setup.folder(shape_name, cell))


def judge(cases: Sequence[Case], rounds: int) -> list[dict[str, Any]]:
    """Memory and time of one way a cell: `choose`; over many steps, of the leanest."""
    found = []
    for cell in dict.fromkeys(case["cell"] for case in cases):
        of_cell = [case for case in cases if case["cell"] == cell and _comparable(case)]
        for case in of_cell:
            if case["loss"] == LAST_STEP:
                found += _long(case, rounds)
        every = [case for case in of_cell if case["loss"] == ALL_STEPS]
        if every:
            way = choose(every)
            title = f"{cell}, {way}, geometric mean"
            found += [
                verdicts.at_most(
                    f"{title}: temporary memory / T·B·N floats", TARGET[cell], _memory(every, way)
                ),
                verdicts.at_most(
                    f"{title}: time over that of the fastest peer", 1.0, _time(every, way), rounds
                ),
            ]
    return found


def choose(cases: Sequence[Case]) -> str:
    """The leanest of the ways that are no slower than the fastest peer, in the mean; if none is, the fastest."""
    fast = [way for way in WAYS if _time(cases, way)["median"] <= 1]
    if fast:
        return min(fast, key=lambda way: _memory(cases, way))
    return min(WAYS, key=lambda way: _time(cases, way)["median"])


def _memory(cases: Sequence[Case], way: str) -> float:
    return harness.geometric_mean(case["contenders"][way]["temporary_per_TBN"] for case in cases)


def _time(cases: Sequence[Case], way: str) -> dict[str, float]:
    """Over that of the peer that is fastest in the case, in the median."""

    def ratio(case):
        return harness.over_fastest(case["contenders"][way]["seconds"], _peers(case))

    return harness.across(map(ratio, cases), harness.geometric_mean)


def _long(case: Case, rounds: int) -> list[dict[str, Any]]:
    way = min(WAYS, key=lambda name: case["contenders"][name]["temporary_bytes"])
    saved = min(peer["temporary_bytes"] for peer in _peers(case)) / case["contenders"][way]["temporary_bytes"]
    title = f"{case['cell']}, {way}, loss of the last of {case['T']} steps"
    return [
        verdicts.at_least(f"{title}: temporary memory of the leanest peer over ours", LONG_TARGET, saved),
        verdicts.at_most(
            f"{title}: time over that of the fastest peer", LONG_TIME_TARGET, _time([case], way), rounds
        ),
        *_rematerialised(title, case["contenders"][way], case["contenders"][REMATERIALISED]),
    ]


def _rematerialised(title: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What automatic differentiation with checkpoints takes in memory and in time."""
    saved = theirs["temporary_bytes"] / ours["temporary_bytes"]
    time = harness.ratios(ours["seconds"], theirs["seconds"])["median"]
    return [
        verdicts.reported(f"{title}: temporary memory of autodiff under {REMATERIALISED} over ours", saved),
        verdicts.reported(f"{title}: time over that of autodiff under {REMATERIALISED}", time),
    ]


def _comparable(case: Case) -> bool:
    """Whether a peer took part, and the device says what it allocates."""
    return bool(_peers(case)) and all(peer["temporary_bytes"] is not None for peer in _peers(case))


def _peers(case: Case) -> list[dict[str, Any]]:
    names = {peer.name for peer in JAX_PEERS}
    return [each for name, each in case["contenders"].items() if name in names and not each["lacks"]]


KEYS = (tables.entry("loss", -9), tables.entry("shape", -5), tables.entry("cell", -4))
TEMPORARY = tables.number("temp", 6, "temporary_per_TBN")
MEDIAN = tables.milliseconds("median ms", 9, "spread", "median")

LONG = {"long": Shape(B=16, T=4096, N=128, D=10)}

BENCHMARK = Benchmark(
    name="memory",
    claim="a gradient needs little temporary memory, and over many steps a small part of what the states would take",
    legend=(
        "loss     of all steps, Σ_t ‖h_t‖², or of the last step, ‖h_T‖²",
        "temp     peak temporary memory, in units of T·B·N floats, and in megabytes",
        "x first  time over that of the first way, median over rounds",
    ),
    columns=(
        *KEYS,
        tables.entry("contender", -14),
        TEMPORARY,
        tables.number("temp MB", 9, "temporary_bytes", scale=1e-6, form="{:.1f}"),
        MEDIAN,
        tables.number("x first", 7, "ratio", "median"),
    ),
    presets={
        "quick": Preset(Plans(Plan({"S1": SHAPES["S1"]}), Plan(LONG, ("lstm",))), rounds=5),
        "full": Preset(Plans(Plan(SHAPES), Plan(LONG)), rounds=9),
    },
    cases=cases,
    verdicts=judge,
    peers=JAX_PEERS,
    packages=("flax", "equinox"),
    pivots=(
        tables.Pivot("Peak temporary memory, in units of T·B·N floats", KEYS, TEMPORARY),
        tables.Pivot("Milliseconds, median", KEYS, MEDIAN),
    ),
)
