"""A batch over several devices: each runs its share, and weight gradients are added up once.

    ∂L/∂θ = Σ_devices ∂L_device/∂θ

The gradient is that of `workloads`, on one device and, by `jax.shard_map` along the batch axis, on all that JAX sees.
XLA's CPU backend runs a loop of small products on one core; it sees each core as a device of its own where
`JAX_NUM_CPU_DEVICES` says how many. With one device there is nothing to compare: the record says so.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks import gradient, harness, tables, verdicts, workloads
from benchmarks.gradient import AUTODIFF, HAND_WRITTEN
from benchmarks.peers import Entrant, own
from benchmarks.runner import Benchmark, Case, Preset, Setup
from benchmarks.workloads import CELLS, Plan, Shape
from rnn_jax import bptt, unroll

SHARED = {HAND_WRITTEN: "hand-written, shared", AUTODIFF: "autodiff, shared"}

TARGET = 1.2
"""Below it, the sum over devices and the second program are hardly worth their lines."""


def cases(plan: Plan, setup: Setup) -> Iterator[Case]:
    """Every cell at every shape."""
    return workloads.cases(plan, partial(measure, setup))


def measure(setup: Setup, shape_name: str, shape: Shape, cell: str) -> dict[str, dict[str, Any]]:
    """What is recorded of each contender, checked equal first, then timed in turn."""
    problem = workloads.problem(CELLS[cell], shape, setup.dtype)
    count = shares(shape)
    entrants = {
        HAND_WRITTEN: own.hand_written(cell, *problem),
        AUTODIFF: own.autodiff(cell, *problem),
        SHARED[HAND_WRITTEN]: shared(bptt.unroll, cell, problem, count),
        SHARED[AUTODIFF]: shared(unroll.unroll, cell, problem, count),
    }
    measured = gradient.compare(entrants, shape, setup, setup.folder(shape_name, cell))
    return {
        name: {**entry, "devices": count if name in SHARED.values() else 1}
        for name, entry in measured.items()
    }


def shares(shape: Shape) -> int:
    """As many as there are devices, or as the batch can be cut into."""
    return max(n for n in range(1, jax.device_count() + 1) if shape.B % n == 0)


def shared(run: Any, cell_name: str, problem: workloads.Problem, count: int) -> Entrant:
    """The batch cut along its axis."""
    cell = CELLS[cell_name]
    mesh = jax.make_mesh((count,), ("batch",), devices=jax.devices()[:count])
    places = P(), P("batch"), P(None, "batch")  # of parameters, h_0 and xs

    def outputs(params, state, xs):
        return cell.emit(run(cell, params, state, xs))

    def share(params, state, xs):
        own_part = jax.grad(lambda params: (outputs(params, state, xs) ** 2).sum())(params)
        return jax.lax.psum(own_part, "batch")

    over = partial(jax.shard_map, mesh=mesh, in_specs=places, check_vma=False)
    arguments = [
        jax.device_put(tree, NamedSharding(mesh, place)) for tree, place in zip(problem, places, strict=True)
    ]
    program = harness.compile_cold(over(share, out_specs=P()), *arguments)
    alone = jax.jit(over(outputs, out_specs=P(None, "batch")))
    return Entrant(
        gradient=program.call,
        outputs=lambda: alone(*arguments),
        translate=lambda gradient: gradient,
        program=program,
    )


def judge(cases: Sequence[Case], rounds: int) -> list[dict[str, Any]]:
    """One device over all of them, by hand."""
    count = max(case["contenders"][SHARED[HAND_WRITTEN]]["devices"] for case in cases)
    if count == 1:
        return [verdicts.reported("devices", count, "nothing to compare")]
    found = []
    for cell in dict.fromkeys(case["cell"] for case in cases):
        ratios = [
            harness.ratios(measured[HAND_WRITTEN]["seconds"], measured[SHARED[HAND_WRITTEN]]["seconds"])
            for measured in (case["contenders"] for case in cases if case["cell"] == cell)
        ]
        title = f"{cell}: time on one device over that on up to {count}, geometric mean"
        mean = harness.across(ratios, harness.geometric_mean)
        found.append(verdicts.at_least(title, TARGET, mean, rounds))
    return found


MEDIAN = tables.milliseconds("median ms", 9, "spread", "median")
KEYS = (tables.entry("shape", -5), tables.entry("cell", -4))
BATCHED = {name: shape for name, shape in workloads.SHAPES.items() if shape.B > 1}

BENCHMARK = Benchmark(
    name="devices",
    claim="a batch that is shared among devices takes less time, with one sum over devices a gradient",
    legend=(
        "shared   the batch over all devices (on a CPU as many as JAX_NUM_CPU_DEVICES says)",
        "x hand   time over the hand-written one's on one device, median over rounds",
    ),
    columns=(
        *KEYS,
        tables.entry("contender", -20),
        tables.number("devices", 7, "devices", form="{:.0f}"),
        MEDIAN,
        tables.quartiles("quartiles ms", 17),
        tables.number("x hand", 6, "ratio", "median"),
    ),
    presets={
        "quick": Preset(Plan({"S1": workloads.SHAPES["S1"]}), rounds=5),
        "full": Preset(Plan(BATCHED), rounds=9),
    },
    cases=cases,
    verdicts=judge,
    pivots=(tables.Pivot("Milliseconds, median", KEYS, MEDIAN),),
)
