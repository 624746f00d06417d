"""The experiments on synthetic tasks: what they measure is what they say, their verdicts follow from the numbers."""

import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import adding, copying, results, runner, verdicts
from experiments.learning import problems, training, views
from experiments.learning.problems import Look
from experiments.learning.training import AFTER, BEFORE, Learned
from rnn_jax import cells, tasks, unroll

BY_NAME = {"adding": adding, "copying": copying}
MISTAKES = [
    (copying, {"seeds": 1}, "seeds is 1; expected an integer in"),
    (copying, {"delay": 0}, "--delay"),
    (copying, {"solved": 1.5}, r"solved is 1.5; expected a number in \(0, 1\)"),
    (adding, {"length": 1}, "--length"),
    (adding, {"learning_rate": float("nan")}, "learning_rate is nan"),
    (adding, {"updates": 150, "chunk": 100}, "updates is 150 and chunk 100; expected a multiple"),
]


@pytest.mark.parametrize(("experiment", "settings", "message"), MISTAKES)
def test_a_configuration_that_cannot_be_run_is_refused(experiment, settings, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(experiment.PRESETS["quick"], **settings)


def test_float32_is_refused():
    with pytest.raises(ValueError, match="the copying experiment measures in float64"):
        copying.run(copying.PRESETS["tiny"], jax.random.key(0), None)


def learned(held_out, decades, steps):
    """Trainings that end at these losses, relative to that without memory, and lose so many decades over the lag."""

    def of(network):
        curves = -np.log(10) * decades[network] * np.linspace(0, 1, steps)
        return Learned(
            loss=np.ones((3, 4)),
            looks=Look(np.stack([[1.0, *[value] * 4, 1.0] for value in held_out[network]]), np.zeros((3, 6))),
            measured=np.broadcast_to(curves, (2, 3, steps)),
        )

    return training.Result({network: of(network) for network in held_out})


def outcomes(experiment, config, relative, decades):
    task = experiment.task_of(config)
    losses = {name: np.asarray(values) * task.baseline for name, values in relative.items()}
    judged = experiment.verdicts(config, learned(losses, decades, task.length))
    return [verdict.outcome for verdict in judged]


def test_verdicts_on_copying_follow_from_the_losses_and_the_reach():
    config = copying.PRESETS["quick"]
    expected = {copying.ORTHOGONAL: [0.01, 0.02, 0.01], copying.GAUSSIAN: [1.0, 0.99, 1.01]}
    decades = {copying.ORTHOGONAL: 0.0, copying.GAUSSIAN: 5.0}
    assert outcomes(copying, config, expected, decades) == [verdicts.HOLDS] * 3
    turned = dict(zip(expected, reversed(expected.values()), strict=True))
    assert verdicts.HOLDS not in outcomes(copying, config, turned, dict.fromkeys(expected, 5.0))


def test_verdicts_on_adding_follow_from_the_losses():
    config = adding.PRESETS["quick"]
    expected = {
        adding.IDENTITY: [0.05, 0.06, 0.05],
        adding.TANH: [1.0, 0.98, 1.0],
        adding.LSTM: [0.1, 0.1, 0.11],
    }
    decades = dict.fromkeys(expected, 0.0)
    assert outcomes(adding, config, expected, decades) == [verdicts.HOLDS] * 3
    alike = {name: [0.05, 0.06, 0.05] for name in expected}
    assert verdicts.HOLDS not in outcomes(adding, config, alike, decades)


@pytest.fixture
def started(float64):
    """A task, an LSTM as it starts, and four sequences."""
    task = tasks.copy_memory(3, positions=2)
    network = training.Network("LSTM", cells.lstm(), {})
    params = jax.tree.map(np.asarray, network.init(jax.random.key(0), task.input_size, 5, task.output_size))
    batch = jax.jit(task.sample, static_argnums=1)(jax.random.key(1), (4,))
    return task, network.cell, jax.tree.map(lambda leaf: leaf.astype(float), params), batch


def test_the_loss_and_the_reach_are_those_of_a_python_loop_and_jax_grad(started):
    task, cell, (params, out), batch = started
    T = task.length

    def last_loss(shifts):
        state, h = cell.initial_state(params, (4,)), []
        for t in range(T):
            state = cell.step(params, state, batch.xs[t])
            state = jax.tree.map(jnp.add, state, jax.tree.map(lambda leaf, t=t: leaf[t], shifts))
            h.append(state.h)
        outputs = jnp.stack(h) @ out.w_hy.T + out.b_y[None, None]
        per_step = -jnp.take_along_axis(jax.nn.log_softmax(outputs), batch.targets[..., None], -1)[..., 0]
        return per_step[-1].sum(), per_step.mean()

    @jax.jit
    def both(shifts):
        (_, mean), gradient = jax.value_and_grad(last_loss, has_aux=True)(shifts)
        network = partial(training.outputs, cell, unroll.unroll, (params, out))
        loss = problems.of_task(task, 4, 4).loss(network, batch)
        return (
            mean,
            gradient,
            loss,
            problems.gradient_reach(cell, task.loss, (params, out), batch.xs, batch.targets),
        )

    zeros = np.zeros((T, 4, 5))
    mean, gradient, loss, reach = both(cells.LSTMState(zeros, zeros))
    np.testing.assert_allclose(loss, mean, rtol=1e-12)
    norms = np.linalg.norm(np.concatenate(gradient, axis=-1), axis=-1).mean(1)[::-1]
    np.testing.assert_allclose(reach, np.log(norms / norms[0]), atol=1e-10)


@pytest.fixture(scope="module", params=BY_NAME)
def tiny_run(request, tmp_path_factory):
    """An experiment's name, and the folder of one tiny run, made through the command line."""
    folder = tmp_path_factory.mktemp("results")
    with jax.enable_x64(True):
        command = ["run", request.param, "--preset", "tiny", "--seed", "3", "--results", str(folder)]
        assert runner.main(command) == 0
    (path,) = (folder / request.param).iterdir()
    return request.param, path


@pytest.mark.slow
def test_a_run_is_complete_and_repeats(tiny_run, float64):
    name, path = tiny_run
    experiment = BY_NAME[name]
    config = dataclasses.replace(experiment.PRESETS["tiny"], seed=3)
    judged = json.loads((path / "verdicts.json").read_text())
    assert len(judged) == 3
    assert max(map(len, (path / "table.txt").read_text().splitlines())) <= 100
    metrics = (path / "metrics.jsonl").read_text().splitlines()
    assert len(metrics) == len(experiment.NETWORKS) * config.seeds * (config.updates // config.chunk + 1)
    with np.load(path / "arrays.npz", allow_pickle=False) as loaded:
        arrays = dict(loaded)
    assert all(np.isfinite(values).all() for values in arrays.values())
    again = results.arrays(experiment.run(config, jax.random.key(3), lambda steps, label, scale: steps))
    for key, values in arrays.items():
        np.testing.assert_array_equal(again[key], values, err_msg=key)


def test_a_network_that_is_orthogonal_and_linear_keeps_its_gradient(float64):
    task, config = copying.task_of(copying.PRESETS["tiny"]), copying.PRESETS["tiny"]
    network = copying.NETWORKS[0]
    assert network.name == copying.ORTHOGONAL
    params = jax.tree.map(
        np.asarray, network.init(jax.random.key(0), task.input_size, config.hidden_size, task.output_size)
    )
    batch = jax.jit(task.sample, static_argnums=1)(jax.random.key(1), (2,))
    params = jax.tree.map(lambda leaf: leaf.astype(float), params)
    reach = jax.jit(partial(problems.gradient_reach, network.cell, task.loss))(
        params, batch.xs, batch.targets
    )
    np.testing.assert_allclose(reach, 0, atol=1e-5)  # orthogonal to float32
    kept = Learned(loss=None, looks=None, measured=np.stack([reach[None]] * 2))
    for when in (BEFORE, AFTER):
        np.testing.assert_allclose(views.reach_at_lag(task, kept, when), 0, atol=1e-5)
