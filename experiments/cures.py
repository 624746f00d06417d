"""Which cures bring the gradient of a network that forgets back to life, and which of them let it learn?

A tanh network whose steps contract (gain 0.5) is to say at the end which of two symbols came early, which later, and
cannot (temporal order, on which Pascanu, Mikolov and Bengio 2013 tried Ω): its gradient has vanished on the way. The
cures of the library are applied to it, one at a time, and gated cells stand beside it: loss, and effective horizon, the
lag at which a gradient is a thousandth, before training and after it. Clipping, the spectral norm, masks and layer
normalisation are meant for other ills, and stand there to compare with.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments import common, learning, style
from experiments.learning import views
from experiments.learning.problems import of_task
from experiments.learning.training import (
    AFTER,
    BEFORE,
    Learned,
    Network,
    Result,
    task_loss,
    train_all,
)
from experiments.verdicts import Verdict, interval, is_above, is_below, judge, lines
from rnn_jax import bptt, cells, clipping, constraints, decay, initializers, readout, regularizers, tasks
from rnn_jax.cells import masked, normalized
from rnn_jax.types import Cell

TANH = cells.elman()
NONE, GLOBAL, TIME = "none", "clip global norm", "clip along time"
OMEGA, FLOSSED, FLOSSING, PENALTY = "Ω", "flossing before", "flossing during", "penalty"
ORTHOGONAL, CAYLEY, MARGIN = "orthogonal start", "Cayley", "margin"

SOURCES = {
    OMEGA: "Pascanu, Mikolov and Bengio (2013), sections 3.3 and 4.1",
    FLOSSED: "Engelken (2023)",
    FLOSSING: "Engelken (2023)",
    PENALTY: "Vorontsov, Trabelsi, Kadoury and Pal (2017)",
    ORTHOGONAL: "Henaff, Szlam and LeCun (2016)",
    CAYLEY: "Helfrich, Willmott and Ye (2018)",
    MARGIN: "Vorontsov, Trabelsi, Kadoury and Pal (2017)",
}
"""Of the cures for a gradient that vanishes."""

LONGEST = 0.3
"""‖δ_t‖ to which it is clipped along time, if the loss of every sequence counts once; δ_T is about 1."""
OMEGA_WEIGHT = 1.0
FLOSSING_WEIGHT = 1.0
PENALTY_WEIGHT = 0.1
EXPONENTS = 8
"""That are flossed, of N."""
FLOSSING_UPDATES, FLOSSING_RATE = 200, 3e-3
"""Before the training, of Adam."""
WIDTH = 0.1
"""Of the margin: singular values in (0.9, 1.1)."""
DROPOUT, ZONEOUT = 0.1, 0.2
"""Probabilities."""


@dataclasses.dataclass(frozen=True)
class Config(learning.TaskConfig):
    """Settings of the cures experiment; every field can be given on the command line."""

    hidden_size: int = 64
    """N, hidden units of every network."""
    updates: int = 2000
    """Optimiser updates of each run."""
    clip_norm: float = 1e5
    """Global norm to which all gradients are clipped: none is that long. (One of the cures clips to 1.)"""
    length: int = 35
    """T: of the two symbols one comes between T/10 and 2T/10, the other between 5T/10 and 6T/10."""
    gain: float = 0.5
    """Of the Gaussian W_hh: σ_max is about twice that, and hardly any step expands."""
    floor: float = 1e-3
    """Share of the gradient at lag 0 below which it counts as gone."""

    solved: float = 0.25
    """Of the loss without memory: to know one of the two symbols leaves a half, and this is half of that."""
    stuck: float = 0.9
    """Of the same loss: next to nothing is known."""

    def __post_init__(self):
        super().__post_init__()
        common.within("hidden_size", self.hidden_size, EXPONENTS, 4096)
        common.within("length", self.length, 10, 10**4)
        for name, high in (
            ("gain", 10.0),
            ("floor", 1.0),
            ("solved", 1.0),
            ("stuck", 1.0),
        ):
            common.strictly_between(name, getattr(self, name), 0.0, high)


PRESETS = {
    "quick": Config(),
    "full": Config(seeds=8, hidden_size=128, length=50, updates=10_000, chunk=500),
    "tiny": Config(seeds=2, length=10, hidden_size=9, updates=2, chunk=1, batch_size=2, held_out=2),
}
"""quick: a quarter of an hour of processor time; full: about five hours of it; tiny, for tests, measures nothing."""


def task_of(config: Config) -> tasks.Task:
    """The task at the configured length."""
    return tasks.temporal_order(config.length)


def networks(config: Config) -> tuple[Network, ...]:
    """The failing network first, then each cure of it, then gated cells."""
    start = {"recurrent": initializers.gaussian(config.gain)}
    chrono = {"bias": initializers.chrono(float(task_of(config).length))}

    def cured(name: str, cell: Cell = TANH, **how: Callable) -> Network:
        return Network(name, cell, start, **how)

    return (
        cured(NONE),
        cured(GLOBAL, objective=_clipped_globally),
        cured(TIME, objective=_clipped_along_time),
        cured(OMEGA, objective=_with_omega),
        cured(FLOSSED, free=_flossed),
        cured(FLOSSING, objective=_flossing),
        cured(PENALTY, objective=_penalised),
        Network(ORTHOGONAL, TANH, {"recurrent": initializers.orthogonal()}),
        cured(CAYLEY, free=_to_cayley, settled=_from_cayley),
        cured(MARGIN, free=_to_margin, settled=_from_margin),
        cured("spectral norm", settled=_normalised),
        cured(
            "dropout", objective=_masked(masked.recurrent_dropout(TANH), masked.dropout_masks, rate=DROPOUT)
        ),
        cured(
            "zoneout",
            _zoned_on_average(),
            objective=_masked(masked.zoneout(TANH), masked.zoneout_masks, rates=ZONEOUT),
        ),
        cured("layer norm", normalized.layer_norm_elman()),
        Network("GRU", cells.gru(), {}),
        Network("GRU, chrono", cells.gru(), chrono),
        Network("LSTM", cells.lstm(), {}),
        Network("LSTM, chrono", cells.lstm(), chrono),
    )


# Clipping. The global norm is that of the finished gradient: a value whose gradient is the clipped one.


def _clipped_globally(network, problem, trained, batch, key):
    del key

    @jax.custom_vjp
    def identity(trained):
        return trained

    def clip(_, gradient):
        clipper = optax.clip_by_global_norm(1.0)
        return (clipper.update(gradient, clipper.init(gradient))[0],)

    identity.defvjp(lambda trained: (trained, None), clip)
    return task_loss(network.cell, problem, identity(trained), batch)


def _clipped_along_time(network, problem, trained, batch, key):
    del key
    sequences = batch.xs.shape[1]  # whose losses, one each, are averaged
    return task_loss(clipping.clip_along_time(network.cell, LONGEST / sequences), problem, trained, batch)


# Losses that are added.


def _with_omega(network, problem, trained, batch, key):
    del key
    cell, (params, out) = network.cell, trained

    def loss_of(states):
        return problem.loss(lambda xs, lengths=None: readout.linear(out, cell.emit(states)), batch)

    h_0 = cell.initial_state(params, batch.xs.shape[1:-1])
    value = regularizers.omega(cell, params, h_0, batch.xs, loss_of).mean() / len(batch.xs)
    return task_loss(cell, problem, trained, batch) + OMEGA_WEIGHT * value


def _floss(cell, params, xs):
    """Of one sequence."""
    return regularizers.flossing(cell, params, cell.initial_state(params), xs, k=EXPONENTS)


def _flossing(network, problem, trained, batch, key):
    del key
    value = _floss(network.cell, trained[0], batch.xs[:, 0])
    return task_loss(network.cell, problem, trained, batch) + FLOSSING_WEIGHT * value


def _flossed(problem, params, key):
    """Exponents brought to zero before the training, on inputs of the task."""
    start, out = params
    optimiser = optax.adam(FLOSSING_RATE)

    def update(carry, key):
        params, state = carry
        gradient = jax.grad(partial(_floss, TANH))(params, problem.draw(key).xs[:, 0])
        step, state = optimiser.update(gradient, state)
        return (optax.apply_updates(params, step), state), None

    keys = jax.random.split(key, FLOSSING_UPDATES)
    (params, _), _ = lax.scan(update, (start, optimiser.init(start)), keys)
    return params, out


def _penalised(network, problem, trained, batch, key):
    del key
    value = constraints.orthogonality_penalty(trained[0].w_hh)
    return task_loss(network.cell, problem, trained, batch) + PENALTY_WEIGHT * value


# Matrices made of free parameters, which start at a random orthogonal matrix.


def _to_cayley(problem, params, key):
    del problem
    start, out = params
    orthogonal = initializers.orthogonal()(key, start.w_hh.shape, start.w_hh.dtype)
    return (start, constraints.cayley_inverse(orthogonal)), out


def _from_cayley(trained):
    (params, form), out = trained
    return params._replace(w_hh=constraints.cayley(*form)), out


def _to_margin(problem, params, key):
    (start, form), out = _to_cayley(problem, params, key)
    size = start.w_hh.shape[-1]
    return (start, form, jnp.zeros(size, start.w_hh.dtype), jnp.zeros_like(start.w_hh)), out


def _from_margin(trained):
    (params, (free, signs), p, v), out = trained
    # One batched solve: two at a time, each over the seeds, have waited for each other for ever on two cores.
    u, v = constraints.cayley(jnp.stack([free, v]), jnp.stack([signs, jnp.ones_like(signs)]))
    return params._replace(w_hh=constraints.margin(u, p, v, WIDTH)), out


def _normalised(trained):
    params, out = trained
    made = constraints.spectral_normalize(params.w_hh, jnp.ones_like(params.b_h), steps=20)
    return params._replace(w_hh=made.w), out


# Masks, drawn for every update.


def _masked(cell, draw, **rate):
    def objective(network, problem, trained, batch, key):
        params, out = trained
        h_0 = TANH.initial_state(params, batch.xs.shape[1:-1])
        masks = draw(key, h_0, len(batch.xs), **rate)

        def run(xs, lengths=None):
            states = bptt.unroll(cell, params, h_0, (xs, masks), lengths=lengths)
            return readout.linear(out, cell.emit(states))

        return problem.loss(run, batch)

    return objective


def _zoned_on_average() -> Cell:
    """The cell with the mean of its masks, as it is looked at."""
    zoned = masked.zoneout(TANH)

    def step(params, h, x):
        return zoned.step(params, h, (x, jnp.full_like(h, ZONEOUT)))

    return Cell(TANH.init, TANH.initial_state, step, TANH.emit, emit_pullback=TANH.emit_pullback)


def run(config: Config, key: jax.Array, progress: Callable) -> Result:
    """All networks, on the same sequences."""
    common.require_float64("cures")
    problem = of_task(task_of(config), config.batch_size, config.held_out)
    return train_all(networks(config), problem, config.schedule(optax.adam), key, config.seeds, progress)


def horizons(config: Config, learned: Learned, when: int) -> np.ndarray:
    """The effective horizon of each seed; a gradient that reaches every step counts as that many steps."""
    found = np.asarray(decay.horizon(learned.measured[when], config.floor))
    return np.minimum(found, learned.measured.shape[-1])


def metrics(config: Config, result: Result) -> Iterator[Mapping[str, Any]]:
    """One line a network, seed and look at the held-out loss."""
    return views.lines(result.learned, config.chunk)


def verdicts(config: Config, result: Result) -> list[Verdict]:
    """What fails; and of each cure, whether it mends the gradient and whether the network learns."""
    task = task_of(config)
    loss = {name: interval(views.relative(task, learned)) for name, learned in result.learned.items()}
    horizon = {name: interval(horizons(config, learned, AFTER)) for name, learned in result.learned.items()}

    def stuck(name, claim, source):
        return judge(
            is_above(config.stuck),
            name=f"{name}, stuck",
            claim=claim,
            source=source,
            expected=f"> {config.stuck:g}",
            measured=loss[name],
            unit="of the loss without memory",
            tolerance=config.stuck,
            reason="next to nothing is known",
            control=ORTHOGONAL,
            control_measured=loss[ORTHOGONAL],
        )

    def mends(name):
        return judge(
            is_above(task.lag),
            name=f"{name}, horizon",
            claim=f"{name}: after training the gradient reaches the first symbol",
            source=SOURCES[name],
            expected=f"> {task.lag}",
            measured=horizon[name],
            unit="steps of horizon",
            tolerance=config.floor,
            reason="a thousandth of a gradient is lost among the others",
            control=NONE,
            control_measured=horizon[NONE],
        )

    def learns(name):
        return judge(
            is_below(config.solved),
            name=f"{name}, learns",
            claim=f"{name}: the network learns both symbols within {config.updates} updates",
            source=SOURCES[name],
            expected=f"< {config.solved:g}",
            measured=loss[name],
            unit="of the loss without memory",
            tolerance=config.solved,
            reason="half of what is left to who knows one symbol of two",
            control=NONE,
            control_measured=loss[NONE],
        )

    return [
        stuck(NONE, "without a cure the network does not learn", "Bengio, Simard and Frasconi (1994)"),
        stuck(
            GLOBAL,
            "clipping the global norm does not help against a gradient that vanishes",
            "Pascanu, Mikolov and Bengio (2013), section 3.2: it is for those that explode",
        ),
        stuck(
            TIME,
            "clipping along time does not help against a gradient that vanishes",
            "it makes no δ_t longer",
        ),
        *(about(name) for name in SOURCES for about in (mends, learns)),
    ]


_ROW = "{:18} {:>16} {:>9} {:>7} {:>14} {:>14}"


def table(config: Config, result: Result, judged: list[Verdict]) -> str:
    """A row a cure, and the verdicts: at most 100 columns."""
    task = task_of(config)
    rows = [
        "",
        f"loss      held out, median over the last {views.LAST} looks; without memory {task.baseline:.4f}",
        "relative  the same over that without memory; to know one symbol of two leaves 0.5",
        "wrong     share of held-out sequences with a mistake, at the end",
        f"horizon   first lag at which the last step's gradient is below {config.floor:g} of that at lag 0",
        f"          (the first symbol is up to {task.lag} steps back; > {task.length - 1}: every step is reached, "
        f"in means {task.length})",
        "          means ± standard deviation over seeds",
        "",
        _ROW.format("", "loss", "relative", "wrong", "horizon before", "after"),
    ]
    for name, learned in result.learned.items():
        relative = views.relative(task, learned)
        rows.append(
            _ROW.format(
                name,
                f"{task.baseline * relative.mean():.3f} ± {task.baseline * relative.std(ddof=1):.3f}",
                f"{relative.mean():.2f}",
                f"{learned.looks.wrong[:, -1].mean():.2f}",
                *(_lags(horizons(config, learned, when), task.length) for when in (BEFORE, AFTER)),
            )
        )
    return "\n".join([*rows, "", *lines(judged)])


def _lags(found: np.ndarray, steps: int) -> str:
    return f"> {steps - 1}" if (found >= steps).all() else f"{found.mean():.1f} ± {found.std(ddof=1):.1f}"


def figures(config: Config, result: Result) -> Mapping[str, Figure]:
    """A row a cure, a mark a seed: the loss after training, and the horizon before and after it."""
    task = task_of(config)
    looks = ({"color": style.LINES[1]["color"], "mfc": "none", "ms": 9}, {"color": style.LINES[2]["color"]})
    with style.figure(8.6, 6.4) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        for y, learned in enumerate(result.learned.values()):
            _row_of_marks(left, views.relative(task, learned), y, **looks[AFTER])
            reach = [horizons(config, learned, when) for when in (BEFORE, AFTER)]
            right.plot([values.mean() for values in reach], [y, y], color="0.6", linewidth=1)
            for values, look in zip(reach, looks, strict=True):
                every = values >= task.length
                _row_of_marks(right, values[~every], y, **look)
                _row_of_marks(right, values[every], y, marker=">", **look)
        left.set_yticks(range(len(result.learned)), result.learned)
        left.invert_yaxis()
        _mark(left, 1.0, "nothing is known")
        _mark(left, 0.5, "one symbol\nof two is known")
        _mark(right, task.lag, "the first symbol\nis here at the farthest")
        left.set(xlabel="held-out loss after training,\nrelative to that without memory", xlim=(-0.05, None))
        left.set_title("Does it learn?", pad=30)
        right.set(
            xlabel="effective horizon, steps: lag $n$ at which\n"
            rf"$\|\partial L_T / \partial s_{{T-n}}\|$ is {config.floor:g} of that at $n = 0$",
            xlim=(0, None),
        )
        right.set_title("How far back does its gradient reach?", pad=30)
        handles = [
            Line2D([], [], linestyle="none", marker=marker, **look) for look in looks for marker in ("o", ">")
        ]
        every = f"the same, all {task.length} steps are reached"
        figure.legend(
            handles, ["before training", every, "after training", every], loc="outside lower center", ncols=2
        )
    return {"cures": figure}


def _row_of_marks(axis: Axes, values: np.ndarray, y: int, marker: str = "o", **look: Any) -> None:
    axis.plot(values, np.full(values.shape, y), linestyle="none", marker=marker, **look)


def _mark(axis: Axes, at: float, meaning: str) -> None:
    """A vertical line, and above it what it means."""
    axis.axvline(at, color="0.4", linestyle=":", linewidth=1)
    axis.annotate(meaning, (at, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom", color="0.3")
