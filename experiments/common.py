"""What more than one experiment needs: checks of a configuration, float64, a loop without a bar."""

import math
from collections.abc import Iterable

import jax
import numpy as np

from rnn_jax.types import PyTree


def within(name: str, value: int, low: int, high: int) -> None:
    """Raise unless an integer option is in [low, high].

    >>> within("seeds", 0, 2, 9)
    Traceback (most recent call last):
        ...
    ValueError: seeds is 0; expected an integer in [2, 9]. Pass --seeds.
    """
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}; expected an integer in [{low}, {high}]. Pass {_option(name)}.")


def strictly_between(name: str, value: float, low: float, high: float) -> None:
    """Raise unless a number is in (low, high).

    >>> strictly_between("clip_norm", 0.0, 0.0, 10.0)
    Traceback (most recent call last):
        ...
    ValueError: clip_norm is 0.0; expected a number in (0, 10). Pass --clip-norm.
    """
    if not (math.isfinite(value) and low < value < high):
        raise ValueError(
            f"{name} is {value}; expected a number in ({low:g}, {high:g}). Pass {_option(name)}."
        )


def whole_chunks(updates: int, chunk: int) -> None:
    """Raise unless `updates` is a multiple of `chunk`.

    >>> whole_chunks(150, 100)
    Traceback (most recent call last):
        ...
    ValueError: updates is 150 and chunk 100; expected a multiple of chunk. Take updates = 200, or a chunk that ...
    """
    if updates % chunk:
        raise ValueError(
            f"updates is {updates} and chunk {chunk}; expected a multiple of chunk. Take "
            f"updates = {max(1, round(updates / chunk)) * chunk}, or a chunk that divides it."
        )


def window_of_lags(first: int, last: int, lags: int) -> None:
    """Raise unless `fit_first` … `fit_last` holds `lags` lags.

    >>> window_of_lags(59, 60, 3)
    Traceback (most recent call last):
        ...
    ValueError: fit_first and fit_last are 59 and 60; expected fit_last >= fit_first + 2, 3 lags for a line.
    """
    if last - first < lags - 1:
        raise ValueError(
            f"fit_first and fit_last are {first} and {last}; expected fit_last >= fit_first + {lags - 1}, "
            f"{lags} lags for a line."
        )


def require_float64(experiment: str) -> None:
    """Raise unless JAX may make float64 arrays."""
    if not jax.config.jax_enable_x64:
        raise ValueError(
            f"jax_enable_x64 is False; the {experiment} experiment measures in float64. Call "
            'jax.config.update("jax_enable_x64", True) first, as `python -m experiments` does.'
        )


def double(tree: PyTree) -> PyTree:
    """A tree of arrays in float64, in NumPy, which needs no compilation for that."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def no_progress(steps: Iterable, label: str, scale: int) -> Iterable:
    """The steps as they are: for a run that nobody watches."""
    del label, scale
    return steps


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
