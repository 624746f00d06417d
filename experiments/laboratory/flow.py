"""The run: every network before and after training, and the controls of the verdicts."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import common
from experiments.digits import data
from experiments.laboratory import measurement, training
from experiments.laboratory.config import Config
from experiments.laboratory.measurement import Flow, Held, Spectra
from experiments.laboratory.networks import (
    ELMAN,
    LSTM,
    Network,
    networks,
    shut_forget_gates,
)
from experiments.laboratory.training import Schedule, Task
from rnn_jax.recording import Records
from rnn_jax.types import PyTree

BEFORE, AFTER = 0, 1
"""Positions on the axis W: when."""

SHUT = 10.0
"""Taken from a forget gate's pre-activation to shut it: chrono biases reach ln 63 = 4.1, and σ(4.1 − 10) = .003."""


class Training(NamedTuple):
    """How a network learned; R seeds.

    Attributes:
      loss, gradient_norm: of each update's batch, `(U, R)`.
      test_loss: after every chunk, `(U/chunk, R)`.
      records: decay curves along the way, results `(M, R, T)`.
    """

    loss: np.ndarray
    gradient_norm: np.ndarray
    test_loss: np.ndarray
    records: Records


class Controls(NamedTuple):
    """What is measured for comparison; decay curves, `(W, R, T)`.

    Attributes:
      no_cell_path, no_hidden_path: of the LSTM with one path cut.
      shut, shut_no_cell_path: of the LSTM with its forget gates shut, and of that one with the path cut as well.
      memoryless: of the Elman network trained to give back the pixel that it reads.
      memoryless_shares: its shares of ∂L/∂θ by lag, `(W, R, E, T + 1)`.
    """

    no_cell_path: np.ndarray
    no_hidden_path: np.ndarray
    shut: np.ndarray
    shut_no_cell_path: np.ndarray
    memoryless: np.ndarray
    memoryless_shares: np.ndarray


class Result(NamedTuple):
    """All that was measured. Axes: W when (before and after training), R seeds, and those named there.

    Attributes:
      flow: by network, leaves `(W, R, …)`.
      spectra: by network, leaves `(W, R, …)`.
      training: by network.
      controls: `Controls`.
      guessing: the mean of L_t when each pixel is guessed by its mean over the training images.
    """

    flow: dict[str, Flow]
    spectra: dict[str, Spectra]
    training: dict[str, Training]
    controls: Controls
    guessing: np.ndarray


def run(config: Config, key: jax.Array, progress: Callable = common.no_progress) -> Result:
    """Train and measure all networks.

    Args:
      config: the settings.
      key: root of all random numbers.
      progress: `(steps, label, scale) -> steps`, to show how far a loop is; each step stands for `scale` updates.

    Raises:
      ValueError: float64 is not enabled in JAX.
    """
    common.require_float64("laboratory")
    digits = data.load(config.test_size)
    key_init, key_train = jax.random.split(key)
    batches = data.draw_batches(
        jax.random.split(key_train, config.seeds),
        config.updates,
        config.batch_size,
        digits.train_labels.size,
    )
    task, held = _task(config, digits), _held(config, digits)
    flows, spectra, trained, params = {}, {}, {}, {}
    for i, (name, network) in enumerate(networks(config).items()):
        start = jax.vmap(network.init)(jax.random.split(jax.random.fold_in(key_init, i), config.seeds))
        end, trained[name] = _train(config, network, start, batches, task, progress, name)
        params[name] = _stack(start, end)
        flows[name] = _flow(config, network, params[name], held)
        spectra[name] = _by_time(
            config, measurement.spectra(network.cell, params[name], held, config.lags_shown)
        )
        if name == ELMAN:
            # The same inputs, weights and batches; only what is asked for needs no memory.
            aimless = task._replace(
                train_ys=task.train_xs, test_ys=task.test_xs, recorded_ys=task.recorded_xs
            )
            end, _ = _train(config, network, start, batches, aimless, progress, "no memory")
            memoryless = _flow(config, network, _stack(start, end), held._replace(ys=held.xs))
    cell_params, out = params[LSTM]
    shut = (shut_forget_gates(cell_params, SHUT), out)

    def curves(params, *, h=True, c=True):
        return _by_time(config, measurement.curves_of_paths(params, held, h=h, c=c))

    return Result(
        flow=flows,
        spectra=spectra,
        training=trained,
        controls=Controls(
            no_cell_path=curves(params[LSTM], c=False),
            no_hidden_path=curves(params[LSTM], h=False),
            shut=curves(shut),
            shut_no_cell_path=curves(shut, c=False),
            memoryless=memoryless.curves,
            memoryless_shares=memoryless.shares,
        ),
        guessing=0.5 * ((task.test_ys - task.train_ys.mean(1, keepdims=True)) ** 2).mean(),
    )


def _task(config: Config, digits: data.Digits) -> Task:
    """Every pixel but the last is read, every pixel but the first predicted."""
    train, test = jnp.asarray(digits.train_xs), jnp.asarray(digits.test_xs)
    recorded = test[:, : config.recorded]
    return Task(train[:-1], train[1:], test[:-1], test[1:], recorded[:-1], recorded[1:])


def _held(config: Config, digits: data.Digits) -> Held:
    sequences = digits.test_xs[:, : config.sequences]
    long = digits.test_xs[:, : config.images].swapaxes(0, 1).reshape(-1, 1)
    return common.double(Held(sequences[:-1], sequences[1:], long))


def _train(
    config: Config,
    network: Network,
    start: PyTree,
    batches: jax.Array,
    task: Task,
    progress: Callable,
    label: str,
) -> tuple[PyTree, Training]:
    fields = {name: getattr(config, name) for name in Schedule._fields}
    trained = training.train(
        network.cell,
        start,
        batches,
        task,
        Schedule(**fields),
        lambda chunks: progress(chunks, label, config.chunk),
    )
    kept = jax.tree.map(np.asarray, trained._asdict())
    return kept.pop("params"), Training(**kept)


def _flow(config: Config, network: Network, params: PyTree, held: Held) -> Flow:
    flow = measurement.gradient_flow(network, params, held, row=config.row, directions=config.directions)
    return _by_time(config, flow)


def _stack(before: PyTree, after: PyTree) -> PyTree:
    """Networks before and after training, one behind the other."""
    return jax.tree.map(lambda a, b: np.concatenate([a, b]), before, after)


def _by_time(config: Config, tree: PyTree) -> PyTree:
    """From `_stack`'s order to NumPy arrays `(W, R, …)`."""
    return jax.tree.map(lambda leaf: np.asarray(leaf).reshape(2, config.seeds, *leaf.shape[1:]), tree)
