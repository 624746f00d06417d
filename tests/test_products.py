"""Products of ten thousand Jacobians keep their norms; order, zeros and extremes are right."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import cells, initializers, jacobians, products
from tests.cases import D, N, assert_close, example, rounding

log_norms = jax.jit(products.log_norms, static_argnames="ord")


def value(scaled):
    """mantissa · 2^exponent as plain numbers."""
    return np.asarray(scaled.mantissa) * 2.0 ** np.asarray(scaled.exponent)[:, None, None]


def random_stack(dtype, steps=20, size=4, scale=1.0, seed=0):
    entries = np.random.default_rng(seed).normal(0, scale / np.sqrt(size), (steps, size, size))
    return jnp.asarray(entries.astype(dtype))


@pytest.mark.parametrize("ord", [2, "fro"])
@pytest.mark.parametrize("gain", [0.9, 1.0, 1.1])
def test_ten_thousand_orthogonal_steps_have_norm_gain_to_the_n(gain, ord, dtype):
    steps = 10_000
    w = jax.jit(lambda key: initializers.orthogonal(gain)(key, (16, 16), dtype))(jax.random.key(0))
    expected = np.arange(steps + 1) * np.log(gain) + (0 if ord == 2 else np.log(4))
    error = np.abs(log_norms(jnp.broadcast_to(w, (steps, 16, 16)), ord=ord) - expected)
    assert error.max() < {"float32": 1e-2, "float64": 1e-10}[dtype.name]
    with np.errstate(all="ignore"):  # the plain product has overflowed, or vanished
        plain = np.log(np.abs(np.linalg.matrix_power(np.asarray(w), steps)).max())
    assert np.isfinite(plain) == (gain == 1.0)


def test_the_driven_network_itself_keeps_its_norms_over_ten_thousand_steps():
    cell = cells.elman(cells.identity)
    params = cell.init(jax.random.key(0), D, N, recurrent=initializers.orthogonal(0.8))
    stack = jax.jit(jacobians.state_jacobians, static_argnums=0)(
        cell, params, jnp.ones(N), jnp.ones((10_000, D))
    )
    error = np.abs(log_norms(stack) - np.arange(10_001) * np.log(0.8))
    assert error.max() < 1e-2


def test_prefix_and_suffix_are_the_products_written_out(float64):
    stack = random_stack(float64)
    prefix, suffix = value(jax.jit(products.prefix)(stack)), value(jax.jit(products.suffix)(stack))
    product = np.eye(4)
    for t in range(20):
        product = np.asarray(stack[t]) @ product
        np.testing.assert_allclose(prefix[t + 1], product, rtol=1e-11)
    product = np.eye(4)
    for n in range(20):
        product = product @ np.asarray(stack[19 - n])
        np.testing.assert_allclose(suffix[n + 1], product, rtol=1e-11)
    np.testing.assert_allclose(prefix[-1], suffix[-1], rtol=1e-11)


def test_the_newest_factor_is_on_the_left(float64):
    # Shears do not commute: the period-2 product grows, and the order within it decides which entry does.
    up, right = np.array([[1.0, 0.0], [2.0, 1.0]]), np.array([[1.0, 3.0], [0.0, 1.0]])
    stack = jnp.asarray(np.stack([up, right]))
    np.testing.assert_array_equal(value(jax.jit(products.prefix)(stack))[-1], right @ up)
    assert np.abs(right @ up - up @ right).max() > 1  # the other order is told apart


def test_entry_n_of_log_norms_is_the_jacobian_over_n_lags(float64):
    stack = random_stack(float64)
    for n in (0, 1, 7, 20):
        product = np.eye(4)
        for t in range(n):
            product = product @ np.asarray(stack[19 - t])
        assert abs(log_norms(stack)[n] - np.log(np.linalg.norm(product, 2))) < 1e-11
        assert abs(log_norms(stack, ord="fro")[n] - np.log(np.linalg.norm(product))) < 1e-11


@pytest.mark.parametrize("scale", [2e-38, 1e-30, 1e30, 3e38])
def test_factors_at_the_ends_of_the_range_neither_over_nor_underflow(scale):
    norms = np.asarray(log_norms(jnp.full((50, 1, 1), scale, jnp.float32)))
    factor = float(np.log(np.float64(np.float32(scale))))
    np.testing.assert_allclose(norms, np.arange(51) * factor, rtol=1e-5)


def test_a_product_that_has_become_zero_keeps_no_exponent():
    stack = jnp.full((200, 1, 1), 8.0).at[1].set(0.0)
    for scaled in (
        jax.jit(products.prefix)(stack),
        jax.jit(partial(products.prefix, associative=True))(stack),
    ):
        np.testing.assert_array_equal(scaled.exponent[2:], 0)
        np.testing.assert_array_equal(value(scaled)[2:], 0)  # 0 · 2^600 would be NaN


def test_a_singular_factor_gives_minus_infinity_and_never_nan():
    stack = random_stack("float32").at[5].set(0.0)
    norms = np.asarray(log_norms(stack))
    assert np.isfinite(norms[:15]).all()
    assert (norms[15:] == -np.inf).all()
    mantissas = jax.jit(products.suffix)(stack).mantissa
    assert np.isfinite(mantissas).all()


def test_mantissas_have_their_largest_entry_between_a_half_and_one(dtype):
    scaled = jax.jit(products.prefix)(random_stack(dtype, scale=7.0))
    largest = np.abs(scaled.mantissa).max((-2, -1))
    assert (largest >= 0.5).all()
    assert (largest < 1).all()


def test_log_norms_differentiate_where_plain_products_have_underflowed(float64):
    # d ln‖(sA)ⁿ‖ / d ln s = n, exactly, though the product itself is 10^−700.
    stack = 1e-12 * random_stack(float64, steps=60)
    for ord in (2, "fro"):
        slope = jax.jit(
            jax.grad(lambda log_s, ord=ord: products.log_norms(jnp.exp(log_s) * stack, ord=ord)[-1])
        )(0.0)
        assert abs(slope - 60) < 1e-9


@pytest.mark.parametrize("function", [products.prefix, products.suffix])
def test_the_tree_of_products_is_the_sequence(function, dtype):
    stack = random_stack(dtype, steps=37, scale=3.0)
    one_by_one, tree = jax.jit(function)(stack), jax.jit(partial(function, associative=True))(stack)
    for power in (one_by_one.exponent[1:] - tree.exponent[1:]).tolist():
        assert abs(power) <= 1  # the largest entry may round across a power of two
    shifted = tree.mantissa * 2.0 ** (tree.exponent - one_by_one.exponent)[:, None, None].astype(dtype)
    assert_close(shifted, one_by_one.mantissa, rounding(dtype, 37))


@pytest.mark.parametrize("ord", ["fro", -2])
def test_norms_by_the_tree_are_those_of_the_sequence(ord, float64):
    stack = random_stack(float64, steps=37)
    tree = jax.jit(partial(products.log_norms, ord=ord, associative=True))(stack)
    np.testing.assert_allclose(tree, log_norms(stack, ord=ord), atol=1e-11)


def test_the_tree_is_shallow_and_the_sequence_is_not():
    tree = str(jax.make_jaxpr(partial(products.suffix, associative=True))(jnp.ones((64, 3, 3))))
    assert "scan" not in tree
    assert "scan" in str(jax.make_jaxpr(products.suffix)(jnp.ones((64, 3, 3))))


@pytest.mark.parametrize("lag", [0, 1, 7, 10])
def test_windows_of_one_lag_are_the_products_written_out(lag, float64):
    stack = random_stack(float64)
    windows = jax.jit(products.by_lag, static_argnums=1)(stack, lag)
    assert windows.mantissa.shape == (21 - lag, 4, 4)
    for t in range(lag, 21):
        product = np.eye(4)
        for j in np.asarray(stack[t - lag : t]):
            product = j @ product
        np.testing.assert_allclose(value(windows)[t - lag], product, rtol=1e-10, atol=1e-14)


def test_windows_of_all_steps_are_the_whole_product_at_the_ends_of_the_range():
    stack = random_stack("float32", scale=1e30)
    (whole,) = jax.jit(lambda stack: products.log_norm(products.by_lag(stack, 20)))(stack)
    assert abs(whole - log_norms(stack)[-1]) < 1e-6 * abs(whole)


def factors_of_known_singular_values(values, steps, seed=0):
    """J_t = O_t diag(values) O_{t−1}ᵀ with random orthogonal O_t: the product's singular values are values^steps."""
    frames = np.linalg.qr(np.random.default_rng(seed).normal(size=(steps + 1, len(values), len(values))))[0]
    return jnp.asarray(frames[1:] * np.asarray(values) @ frames[:-1].transpose(0, 2, 1))


def test_the_smallest_singular_value_is_found_far_below_the_rounding_of_the_largest(dtype):
    steps, values = 1000, [2.0, 1.0, 0.5, 0.1]
    stack = factors_of_known_singular_values(values, steps).astype(dtype)
    expected = np.arange(steps + 1) * np.log(0.1)
    error = np.abs(log_norms(stack, ord=-2) - expected).max()
    assert error < {"float32": 1e-2, "float64": 1e-10}[dtype.name]
    last = jax.jit(products.suffix)(stack).mantissa[-1]
    in_its_entries = np.log(np.linalg.svd(np.asarray(last), compute_uv=False)[-1])
    assert in_its_entries > -100 > expected[-1]  # the product itself has forgotten it


def test_units_that_saturate_do_not_hide_the_smallest_singular_value():
    # diag(f') W with f' down to 1e−30: ill-conditioned, and yet its inverse is known to rounding.
    w = np.random.default_rng(0).normal(size=(5, 5))
    slopes = np.array([1, 1e-10, 1e-20, 1e-30, 1])
    stack = jnp.asarray((slopes[:, None] * w)[None], jnp.float32)
    exact = -np.log(np.linalg.norm(np.linalg.inv(w) / slopes, 2))
    assert abs(log_norms(stack, ord=-2)[1] - exact) < 1e-4


@pytest.mark.parametrize("singular", [np.zeros((4, 4)), np.ones((4, 4)), np.diag([1.0, 1.0, 1.0, 0.0])])
def test_a_singular_factor_ends_the_smallest_singular_value(singular, dtype):
    stack = random_stack(dtype).at[5].set(singular.astype(dtype))
    norms = np.asarray(log_norms(stack, ord=-2))
    assert np.isfinite(norms[:15]).all()
    assert (norms[15:] == -np.inf).all()


def test_the_log_of_the_smallest_singular_value_has_its_derivative(float64):
    stack, direction = random_stack(float64, steps=9, seed=4), random_stack(float64, steps=9, seed=5)

    @jax.jit
    def smallest(size):
        return products.log_norms(stack + size * direction, ord=-2)[-1]

    difference = (smallest(1e-5) - smallest(-1e-5)) / 2e-5
    assert abs(jax.jit(jax.grad(smallest))(0.0) - difference) < 1e-6 * abs(difference)
    assert abs(difference) > 0.1


@pytest.mark.parametrize(
    "ord", [pytest.param(2, marks=pytest.mark.slow), "fro", pytest.param(-2, marks=pytest.mark.slow)]
)
def test_a_product_that_is_zero_has_no_gradient_rather_than_nan(ord):
    stack = random_stack("float32", steps=4).at[1].set(0.0)

    @jax.jit
    @jax.grad
    def gradient_of(stack):
        norms = products.log_norms(stack, ord=ord)
        return jnp.where(jnp.isfinite(norms), norms, 0).sum()

    gradient = gradient_of(stack)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


def test_vmap_is_the_batch(float64):
    stacks = jnp.stack([random_stack(float64, seed=seed) for seed in range(3)])
    batch = jax.jit(jax.vmap(products.log_norms))(stacks)
    assert_close(batch[1], log_norms(stacks[1]), 1e-12, negligible=0)


@pytest.mark.parametrize("activation", [jnp.tanh, jax.nn.relu, jax.nn.sigmoid, jax.nn.hard_tanh])
def test_norms_stay_below_the_bound_of_the_note(activation, float64):
    cell = cells.elman(activation)
    params, state, xs = example(cell, float64, batch=(), steps=40)
    norms = log_norms(jax.jit(partial(jacobians.structured, cell))(params, state, xs))
    bound = products.log_bound(params.w_hh, 40, cells.max_slope(activation))
    sigma = np.linalg.norm(params.w_hh, 2)
    np.testing.assert_allclose(bound, np.arange(41) * np.log(cells.max_slope(activation) * sigma), rtol=1e-12)
    assert (norms <= bound + 1e-12).all()


def test_a_spectral_radius_below_one_does_not_bound_the_norm():
    # Non-normal growth (Pascanu, Mikolov and Bengio 2013): ρ = 0.9, and yet ‖A⁹‖ = 19.38.
    a = jnp.array([[0.9, 5.0], [0.0, 0.9]])
    norms = np.exp(log_norms(jnp.broadcast_to(a, (200, 2, 2))))
    assert abs(norms[9] - 19.38) < 0.005
    assert norms[200] < 1e-5


class TestBadInput:
    @pytest.mark.parametrize(
        "function", [products.prefix, products.suffix, products.log_norms, partial(products.by_lag, lag=2)]
    )
    @pytest.mark.parametrize(
        ("stack", "message"),
        [
            (jnp.ones((3, 3)), r"jacobians has shape \(3, 3\); expected \(T, S, S\)"),
            (jnp.ones((0, 3, 3)), "T >= 1"),
            (jnp.ones((5, 3, 2)), r"expected \(T, S, S\)"),
            (jnp.ones((2, 5, 3, 3)), "vmap"),
            (jnp.ones((5, 3, 3), int), "expected floating point"),
            (jnp.ones((5, 3, 3)).at[2, 0, 1].set(jnp.inf), r"1 entry .* index \(2, 0, 1\)"),
        ],
    )
    def test_errors_name_the_value_and_the_remedy(self, function, stack, message):
        with pytest.raises(ValueError, match=message):
            function(stack)

    def test_other_norms_are_refused(self):
        with pytest.raises(ValueError, match=r"ord is 1; expected 2 .*'fro'"):
            products.log_norms(jnp.ones((2, 3, 3)), ord=1)

    def test_a_norm_that_is_not_in_the_rounded_entries_is_refused(self):
        with pytest.raises(ValueError, match="ord is -2; expected 2"):
            products.log_norm(jax.jit(products.prefix)(jnp.ones((2, 3, 3))), -2)

    @pytest.mark.parametrize("lag", [-1, 3, 1.0, True])
    def test_a_lag_out_of_range_is_named(self, lag):
        with pytest.raises(ValueError, match=r"lag is .*expected an integer in \[0, 2\], 2 = T"):
            products.by_lag(jnp.ones((2, 3, 3)), lag)

    def test_the_bound_of_no_weights_is_one_at_lag_zero_and_nothing_after(self):
        np.testing.assert_array_equal(products.log_bound(jnp.zeros((2, 2)), 2), [0, -np.inf, -np.inf])
        with pytest.raises(ValueError, match="gamma -1"):
            products.log_bound(jnp.eye(2), 2, gamma=-1)

    def test_the_bound_is_for_one_matrix(self):
        with pytest.raises(ValueError, match="one recurrent matrix"):
            products.log_bound(jnp.ones((4, 3, 3)), 5)
        with pytest.raises(ValueError, match="square"):
            products.log_bound(jnp.ones((4, 3)), 5)
