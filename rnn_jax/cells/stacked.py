"""Layers on top of each other: the bottom one reads x_t, each other one what the layer below emits.

s_t = (s¹_t, …, s^L_t)        s^l_t = step_l(s^l_{t−1}, h^{l−1}_t)        h⁰_t = x_t
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import checks
from rnn_jax.types import Cell, PyTree, pull_emit


def stack(*cells: Cell) -> Cell:
    """A stack of cells, bottom layer first, as one cell: parameters and state are tuples, one entry a layer.

    `init` takes one hidden size for all layers or a sequence of sizes, and hands its initialisers to every
    layer; for different ones, make the tuple of parameters layer by layer.

    Raises:
      ValueError: if no cell is given.

    >>> from rnn_jax import cells
    >>> deep = stack(cells.lstm(), cells.gru())
    >>> params = deep.init(jax.random.key(0), 3, (8, 4))
    >>> deep.emit(jax.jit(deep.step)(params, deep.initial_state(params), jnp.ones(3))).shape
    (4,)
    """
    if not cells:
        raise ValueError("stack() was given no cell; expected one or more, bottom layer first.")
    if not all(isinstance(cell, Cell) for cell in cells):
        kinds = [type(cell).__name__ for cell in cells]
        raise ValueError(f"stack() takes cells, as in stack(cells.lstm(), cells.gru()); got {kinds}.")
    return _stack(cells)


@cache
def _stack(layers: tuple[Cell, ...]) -> Cell:
    def init(key: jax.Array, input_size: int, hidden_size: int | Sequence[int], **options: Any) -> tuple:
        hidden_sizes = (
            (hidden_size,) * len(layers) if isinstance(hidden_size, int | np.integer) else tuple(hidden_size)
        )
        if len(hidden_sizes) != len(layers):
            raise ValueError(
                f"hidden_size is {hidden_size}; expected one size, or {len(layers)} of them, one a layer."
            )
        keys = jax.random.split(key, len(layers))
        input_sizes = (input_size, *hidden_sizes[:-1])
        return tuple(
            layer.init(k, d, n, **options)
            for layer, k, d, n in zip(layers, keys, input_sizes, hidden_sizes, strict=True)
        )

    def initial_state(params: tuple, batch_shape: tuple[int, ...] = ()) -> tuple:
        return tuple(layer.initial_state(p, batch_shape) for layer, p in zip(layers, params, strict=True))

    def step(params: tuple, state: tuple, x: jax.Array) -> tuple:
        checks.layers("params", params, len(layers))
        checks.layers("state", state, len(layers))
        new = []
        for layer, p, s in zip(layers, params, state, strict=True):
            new.append(layer.step(p, s, x))
            x = layer.emit(new[-1])
        return tuple(new)

    def emit(state: tuple) -> jax.Array:
        return layers[-1].emit(state[-1])

    def emit_pullback(state: tuple, dh: jax.Array) -> PyTree:
        below = jax.tree.map(jnp.zeros_like, state[:-1])
        return (*below, pull_emit(layers[-1], state[-1], dh))

    return Cell(
        init=init,
        initial_state=initial_state,
        step=step,
        emit=emit,
        emit_pullback=emit_pullback,
        layers=layers,
    )
