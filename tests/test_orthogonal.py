"""QR from products: what Householder QR gives, also where products alone would fail, and at the cost of products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import ortho_group

from rnn_jax import orthogonal, spectrum

K = 40  # beyond orthogonal.FEW, and no multiple of a panel
factor = jax.jit(orthogonal.factor)
householder = jax.jit(orthogonal.householder)


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def conditioned(condition, size=K):
    """A matrix in general position with singular values from 1 down to 1/condition."""
    left, right = ortho_group.rvs(size, 2, random_state=0)
    return left * np.geomspace(1, 1 / condition, size) @ right


def loss(q):
    q = np.asarray(q, np.float64)
    return np.linalg.norm(q.T @ q - np.eye(q.shape[1]))


def one_pass(matrix):
    rows, lengths = jax.jit(orthogonal._gram_schmidt)(np.asarray(matrix).T)
    return orthogonal.Factors(rows.T, lengths)


def contains(function, primitive, *arguments):
    return f" {primitive}[" in str(jax.make_jaxpr(function)(*arguments))


class TestTwins:
    @pytest.mark.parametrize("shape", [(K, K), (100, K), (K, 5), (K, 1)])
    def test_both_give_the_same_factors(self, shape, dtype):
        assert orthogonal.FEW < K
        matrix = gaussian(*shape).astype(dtype)
        eps = float(jnp.finfo(dtype).eps)
        q, lengths = factor(matrix)
        expected_q, r = np.linalg.qr(matrix.astype(np.float64))
        expected_q, r = expected_q * np.sign(np.diag(r)), np.abs(np.diag(r))
        assert loss(q) < 8 * shape[1] * eps
        bound = 100 * np.linalg.cond(matrix) * eps
        np.testing.assert_allclose(lengths, r, rtol=bound)
        np.testing.assert_allclose(q, expected_q, atol=bound)
        for a, b in zip(householder(matrix), (q, lengths), strict=True):
            np.testing.assert_allclose(a, b, atol=bound * np.abs(b).max())

    def test_one_column_needs_no_decomposition_whatever_its_size(self, dtype):
        for column in (gaussian(K, 1), 1e-30 * gaussian(K, 1), 1e30 * gaussian(K, 1), np.zeros((K, 1))):
            column = column.astype(dtype)
            for a, b in zip(factor(column), householder(column), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e2 * jnp.finfo(dtype).eps)
        assert np.isnan(factor(np.full((K, 1), np.nan, dtype)).lengths).all()
        assert not contains(orthogonal.factor, "qr", column)
        assert contains(orthogonal.factor, "qr", np.ones((K, 2), dtype))

    @pytest.mark.parametrize("condition", [1e3, 1e10, 1e14])
    def test_ill_conditioned_matrices_are_orthonormal_all_the_same(self, condition, float64):
        matrix = conditioned(condition)
        q, lengths = factor(matrix)
        assert loss(q) < 8 * K * jnp.finfo(float64).eps
        # Of A itself, to rounding, whatever its condition: Q (Qᵀ A) is A, and Qᵀ A upper triangular.
        r = np.asarray(q).T @ matrix
        assert np.abs(np.tril(r, -1)).max() < 1e-14
        np.testing.assert_allclose(np.diag(r), lengths, atol=1e-14)
        assert condition == 1e3 or not loss(one_pass(matrix).q) < 1e-10  # what one pass gives

    def test_loose_factors_differ_from_exact_ones_by_a_triangular_matrix(self, float64):
        # Q = Q̂ U and R̂ = U R: the lengths of both together are those of Householder's.
        matrix = conditioned(1e7)
        loose, exact = factor(matrix, False), householder(matrix)
        assert 1e-6 < loss(loose.q) < orthogonal._LOOSE
        u = np.asarray(exact.q).T @ np.asarray(loose.q)
        assert np.abs(np.tril(u, -1)).max() < 1e-6 < np.abs(u - np.eye(K)).max()
        both = np.diag(u) * np.asarray(loose.lengths)
        np.testing.assert_allclose(both, exact.lengths, rtol=1e-7)


class TestFallback:
    def test_matrices_that_products_cannot_decompose_are_decomposed(self, dtype):
        singular = gaussian(K, K)
        singular[:, 20] = singular[:, 3]
        tiny = gaussian(K, K) * np.where(np.arange(K) == 7, 1e-30, 1.0)
        for matrix in (singular, tiny, np.diag(np.arange(K) % 2.0), np.zeros((K, K))):
            matrix = matrix.astype(dtype)
            assert loss(factor(matrix, False).q) < 2 * orthogonal._LOOSE
            q, lengths = factor(matrix)
            assert loss(q) < 8 * K * jnp.finfo(dtype).eps
            r = np.asarray(q).T @ matrix
            np.testing.assert_allclose(q @ np.triu(r), matrix, atol=1e2 * jnp.finfo(dtype).eps)
            np.testing.assert_allclose(lengths, np.diag(r), atol=1e2 * jnp.finfo(dtype).eps)
            assert (lengths >= 0).all()

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_what_is_not_finite_has_no_length(self, bad):
        matrix = gaussian(K, K)
        matrix[3, 3] = bad
        assert np.isnan(factor(matrix, False).lengths).any()

    def test_a_batch_is_a_loop_and_one_bad_entry_leaves_the_others_as_they_are(self, float64):
        batch = gaussian(2, 3, K, K)
        batch[1, 1, :, 5] = 0
        batch[0, 2] = conditioned(1e10)
        nested = jax.jit(jax.vmap(jax.vmap(orthogonal.factor)))(batch, np.ones((2, 3), bool))
        for index in np.ndindex(2, 3):
            for a, b in zip(nested, factor(batch[index]), strict=True):
                np.testing.assert_allclose(np.asarray(a)[index], b, atol=1e-12)

    def test_a_good_batch_decides_once_and_not_for_each(self):
        # Under vmap a branch becomes a selection, and both of its sides are computed: here it stays a branch.
        batch = gaussian(3, K, K).astype(np.float32)
        assert contains(jax.vmap(orthogonal.factor), "cond", batch)
        assert not contains(jax.vmap(lambda a: jax.lax.cond(a[0, 0] > 0, jnp.sin, jnp.cos, a)), "cond", batch)


class TestDerivatives:
    @pytest.mark.parametrize("shape", [(K, K), (60, K), (K, 1)])
    def test_they_are_those_of_jaxs_own_rule(self, shape, float64):
        matrix, direction, weights = gaussian(*shape), gaussian(*shape, seed=1), gaussian(*shape, seed=2)

        def own(a, decompose):
            q, lengths = decompose(a)
            return (weights * q).sum() + jnp.log(lengths).sum()

        for mode in (
            lambda f: jax.jvp(f, (matrix,), (direction,))[1],
            lambda f: jax.grad(f)(matrix),
        ):
            fast, plain = (
                jax.jit(lambda d=d, mode=mode: mode(lambda a: own(a, d)))()
                for d in (lambda a: orthogonal.factor(a, False), orthogonal.householder)
            )
            np.testing.assert_allclose(fast, plain, rtol=1e-9, atol=1e-9 * np.abs(plain).max())


class TestExponents:
    """`spectrum` on frames of so many columns."""

    def exponents(self, stack, **options):
        result = jax.jit(lambda s: spectrum.lyapunov_from_jacobians(s, align=0, **options))(stack)
        return jax.tree.map(np.asarray, result)

    def lengths(self, stack, dtype):
        """ln R_ii of every step by NumPy in float64, from the same start."""
        frame = np.asarray(spectrum.random_frame(None, K, K, dtype), np.float64)
        logs = []
        for jacobian in stack.astype(np.float64):
            frame, r = np.linalg.qr(jacobian @ frame)
            logs.append(np.log(np.abs(np.diag(r))))
        return np.array(logs)

    def test_every_block_has_its_own_lengths_within_the_rounding_that_is_said(self, dtype):
        # Not orthonormal in between, where lengths are wrong one by one; not so at the ends of blocks.
        stack = (gaussian(24, K, K) * np.exp(-0.1 * np.arange(K))[:, None]).astype(dtype)
        result = self.exponents(stack, blocks=3)
        exact = self.lengths(stack, dtype)
        error = np.abs(result.values - exact.mean(0))
        assert (error < result.rounding).all()
        blocks = np.abs(result.finite_time - exact.reshape(3, 8, K).mean(1))
        assert (blocks < 3 * result.rounding).all()

    def test_a_singular_step_is_lost_and_the_rest_is_kept(self, float64):
        stack = gaussian(12, K, K)
        stack[5, 0] = stack[5, 1]
        result = self.exponents(stack, blocks=2)
        assert result.resolved.tolist() == [True] * (K - 1) + [False]
        assert result.values[-1] == -np.inf
        np.testing.assert_allclose(result.values[:-1], self.lengths(stack, float64).mean(0)[:-1], atol=1e-10)
        stack[7] = 0
        assert np.isneginf(self.exponents(stack, blocks=2).values).all()
