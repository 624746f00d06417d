"""What the tasks are built with: samplers, checked choices, positions, batches of which some steps are scored."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from rnn_jax.tasks.task import Batch


@cache
def sampler(draw: Callable[..., Batch], **settings: Any) -> Callable[..., Batch]:
    """The `sample` of a task from a function that also takes settings; one and the same for equal settings."""

    def sample(key: jax.Array, batch_shape: Sequence[int] = (), dtype: DTypeLike = float) -> Batch:
        if not isinstance(batch_shape, tuple | list) or not all(_is_size(size) for size in batch_shape):
            raise ValueError(
                f"batch_shape is {batch_shape!r}; expected a tuple of sizes, (32,) for 32 sequences, () for one."
            )
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(
                f"dtype is {jnp.dtype(dtype)}; expected a floating-point one, that of inputs and values. Labels are "
                "integers in any case."
            )
        return draw(key, tuple(batch_shape), dtype, **settings)

    return sample


def _is_size(size: Any) -> bool:
    return isinstance(size, int | np.integer) and not isinstance(size, bool) and bool(size >= 0)


def choice(name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Raise unless `value` is one of those allowed."""
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, allowed))}.")


def at(length: int, positions: jax.Array) -> jax.Array:
    """Which step is at the position of each sequence, from 0 on: boolean `(T, *B)` for positions `(*B,)`."""
    return jnp.arange(length).reshape(-1, *(1,) * positions.ndim) == positions[None]


def scored_from(first: int, xs: jax.Array, targets: jax.Array) -> Batch:
    """A batch of which steps `first` … T are scored, the first step being 1; targets before are made 0."""
    steps = jnp.arange(1, len(xs) + 1) >= first
    weights = jnp.broadcast_to(steps.reshape(-1, *(1,) * (xs.ndim - 2)), xs.shape[:-1])
    kept = weights[..., None] if targets.ndim == xs.ndim else weights
    return Batch(xs, jnp.where(kept, targets, 0), weights)


def scored_last(xs: jax.Array, target: jax.Array) -> Batch:
    """A batch of which the last step is scored, its target `(*B,)` or `(*B, K)`."""
    return scored_from(len(xs), xs, jnp.broadcast_to(target[None], (len(xs), *target.shape)))
