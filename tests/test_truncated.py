"""Truncated BPTT leaves out those pairs of loss and step that it says, and no other; side by side as one by one."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import bptt, flow, truncated, unroll
from tests.cases import (
    ALL,
    GRADIENT_BOUND,
    N,
    assert_close,
    differs,
    example,
    random_cotangents,
    rounding,
)

T, K = 5, 2
LENGTHS = jnp.array([3, 0, 5])


def peephole(params, state, x):
    """A step of one's own: trees everywhere, an integer parameter, no batch axes."""
    gate = jax.nn.sigmoid(params["w"] @ state["a"] + params["p"] * state["b"] + x["u"].sum())
    gate = gate / params["count"]
    return {"a": jnp.tanh(state["b"] * x["v"]), "b": gate * state["b"] + (1 - gate) * state["a"]}


def of_peephole(dtype, steps=T):
    rng = np.random.default_rng(4)
    normal = lambda *shape: jnp.asarray(rng.normal(0, 0.7, shape), dtype)
    params = {"w": normal(N, N), "p": normal(N), "count": jnp.array(2)}
    state = {"a": normal(N), "b": normal(N)}
    xs = {"u": normal(steps, 3), "v": normal(steps, N)}
    return params, state, xs, {"a": normal(steps, N), "b": normal(steps, N)}


def case_of(cell, dtype, **options):
    """Parameters, state, inputs, and random cotangents."""
    case = example(cell, dtype, **{"steps": T, "batch": (3,)} | options)
    return *case, random_cotangents(jax.eval_shape(partial(unroll.unroll, cell), *case))


def floating(gradients):
    """Without the gradients of integers, which have no size."""
    return [leaf for leaf in jax.tree.leaves(gradients) if leaf.dtype != jax.dtypes.float0]


def three(cell, *case, k=K, lengths=None):
    """The two truncations and BPTT."""
    return (
        truncated.windows(cell, *case, window=k, lengths=lengths),
        truncated.sliding(cell, *case, steps=k, lengths=lengths),
        bptt.bptt(cell, *case, lengths=lengths),
    )


three_ways = jax.jit(three, static_argnums=0, static_argnames="k")


@partial(jax.jit, static_argnums=0)
def with_twins(cell, *case, lengths=None):
    """The two truncations and BPTT, and the twins of the first two."""
    return (
        *three(cell, *case, lengths=lengths),
        truncated.windows_loop(cell, *case, window=K, lengths=lengths),
        truncated.sliding_loop(cell, *case, steps=K, lengths=lengths),
    )


@pytest.mark.parametrize(
    ("name", "lengths"),
    [("elman-tanh", None), ("lstm", LENGTHS)]
    + [
        pytest.param(name, LENGTHS, marks=pytest.mark.slow)
        for name in ("leaky-pre", "gru", "gru-reset-before", "stack", "stack-in-stack")
    ],
)
def test_both_truncations_equal_their_loss_by_loss_twins_and_nothing_else(name, lengths, float64):
    case = case_of(ALL[name], float64)
    windows, sliding, full, windows_loop, sliding_loop = with_twins(ALL[name], *case, lengths=lengths)
    bound = GRADIENT_BOUND["float64"]
    assert_close(windows, windows_loop, bound)
    assert_close(sliding, sliding_loop, bound)
    for a, b in ((windows, sliding), (windows, full), (sliding, full)):
        assert differs(a.params, b.params, 1e-3)
    # h_0 is within reach of the first K losses in both.
    assert_close(windows.state, sliding.state, bound)
    assert differs(windows.state, full.state, 1e-3)


def test_a_step_of_your_own_needs_no_structure_and_no_batch_axes(float64):
    windows, sliding, full, windows_loop, sliding_loop = with_twins(peephole, *of_peephole(float64))
    bound = GRADIENT_BOUND["float64"]
    assert_close(floating(windows), floating(windows_loop), bound)
    assert_close(floating(sliding), floating(sliding_loop), bound)
    # The gradient of an integer is JAX's own.
    assert jax.tree.map(jnp.result_type, windows) == jax.tree.map(jnp.result_type, full)
    assert jax.tree.map(jnp.result_type, sliding) == jax.tree.map(jnp.result_type, full)


def test_both_truncations_equal_their_twins_in_single_precision_too():
    case = case_of(ALL["elman-tanh"], "float32")
    windows, sliding, _, windows_loop, sliding_loop = with_twins(ALL["elman-tanh"], *case)
    assert_close(windows, windows_loop, GRADIENT_BOUND["float32"])
    assert_close(sliding, sliding_loop, GRADIENT_BOUND["float32"])


def test_over_a_window_longer_than_the_sequence_both_are_bptt(float64):
    cell = ALL["elman-tanh"]
    windows, sliding, full = three_ways(cell, *case_of(cell, float64), k=1000, lengths=LENGTHS)
    assert_close(windows, full, GRADIENT_BOUND["float64"])
    assert_close(sliding, full, GRADIENT_BOUND["float64"])


def test_over_windows_of_one_step_both_are_the_immediate_derivatives(float64):
    case = case_of(ALL["elman-tanh"], float64)
    windows, sliding, _ = three_ways(ALL["elman-tanh"], *case, k=1)
    assert_close(windows, sliding, GRADIENT_BOUND["float64"])
    assert_close(windows.deltas, case[-1], rounding(float64))


def test_windows_side_by_side_are_a_loop_of_bptt_that_carries_the_state(float64):
    cell, steps = ALL["elman-tanh"], 2 * K
    params, state, xs, cotangents = case_of(cell, float64, steps=steps)
    windows = jax.jit(partial(truncated.windows, cell, window=K))(params, state, xs, cotangents)

    @jax.jit
    def one_window(state, x, cotangents):
        gradients = bptt.bptt(cell, params, state, x, cotangents)
        return gradients, unroll.final_state(cell, params, state, x)

    first, middle = one_window(state, xs[:K], cotangents[:K])
    second, _ = one_window(middle, xs[K:], cotangents[K:])
    loop = bptt.Gradients(
        params=jax.tree.map(jnp.add, first.params, second.params),
        state=first.state,
        xs=jnp.concatenate([first.xs, second.xs]),
        deltas=jnp.concatenate([first.deltas, second.deltas]),
    )
    assert_close(windows, loop, GRADIENT_BOUND["float64"])


def test_the_sliding_window_keeps_the_contributions_of_its_lags(float64):
    # The profile tells the lags of ∂L/∂θ apart: the first K of them are what is left.
    cell = ALL["elman-tanh"]
    params, state, xs, cotangents = case_of(cell, float64, batch=())

    @jax.jit
    def contributions(*case):
        loss = lambda states: (states * cotangents).sum(-1)
        return flow.profile(cell, *case, loss, lags=K, directions=0).contributions

    _, sliding, _ = three_ways(cell, params, state, xs, cotangents)
    expected = jax.tree.map(lambda leaf: leaf[:K].sum(0), contributions(params, state, xs))
    assert_close(sliding.params, expected, GRADIENT_BOUND["float64"])


def test_no_delta_crosses_the_end_of_a_window(float64):
    case = case_of(ALL["elman-tanh"], float64)
    windows, sliding, _ = three_ways(ALL["elman-tanh"], *case)
    ends = np.array([2, 4, 5]) - 1
    np.testing.assert_array_equal(windows.deltas[ends], case[-1][ends])
    assert differs(sliding.deltas[1], case[-1][1], 0.1)


def test_the_hand_written_derivatives_are_what_runs(float64):
    cell = ALL["elman-tanh"]

    def pullback(*arguments):
        ds, du, dr = cell.pullback(*arguments)
        return ds, du, 1.01 * dr

    case = case_of(cell, float64)
    wrong = three_ways(cell._replace(pullback=pullback), *case)
    for right, broken in zip(three_ways(cell, *case), wrong, strict=True):
        assert differs(broken, right, 1e-6)


def test_the_derivative_of_a_truncated_gradient_is_that_of_its_twin(float64):
    params, state, xs, cotangents = case_of(ALL["elman-tanh"], float64, batch=(), steps=3)
    cell = ALL["elman-tanh"]

    @jax.jit
    def derivatives(params):
        def along(run, **options):
            gradients = lambda p: run(cell, p, state, xs, cotangents, **options)
            return jax.jvp(gradients, (params,), (params,))[1]

        return (
            along(truncated.windows, window=2),
            along(truncated.windows_loop, window=2),
            along(truncated.sliding, steps=2),
            along(truncated.sliding_loop, steps=2),
        )

    windows, windows_loop, sliding, sliding_loop = derivatives(params)
    assert_close(windows, windows_loop, 1e-10)
    assert_close(sliding, sliding_loop, 1e-10)


class TestBadInput:
    @pytest.mark.parametrize("k", [0, -1, 2.0, True])
    def test_windows_of_no_step_are_refused(self, k):
        case = case_of(ALL["elman-tanh"], "float32")
        for run in (truncated.windows, truncated.windows_loop):
            with pytest.raises(ValueError, match=r"window is .*; expected an integer >= 1"):
                run(ALL["elman-tanh"], *case, window=k)
        for run in (truncated.sliding, truncated.sliding_loop):
            with pytest.raises(ValueError, match=r"steps is .*; expected an integer >= 1"):
                run(ALL["elman-tanh"], *case, steps=k)

    def test_cotangents_of_another_shape_are_refused(self):
        *case, cotangents = case_of(ALL["elman-tanh"], "float32")
        with pytest.raises(ValueError, match=r"cotangents is float32\[4,3,5\] but the states is"):
            truncated.windows(ALL["elman-tanh"], *case, cotangents[1:], window=K)
        with pytest.raises(ValueError, match="cotangents has 1 entry that is NaN"):
            truncated.sliding(ALL["elman-tanh"], *case, cotangents.at[0, 0, 0].set(jnp.nan), steps=K)

    def test_lengths_beyond_the_sequence_are_refused(self):
        case = case_of(ALL["elman-tanh"], "float32")
        with pytest.raises(ValueError, match="lengths holds 8; expected 0 <= length <= T = 5"):
            truncated.windows(ALL["elman-tanh"], *case, window=K, lengths=jnp.array([1, 8, 2]))
