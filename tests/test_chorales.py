"""The chorales experiment: independent keys, the best look on the validation set, verdicts that follow from numbers."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments import chorales, runner, verdicts
from experiments.chorales import ELMAN, GRU, LSTM, Look, Result
from experiments.learning.training import Learned
from rnn_jax import datasets
from rnn_jax.datasets.sequences import divide, predict_next, split_in_order

TINY = chorales.PRESETS["tiny"]


def frames(sizes=(4, 2, 3)):
    """Made-up chorales of 6 to 8 frames."""
    rng = np.random.default_rng(0)
    rolls = [(rng.random((6 + i % 3, 88)) < 0.05).astype(np.uint8) for i in range(sum(sizes))]
    split = split_in_order(*sizes)
    symbols = list(map(str, range(88)))
    return divide(predict_next(rolls), split, name="toy", symbols=symbols, licence="none", source="here")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"measured_steps": 1}, "--measured-steps"),
        ({"time_margin": 1.0}, r"time_margin is 1.0; expected a number in \(0, 1\)"),
        ({"hidden_size": 1}, "--hidden-size"),
    ],
)
def test_a_configuration_that_cannot_be_run_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **settings)


def test_a_test_set_that_is_too_short_for_the_gradient_is_named(monkeypatch, float64):
    monkeypatch.setattr(datasets, "chorales", frames)
    config = dataclasses.replace(TINY, measured_steps=6)
    with pytest.raises(ValueError, match="the shortest test chorale has 5 frames"):
        chorales.run(config, jax.random.key(0), None)


def test_a_package_that_is_missing_ends_the_command_with_a_line(monkeypatch, tmp_path, capsys, float64):
    def missing():
        raise ImportError('install it with pip install "rnn-jax[data]"')

    monkeypatch.setattr(datasets, "chorales", missing)
    assert runner.main(["run", "chorales", "--preset", "tiny", "--results", str(tmp_path)]) == 2
    assert 'error: install it with pip install "rnn-jax[data]"' in capsys.readouterr().err


def test_the_loss_is_that_of_independent_keys_over_the_steps_that_there_are(float64):
    data = frames()
    problem = chorales.problem_of(TINY, data)
    p = np.linspace(0.1, 0.3, 88)
    network = lambda xs, lengths: np.broadcast_to(np.log(p / (1 - p)), (*xs.shape[:2], 88)) + 0.0 * xs
    found = problem.look(lambda xs, lengths: jax.numpy.asarray(network(xs, lengths)), jax.random.key(0))
    y = np.concatenate([data.test.targets[:length, i] for i, length in enumerate(data.test.lengths)])
    expected = -(y * np.log(p) + (1 - y) * np.log(1 - p)).sum(-1).mean()
    np.testing.assert_allclose(found.test, expected, rtol=1e-6)
    shorter = np.minimum(
        data.test.lengths, np.roll(data.test.lengths, 1)
    )  # as far as the other chorale lasts
    y = np.concatenate([data.test.targets[:length, i] for i, length in enumerate(shorter)])
    expected = -(y * np.log(p) + (1 - y) * np.log(1 - p)).sum(-1).mean()
    np.testing.assert_allclose(found.mistaken, expected, rtol=1e-6)


def learned(test, mistaken):
    """Three seeds whose second look is the best on the validation set."""
    looks = [np.stack([[9.0, value, 20.0] for value in values]) for values in (np.ones(3), test, mistaken)]
    return Learned(loss=None, looks=Look(*looks), measured=None)


def outcomes(elman, gated, mistaken):
    result = Result(
        {ELMAN: learned(elman, mistaken), **{g: learned(gated, mistaken) for g in (GRU, LSTM)}}, 11.0
    )
    return [verdict.outcome for verdict in chorales.verdicts(TINY, result)]


def test_verdicts_follow_from_the_losses_at_the_best_look():
    good, better, lost = np.array([7.0, 7.01, 7.005]), np.array([6.5, 6.51, 6.505]), np.full(3, 10.5)
    assert outcomes(good, better, lost) == [verdicts.HOLDS] * 5
    assert outcomes(better, good, lost) == [verdicts.HOLDS] * 3 + [verdicts.FAILS] * 2
    # Who hears nothing is not misled: the control of the first three does not fail.
    assert outcomes(good, good, good) == [verdicts.INCONCLUSIVE] * 3 + [verdicts.FAILS] * 2


@pytest.mark.slow
def test_a_run_is_complete(monkeypatch, tmp_path, float64):
    monkeypatch.setattr(datasets, "chorales", frames)
    assert runner.main(["run", "chorales", "--preset", "tiny", "--results", str(tmp_path)]) == 0
    (path,) = (tmp_path / "chorales").iterdir()
    assert len(json.loads((path / "verdicts.json").read_text())) == 5
    assert max(map(len, (path / "table.txt").read_text().splitlines())) <= 100
    metrics = (path / "metrics.jsonl").read_text().splitlines()
    assert len(metrics) == 3 * TINY.seeds * (TINY.updates // TINY.chunk + 1)
    with np.load(path / "arrays.npz", allow_pickle=False) as arrays:
        assert all(np.isfinite(values).all() for values in arrays.values())
