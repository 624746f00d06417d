"""The cures experiment: each cure does to the training what it says, and the verdicts follow from the numbers."""

import dataclasses
from functools import partial

import jax
import numpy as np
import optax
import pytest

from experiments import cures, verdicts
from experiments.learning import training
from experiments.learning.problems import Look, of_task
from experiments.learning.training import Learned, Result

TINY = cures.PRESETS["tiny"]
NETWORKS = {network.name: network for network in cures.networks(TINY)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 9}, "--length"),
        ({"hidden_size": 7}, r"hidden_size is 7; expected an integer in \[8, 4096\]"),
        ({"floor": 1.0}, r"floor is 1.0; expected a number in \(0, 1\)"),
        ({"held_out": 0}, "--held-out"),
    ],
)
def test_a_configuration_that_cannot_be_run_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **settings)


def learned(relative, horizon):
    """Three seeds that end at a loss and with a horizon, both about the same for all."""
    config = cures.PRESETS["quick"]
    task = cures.task_of(config)
    loss = task.baseline * relative * np.array([[1.0], [1.01], [0.99]]) * np.ones((3, 6))
    curve = np.log(config.floor) * np.arange(task.length) / horizon
    return Learned(
        loss=None,
        looks=Look(loss, np.zeros((3, 6))),
        measured=np.broadcast_to(curve - 1e-9, (2, 3, task.length)),
    )


def result(relative, horizon):
    """Networks that are not given a value are like the one without a cure."""
    return Result({name: learned(relative.get(name, 1.0), horizon.get(name, 5.0)) for name in NETWORKS})


def outcomes(relative, horizon):
    """By the name of each verdict."""
    return {v.name: v.outcome for v in cures.verdicts(cures.PRESETS["quick"], result(relative, horizon))}


def test_verdicts_follow_from_losses_and_horizons():
    lag = cures.task_of(cures.PRESETS["quick"]).lag
    mended, learned = dict.fromkeys(cures.SOURCES, lag + 2.0), dict.fromkeys(cures.SOURCES, 0.1)
    found = outcomes(learned, mended)
    assert set(found.values()) == {verdicts.HOLDS}
    assert len(found) == 3 + 2 * len(cures.SOURCES)
    for name in cures.SOURCES:
        found = outcomes(learned | {name: 0.5}, mended | {name: lag - 2.0})
        assert found[f"{name}, horizon"] == found[f"{name}, learns"] == verdicts.FAILS
    found = outcomes({}, {})
    assert all(
        found[f"{name}, {what}"] == verdicts.FAILS for name in mended for what in ("horizon", "learns")
    )
    assert found["none, stuck"] == verdicts.INCONCLUSIVE  # whatever is measured
    everywhere = outcomes(learned | {cures.NONE: 0.1}, mended | {cures.NONE: lag + 2.0})
    assert verdicts.HOLDS not in {everywhere[name] for name in found if "clip" not in name}


def test_a_gradient_that_reaches_every_step_is_said_to():
    config = cures.PRESETS["quick"]
    steps = cures.task_of(config).length
    shown = result({cures.OMEGA: 0.1}, {cures.OMEGA: 10.0 * steps})
    table = cures.table(config, shown, cures.verdicts(config, shown)).splitlines()
    assert max(map(len, table)) <= 100
    (row,) = [line for line in table if line.startswith("Ω  ")]
    assert row.split()[-4:] == [">", f"{steps - 1}"] * 2
    (row,) = [line for line in table if line.startswith("none")]
    assert row.split()[-6:] == ["6.0", "±", "0.0"] * 2
    figure = cures.figures(config, shown)["cures"]
    _, right = figure.axes
    triangles = [line for line in right.lines if line.get_marker() == ">" and line.get_xdata().size]
    assert [list(line.get_xdata()) for line in triangles] == [[steps] * 3] * 2


@pytest.fixture(scope="module")
def objectives():
    """Of every network that has an objective, or parameters, of its own: value, gradient and settled parameters."""
    problem = of_task(cures.task_of(TINY), TINY.batch_size, TINY.held_out)
    cured = [network for network in NETWORKS.values() if network.cell.init is cures.TANH.init]

    def all_of_them(key):
        batch, found = problem.draw(jax.random.fold_in(key, 1)), {}
        for network in cured:
            params = network.init(key, problem.input_size, TINY.hidden_size, problem.output_size)
            trained = network.free(problem, params, key)
            objective = partial(network.objective, network, problem, batch=batch, key=key)
            found[network.name] = (*jax.value_and_grad(objective)(trained), network.settled(trained))
        return found

    return jax.tree.map(np.asarray, jax.jit(all_of_them)(jax.random.key(0)))


@pytest.mark.slow
def test_clipping_changes_the_gradient_alone_and_a_loss_that_is_added_the_value(objectives):
    plain, gradient, _ = objectives[cures.NONE]
    value, clipped, _ = objectives["clip global norm"]
    assert value == plain
    expected, _ = optax.clip_by_global_norm(1.0).update(gradient, optax.EmptyState())
    assert sum((leaf**2).sum() for leaf in jax.tree.leaves(gradient)) > 1
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), clipped, expected)
    value, clipped, _ = objectives[cures.TIME]
    assert value == plain
    assert not np.allclose(clipped[0].w_hh, gradient[0].w_hh, rtol=1e-3)
    assert np.linalg.norm(clipped[0].w_hh) < np.linalg.norm(gradient[0].w_hh)
    for name in (cures.OMEGA, "flossing during", "penalty"):
        value, changed, _ = objectives[name]
        assert value > plain, name
        assert not np.allclose(changed[0].w_hh, gradient[0].w_hh, rtol=1e-3), name
    for name in ("dropout", "zoneout"):
        assert objectives[name][0] != plain, name


@pytest.mark.slow
def test_matrices_made_of_free_parameters_are_what_they_are_called(objectives):
    singular = {name: np.linalg.svd(found[2][0].w_hh)[1] for name, found in objectives.items()}
    np.testing.assert_allclose(singular[cures.CAYLEY], 1, atol=1e-5)
    np.testing.assert_allclose(singular[cures.MARGIN], 1, atol=1e-5)  # at the start
    np.testing.assert_allclose(singular["spectral norm"].max(), 1, atol=0.05)
    assert singular[cures.NONE].max() < 1.2
    for name in (cures.CAYLEY, cures.MARGIN, "spectral norm"):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(objectives[name][1])), name


@pytest.mark.slow
def test_a_training_through_free_parameters_and_a_loss_of_its_own(float64):
    problem = of_task(cures.task_of(TINY), TINY.batch_size, TINY.held_out)
    network = NETWORKS[cures.CAYLEY]
    keys = jax.random.split(jax.random.key(0), 2)
    found = training.train(network, problem, TINY.schedule(optax.adam), keys, lambda chunks: chunks)
    assert found.looks.loss.shape == (2, 3)
    assert np.isfinite(found.measured).all()
    assert (found.looks.loss[:, 0] != found.looks.loss[:, -1]).all()
