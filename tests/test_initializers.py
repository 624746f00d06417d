"""Recurrent matrices have the spectra that their names promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import cells, initializers


def test_gaussian_entries_have_variance_gain_squared_over_inputs():
    w = np.asarray(initializers.gaussian(1.5)(jax.random.key(0), (200, 800)))
    assert abs(w.std() - 1.5 / np.sqrt(800)) < 0.01 * w.std()


def test_a_gaussian_matrix_of_gain_g_has_spectral_radius_g_and_norm_2g():
    w = np.asarray(initializers.gaussian(0.4)(jax.random.key(1), (400, 400)))
    assert abs(np.abs(np.linalg.eigvals(w)).max() - 0.4) < 0.04
    assert abs(np.linalg.norm(w, 2) - 0.8) < 0.04


def test_orthogonal_matrices_have_all_singular_values_equal_to_the_gain(dtype):
    w = jax.jit(lambda key: initializers.orthogonal(0.7)(key, (30, 30), dtype))(jax.random.key(0))
    assert w.dtype == dtype
    np.testing.assert_allclose(np.linalg.svd(w, compute_uv=False), 0.7, rtol=50 * jnp.finfo(dtype).eps)


def test_orthogonal_matrices_are_haar_distributed():
    # Under Haar measure E[tr Q] = 0 and Var[tr Q] = 1; without the sign correction the diagonal is biased.
    keys = jax.random.split(jax.random.key(0), 2000)

    @jax.jit
    @jax.vmap
    def both(key):
        biased = jnp.linalg.qr(jax.random.normal(key, (8, 8)))[0]
        return jnp.trace(initializers.orthogonal()(key, (8, 8))), jnp.trace(biased)

    traces, biased = map(np.asarray, both(keys))
    assert abs(traces.mean()) < 4 / np.sqrt(2000)
    assert abs(biased.mean()) > 4 / np.sqrt(2000)  # the test tells the two apart


@pytest.mark.parametrize("size", [1, 2, 5, 64])
def test_spectral_radius_is_prescribed_exactly(size, dtype):
    w = jax.jit(lambda key: initializers.spectral_radius(0.95)(key, (size, size), dtype))(jax.random.key(3))
    eigenvalues = np.linalg.eigvals(np.asarray(w, np.float64))
    np.testing.assert_allclose(np.abs(eigenvalues).max(), 0.95, rtol=2000 * jnp.finfo(dtype).eps)


def test_identity_is_scaled():
    np.testing.assert_array_equal(initializers.identity(0.5)(jax.random.key(0), (3, 3)), 0.5 * np.eye(3))


def test_forget_gate_biases_leave_the_other_gates_at_zero():
    init = jax.jit(lambda key: cells.lstm().init(key, 2, 3, bias=initializers.forget_gate(1.5)))
    b = init(jax.random.key(0)).b_h
    np.testing.assert_array_equal(b, [[0] * 3, [1.5] * 3, [0] * 3, [0] * 3])


def test_chrono_biases_spread_timescales_up_to_the_longest():
    options = {"recurrent": initializers.zeros, "bias": initializers.chrono(101.0)}
    b = np.asarray(jax.jit(lambda key: cells.lstm().init(key, 2, 4000, **options).b_h)(jax.random.key(0)))
    times = np.exp(b[1])
    assert times.min() >= 1
    assert times.max() <= 100
    assert abs(times.mean() - 50.5) < 4 * 28.6 / np.sqrt(4000)
    np.testing.assert_array_equal(b[0], -b[1])
    b = np.asarray(jax.jit(lambda key: cells.gru().init(key, 2, 3, **options).b_h)(jax.random.key(0)))
    assert (b[1] > 0).all()
    assert not b[[0, 2]].any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: initializers.gaussian(-1.0), "gain is -1.0; expected a finite number >= 0"),
        (lambda: initializers.orthogonal(float("nan")), "gain is nan"),
        (lambda: initializers.spectral_radius(-0.5), "radius is -0.5"),
        (lambda: initializers.chrono(2), "longest is 2; expected more than 2"),
        (lambda: initializers.identity()(jax.random.key(0), (2, 3)), "square"),
        (lambda: initializers.spectral_radius(1.0)(jax.random.key(0), (2, 3)), "square"),
        (lambda: initializers.forget_gate()(jax.random.key(0), (3, 2)), "chrono"),
        (lambda: initializers.chrono(10)(jax.random.key(0), (5,)), "gated cells"),
    ],
)
def test_bad_arguments_name_the_remedy(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_orthogonal_matrices_of_a_batch_are_factored_one_by_one():
    # Two batched factorisations side by side can hang a CPU of two cores: see `initializers.orthogonal`.
    keys = jax.random.split(jax.random.key(0), 3)
    draw = jax.jit(jax.vmap(lambda key: initializers.orthogonal()(key, (5, 5), jnp.float32)))
    factored = [line for line in draw.lower(keys).as_text().splitlines() if "custom_call" in line]
    assert factored
    assert not [line for line in factored if "3x5x5" in line]
    for key, matrix in zip(keys, draw(keys), strict=True):
        np.testing.assert_array_equal(matrix, initializers.orthogonal()(key, (5, 5), jnp.float32))
