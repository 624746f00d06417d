"""The run: every network before and after training, and the controls of the verdicts."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import common
from experiments.digits import data, measurement, training
from experiments.digits.config import STEPS, Config
from experiments.digits.measurement import Profile
from experiments.digits.networks import BELOW, LSTM, Network, networks
from rnn_jax import cells, initializers
from rnn_jax.types import PyTree

CLIPPED, UNCLIPPED = 0, 1
"""Positions on the axis C of clip settings."""

SHUT = -10.0
"""Added to the forget gate's pre-activation to shut it: chrono biases reach ln 63 = 4.1, and σ(4.1 − 10) = .003."""


class Controls(NamedTuple):
    """Cases for which a claim is known to be false; R seeds, or one matrix.

    Attributes:
      unit_norm: ln‖∂h_T/∂h_{T−n}‖ of linear networks with orthogonal W_hh, every step of norm 1, `(R, T + 1)`.
      non_normal: the same for W_hh = [[.9, 5], [0, .9]], every step of norm 5.2 but spectral radius .9, `(1, T + 1)`.
      log_radius_power: ln ρ(W_hh)ⁿ of the tanh networks of the smallest gain, `(R, T + 1)`: no bound on the norm.
      shut_before, shut_after: ln‖∂L/∂h_{T−n}‖ of the LSTMs before and after training (with clipping), their forget
        gates shut, `(R, E, T + 1)`.
      shut_accuracy: of the trained LSTMs with their forget gates shut, `(R,)`.
    """

    unit_norm: np.ndarray
    non_normal: np.ndarray
    log_radius_power: np.ndarray
    shut_before: np.ndarray
    shut_after: np.ndarray
    shut_accuracy: np.ndarray


class Result(NamedTuple):
    """All that was measured. Axes: M networks, C clip settings (with, without), R seeds, and those named there.

    Attributes:
      before: `Profile`, leaves `(M, R, …)`; singular values padded with NaN to the largest state.
      after: `Profile`, leaves `(M, C, R, …)`.
      updates: `training.Update`, leaves `(M, C, R, U)`.
      accuracy: on the test set after every chunk, `(M, C, R, U/chunk)`.
      controls: `Controls`.
    """

    before: Profile
    after: Profile
    updates: training.Update
    accuracy: np.ndarray
    controls: Controls


class _Flow(NamedTuple):
    """One network's share of `Result`, and its parameters."""

    before: Profile
    after: Profile
    updates: training.Update
    accuracy: np.ndarray
    start: PyTree
    trained: PyTree


def run(config: Config, key: jax.Array, progress: Callable = common.no_progress) -> Result:
    """Train and measure all networks.

    Args:
      config: the settings.
      key: root of all random numbers.
      progress: `(steps, label, scale) -> steps`, to show how far a loop is; each step stands for `scale` updates.

    Raises:
      ValueError: float64 is not enabled in JAX.
    """
    common.require_float64("digits")
    digits = data.load(config.test_size)
    key_init, key_train, key_controls = jax.random.split(key, 3)
    flows = [
        _flow(config, network, jax.random.fold_in(key_init, i), key_train, digits, progress)
        for i, network in enumerate(networks(config))
    ]
    widest = flows[LSTM].before.log_singular_values.shape[-1]
    joined = [f._replace(before=_pad(f.before, widest), after=_pad(f.after, widest)) for f in flows]

    def stack(field: str):
        return jax.tree.map(lambda *leaves: np.stack(leaves), *(getattr(f, field) for f in joined))

    return Result(
        before=stack("before"),
        after=stack("after"),
        updates=stack("updates"),
        accuracy=stack("accuracy"),
        controls=_controls(config, key_controls, flows, digits),
    )


def _flow(
    config: Config,
    network: Network,
    key_init: jax.Array,
    key_train: jax.Array,
    digits: data.Digits,
    progress: Callable,
) -> _Flow:
    """Measure, train with and without clipping from the same start on the same batches, measure again."""
    seeds = config.seeds
    # Not jitted: the random numbers of six networks would be compiled six times.
    start = jax.vmap(network.init)(jax.random.split(key_init, seeds))
    before = _measure(config, network, start, digits)
    batches = data.draw_batches(
        jax.random.split(key_train, seeds), config.updates, config.batch_size, digits.train_labels.size
    )
    trained = training.train(
        network.cell,
        jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), start),
        jnp.concatenate([batches, batches]),
        jnp.repeat(jnp.array([config.clip_norm, jnp.inf], jnp.float32), seeds),
        digits,
        chunk=config.chunk,
        learning_rate=config.learning_rate,
        progress=lambda chunks: progress(chunks, network.name, config.chunk),
    )
    trained = jax.tree.map(lambda leaf: np.asarray(leaf).reshape(2, seeds, *leaf.shape[1:]), trained)
    settings = [jax.tree.map(lambda leaf, c=c: leaf[c], trained.params) for c in (CLIPPED, UNCLIPPED)]
    after = [_measure(config, network, params, digits) for params in settings]
    return _Flow(
        before=before,
        after=jax.tree.map(lambda *leaves: np.stack(leaves), *after),
        updates=trained.updates,
        accuracy=trained.accuracy,
        start=start,
        trained=settings[CLIPPED],
    )


def _measure(config: Config, network: Network, params: PyTree, digits: data.Digits) -> Profile:
    """The profile on the first held-out sequences, as NumPy arrays."""
    profile = measurement.profile(
        network.cell, network.slope, params, *_held_out(config, digits), config.lags_shown
    )
    return jax.tree.map(np.asarray, profile)


def _held_out(config: Config, digits: data.Digits) -> tuple[np.ndarray, np.ndarray]:
    return digits.test_xs[:, : config.sequences], digits.test_labels[: config.sequences]


def _accuracies(cell: cells.Cell, params: PyTree, digits: data.Digits) -> np.ndarray:
    """On the test set, `(R,)`."""
    of_seeds = jax.vmap(lambda params: training.accuracy(cell, params, digits.test_xs, digits.test_labels))
    return np.asarray(jax.jit(of_seeds)(params))


def _pad(profile: Profile, width: int) -> Profile:
    values = profile.log_singular_values
    padding = [(0, 0)] * (values.ndim - 1) + [(0, width - values.shape[-1])]
    return profile._replace(log_singular_values=np.pad(values, padding, constant_values=np.nan))


def _controls(config: Config, key: jax.Array, flows: list[_Flow], digits: data.Digits) -> Controls:
    n = config.hidden_size
    orthogonal = jax.vmap(lambda key: initializers.orthogonal()(key, (n, n), jnp.float64))
    unit_norm = measurement.linear_log_norms(orthogonal(jax.random.split(key, config.seeds)), STEPS)
    non_normal = measurement.linear_log_norms(jnp.array([[[0.9, 5.0], [0.0, 0.9]]]), STEPS)

    w_hh = np.asarray(flows[BELOW].start[0].w_hh, np.float64)
    log_radius = np.log(np.abs(np.linalg.eigvals(w_hh)).max(-1))
    shut = cells.lstm(forget_bias=SHUT)
    return Controls(
        unit_norm=np.asarray(unit_norm),
        non_normal=np.asarray(non_normal),
        log_radius_power=np.arange(STEPS + 1) * log_radius[:, None],
        shut_before=np.asarray(
            measurement.gradients_by_lag(shut, flows[LSTM].start, *_held_out(config, digits))
        ),
        shut_after=np.asarray(
            measurement.gradients_by_lag(shut, flows[LSTM].trained, *_held_out(config, digits))
        ),
        shut_accuracy=_accuracies(shut, flows[LSTM].trained, digits),
    )
