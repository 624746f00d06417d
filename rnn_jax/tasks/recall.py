"""Symbols to be kept over a stretch without news, and said again.

Inputs are one-hot. The predictor of the baseline knows when to be silent, and then gives every symbol its frequency.
"""

import math

import jax
import jax.numpy as jnp

from rnn_jax import checks, losses
from rnn_jax.tasks.structure import choice, sampler, scored_from, scored_last
from rnn_jax.tasks.task import Batch, Task

COPY_VARIANTS = ("arjovsky", "bai")


def copy_memory(delay: int, *, symbols: int = 8, positions: int = 10, variant: str = "arjovsky") -> Task:
    """Copying memory (Arjovsky, Shah and Bengio 2016): say S symbols again, each S + delay steps later.

        inputs     s_1 … s_S, delay − 1 blanks, the marker, and S blanks ("arjovsky") or S markers ("bai")
        targets    S + delay blanks, s_1 … s_S

    The s_i are uniform in 1 … `symbols`; blank is 0. "arjovsky" is the task of that paper and its code. In "bai", the
    code of Bai, Kolter and Koltun (2018), the input says at every step whether it is time to speak. (It feeds the
    number of the symbol, `xs @ jnp.arange(symbols + 2)`, and has a tenth class that never occurs.)

    Inputs: `symbols` + 2 channels: blank, the symbols, the marker. Outputs: `symbols` + 1 classes: blank, the symbols.
    Scored: every step, T = delay + 2 S. Baseline: S ln(symbols)/T.

    Args:
      delay: from the last symbol to the marker, ≥ 1; the T of the papers.
      symbols: how many there are, ≥ 2.
      positions: S, how many are to be kept, ≥ 1.
      variant: "arjovsky" or "bai".

    >>> task = copy_memory(100)
    >>> task.length, task.lag, f"{task.baseline:.4f}"
    (120, 110, '0.1733')
    >>> batch = copy_memory(4, positions=3).sample(jax.random.key(1))
    >>> print(batch.xs.argmax(-1), batch.targets)
    [5 8 1 0 0 0 9 0 0 0] [0 0 0 0 0 0 0 5 8 1]
    """
    delay = checks.integer("delay", delay, 1)
    choice("variant", variant, COPY_VARIANTS)
    return _recall(_draw_copy, delay, symbols, positions, variant=variant)


def _draw_copy(key, batch_shape, dtype, *, delay, symbols, positions, variant) -> Batch:
    marker = symbols + 1
    said = jax.random.randint(key, (positions, *batch_shape), 1, symbols + 1)
    blanks = jnp.zeros((delay + positions, *batch_shape), said.dtype)
    after = jnp.full_like(said, marker if variant == "bai" else 0)
    tokens = jnp.concatenate([said, blanks[: delay - 1], jnp.full_like(said[:1], marker), after])
    xs = jax.nn.one_hot(tokens, symbols + 2, dtype=dtype)
    return scored_from(1, xs, jnp.concatenate([blanks, said]))


def memorization(delay: int, *, symbols: int = 5, positions: int = 10) -> Task:
    """Noiseless memorization (Martens and Sutskever 2011), as in the code of Pascanu, Mikolov and Bengio (2013).

        inputs     s_1 … s_S, `delay` blanks, the marker, S − 1 blanks
        targets    S + delay blanks, s_1 … s_S

    This is `copy_memory`, but that the marker comes with the step at which s_1 is to be said, not before it, and that
    blank and marker are numbered after the symbols 0 … `symbols` − 1.

    Inputs: `symbols` + 2 channels: the symbols, blank, the marker. Outputs: `symbols` + 1 classes: the symbols, blank.
    Scored: every step, T = delay + 2 S. Baseline: S ln(symbols)/T.

    Args:
      delay: blanks between the last symbol and the marker, ≥ 0.
      symbols: how many there are, ≥ 2.
      positions: S, how many are to be kept, ≥ 1.

    >>> task = memorization(100)
    >>> task.length, task.lag, f"{task.baseline:.4f}"
    (120, 110, '0.1341')
    >>> batch = memorization(4, positions=3).sample(jax.random.key(0))
    >>> print(batch.xs.argmax(-1), batch.targets)
    [4 0 2 5 5 5 5 6 5 5] [5 5 5 5 5 5 5 4 0 2]
    """
    delay = checks.integer("delay", delay, 0)
    return _recall(_draw_memorization, delay, symbols, positions)


def _recall(draw, delay: int, symbols: int, positions: int, **settings: str) -> Task:
    """A task in which S symbols are said again S + delay steps later, and nothing else."""
    symbols = checks.integer("symbols", symbols, 2)
    positions = checks.integer("positions", positions, 1)
    length = delay + 2 * positions
    return Task(
        sample=sampler(draw, delay=delay, symbols=symbols, positions=positions, **settings),
        loss=losses.CROSS_ENTROPY,
        input_size=symbols + 2,
        output_size=symbols + 1,
        length=length,
        lag=positions + delay,
        baseline=positions * math.log(symbols) / length,
    )


def _draw_memorization(key, batch_shape, dtype, *, delay, symbols, positions) -> Batch:
    said = jax.random.randint(key, (positions, *batch_shape), 0, symbols)
    blanks = jnp.full((delay + positions, *batch_shape), symbols, said.dtype)
    tokens = jnp.concatenate([said, blanks]).at[positions + delay].set(symbols + 1)
    xs = jax.nn.one_hot(tokens, symbols + 2, dtype=dtype)
    return scored_from(1, xs, jnp.concatenate([blanks, said]))


def random_permutation(length: int, *, symbols: int = 100) -> Task:
    """Random permutation (Hochreiter and Schmidhuber 1997): the first symbol of a random sequence is also the last.

        x_1 = s uniform in {0, 1},   x_2 … x_T uniform in 2 … symbols − 1,   x_{T+1} = s

    The target is the next symbol; as in the code of Pascanu, Mikolov and Bengio (2013) only x_{T+1} is scored, the one
    that can be predicted.

    Inputs and outputs: one channel, and one class, a symbol. Scored: the last step. Baseline: ln 2, as s is 0 or 1.

    Args:
      length: T ≥ 2.
      symbols: ≥ 3.

    >>> batch = random_permutation(6).sample(jax.random.key(1))
    >>> print(batch.xs.argmax(-1), batch.targets)
    [ 1 76 40 72 26  7] [0 0 0 0 0 1]
    """
    length = checks.integer("length", length, 2)
    symbols = checks.integer("symbols", symbols, 3)
    return Task(
        sample=sampler(_draw_permutation, length=length, symbols=symbols),
        loss=losses.CROSS_ENTROPY,
        input_size=symbols,
        output_size=symbols,
        length=length,
        lag=length - 1,
        baseline=math.log(2),
    )


def _draw_permutation(key, batch_shape, dtype, *, length, symbols) -> Batch:
    key_kept, key_others = jax.random.split(key)
    kept = jax.random.randint(key_kept, batch_shape, 0, 2)
    others = jax.random.randint(key_others, (length - 1, *batch_shape), 2, symbols)
    xs = jax.nn.one_hot(jnp.concatenate([kept[None], others]), symbols, dtype=dtype)
    return scored_last(xs, kept)
