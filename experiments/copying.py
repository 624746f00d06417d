"""Which network learns to say a list again after a delay, and does its gradient reach the list?

Copying memory (Arjovsky, Shah and Bengio 2016): ten symbols, a delay, and the symbols again. A linear network with an
orthogonal matrix and a tanh network with a Gaussian one, which differ in what becomes of a gradient on its way
back, are trained on the same sequences.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from matplotlib.figure import Figure

from experiments import common, verdicts as judging
from experiments.learning import training, views
from experiments.learning.training import BEFORE, Learned, Network, Schedule
from experiments.verdicts import Verdict, interval, is_above, is_below, judge
from rnn_jax import cells, initializers, tasks

ORTHOGONAL, GAUSSIAN = "linear, orthogonal", "tanh, Gaussian"


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the copying experiment; every field can be given on the command line."""

    seed: int = 0
    """Root of all random numbers."""
    seeds: int = 3
    """Independent runs of each network; the intervals are over these."""
    delay: int = 30
    """Steps from the last symbol to the marker after which the list is to be said again."""
    hidden_size: int = 128
    """N, hidden units of both networks."""
    updates: int = 1500
    """Optimiser updates of each run."""
    chunk: int = 100
    """Updates between two looks at the held-out loss; divides `updates`."""
    batch_size: int = 32
    """Sequences an update, always new ones."""
    held_out: int = 256
    """Sequences of the held-out loss."""
    learning_rate: float = 3e-4
    """Of RMSprop (decay .9), for both networks."""
    clip_norm: float = 1.0
    """Global norm to which gradients are clipped."""

    solved: float = 0.1
    """Of the loss without memory: with a tenth of it, nine tenths of what is to be known about the list are known."""
    stuck: float = 0.5
    """Of the loss without memory: above it, less than half is known."""
    kept: float = 0.5
    """Decades that a gradient may lose over the lag and count as kept: linear and orthogonal it loses none."""

    def __post_init__(self):
        for name, low, high in (
            ("seed", 0, 2**31 - 1),
            ("seeds", 2, 1000),
            ("delay", 1, 10**5),
            ("hidden_size", 2, 4096),
            ("updates", 1, 10**7),
            ("chunk", 1, 10**6),
            ("batch_size", 1, 10**5),
            ("held_out", 1, 10**5),
        ):
            common.within(name, getattr(self, name), low, high)
        for name, low, high in (
            ("learning_rate", 0.0, 1.0),
            ("clip_norm", 0.0, 1e6),
            ("solved", 0.0, 1.0),
            ("stuck", 0.0, 1.0),
            ("kept", 0.0, 100.0),
        ):
            common.strictly_between(name, getattr(self, name), low, high)
        common.whole_chunks(self.updates, self.chunk)


PRESETS = {
    "quick": Config(),
    "full": Config(seeds=5, delay=100, updates=10_000, chunk=500, batch_size=64),
    "tiny": Config(seeds=2, delay=3, hidden_size=6, updates=4, chunk=2, batch_size=4, held_out=4),
}
"""quick: minutes on two cores. full: hours. tiny, for tests: what it measures means nothing."""


class Result(NamedTuple):
    """Trainings by the name of the network."""

    learned: dict[str, Learned]


def task_of(config: Config) -> tasks.Task:
    """The task at the configured delay."""
    return tasks.copy_memory(config.delay)


def networks() -> tuple[Network, ...]:
    """Both networks: zero biases, and matrices of gain 1."""
    return (
        Network(ORTHOGONAL, cells.elman(cells.identity), {"recurrent": initializers.orthogonal()}),
        Network(GAUSSIAN, cells.elman(), {"recurrent": initializers.gaussian()}),
    )


def schedule_of(config: Config) -> Schedule:
    """How both are trained."""
    return Schedule(
        updates=config.updates,
        chunk=config.chunk,
        batch_size=config.batch_size,
        held_out=config.held_out,
        optimiser=optax.rmsprop,
        learning_rate=config.learning_rate,
        clip_norm=config.clip_norm,
    )


def run(config: Config, key: jax.Array, progress: Callable) -> Result:
    """Both networks, on the same sequences."""
    common.require_float64("copying")
    keys = jax.random.split(key, config.seeds)
    learned = {}
    for network in networks():
        shown = lambda chunks, name=network.name: progress(chunks, name, config.chunk)
        learned[network.name] = training.train(
            network, task_of(config), config.hidden_size, schedule_of(config), keys, shown
        )
    return Result(learned)


def metrics(config: Config, result: Result) -> Iterable[Mapping[str, Any]]:
    """One line a network, seed and look at the held-out loss."""
    return views.lines(result.learned, config.chunk)


def verdicts(config: Config, result: Result) -> list[Verdict]:
    """Who learns it, who does not, and whose gradient gets there."""
    task = task_of(config)
    loss = {name: interval(views.relative(task, learned)) for name, learned in result.learned.items()}
    left = {
        name: interval(np.abs(views.reach_at_lag(task, learned, BEFORE)))
        for name, learned in result.learned.items()
    }
    source = "Arjovsky, Shah and Bengio (2016), section 5.1; Henaff, Szlam and LeCun (2016)"
    return [
        judge(
            is_below(config.solved),
            name="orthogonal learns",
            claim=f"the orthogonal linear network learns to copy within {config.updates} updates",
            source=source,
            expected=f"< {config.solved:g}",
            measured=loss[ORTHOGONAL],
            unit="of the loss without memory",
            tolerance=config.solved,
            reason="with a tenth of the loss nine tenths of what is to be known are known",
            control="the Gaussian tanh network",
            control_measured=loss[GAUSSIAN],
        ),
        judge(
            is_above(config.stuck),
            name="Gaussian does not",
            claim="the Gaussian tanh network, on the same sequences, does not",
            source=source,
            expected=f"> {config.stuck:g}",
            measured=loss[GAUSSIAN],
            unit="of the loss without memory",
            tolerance=config.stuck,
            reason="above a half, less than half is known",
            control="the orthogonal linear network",
            control_measured=loss[ORTHOGONAL],
        ),
        judge(
            is_below(config.kept),
            name="gradient kept",
            claim=f"before training, the orthogonal linear network's gradient is the same at lag {task.lag} as at lag 0",
            source="orthogonal matrices keep norms",
            expected=f"decades lost < {config.kept:g}",
            measured=left[ORTHOGONAL],
            unit="decades",
            tolerance=config.kept,
            reason="rounding alone changes it",
            control="the Gaussian tanh network",
            control_measured=left[GAUSSIAN],
        ),
    ]


def table(config: Config, result: Result, judged: list[Verdict]) -> str:
    """The rows and verdicts to print."""
    return "\n".join(
        ["", *views.rows(task_of(config), result.learned, config.chunk), "", *judging.lines(judged)]
    )


def figures(config: Config, result: Result) -> Mapping[str, Figure]:
    """The figure by its file name."""
    return {"learning": views.figure(task_of(config), result.learned, config.chunk, "nats a step")}
