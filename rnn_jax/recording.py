"""A measurement during training: pure functions that measure every so many updates and keep the results.

>>> init, record = recorder(lambda params: jnp.linalg.norm(params), every=100, updates=1000)
>>> init(jnp.ones(3)).results.shape  # before the first update, then after 100, 200, …, 1000
(11,)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax import checks, tables
from rnn_jax.types import PyTree


class Records(NamedTuple):
    """Measurements during training, M = ⌊updates / every⌋ + 1 of them.

    Attributes:
      updates: after how many updates each was taken, integers `(M,)`; −1 where none is written yet.
      results: the tree of the measurement, leaves `(M, …)`; NaN (0 for integers) where none is written yet.
    """

    updates: jax.Array
    results: PyTree

    def __repr__(self) -> str:
        return tables.render(self, self.updates.ndim - 1, _layout)


class Recorder(NamedTuple):
    """Two pure functions.

    Attributes:
      init: `params -> Records`, empty.
      record: `(records, update, params) -> Records`, `params` being those after `update` updates: 0 before the
        first. Measures if `update` is a multiple of `every` in 0 … updates, and returns the records as they are
        if not.
    """

    init: Callable[[PyTree], Records]
    record: Callable[[Records, Any, PyTree], Records]


def recorder(measure: Callable[[PyTree], PyTree], *, every: int, updates: int) -> Recorder:
    """Measures a network while it is trained, inside `jit` and `lax.scan` or in a Python loop.

    Args:
      measure: `params -> tree of arrays`, such as the mean decay curve of a batch.
      every: number of updates from one measurement to the next, ≥ 1.
      updates: number of updates of the whole training, ≥ 0.

    Returns:
      `Recorder(init, record)`. What lies between two measurements costs nothing (under `vmap` both branches of a
      condition run, and every update measures).

    Raises:
      ValueError: `every` or `updates` out of range; by `record`, an `update` that is not one integer.

    >>> init, record = recorder(lambda params: 2 * params, every=2, updates=5)
    >>> params = jnp.array(1.0)
    >>> records = record(init(params), 0, params)
    >>> for update in range(1, 4):
    ...     params = params + 1.0
    ...     records = record(records, update, params)
    >>> records
    2 of 3 measurements, after 0, 2 updates
    results: float32[3]
    >>> records.results
    Array([ 2.,  6., nan], dtype=float32)
    """
    every, updates = checks.integer("every", every, 1), checks.integer("updates", updates, 0)
    size = updates // every + 1

    def init(params: PyTree) -> Records:
        def empty(leaf):
            unwritten = jnp.nan if jnp.issubdtype(leaf.dtype, jnp.inexact) else 0
            return jnp.full((size, *leaf.shape), unwritten, leaf.dtype)

        return Records(jnp.full(size, -1, jnp.int32), jax.tree.map(empty, jax.eval_shape(measure, params)))

    def record(records: Records, update: Any, params: PyTree) -> Records:
        update = jnp.asarray(update)
        if update.ndim or not jnp.issubdtype(update.dtype, jnp.integer):
            raise ValueError(
                f"update is {checks.signature(update)}; expected one integer, the number of updates done so far."
            )

        def write(records):
            slot = update // every
            written = jax.tree.map(lambda old, new: old.at[slot].set(new), records.results, measure(params))
            return Records(records.updates.at[slot].set(update.astype(records.updates.dtype)), written)

        due = (update % every == 0) & (update >= 0) & (update <= updates)
        return lax.cond(due, write, lambda records: records, records)

    return Recorder(init, record)


def _layout(records: Records) -> str:
    """How far the recording has come, and what is recorded."""
    taken = records.updates[records.updates >= 0]
    after = (
        f", after {', '.join(str(taken[i]) for i in tables.ends(len(taken), 10))} updates"
        if taken.size
        else ""
    )
    return f"{taken.size} of {len(records.updates)} measurements{after}\nresults: {checks.signature(records.results)}"
