"""The benchmarks compare like with like, keep a whole record or none, and measure the loop without a clock.

No time is asserted: shapes are tiny, and the machine may be busy.
"""

import doctest
import json
import sys

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from benchmarks import gradient, harness, laboratory, loops
from benchmarks.__main__ import BENCHMARKS, main

# All sizes equal: a count that went by shapes could not tell a weight gradient from another product.
SQUARE = gradient.Shape(B=4, T=5, N=4, D=4)
TINY = {"quick": gradient.Preset(shapes={"tiny": SQUARE}, rounds=2)}


@pytest.fixture(autouse=True)
def warm_caches(monkeypatch):
    """Compile times are not looked at here, so what was compiled for another test is welcome."""
    monkeypatch.setattr(jax, "clear_caches", lambda: None)


@pytest.fixture
def tiny(monkeypatch):
    """One small case."""
    monkeypatch.setattr(gradient, "PRESETS", TINY)
    monkeypatch.setattr(gradient, "CELLS", {"tanh": gradient.CELLS["tanh"]})


def run_in(folder, *options):
    """The one record of a run, and that there is nothing else beside it."""
    assert main(["gradient", "--output", str(folder), *options]) == 0
    (path,) = folder.iterdir()
    return json.loads(path.read_text())


def test_the_record_is_complete_and_the_table_fits_a_terminal(tiny, tmp_path, capsys):
    record = run_in(tmp_path / "made" / "for it", "--profile", str(tmp_path / "profiles"))
    assert record["settings"]["rounds"] == 2
    assert record["settings"]["shapes"] == {"tiny": SQUARE._asdict()}
    assert {"platform", "kind", "count", "cores", "processor"} <= record["device"].keys()
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
    assert [verdict["claim"].partition(":")[0] for verdict in record["verdicts"]][1:] == ["tanh"]

    printed = capsys.readouterr().out.splitlines()
    assert max(map(len, printed[:-1])) <= 100  # the last line is the path
    assert sum(line.startswith("tiny") for line in printed) == 1 + 3  # its sizes, and its rows

    (profile,) = (tmp_path / "profiles").iterdir()
    assert profile.name == "tiny-tanh"
    assert list(profile.rglob("*.xplane.pb"))


@pytest.mark.parametrize(("cell", "dtype"), [("tanh", "float64"), ("gru", "float32"), ("lstm", "float32")])
def test_contenders_compute_the_same(cell, dtype):
    with jax.enable_x64(dtype == "float64"):
        measured = gradient.measure(SQUARE, cell, dtype, 1, gradient.PEERS)
    errors = {name: contender["relative_error"] for name, contender in measured.items()}
    assert errors.keys() == {"hand-written", "autodiff", "flax.linen"}
    assert errors.pop("autodiff") == 0  # the reference
    assert max(errors.values()) < 100 * jnp.finfo(dtype).eps


@pytest.mark.parametrize("cell", gradient.CELLS)
def test_the_hand_written_loop_holds_no_weight_gradient_product_and_the_others_do(cell):
    params, state, xs = gradient.problem(gradient.CELLS[cell], SQUARE, "float32")
    products = {}
    for name, contender in gradient.contenders(cell, params, gradient.PEERS).items():
        program = jax.make_jaxpr(jax.grad(gradient._loss(contender)))(contender.params, state, xs)
        products[name] = loops.weight_gradient_products(program)
    assert products.pop("hand-written") == 0
    assert min(products.values()) >= 2  # one for the recurrent weights, one for the input's


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

    w, hs = jnp.eye(3), jnp.ones((3, 3))
    counts = [
        loops.weight_gradient_products(jax.make_jaxpr(f)(w, hs)) for f in (scan, fori, branch, straight)
    ]
    assert counts == [1, 1, 1, 0]


def test_a_peer_with_a_parameter_in_the_wrong_place_is_not_timed(tiny, tmp_path, monkeypatch, capsys):
    def misplaced(cell_name, params):
        return gradient.flax_linen(cell_name, params._replace(b_h=params.b_h[::-1]))

    monkeypatch.setattr(gradient, "PEERS", {"flax.linen": misplaced})
    monkeypatch.setattr(harness, "interleave", lambda *_: pytest.fail("timed"))
    assert main(["gradient", "--output", str(tmp_path)]) == 1
    assert "flax.linen and autodiff differ" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_absent_peer_is_skipped_and_named(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "flax.linen", None)
    record = run_in(tmp_path)
    assert list(record["skipped"]) == ["flax.linen"]
    assert list(record["cases"][0]["contenders"]) == ["hand-written", "autodiff"]
    assert "skipped: flax.linen" in capsys.readouterr().out


def test_contenders_take_turns_after_one_round_that_is_not_counted():
    turns = []
    seconds = harness.interleave({name: lambda name=name: turns.append(name) for name in "ABC"}, rounds=3)
    assert "".join(turns) == "ABC" * 4
    assert [len(times) for times in seconds.values()] == [3, 3, 3]


def test_a_ratio_is_taken_within_a_round():
    # A machine that runs ten times slower in every other round, and a contender that always takes twice as long.
    reference = [1.0, 10.0, 1.0, 10.0]
    assert set(harness.ratios([2 * s for s in reference], reference).values()) == {2.0}


def case_with(hand, other, *, products=2, cell="tanh"):
    """A case of made-up times."""

    def measured(seconds, count):
        return {
            "seconds": seconds,
            "ratio": harness.ratios(seconds, hand),
            "weight_gradient_products_in_loops": count,
        }

    contenders = {"hand-written": measured(hand, 0), "autodiff": measured(other, products)}
    return {"cell": cell, "contenders": contenders}


def verdicts_of(hand, other, **options):
    cases = [case_with(hand, other, cell=cell, **options) for cell in gradient.CELLS]
    loop, *times = (verdict["verdict"] for verdict in gradient.verdicts(cases))
    assert len(set(times)) == 1
    return loop, times[0]


def test_verdicts_can_fail():
    assert verdicts_of([1.0] * 5, [2.0] * 5) == ("holds", "holds")
    assert verdicts_of([2.0] * 5, [1.0] * 5) == ("holds", "fails")
    assert verdicts_of([1.0] * 5, [0.5, 0.5, 1.0, 2.0, 2.0]) == ("holds", "inconclusive")
    assert verdicts_of([1.0] * 4, [2.0] * 4) == ("holds", "inconclusive")
    # A count that does not see what autodiff leaves in the loop says nothing of the hand-written one.
    assert verdicts_of([1.0] * 5, [2.0] * 5, products=0)[0] == "fails"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["gradients"], "'gradients' is unknown; expected one of: list, gradient"),
        (["gradient", "--preset", "big"], "'big' is unknown; expected one of: quick, full"),
        (["gradient", "--dtype", "bfloat16"], "'bfloat16' is unknown; expected one of: float32, float64"),
        (["gradient", "--rounds", "0"], "'0' rounds cannot be timed; expected an integer >= 1"),
        (["gradient", "--rounds", "many"], "'many' rounds cannot be timed"),
        (["gradient", "--output", "a file"], "cannot write to a file: Not a directory"),
        (["gradient", "--output", "a file/below"], "cannot write to a file/below: Not a directory"),
        (["gradient", "--profile", "a file/below"], "Name a folder that you may write to"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_measured(
    arguments, complaint, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gradient, "run", lambda settings: pytest.fail("measured"))
    (tmp_path / "a file").touch()
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert complaint in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a file"]


@pytest.mark.parametrize("unwritable", [{"ratio": float("nan")}, {"array": object()}])
def test_a_record_that_cannot_be_written_leaves_nothing_behind(unwritable, tmp_path):
    with pytest.raises((ValueError, TypeError)):
        harness.write_json(tmp_path / "new" / "record.json", unwritable)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_the_old_record_alone(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    harness.write_json(path, {"run": 1})

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(harness.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        harness.write_json(path, {"run": 2})
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]
    assert json.loads(path.read_text()) == {"run": 1}


def test_the_list_names_every_benchmark_with_its_claim(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(BENCHMARKS)
    assert all(len(line.split()) > 5 for line in lines)


@pytest.mark.parametrize("module", [harness, loops, *BENCHMARKS.values()], ids=lambda module: module.__name__)
def test_examples_in_docstrings_run(module):
    assert doctest.testmod(module).failed == 0


def test_the_laboratory_and_the_plain_forms_answer_the_same(monkeypatch, tmp_path):
    sizes = {name: [laboratory.Sizes(T=9, N=6)] for name in laboratory.CASES}
    monkeypatch.setattr(laboratory, "PRESETS", {"quick": (sizes, 1)})
    assert main(["laboratory", "--output", str(tmp_path)]) == 0
    (path,) = tmp_path.iterdir()
    cases = json.loads(path.read_text())["cases"]
    assert [case["name"] for case in cases] == list(laboratory.CASES)
    for case in cases:
        assert len(case["contenders"]) >= 2
        errors = [contender["relative_error"] for contender in case["contenders"].values()]
        assert max(errors) < 1e-4, case["name"]


def test_an_answer_that_differs_is_not_timed():
    case = laboratory.profile(laboratory.Sizes(T=5, N=4), "float32")
    wrong = {**case.contenders, "wrong": lambda *arguments: 1.02 * case.contenders["rnn_jax"](*arguments)}
    with pytest.raises(harness.BenchmarkError, match="wrong and rnn_jax differ"):
        laboratory.measure(case._replace(contenders=wrong), "float32", 1)
