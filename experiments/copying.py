"""Which network learns to say a list again after a delay, and does its gradient reach the list?

Copying memory (Arjovsky, Shah and Bengio 2016): ten symbols, a delay, and the symbols again. A linear network with an
orthogonal matrix and a tanh network with a Gaussian one, which differ in what becomes of a gradient on its way
back, are trained on the same sequences.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
import optax
from matplotlib.figure import Figure

from experiments import common, learning
from experiments.learning import views
from experiments.learning.problems import of_task
from experiments.learning.training import BEFORE, Network, Result, train_all
from experiments.verdicts import Verdict, interval, is_above, is_below, judge
from rnn_jax import cells, initializers, tasks

ORTHOGONAL, GAUSSIAN = "linear, orthogonal", "tanh, Gaussian"


@dataclasses.dataclass(frozen=True)
class Config(learning.TaskConfig):
    """Settings of the copying experiment; every field can be given on the command line."""

    learning_rate: float = 3e-4
    """Of RMSprop (decay .9), for both networks."""
    delay: int = 30
    """Steps from the last symbol to the marker after which the list is to be said again."""

    solved: float = 0.1
    """Of the loss without memory: with a tenth of it, nine tenths of what is to be known about the list are known."""
    stuck: float = 0.5
    """Of the loss without memory: above it, less than half is known."""
    kept: float = 0.01
    """Decades by which a gradient may change over the lag and count as kept: matrices are orthogonal to float32."""

    def __post_init__(self):
        super().__post_init__()
        common.within("delay", self.delay, 1, 10**5)
        for name, high in (("solved", 1.0), ("stuck", 1.0), ("kept", 100.0)):
            common.strictly_between(name, getattr(self, name), 0.0, high)


PRESETS = {
    "quick": Config(),
    "full": Config(seeds=5, delay=100, updates=10_000, chunk=500, batch_size=64),
    "tiny": Config(seeds=2, delay=3, hidden_size=6, updates=4, chunk=2, batch_size=4, held_out=4),
}
"""quick: minutes on two cores; full: about an hour of processor time; tiny, for tests, measures nothing."""

NETWORKS = (
    Network(ORTHOGONAL, cells.elman(cells.identity), {"recurrent": initializers.orthogonal()}),
    Network(GAUSSIAN, cells.elman(), {"recurrent": initializers.gaussian()}),
)
"""Zero biases, and matrices of gain 1."""


def task_of(config: Config) -> tasks.Task:
    """The task at the configured delay."""
    return tasks.copy_memory(config.delay)


def run(config: Config, key: jax.Array, progress: Callable) -> Result:
    """Both networks, on the same sequences."""
    common.require_float64("copying")
    problem = of_task(task_of(config), config.batch_size, config.held_out)
    return train_all(NETWORKS, problem, config.schedule(optax.rmsprop), key, config.seeds, progress)


def metrics(config: Config, result: Result) -> Iterable[Mapping[str, Any]]:
    """One line a network, seed and look at the held-out loss."""
    return views.lines(result.learned, config.chunk)


def verdicts(config: Config, result: Result) -> list[Verdict]:
    """Who learns it, who does not, and whose gradient gets there."""
    task = task_of(config)
    loss = {name: interval(views.relative(task, learned)) for name, learned in result.learned.items()}
    changed = {
        name: interval(np.abs(views.reach_at_lag(task, learned, BEFORE)))
        for name, learned in result.learned.items()
    }
    shared = {
        "source": "Arjovsky, Shah and Bengio (2016), section 5.1; Henaff, Szlam and LeCun (2016)",
        "unit": "of the loss without memory",
    }
    return [
        judge(
            is_below(config.solved),
            name="orthogonal learns",
            claim=f"the orthogonal linear network learns to copy within {config.updates} updates",
            expected=f"< {config.solved:g}",
            measured=loss[ORTHOGONAL],
            tolerance=config.solved,
            reason="with a tenth of the loss nine tenths of what is to be known are known",
            control="the Gaussian tanh network",
            control_measured=loss[GAUSSIAN],
            **shared,
        ),
        judge(
            is_above(config.stuck),
            name="Gaussian does not",
            claim=f"the Gaussian tanh network does not, within {config.updates} updates on the same sequences",
            expected=f"> {config.stuck:g}",
            measured=loss[GAUSSIAN],
            tolerance=config.stuck,
            reason="above a half, less than half is known",
            control="the orthogonal linear network",
            control_measured=loss[ORTHOGONAL],
            **shared,
        ),
        judge(
            is_below(config.kept),
            name="gradient kept",
            claim=f"before training, the orthogonal network's gradient is at lag {task.lag} what it is at lag 0",
            source="orthogonal matrices keep norms",
            expected=f"change < {config.kept:g}",
            measured=changed[ORTHOGONAL],
            unit="decades",
            tolerance=config.kept,
            reason="matrices are orthogonal to float32, and nothing else changes it",
            control="the Gaussian tanh network",
            control_measured=changed[GAUSSIAN],
        ),
    ]


def table(config: Config, result: Result, judged: list[Verdict]) -> str:
    """The rows and verdicts to print."""
    return views.table(task_of(config), result.learned, config.chunk, judged)


def figures(config: Config, result: Result) -> Mapping[str, Figure]:
    """The figure by its file name."""
    return {"learning": views.figure(task_of(config), result.learned, config.chunk, "nats a step")}
