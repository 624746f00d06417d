"""Results as text: what a result of the library prints as.

A result is a NamedTuple of arrays whose `__repr__` calls `render` with a function that lays out one of it as a
table. With batch axes, from `vmap`, the first of the batch is shown and said to be; under a transformation
arrays have no values yet, and the shapes are shown.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from rnn_jax import checks


def render(result: Any, batch_axes: int, layout: Callable[[Any], str]) -> str:
    """`layout(result)`, or of the first of a batch, or the shapes alone where there are no values.

    Args:
      result: a NamedTuple of arrays.
      batch_axes: how many leading axes `vmap` has put before those of one result.
      layout: one result of NumPy arrays `-> str`.

    >>> from typing import NamedTuple
    >>> class Mean(NamedTuple):
    ...     value: jax.Array
    >>> print(render(Mean(np.ones(3)), 1, lambda mean: f"mean {mean.value}"))
    the first of a batch of (3,)
    mean 1.0
    """
    if not all(
        isinstance(x, jax.Array | np.ndarray | np.generic) and checks.is_concrete(x)
        for x in jax.tree.leaves(result)
    ):
        fields = (f"{name}={checks.signature(value)}" for name, value in result._asdict().items())
        return f"{type(result).__name__}({', '.join(fields)})"
    arrays = jax.tree.map(np.asarray, result)
    if batch_axes == 0:
        return layout(arrays)
    batch = jax.tree.leaves(arrays)[0].shape[:batch_axes]
    if 0 in batch:
        return f"{type(result).__name__} of an empty batch of {batch}"
    first = jax.tree.map(lambda leaf: leaf[(0,) * batch_axes], arrays)
    return f"the first of a batch of {batch}\n{layout(first)}"


def columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines with the columns aligned on the right.

    >>> print(columns(["i", "value"], [["1", "-0.25"], ["10", "3"]]))
     i  value
     1  -0.25
    10      3
    """
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def number(value: Any) -> str:
    """Four significant digits.

    >>> number(0.123456), number(-np.inf), number(1e-9)
    ('0.1235', '-inf', '1e-09')
    """
    return f"{float(value):.4g}"


def ends(size: int, most: int) -> list[int]:
    """Indices of the rows to show of `size`: all, or those at both ends.

    >>> ends(3, 6), ends(100, 6)
    ([0, 1, 2], [0, 1, 2, 97, 98, 99])
    """
    if size <= most:
        return list(range(size))
    return [*range(most - most // 2), *range(size - most // 2, size)]
