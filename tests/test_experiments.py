"""The digits experiment: what it measures is what it says, its verdicts follow from the numbers, its runs repeat."""

import dataclasses
import doctest
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import digits, results, runner, verdicts
from experiments.digits import claims, data, flow, measurement, training
from experiments.digits.config import STEPS, TINY, Config
from experiments.digits.measurement import Profile
from experiments.digits.networks import ABOVE, AT, BELOW, GRU, IRNN, LSTM, networks
from rnn_jax import losses, readout, unroll

M, C = 6, 2
MISTAKES = [
    ({"seeds": 1}, "seeds is 1; expected an integer in"),
    ({"hidden_size": 0}, "--hidden-size"),
    ({"gain_below": 0.6}, r"gain_below is 0.6; expected a number in \(0, 0.5\)"),
    ({"gain_at": 4.0}, "increasing order"),
    ({"learning_rate": float("nan")}, "learning_rate is nan"),
    ({"clip_norm": 0.0}, "clip_norm is 0.0"),
    ({"updates": 150, "chunk": 100}, "updates is 150 and chunk 100; expected a multiple"),
    ({"fit_first": 59}, "3 lags for a line"),
    ({"lags_shown": (1, 65)}, r"lags_shown is \(1, 65\)"),
    ({"lags_shown": ()}, "one or more lags"),
]


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """The folder of one tiny run, made through the command line."""
    folder = tmp_path_factory.mktemp("results")
    with jax.enable_x64(True):
        assert (
            runner.main(["run", "digits", "--preset", "tiny", "--seed", "3", "--results", str(folder)]) == 0
        )
    (path,) = (folder / "digits").iterdir()
    return path


@pytest.fixture(scope="module")
def arrays(tiny_run):
    with np.load(tiny_run / "arrays.npz", allow_pickle=False) as loaded:
        return dict(loaded)


@pytest.fixture
def started(float64):
    """Two LSTMs as they start, and two held-out sequences with their labels."""
    network = networks(TINY)[LSTM]
    params = jax.vmap(network.init)(jax.random.split(jax.random.key(0), 2))
    held_out = data.load(TINY.test_size)
    return network.cell, params, held_out.test_xs[:, :2], held_out.test_labels[:2]


class TestATinyRun:
    def test_a_run_writes_all_of_its_files(self, tiny_run):
        files = {str(path.relative_to(tiny_run)) for path in tiny_run.rglob("*") if path.is_file()}
        figures = {f"figures/{name}.png" for name in ("gradient_flow", "singular_values", "training")}
        plain = {"config.json", "versions.json", "arrays.npz", "metrics.jsonl", "verdicts.json", "table.txt"}
        assert files == plain | figures

    def test_the_configuration_of_a_run_can_be_made_again(self, tiny_run):
        fields = json.loads((tiny_run / "config.json").read_text())
        fields["lags_shown"] = tuple(fields["lags_shown"])
        assert Config(**fields) == dataclasses.replace(TINY, seed=3)

    def test_the_saved_arrays_have_the_documented_shapes(self, arrays):
        seeds, sequences = TINY.seeds, TINY.sequences
        assert arrays["before.log_norms"].shape == (M, seeds, sequences, STEPS + 1)
        assert arrays["after.step_norms"].shape == (M, C, seeds, sequences, STEPS)
        assert arrays["after.log_gradients"].shape == (M, C, seeds, sequences, STEPS + 1)
        lags, widest = len(TINY.lags_shown), 2 * TINY.hidden_size  # (h, c) of the LSTM
        assert arrays["before.log_singular_values"].shape == (M, seeds, lags, widest)
        assert arrays["updates.loss"].shape == (M, C, seeds, TINY.updates)
        assert arrays["accuracy"].shape == (M, C, seeds, TINY.updates // TINY.chunk)

    def test_training_is_float32_and_analysis_float64(self, arrays):
        assert arrays["updates.loss"].dtype == np.float32
        assert arrays["before.log_norms"].dtype == np.float64

    def test_every_verdict_says_what_it_rests_on(self, tiny_run):
        judged = json.loads((tiny_run / "verdicts.json").read_text())
        assert {v["outcome"] for v in judged} <= {verdicts.HOLDS, verdicts.FAILS, verdicts.INCONCLUSIVE}
        for field in ("claim", "source", "expected", "unit", "reason", "control", "control_outcome"):
            assert all(v[field] for v in judged)
        assert all(v["control_outcome"] == verdicts.FAILS for v in judged if v["outcome"] == verdicts.HOLDS)

    def test_metrics_are_one_line_a_chunk_network_setting_and_seed(self, tiny_run):
        lines = [json.loads(line) for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
        assert len(lines) == M * C * TINY.seeds * (TINY.updates // TINY.chunk)
        assert {line["network"] for line in lines} == {network.name for network in networks(TINY)}

    def test_the_table_fits_100_columns(self, tiny_run):
        assert max(map(len, (tiny_run / "table.txt").read_text().splitlines())) <= 100

    def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(self, arrays, float64):
        def repeat(seed):
            config = dataclasses.replace(TINY, seed=seed)
            return results.arrays(digits.run(config, jax.random.key(config.seed)))

        again = repeat(3)
        assert set(again) == set(arrays)
        for name, values in arrays.items():
            np.testing.assert_array_equal(again[name], values, err_msg=name)
        assert not np.array_equal(repeat(4)["updates.loss"], arrays["updates.loss"])

    def test_clipped_and_unclipped_runs_start_alike_and_then_part(self, arrays):
        loss = arrays["updates.loss"]
        # One program for both: only rounding in how the runs are batched could differ.
        np.testing.assert_allclose(loss[:, flow.CLIPPED, :, 0], loss[:, flow.UNCLIPPED, :, 0], rtol=1e-5)
        assert not np.allclose(
            loss[ABOVE, flow.CLIPPED, :, -1], loss[ABOVE, flow.UNCLIPPED, :, -1], rtol=1e-5
        )

    def test_measures_agree_with_each_other(self, arrays):
        log_norms, step_norms = arrays["before.log_norms"], arrays["before.step_norms"]
        np.testing.assert_array_equal(log_norms[..., 0], 0.0)
        moving = step_norms[..., -1] > 0  # a ReLU network whose units are all off does not move
        np.testing.assert_allclose(log_norms[..., 1][moving], np.log(step_norms[..., -1][moving]), atol=1e-12)
        for i, lag in enumerate(TINY.lags_shown):
            largest = arrays["before.log_singular_values"][:, :, i, 0]
            resolved = ~np.isnan(largest)
            np.testing.assert_allclose(largest[resolved], log_norms[:, :, 0, lag][resolved], atol=1e-9)
        bounded = slice(BELOW, IRNN + 1)
        assert (log_norms[bounded] <= arrays["before.log_bound"][bounded, :, None] + 1e-9).all()


def test_gradients_by_lag_end_with_jax_grad_for_the_initial_state(started):
    cell, params, xs, labels = started
    measured = measurement.gradients_by_lag(cell, params, xs, labels)
    cell_params, readout_params = jax.tree.map(lambda leaf: np.asarray(leaf[0], np.float64), params)

    def loss(state):
        h = cell.emit(unroll.final_state(cell, cell_params, state, xs[:, 0].astype(jnp.float64)))
        return losses.cross_entropy(readout.linear(readout_params, h)[None], jnp.array(labels[:1]))[0]

    gradient = jax.tree.leaves(jax.jit(jax.grad(loss))(cell.initial_state(cell_params)))
    np.testing.assert_allclose(
        measured[0, 0, -1], np.log(np.linalg.norm(np.concatenate(gradient))), atol=1e-10
    )


def test_shutting_the_forget_gates_takes_the_gradient_away(started):
    cell, params, xs, labels = started
    shut = flow.cells.lstm(forget_bias=flow.SHUT)
    open_gates = measurement.gradients_by_lag(cell, params, xs, labels)
    assert (measurement.gradients_by_lag(shut, params, xs, labels)[..., -1] < open_gates[..., -1] - 20).all()


def test_the_trained_loss_is_the_cross_entropy_of_the_last_step(started):
    cell, params, xs, labels = started
    one = jax.tree.map(lambda leaf: np.asarray(leaf[0]), params)

    @jax.jit
    def logits_of(params, xs):
        states = unroll.unroll_loop(cell, params[0], cell.initial_state(params[0], (2,)), xs)
        return readout.linear(params[1], cell.emit(states)[-1])

    logits = np.asarray(logits_of(one, xs))
    expected = (np.log(np.exp(logits).sum(-1)) - logits[np.arange(2), labels]).mean()
    loss = jax.jit(training.loss, static_argnums=0)(cell, one, xs, labels)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_the_digits_are_split_once_with_all_classes_on_both_sides():
    digits_once, again = data.load(497), data.load(497)
    np.testing.assert_array_equal(digits_once.test_xs, again.test_xs)
    assert digits_once.train_xs.shape == (STEPS, 1300, 1)
    assert digits_once.test_xs.shape == (STEPS, 497, 1)
    assert abs(digits_once.train_xs.mean()) < 1e-5
    assert abs(digits_once.train_xs.std() - 1) < 1e-5
    assert set(digits_once.train_labels) == set(digits_once.test_labels) == set(range(10))


def test_without_float64_the_remedy_is_named():
    with jax.enable_x64(False), pytest.raises(ValueError, match="jax_enable_x64"):
        digits.run(TINY, jax.random.key(0))


@pytest.mark.parametrize(("fields", "message"), MISTAKES, ids=[next(iter(f)) for f, _ in MISTAKES])
def test_a_setting_out_of_range_is_named_with_its_range(fields, message):
    with pytest.raises(ValueError, match=message):
        Config(**fields)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "1"], "seeds is 1"),
        (["--gain-above", "0.2"], "increasing order"),
        (["--epochs", "3"], "unknown option --epochs"),
    ],
)
def test_a_mistake_on_the_command_line_ends_before_anything_is_written(tmp_path, capsys, arguments, message):
    assert runner.main(["run", "digits", *arguments, "--results", str(tmp_path / "results")]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# Verdicts from made-up curves


def curves(slope, seeds=3, sequences=2):
    """Exactly exponential log-norms, `(R, E, T + 1)`, each seed a little steeper than the one before."""
    slopes = slope * (1 + 0.01 * np.arange(seeds))[:, None, None]
    return np.broadcast_to(slopes * np.arange(STEPS + 1.0), (seeds, sequences, STEPS + 1)).copy()


def profile(slopes, clip_axis):
    """A `Profile` whose steps all have the norm exp(slope): one slope a network."""
    log_norms = np.stack([curves(slope) for slope in slopes])
    step_norms = np.exp(log_norms[..., 1:2]) * np.ones(STEPS)
    log_bound = log_norms[:, :, 0].copy()
    log_bound[IRNN + 1 :] = np.nan
    leaves = Profile(step_norms, log_norms, log_norms.copy(), np.zeros((M, 3, 1, 4)), log_bound)
    return Profile(*(np.stack([leaf, leaf], axis=1) for leaf in leaves)) if clip_axis else leaves


def made_up(**replaced):
    """A result in which every claim is true: below vanishes, the others grow, gates keep the gradient."""
    slopes = {BELOW: -0.5, AT: 0.1, ABOVE: 0.2, IRNN: 0.0, GRU: 0.12, LSTM: 0.12}
    slopes = [replaced.get("slopes", {}).get(m, slopes[m]) for m in range(M)]
    before, after = profile(slopes, clip_axis=False), profile(slopes, clip_axis=True)
    for p in (before, after):  # the plain networks lose their gradient
        p.log_gradients[AT] = curves(-0.2) if p is before else curves(-0.2)[None]
    norms = np.full((M, C, 3, 5), 4.0)
    clipped = norms.copy()
    clipped[:, flow.CLIPPED] = 1.0
    accuracy = np.full((M, C, 3, 2), 0.5)
    accuracy[[GRU, LSTM]] = 0.9
    result = flow.Result(
        before=before,
        after=after,
        updates=training.Update(norms, norms, clipped, np.ones_like(norms), np.full_like(norms, 0.8)),
        accuracy=accuracy,
        controls=flow.Controls(
            unit_norm=np.zeros((3, STEPS + 1)),
            non_normal=-0.1 * np.arange(STEPS + 1.0)[None],
            log_radius_power=-1.0 * np.arange(STEPS + 1.0) * np.ones((3, 1)),
            shut_before=curves(-3.0),
            shut_after=curves(-3.0),
            shut_accuracy=np.full(3, 0.1),
        ),
    )
    return result._replace(**{k: v for k, v in replaced.items() if k != "slopes"})


def judged(result):
    return {verdict.name: verdict for verdict in claims.verdicts_of(Config(), result)}


def test_every_claim_holds_where_it_is_true_and_every_control_fails():
    for verdict in judged(made_up()).values():
        assert verdict.control_outcome == verdicts.FAILS, verdict
        assert verdict.outcome == verdicts.HOLDS, verdict


def test_an_exponential_gives_its_rate_back():
    measured = judged(made_up())["vanishing"].measured
    assert measured.value == pytest.approx(-0.5 * 1.01)
    assert measured.low < measured.value < measured.high < -0.4


def test_a_network_that_does_not_vanish_or_grow_fails_the_claim():
    assert judged(made_up(slopes={ABOVE: 0.0}))["exploding"].outcome == verdicts.FAILS
    # Steps of norm above 1 whose product shrinks: what "norm above 1" claims is false there.
    result = made_up()
    result.before.log_norms[AT] = curves(-0.3)
    assert judged(result)["norm above 1"].outcome == verdicts.FAILS


def test_a_premise_that_is_not_met_leaves_the_verdict_open():
    vanishing = judged(made_up(slopes={BELOW: 0.01}))["vanishing"]
    assert vanishing.outcome == verdicts.INCONCLUSIVE
    assert "not every step contracts" in vanishing.remark


def test_a_control_that_does_not_fail_leaves_the_verdict_open():
    result = made_up()
    broken = result._replace(controls=result.controls._replace(unit_norm=curves(-1.0)[:, 0]))
    assert judged(broken)["vanishing"].outcome == verdicts.INCONCLUSIVE


def test_clipping_that_turns_the_gradient_fails_the_claim():
    result = made_up()
    result.updates.cosine[GRU, flow.CLIPPED, 0, 2] = 0.99  # one update of all
    assert judged(result)["clipping keeps direction"].outcome == verdicts.FAILS
    result.updates.clipped_norm[GRU, flow.CLIPPED, 0, 2] = 1.01
    assert judged(result)["clipping bounds"].outcome == verdicts.FAILS


def test_seeds_that_disagree_leave_the_verdict_open():
    result = made_up()
    result.accuracy[LSTM, flow.CLIPPED, :, -1] = [0.4, 0.6, 0.9]
    assert judged(result)["LSTM accuracy"].outcome == verdicts.INCONCLUSIVE


def test_a_curve_that_reaches_zero_has_the_rate_minus_infinity():
    curve = np.zeros((2, STEPS + 1))
    curve[1, 40:] = -np.inf
    fit = verdicts.fit(curve, 5, 60)
    np.testing.assert_array_equal(fit.rate, [0.0, -np.inf])
    assert np.isneginf(verdicts.interval(fit.rate).value)


def test_a_curve_that_bends_is_not_called_exponential():
    lags = np.arange(STEPS + 1.0)
    assert verdicts.fit(-np.log1p(lags)[None], 5, 60).r_squared[0] < Config().linearity
    assert verdicts.fit(-0.01 * lags[None], 5, 60).r_squared[0] == pytest.approx(1)


def test_the_interval_covers_the_mean_19_times_in_20():
    samples = np.random.default_rng(0).normal(size=(4000, 4))
    covered = [low <= 0 <= high for _, low, high in map(verdicts.interval, samples)]
    assert abs(np.mean(covered) - 0.95) < 0.015  # four standard errors of 4000 draws


def test_nan_decides_nothing():
    for test in (verdicts.is_above(0.0), verdicts.is_below(0.0)):
        assert test(verdicts.single(np.nan)) == verdicts.INCONCLUSIVE


def test_the_examples_of_verdicts_run():
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    assert doctest.testmod(verdicts, optionflags=flags) == doctest.TestResults(failed=0, attempted=5)
