"""The benchmarks compare like with like, keep a whole record or none, and measure the loop without a clock.

No time is asserted: shapes are tiny, and the machine may be busy.
"""

import doctest
import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import benchmarks
from benchmarks import (
    compilation,
    document,
    gradient,
    harness,
    laboratory,
    loops,
    memory,
    pictures,
    questions,
    records,
    roofline,
    runner,
    scaling,
    verdicts,
    workloads,
)
from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.peers import Entrant, Peer, flax_linen, own, strongest, torch_nn
from benchmarks.runner import Preset
from benchmarks.workloads import Plan, Shape
from tests.cases import multiplications

# All sizes equal: a count that went by shapes could not tell a weight gradient from another product.
SQUARE = Shape(B=4, T=5, N=4, D=4)
TANH = Plan({"tiny": SQUARE}, cells=("tanh",))
CELLS = ("tanh", "gru", "lstm")


@pytest.fixture(autouse=True)
def warm_caches(monkeypatch):
    """Compile times are not looked at here, so what was compiled for another test is welcome."""
    monkeypatch.setattr(jax, "clear_caches", lambda: None)
    monkeypatch.setattr(roofline, "COPIED", 1024)


@pytest.fixture
def tiny(monkeypatch):
    """Sets what a benchmark measures and against whom."""

    def replace(name, plan, peers=(flax_linen.PEER,), rounds=2):
        small = BENCHMARKS[name]._replace(presets={"quick": Preset(plan, rounds)}, peers=peers)
        monkeypatch.setitem(BENCHMARKS, name, small)

    replace("gradient", TANH)
    return replace


def run_in(folder, *options, name="gradient"):
    """The one record of a run, and that there is nothing else beside it."""
    assert main([name, "--output", str(folder), *options]) == 0
    (path,) = folder.iterdir()
    return json.loads(path.read_text())


def test_the_record_is_complete_and_the_table_fits_a_terminal(tiny, tmp_path, capsys):
    record = run_in(tmp_path / "made" / "for it", "--profile", str(tmp_path / "profiles"))
    assert record["settings"]["rounds"] == 2
    assert record["settings"]["plan"] == {"shapes": {"tiny": SQUARE._asdict()}, "cells": ["tanh"]}
    assert {"platform", "kind", "count", "cores", "processor", "load"} <= record["device"].keys()
    assert record["versions"]["jax"] == jax.__version__
    assert record["skipped"] == {}
    (case,) = record["cases"]
    assert (case["shape"], case["cell"]) == ("tiny", "tanh")
    assert list(case["contenders"]) == ["hand-written", "autodiff", "flax.linen"]
    assert set(case["contenders"]["hand-written"]["ratio"].values()) == {1.0}
    for measured in case["contenders"].values():
        assert len(measured["seconds"]) == 2
        assert measured["spread"]["min"] == min(measured["seconds"])
        assert measured["compile_seconds"] > 0
        assert measured["temporary_per_TBN"] == measured["temporary_bytes"] / (4 * 5 * 4 * 4)
        assert len(measured["forward"]["seconds"]) == 2
    claims = [verdict["claim"].partition(":")[0] for verdict in record["verdicts"]]
    loop = "weight-gradient products inside the hand-written loop"
    assert claims == [loop, "tanh", "tanh", "tanh, outputs alone", "tanh, outputs alone"]

    printed = capsys.readouterr().out.splitlines()
    table = printed[printed.index("") :]
    assert max(len(line) for line in table if line.startswith(("tiny", "shape"))) <= 100
    assert sum(line.startswith("tiny") for line in table) == 3

    profiles = sorted((tmp_path / "profiles" / "gradient").iterdir())
    assert [profile.name for profile in profiles] == ["tiny-tanh", "tiny-tanh-outputs"]
    assert all(list(profile.rglob("*.xplane.pb")) for profile in profiles)


def setup(dtype="float32", peers=(flax_linen.PEER,), rounds=1):
    return runner.Setup(dtype, rounds, None, peers)


@pytest.mark.parametrize(("cell", "dtype"), [("tanh", "float64"), ("gru", "float32"), ("lstm", "float32")])
def test_contenders_compute_the_same_and_the_hand_written_loop_alone_holds_no_weight_gradient(cell, dtype):
    with jax.enable_x64(dtype == "float64"):
        measured = gradient.measure(setup(dtype), "tiny", SQUARE, cell)
    errors = {name: contender["relative_error"] for name, contender in measured.items()}
    assert errors.keys() == {"hand-written", "autodiff", "flax.linen"}
    assert errors.pop("autodiff") == 0  # the reference
    assert max(errors.values()) < 100 * jnp.finfo(dtype).eps
    products = {name: contender["weight_gradient_products_in_loops"] for name, contender in measured.items()}
    assert products.pop("hand-written") == 0
    assert min(products.values()) >= 2  # one for the recurrent weights, one for the input's


@pytest.mark.slow
@pytest.mark.parametrize("last", [False, True], ids=["all-steps", "last-step"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("peer", [*gradient.JAX_PEERS, torch_nn.PEER], ids=lambda peer: peer.name)
def test_every_peer_computes_the_same_for_both_losses(peer, dtype, last):
    for module in peer.requires:
        pytest.importorskip(module)
    shape = Shape(B=3, T=5, N=4, D=2)  # all different
    with jax.enable_x64(dtype == "float64"):
        for cell in peer.cells:
            problem = workloads.problem(workloads.CELLS[cell], shape, dtype)
            entrants = gradient.others(cell, problem, setup(dtype, [peer]), last)
            errors = workloads.check_equal(entrants, "autodiff", dtype)
            assert errors[peer.name] < 100 * jnp.finfo(dtype).eps, cell


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint], ids=["plain", "jit", "checkpoint"])
def test_products_are_found_in_every_kind_of_loop(wrap):
    def scan(w, hs):
        @wrap
        def body(dw, h):
            return dw + (h @ w)[:, None] @ h[None], None  # one product with a weight, one without

        return lax.scan(body, w, hs)[0]

    def fori(w, hs):
        return lax.fori_loop(0, 3, lambda t, dw: dw + wrap(lambda h: h[:, None] @ h[None])(hs[t] @ w), w)

    def branch(w, hs):
        def body(dw, h):
            return lax.cond(h[0] > 0, lambda dw, h: dw + h[:, None] @ h[None], lambda dw, h: dw, dw, h), None

        return lax.scan(body, w, hs)[0]

    def straight(w, hs):
        return w + hs.T @ hs

    def once_a_chunk(w, hs):
        def chunk(dw, hs):
            hs = lax.scan(lambda h, x: (h @ w, h + x), hs[0], hs)[1]
            return dw + wrap(lambda hs: hs.T @ hs)(hs), None

        return lax.scan(chunk, w, hs[:, None])[0]

    w, hs = jnp.eye(3), jnp.ones((3, 3))
    counts = [
        loops.weight_gradient_products(jax.make_jaxpr(f)(w, hs))
        for f in (scan, fori, branch, straight, once_a_chunk)
    ]
    assert counts == [1, 1, 1, 0, 0]
    # A loop around one does not hide what is done in it.
    nested = lambda w, hs: lax.scan(lambda w, _: (scan(w, hs * w[0, 0]), None), w, length=2)[0]
    assert loops.weight_gradient_products(jax.make_jaxpr(nested)(w, hs)) == 1


def misplaced(cell_name, params, *arguments):
    """Flax with the bias of another unit at each."""
    return flax_linen.build(cell_name, params._replace(b_h=params.b_h[::-1]), *arguments)


def test_a_peer_with_a_parameter_in_the_wrong_place_is_not_timed(tiny, tmp_path, monkeypatch, capsys):
    tiny("gradient", TANH, peers=[flax_linen.PEER._replace(build=misplaced, turns=())])
    monkeypatch.setattr(harness, "interleave", lambda *_: pytest.fail("timed"))
    assert main(["gradient", "--output", str(tmp_path)]) == 1
    assert "flax.linen and autodiff differ" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def entrant(params, outputs):
    return own.Entrant(lambda: params, lambda: outputs, lambda gradient: gradient, program=None)


def test_an_older_record_does_not_replace_a_newer_one(tmp_path):
    page = tmp_path / "performance.md"
    page.write_text("".join(f"<!-- begin {name} --><!-- end {name} -->" for name in (*BENCHMARKS, "missed")))
    record = made_up("compile")
    times = ["2026-01-02T00:00:00+00:00", "2026-01-03T00:00:00+00:00", "2026-01-01T00:00:00+00:00"]
    for i, created in enumerate(times):
        records.write_json(tmp_path / f"{i}.json", {**record, "created": created})
    document.update(BENCHMARKS, sorted(tmp_path.glob("*.json")), page)
    (kept,) = document.read_all(tmp_path / document.FOLDER).values()
    assert kept["created"] == times[1]


def test_a_leaf_that_a_peer_has_not_is_left_out_and_one_that_is_wrong_is_not():
    """By hand, b_hn of the GRU: nnx does not have it, and everyone's b_hn is zero, but not its gradient."""
    params, *_ = workloads.problem(workloads.CELLS["gru"], SQUARE, "float32")
    assert not params.b_hn.any()
    right = params._replace(b_hn=jnp.ones(4))
    entrants = {
        "autodiff": entrant(right, jnp.ones(3)),
        "without": entrant(right._replace(b_hn=None), jnp.ones(3)),
    }
    assert workloads.check_equal(entrants, "autodiff", "float32") == {"autodiff": 0, "without": 0}
    for wrong in (
        entrant(params, jnp.ones(3)),
        entrant(right, 1.001 * jnp.ones(3)),
        entrant(right, jnp.ones((3, 1))),
    ):
        with pytest.raises(harness.BenchmarkError):
            workloads.check_equal({**entrants, "wrong": wrong}, "autodiff", "float32")


def test_an_absent_peer_is_skipped_and_named_with_how_to_get_it(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "flax.linen", None)
    record = run_in(tmp_path)
    assert list(record["skipped"]) == ["flax.linen"]
    assert list(record["cases"][0]["contenders"]) == ["hand-written", "autodiff"]
    assert re.search(r"skipped: flax.linen \(.*; pip install flax\)", capsys.readouterr().out)


def test_a_peer_that_cannot_run_on_the_device_is_skipped_with_its_reason(tiny, tmp_path):
    tiny("gradient", TANH, peers=[flax_linen.PEER._replace(obstacle=lambda: "not on this device")])
    assert run_in(tmp_path)["skipped"] == {"flax.linen": "not on this device"}


def test_contenders_take_turns_and_each_runs_untimed_before_it_is_timed(monkeypatch):
    monkeypatch.setattr(harness, "SETTLING_SECONDS", 0.0)
    turns = []
    seconds = harness.interleave({name: lambda name=name: turns.append(name) for name in "ABC"}, rounds=3)
    assert "".join(turns) == "AABBCC" * 3
    assert [len(times) for times in seconds.values()] == [3, 3, 3]


def test_what_takes_less_than_the_settling_time_is_repeated_until_it_is_over(monkeypatch):
    now = iter(range(1000))  # each look at the clock is a second later
    monkeypatch.setattr(harness, "time", SimpleNamespace(perf_counter=lambda: float(next(now))))
    monkeypatch.setattr(harness, "SETTLING_SECONDS", 5.0)
    turns = []
    assert harness.interleave({"A": lambda: turns.append("A")}, rounds=1) == {"A": [1.0]}
    assert len(turns) == 5 + 1


def test_a_ratio_is_taken_within_a_round():
    # A machine that runs ten times slower in every other round, and a contender that always takes twice as long.
    reference = [1.0, 10.0, 1.0, 10.0]
    assert set(harness.ratios([2 * s for s in reference], reference).values()) == {2.0}


FIVE = [1.0] * 5


def case_with(ours, shape="S1", **theirs):
    """A case of made-up seconds, squared for the outputs alone; two products in the loop of the others."""

    def measured(seconds, count):
        return {
            "seconds": seconds,
            "ratio": harness.ratios(seconds, ours),
            "forward": {"ratio": harness.ratios(np.square(seconds), np.square(ours))},
            "weight_gradient_products_in_loops": count,
            "lacks": [],
        }

    contenders = {name: measured(seconds, 2) for name, seconds in theirs.items()}
    return {"shape": shape, "cell": "lstm", "contenders": {"hand-written": measured(ours, 0), **contenders}}


def verdicts_of(*cases, rounds=5):
    found = gradient.judge(cases, rounds)
    return {verdict["claim"]: (verdict["measured"], verdict["verdict"]) for verdict in found}


LOOP = "weight-gradient products inside the hand-written loop"
BEST = "lstm: time of the best of flax and equinox over hand-written"
TORCH = "lstm: time of torch over hand-written, geometric mean"
OUTPUTS = "lstm, outputs alone: time of {} over hand-written"
BEST_OUTPUTS = OUTPUTS.format("the best of flax and equinox")


def test_the_best_peer_at_each_shape_counts_and_torch_is_judged_apart():
    found = verdicts_of(
        case_with(FIVE, autodiff=FIVE, **{"flax.linen": [4.0] * 5, "equinox": [1.0] * 5, "torch": [2.0] * 5}),
        case_with(FIVE, autodiff=FIVE, **{"flax.linen": [4.0] * 5, "equinox": [9.0] * 5, "torch": [8.0] * 5}),
    )
    assert found == {
        LOOP: (0, "holds"),
        f"{BEST}, geometric mean": (pytest.approx(2.0), "holds"),
        f"{BEST}, the least": (1.0, "fails"),
        TORCH: (pytest.approx(4.0), "holds"),
        f"{BEST_OUTPUTS}, geometric mean": (pytest.approx(4.0), "holds"),
        f"{BEST_OUTPUTS}, the least": (1.0, "holds"),
        f"{OUTPUTS.format('torch')}, geometric mean": (pytest.approx(16.0), "holds"),
    }


def test_extreme_shapes_are_judged_apart():
    found = verdicts_of(
        case_with(FIVE, autodiff=FIVE, **{"flax.linen": [2.0] * 5}),
        case_with(FIVE, shape="E4", autodiff=FIVE, **{"flax.linen": [0.5] * 5, "torch": [9.0] * 5}),
    )
    assert found == {
        LOOP: (0, "holds"),
        f"{BEST}, geometric mean": (pytest.approx(2.0), "holds"),
        f"{BEST}, the least": (2.0, "holds"),
        f"{BEST}, the least of the extremes": (0.5, "fails"),
        f"{BEST_OUTPUTS}, geometric mean": (pytest.approx(4.0), "holds"),
        f"{BEST_OUTPUTS}, the least": (4.0, "holds"),
        f"{BEST_OUTPUTS}, the least of the extremes": (0.25, "fails"),
    }


def test_a_verdict_needs_rounds_and_both_quartiles():
    def of(seconds, rounds=5):
        return verdicts_of(case_with(FIVE, autodiff=FIVE, **{"flax.linen": seconds}), rounds=rounds)[
            f"{BEST}, geometric mean"
        ][1]

    assert of([2.0] * 5) == "holds"
    assert of([1.0] * 5) == "fails"
    assert of([0.5, 0.5, 1.5, 2.0, 2.0]) == "inconclusive"
    assert of([2.0] * 5, rounds=4) == "inconclusive"


def test_a_count_that_does_not_see_what_autodiff_leaves_in_the_loop_says_nothing():
    case = case_with(FIVE, autodiff=FIVE)
    case["contenders"]["autodiff"]["weight_gradient_products_in_loops"] = 0
    assert verdicts_of(case)[LOOP] == (0, "fails")


def test_verdicts_say_by_how_much_a_target_is_missed_whichever_way_it_is_asked_for():
    assert verdicts.at_least("", 3.0, 1.5)["missed_by"] == 2.0
    assert verdicts.at_most("", 3.0, 6.0)["missed_by"] == 2.0
    assert verdicts.at_most("", 3.0, None)["verdict"] == "reported"


def measured_memory(temporary, seconds):
    return {
        "temporary_bytes": temporary,
        "temporary_per_TBN": temporary,
        "seconds": [seconds] * 5,
        "spread": {"median": seconds},
        "lacks": [],
    }


def memory_case(loss, ways, **peers):
    contenders = {
        **ways,
        **peers,
        memory.REMATERIALISED: measured_memory(6.0, 3.0),
        "torch": measured_memory(None, 0.01),  # which says nothing of its memory
    }
    return {"cell": "lstm", "loss": loss, "T": 9, "contenders": contenders}


def test_one_that_has_less_to_do_is_shown_and_not_compared():
    case = case_with(FIVE, autodiff=FIVE, **{"flax.linen": [4.0] * 5, "flax.nnx": [2.0] * 5})
    case["contenders"]["flax.nnx"]["lacks"] = ["b_hn"]
    found = verdicts_of(case)
    assert found[f"{BEST}, geometric mean"] == (4.0, "holds")
    less = "lstm: time of flax.nnx, which has no b_hn, over hand-written, geometric mean"
    assert found[less] == (2.0, "reported")


@pytest.mark.parametrize(
    ("lean_seconds", "chosen"), [((1.0, 1.0), "lean"), ((1.0, 1.4), "fast"), ((0.5, 1.9), "lean")]
)
def test_the_leanest_way_counts_that_is_as_fast_as_the_fastest_peer(lean_seconds, chosen, monkeypatch):
    """In the geometric mean over shapes."""
    monkeypatch.setattr(memory, "WAYS", {"fast": {}, "lean": {}})
    cases = [
        memory_case(
            memory.ALL_STEPS,
            {"fast": measured_memory(8.0, 0.9), "lean": measured_memory(2.0, seconds)},
            **{"flax.linen": measured_memory(14.0, 1.0), "equinox": measured_memory(12.0, 5.0)},
        )
        for seconds in lean_seconds
    ]
    room, time = memory.judge(cases, 5)
    assert room["claim"].startswith(f"lstm, {chosen}")
    assert room["verdict"] == ("holds" if chosen == "lean" else "fails")
    assert time["verdict"] == "holds"


def test_where_no_way_is_as_fast_the_fastest_is_judged_and_fails(monkeypatch):
    monkeypatch.setattr(memory, "WAYS", {"fast": {}, "lean": {}})
    ways = {"fast": measured_memory(8.0, 1.2), "lean": measured_memory(2.0, 1.3)}
    room, time = memory.judge(
        [memory_case(memory.ALL_STEPS, ways, **{"flax.linen": measured_memory(14.0, 1.0)})], 5
    )
    assert (room["measured"], room["verdict"]) == (pytest.approx(8.0), "fails")
    assert (time["measured"], time["verdict"]) == (pytest.approx(1.2), "fails")


def test_over_many_steps_memory_and_time_of_the_leanest_way_are_judged(monkeypatch):
    monkeypatch.setattr(memory, "WAYS", {"fast": {}, "lean": {}})
    case = memory_case(
        memory.LAST_STEP,
        {"fast": measured_memory(90.0, 0.5), "lean": measured_memory(2.0, 1.5)},
        **{"flax.linen": measured_memory(100.0, 1.0), "equinox": measured_memory(200.0, 3.0)},
    )
    saved, slower, *_ = memory.judge([case], 5)
    assert (saved["measured"], saved["verdict"]) == (50.0, "holds")
    assert (slower["measured"], slower["verdict"]) == (1.5, "fails")


def test_what_checkpoints_make_of_autodiff_is_reported(monkeypatch):
    monkeypatch.setattr(memory, "WAYS", {"lean": {}})
    ways = {"lean": measured_memory(2.0, 1.5)}
    case = memory_case(memory.LAST_STEP, ways, **{"flax.linen": measured_memory(100.0, 1.0)})
    *_, saved, slower = memory.judge([case], 5)
    assert (saved["measured"], saved["verdict"]) == (3.0, "reported")
    assert (slower["measured"], slower["verdict"]) == (0.5, "reported")


def test_a_peer_takes_as_many_steps_a_turn_as_are_fastest(monkeypatch):
    """For the gradient and for the outputs by themselves."""
    seconds = {"gradient 1": 2.0, "gradient 4": 1.0, "outputs 1": 3.0, "outputs 4": 4.0}
    monkeypatch.setattr(
        harness, "interleave", lambda calls, rounds: {name: [seconds[call]] for name, call in calls.items()}
    )

    def build(*arguments, unroll):
        return Entrant(f"gradient {unroll}", f"outputs {unroll}", *arguments)

    entrant = strongest(Peer("peer", (), "", (), build, turns=(1, 4)), "translate", None)
    assert entrant == Entrant("gradient 4", "outputs 1", "translate", None, turns=(4, 1))


def test_what_may_have_been_compiled_before_has_no_time_of_compiling(monkeypatch):
    monkeypatch.setattr(harness, "keeps_programs", lambda: True)
    program = harness.compile_cold(lambda x: x + 1, 2.0)
    assert (program.compile_seconds, program.seconds) == (None, None)
    with pytest.raises(harness.BenchmarkError, match="unset JAX_COMPILATION_CACHE_DIR"):
        compilation.measure(setup(), "tiny", SQUARE, "tanh")


def test_the_composed_limit_is_the_sum_of_its_parts_in_every_round(tiny, tmp_path):
    tiny("roofline", TANH)
    (case,) = run_in(tmp_path, name="roofline")["cases"]
    seconds = {name: np.array(measured["seconds"]) for name, measured in case["contenders"].items()}
    whole, limit = seconds.pop("hand-written"), seconds.pop("limit")
    assert len(seconds) == 6
    np.testing.assert_allclose(limit, sum(seconds.values()))
    assert case["contenders"]["limit"]["ratio"] == harness.ratios(limit, whole)


def test_the_parts_of_the_limit_do_the_products_of_the_gradient():
    """TB·GN·(N + D) multiplications forward, as many for the gradients of the weights, and TB·GN·N for Wᵀ δ."""
    shape, gates = Shape(B=2, T=3, N=5, D=7), 4
    counted = 0
    for ways in roofline.parts(shape, gates, "float32").values():
        (once,) = {
            multiplications(jax.make_jaxpr(function)(*arguments).jaxpr) for function, arguments in ways
        }
        counted += once
    rows = shape.T * shape.B * gates * shape.N
    assert counted == rows * (2 * shape.D + 3 * shape.N)


def test_both_ways_of_a_part_of_the_limit_compute_the_same():
    for ways in roofline.parts(Shape(B=2, T=3, N=5, D=7), 4, "float32").values():
        (function, arguments), *others = ways
        expected = function(*arguments)
        for turned, arguments in others:
            np.testing.assert_allclose(turned(*arguments).T, expected, rtol=1e-4, atol=1e-4)


def test_exponents_are_fitted_with_their_error_and_judged():
    rng = np.random.default_rng(0)
    sizes = np.array([1, 2, 4, 8, 16])
    noisy = [scaling.fit(sizes, sizes**1.5 * np.exp(0.1 * rng.normal(size=5))) for _ in range(300)]
    exponents, errors = np.transpose(noisy)
    assert abs(exponents.mean() - 1.5) < 0.01
    # The standard error is the spread of the fits: 300 of them know theirs to 4 %, means of 3 degrees to less.
    assert abs(np.sqrt((errors**2).mean()) / exponents.std() - 1) < 0.2

    def case(T, seconds):
        contenders = {
            "hand-written": {"spread": {"median": seconds}},
            "autodiff": {"spread": {"median": T**2}},
        }
        return {"cell": "lstm", "axis": "T", "T": T, "contenders": contenders}

    ours, theirs = scaling.judge([case(T, 0.3 * T) for T in (1, 2, 4)], 5)
    assert (ours["measured"], ours["verdict"]) == (pytest.approx(1.0), "holds")
    assert (theirs["measured"], theirs["verdict"]) == (pytest.approx(2.0), "reported")
    assert scaling.judge([case(T, T**1.2) for T in (1, 2, 4)], 5)[0]["verdict"] == "fails"


TINY_SIZES = [questions.Sizes(T=9, N=6)]
TINY_PLANS = {
    "gradient": Plan({"tiny": SQUARE}, ("lstm",)),
    "memory": memory.Plans(every=Plan({"tiny": SQUARE}, ("gru",)), last=Plan({"long": SQUARE}, ("lstm",))),
    "compile": Plan({"T5": SQUARE, "T50": SQUARE._replace(T=50)}, ("gru",)),
    "roofline": Plan({"tiny": SQUARE}, ("gru",)),
    "scaling": scaling.Grid(SQUARE, (1, 2, 3), ("tanh",)),
    "devices": Plan({"tiny": SQUARE}, ("lstm",)),
    "jacobians": dict.fromkeys(CELLS, TINY_SIZES),
    "laboratory": dict.fromkeys(laboratory.QUESTIONS, TINY_SIZES),
}


@pytest.mark.parametrize(
    ("name", "plan"),
    [
        ("memory", memory.Plans(every=Plan({}), last=TANH)),
        ("jacobians", {"tanh": TINY_SIZES}),
    ],
)
def test_a_small_run_gives_a_record(name, plan, tiny, tmp_path):
    tiny(name, plan, peers=())
    record = run_in(tmp_path, name=name)
    assert record["benchmark"] == name
    for case in record["cases"]:
        assert len(case["contenders"]) >= 2
        assert max(measured["relative_error"] for measured in case["contenders"].values()) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_all_benchmarks_run_one_after_the_other_with_every_peer(dtype, tiny, tmp_path):
    assert TINY_PLANS.keys() == BENCHMARKS.keys()
    for name, plan in TINY_PLANS.items():
        tiny(name, plan, BENCHMARKS[name].peers)
    assert main(["all", "--output", str(tmp_path), "--dtype", dtype, "--rounds", "1"]) == 0
    found = {record["benchmark"]: record for record in map(records.read, tmp_path.iterdir())}
    assert found.keys() == BENCHMARKS.keys()
    assert all(record["settings"]["dtype"] == dtype for record in found.values())
    grown = {v["claim"]: v for v in found["compile"]["verdicts"] if "instructions" in v["claim"]}
    assert {verdict["verdict"] for verdict in grown.values()} == {"holds"}


@pytest.mark.slow
def test_a_batch_shared_among_devices_has_the_same_gradient():
    code = (
        "from benchmarks import devices, runner, workloads\n"
        "shape = workloads.Shape(B=4, T=5, N=4, D=3)\n"
        "measured = devices.measure(runner.Setup('float64', 1, None, ()), 'tiny', shape, 'gru')\n"
        "errors = [entry['relative_error'] for entry in measured.values()]\n"
        "print(devices.jax.device_count(), len(errors), max(errors) < 1e-14)\n"
    )
    env = {**os.environ, "JAX_NUM_CPU_DEVICES": "2", "JAX_ENABLE_X64": "1"}
    ran = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["2", "4", "True"]


def test_one_that_fails_does_not_keep_the_next_from_running(monkeypatch, tmp_path, capsys):
    ran = []

    def run(benchmark, settings):
        ran.append(benchmark.name)
        raise harness.BenchmarkError("no result")

    monkeypatch.setattr(runner, "run", run)
    assert main(["all", "--output", str(tmp_path)]) == 1
    assert ran == list(BENCHMARKS)


@pytest.mark.parametrize("wrong", [lambda x: 1.02 * x, lambda x: x[None]], ids=["value", "shape"])
def test_an_answer_that_differs_is_not_timed(wrong, monkeypatch):
    monkeypatch.setattr(harness, "interleave", lambda *_: pytest.fail("timed"))
    contenders = {"rnn_jax": lambda x: x, "wrong": wrong}
    question = questions.Question((jnp.ones(3),), contenders, target={}, tolerance=10)
    with pytest.raises(harness.BenchmarkError, match="wrong"):
        questions.measure(question, setup(), "")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["gradients"], "'gradients' is unknown; expected one of: list, all, gradient"),
        (["gradient", "--preset", "big"], "'big' is unknown; expected one of: quick, full"),
        (["gradient", "--dtype", "bfloat16"], "'bfloat16' is unknown; expected one of: float32, float64"),
        (["gradient", "--rounds", "0"], "'0' rounds cannot be timed; expected an integer >= 1"),
        (["gradient", "--rounds", "many"], "'many' rounds cannot be timed"),
        (["gradient", "--output", "a file"], "cannot write to a file: Not a directory"),
        (["gradient", "--output", "a file/below"], "cannot write to a file/below: Not a directory"),
        (["gradient", "--profile", "a file/below"], "Name a folder that you may write to"),
        (["gradient", "a file"], "gradient takes none"),
        (["document", "a file"], "cannot read a file"),
        (["document", "nothing"], "cannot read nothing"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_measured(
    arguments, complaint, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "run", lambda *_: pytest.fail("measured"))
    (tmp_path / "a file").touch()
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert complaint in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a file"]


@pytest.mark.parametrize("unwritable", [{"ratio": float("nan")}, {"array": object()}])
def test_a_record_that_cannot_be_written_leaves_nothing_behind(unwritable, tmp_path):
    with pytest.raises((ValueError, TypeError)):
        records.write_json(tmp_path / "new" / "record.json", unwritable)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_the_old_record_alone(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    records.write_json(path, {"run": 1})

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(records.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        records.write_json(path, {"run": 2})
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]
    assert json.loads(path.read_text()) == {"run": 1}


def test_the_list_names_every_benchmark_with_its_claim(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(BENCHMARKS)
    assert all(len(line.split()) > 5 for line in lines)


@pytest.mark.parametrize(
    "name", [info.name for info in pkgutil.walk_packages(benchmarks.__path__, "benchmarks.")]
)
def test_examples_in_docstrings_run(name):
    if not name.endswith("__main__"):
        assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_the_benchmarks_import_no_peer_and_nothing_that_draws():
    """They run on a bare machine: what is not needed is not imported, what is, when it is measured."""
    heavy = {"flax", "equinox", "torch", "lyapax", "matplotlib"}
    code = f"import benchmarks.__main__, sys; print({heavy} & set(sys.modules))"
    root = document.PAGE.parent.parent
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "set()"


def test_the_committed_page_is_what_the_committed_records_say():
    kept = document.read_all(document.PAGE.parent / document.FOLDER)
    text = document.PAGE.read_text()
    assert document.fill(text, document.blocks(BENCHMARKS, kept)) == text, "run python -m benchmarks document"
    for name, record in kept.items():
        assert document.name_of(record) == name
        drawn = (document.PAGE.parent / document.FOLDER / f"{name}.png").exists()
        assert drawn == (record["benchmark"] in pictures.DRAWN)


def made_up(name):
    """A record without a run."""

    def measured(scale):
        times = {"min": scale, "lower_quartile": scale, "median": scale, "upper_quartile": scale}
        return {
            "spread": times,
            "ratio": times,
            "temporary_per_TBN": scale,
            "temporary_bytes": 1,
            "instructions": 9,
        }

    parts = {"roofline": ["hand-written", *roofline.parts(SQUARE, 1, "float32"), "limit"]}
    names = parts.get(name, ["hand-written", "flax.linen"])
    contenders = {part: measured(1.0 + i) for i, part in enumerate(names)}
    asked = {"shape": "tiny", **SQUARE._asdict(), "cell": "tanh", "contenders": contenders}
    cases = [asked]
    if name == "scaling":
        cases = [{**asked, "axis": axis, axis: size} for axis in "TNB" for size in (2, 4, 8)]
    return {
        "benchmark": name,
        "created": "2000-01-01T00:00:00+00:00",
        "settings": {"preset": "quick", "dtype": "float32", "rounds": 5},
        "device": {"platform": "cpu", "processor": "a processor", "cores": 2, "load": [0.1, 0.2, 0.3]},
        "versions": {"jax": "1.2.3", "flax": None},
        "skipped": {"torch": "not installed"},
        "cases": cases,
        "verdicts": [verdicts.at_least("made up", 2.0, 1.0)],
    }


@pytest.fixture
def page(tmp_path):
    """A page of its own, with a place for every table."""
    path = tmp_path / "docs" / "page.md"
    places = "\n".join(f"<!-- begin {name} --><!-- end {name} -->" for name in [*BENCHMARKS, "missed"])
    records.write_text(path, f"Before.\n{places}\nAfter.\n")
    return path


def test_records_become_tables_and_pictures_and_a_second_time_nothing_changes(page, tmp_path):
    paths = []
    for name in BENCHMARKS:
        paths.append(tmp_path / f"{name}.json")
        records.write_json(paths[-1], made_up(name))
    document.update(BENCHMARKS, paths, page)
    text = page.read_text()
    assert text.startswith(
        "Before.\n<!-- begin gradient -->\n\n**float32**, preset quick, rounds: 5, 2000-01-01; "
    )
    assert text.endswith("<!-- end missed -->\nAfter.\n")
    assert "cpu: a processor, 2 cores, load 0.1 when it began; jax 1.2.3." in text
    assert (
        "| shape | cell | hand-written | flax.linen |\n|---|---|---:|---:|\n| tiny | tanh | 1000 | 2000 |"
        in text
    )
    assert "<!-- begin missed -->\n\n**CPU**\n\n| verdict |" in text
    assert "| fails | gradient, float32, made up | 1 |  | ≥ 2 | × 2.00 |" in text
    assert "Not measured: torch (not installed)." in text
    written = {path.name: path.read_bytes() for path in (page.parent / "benchmarks").iterdir()}
    assert len(written) == len(BENCHMARKS) + len(pictures.DRAWN)
    document.update(BENCHMARKS, [], page)
    assert page.read_text() == text
    assert {path.name: path.read_bytes() for path in (page.parent / "benchmarks").iterdir()} == written


def test_a_page_without_a_place_or_a_record_without_a_benchmark_is_refused(page, tmp_path):
    other = tmp_path / "other.json"
    records.write_json(other, {**made_up("gradient"), "benchmark": "other"})
    with pytest.raises(harness.BenchmarkError, match="no benchmark 'other'"):
        document.update(BENCHMARKS, [other], page)
    records.write_text(page, "<!-- begin gradient --><!-- end gradient -->")
    with pytest.raises(
        harness.BenchmarkError, match="has places for gradient; expected one each for gradient, memory"
    ):
        document.update(BENCHMARKS, [], page)
