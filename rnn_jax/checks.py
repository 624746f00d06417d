"""What users may pass: every complaint names the value, what was allowed, and what to do.

Shapes and dtypes are checked always. Values (finite, in range) are checked on concrete arrays only, at the
entrances that say so: under `jit`, `vmap` or `grad` an array has no value yet, and numerics here never call
back to the host.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.types import Cell, PyTree, as_step, layers_of


def is_concrete(x: Any) -> bool:
    """Whether `x` has a value now, rather than standing for one under a transformation.

    >>> is_concrete(jnp.ones(2))
    True
    """
    return not isinstance(x, jax.core.Tracer)


def unclipped(what: str, cell: Any) -> None:
    """Raise for a cell or step of `clipping.clip_along_time`, whose derivatives are not those of its step.

    >>> from rnn_jax import cells, clipping
    >>> unclipped("rtrl()", clipping.clip_along_time(cells.gru(), 1.0))
    Traceback (most recent call last):
        ...
    ValueError: rtrl() got a cell of clip_along_time(), whose derivatives are clipped; give it the cell ...
    """
    for layer in layers_of(cell):
        unclipped(what, layer)
    if not layers_of(cell) and getattr(as_step(cell), "clips_cotangents", False):
        raise ValueError(
            f"{what} got a cell of clip_along_time(), whose derivatives are clipped; give it the cell that was clipped."
        )


def finite(name: str, tree: PyTree) -> None:
    """Raise if a concrete floating-point leaf of `tree` holds NaN or infinity.

    >>> finite("xs", jnp.array([1.0, jnp.nan]))
    Traceback (most recent call last):
        ...
    ValueError: xs has 1 entry that is NaN or infinite, the first at index (1,); ...
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not is_concrete(leaf) or not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            continue
        with jax.ensure_compile_time_eval():
            bad = ~jnp.isfinite(leaf)
            count = int(bad.sum())
            if count:
                index = tuple(int(i) for i in jnp.unravel_index(jnp.argmax(bad), bad.shape))
                entries = "1 entry that is" if count == 1 else f"{count} entries that are"
                raise ValueError(
                    f"{name}{jax.tree_util.keystr(path)} has {entries} NaN or infinite, the first at index "
                    f"{index}; every entry must be finite. Padding may hold anything finite, zeros for "
                    "example; if it is a parameter, look at the update that made it (clip the gradient or "
                    "lower the learning rate)."
                )


def integer(name: str, value: Any, low: int, high: int | None = None, what: str = "") -> int:
    """`value` as a Python integer; raise unless it is one in [low, high], or ≥ low where there is no `high`.

    >>> integer("lag", 9, 0, 5, "T, the number of steps")
    Traceback (most recent call last):
        ...
    ValueError: lag is 9; expected an integer in [0, 5], 5 = T, the number of steps.
    """
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        allowed = f">= {low}" if high is None else f"in [{low}, {high}], {high} = {what}"
        raise ValueError(f"{name} is {value!r}; expected an integer {allowed}.")
    return int(value)


def one_sequence(step: Any, state: PyTree, what: str) -> None:
    """Raise unless the state is floating point and, that of a cell, of one sequence.

    >>> one_sequence(None, jnp.zeros(2, int), "a profile is")
    Traceback (most recent call last):
        ...
    ValueError: the state has a leaf of dtype int32; a profile is of floating-point numbers. Hand counters, masks ...
    """
    for leaf in jax.tree.leaves(state):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise ValueError(
                f"the state has a leaf of dtype {jnp.result_type(leaf)}; {what} of floating-point numbers. Hand "
                "counters, masks and keys in with xs."
            )
        if isinstance(step, Cell) and jnp.ndim(leaf) != 1:
            raise ValueError(
                f"the state has a leaf of shape {jnp.shape(leaf)}; {what} of one sequence, state (N,) and xs (T, D). "
                "For a batch, jax.vmap over a function of state and xs: in_axes 0 and 1."
            )


def operand(name: str, x: jax.Array, weight_name: str, weight: jax.Array) -> None:
    """Raise unless `x` can be multiplied by `weight`, `(…, out, in)`: features last, the same float dtype.

    >>> operand("x", jnp.ones(3), "w_xh", jnp.ones((4, 2)))
    Traceback (most recent call last):
        ...
    ValueError: x has shape (3,), so 3 features, but w_xh with shape (4, 2) takes 2. Features are the last ...
    """
    x_dtype = jnp.result_type(x)
    if not jnp.issubdtype(x_dtype, jnp.floating):
        raise ValueError(
            f"{name} is {x_dtype}; expected {weight.dtype}, as {weight_name}. Convert it with "
            f"{name}.astype({weight.dtype}), or embed tokens first, with jax.nn.one_hot for example."
        )
    if x_dtype != weight.dtype:
        raise ValueError(
            f"{name} is {x_dtype} but {weight_name} is {weight.dtype}; they must be the same. Convert one of "
            f"them, for example {name}.astype({weight.dtype})."
        )
    if jnp.ndim(x) == 0 or jnp.shape(x)[-1] != weight.shape[-1]:
        features = "no feature axis" if jnp.ndim(x) == 0 else f"{jnp.shape(x)[-1]} features"
        raise ValueError(
            f"{name} has shape {jnp.shape(x)}, so {features}, but {weight_name} with shape {weight.shape} "
            f"takes {weight.shape[-1]}. Features are the last axis; sequences are (T, *B, features)."
        )


def square(name: str, shape: Sequence[int]) -> None:
    """Raise unless the last two axes of a matrix of this shape are equal.

    >>> square("w_hh", (4, 3))
    Traceback (most recent call last):
        ...
    ValueError: w_hh has shape (4, 3); a recurrent matrix is square, (N, N) or (gates, N, N): from ...
    """
    if len(shape) < 2 or shape[-1] != shape[-2]:
        raise ValueError(
            f"{name} has shape {tuple(shape)}; a recurrent matrix is square, (N, N) or (gates, N, N): "
            "from each of N hidden units to each of the same N."
        )


def batch(name: str, x: jax.Array, state_name: str, h: jax.Array) -> None:
    """Raise unless the batch axes (all but the last) of `x` and `h` are the same.

    >>> batch("x", jnp.ones((5, 2)), "h", jnp.ones(3))
    Traceback (most recent call last):
        ...
    ValueError: x has batch shape (5,) but h has (). Make the state with cell.initial_state(params, (5,)), ...
    """
    if x.shape[:-1] != h.shape[:-1]:
        raise ValueError(
            f"{name} has batch shape {x.shape[:-1]} but {state_name} has {h.shape[:-1]}. Make the state with "
            f"cell.initial_state(params, {x.shape[:-1]}), or vmap over the axes that only one of them has. "
            "Sequences are (T, *B, features), time first."
        )


def same_signature(name: str, tree: PyTree, expected_name: str, expected: PyTree, remedy: str) -> None:
    """Raise unless two trees have the same structure, and leaves of the same shapes and dtypes.

    >>> same_signature("new", jnp.ones(3), "old", jnp.ones(2), "Look at it.")
    Traceback (most recent call last):
        ...
    ValueError: new is float32[3] but old is float32[2]; tree, shapes and dtypes must be the same. Look at it.
    """
    if signature(tree) != signature(expected):
        raise ValueError(
            f"{name} is {signature(tree)} but {expected_name} is {signature(expected)}; tree, shapes and dtypes "
            f"must be the same. {remedy}"
        )


def cotangents(cotangents: PyTree, states: PyTree) -> PyTree:
    """∂L/∂s_1 … ∂L/∂s_T as arrays; raise unless they have the tree, shapes and dtypes of the states, and are finite.

    >>> cotangents(jnp.ones(2), jnp.ones((3, 2)))
    Traceback (most recent call last):
        ...
    ValueError: cotangents ...
    """
    cotangents = jax.tree.map(jnp.asarray, cotangents)
    remedy = "From a gradient for h_t make them with cell.emit_pullback(states, dL_dh)."
    same_signature("cotangents", cotangents, "the states", states, remedy)
    finite("cotangents", cotangents)
    return cotangents


def signature(tree: PyTree) -> str:
    """The structure of a tree with the dtype and shape of each leaf, as text.

    >>> signature((jnp.ones((2, 3)), jnp.ones(1)))
    '(float32[2,3], float32[1])'
    """
    return str(jax.tree.map(_Signature, tree))


class _Signature:
    """Prints as `float32[2,3]`."""

    text: str

    def __init__(self, leaf: Any):
        if isinstance(leaf, _Signature):  # a result with a `__repr__` of its own, inside another tree
            self.text = leaf.text
            return
        shape = ",".join(map(str, jnp.shape(leaf)))
        self.text = f"{jnp.result_type(leaf)}[{shape}]"

    def __repr__(self) -> str:
        return self.text


def layers(name: str, tree: PyTree, depth: int) -> None:
    """Raise unless `tree` is a tuple with an entry for each of `depth` layers.

    >>> layers("params", [1, 2], 2)
    Traceback (most recent call last):
        ...
    ValueError: params is a list of 2; a stack of 2 layers takes a tuple of 2, bottom layer first. ...
    """
    if not isinstance(tree, tuple) or len(tree) != depth:
        size = f" of {len(tree)}" if isinstance(tree, list | tuple) else ""
        raise ValueError(
            f"{name} is a {type(tree).__name__}{size}; a stack of {depth} layers takes a tuple of {depth}, bottom "
            "layer first. Make it with the stack's init or initial_state, or convert it with tuple()."
        )


def sequence_length(xs: PyTree) -> int:
    """T, the common first axis of all leaves of `xs`; raise if there is none or it is empty.

    >>> sequence_length(jnp.ones((7, 2)))
    7
    """
    leaves = jax.tree.leaves(xs)
    if not leaves:
        raise ValueError("xs holds no array; expected arrays (T, *B, features), time first.")
    shapes = [jnp.shape(leaf) for leaf in leaves]
    if any(len(shape) == 0 for shape in shapes):
        raise ValueError(f"xs has a leaf of shape (); expected (T, *B, features), time first: {shapes}.")
    lengths = sorted({shape[0] for shape in shapes})
    if len(lengths) > 1:
        raise ValueError(f"the leaves of xs have {lengths} time steps; expected one common first axis T.")
    if lengths[0] == 0:
        raise ValueError(f"xs has shape {shapes[0]}: no time step; expected (T, *B, features) with T >= 1.")
    return lengths[0]


def sequence_lengths(lengths: Any, steps: int, state: PyTree, xs: PyTree) -> jax.Array:
    """`lengths` as an integer array `(*B,)`; raise unless it fits the batch axes and 0 ≤ length ≤ T.

    >>> sequence_lengths([2, 9], 5, jnp.zeros((2, 3)), jnp.zeros((5, 2, 1)))
    Traceback (most recent call last):
        ...
    ValueError: lengths holds 9; expected 0 <= length <= T = 5, the number of time steps of xs. ...
    """
    lengths = jnp.asarray(lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ValueError(f"lengths is {lengths.dtype}; expected integers, one a sequence of the batch.")
    lengths = lengths.astype(int)  # small integers would wrap where they are compared with T
    axes = lengths.ndim
    for name, tree, first in (("state", state, 0), ("xs", xs, 1)):
        for leaf in jax.tree.leaves(tree):
            if jnp.shape(leaf)[first : first + axes] != lengths.shape:
                raise ValueError(
                    f"lengths has shape {lengths.shape} but {name} has a leaf of shape {jnp.shape(leaf)}; "
                    "lengths must have the batch shape *B: xs is (T, *B, features), the state (*B, N)."
                )
    if is_concrete(lengths):
        with jax.ensure_compile_time_eval():
            outside = (lengths < 0) | (lengths > steps)
            if bool(outside.any()):
                worst = int(lengths.ravel()[jnp.argmax(outside)])
                raise ValueError(
                    f"lengths holds {worst}; expected 0 <= length <= T = {steps}, the number of time steps "
                    "of xs. Pad xs, or cut lengths."
                )
    return lengths
