"""The registry of cells that the shared contracts run over, examples for them, and the one way to compare."""

import math
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import loops
from rnn_jax import cells

STRUCTURED = {
    "elman-tanh": cells.elman(),
    "elman-relu": cells.elman(jax.nn.relu),
    "elman-sigmoid": cells.elman(jax.nn.sigmoid),
    "elman-hard-tanh": cells.elman(jax.nn.hard_tanh),
    "elman-identity": cells.elman(cells.identity),
    "elman-softplus": cells.elman(jax.nn.softplus),  # no derivative by hand: one jvp
    "leaky-post": cells.leaky(0.3),
    "leaky-pre": cells.leaky(0.3, pre_activation=True),
    "gru": cells.gru(),
    "lstm": cells.lstm(),
    "lstm-forget-bias": cells.lstm(forget_bias=1.0),
}
STRUCTURED_STACKS = {
    "stack": cells.stack(cells.lstm(), cells.leaky(0.4, pre_activation=True)),
    "stack-in-stack": cells.stack(cells.elman(), cells.stack(cells.gru(), cells.lstm())),
}
STACKS = STRUCTURED_STACKS | {"stack-reset-before": cells.stack(cells.gru_reset_before(), cells.lstm())}
SINGLE = STRUCTURED | {"gru-reset-before": cells.gru_reset_before()}
NORMALIZED = {
    "layer-norm-elman": cells.layer_norm_elman(),
    "layer-norm-lstm": cells.layer_norm_lstm(),
    "layer-norm-gru": cells.layer_norm_gru(),
}
ALL = SINGLE | NORMALIZED | STACKS  # the derivatives of SINGLE and of its stacks are written by hand

D, N = 3, 5


class Example(NamedTuple):
    """Parameters with no zero bias, a non-zero initial state, and inputs."""

    params: Any
    state: Any
    xs: Any


@cache
def example(cell, dtype, *, steps=12, batch=(2,), gain=0.9, seed=0) -> Example:
    """A network of N = 5 units (each layer) driven by D = 3 inputs, all numbers drawn from one seed.

    Drawn by numpy: hundreds of small random arrays made by JAX would compile for longer than the tests run.
    """
    dtype = jnp.dtype(dtype)
    params = jax.eval_shape(lambda key: cell.init(key, D, N, dtype=dtype), jax.random.key(0))
    state = jax.eval_shape(lambda p: cell.initial_state(p, batch), params)

    def scale(path, leaf):
        return 0.1 if path[-1].name.startswith("b_") else gain / np.sqrt(leaf.shape[-1])

    rng = np.random.default_rng(seed)
    return Example(
        params=jax.tree_util.tree_map_with_path(lambda p, leaf: draw(rng, leaf, scale(p, leaf)), params),
        state=jax.tree.map(lambda leaf: draw(rng, leaf, 0.5), state),
        xs=draw(rng, jax.ShapeDtypeStruct((steps, *batch, D), dtype)),
    )


def draw(rng, leaf, scale=1.0):
    """Normal entries with the shape and dtype of `leaf`."""
    return jnp.asarray(rng.normal(0, scale, leaf.shape).astype(leaf.dtype))


def random_cotangents(tree, seed=9):
    """A tree of the same shapes and dtypes with independent standard normal entries."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: draw(rng, leaf), tree)


def rounding(dtype, steps=1) -> float:
    """What two correct evaluations may differ by: 100 ε, and ε more for each step of a sequence."""
    return (100 + steps) * float(jnp.finfo(dtype).eps)


GRADIENT_BOUND = {"float64": 1e-12, "float32": 5e-5}
"""‖a − b‖₂ ≤ bound · ‖b‖₂ for each leaf, between hand-written and automatic gradients."""


def assert_close(actual, expected, bound, *, negligible=1e-8):
    """‖a − b‖₂ ≤ bound · ‖b‖₂ for each leaf, b being finite and not negligible."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, b), a in zip(
        jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(actual), strict=True
    ):
        name = jax.tree_util.keystr(path)
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape, name
        assert a.dtype == b.dtype, name
        a, b = a.astype(np.float64), b.astype(np.float64)
        size = np.linalg.norm(b)
        assert np.isfinite(size), f"{name}: the reference is not finite"
        assert size > negligible, f"{name}: the reference is {size}, too small to compare with"
        difference = np.linalg.norm(a - b)
        assert difference <= bound * size, f"{name}: {difference / size:.3g} > {bound:.3g}"


def differs(actual, expected, bound) -> bool:
    """Whether `assert_close` fails."""
    try:
        assert_close(actual, expected, bound)
    except AssertionError:
        return True
    return False


def multiplications(jaxpr):
    """Those of the matrix products of a program, every step of its loops counted; of branches, the most."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            ((contracted, _), _), left = equation.params["dimension_numbers"], equation.invars[0].aval
            total += equation.outvars[0].aval.size * math.prod(left.shape[axis] for axis in contracted)
        inner = [multiplications(program) for program in loops._programs(equation.params.values())]
        if equation.primitive.name == "cond":
            total += max(inner)
        else:
            total += equation.params.get("length", 1) * sum(inner)
    return total
