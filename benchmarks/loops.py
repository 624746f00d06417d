"""What a traced program does inside its loops, counted without a clock.

In h_t = f(W h_{t−1} + …) the products of the sequential path, W h_{t−1} and Wᵀ δ_t, have one operand that is the
same at every step: a weight. The gradient of a weight, δ_t h_{t−1}ᵀ, has none: both operands change from step to
step. That tells the two apart without looking at shapes, which can coincide (a batch of 64 and 64 hidden units).

A loop may run over chunks of steps, with another inside that runs over the steps of a chunk. A product beside the inner
loop is done once a chunk, for all its steps at once, which is where a weight gradient belongs: what is counted is what
innermost loops do at every step.

The count is taken from the jaxpr of the differentiated function, so it is the same on every device and does not
depend on what a backend calls its products (fusions, library calls) once it has compiled them.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from jax.extend import core


def weight_gradient_products(program: core.ClosedJaxpr) -> int:
    """The number of matrix products inside innermost loops both of whose operands change from step to step.

    >>> import jax, jax.numpy as jnp
    >>> def last(w, h):
    ...     return jax.lax.scan(lambda h, _: (w @ h, None), h, length=5)[0].sum()
    >>> weight_gradient_products(jax.make_jaxpr(last)(jnp.eye(3), jnp.ones(3)))
    0
    >>> def outer_products(hs):
    ...     return jax.lax.scan(lambda dw, h: (dw + jnp.dot(h[:, None], h[None]), None), jnp.eye(3), hs)[0]
    >>> weight_gradient_products(jax.make_jaxpr(outer_products)(jnp.ones((5, 3))))
    1
    """
    jaxpr = _open(program)
    return _count(jaxpr, [False] * len(jaxpr.invars), innermost=False)


def _count(jaxpr: core.Jaxpr, changing_inputs: list[bool], innermost: bool) -> int:
    """Products of two changing operands in `jaxpr`, given which of its inputs change from step to step.

    Those of `jaxpr` itself count if it is part of an innermost loop.
    """
    changing = {var for var, changes in zip(jaxpr.invars, changing_inputs, strict=True) if changes}
    products = 0
    for equation in jaxpr.eqns:
        operands = [not isinstance(x, core.Literal) and x in changing for x in equation.invars]
        if innermost and equation.primitive.name == "dot_general":
            products += all(operands)
        for inner, inputs in _inner(equation, operands):
            products += _count(inner, inputs, not _loops_in(inner) if _is_loop(equation) else innermost)
        if any(operands):
            changing.update(equation.outvars)
    return products


def _is_loop(equation: core.JaxprEqn) -> bool:
    return equation.primitive.name in ("scan", "while")


def _loops_in(jaxpr: core.Jaxpr) -> bool:
    """Whether there is a loop in `jaxpr`, however deep."""
    return any(
        _is_loop(equation) or any(map(_loops_in, _programs(equation.params.values())))
        for equation in jaxpr.eqns
    )


def _inner(equation: core.JaxprEqn, operands: list[bool]) -> Iterator[tuple[core.Jaxpr, list[bool]]]:
    """The programs within an equation, each with which of its inputs change from step to step.

    For a loop these are its own steps: what changes from chunk to chunk is the same at every step of a chunk.
    """
    params = equation.params
    if equation.primitive.name == "scan":
        body = _open(params["jaxpr"])
        constants = _scan_constants(equation, body)
        yield body, [False] * constants + [True] * (len(operands) - constants)
    elif equation.primitive.name == "while":
        first, last = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
        carry = [True] * (len(operands) - last)
        yield _open(params["cond_jaxpr"]), [False] * first + carry
        yield _open(params["body_jaxpr"]), [False] * (last - first) + carry
    else:
        for inner in _programs(params.values()):
            # A call passes its operands on; a branch does so after the index that chooses it.
            yield inner, operands[len(operands) - len(inner.invars) :]


def _scan_constants(equation: core.JaxprEqn, body: core.Jaxpr) -> int:
    """How many operands of a scan are the same at every step; they come first, then the carry, then the xs.

    Read off the shapes, as JAX versions differ in how they write it down: the xs have an axis more outside than
    in the body; so have the results, the carry excepted.
    """

    def as_large(outside, inside):
        return [a.aval.ndim == b.aval.ndim for a, b in zip(outside, inside, strict=True)]

    carried = sum(as_large(equation.outvars, body.outvars))
    return sum(as_large(equation.invars, body.invars)) - carried


def _programs(values: Iterable[Any]) -> Iterator[core.Jaxpr]:
    for value in values:
        if isinstance(value, core.ClosedJaxpr | core.Jaxpr):
            yield _open(value)
        elif isinstance(value, tuple | list):
            yield from _programs(value)


def _open(program: core.ClosedJaxpr | core.Jaxpr) -> core.Jaxpr:
    return program.jaxpr if isinstance(program, core.ClosedJaxpr) else program
