"""The gradient that the benchmarks ask for, and the sizes at which they do.

    ∂/∂θ Σ_t ‖h_t‖²        or, of the last step alone,        ∂/∂θ ‖h_T‖²

summed over the batch, with respect to all parameters of the cell and nothing else (not h_0, not x_t).
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import BenchmarkError
from benchmarks.peers import Entrant
from rnn_jax import cells
from rnn_jax.types import Cell, PyTree


class Shape(NamedTuple):
    """Batch, time steps, hidden units, input features."""

    B: int
    T: int
    N: int
    D: int


class Plan(NamedTuple):
    """Shapes by name, and the cells to measure at each."""

    shapes: Mapping[str, Shape]
    cells: tuple[str, ...] = ("tanh", "gru", "lstm")


SHAPES = {
    "S1": Shape(B=64, T=200, N=64, D=8),  # a neuroscience task
    "S2": Shape(B=64, T=784, N=128, D=1),  # images pixel by pixel
    "S3": Shape(B=32, T=128, N=512, D=512),  # characters
    "S4": Shape(B=16, T=500, N=512, D=123),  # speech
    "S5": Shape(B=50, T=1000, N=128, D=10),  # copy and adding tasks
    "S6": Shape(B=1, T=1000, N=256, D=32),  # one stream
}
FEW = {name: SHAPES[name] for name in ("S1", "S3", "S6")}
"""Small, wide and unbatched."""

EXTREMES = {
    "E1": Shape(B=32, T=200, N=64, D=1024),  # many more inputs than units
    "E2": Shape(B=1, T=500, N=32, D=512),  # the same, one stream
    "E3": Shape(B=64, T=200, N=4, D=2),  # a handful of units
    "E4": Shape(B=1, T=1000, N=4, D=2),  # the same, one stream
}

CELLS = {"tanh": cells.elman(), "gru": cells.gru(), "lstm": cells.lstm()}
GATES = {"tanh": 1, "gru": 3, "lstm": 4}

# Sums over up to T·B = 65 536 terms, in an order of each contender's own: the error is rounding, grown along T.
TOLERANCES = {"float32": 5e-5, "float64": 1e-12}


class Problem(NamedTuple):
    """What every contender is given."""

    params: PyTree
    state: PyTree
    xs: jax.Array


def problem(cell: Cell, shape: Shape, dtype: str) -> Problem:
    """Parameters, initial state and inputs, the same in every run; no leaf is zero: one copied wrongly shows.

    Entries of xs are standard normal, those of parameters and state have variance 1 / the size of the last axis:
    products are of order 1, whatever the shape. One leaf is zero all the same: b_hn of the GRU, which not every
    peer has. Its gradient is not zero, and is compared where there is one.
    """
    params = jax.eval_shape(lambda key: cell.init(key, shape.D, shape.N, dtype=dtype), jax.random.key(0))
    state = jax.eval_shape(lambda params: cell.initial_state(params, (shape.B,)), params)
    rng = np.random.default_rng(0)

    def draw(leaf):
        return jnp.asarray(rng.normal(0, leaf.shape[-1] ** -0.5, leaf.shape).astype(leaf.dtype))

    xs = jnp.asarray(rng.normal(size=(shape.T, shape.B, shape.D)).astype(dtype))
    params = jax.tree.map(draw, params)
    if hasattr(params, "b_hn"):
        params = params._replace(b_hn=jnp.zeros_like(params.b_hn))
    return Problem(params, jax.tree.map(draw, state), xs)


def cases(plan: Plan, measure: Callable[[str, Shape, str], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every cell at every shape: the cases of a table, measured by `measure(shape's name, shape, cell)`."""
    for name, shape in plan.shapes.items():
        for cell in plan.cells:
            asked = {"shape": name, **shape._asdict(), "cell": cell}
            yield {**asked, "contenders": measure(name, shape, cell)}


def check_equal(entrants: Mapping[str, Entrant], reference: str, dtype: str) -> dict[str, float]:
    """The largest relative error of each contender, over its outputs and every leaf of its gradient.

    ‖a − b‖₂ / ‖b‖₂ with b from the contender named `reference`. A leaf that a contender has not (None) is left out.

    Raises:
      BenchmarkError: if one exceeds the tolerance: times of different computations say nothing.
    """
    results = {name: _result(entrant) for name, entrant in entrants.items()}
    errors = {
        name: max(_relative_error(value, results[reference][leaf]) for leaf, value in result.items())
        for name, result in results.items()
    }
    for name, error in errors.items():
        if not error <= TOLERANCES[dtype]:
            raise BenchmarkError(
                f"{name} and {reference} differ by {error:.1e} in outputs or gradients, more than the "
                f"{TOLERANCES[dtype]:.0e} of {dtype}; nothing is kept. Look at how its parameters are laid out."
            )
    return errors


def _result(entrant: Entrant) -> dict[str, Any]:
    gradient = entrant.translate(entrant.gradient())._asdict()
    leaves = {name: leaf for name, leaf in gradient.items() if leaf is not None}
    return {"outputs": entrant.outputs(), **leaves}


def _relative_error(a: Any, b: Any) -> float:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        raise BenchmarkError(f"a contender's result has shape {a.shape}; expected {b.shape}.")
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def floats(shape: Shape) -> int:
    """T·B·N, the floats of one state of every step: the unit of memory.

    >>> floats(SHAPES["S6"])
    256000
    """
    return shape.T * shape.B * shape.N
