"""What does a recurrent network know of the next chord of a chorale, and does a gate help?

Bach's chorales as piano rolls, a frame a quarter note: from all frames so far the network predicts which of 88 keys
sound in the next (Boulanger-Lewandowski, Bengio and Vincent 2012). Elman, GRU and LSTM, at their best on the validation
set, against what knows no time: how often each key sounds.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from experiments import common, learning, style
from experiments.learning import views
from experiments.learning.problems import gradient_reach
from experiments.learning.training import AFTER, Learned, Network, Problem, train_all
from experiments.verdicts import Verdict, interval, is_above, is_below, judge, lines
from rnn_jax import cells, datasets, initializers, losses

ELMAN, GRU, LSTM = "Elman", "GRU", "LSTM"
NETWORKS = (
    Network(ELMAN, cells.elman(), {}),
    Network(GRU, cells.gru(), {}),
    Network(LSTM, cells.lstm(), {"bias": initializers.forget_gate(1.0)}),
)
"""Orthogonal matrices, and zero biases but for the LSTM's forget gate."""


@dataclasses.dataclass(frozen=True)
class Config(learning.Config):
    """Settings of the chorales experiment; every field can be given on the command line."""

    hidden_size: int = 100
    """N, hidden units of every network."""
    updates: int = 600
    """Optimiser updates of each run."""
    chunk: int = 30
    """Updates between two looks at the validation set; divides `updates`."""
    batch_size: int = 16
    """Chorales an update, drawn from the training set with replacement."""
    learning_rate: float = 3e-3
    """Of Adam, one for all networks."""
    measured_steps: int = 20
    """Frames at the beginning of test chorales through which the gradient of the last is followed: five bars."""

    time_margin: float = 0.85
    """Of the loss of the frequencies: to know a seventh of it from what sounded before cannot be chance."""
    gate_margin: float = 0.1
    """Nats a step by which a gated network must be ahead of the Elman network; published differences are .4 to .6."""

    def __post_init__(self):
        super().__post_init__()
        common.within("measured_steps", self.measured_steps, 2, 40)
        for name, high in (("time_margin", 1.0), ("gate_margin", 10.0)):
            common.strictly_between(name, getattr(self, name), 0.0, high)


PRESETS = {
    "quick": Config(),
    "full": Config(seeds=10, hidden_size=200, updates=3000, chunk=100),
    "tiny": Config(seeds=2, hidden_size=4, updates=4, chunk=2, batch_size=2, measured_steps=4),
}
"""quick: minutes on two cores; full: two to three hours of processor time; tiny, for tests, measures nothing."""


class Look(NamedTuple):
    """Nats a step, mean over all steps of a set.

    Attributes:
      validation: on the validation set.
      test: on the test set.
      mistaken: on the test set, predicted from the frames of another chorale.
    """

    validation: jax.Array
    test: jax.Array
    mistaken: jax.Array


class Result(NamedTuple):
    """Trainings by the name of the network, and the loss of the frequencies on the test set, in nats a step."""

    learned: dict[str, Learned]
    frequencies: float


def problem_of(config: Config, data: datasets.Dataset) -> Problem:
    """Predicting the next frame."""
    train, validation, test = (
        jax.tree.map(jnp.asarray, part) for part in (data.train, data.validation, data.test)
    )

    def loss(network, sequences):
        outputs = network(sequences.xs.astype(jnp.float32), sequences.lengths)
        per_step = losses.binary_cross_entropy(outputs, sequences.targets.astype(outputs.dtype))
        return losses.mean(per_step, losses.valid_steps(len(per_step), sequences.lengths))

    def draw(key):
        chosen = jax.random.randint(key, (config.batch_size,), 0, len(train.lengths))
        return datasets.Sequences(train.xs[:, chosen], train.lengths[chosen], train.targets[:, chosen])

    # The frames of the next chorale, as far as both last.
    other = datasets.Sequences(
        jnp.roll(test.xs, 1, axis=1),
        jnp.minimum(test.lengths, jnp.roll(test.lengths, 1)),
        test.targets,
    )

    def look(network, key):
        del key
        return Look(loss(network, validation), loss(network, test), mistaken=loss(network, other))

    def measure(cell, params, key):
        del key
        xs, targets = (leaf[: config.measured_steps].astype(jnp.float64) for leaf in (test.xs, test.targets))
        return gradient_reach(cell, losses.BINARY_CROSS_ENTROPY, params, xs, targets)

    return Problem(datasets.music.KEYS, datasets.music.KEYS, draw, loss, look, measure)


def run(config: Config, key: jax.Array, progress: Callable) -> Result:
    """All networks, on the same batches."""
    common.require_float64("chorales")
    data = datasets.chorales()
    shortest = int(data.test.lengths.min())
    if shortest < config.measured_steps:
        raise ValueError(
            f"measured_steps is {config.measured_steps}, and the shortest test chorale has {shortest} frames; "
            "expected no more. Pass --measured-steps."
        )
    trained = train_all(
        NETWORKS, problem_of(config, data), config.schedule(optax.adam), key, config.seeds, progress
    )
    return Result(trained.learned, datasets.frequency_loss(data.train, data.test))


def best(learned: Learned) -> Look:
    """Every loss where that on the validation set is the least, `(R,)`."""
    at = learned.looks.validation.argmin(axis=1)
    return Look(*(leaf[np.arange(len(at)), at] for leaf in learned.looks))


def metrics(config: Config, result: Result) -> Iterator[Mapping[str, Any]]:
    """One line a network, seed and look."""
    return views.lines(result.learned, config.chunk, Look._fields)


def verdicts(config: Config, result: Result) -> list[Verdict]:
    """Who knows more than frequencies, and whether a gate helps."""
    found = {name: best(learned) for name, learned in result.learned.items()}

    def knows_time(name):
        return judge(
            is_below(config.time_margin),
            name=f"{name} knows time",
            claim=f"the {name} network predicts the next frame better than the frequencies of the keys",
            source="Boulanger-Lewandowski, Bengio and Vincent (2012), table 1",
            expected=f"< {config.time_margin:g}",
            measured=interval(found[name].test / result.frequencies),
            unit="of the frequencies' loss",
            tolerance=config.time_margin,
            reason="a seventh of the loss cannot be chance",
            control="the same network, given the frames of another chorale",
            control_measured=interval(found[name].mistaken / result.frequencies),
        )

    def gate_helps(name):
        elman = found[ELMAN].test
        return judge(
            is_above(config.gate_margin),
            name=f"{name} ahead",
            claim=f"the {name} predicts better than the Elman network",
            source="Chung, Gulcehre, Cho and Bengio (2014), table 2",
            expected=f"> {config.gate_margin:g}",
            measured=interval(elman - found[name].test),
            unit="nats a step",
            tolerance=config.gate_margin,
            reason="published differences are .4 to .6",
            control="the Elman network and itself, with other seeds",
            control_measured=interval(elman - np.roll(elman, 1)),
        )

    return [*map(knows_time, found), gate_helps(GRU), gate_helps(LSTM)]


_ROW = "{:8} {:>18} {:>10} {:>18} {:>10} {:>8}"


def table(config: Config, result: Result, judged: list[Verdict]) -> str:
    """A row a network, and the verdicts: at most 100 columns."""
    head = [
        "",
        f"test      nats a step at the best look on the validation set; frequencies of keys {result.frequencies:.3f}",
        "relative  the same over the frequencies' loss",
        "mistaken  the same network, given the frames of another chorale",
        "updates   until the best look, median over seeds",
        f"reach     decades that the gradient of step {config.measured_steps} has lost at step 1, after training",
        "          means ± standard deviation over seeds",
        "",
        _ROW.format("", "test", "relative", "mistaken", "updates", "reach"),
    ]
    return "\n".join([*head, *(_row(config, result, name) for name in result.learned), "", *lines(judged)])


def _row(config: Config, result: Result, name: str) -> str:
    learned = result.learned[name]
    found = best(learned)
    updates = config.chunk * np.median(learned.looks.validation.argmin(axis=1))
    reach = -learned.measured[AFTER][:, -1].mean() / np.log(10)
    spread = [f"{values.mean():.3f} ± {values.std(ddof=1):.3f}" for values in (found.test, found.mistaken)]
    relative = f"{found.test.mean() / result.frequencies:.3f}"
    return _ROW.format(name, spread[0], relative, spread[1], f"{updates:.0f}", f"{reach:.1f}")


def figures(config: Config, result: Result) -> Mapping[str, Figure]:
    """Learning curves, and the gradient against lag before and after training."""
    losses = {name: learned.looks.test for name, learned in result.learned.items()}
    with style.figure(10.2, 3.6) as figure:
        axes = figure.subplots(1, 3)
        views.draw_losses(axes[0], losses, config.chunk)
        axes[0].axhline(result.frequencies, color="0.4", linestyle=":", label="frequencies of the keys")
        least = min(loss.min() for loss in losses.values())
        axes[0].set(ylabel="test loss, nats a step", ylim=(0.95 * least, 1.3 * result.frequencies))
        views.draw_gradients(axes[1:], result.learned, "quarter notes back from the last")
        views.legend(figure)
    return {"learning": figure}
