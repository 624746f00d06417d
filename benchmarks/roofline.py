"""How far the hand-written gradient is from the sum of what it cannot do without: η = limit / time.

The limit is composed of parts that are measured beside it, in the same rounds. With G gates,

    [T·B, D] [D, G·N]               the inputs' products, all at once
    T times [B, N] [N, G·N]         the recurrent products, one after the other
    T times [B, G·N] [G·N, N]       the transposed ones of the way back, one after the other
    [G·N, T·B] [T·B, N]             the gradient of the recurrent weights
    [G·N, T·B] [T·B, D]             the gradient of the input weights
    bytes of the elementwise part / bandwidth

Each product is measured both ways, with the weights to the right and to the left of it, and the faster way counts. A
composed limit is no bound: products beside one another may share a core better, and a fusion may save a pass over
memory. It says where time is left to gain.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import harness, tables, verdicts, workloads
from benchmarks.gradient import HAND_WRITTEN
from benchmarks.peers import own
from benchmarks.runner import Benchmark, Case, Preset, Setup
from benchmarks.workloads import CELLS, GATES, SHAPES, Plan, Shape

TARGET = 0.75
WIDE = 512
"""Hidden units from which products dominate, and the target is set."""

COPY, LIMIT = "copy", "limit"
COPIED = 1 << 24
"""Floats that are copied to measure the bandwidth: more than any cache holds."""

PASSES = {"tanh": 4, "gru": 17, "lstm": 20}
"""Passes of the elementwise part over T·B·N floats, each array read and written once and gates kept.

              forward                     backward
    tanh      read u, write h             read h (for f′ and ∂L/∂h = 2h), write δ
    GRU       read u (3), write           read gates (3), R_n h + b_hn, h; write ∂L/∂u (3) and the candidate's ∂L/∂r
              gates (3), R_n h + b_hn, h
    LSTM      read u (4), write           read gates (4), c, h; write ∂L/∂u (4)
              gates (4), c, h
"""


def cases(plan: Plan, setup: Setup) -> Iterator[Case]:
    """Every cell at every shape."""
    return workloads.cases(plan, partial(measure, setup))


def measure(setup: Setup, shape_name: str, shape: Shape, cell: str) -> dict[str, dict[str, Any]]:
    """The gradient, each part of the limit, and the limit itself, from the seconds of the parts in each round."""
    problem = workloads.problem(CELLS[cell], shape, setup.dtype)
    calls = {HAND_WRITTEN: own.hand_written(cell, *problem).program.call}
    ways: dict[str, list[str]] = {}
    for name, alternatives in parts(shape, GATES[cell], setup.dtype).items():
        ways[name] = [f"{name}, way {i}" for i in range(len(alternatives))]
        for way, (function, arguments) in zip(ways[name], alternatives, strict=True):
            calls[way] = harness.compile_cold(function, *arguments).call
    timed = harness.timed(calls, HAND_WRITTEN, setup.rounds, setup.folder(shape_name, cell))
    measured = {HAND_WRITTEN: timed[HAND_WRITTEN]}
    for name, found in ways.items():
        measured[name] = min((timed[way] for way in found), key=lambda each: each["spread"]["median"])

    copy = measured.pop(COPY)["seconds"]
    moved = PASSES[cell] * workloads.floats(shape) / (2 * COPIED)
    elementwise = [moved * seconds for seconds in copy]
    whole = measured[HAND_WRITTEN]["seconds"]
    products = [measured[name]["seconds"] for name in measured if name != HAND_WRITTEN]
    limit = [sum(seconds) for seconds in zip(elementwise, *products, strict=True)]
    for name, seconds in (("elementwise", elementwise), (LIMIT, limit)):
        ratio = harness.ratios(seconds, whole)
        measured[name] = {"seconds": seconds, "spread": harness.spread(seconds), "ratio": ratio}
    return measured


def parts(shape: Shape, gates: int, dtype: str) -> dict[str, list[tuple[Callable, tuple]]]:
    """The products and the copy: the ways to do each, a function with its arguments."""
    rng = np.random.default_rng(0)

    def normal(*sizes, variance=1.0):
        return jnp.asarray(rng.normal(0, variance**0.5, sizes).astype(dtype))

    B, T, N, D = shape
    GN = gates * N
    delta, hs, xs = normal(T * B, GN), normal(T * B, N), normal(T * B, D)
    # From one step to the next, a mean over gates keeps the size of h; so does dealing δ out to them.
    w_hh = normal(N, GN, variance=gates / N)

    def recurrent(w, h):
        return lax.fori_loop(0, T, lambda t, h: (h @ w).reshape(B, gates, N).mean(1), h)

    def recurrent_turned(w, h):
        return lax.fori_loop(0, T, lambda t, h: (w @ h).reshape(gates, N, B).mean(0), h)

    def transposed(w, d):
        return lax.fori_loop(0, T, lambda t, d: jnp.tile(d, (1, gates)) @ w, d)

    def transposed_turned(w, d):
        return lax.fori_loop(0, T, lambda t, d: w @ jnp.tile(d, (gates, 1)), d)

    def both_ways(left, right):
        """leftᵀ right, and its transpose."""
        return [(lambda a, b: a.T @ b, (left, right)), (lambda a, b: b.T @ a, (left, right))]

    w_xh, h, d = normal(D, GN), normal(B, N), normal(B, N)
    return {
        "inputs": [(jnp.matmul, (xs, w_xh)), (lambda w, xs: w @ xs.T, (w_xh.T, xs))],
        "recurrent": [(recurrent, (w_hh, h)), (recurrent_turned, (w_hh.T, h.T))],
        "transposed": [(transposed, (w_hh.T / gates, d)), (transposed_turned, (w_hh / gates, d.T))],
        "∂L/∂W_hh": both_ways(delta, hs),
        "∂L/∂W_xh": both_ways(delta, xs),
        COPY: [(lambda x: x + 1, (normal(COPIED),))],
    }


def judge(cases: Sequence[Case], rounds: int) -> list[dict[str, Any]]:
    """η where products dominate."""
    return [
        verdicts.at_least(
            f"{case['cell']}, {case['shape']}: composed limit over hand-written",
            TARGET,
            case["contenders"][LIMIT]["ratio"],
            rounds,
        )
        for case in cases
        if case["N"] >= WIDE
    ]


KEYS = (tables.entry("shape", -5), tables.entry("cell", -4))
SHARE = tables.number("share", 6, "ratio", "median")

BENCHMARK = Benchmark(
    name="roofline",
    claim="the hand-written gradient takes little longer than the products that it cannot do without",
    legend=(
        "limit   sum of the parts below hand-written, each measured alone in the same rounds, the faster way",
        "share   of the hand-written gradient's time, median over rounds; for the limit this is η",
    ),
    columns=(
        *KEYS,
        tables.entry("part", -12, "contender"),
        tables.milliseconds("median ms", 9, "spread", "median"),
        tables.quartiles("quartiles ms", 17),
        SHARE,
    ),
    presets={
        "quick": Preset(Plan({name: SHAPES[name] for name in ("S1", "S3")}), rounds=5),
        "full": Preset(Plan(SHAPES), rounds=9),
    },
    cases=cases,
    verdicts=judge,
    pivots=(
        tables.Pivot("Share of the hand-written gradient's time, median; the limit's is η", KEYS, SHARE),
    ),
)
