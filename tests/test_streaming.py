"""Norms made along a trajectory are those of the stack of Jacobians, which is never held."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from scipy.special import digamma, polygamma

from rnn_jax import cells, flow, jacobians, products, spectrum, streaming
from tests.cases import ALL, assert_close, example

of_stack = jax.jit(products.log_norms, static_argnames="ord")


@cache
def jitted(function, cell, **options):
    return jax.jit(partial(function, cell, **options))


def stack_of(name, dtype, steps=11):
    case = example(ALL[name], dtype, batch=(), steps=steps)
    return case, jitted(jacobians.state_jacobians, ALL[name])(*case)


def forward_norms(stack, ord):
    """ln‖J_t … J_1‖ by t: the norms by lag of J_1ᵀ, J_2ᵀ, … in the opposite order."""
    return of_stack(stack[::-1].transpose(0, 2, 1), ord=ord)


@pytest.mark.parametrize(("name", "ord"), [("lstm", 2), ("gru-reset-before", "fro"), ("stack", -2)])
def test_norms_forward_and_backward_are_those_of_the_stack(name, ord, float64):
    case, stack = stack_of(name, float64)

    @jax.jit
    def both(*case):
        return [streamed(ALL[name], *case, ord=ord) for streamed in (streaming.suffix, streaming.prefix)]

    backward, forward = both(*case)
    np.testing.assert_allclose(backward.log_norms, of_stack(stack, ord=ord), atol=1e-11)
    np.testing.assert_allclose(forward.log_norms, forward_norms(stack, ord), atol=1e-11)
    np.testing.assert_array_equal(forward.factors, np.arange(12))


def test_norms_in_float32_are_float32():
    case, stack = stack_of("lstm", "float32")
    for function, expected in (
        (streaming.suffix, of_stack(stack)),
        (streaming.prefix, forward_norms(stack, 2)),
    ):
        norms = jitted(function, ALL["lstm"])(*case).log_norms
        assert norms.dtype == jnp.float32
        np.testing.assert_allclose(norms, expected, atol=1e-4)


@pytest.mark.parametrize("function", [streaming.prefix, streaming.suffix])
def test_the_last_product_is_that_of_the_stack_and_the_inverse_its_inverse(function, float64):
    # Two steps only: a long product is too far from its inverse to be multiplied with it.
    case, stack = stack_of("lstm", float64, steps=2)

    @jax.jit
    def both(*case):
        return [function(ALL["lstm"], *case, ord=ord).product for ord in ("fro", -2)]

    streamed, inverse = both(*case)
    product = np.asarray(streamed.mantissa) * 2.0 ** int(streamed.exponent)
    np.testing.assert_allclose(product, stack[1] @ stack[0], rtol=1e-12, atol=1e-14)
    transposed = np.asarray(inverse.mantissa) * 2.0 ** int(inverse.exponent)
    np.testing.assert_allclose(product @ transposed.T, np.eye(10), atol=1e-9)


@pytest.mark.parametrize(("lag", "ord"), [(1, 2), (4, -2), (11, "fro")])
def test_windows_are_those_of_the_stack(lag, ord, float64):
    case, stack = stack_of("elman-tanh", float64)
    windows = np.stack([stack[t - lag : t] for t in range(lag, 12)])

    @jax.jit
    def both(windows, *case):
        expected = jax.vmap(partial(products.log_norms, ord=ord))(windows)[:, -1]
        return streaming.by_lag(ALL["elman-tanh"], *case, lag=lag, ord=ord), expected

    streamed, expected = both(windows, *case)
    np.testing.assert_allclose(streamed, expected, atol=1e-11)


@pytest.mark.parametrize(("function", "every"), [(streaming.prefix, 3), (streaming.suffix, 11)])
def test_norms_at_some_steps_are_those_at_all_steps(function, every, float64):
    case, _ = stack_of("lstm", float64)
    all_of_them, some = (
        jitted(function, ALL["lstm"], **options)(*case) for options in ({}, {"every": every})
    )
    np.testing.assert_array_equal(some.factors, np.arange(0, 12, every))
    np.testing.assert_allclose(some.log_norms, all_of_them.log_norms[::every], rtol=1e-12)
    assert_close(some.product.mantissa, all_of_them.product.mantissa, 1e-12)


def switched_off(params, state, x):
    """A linear step that is singular where x is 0."""
    del params
    return x * jnp.array([[2.0, 1.0], [0.0, 0.5]], state.dtype) @ state


@pytest.mark.parametrize("ord", [2, -2])
def test_a_singular_step_is_in_the_windows_that_hold_it_and_no_others(ord):
    arguments = (None, jnp.ones(2), jnp.ones(9).at[4].set(0))  # the factor of t = 5

    @jax.jit
    def three_ways(*arguments):
        windows = streaming.by_lag(switched_off, *arguments, lag=3, ord=ord)
        streams = (streaming.prefix, streaming.suffix)
        return windows, [stream(switched_off, *arguments, ord=ord).log_norms for stream in streams]

    windows, norms = three_ways(*arguments)
    held = np.array([t - 3 < 5 <= t for t in range(3, 10)])
    np.testing.assert_array_equal(np.isneginf(windows), held)
    assert np.isfinite(np.asarray(windows)[~held]).all()
    # t = 5 of 9: lag 5, too
    np.testing.assert_array_equal(np.isneginf(norms), [np.arange(10) >= 5] * 2)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_factors_at_the_ends_of_the_range_neither_over_nor_underflow(scale):
    run = jax.jit(lambda xs: streaming.prefix(lambda p, s, x: p * s + 0 * x, scale, jnp.zeros(2), xs))
    norms = run(jnp.zeros((50, 2))).log_norms
    np.testing.assert_allclose(norms, np.arange(51) * np.log(scale), rtol=1e-5)


def largest_array(function, *arguments):
    """Entries of the largest array in the program, loops included."""

    def sizes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (v.aval.size for v in equation.outvars)
            for sub in jaxprs_in_params(equation.params):
                yield from sizes(sub)

    return max(sizes(jax.make_jaxpr(function)(*arguments).jaxpr))


def test_the_stack_of_jacobians_is_never_held():
    steps, size = 400, 5
    case = example(cells.elman(), "float32", batch=(), steps=steps)
    held = largest_array(partial(products.log_norms, ord="fro"), jnp.ones((steps, size, size)))
    assert held >= steps * size * size
    for function in (streaming.prefix, streaming.suffix):
        assert largest_array(partial(function, cells.elman(), ord="fro"), *case) <= 3 * steps * size
    windows = partial(streaming.by_lag, cells.elman(), lag=5, ord="fro")
    assert largest_array(windows, *case) < steps * size * size / 5


@pytest.mark.parametrize(
    "function",
    [
        streaming.prefix,
        streaming.suffix,
        partial(streaming.by_lag, lag=3),
        spectrum.lyapunov,
        jacobians.state_jacobians,
        lambda *case: flow.profile(*case, lambda states: states.h.sum(-1)),
    ],
)
def test_every_product_of_the_analysis_is_at_the_highest_precision(function):
    # Elsewhere than on the CPU the default is lower, and the trajectory must be that of the Jacobians.
    def precisions(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                yield equation.params["precision"]
            for sub in jaxprs_in_params(equation.params):
                yield from precisions(sub)

    case = example(ALL["lstm"], "float32", batch=())
    found = set(precisions(jax.make_jaxpr(partial(function, ALL["lstm"]))(*case).jaxpr))
    assert found == {(jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)}


def test_vmap_over_inputs_states_and_parameters_is_the_loop(float64):
    cell = cells.elman()
    params, state, xs = example(cell, float64, batch=(3,))
    params = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf, 2 * leaf]), params)
    run = partial(streaming.prefix, cell, ord="fro", every=4)
    batch = jax.jit(jax.vmap(run, in_axes=(0, 0, 1)))(params, state, xs)
    single = jax.jit(run)
    for i in range(3):
        one = single(jax.tree.map(lambda leaf, i=i: leaf[i], params), state[i], xs[:, i])
        np.testing.assert_allclose(batch.log_norms[i], one.log_norms, rtol=1e-12)
    assert repr(batch).startswith("the first of a batch of (3,)\nlog-norms of products")


@pytest.mark.parametrize(("function", "ord"), [(streaming.prefix, -2), (streaming.suffix, 2)])
def test_streamed_norms_differentiate(function, ord, float64):
    cell = cells.elman()
    params, state, xs = example(cell, float64, batch=())

    @jax.jit
    @jax.value_and_grad
    def last(size):
        scaled = params._replace(w_hh=params.w_hh * (1 + size))
        return function(cell, scaled, state, xs, ord=ord, every=12).log_norms[-1]

    difference = (last(1e-6)[0] - last(-1e-6)[0]) / 2e-6
    assert abs(last(0.0)[1] - difference) < 1e-5 * abs(difference)


def test_a_traced_result_prints_its_shapes():
    printed = []

    def run(xs):
        printed.append(repr(streaming.prefix(switched_off, None, jnp.ones(2), xs)))
        return xs

    jax.jit(run)(jnp.ones(5))
    assert printed[0].startswith("Stream(factors=int32[6], log_norms=float32[6]")


OPTIMISED = {
    "xla_backend_optimization_level": 3
}  # whatever the suite's default: here the time is not compilation

RATIO = 1.0078125
"""1 + 2⁻⁷: exact in both dtypes, and e^7782 after a million steps."""


def reflect(key, state, t):
    """A Householder reflection, drawn anew at every step, times RATIO: every singular value is RATIO."""
    v = jax.random.normal(jax.random.fold_in(key, t), state.shape, state.dtype)
    return RATIO * (state - 2 * v * (v @ state) / (v @ v))


def gaussian(key, state, t):
    """A matrix of independent entries N(0, 1/N), drawn anew at every step."""
    w = jax.random.normal(jax.random.fold_in(key, t), (state.size, state.size), state.dtype)
    return w @ state / np.sqrt(state.size).astype(state.dtype)


@pytest.mark.parametrize(("steps", "size"), [(2000, 8), pytest.param(10**6, 32, marks=pytest.mark.slow)])
def test_a_million_factors_made_inside_the_scan_keep_a_norm_that_is_known(steps, size, dtype):
    run = jax.jit(
        lambda key: streaming.prefix(
            reflect, key, jnp.ones(size, dtype), jnp.arange(steps), every=steps // 10
        ),
        compiler_options=OPTIMISED,
    )
    error = np.abs(run(jax.random.key(0)).log_norms - np.arange(11) * (steps // 10) * np.log(RATIO))
    assert error.max() < {"float32": 1e-2, "float64": 1e-10}[dtype.name]


@pytest.mark.parametrize(("steps", "size"), [(2000, 8), pytest.param(10**6, 32, marks=pytest.mark.slow)])
def test_a_million_gaussian_factors_grow_by_newmans_law(steps, size, dtype):
    # Newman 1986: λ₁ = ½[ln(2/N) + ψ(N/2)], and the estimate from T steps has variance ψ'(N/2)/(4T).
    run = jax.jit(
        lambda key: streaming.prefix(gaussian, key, jnp.ones(size, dtype), jnp.arange(steps), every=steps),
        compiler_options=OPTIMISED,
    )
    rate = float(run(jax.random.key(1)).log_norms[-1]) / steps
    law, spread = (np.log(2 / size) + digamma(size / 2)) / 2, np.sqrt(polygamma(1, size / 2) / (4 * steps))
    start = np.log(size) / steps  # ‖P‖ is within a factor N of the length of one column
    assert abs(rate - law) < 3 * spread + start
    assert abs(rate - law - 0.05) > 3 * spread + start  # entries 5 % larger would be told apart


class TestBadInput:
    @pytest.mark.parametrize("function", [streaming.prefix, streaming.suffix])
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"ord": 1}, "ord is 1; expected 2"),
            ({"every": 0}, r"every is 0; expected an integer in \[1, 5\], 5 = T"),
            ({"every": 6}, "every is 6"),
            ({"every": 2.0}, "every is 2.0"),
        ],
    )
    def test_errors_name_the_value_and_what_was_allowed(self, function, options, message):
        with pytest.raises(ValueError, match=message):
            function(switched_off, None, jnp.ones(2), jnp.ones(5), **options)

    def test_a_lag_without_a_product_is_refused(self):
        with pytest.raises(ValueError, match=r"lag is 0; expected an integer in \[1, 5\]"):
            streaming.by_lag(switched_off, None, jnp.ones(2), jnp.ones(5), 0)
        with pytest.raises(ValueError, match="lag is 6; expected"):
            streaming.by_lag(switched_off, None, jnp.ones(2), jnp.ones(5), 6)

    @pytest.mark.parametrize(
        "function", [streaming.prefix, streaming.suffix, partial(streaming.by_lag, lag=2)]
    )
    def test_a_batch_and_an_integer_state_are_refused(self, function):
        with pytest.raises(
            ValueError, match=r"leaf of shape \(2, 5\); products of Jacobians are of one sequence"
        ):
            function(ALL["lstm"], *example(ALL["lstm"], "float32"))
        with pytest.raises(ValueError, match="leaf of dtype int32"):
            function(switched_off, None, jnp.ones(2, int), jnp.ones(5))

    def test_inputs_that_are_not_finite_are_refused(self):
        with pytest.raises(ValueError, match="xs has 1 entry that is NaN"):
            streaming.prefix(switched_off, None, jnp.ones(2), jnp.ones(5).at[2].set(jnp.nan))
