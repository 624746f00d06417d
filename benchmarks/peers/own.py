"""This library: the backward pass by hand, and the same cell under JAX's automatic differentiation."""

from functools import partial
from typing import Any

import jax

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


def _entrant(run, cell_name, params, state, xs):
    cell = CELLS[cell_name]
    return differentiate(params, lambda params, state, xs: cell.emit(run(cell, params, state, xs)), state, xs)
