"""This library: the backward pass by hand, and the same cell under JAX's automatic differentiation."""

import math
from functools import partial
from typing import Any

import jax
from jax import lax

from benchmarks.peers import Entrant, differentiate
from benchmarks.workloads import CELLS
from rnn_jax import bptt, unroll
from rnn_jax.types import PyTree


def hand_written(
    cell_name: str, params: PyTree, state: PyTree, xs: jax.Array, last: bool = False, **options: Any
) -> Entrant:
    """`bptt.unroll`, or `bptt.final_state` for the loss of the last step; `options` are theirs."""
    run = partial(bptt.final_state if last else bptt.unroll, **options)
    return _entrant(run, cell_name, params, state, xs)


def autodiff(cell_name: str, params: PyTree, state: PyTree, xs: jax.Array, last: bool = False) -> Entrant:
    """`unroll.unroll`, or `unroll.final_state`."""
    return _entrant(unroll.final_state if last else unroll.unroll, cell_name, params, state, xs)


def rematerialised(
    cell_name: str, params: PyTree, state: PyTree, xs: jax.Array, last: bool = False
) -> Entrant:
    """`autodiff` in chunks of at most √T steps under `jax.checkpoint`: the plain way to little memory."""
    steps = len(xs)
    chunk = next(c for c in range(math.isqrt(steps), 0, -1) if steps % c == 0)

    def run(cell, params, state, xs):
        @jax.checkpoint
        def several(state, xs):
            states = unroll.unroll(cell, params, state, xs)
            end = jax.tree.map(lambda leaf: leaf[-1], states)
            return end, None if last else states

        end, chunks = lax.scan(several, state, xs.reshape(steps // chunk, chunk, *xs.shape[1:]))
        return end if last else jax.tree.map(lambda leaf: leaf.reshape(steps, *leaf.shape[2:]), chunks)

    return _entrant(run, cell_name, params, state, xs)


def _entrant(run, cell_name, params, state, xs):
    cell = CELLS[cell_name]
    return differentiate(params, lambda params, state, xs: cell.emit(run(cell, params, state, xs)), state, xs)
