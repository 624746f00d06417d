"""Singular values of graded rows: exact rational references far beyond the range of a float, and honest errors."""

from decimal import Decimal, localcontext
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import graded

multiply = jax.jit(graded.multiply)
rows_of = jax.jit(graded.rows_of)
LN2 = Decimal(2).ln()


def shifted(matrix, exponents):
    rows = graded.rows_of(matrix)
    return rows._replace(exponent=rows.exponent + exponents)


@jax.jit
def decompose(matrix, exponents):
    return graded.singular_values(shifted(matrix, exponents))


@jax.jit
@jax.vmap
def of_each(matrix):
    return graded.singular_values(graded.rows_of(matrix))


def singular_values(matrix, exponents=0, dtype=None):
    """Those of diag(2^exponents) · matrix, as NumPy arrays."""
    exponents = np.broadcast_to(np.asarray(exponents, np.int32), len(matrix))
    dtype = dtype or jnp.asarray(matrix).dtype
    return jax.tree.map(np.asarray, decompose(np.asarray(matrix, dtype), exponents))


def integers(size, seed=0):
    """Small integers: exact in every dtype and as fractions."""
    return np.random.default_rng(seed).integers(-9, 10, (size, size))


def gram_schmidt_logs(matrix):
    """ln of the length of each row less its part along the rows before, from exact integers."""
    residues = []
    for row in matrix:
        row = [Fraction(int(x)) for x in row]
        for other in residues:
            share = Fraction(dot(row, other), dot(other, other))
            row = [x - share * y for x, y in zip(row, other, strict=True)]
        residues.append(row)
    return np.array([float(ln(dot(row, row))) / 2 for row in residues])


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def ln(fraction):
    with localcontext(prec=60):
        return (Decimal(fraction.numerator) / Decimal(fraction.denominator)).ln()


def two_by_two_logs(matrix, exponents):
    """ln σ of diag(2^exponents) · matrix from σ₁² + σ₂² = ‖A‖² and σ₁ σ₂ = |det A|, in 800 digits."""
    with localcontext(prec=800):
        a, b, c, d = (
            Decimal(int(x)) * Decimal(2) ** int(e)
            for row, e in zip(matrix, exponents, strict=True)
            for x in row
        )
        squares, det = a * a + b * b + c * c + d * d, abs(a * d - b * c)
        larger = ((squares + (squares**2 - 4 * det**2).sqrt()) / 2).sqrt()
        return np.array([float(larger.ln()), float((det / larger).ln())])


def tolerance(dtype, logs):
    """100 ε in σ, and ε in its logarithm."""
    return float(jnp.finfo(dtype).eps) * (100 + np.abs(logs))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_rows_far_apart_have_the_lengths_of_gram_schmidt_exactly(size, dtype):
    # With gaps of 2^−3000 each σ_i is what is left of row i: other corrections are 2^−6000.
    matrix = integers(size)
    exponents = -3000 * np.arange(size)
    expected = gram_schmidt_logs(matrix) + exponents * float(LN2)
    result = singular_values(matrix, exponents, dtype)
    assert (np.abs(result.log_values - expected) < tolerance(dtype, expected)).all()
    plain = np.log(np.linalg.norm(matrix, axis=1)) + exponents * float(LN2)  # not the lengths of the rows
    assert size == 1 or (np.abs(plain - expected) > 1e-2).any()


def test_rows_in_any_order_are_the_same_matrix(float64):
    matrix, exponents = integers(5), -3000 * np.arange(5)
    expected = gram_schmidt_logs(matrix) + exponents * float(LN2)
    order = np.array([3, 0, 4, 1, 2])
    result = singular_values(matrix[order], exponents[order], float64)
    assert (np.abs(result.log_values - expected) < tolerance(float64, expected)).all()


@pytest.mark.parametrize("gap", [0, 1, 5, 12, 60, 130, 600, 1100])
def test_two_rows_at_any_distance_have_the_values_of_the_quadratic_equation(gap, dtype):
    # Through every regime of r = 2^−gap: rotations, r² below ε, r² and r below the range of the dtype.
    for matrix in ([[3, 4], [4, 3]], [[9, -1], [9, -2]], [[1, 0], [7, 1]], [[2, -5], [5, 2]]):
        for exponents in ((0, -gap), (-gap, 0)):
            expected = two_by_two_logs(matrix, exponents)
            result = singular_values(matrix, exponents, dtype)
            assert (np.abs(result.log_values - expected) < 3 * tolerance(dtype, expected)).all()
            assert (result.errors < 300 * jnp.finfo(dtype).eps * (1 + np.abs(expected))).all()


@pytest.mark.parametrize("size", [1, 2, 3])
def test_equal_singular_values_come_out_equal_at_any_scale(size, dtype):
    orthogonal = np.linalg.qr(np.random.default_rng(1).normal(size=(size, size)))[0]
    for exponent in (0, -5000):
        result = singular_values(orthogonal, exponent, dtype)
        expected = np.full(size, exponent * float(LN2))
        assert (np.abs(result.log_values - expected) < tolerance(dtype, expected)).all()
        assert (result.errors < 1e-3).all()


def test_as_many_rows_as_you_like_converge_where_all_singular_values_are_equal():
    # Cosines are rounding from the start, a few ε: a limit of ε would turn the rows about until the sweeps run out.
    orthogonal = np.linalg.qr(np.random.default_rng(0).normal(size=(64, 64)))[0]
    result = singular_values(orthogonal, dtype=jnp.float32)
    assert np.abs(result.log_values).max() < 1e-5
    assert result.errors.max() < 2e-6  # each rotation adds to the estimate


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_ordinary_matrices_have_the_singular_values_of_a_dense_decomposition(size, float64):
    matrix = np.random.default_rng(size).normal(size=(size, size))
    expected = np.log(np.linalg.svd(matrix, compute_uv=False))
    np.testing.assert_allclose(singular_values(matrix).log_values, expected, atol=1e-12)


def test_groups_of_rows_far_apart_are_decomposed_within(float64):
    # Rows of the second group count only orthogonal to the span of the first.
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(5, 5))
    span = np.linalg.qr(matrix[:2].T)[0]
    rest = matrix[2:] - matrix[2:] @ span @ span.T
    values = [np.linalg.svd(part, compute_uv=False) for part in (matrix[:2], rest)]
    far = np.repeat([0, -4000], [2, 3])
    expected = np.log(np.concatenate(values)) + far * float(LN2)
    result = singular_values(matrix, far)
    np.testing.assert_allclose(result.log_values, expected, atol=1e-11)


def test_errors_are_honest(float64):
    # 300 matrices in float32 against the decomposition in float64: on average estimates are too large, by far
    # never too small. (Rows are graded by up to 2^−12, so that float64 is exact here.)
    rng = np.random.default_rng(0)
    matrices = rng.normal(size=(300, 6, 6)) * 2.0 ** rng.integers(-12, 1, (300, 6, 1))
    matrices = matrices.astype(np.float32)
    expected = np.log(np.linalg.svd(matrices.astype(np.float64), compute_uv=False))
    result = jax.tree.map(np.asarray, of_each(matrices))
    assert (result.errors < 1).all()
    ratios = np.abs(result.log_values.astype(np.float64) - expected) / result.errors
    assert ratios.max() < 10
    assert ratios.mean() > 1e-3


def test_what_cancels_is_not_claimed_to_be_known():
    # Rows that agree to the last bit or two: what is left of the second is rounding, and said to be.
    third = np.float32(1 / 3)
    nearly = np.array(
        [[third, 1.0, 0.7], [np.nextafter(third, np.float32(1)), 1.0, 0.7], [0.3, -0.2, 0.9]], np.float32
    )
    result = singular_values(nearly)
    assert result.errors[2] > 0.1
    assert (result.errors[:2] < 1e-5).all()


@pytest.mark.parametrize("size", [1, 2, 3])
def test_rows_of_zeros_have_no_logarithm_and_leave_the_others_alone(size, dtype):
    matrix = integers(size, seed=3).astype(float)
    expected = np.log(np.linalg.svd(matrix[1:], compute_uv=False)) if size > 1 else np.zeros(0)
    matrix[0] = 0
    result = singular_values(matrix, dtype=dtype)
    assert result.log_values[-1] == -np.inf
    assert result.errors[-1] == 1
    assert (np.abs(result.log_values[:-1] - expected[: size - 1]) < 1e3 * jnp.finfo(dtype).eps).all()
    assert (singular_values(np.zeros((size, size)), dtype=dtype).log_values == -np.inf).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_gives_nan_and_no_number(bad):
    result = singular_values([[1.0, 0.0, 0.0], [0.0, 1.0, bad], [0.0, 0.0, 1.0]])
    assert np.isnan(result.log_values).all()
    assert (result.errors == 1).all()


def test_products_keep_the_exponent_of_every_row(float64):
    # Upper triangular integers, eight factors 2^−400 D: the product in fractions has entries below 10^−900.
    size, steps, shift = 3, 8, -400
    rng = np.random.default_rng(0)
    factors = np.triu(rng.integers(1, 9, (steps, size, size)))
    product = rows_of(np.eye(size))
    exact = [[Fraction(int(i == j)) for j in range(size)] for i in range(size)]
    for factor in factors:
        product = multiply(jnp.asarray(factor, float64), shift, 0.0, product)
        exact = [
            [dot([int(x) for x in row], column) for column in zip(*exact, strict=True)] for row in factor
        ]
    for i in range(size):
        for j in range(size):
            scaled = Fraction(float(product.mantissa[i, j])) * Fraction(2) ** int(product.exponent[i])
            assert abs(scaled - exact[i][j] * Fraction(2) ** (shift * steps)) <= abs(scaled) * Fraction(
                1, 10**14
            )
    assert (product.variance == 0).all()  # integers, taken as exact


def test_an_entry_in_error_makes_its_row_uncertain_by_its_share(float64):
    triangular = np.array([[1.0, 1.0], [0.0, 1e-6]])
    product = multiply(triangular, 0, 1e-9, rows_of(np.eye(2)))
    np.testing.assert_allclose(np.sqrt(product.variance), [1e-9, 1e-3], rtol=1e-6)
    # As the product of independent factors the relative error grows with the root of their number.
    for _ in range(8):
        product = multiply(np.diag([1.0, 1e-6]), 0, 1e-9, product)
    np.testing.assert_allclose(np.sqrt(product.variance)[1], 3e-3, rtol=0.01)


def test_forward_derivatives_are_those_of_the_determinant_even_where_values_are_equal(float64):
    # d Σ ln σ = tr A⁻¹ dA; at an orthogonal A the rows are as long, and orthogonal, from the start.
    rng = np.random.default_rng(0)
    derivative = jax.jit(
        lambda matrix, direction: jax.jvp(
            lambda m: graded.singular_values(graded.rows_of(m)).log_values.sum(), (matrix,), (direction,)
        )
    )
    direction, general = rng.normal(size=(2, 4, 4))
    for matrix in (general, np.linalg.qr(general)[0], np.eye(4)):
        value, slope = derivative(matrix, direction)
        assert abs(value - np.linalg.slogdet(matrix)[1]) < 1e-12
        assert abs(slope - np.trace(np.linalg.solve(matrix, direction))) < 1e-10


def test_derivatives_of_the_single_values_are_differences(float64):
    rng = np.random.default_rng(1)
    matrix, direction = rng.normal(size=(2, 5, 5))
    far = np.array([0, -10, -400, -2000, -2001])
    forward = jax.jit(lambda m: graded.singular_values(shifted(m, far)).log_values)
    _, slopes = jax.jvp(forward, (matrix,), (direction,))
    differences = (forward(matrix + 1e-6 * direction) - forward(matrix - 1e-6 * direction)) / 2e-6
    np.testing.assert_allclose(slopes, differences, atol=1e-7)
