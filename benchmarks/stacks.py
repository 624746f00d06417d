"""Jacobians of every step from the structure of the cell, against automatic differentiation of its step.

    structured      `jacobians.structured`
    vmap(jacfwd)    `jacobians.state_jacobians`: forward mode, S columns of all steps at once
    vmap(jacrev)    reverse mode, S rows of all steps at once
    one by one      forward mode inside the scan that runs the network

Each starts from the inputs and runs the network for its states.
"""

from collections.abc import Iterator, Mapping, Sequence

import jax
from jax import lax
from jax.flatten_util import ravel_pytree

from benchmarks import questions, workloads
from benchmarks.questions import HERE, Question, Sizes
from benchmarks.runner import Benchmark, Case, Preset, Setup
from rnn_jax import jacobians, unroll

FORWARD_TARGET, REVERSE_TARGET = 1.5, 20.0
WIDE = 128
"""Hidden units at which the targets are set."""


def ask(cell_name: str, sizes: Sizes, setup: Setup) -> Question:
    """The stack of one sequence; all entries are compared."""
    cell = workloads.CELLS[cell_name]
    shape = workloads.Shape(B=1, T=sizes.T, N=sizes.N, D=8)
    params, state, xs = workloads.problem(cell, shape, setup.dtype)
    state, xs = jax.tree.map(lambda leaf: leaf[0], state), xs[:, 0]
    unravel = ravel_pytree(state)[1]

    def flat_step(params, flat, x):
        return ravel_pytree(cell.step(params, unravel(flat), x))[0]

    def reverse_mode(params, state, xs):
        states = unroll.unroll(cell, params, state, xs)
        previous = jax.vmap(lambda s: ravel_pytree(s)[0])(unroll.previous_states(state, states))
        return jax.vmap(jax.jacrev(flat_step, argnums=1), in_axes=(None, 0, 0))(params, previous, xs)

    def one_by_one(params, state, xs):
        def body(flat, x):
            return flat_step(params, flat, x), jax.jacfwd(flat_step, argnums=1)(params, flat, x)

        return lax.scan(body, ravel_pytree(state)[0], xs)[1]

    contenders = {
        HERE: lambda params, state, xs: jacobians.structured(cell, params, state, xs),
        "vmap(jacfwd)": lambda params, state, xs: jacobians.state_jacobians(cell, params, state, xs),
        "vmap(jacrev)": reverse_mode,
        "one by one": one_by_one,
    }
    wide = sizes.N >= WIDE
    target = {"vmap(jacfwd)": FORWARD_TARGET, "vmap(jacrev)": REVERSE_TARGET} if wide else {}
    # The states that the Jacobians are taken at differ by rounding that has grown along T.
    return Question((params, state, xs), contenders, target, 100 * sizes.T)


def cases(plan: Mapping[str, Sequence[Sizes]], setup: Setup) -> Iterator[Case]:
    """Every cell at every size."""
    return questions.cases(plan, {name: _asking(name) for name in plan}, setup)


def _asking(cell_name):
    return lambda sizes, setup: ask(cell_name, sizes, setup)


def _plan(steps: int, *units: int) -> dict[str, list[Sizes]]:
    return {cell: [Sizes(steps, N) for N in units] for cell in workloads.CELLS}


BENCHMARK = Benchmark(
    name="jacobians",
    claim="a stack of Jacobians from the structure of the cell costs less than by automatic differentiation",
    legend=questions.LEGEND,
    columns=questions.COLUMNS,
    presets={"quick": Preset(_plan(50, 32, 128), rounds=5), "full": Preset(_plan(200, 32, 128), rounds=9)},
    cases=cases,
    verdicts=questions.judge,
)
