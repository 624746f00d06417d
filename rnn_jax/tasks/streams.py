"""Streams of independent inputs, with a target at every step once there is something to remember."""

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax import cells, checks, initializers, losses, readout, unroll
from rnn_jax.tasks.structure import sampler, scored_from, scored_last
from rnn_jax.tasks.task import Batch, Task


def delayed_copy(length: int, delay: int) -> Task:
    """Delayed copy (Engelken 2023, gradient flossing): y_t = x_{t−delay}, the x_t independent fair bits, 0 or 1.

    Input: one channel. Output: one value. Scored: t > delay; wrong beyond an error of ½. Baseline: ½ · ¼ = 1/8.

    Args:
      length: T > delay.
      delay: ≥ 1.

    >>> batch = delayed_copy(8, 3).sample(jax.random.key(0))
    >>> print(batch.xs[:, 0], batch.targets[:, 0])
    [0. 0. 1. 1. 0. 1. 1. 0.] [0. 0. 0. 0. 0. 1. 1. 0.]
    """
    delay = checks.integer("delay", delay, 1)
    return _delayed(_draw_delayed_copy, length, delay, delay)


def delayed_xor(length: int, delay: int) -> Task:
    """Delayed exclusive or (Engelken 2023, gradient flossing): y_t = |x_{t−delay} − x_{t−2 delay}| of fair bits.

    Input: one channel, 0 or 1. Output: one value. Scored: t > 2 delay; wrong beyond an error of ½. Baseline: 1/8, also
    for the best linear function of all inputs: y is uncorrelated with each of them.

    Args:
      length: T > 2 delay.
      delay: ≥ 1, as in the paper's code; the longer of the two lags is 2 delay.

    >>> batch = delayed_xor(8, 2).sample(jax.random.key(0))
    >>> print(batch.xs[:, 0], batch.targets[:, 0])
    [0. 0. 1. 1. 0. 1. 1. 0.] [0. 0. 0. 0. 1. 1. 1. 0.]
    """
    delay = checks.integer("delay", delay, 1)
    return _delayed(_draw_delayed_xor, length, delay, 2 * delay)


def _delayed(draw, length: int, delay: int, lag: int) -> Task:
    length = _longer_than(lag, length)
    return Task(
        sample=sampler(draw, length=length, delay=delay),
        loss=losses.SQUARED_ERROR,
        input_size=1,
        output_size=1,
        length=length,
        lag=lag,
        baseline=1 / 8,
        tolerance=0.5,
    )


def _draw_delayed_copy(key, batch_shape, dtype, *, length, delay) -> Batch:
    xs = jax.random.bernoulli(key, shape=(length, *batch_shape, 1)).astype(dtype)
    return scored_from(delay + 1, xs, _shift(xs, delay))


def _draw_delayed_xor(key, batch_shape, dtype, *, length, delay) -> Batch:
    xs = jax.random.bernoulli(key, shape=(length, *batch_shape, 1)).astype(dtype)
    return scored_from(2 * delay + 1, xs, jnp.abs(_shift(xs, delay) - _shift(xs, 2 * delay)))


class AddFloors(NamedTuple):
    """The least cross-entropy of `probabilistic_add` for a memory of neither lag, of the first, and of both."""

    neither: float
    first: float
    both: float


def _probability(first, second):
    """P(y_t = 1) given the two inputs."""
    return 0.5 + 0.5 * first - 0.25 * second


def _floors() -> AddFloors:
    """Means of the entropy of P(y_t = 1 | what is remembered)."""

    def entropy(p):
        return -sum(q * math.log(q) for q in (p, 1 - p) if q > 0)

    p = [[_probability(first, second) for second in (0, 1)] for first in (0, 1)]
    return AddFloors(
        neither=entropy(sum(itertools.chain(*p)) / 4),
        first=sum(entropy(sum(row) / 2) for row in p) / 2,
        both=sum(map(entropy, itertools.chain(*p))) / 4,
    )


ADD_FLOORS = _floors()
"""The entropy floors .6616, .5192, .4545 of `probabilistic_add`, in nats."""


def probabilistic_add(length: int, *, lags: tuple[int, int] = (3, 8)) -> Task:
    """The add task with random labels (Pitis 2016; Marschall, Cho and Savin 2020): the loss tells what is remembered.

        P(y_t = 1) = ½ + ½ x_{t−t₁} − ¼ x_{t−t₂},   x_t independent fair bits, 0 or 1

    Remembering neither lag costs .6616 nats a step, the first alone .5192, both .4545: `ADD_FLOORS`. The first is the
    baseline, the last the floor.

    Input: one channel. (Both papers have a second, 1 − x_t.) Outputs: two classes. Scored: t > max(t₁, t₂).

    Args:
      length: T > max(t₁, t₂).
      lags: t₁ and t₂, different and ≥ 1.

    >>> task = probabilistic_add(100)
    >>> f"{task.baseline:.6f} {ADD_FLOORS.first:.6f} {task.floor:.6f}"
    '0.661563 0.519167 0.454454'
    >>> jax.jit(task.sample, static_argnums=1)(jax.random.key(0), (32,)).targets.shape
    (100, 32)
    """
    if not isinstance(lags, tuple | list) or len(lags) != 2:
        raise ValueError(f"lags is {lags!r}; expected two of them, as (3, 8).")
    first, second = (checks.integer(f"lags[{i}]", lag, 1) for i, lag in enumerate(lags))
    if first == second:
        raise ValueError(
            f"lags is {lags!r}; expected two different ones, as the floors are for independent inputs."
        )
    lag = max(first, second)
    length = _longer_than(lag, length)
    return Task(
        sample=sampler(_draw_add, length=length, first=first, second=second),
        loss=losses.CROSS_ENTROPY,
        input_size=1,
        output_size=2,
        length=length,
        lag=lag,
        baseline=ADD_FLOORS.neither,
        floor=ADD_FLOORS.both,
    )


def _draw_add(key, batch_shape, dtype, *, length, first, second) -> Batch:
    key_xs, key_ys = jax.random.split(key)
    bits = jax.random.bernoulli(key_xs, shape=(length, *batch_shape)).astype(dtype)
    labels = jax.random.bernoulli(key_ys, _probability(_shift(bits, first), _shift(bits, second)))
    return scored_from(max(first, second) + 1, bits[..., None], labels.astype(int))


def parity(length: int) -> Task:
    """Parity (Bengio, Simard and Frasconi 1994; Delétang et al. 2023): is the number of ones odd?

    Input: one channel, independent fair bits as ±1, a one being +1. Outputs: two classes, 1 if the number of ones in
    x_1 … x_T is odd. Scored: the last step. Baseline: ln 2, also for a predictor that has forgotten a single bit.

    Args:
      length: T ≥ 1. Whoever has learned one length is tested on longer ones.

    >>> batch = parity(5).sample(jax.random.key(1))
    >>> print(batch.xs[:, 0], batch.targets)
    [ 1. -1.  1.  1. -1.] [0 0 0 0 1]
    """
    length = checks.integer("length", length, 1)
    return Task(
        sample=sampler(_draw_parity, length=length),
        loss=losses.CROSS_ENTROPY,
        input_size=1,
        output_size=2,
        length=length,
        lag=length - 1,
        baseline=math.log(2),
    )


def _draw_parity(key, batch_shape, dtype, *, length) -> Batch:
    ones = jax.random.bernoulli(key, shape=(length, *batch_shape))
    return scored_last(_signs(ones, dtype)[..., None], ones.astype(int).sum(0) % 2)


def flip_flop(length: int, *, bits: int = 3, probability: float = 0.5) -> Task:
    """The flip-flop memory (Sussillo and Barak 2013): each output holds the sign of the last pulse in its channel.

    A pulse comes with `probability`, +1 or −1 alike, independently in each channel and step; step 1 has one in
    every channel, as in the example of Golub and Sussillo (2018), whose settings are the defaults here (T = 64).

    Inputs: `bits` channels, −1, 0 or 1. Outputs: `bits` values, −1 or 1. Scored: every step; wrong if off by 1 or more.
    Baseline: bits/2. To pass the pulses on, without memory, costs (bits/2) (1 − probability) (T − 1)/T.

    Args:
      length: T ≥ 1.
      bits: how many channels, ≥ 1.
      probability: of a pulse, in (0, 1); with 1 there would be nothing to hold.

    >>> batch = flip_flop(8, bits=1, probability=0.3).sample(jax.random.key(0))
    >>> print(batch.xs[:, 0], batch.targets[:, 0])
    [ 1.  1. -1.  1.  1.  0.  0. -1.] [ 1.  1. -1.  1.  1.  1.  1. -1.]
    """
    length = checks.integer("length", length, 1)
    bits = checks.integer("bits", bits, 1)
    if not 0 < probability < 1:
        raise ValueError(
            f"probability is {probability}; expected one in (0, 1), of a pulse at a step of a channel."
        )
    return Task(
        sample=sampler(_draw_flip_flop, length=length, bits=bits, probability=float(probability)),
        loss=losses.SQUARED_ERROR,
        input_size=bits,
        output_size=bits,
        length=length,
        lag=length - 1,
        baseline=bits / 2,
        tolerance=1.0,
    )


def _draw_flip_flop(key, batch_shape, dtype, *, length, bits, probability) -> Batch:
    key_times, key_signs = jax.random.split(key)
    shape = (length, *batch_shape, bits)
    pulse = jax.random.bernoulli(key_times, probability, shape).at[0].set(True)
    xs = jnp.where(pulse, _signs(jax.random.bernoulli(key_signs, shape=shape), dtype), 0)

    def hold(held, x):
        held = jnp.where(x == 0, held, x)
        return held, held

    _, targets = lax.scan(hold, jnp.zeros_like(xs[0]), xs)
    return scored_from(1, xs, targets)


def chaotic_teacher(
    length: int, *, units: int = 128, gain: float = 3.0, drive: float = 0.5, seed: int = 0
) -> Task:
    """What does a chaotic network say that hears the same input? The mimic task of Marschall, Cho and Savin (2020).

        h_t = tanh(W h_{t−1} + v x_t),   h_0 = 0,   y_t = 1 if u·h_t > 0, else 0

    with W_ij ~ N(0, gain²/N), v_i ~ N(0, drive²), u_i ~ N(0, 1/N) drawn once, from `seed`, and independent x_t = ±1.
    Such a network is chaotic beyond a gain that grows with the drive (Molgedey, Schuchhardt and Schuster 1992): as N
    grows, its greatest Lyapunov exponent tends to

        λ = ½ ln(gain² E tanh′(√q z)²),   q = gain² E tanh²(√q z) + drive²,   z ~ N(0, 1)

    which is .30 for the defaults (and .27 measured at 128 units). Any difference from the teacher's state grows at that
    rate, a rounding error too: after some tens of steps targets differ between float32 and float64 and between devices.

    Marschall et al. have inputs 0 or 1, and as targets the outputs themselves. Signs of both make the baseline exact:
    h_t is odd in x_1 … x_t, so that either label has probability ½, whoever the teacher is.

    Input: one channel, −1 or 1. Outputs: two classes. Scored: every step. Baseline: ln 2. The teacher is the network

        key_cell, key_out = jax.random.split(jax.random.key(seed))
        cells.elman().init(key_cell, 1, units, recurrent=gaussian(gain), kernel=gaussian(drive))

    with `gaussian` from `rnn_jax.initializers`, and `readout.init(key_out, units, 1)`.

    Args:
      length: T ≥ 1.
      units: N ≥ 1.
      gain: g > 0.
      drive: > 0.
      seed: of the teacher.

    >>> draw = jax.jit(chaotic_teacher(50, units=16).sample, static_argnums=1)
    >>> batch = draw(jax.random.key(0), (4,))
    >>> batch.xs.shape, batch.targets.shape
    ((50, 4, 1), (50, 4))
    """
    length = checks.integer("length", length, 1)
    units = checks.integer("units", units, 1)
    for name, value in (("gain", gain), ("drive", drive)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}; expected a finite number > 0.")
    seed = checks.integer("seed", seed, 0)
    return Task(
        sample=sampler(
            _draw_teacher, length=length, units=units, gain=float(gain), drive=float(drive), seed=seed
        ),
        loss=losses.CROSS_ENTROPY,
        input_size=1,
        output_size=2,
        length=length,
        lag=length - 1,
        baseline=math.log(2),
    )


def _draw_teacher(key, batch_shape, dtype, *, length, units, gain, drive, seed) -> Batch:
    cell = cells.elman()
    key_cell, key_out = jax.random.split(jax.random.key(seed))
    recurrent, kernel = initializers.gaussian(gain), initializers.gaussian(drive)
    teacher = cell.init(key_cell, 1, units, recurrent=recurrent, kernel=kernel, dtype=dtype)
    out = readout.init(key_out, units, 1, dtype=dtype)
    xs = _signs(jax.random.bernoulli(key, shape=(length, *batch_shape, 1)), dtype)
    with jax.default_matmul_precision("highest"):
        states = unroll.unroll(cell, teacher, cell.initial_state(teacher, batch_shape), xs)
        said = readout.linear(out, cell.emit(states))[..., 0]
    return scored_from(1, xs, (said > 0).astype(int))


def _shift(xs: jax.Array, lag: int) -> jax.Array:
    """x_{t−lag}, and 0 up to t = lag."""
    return jnp.concatenate([jnp.zeros_like(xs[:lag]), xs[:-lag]])


def _signs(positive: jax.Array, dtype) -> jax.Array:
    """1 where true, −1 where false."""
    return jnp.where(positive, 1, -1).astype(dtype)


def _longer_than(lag: int, length: int) -> int:
    """The length as an integer; raise if no target has its inputs in the sequence."""
    length = checks.integer("length", length, 1)
    if length <= lag:
        raise ValueError(
            f"length is {length}; expected at least {lag + 1}, one step beyond the greatest lag, {lag}."
        )
    return length
