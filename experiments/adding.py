"""Which network learns to add two numbers that are far apart, and does its gradient reach the first?

The adding problem (Hochreiter and Schmidhuber 1997, as in Le, Jaitly and Hinton 2015): two marked values among many,
their sum due at the last step. ReLU from the identity, tanh and LSTM are trained on the same sequences.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import optax
from matplotlib.figure import Figure

from experiments import common, learning
from experiments.learning import views
from experiments.learning.problems import of_task
from experiments.learning.training import Network, Result, train_all
from experiments.verdicts import Verdict, interval, is_above, is_below, judge
from rnn_jax import cells, initializers, tasks

IDENTITY, TANH, LSTM = "ReLU, identity", "tanh, Gaussian", "LSTM"


@dataclasses.dataclass(frozen=True)
class Config(learning.TaskConfig):
    """Settings of the adding experiment; every field can be given on the command line."""

    seeds: int = 4
    """Independent runs of each network; the intervals are over these."""
    hidden_size: int = 64
    """N, hidden units of every network."""
    updates: int = 2500
    """Optimiser updates of each run."""
    length: int = 100
    """T: one marked value is in the first half, one in the second."""

    solved: float = 0.2
    """Of the error of guessing the mean: a standard deviation of less than half of that of the sum."""
    stuck: float = 0.5
    """Of the same error: what knowing one of the two values would leave."""

    def __post_init__(self):
        super().__post_init__()
        common.within("length", self.length, 2, 10**5)
        for name in ("solved", "stuck"):
            common.strictly_between(name, getattr(self, name), 0.0, 1.0)


PRESETS = {
    "quick": Config(),
    "full": Config(seeds=5, length=400, updates=20_000, chunk=500),
    "tiny": Config(seeds=2, length=6, hidden_size=6, updates=4, chunk=2, batch_size=4, held_out=4),
}
"""quick: minutes on two cores; full: three to four hours of processor time; tiny, for tests, measures nothing."""

NETWORKS = (
    Network(IDENTITY, cells.elman(jax.nn.relu), {"recurrent": initializers.identity()}),
    Network(TANH, cells.elman(), {"recurrent": initializers.gaussian()}),
    Network(LSTM, cells.lstm(), {"bias": initializers.forget_gate(1.0)}),
)
"""Biases are zero but for the LSTM's forget gate, 1 as in Le, Jaitly and Hinton (2015)."""


def task_of(config: Config) -> tasks.Task:
    """The task at the configured length."""
    return tasks.adding(config.length)


def run(config: Config, key: jax.Array, progress: Callable) -> Result:
    """All networks, on the same sequences."""
    common.require_float64("adding")
    problem = of_task(task_of(config), config.batch_size, config.held_out)
    return train_all(NETWORKS, problem, config.schedule(optax.adam), key, config.seeds, progress)


def metrics(config: Config, result: Result) -> Iterable[Mapping[str, Any]]:
    """One line a network, seed and look at the held-out loss."""
    return views.lines(result.learned, config.chunk)


def verdicts(config: Config, result: Result) -> list[Verdict]:
    """Who learns it, and who does not."""
    task = task_of(config)
    loss = {name: interval(views.relative(task, learned)) for name, learned in result.learned.items()}
    shared = {
        "source": "Le, Jaitly and Hinton (2015), section 4.1",
        "unit": "of the error of guessing the mean",
    }

    def learns(name):
        return judge(
            is_below(config.solved),
            name=f"{name} learns",
            claim=f"{name} learns to add over {config.length} steps within {config.updates} updates",
            expected=f"< {config.solved:g}",
            measured=loss[name],
            tolerance=config.solved,
            reason="a standard deviation of less than half of that of the sum",
            control=TANH,
            control_measured=loss[TANH],
            **shared,
        )

    return [
        learns(IDENTITY),
        learns(LSTM),
        judge(
            is_above(config.stuck),
            name="tanh does not",
            claim=f"{TANH} does not learn within {config.updates} updates as much as one of the two values",
            expected=f"> {config.stuck:g}",
            measured=loss[TANH],
            tolerance=config.stuck,
            reason="knowing one of the two values leaves a half",
            control=IDENTITY,
            control_measured=loss[IDENTITY],
            **shared,
        ),
    ]


def table(config: Config, result: Result, judged: list[Verdict]) -> str:
    """The rows and verdicts to print."""
    return views.table(task_of(config), result.learned, config.chunk, judged)


def figures(config: Config, result: Result) -> Mapping[str, Figure]:
    """The figure by its file name."""
    return {"learning": views.figure(task_of(config), result.learned, config.chunk, "half the squared error")}
