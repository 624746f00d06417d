"""Weights stay where their parametrisation promises, and every matrix there can be reached."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import constraints

cayley, cayley_inverse = jax.jit(constraints.cayley), jax.jit(constraints.cayley_inverse)
normalize = jax.jit(constraints.spectral_normalize, static_argnames="steps")


def haar(*shape, seed=0):
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=shape))
    return q * np.sign(np.diagonal(r, axis1=-2, axis2=-1))[..., None, :]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_the_penalty_is_the_squared_distance_of_all_gram_matrices_from_the_identity(float64):
    w = normal(4, 5, 5)
    singular = np.linalg.svd(w, compute_uv=False)
    np.testing.assert_allclose(
        constraints.orthogonality_penalty(w), ((singular**2 - 1) ** 2).sum(), rtol=1e-12
    )
    assert constraints.orthogonality_penalty(haar(4, 5, 5)) < 1e-25


def test_a_fused_matrix_with_orthogonal_columns_is_no_stack_of_orthogonal_gates(float64):
    fused = haar(20, 20)[:, :5].reshape(4, 5, 5)
    assert np.allclose(fused.reshape(20, 5).T @ fused.reshape(20, 5), np.eye(5))
    assert constraints.orthogonality_penalty(fused) > 1


def test_cayley_is_orthogonal_for_any_free_matrix(dtype):
    w = cayley(10 * normal(3, 8, 8).astype(dtype))
    assert w.dtype == dtype
    np.testing.assert_allclose(
        w.mT @ w, np.broadcast_to(np.eye(8), (3, 8, 8)), atol=200 * jnp.finfo(dtype).eps
    )


def test_cayley_is_the_map_of_its_definition(float64):
    free = normal(6, 6)
    skew = free - free.T
    expected = np.linalg.inv(np.eye(6) + skew) @ (np.eye(6) - skew) * np.array([1, -1, 1, 1, -1, 1])
    np.testing.assert_allclose(cayley(free, np.array([1, -1, 1, 1, -1, 1.0])), expected, atol=1e-14)


@pytest.mark.parametrize("size", [1, 5, 64])
def test_every_orthogonal_matrix_is_reached_whatever_its_determinant(size, dtype):
    w = haar(6, size, size).astype(dtype)
    w[:2] = np.stack([-np.eye(size), np.eye(size)[::-1]])  # no Cayley map without signs
    if size > 1:
        assert set(np.sign(np.linalg.det(w[2:].astype(float)))) == {-1, 1}
    form = cayley_inverse(w)
    assert set(np.unique(form.signs)) <= {-1, 1}
    np.testing.assert_allclose(cayley(*form), w, atol=100 * jnp.finfo(dtype).eps)
    np.testing.assert_array_equal(form.free, -form.free.mT)


def test_signs_are_chosen_so_that_no_pivot_is_below_one(float64):
    w = haar(20, 12, 12)
    for one, signs in zip(w, cayley_inverse(w).signs, strict=True):
        rest = np.eye(12) + one * np.asarray(signs)
        for k in range(12):
            assert rest[k, k] >= 1 - 1e-12
            rest[k + 1 :] -= np.outer(rest[k + 1 :, k] / rest[k, k], rest[k])


def test_the_margin_holds_every_singular_value_within_it(dtype):
    u, v = (haar(3, 6, 6, seed=s).astype(dtype) for s in (0, 1))
    p = (3 * normal(3, 6)).astype(dtype)
    w = constraints.margin(u, p, v, 0.25)
    assert w.dtype == dtype
    expected = np.sort(1 + 0.5 * (1 / (1 + np.exp(-p)) - 0.5))[:, ::-1]
    tolerance = 50 * jnp.finfo(dtype).eps
    np.testing.assert_allclose(np.linalg.svd(w, compute_uv=False), expected, rtol=tolerance)
    np.testing.assert_allclose(
        constraints.margin(u, 0 * p, np.broadcast_to(np.eye(6, dtype=dtype), u.shape), 0.25), u
    )
    extreme = constraints.margin(u, 1e4 * p, v, 0.25)
    assert np.abs(np.linalg.svd(extreme, compute_uv=False) - 1).max() <= 0.25 + tolerance


def test_spectral_normalisation_leaves_a_norm_of_one_gate_by_gate(dtype):
    w = normal(4, 8, 8).astype(dtype)
    made = normalize(w, normal(4, 8, seed=1).astype(dtype), steps=500)
    top = np.linalg.norm(w, 2, axis=(-2, -1))
    np.testing.assert_allclose(made.sigma, top, rtol=100 * jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.linalg.norm(made.w, 2, axis=(-2, -1)), 1, rtol=100 * jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.linalg.norm(made.vector, axis=-1), 1, rtol=100 * jnp.finfo(dtype).eps)


def test_the_estimate_comes_from_below_and_one_step_an_update_makes_it_exact(float64):
    w, vector = normal(8, 8), normal(8, seed=1)
    top, estimates = np.linalg.norm(w, 2), []
    for _ in range(200):
        _, sigma, vector = normalize(w, vector)
        estimates.append(float(sigma))
    assert estimates[0] < 0.95 * top
    assert (np.diff(estimates) > -1e-12).all()
    np.testing.assert_allclose(estimates[-1], top, rtol=1e-8)


def test_the_gradient_is_that_of_the_exact_quotient_and_has_no_part_along_w(float64):
    w, cotangent = normal(6, 6), normal(6, 6, seed=2)
    gradient = jax.jit(
        jax.grad(lambda w: (constraints.spectral_normalize(w, normal(6), steps=500).w * cotangent).sum())
    )(w)
    exact = jax.jit(jax.grad(lambda w: (w / jnp.linalg.norm(w, 2) * cotangent).sum()))(w)
    np.testing.assert_allclose(gradient, exact, rtol=1e-9)
    assert abs((gradient * w).sum()) < 1e-12


def test_a_matrix_of_zeros_stays_one_with_a_finite_gradient():
    value, gradient = jax.value_and_grad(lambda w: constraints.spectral_normalize(w, jnp.ones(3)).w.sum())(
        jnp.zeros((3, 3))
    )
    assert value == 0
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: constraints.cayley(jnp.ones((2, 3))), r"free has shape \(2, 3\)"),
        (lambda: constraints.cayley(jnp.ones((2, 2), int)), "free is int32; expected floating point"),
        (
            lambda: constraints.cayley(jnp.eye(2), jnp.ones(3)),
            r"signs has shape \(3,\); expected \(…, N\) = \(2,\)",
        ),
        (lambda: constraints.cayley_inverse(2 * jnp.eye(2)), "w is not orthogonal: ‖WᵀW − I‖ is 4.2"),
        (lambda: constraints.orthogonality_penalty(jnp.ones(3)), "square"),
        (lambda: constraints.margin(jnp.eye(2), jnp.ones(2), jnp.eye(2), 1.5), "width is 1.5; expected"),
        (lambda: constraints.margin(jnp.eye(2), jnp.ones(3), jnp.eye(2), 0.5), "u, p and v have shapes"),
        (lambda: constraints.spectral_normalize(jnp.eye(2), jnp.ones(3)), r"vector has shape \(3,\)"),
        (lambda: constraints.spectral_normalize(jnp.eye(2), jnp.ones(2), steps=0), "steps is 0"),
    ],
)
def test_bad_arguments_name_the_remedy(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_normalisation_goes_on_after_a_matrix_of_zeros():
    made = constraints.spectral_normalize(jnp.zeros((2, 2)), jnp.ones(2))
    np.testing.assert_allclose(jnp.linalg.norm(made.vector), 1, rtol=1e-6)
    made = constraints.spectral_normalize(jnp.diag(jnp.array([4.0, 1.0])), made.vector, steps=20)
    np.testing.assert_allclose(made.w, np.diag([1, 0.25]), atol=1e-6)
    with pytest.raises(ValueError, match="vector is zero"):
        constraints.spectral_normalize(jnp.eye(2), jnp.zeros(2))
