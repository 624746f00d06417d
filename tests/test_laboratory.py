"""The laboratory experiment: it measures what it says, its verdicts follow from the numbers, its runs repeat."""

import dataclasses
import doctest
import json
from functools import partial

import jax
import numpy as np
import pytest

from experiments import common, laboratory, results, runner, verdicts
from experiments.digits import data
from experiments.laboratory import claims, flow, measurement, training
from experiments.laboratory.config import STEPS, TINY, Config
from experiments.laboratory.networks import (
    ELMAN,
    GRU,
    LSTM,
    NAMES,
    Paths,
    networks,
    shut_forget_gates,
    with_paths,
)
from rnn_jax import cells, spectrum, unroll

W, R, E = 2, TINY.seeds, TINY.sequences
MISTAKES = [
    ({"seeds": 1}, "seeds is 1; expected an integer in"),
    ({"recorded": 9}, r"recorded is 9; expected an integer in \[1, 8\]"),
    ({"far": 63}, "--far"),
    ({"learning_rate": float("nan")}, "learning_rate is nan"),
    ({"updates": 100, "chunk": 60}, "updates is 100 and chunk 60; expected a multiple"),
    ({"every": 7}, "every is 7 and chunk 60"),
    ({"fit_first": 46}, "4 lags for a line"),
    ({"lags_shown": (8, 1)}, r"lags_shown is \(8, 1\)"),
]


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """The folder of one tiny run, made through the command line."""
    folder = tmp_path_factory.mktemp("results")
    with jax.enable_x64(True):
        arguments = ["run", "laboratory", "--preset", "tiny", "--seed", "3", "--results", str(folder)]
        assert runner.main(arguments) == 0
    (path,) = (folder / "laboratory").iterdir()
    return path


@pytest.fixture(scope="module")
def arrays(tiny_run):
    with np.load(tiny_run / "arrays.npz", allow_pickle=False) as loaded:
        return dict(loaded)


@pytest.mark.slow
def test_a_run_writes_all_of_its_files(tiny_run):
    files = {str(path.relative_to(tiny_run)) for path in tiny_run.rglob("*") if path.is_file()}
    names = ("decay", "maps", "paths", "shares", "spectra", "training")
    plain = {"config.json", "versions.json", "arrays.npz", "metrics.jsonl", "verdicts.json", "table.txt"}
    assert files == plain | {f"figures/{name}.png" for name in names}


@pytest.mark.slow
def test_the_saved_arrays_have_the_documented_shapes(arrays):
    for name, size in ((ELMAN, 6), (GRU, 6), (LSTM, 12)):
        assert arrays[f"flow.{name}.losses"].shape == (W, R, E, STEPS)
        assert arrays[f"flow.{name}.log_norms"].shape == (W, R, E, STEPS, STEPS + 1)
        assert arrays[f"flow.{name}.curves"].shape == (W, R, STEPS)
        assert arrays[f"flow.{name}.shares"].shape == (W, R, E, STEPS + 1)
        assert arrays[f"flow.{name}.alignment"].shape == (W, R, E, STEPS + 1, TINY.directions)
        assert arrays[f"spectra.{name}.singular_values.values"].shape == (W, R, 2, size)
        assert arrays[f"spectra.{name}.lyapunov.values"].shape == (W, R, size)
        assert arrays[f"training.{name}.test_loss"].shape == (TINY.updates // TINY.chunk, R)
        assert arrays[f"training.{name}.records.results"].shape == (TINY.updates, R, STEPS)
    assert arrays["flow.LSTM.component_log_norms.c"].shape == (W, R, E, STEPS, STEPS + 1)


@pytest.mark.slow
def test_training_is_float32_and_analysis_float64(arrays):
    assert arrays["training.GRU.loss"].dtype == np.float32
    assert arrays["flow.GRU.log_norms"].dtype == np.float64


@pytest.mark.slow
def test_what_is_recorded_during_training_begins_with_what_is_measured_before_it(arrays):
    for name in NAMES:
        assert list(arrays[f"training.{name}.records.updates"]) == list(range(TINY.updates))
        # The first sequence alone is recorded, in float32.
        expected = measured_curve(arrays[f"flow.{name}.log_norms"][flow.BEFORE, :, 0])
        recorded = arrays[f"training.{name}.records.results"]
        np.testing.assert_allclose(recorded[0], expected, atol=2e-3)
        assert not np.allclose(recorded[-1], expected, atol=2e-3)


def measured_curve(log_norms):
    """The mean over t of ln‖∂L_t/∂s_{t−n}‖ − ln‖∂L_t/∂s_t‖, lag by lag, from `(…, T, T + 1)`."""
    t = np.arange(1, STEPS + 1)
    ratios = [
        log_norms[..., t[t >= n] - 1, t[t >= n] - n] - log_norms[..., t[t >= n] - 1, t[t >= n]] for n in t - 1
    ]
    return np.stack([ratio.mean(-1) for ratio in ratios], axis=-1)


@pytest.mark.slow
def test_parts_agree_with_the_whole(arrays):
    for name in NAMES:
        np.testing.assert_allclose(arrays[f"flow.{name}.shares"].sum(-1), 1, atol=1e-10)
        assert arrays[f"flow.{name}.accounting"].max() < 1e-12
    h, c = (arrays[f"flow.LSTM.component_log_norms.{part}"] for part in "hc")
    np.testing.assert_allclose(np.logaddexp(2 * h, 2 * c) / 2, arrays["flow.LSTM.log_norms"], atol=1e-9)


@pytest.mark.slow
def test_every_verdict_says_what_it_rests_on(tiny_run):
    judged = json.loads((tiny_run / "verdicts.json").read_text())
    assert {v["outcome"] for v in judged} <= {verdicts.HOLDS, verdicts.FAILS, verdicts.INCONCLUSIVE}
    for field in ("claim", "source", "expected", "unit", "reason", "control", "control_outcome"):
        assert all(v[field] for v in judged)
    assert all(v["control_outcome"] == verdicts.FAILS for v in judged if v["outcome"] == verdicts.HOLDS)


@pytest.mark.slow
def test_metrics_are_one_line_a_chunk_network_and_seed(tiny_run):
    lines = [json.loads(line) for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == len(NAMES) * R * (TINY.updates // TINY.chunk)


@pytest.mark.slow
def test_the_table_fits_100_columns(tiny_run):
    assert max(map(len, (tiny_run / "table.txt").read_text().splitlines())) <= 100


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(arrays, float64):
    def repeat(seed):
        config = dataclasses.replace(TINY, seed=seed)
        return results.arrays(laboratory.run(config, jax.random.key(seed)))

    again = repeat(3)
    assert set(again) == set(arrays)
    for name, values in arrays.items():
        np.testing.assert_array_equal(again[name], values, err_msg=name)
    assert not np.array_equal(repeat(4)["training.Elman.loss"], arrays["training.Elman.loss"])


@pytest.fixture
def started(float64):
    """An LSTM as it starts, and two held-out sequences with what is to be predicted."""
    network = networks(TINY)[LSTM]
    params = common.double(network.init(jax.random.key(0)))
    images = common.double(data.load(TINY.test_size).test_xs[:, :2])
    return network.cell, params, images[:-1], images[1:]


def test_the_loss_is_half_the_squared_error_of_the_next_pixel(started):
    cell, (params, out), xs, ys = started
    loop = jax.jit(partial(unroll.unroll_loop, cell))
    h = np.asarray(cell.emit(loop(params, cell.initial_state(params, (2,)), xs)))
    guess = h @ np.asarray(out.w_hy).T + np.asarray(out.b_y)
    np.testing.assert_array_equal(ys[:-1], xs[1:])
    expected = ((guess - ys) ** 2).mean() / 2
    loss = jax.jit(training.loss, static_argnums=0)(cell, (params, out), xs, ys)
    np.testing.assert_allclose(loss, expected, rtol=1e-12)


def test_a_cut_path_leaves_the_forward_pass_and_takes_its_part_of_the_gradient(started):
    cell, (params, _), xs, _ = started
    state = jax.tree.map(lambda leaf: leaf + 0.1, cell.initial_state(params))
    expected, whole = jax.vjp(lambda state: cell.step(params, state, xs[0, 0]), state)
    all_of_it = whole(expected)[0]
    for gone, left in ("ch", "hc"):
        paths = Paths(xs[0, 0], h=left == "h", c=left == "c")
        new, pullback = jax.vjp(lambda state, paths=paths: with_paths(params, state, paths), state)
        gradient = pullback(new)[0]
        jax.tree.map(np.testing.assert_array_equal, new, expected)
        assert not getattr(gradient, gone).any()
        np.testing.assert_allclose(getattr(gradient, left), getattr(all_of_it, left), rtol=1e-12)


def test_shutting_the_forget_gates_by_parameters_is_what_the_cell_does_by_an_option(started):
    cell, (params, _), xs, _ = started
    state = jax.tree.map(lambda leaf: leaf + 0.1, cell.initial_state(params))
    expected = cells.lstm(forget_bias=-flow.SHUT).step(params, state, xs[0, 0])
    shut = cell.step(shut_forget_gates(params, flow.SHUT), state, xs[0, 0])
    np.testing.assert_allclose(shut.c, expected.c, rtol=1e-12)


def test_without_float64_the_remedy_is_named():
    with jax.enable_x64(False), pytest.raises(ValueError, match="jax_enable_x64"):
        laboratory.run(TINY, jax.random.key(0))


@pytest.mark.parametrize(("fields", "message"), MISTAKES, ids=[next(iter(f)) for f, _ in MISTAKES])
def test_a_setting_out_of_range_is_named_with_its_range(fields, message):
    with pytest.raises(ValueError, match=message):
        Config(**fields)


def test_the_examples_of_what_is_shared_run():
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    assert doctest.testmod(common, optionflags=flags) == doctest.TestResults(failed=0, attempted=4)


# Verdicts from made-up curves

SEEDS = np.arange(3.0)


def curves(before, after):
    """Exactly exponential decay curves, `(W, R, T)`, each seed a little steeper than the one before."""
    slopes = np.array([before, after])[:, None] * (1 + 0.01 * SEEDS)
    return slopes[..., None] * np.arange(STEPS)


def shares(before, after):
    """Shares `(W, R, 1, T + 1)`, so much of them at the far lags."""
    by_lag = np.zeros((W, 3, 1, STEPS + 1))
    far = np.array([before, after])[:, None, None] + 0.01 * SEEDS[:, None]
    by_lag[..., 0], by_lag[..., 20] = 1 - far, far
    return by_lag


def made_up_flow(before, after, far=(0.0, 0.0)):
    decay = curves(before, after)
    lag = np.arange(1, STEPS + 1)[:, None] - np.arange(STEPS + 1)
    log_norms = np.where(lag >= 0, -0.1 * lag, -np.inf) * np.ones((W, 3, 1, 1, 1))
    number = np.full((W, 3, 1), 1e-14)
    return measurement.Flow(
        losses=np.ones((W, 3, 1, STEPS)),
        log_norms=log_norms,
        curves=decay,
        component_log_norms=log_norms,
        shares=shares(*far),
        alignment=np.ones((W, 3, 1, STEPS + 1, 3)),
        log_bound=log_norms + 1.0 * np.where(lag >= 0, lag, 0),
        accounting=number,
        without_far=number + 0.1,
    )


def made_up():
    """A result in which every claim is true."""
    flows = {
        ELMAN: made_up_flow(-0.5, -0.3, far=(0.0, 0.3)),
        GRU: made_up_flow(-0.02, -0.02),
        LSTM: made_up_flow(-0.02, -0.02),
    }
    exponents = np.array([-0.5, -0.3])[:, None, None] - 0.1 * np.arange(32)
    lyapunov = spectrum.Lyapunov(exponents * np.ones((1, 3, 1)), *[None] * 8)
    return flow.Result(
        flow=flows,
        spectra={ELMAN: measurement.Spectra(None, lyapunov)},
        training={},
        controls=flow.Controls(
            no_cell_path=curves(-1.0, -1.0),
            no_hidden_path=curves(-0.02, -0.02),
            shut=curves(-2.0, -2.0),
            shut_no_cell_path=curves(-2.0, -2.0),
            memoryless=curves(-0.5, -0.6),
            memoryless_shares=shares(0.0, 0.0),
        ),
        guessing=np.array(0.3),
    )


def judged(result):
    return {verdict.name: verdict for verdict in claims.verdicts_of(Config(), result)}


def with_flow(name, **replaced):
    result = made_up()
    return result._replace(flow=result.flow | {name: result.flow[name]._replace(**replaced)})


def test_every_claim_holds_where_it_is_true_and_every_control_fails():
    for verdict in judged(made_up()).values():
        assert verdict.control_outcome == verdicts.FAILS, verdict
        assert verdict.outcome == verdicts.HOLDS, verdict


@pytest.mark.parametrize(
    ("result", "name"),
    [
        (with_flow(GRU, accounting=np.full((W, 3, 1), 1e-3)), "accounting"),
        (with_flow(ELMAN, log_norms=made_up().flow[ELMAN].log_bound + 1e-6), "bound"),
        (with_flow(LSTM, curves=curves(-1.0, -1.0)), "cell path after"),
        (with_flow(ELMAN, curves=curves(-0.5, -0.6)), "rate after"),
        (with_flow(ELMAN, curves=curves(-0.5, -0.02)), "GRU after"),
        (with_flow(ELMAN, curves=curves(-0.5, -0.5)), "learning slows decay"),
        (with_flow(ELMAN, shares=shares(0.3, 0.3)), "learning reaches a row back"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_claim_that_is_false_fails(result, name):
    assert judged(result)[name].outcome == verdicts.FAILS


def test_a_control_that_does_not_fail_leaves_the_verdict_open():
    result = made_up()
    broken = result._replace(controls=result.controls._replace(memoryless=curves(-0.5, -0.3)))
    assert judged(broken)["learning slows decay"].outcome == verdicts.INCONCLUSIVE
