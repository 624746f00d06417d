"""Values and symbols at marked positions among others that do not count; the answer is due at the last step.

Positions are counted from 0, as in the papers' code: position p is step t = p + 1. They are uniform in their interval,
whose ends are rounded down.
"""

import math

import jax
import jax.numpy as jnp

from rnn_jax import checks, losses
from rnn_jax.tasks.structure import at, choice, sampler, scored_last
from rnn_jax.tasks.task import Batch, Task

LEAST_LENGTHS = {"arjovsky": 2, "pascanu": 10, "hochreiter": 20}
"""Of the variants of `adding`: from where on there is a position for each mark."""


def adding(length: int, *, variant: str = "arjovsky") -> Task:
    """The adding problem (Hochreiter and Schmidhuber 1997): the sum of two marked values, a at position p and b at q.

    "arjovsky" (Arjovsky, Shah and Bengio 2016; the sum itself as in Le, Jaitly and Hinton 2015): values U[0, 1),
    p in [0, T/2), q in [T/2, T), target a + b.

    "pascanu" (Pascanu, Mikolov and Bengio 2013): values U[0, 1), p in [0, T/10), q in [T/10, T/10 + 4T/10),
    target (a + b)/2.

    "hochreiter" (Hochreiter and Schmidhuber 1997): values U[−1, 1), p in [0, 10), q another one of the first T/2,
    target ½ + (a + b)/4. The first and the last pair have the mark −1 unless they are chosen. If the first pair is, by
    p or by q, a is set to 0; this happens with probability r = 1/10 + 9/10 · 1/(T/2 − 1).

    Inputs: two channels, value and mark (1 at p and q). Output: one value. Scored: the last step. Wrong: an error
    beyond .2 (squared .04, Pascanu et al.; adopted for "arjovsky"), or .04 ("hochreiter"). Baseline, half the variance
    of the target: 1/12, 1/48 and (2 − r)/96, thus mean squared errors of 1/6, 1/24 and (2 − r)/48.

    Args:
      length: T, at least 2 ("arjovsky"), 10 ("pascanu") or 20 ("hochreiter").
      variant: one of these names.

    >>> task = adding(100)
    >>> task.input_size, task.lag, f"{2 * task.baseline:.4f}"
    (2, 99, '0.1667')
    >>> batch = jax.jit(task.sample, static_argnums=1)(jax.random.key(0), (3,))
    >>> values, marks = batch.xs[..., 0], batch.xs[..., 1]
    >>> bool(jnp.allclose((values * marks).sum(0), batch.targets[-1, :, 0]))
    True
    """
    choice("variant", variant, tuple(LEAST_LENGTHS))
    length = _length(length, LEAST_LENGTHS[variant], repr(variant))
    if variant == "hochreiter":
        variance = (2 - (1 / 10 + 9 / 10 / (length // 2 - 1))) / 48
    else:
        variance = {"arjovsky": 1 / 6, "pascanu": 1 / 24}[variant]
    draws = {"arjovsky": _draw_sum, "pascanu": _draw_mean, "hochreiter": _draw_hochreiter}
    return Task(
        sample=sampler(draws[variant], length=length),
        loss=losses.SQUARED_ERROR,
        input_size=2,
        output_size=1,
        length=length,
        lag=length - 1,
        baseline=variance / 2,
        tolerance=0.04 if variant == "hochreiter" else 0.2,
    )


def _draw_sum(key, batch_shape, dtype, *, length) -> Batch:
    xs, a, b = _marked(key, batch_shape, dtype, length, (0, length // 2), (length // 2, length))
    return scored_last(xs, (a + b)[..., None])


def _draw_mean(key, batch_shape, dtype, *, length) -> Batch:
    xs, a, b = _marked(key, batch_shape, dtype, length, *_early(length))
    return scored_last(xs, (a + b)[..., None] / 2)


def _draw_product(key, batch_shape, dtype, *, length) -> Batch:
    xs, a, b = _marked(key, batch_shape, dtype, length, *_early(length))
    return scored_last(xs, (a * b)[..., None])


def _early(length: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """The intervals of p and q in "pascanu"."""
    return (0, length // 10), (length // 10, length // 10 + 4 * length // 10)


def _marked(key, batch_shape, dtype, length, *intervals) -> tuple[jax.Array, ...]:
    """Values U[0, 1) and their marks, `(T, *B, 2)`, with one mark in each interval; then the value at each, `(*B,)`."""
    key_values, *keys = jax.random.split(key, 1 + len(intervals))
    values = jax.random.uniform(key_values, (length, *batch_shape), dtype)
    chosen = [
        at(length, jax.random.randint(k, batch_shape, *interval))
        for k, interval in zip(keys, intervals, strict=True)
    ]
    marks = sum(mark.astype(dtype) for mark in chosen)
    return jnp.stack([values, marks], -1), *(_value(values, mark) for mark in chosen)


def _value(values, mark):
    """The value at the mark of each sequence, `(*B,)`."""
    return jnp.where(mark, values, 0).sum(0)


def _draw_hochreiter(key, batch_shape, dtype, *, length) -> Batch:
    key_values, key_p, key_q = jax.random.split(key, 3)
    values = jax.random.uniform(key_values, (length, *batch_shape), dtype, -1.0, 1.0)
    p = jax.random.randint(key_p, batch_shape, 0, 10)
    q = jax.random.randint(key_q, batch_shape, 0, length // 2 - 1)
    q = q + (q >= p)  # one of the others
    at_p, at_q = at(length, p), at(length, q)
    chosen = at_p | at_q
    values = jnp.where(at_p & chosen[:1], 0, values)
    ends = jnp.zeros_like(values).at[0].set(-1).at[-1].set(-1)
    marks = jnp.where(chosen, 1, ends)
    target = 0.5 + (_value(values, at_p) + _value(values, at_q)) / 4
    return scored_last(jnp.stack([values, marks], -1), target[..., None])


def multiplication(length: int) -> Task:
    """The multiplication problem (Hochreiter and Schmidhuber 1997): the product a b of two marked values.

    Values and positions are those of `adding` in the variant "pascanu", as in the code of Pascanu, Mikolov and Bengio
    (2013).

    Inputs: two channels, value U[0, 1) and mark. Output: one value. Scored: the last step; wrong beyond an error of .2.
    Baseline: half the variance of the product, ½ (1/9 − 1/16) = 7/288, a mean squared error of 7/144.

    Args:
      length: T ≥ 10.

    >>> f"{2 * multiplication(50).baseline:.4f}"
    '0.0486'
    """
    length = _length(length, 10, "multiplication")
    return Task(
        sample=sampler(_draw_product, length=length),
        loss=losses.SQUARED_ERROR,
        input_size=2,
        output_size=1,
        length=length,
        lag=length - 1,
        baseline=7 / 288,
        tolerance=0.2,
    )


STARTS = {2: (1, 5), 3: (1, 3, 6)}
"""In tenths of the length, where the intervals begin that hold the symbols of `temporal_order`."""


def temporal_order(length: int, *, bits: int = 2) -> Task:
    """Temporal order (Hochreiter and Schmidhuber 1997), as in the code of Pascanu, Mikolov and Bengio (2013).

    In which order did A and B come? There is one of them in each of the intervals of T/10 positions that begin at
    T/10 and 5T/10, or with 3 bits at T/10, 3T/10 and 6T/10; everywhere else one of c, d, e and f. All are uniform. The
    class is Σ_i 2^i v_i, i = 0, 1, …, with v_i = 0 for A and 1 for B.

    Inputs: six channels, one-hot: A, B, c, d, e, f. Outputs: 4 or 8 classes. Scored: the last step.
    Baseline: bits · ln 2, with 75 or 87.5 % of the sequences wrong.

    Args:
      length: T ≥ 10.
      bits: 2, or 3 for the 3-bit form.

    >>> task = temporal_order(10, bits=3)
    >>> batch = jax.jit(task.sample)(jax.random.key(1))
    >>> print("".join("ABcdef"[i] for i in batch.xs.argmax(-1)), batch.targets[-1])
    fBeAedBdfe 5
    >>> f"{task.baseline:.4f}"
    '2.0794'
    """
    bits = checks.integer("bits", bits, 1)
    choice("bits", bits, tuple(STARTS))
    length = _length(length, 10, "temporal_order")
    return Task(
        sample=sampler(_draw_order, length=length, bits=bits),
        loss=losses.CROSS_ENTROPY,
        input_size=6,
        output_size=2**bits,
        length=length,
        lag=length - 1 - length // 10,
        baseline=bits * math.log(2),
    )


def _draw_order(key, batch_shape, dtype, *, length, bits) -> Batch:
    key_others, key_positions, key_symbols = jax.random.split(key, 3)
    tokens = jax.random.randint(key_others, (length, *batch_shape), 2, 6)
    offsets = jax.random.randint(key_positions, (bits, *batch_shape), 0, length // 10)
    symbols = jax.random.randint(key_symbols, (bits, *batch_shape), 0, 2)
    label = jnp.zeros_like(symbols[0])
    for i, start in enumerate(STARTS[bits]):
        tokens = jnp.where(at(length, start * length // 10 + offsets[i]), symbols[i], tokens)
        label = label + 2**i * symbols[i]
    return scored_last(jax.nn.one_hot(tokens, 6, dtype=dtype), label)


def _length(value: int, least: int, what: str) -> int:
    """The length as an integer; raise if it is below the least that has a position in each interval."""
    length = checks.integer("length", value, 1)
    if length < least:
        raise ValueError(
            f"length is {length}; expected at least {least} for {what}: in a shorter sequence an interval of positions "
            "is empty."
        )
    return length
