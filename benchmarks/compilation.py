"""The hand-written gradient compiles nearly as fast as that of flax.linen, and its program does not grow with T.

Seconds to trace, lower and compile the gradient of `workloads`, from cold caches in every round.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax

from benchmarks import harness, tables, verdicts, workloads
from benchmarks.gradient import HAND_WRITTEN, JAX_PEERS
from benchmarks.peers import flax_linen, own
from benchmarks.runner import Benchmark, Case, Preset, Setup
from benchmarks.workloads import Plan, Shape

TARGET = 1.2

GROWTH = 1.25
"""Of the number of instructions when T is ten times as large: a remainder of steps may need a loop of its own."""


def cases(plan: Plan, setup: Setup) -> Iterator[Case]:
    """Every cell at every shape."""
    return workloads.cases(plan, partial(measure, setup))


def measure(setup: Setup, shape_name: str, shape: Shape, cell: str) -> dict[str, dict[str, Any]]:
    """What is recorded of each contender. A round that is not counted imports what is imported late."""
    del shape_name  # nothing is profiled
    if harness.keeps_programs():
        raise harness.BenchmarkError(
            f"programs are read from {jax.config.jax_compilation_cache_dir}, which takes no compiling; "
            "unset JAX_COMPILATION_CACHE_DIR."
        )
    problem = workloads.problem(workloads.CELLS[cell], shape, setup.dtype)
    builds = {peer.name: partial(peer.build, cell, *problem) for peer in setup.peers if cell in peer.cells}
    builds = {HAND_WRITTEN: partial(own.hand_written, cell, *problem), **builds}
    programs: dict[str, list[harness.Compiled]] = {name: [] for name in builds}
    lacks: dict[str, list[str]] = {}
    for number in range(setup.rounds + 1):
        for name, build in builds.items():
            entrant = build()
            lacks[name] = list(entrant.lacks)
            if number:
                programs[name].append(entrant.program)

    def seconds(name):
        return [program.seconds for program in programs[name]]

    return {
        name: {
            "seconds": seconds(name),
            "spread": harness.spread(seconds(name)),
            "ratio": harness.ratios(seconds(name), seconds(HAND_WRITTEN)),
            "trace": harness.spread(program.trace_seconds for program in programs[name]),
            "instructions": programs[name][0].instructions,
            "lacks": lacks[name],
        }
        for name in builds
    }


def judge(cases: Sequence[Case], rounds: int) -> list[dict[str, Any]]:
    """Seconds against those of Flax, and the number of instructions at the longest T against that at the shortest."""
    found = []
    for case in cases:
        ours, theirs = (case["contenders"].get(name) for name in (HAND_WRITTEN, flax_linen.PEER.name))
        if theirs is not None:
            ratio = harness.ratios(ours["seconds"], theirs["seconds"])
            title = f"{case['cell']}, T = {case['T']}: seconds over those of flax.linen"
            found.append(verdicts.at_most(title, TARGET, ratio, rounds))
        contenders = case["contenders"].items()
        peers = [each for name, each in contenders if name != HAND_WRITTEN and not each["lacks"]]
        if peers:
            ratio = harness.over_fastest(ours["seconds"], peers)
            title = f"{case['cell']}, T = {case['T']}: seconds over those of the fastest peer"
            found.append(verdicts.reported(title, ratio["median"]))
    for cell in dict.fromkeys(case["cell"] for case in cases):
        instructions = {
            c["T"]: c["contenders"][HAND_WRITTEN]["instructions"] for c in cases if c["cell"] == cell
        }
        shortest, longest = min(instructions), max(instructions)
        growth = instructions[longest] / instructions[shortest]
        title = f"{cell}: instructions at T = {longest} over those at T = {shortest}"
        found.append(verdicts.at_most(title, GROWTH, growth))
    return found


KEYS = (tables.entry("T", 5), tables.entry("cell", -4))
SECONDS = tables.number("seconds", 8, "spread", "median")
INSTRUCTIONS = tables.number("instructions", 12, "instructions", form="{:.0f}")

PLAN = Plan({f"T{steps}": Shape(B=16, T=steps, N=64, D=8) for steps in (100, 1000)})

BENCHMARK = Benchmark(
    name="compile",
    claim="the hand-written gradient compiles nearly as fast as flax.linen's, and its program does not grow with T",
    legend=(
        "seconds       to trace, lower and compile, from cold caches, median over rounds",
        "x hand        seconds over the hand-written one's, median over rounds",
        "instructions  of the compiled program",
    ),
    columns=(
        *KEYS,
        tables.entry("contender", -12),
        SECONDS,
        tables.quartiles("quartiles s", 13, "{:.2f}".format),
        tables.number("of it tracing", 13, "trace", "median"),
        tables.number("x hand", 6, "ratio", "median"),
        INSTRUCTIONS,
    ),
    presets={"quick": Preset(PLAN, rounds=5), "full": Preset(PLAN, rounds=9)},
    cases=cases,
    verdicts=judge,
    peers=JAX_PEERS,
    packages=("flax", "equinox"),
    pivots=(
        tables.Pivot("Seconds to trace, lower and compile, median", KEYS, SECONDS),
        tables.Pivot("Instructions of the compiled program", KEYS, INSTRUCTIONS),
    ),
)
