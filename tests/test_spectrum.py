"""Lyapunov exponents and singular values of long products: exact cases, published maps, and what is not resolved."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import digamma, polygamma

from rnn_jax import cells, jacobians, spectrum
from rnn_jax import unroll as unrolling
from tests.cases import D, N, example

OPTIONS = ("k", "align", "every", "blocks", "segments", "accuracy", "burn_in")


def compiled(function, **options):
    """Results as NumPy arrays: comparing those of JAX would compile each comparison."""
    run = jax.jit(function, **options)
    return lambda *args, **kwargs: jax.tree.map(np.asarray, run(*args, **kwargs))


along = compiled(spectrum.lyapunov, static_argnums=0, static_argnames=OPTIONS)
of_stack = compiled(spectrum.lyapunov_from_jacobians, static_argnames=OPTIONS[:-1])
singular_values = compiled(spectrum.log_singular_values, static_argnames=("lags", "accuracy"))
of_steps = compiled(spectrum.step_log_singular_values, static_argnames="accuracy")
state_jacobians = compiled(jacobians.state_jacobians, static_argnums=0)
unroll = compiled(unrolling.unroll, static_argnums=0)
drive = compiled(lambda cell, params, xs, h: cell.drive(params, xs) + cell.recur(params, h), static_argnums=0)

LINEAR = cells.elman(cells.identity)
EVERYTHING = {"burn_in": 0, "align": 0}
"""Every step counts."""


def constant(matrix, steps, dtype=None):
    matrix = np.asarray(matrix, dtype)
    return np.broadcast_to(matrix, (steps, *matrix.shape))


def orthogonal(rng, *shape):
    return np.linalg.qr(rng.normal(size=shape))[0]


def linear_network(w):
    size = len(w)
    return cells.ElmanParams(w_xh=np.zeros((size, 1)), w_hh=np.asarray(w), b_h=np.zeros(size))


def assert_same(actual, expected, atol=1e-11):
    """All fields of two results, to rounding."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=atol)


class TestRandomMatrices:
    """Newman (1986): λ_i = ½ [ln(2/N) + ψ((N − i + 1)/2)] for i.i.d. N(0, 1/N) entries, known with its spread."""

    SIZE, STEPS = 32, 3000

    @staticmethod
    @cache
    def results():
        """Exponents and singular values of one product."""
        stack = np.random.default_rng(0).normal(size=(TestRandomMatrices.STEPS, 32, 32)) / np.sqrt(32)
        return (
            of_stack(stack, align=0),
            singular_values(stack, lags=(len(stack),)),
            of_stack(np.sqrt(1.02) * stack, align=0),
        )

    def z(self, exponents, scale=1.0):
        """Deviations of all exponents in standard deviations, for entries N(0, scale/N)."""
        degrees = self.SIZE - np.arange(self.SIZE)
        expected = 0.5 * (np.log(2 * scale / self.SIZE) + digamma(degrees / 2))
        return (np.asarray(exponents) - expected) / self.spread(degrees)

    def spread(self, degrees):
        return np.sqrt(polygamma(1, degrees / 2) / (4 * self.STEPS))

    def agrees(self, z):
        """Σ z² is χ² of 32 degrees of freedom: one in 10⁴ exceeds 71. No single z beyond 4.5."""
        return (z**2).sum() < 71 and np.abs(z).max() < 4.5

    def test_every_exponent_is_newmans(self, float64):
        exponents, _, other_law = self.results()
        assert exponents.resolved.all()
        assert self.agrees(self.z(exponents.values))
        # The test tells a variance of 1.02/N from 1/N.
        assert not self.agrees(self.z(exponents.values, scale=1.02))
        assert not self.agrees(self.z(other_law.values))
        assert self.agrees(self.z(other_law.values, scale=1.02))

    def test_so_are_the_singular_values_of_the_product_that_no_float_can_hold(self, float64):
        _, result, _ = self.results()
        assert result.resolved.all()
        assert result.values[0, 0] - result.values[0, -1] > 6000
        assert self.agrees(self.z(result.values[0] / self.STEPS))
        assert not self.agrees(self.z(result.values[0] / self.STEPS, scale=1.02))

    def test_standard_errors_from_the_blocks_are_the_exact_spread(self, float64):
        # Each s² is χ²₉/9 times the variance: the mean of 32 of them is 1 ± .08.
        exponents, _, _ = self.results()
        ratios = np.asarray(exponents.standard_errors) / self.spread(self.SIZE - np.arange(self.SIZE))
        assert 0.7 < np.mean(ratios**2) < 1.35
        assert ratios.max() < 2.2
        assert ratios.min() > 0.3


class TestLinearNetworks:
    """Exponents of Wⁿ are ln|eigenvalues of W|, approached as 1/T."""

    STEPS = 2000

    def converged(self, values, w, bound=10.0):
        expected = np.log(np.sort(np.abs(np.linalg.eigvals(w)))[::-1])
        return np.abs(values - expected).max() < bound / self.STEPS

    def test_gaussian_weights_with_complex_pairs(self, float64):
        w = np.random.default_rng(4).normal(size=(6, 6)) / np.sqrt(6)
        eigenvalues = np.linalg.eigvals(w)
        assert 0 < (eigenvalues.imag != 0).sum() < 6
        result = along(LINEAR, linear_network(w), np.ones(6), np.zeros((self.STEPS, 1)))
        assert result.resolved.all()
        assert self.converged(result.values, w)
        assert not self.converged(result.values, 1.02 * w)

    def test_prescribed_eigenvalues_in_a_basis_that_is_not_orthogonal(self, float64):
        basis = np.random.default_rng(1).normal(size=(6, 6))
        w = basis @ np.diag([0.2, 1.5, -0.7, 1.0, 0.5, 0.1]) @ np.linalg.inv(basis)
        result = along(LINEAR, linear_network(w), np.zeros(6), np.zeros((self.STEPS, 1)))
        assert self.converged(result.values, w)
        assert np.abs(np.log(np.linalg.svd(w, compute_uv=False)) - result.values).max() > 0.1

    @pytest.mark.parametrize("gain", [0.5, 1.0, 1.25])
    def test_orthogonal_weights_have_all_exponents_equal_to_log_gain(self, gain, dtype):
        w = gain * orthogonal(np.random.default_rng(0), 6, 6)
        result = of_stack(constant(w, self.STEPS, dtype))
        np.testing.assert_allclose(result.values, np.log(gain), atol=10 * jnp.finfo(dtype).eps)
        assert result.resolved.all()
        assert result.standard_errors.max() < 10 * jnp.finfo(dtype).eps

    def test_triangular_weights_are_sorted_by_a_random_frame(self, float64):
        w = np.triu(np.random.default_rng(0).normal(size=(6, 6)), 1) + np.diag([0.1, 0.5, 0.2, 1.5, 1.0, 0.7])
        result = of_stack(constant(w, self.STEPS))
        assert self.converged(result.values, w, bound=50)
        assert (np.diff(result.values) < 0).all()
        # The identity is a frame that W never turns: Q R = W has Q = ±1, and the diagonal is what comes out.
        q, r = np.linalg.qr(w)
        np.testing.assert_array_equal(np.abs(q), np.eye(6))
        assert not self.converged(np.log(np.abs(np.diag(r))), w, bound=50)

    def test_a_jordan_block_grows_as_a_power_and_converges_as_one_over_steps(self, float64):
        # ‖Jᵗ‖ ~ t ρᵗ: from t = a to a + n the first exponent exceeds ln ρ by ln((a + n)/a) a run, as the second falls
        # short. It is never exactly ln ρ, as it would be from the identity.
        align = 200
        result = of_stack(constant([[0.9, 1.0], [0.0, 0.9]], self.STEPS), align=align)
        steps = np.cumsum(result.block_steps)
        excess = (np.asarray(result.history) - np.log(0.9)) * steps[:, None]
        growth = np.log((align + steps) / align)
        np.testing.assert_allclose(excess, np.stack([growth, -growth], axis=1), atol=0.02)
        np.testing.assert_allclose(result.history.sum(1), 2 * np.log(0.9), atol=1e-13)


class TestDeterminants:
    """Σ λ_i = mean ln|det J_t|, exactly, on the same trajectory."""

    @pytest.mark.parametrize("every", [1, 2, 3])
    def test_elman(self, every, float64):
        cell = cells.elman()
        params, state, xs = example(cell, float64, batch=(), steps=101)
        h = unroll(cell, params, state, xs)
        expected = np.log(1 - np.asarray(h) ** 2).sum(-1).mean() + np.linalg.slogdet(params.w_hh)[1]
        result = along(cell, params, state, xs, **EVERYTHING, every=every, blocks=7)
        assert result.block_steps.sum() == 101
        assert abs(result.values.sum() - expected) < 1e-9

    def test_lstm(self, float64):
        # log|det J| = Σ log f + Σ log|tanh(c_t) o (1 − o)| + log|det W_ho|.
        cell = cells.lstm()
        params, state, xs = example(cell, float64, batch=(), steps=101)
        states = unroll(cell, params, state, xs)
        previous = np.concatenate([np.asarray(state.h)[None], states.h[:-1]])
        a = drive(cell, params, xs, previous)
        f, o = 1 / (1 + np.exp(-a[:, 1])), 1 / (1 + np.exp(-a[:, 3]))
        log_det = (np.log(f) + np.log(np.abs(np.tanh(states.c) * o * (1 - o)))).sum(-1)
        expected = log_det.mean() + np.linalg.slogdet(params.w_hh[3])[1]
        result = along(cell, params, state, xs, **EVERYTHING)
        assert abs(result.values.sum() - expected) < 1e-9


def henon(params, state, x):
    return jnp.stack([1 - params * state[0] ** 2 + state[1], 0.3 * state[0]])


def driven_henon(params, state, x):
    return henon(params, state, x).at[0].add(x[0])


def cat(params, state, x):
    return (jnp.array([[2.0, 1.0], [1.0, 1.0]]) @ state) % 1


class TestMaps:
    def test_henon(self, float64):
        # λ .41922, −1.62319; dimension 1.25827.
        result = along(henon, 1.4, np.array([0.1, 0.1]), np.zeros((20_000, 1)))
        assert abs(result.values.sum() - np.log(0.3)) < 1e-12
        assert 5e-4 < result.standard_errors[0] < 5e-3
        assert abs(result.values[0] - 0.41922) < 3 * result.standard_errors[0]
        assert abs(result.values[1] + 1.62319) < 3 * result.standard_errors[1]
        assert abs(spectrum.kaplan_yorke(result.values) - 1.25827) < 2e-3
        assert result.resolved.all()

    def test_the_cat_map_exactly(self, float64):
        result = along(cat, None, np.array([0.1, 0.3]), np.zeros((500, 1)))
        golden = np.log((3 + np.sqrt(5)) / 2)
        assert abs(golden - 0.9624236501) < 1e-10
        np.testing.assert_allclose(result.values, [golden, -golden], atol=1e-14)

    def test_a_tent_map_written_as_a_relu_network(self, float64):
        # h = (relu(μ y), relu(2 μ y − μ)) of y = h_1 − h_2 is the tent of slope μ; every Jacobian has rank one.
        slope = 1.9
        params = cells.ElmanParams(
            w_xh=np.zeros((2, 1)),
            w_hh=np.array([[slope, -slope], [2 * slope, -2 * slope]]),
            b_h=np.array([0.0, -slope]),
        )
        result = along(
            cells.elman(jax.nn.relu), params, np.array([0.4, 0.0]), np.zeros((2000, 1)), **EVERYTHING
        )
        y = result.last.state @ np.array([1.0, -1.0])
        assert 0 < y < 1
        assert abs(result.values[0] - np.log(slope)) < 3 / 2000
        assert result.resolved[0]
        assert result.values[1] == -np.inf
        assert not result.resolved[1]
        assert result.upper_bounds[1] < -30


class TestOrder:
    def test_products_of_a_sequence_that_does_not_commute_are_in_the_right_order(self, float64):
        # Of period three: of two factors either order has the same eigenvalues.
        a, b, c = factors = np.random.default_rng(18).normal(size=(3, 5, 5))
        right, wrong = (
            np.sort(np.log(np.abs(np.linalg.eigvals(m))) / 3)[::-1] for m in (c @ b @ a, a @ b @ c)
        )
        assert np.abs(right - wrong).max() > 0.5
        steps = 900
        stack = np.tile(factors, (steps // 3, 1, 1))
        result = of_stack(stack)
        assert np.abs(result.values - right).max() < 10 / steps
        assert np.abs(result.values - wrong).max() > 0.5
        # A frame that is propagated forward with Jᵀ meets the factors in the wrong order.
        transposed = of_stack(np.swapaxes(stack, 1, 2))
        assert np.abs(transposed.values - wrong).max() < 10 / steps
        values = np.asarray(singular_values(stack[:120]).values)
        assert np.abs(values[120] / 120 - right).max() < 10 / 120
        assert np.abs(values[120] / 120 - wrong).max() > 0.5
        for n, product in ((1, c), (2, c @ b), (3, c @ b @ a)):
            np.testing.assert_allclose(values[n], np.log(np.linalg.svd(product)[1]), atol=1e-11)
        assert np.abs(values[2] - np.log(np.linalg.svd(b @ c)[1])).max() > 0.01


def diverge(kind, state, x):
    linear = 4 * state
    return jnp.stack([1 - 4 * state**2, jnp.where(state > 1e6, jnp.inf, linear), linear])[kind]


def swap(params, state, x):
    """A step of one's own, with a tree for a state."""
    return {"u": jnp.tanh(params * state["v"] + x), "v": state["u"][::-1] * x}


CELLS = {
    "elman": cells.elman(),
    "gru": cells.gru(),
    "lstm": cells.lstm(),
    "stack": cells.stack(cells.elman(), cells.gru()),
}


class TestTwins:
    @pytest.mark.parametrize(
        "name",
        ["lstm", "own", *(pytest.param(name, marks=pytest.mark.slow) for name in CELLS if name != "lstm")],
    )
    def test_without_the_jacobians_it_is_the_same_as_with_them(self, name, float64):
        if name == "own":
            step, (params, xs) = swap, (1.3, np.random.default_rng(0).normal(size=(40, D)))
            state = {"u": np.linspace(-1, 1, D), "v": np.linspace(0.2, 1, D)}
        else:
            step = CELLS[name]
            params, state, xs = example(step, float64, batch=(), steps=40)
        align = 5 if name == "own" else 0
        result = along(step, params, state, xs, burn_in=4, align=align)
        states = unroll(step, params, state, xs)
        stack = state_jacobians(step, params, jax.tree.map(lambda leaf: leaf[3], states), xs[4:])
        expected = of_stack(stack, align=align)
        assert result.block_steps.sum() == 36 - align
        assert result.resolved.all()
        assert_same(result._replace(last=result.last.frame), expected._replace(last=expected.last.frame))
        assert_same(result.last.state, jax.tree.map(lambda leaf: leaf[-1], states))

    def test_k_exponents_are_the_first_k_of_all(self, float64):
        cell = CELLS["lstm"]
        case = example(cell, float64, batch=(), steps=40)
        full, first = along(cell, *case, burn_in=4, align=0), along(cell, *case, burn_in=4, align=0, k=3)
        for name in ("values", "standard_errors", "upper_bounds", "finite_time", "history"):
            expected = np.asarray(getattr(full, name))[..., :3]
            np.testing.assert_allclose(getattr(first, name), expected, atol=1e-12, err_msg=name)
        np.testing.assert_allclose(first.last.frame, np.asarray(full.last.frame)[:, :3], atol=1e-12)

    def test_vmap_over_inputs_states_and_parameters_is_a_loop(self, float64):
        cell = CELLS["elman"]
        cases = [example(cell, float64, batch=(), steps=40, seed=seed) for seed in range(3)]
        batch = jax.jit(jax.vmap(partial(spectrum.lyapunov, cell, burn_in=4, align=0)))(
            *jax.tree.map(lambda *leaves: np.stack(leaves), *cases)
        )
        for i, case in enumerate(cases):
            assert_same(
                jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i], batch),
                along(cell, *case, burn_in=4, align=0),
            )

    def test_a_second_call_does_not_trace_again(self, float64):
        traces = []

        def step(params, state, x):
            traces.append(None)
            return jnp.tanh(params * state + x)

        run = jax.jit(partial(spectrum.lyapunov, step, **EVERYTHING))
        run(2.0, np.ones(2), np.ones((20, 2)))
        count = len(traces)
        run(3.0, np.zeros(2), np.zeros((20, 2)))
        assert len(traces) == count


class TestResume:
    @pytest.mark.parametrize("lost_at", [None, 3, 17])
    def test_two_halves_are_one_run(self, lost_at, float64):
        stack = np.random.default_rng(0).normal(size=(20, 3, 3))
        if lost_at is not None:
            stack[lost_at, 0] = stack[lost_at, 1]
        whole = of_stack(stack, align=0, blocks=4)
        first = of_stack(stack[:10], align=0, blocks=2)
        assert_same(of_stack(stack[10:], blocks=2, resume=first), whole)
        assert whole.resolved.tolist() == [True, True, lost_at is None]
        assert (whole.values[2] == -np.inf) == (lost_at is not None)
        assert np.isfinite(whole.upper_bounds).all()

    def test_a_trajectory_goes_on_from_its_last_state(self, float64):
        state, xs = np.array([0.1, 0.1]), np.zeros((34, 1))
        whole = along(henon, 1.4, state, xs, burn_in=4, align=0, blocks=3)
        first = along(henon, 1.4, state, xs[:14], burn_in=4, align=0, blocks=1)
        both = along(henon, 1.4, np.full(2, np.nan), xs[14:], blocks=2, resume=first)
        assert_same(both, whole)


class TestLongSums:
    def test_a_hundred_thousand_steps_in_float32_lose_nothing(self):
        # A scaled rotation: every length is √(a² + b²) of the rounded entries, to rounding.
        a, b = np.float32([0.9 * np.cos(1.0), 0.9 * np.sin(1.0)])
        exact = 0.5 * np.log(np.float64(a) ** 2 + np.float64(b) ** 2)
        steps = 110_000
        stack = constant([[a, -b], [b, a]], steps)
        result = of_stack(stack, blocks=1)
        assert np.abs(result.values - exact).max() < np.finfo(np.float32).eps / 4
        naive = np.cumsum(np.full(steps, exact, np.float32))[-1] / np.float64(steps)
        assert abs(naive - exact) > 1e-5  # the sum one by one in float32

    def test_the_compensation_is_what_it_takes(self):
        # 100 000 times ln .9 in float32, with what the sum has lost and without.
        length = np.full(1, 0.9, np.float32)
        zeros = np.zeros((1, 1), np.float32)
        start = spectrum._Sums(zeros, zeros, np.zeros((1, 1), bool), zeros, np.ones(1, int))

        @jax.jit
        def total():
            def body(_, sums):
                return spectrum._add(sums, 0, length, jnp.float32(1e-6), jnp.int32(0))

            return jax.lax.fori_loop(0, 100_000, body, start)

        sums = total()
        exact = 100_000 * np.float64(jnp.log(length)[0])
        plain, lost = np.float64(sums.logs[0, 0]), np.float64(sums.compensation[0, 0])
        assert abs(plain + lost - exact) < 1e-3
        assert abs(plain - exact) > 1


class TestSingularSteps:
    """Minus infinity, said to be unresolved; never NaN, and nothing else is touched."""

    def lost(self, result, which):
        values = np.asarray(result.values)
        assert not np.isnan(values).any()
        assert ((values == -np.inf) == which).all()
        assert (np.asarray(result.resolved) == ~np.asarray(which)).all()
        assert np.isfinite(result.upper_bounds).all()
        assert (result.standard_errors[np.asarray(which)] == np.inf).all()
        assert np.isfinite(result.standard_errors[~np.asarray(which)]).all()
        assert (result.rounding[np.asarray(which)] == np.inf).all()
        return values

    def test_one_zero_jacobian(self, dtype):
        stack = np.random.default_rng(0).normal(size=(40, 3, 3))
        stack[20] = 0
        result = of_stack(stack.astype(dtype), align=0)
        self.lost(result, np.full(3, True))
        # The block that holds it, and the history from there on.
        assert (np.isfinite(result.finite_time) == (np.arange(10) != 5)[:, None]).all()
        assert (np.isfinite(result.history) == (np.arange(10) < 5)[:, None]).all()

    def test_steps_of_rank_one(self, dtype):
        rng = np.random.default_rng(0)
        left, right = rng.normal(size=(2, 40, 3))
        result = of_stack((left[:, :, None] * right[:, None, :]).astype(dtype), align=0)
        self.lost(result, np.array([False, True, True]))
        # From q_t ∝ left_t on: J_{t+1} q_t = left_{t+1} (right_{t+1} · left_t)/|left_t|. A block has four steps.
        norms = np.linalg.norm(left, axis=1)
        lengths = np.log(np.abs((right[1:] * left[:-1]).sum(-1)) * norms[1:] / norms[:-1])
        expected = lengths[3:].reshape(9, 4).mean(1)
        np.testing.assert_allclose(result.finite_time[1:, 0], expected, atol=1e3 * jnp.finfo(dtype).eps)

    @pytest.mark.parametrize("dead", [1, 2])
    def test_dead_relu_units(self, dead, float64):
        # The rows of dead units are zero: so many exponents are lost, the others are those of the rest alone.
        cell = cells.elman(jax.nn.relu)
        rng = np.random.default_rng(0)
        w, bias = np.exp(rng.normal(size=(N, N))) / 15, np.zeros(N)
        bias[:dead] = -1e3
        params = cells.ElmanParams(w_xh=np.zeros((N, 1)), w_hh=w, b_h=bias)
        result = along(cell, params, np.full(N, 1e-3), np.zeros((400, 1)))
        values = self.lost(result, np.arange(N) >= N - dead)
        alive = np.log(np.sort(np.abs(np.linalg.eigvals(w[dead:, dead:])))[::-1])
        assert np.abs(values[: N - dead] - alive).max() < 20 / 400

    def test_an_lstm_with_an_empty_cell_state(self):
        # tanh(c_t) = 0 cuts h_t from its output gate: N of 2 N exponents are left. All gates are ½, g = 0, so that
        # h_t = c_t/2 and c_t = (½ + ¼ W_g) c_{t−1} to first order.
        cell = cells.lstm()
        params = example(cell, np.float32).params
        params = params._replace(w_xh=np.zeros_like(params.w_xh), b_h=np.zeros_like(params.b_h))
        state = jax.tree.map(np.zeros_like, example(cell, np.float32, batch=()).state)
        result = along(cell, params, state, np.zeros((400, D)), **EVERYTHING)
        values = self.lost(result, np.arange(2 * N) >= N)
        matrix = 0.5 * np.eye(N) + 0.25 * np.asarray(params.w_hh[2])
        left = np.log(np.sort(np.abs(np.linalg.eigvals(matrix)))[::-1])
        assert np.abs(values[:N] - left).max() < 10 / 400

    def test_a_step_that_kills_the_direction_in_the_lead_leaves_no_exponent_resolved(self, float64):
        # diag(16, 1, ¼) for long, then diag(0, 1, ¼): the second is known to grow as 1; that nothing of the first is
        # left, so that the product has one value of 0 and the others are 1 and ¼ⁿ, is not.
        stack = np.broadcast_to(np.diag([16.0, 1.0, 0.25]), (40, 3, 3)).copy()
        stack[30, 0, 0] = 0
        result = of_stack(stack, align=0)
        assert not result.resolved.any()
        assert np.isneginf(result.values).all()
        assert (np.asarray(result.upper_bounds) > np.array([0, np.log(0.25), -np.inf])).all()

    def test_a_gradient_of_a_few_exponents_copies_no_jacobians(self):
        stack = jnp.asarray(np.random.default_rng(0).normal(size=(100, 32, 32)).astype(np.float32))
        total = lambda stack: spectrum.lyapunov_from_jacobians(stack, k=2, align=0).values.sum()
        memory = jax.jit(jax.grad(total)).lower(stack).compile().memory_analysis()
        assert memory.temp_size_in_bytes < stack.nbytes / 2

    @pytest.mark.parametrize("end", ["small", "large"])
    def test_factors_next_to_the_ends_of_the_range(self, end, dtype):
        # Entries in [½, 1) times 2^−998 ~ 10^−300 (2^−102 ~ 10^−31 in float32), or whose sum of two overflows.
        rng = np.random.default_rng(0)
        stack = (rng.uniform(0.5, 0.99, (40, 3, 3)) * rng.choice([-1, 1], (40, 3, 3))).astype(dtype)
        limits = np.finfo(dtype)
        scale = {"small": limits.minexp + 24, "large": limits.maxexp}[end]
        scaled = np.ldexp(stack, scale)
        plain, extreme = of_stack(stack, align=0), of_stack(scaled, align=0)
        assert extreme.resolved.all()
        eps = float(jnp.finfo(dtype).eps)
        difference = np.asarray(extreme.values) - np.asarray(plain.values)
        np.testing.assert_allclose(difference, scale * np.log(2), atol=2 * abs(scale) * eps)

    @pytest.mark.parametrize("kind", [0, 1, 2])
    def test_a_trajectory_that_diverges_gives_nan_and_says_so(self, kind):
        # In the second J is 0 from where the state is infinite, and in the third 4 whatever the state.
        result = along(diverge, kind, np.ones(2, np.float32), np.zeros((100, 1), np.float32), **EVERYTHING)
        assert np.isnan(result.values).all()
        assert np.isnan(result.upper_bounds).all()
        assert not result.resolved.any()
        assert (result.standard_errors == np.inf).all()
        assert kind == 0 or np.abs(result.finite_time[0] - np.log(4)).max() < 1e-5  # as long as it was finite

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_jacobians_that_are_not_finite_give_nan_under_jit(self, bad):
        stack = np.random.default_rng(0).normal(size=(40, 3, 3)).astype(np.float32)
        stack[20, 1, 1] = bad
        result = of_stack(stack, align=0)
        assert np.isnan(result.values).all()
        assert not result.resolved.any()
        assert np.isfinite(result.finite_time[:5]).all()
        steps = of_steps(stack)
        assert np.isnan(steps.values[20]).all()
        assert not steps.resolved[20].any()
        assert np.isfinite(steps.values[:20]).all()
        stack = np.random.default_rng(0).normal(size=(120, 5, 5)).astype(np.float32)
        stack[20, 1, 1] = bad
        values = singular_values(stack)
        assert np.isfinite(values.values[:100]).all()
        assert np.isnan(values.values[100:]).all()
        assert not values.resolved[100:].any()


class TestEvery:
    def test_what_orthogonalising_rarely_loses_is_said_to_be_lost(self, float64):
        # Exponents from 0 to −3: after 30 steps the last is e^−90 of the first.
        stack = np.random.default_rng(0).normal(size=(600, 8, 8)) * np.exp(-0.4 * np.arange(8))[:, None]
        exact = of_stack(stack)
        rare = of_stack(stack, every=30)
        seen = np.asarray(rare.resolved)
        assert exact.resolved.all()
        assert 2 <= seen.sum() <= 7
        assert (np.diff(seen.astype(int)) <= 0).all()
        rare, exact = np.asarray(rare.upper_bounds), np.asarray(exact.values)
        assert np.abs(rare - exact)[seen].max() < 1e-2  # frames that were aligned otherwise
        assert (rare[~seen] > exact[~seen] - 1e-2).all()
        assert (rare[~seen] - exact[~seen]).max() > 0.05  # numbers as plausible, and wrong

    def test_one_orthogonalisation_after_all_steps_is_the_last_partial_block(self, float64):
        stack = np.random.default_rng(0).normal(size=(40, 3, 3))
        once, always = of_stack(stack, align=0, every=64), of_stack(stack, align=0)
        assert once.block_steps.tolist() == [40]
        assert abs(once.values[0] - always.values[0]) < 1e-12
        assert once.resolved.tolist() == [True, True, False]
        assert once.standard_errors[0] == np.inf  # one block says nothing


def graded_stack(kind, steps=64, size=12):
    """Jacobians of kinds of networks: what several of them at once can be resolved, and what not."""
    rng = np.random.default_rng(0)
    stack = rng.normal(size=(steps, size, size)) / np.sqrt(size)
    if kind == "saturated":  # a tanh network of gain 3
        return 3 * (1 - np.tanh(3 * rng.normal(size=(steps, size, 1))) ** 2) * stack
    if kind == "graded":
        return stack * np.exp(-0.4 * np.arange(size))[:, None]
    if kind == "singular":
        stack[:, 3] = stack[:, 4]
    return np.linalg.qr(stack)[0] if kind == "orthogonal" else stack


class TestEveryNone:
    """Several steps at once where rounding allows it: the twin is every step by itself."""

    @pytest.mark.parametrize("kind", ["contracting", "saturated", "orthogonal", "singular", "graded"])
    def test_exponents_are_those_of_every_step_within_the_accuracy_and_so_is_what_is_resolved(
        self, kind, dtype
    ):
        stack = graded_stack(kind).astype(dtype)
        always, rarely = of_stack(stack, align=0), of_stack(stack, align=0, every=None)
        assert rarely.resolved.tolist() == always.resolved.tolist()
        seen = always.resolved
        assert seen.sum() >= 8
        difference = np.abs(rarely.values[seen] - always.values[seen])
        assert difference.max() < 1e-3 / 4
        assert (difference <= (rarely.rounding + always.rounding)[seen]).all()
        # Where it went several steps at once, rounding is not what it was.
        if kind == "orthogonal" or (kind in ("contracting", "graded") and dtype == np.float64):
            assert (rarely.rounding != always.rounding)[seen].all()

    def test_rounding_that_a_step_within_made_and_a_later_one_hid_is_seen(self, float64):
        # Two steps stretch one direction and two the other: the frame that comes out is orthonormal, and at once its
        # second direction is made of rounding.
        turn = orthogonal(np.random.default_rng(0), 2, 2)
        first, second = (turn @ np.diag(stretch) @ turn.T for stretch in ([1e9, 1], [1, 1e9]))
        stack = np.tile(np.stack([first, first, second, second]), (10, 1, 1))
        always, blindly, rarely = (of_stack(stack, align=0, every=every) for every in (1, 4, None))
        assert always.resolved.all()
        assert blindly.resolved.all()
        assert abs(always.values.sum() - 9 * np.log(10)) < 1e-6  # ln|det|
        assert abs(blindly.values.sum() - 9 * np.log(10)) > 0.01
        np.testing.assert_array_equal(rarely.values, always.values)

    def test_steps_are_at_once_as_long_as_none_fails_and_tried_again_after_a_pause(self, float64):
        # Pauses of 8 groups after the first failure and of 16 after the second; frames tell which groups went at once.
        stack = graded_stack("contracting", steps=4 * 28)
        stack[[0, 36], 0] = 0  # groups 0 and 9
        stack[[0, 36], 0, 0] = 1e-14
        always, rarely = (of_stack(stack, align=0, blocks=28, every=every) for every in (1, None))
        same = (rarely.finite_time == always.finite_time).all(1)
        assert same.tolist() == [True] * 26 + [False] * 2

    def test_a_batch_still_decides_once(self):
        def branches(function, *shape):
            return str(jax.make_jaxpr(function)(np.ones(shape, np.float32))).count(" cond[")

        one = partial(spectrum.lyapunov_from_jacobians, every=None)
        assert branches(jax.vmap(jax.vmap(one)), 2, 2, 20, 3, 3) == branches(one, 20, 3, 3) > 0

    def test_a_batch_and_its_gradient_are_those_of_every_step(self, float64):
        stacks = np.stack([graded_stack("contracting"), graded_stack("saturated")])

        def loss(stacks, every):
            values = jax.vmap(partial(spectrum.lyapunov_from_jacobians, align=0, every=every))(stacks).values
            return (values[:, :6] ** 2).mean(), values

        (gradient, values), (expected, always) = (
            jax.jit(jax.grad(partial(loss, every=every), has_aux=True))(stacks) for every in (None, 1)
        )
        np.testing.assert_allclose(values, always, atol=1e-3 / 4)
        np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


class TestSegments:
    """Side by side, with a burn-in each: the twin is the run from the first step to the last."""

    SIZE, BURN_IN, ALIGN = 4, 60, 100

    def network(self, gain):
        """Its exponents lie apart, so that frames align soon."""
        rng = np.random.default_rng(0)
        scales = np.exp(-0.7 * np.arange(self.SIZE))[:, None]
        return cells.ElmanParams(
            w_xh=rng.normal(size=(self.SIZE, D)),
            w_hh=gain * scales * rng.normal(size=(self.SIZE, self.SIZE)) / np.sqrt(self.SIZE),
            b_h=np.zeros(self.SIZE),
        )

    def run(self, params, xs, **options):
        options = {"burn_in": self.BURN_IN, "align": self.ALIGN} | options
        return along(cells.elman(), params, np.full(self.SIZE, 0.3), xs, **options)

    @pytest.mark.parametrize("every", [1, None])
    def test_of_a_network_that_forgets_they_are_one_run(self, every, float64):
        params, xs = self.network(0.9), np.random.default_rng(1).normal(size=(576, D))
        whole = self.run(params, xs, blocks=8)
        parts = self.run(params, xs, blocks=8, segments=4, every=every)
        assert whole.values[0] < -0.5
        atol = 1e-9 if every == 1 else 1e-6
        for name in ("values", "standard_errors", "finite_time", "history", "upper_bounds"):
            np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), atol=atol, err_msg=name)
        assert parts.block_steps.tolist() == whole.block_steps.tolist() == [52] * 8
        assert parts.resolved.all()
        np.testing.assert_allclose(parts.last.state, whole.last.state, atol=1e-14)
        np.testing.assert_allclose(np.abs(parts.last.frame), np.abs(whole.last.frame), atol=atol)
        # Without what is discarded they are not.
        cold = self.run(params, xs, blocks=8, segments=4, burn_in=0, align=0)
        assert (
            np.abs(cold.finite_time - self.run(params, xs, blocks=8, burn_in=0, align=0).finite_time).max()
            > 1e-2
        )

    def test_a_segmented_run_goes_on_from_its_end(self, float64):
        params, xs = self.network(0.9), np.random.default_rng(1).normal(size=(760, D))
        whole = self.run(params, xs, blocks=3)
        first = self.run(params, xs[:560], blocks=2, segments=2)
        both = self.run(params, xs[560:], blocks=1, resume=first, burn_in=0, align=0)
        np.testing.assert_allclose(both.finite_time, whole.finite_time, atol=1e-9)
        np.testing.assert_allclose(both.values, whole.values, atol=1e-9)

    def test_of_a_chaotic_map_they_agree_within_standard_errors(self, float64):
        options = {"burn_in": 50, "align": 50, "blocks": 40}
        state, xs = np.array([0.1, 0.1]), 1e-3 * np.random.default_rng(0).normal(size=(4100, 1))
        whole, parts = (
            along(driven_henon, 1.4, state, xs, **options, segments=segments) for segments in (1, 8)
        )
        assert np.abs(parts.finite_time - whole.finite_time).max() > 1e-3  # other trajectories
        error = np.hypot(whole.standard_errors, parts.standard_errors)
        assert (np.abs(parts.values - whole.values) < 4 * error).all()
        assert error.max() < 0.02
        assert abs(parts.values.sum() - np.log(0.3)) < 1e-12

    def test_steps_that_do_not_divide_are_aligned_with_and_every_segment_has_a_block(self, float64):
        stack = graded_stack("contracting", steps=64, size=3)
        parts = of_stack(stack, align=10, segments=7, blocks=1)
        assert parts.block_steps.tolist() == [7] * 7  # of 54 steps the first five go to the alignment
        one = of_stack(stack[: 10 + 5 + 7], align=15)
        np.testing.assert_allclose(parts.finite_time[0], one.values, atol=1e-12)
        assert_same(parts.last.frame, of_stack(stack[-22:], align=15).last.frame)

    def test_segments_that_cannot_be_are_refused(self):
        def run(**options):
            xs = options.pop("xs", np.arange(20.0)[:, None])
            return spectrum.lyapunov(lambda p, s, x: s, None, np.ones(3), xs, **options)

        with pytest.raises(ValueError, match="segments is 2, and the input is the same at all times"):
            run(segments=2, xs=np.ones((20, 1)))
        with pytest.raises(
            ValueError, match=r"segments is 17; expected an integer in \[1, 16\], 16 = the steps"
        ):
            run(segments=17)
        with pytest.raises(ValueError, match="segments is 0"):
            run(segments=0)
        with pytest.raises(
            ValueError, match="burn_in is 18 and align 2, and there are 20 steps: none is left"
        ):
            run(burn_in=18, segments=2)
        first = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), jax.eval_shape(run))
        with pytest.raises(ValueError, match="segments is 2 with resume; expected 1"):
            run(resume=first, segments=2)


class TestAccuracy:
    def test_rounding_bounds_the_error_of_float32(self):
        rng = np.random.default_rng(0)
        for scale in (0.0, 1.0, 2.0):
            stack = (rng.normal(size=(40, 3, 3)) * np.exp(-scale * np.arange(3))[:, None]).astype(np.float32)
            result = of_stack(stack, align=0)
            # The same start in float64: the identity turned by the random frame of float32.
            frame = np.asarray(spectrum.random_frame(None, 3, 3, jnp.float32), np.float64)
            logs = np.zeros(3)
            for jacobian in stack.astype(np.float64):
                frame, r = np.linalg.qr(jacobian @ frame)
                logs += np.log(np.abs(np.diag(r)))
            error = np.abs(np.asarray(result.values, np.float64) - logs / 40)
            assert result.resolved.all()
            assert (error < result.rounding).all()
            assert error.max() > 1e-4 * result.rounding.max()


class TestDerivatives:
    def test_flossing_matches_finite_differences_in_both_modes(self, float64):
        # mean λ² (Engelken 2023). For an orthogonal linear network all exponents are equal, and so are the lengths.
        rng = np.random.default_rng(0)
        xs, state = 0.5 * rng.normal(size=(20, 4)), rng.normal(size=4)

        def step(params, state, x):
            z = params["w"] @ state + params["b"] + x
            return z + params["nonlinear"] * (jnp.tanh(z) - z)

        def loss(params):
            result = spectrum.lyapunov(step, params, state, xs, burn_in=2, align=0)
            return (result.values**2).mean()

        reverse_mode = jax.jit(jax.grad(loss))
        forward_mode = jax.jit(lambda p, d: jax.jvp(loss, (p,), (d,)))
        for nonlinear, w in ((1.0, 0.5 * rng.normal(size=(4, 4))), (0.0, 0.8 * orthogonal(rng, 4, 4))):
            params = {"w": w, "b": 0.1 * rng.normal(size=4), "nonlinear": np.asarray(nonlinear)}
            # Out of the linear networks there is no need to go.
            direction = {
                "w": rng.normal(size=(4, 4)),
                "b": rng.normal(size=4),
                "nonlinear": np.asarray(nonlinear),
            }
            ahead, behind = (
                forward_mode({name: params[name] + s * direction[name] for name in params}, direction)[0]
                for s in (1e-5, -1e-5)
            )
            difference = (ahead - behind) / 2e-5
            gradient = reverse_mode(params)
            reverse = sum(np.vdot(gradient[name], direction[name]) for name in params)
            assert abs(difference) > 1e-2
            assert abs(reverse - difference) < 1e-7
            assert abs(forward_mode(params, direction)[1] - reverse) < 1e-11


class TestSingularValues:
    def test_they_are_those_of_the_product_where_that_is_well_conditioned(self, float64):
        stack = np.random.default_rng(0).normal(size=(120, 5, 5))
        result = jax.tree.map(np.asarray, singular_values(stack))
        product = np.eye(5)
        for n in range(6):
            expected = np.linalg.svd(product, compute_uv=False)
            np.testing.assert_allclose(np.exp(result.values[n]), expected, rtol=1e-11)
            product = product @ stack[119 - n]
        assert result.resolved.all()
        assert (np.abs(result.values[0]) < 1e-14).all()

    def constructed(self, dtype, steps=120, size=5):
        """J_t = O_t D_t O_{t−1}ᵀ with known diagonals: every product is O_t ΠD O_kᵀ."""
        rng = np.random.default_rng(0)
        frames = orthogonal(rng, steps + 1, size, size)
        logs = rng.normal(-np.arange(size), 0.5, size=(steps, size))
        stack = frames[1:] * np.exp(logs)[:, None, :] @ np.swapaxes(frames[:-1], 1, 2)
        return stack.astype(dtype), logs

    def test_products_of_condition_10_to_the_200_are_resolved_in_every_dtype(self, dtype):
        stack, logs = self.constructed(dtype)
        result = singular_values(stack)
        sums = np.concatenate([np.zeros((1, 5)), np.cumsum(logs[::-1], 0)])
        expected = -np.sort(-sums, axis=1)
        assert expected[-1, 0] - expected[-1, -1] > 200 * np.log(10)
        assert result.resolved.all()
        error = np.abs(np.asarray(result.values) - expected)
        assert (error <= 10 * result.errors).all()
        assert error.max() < {"float32": 2e-2, "float64": 1e-10}[dtype.name]
        direct = np.linalg.svd(np.linalg.multi_dot(stack[-40:][::-1]), compute_uv=False)
        assert abs(np.log(direct[-1]) - expected[40, -1]) > 10  # what a decomposition makes of 40 factors

    def test_lags_may_come_in_any_order_twice_and_from_numpy(self, float64):
        stack, _ = self.constructed(float64)
        lags = (7, 0, 120, 7)
        full, some = singular_values(stack), singular_values(stack, lags=tuple(np.array(lags)))
        for a, b in zip(some, full, strict=True):
            np.testing.assert_allclose(a, np.asarray(b)[list(lags)], atol=1e-12)

    def test_what_a_singular_factor_leaves_is_resolved_and_the_rest_is_not(self, dtype):
        stack, _ = self.constructed(dtype)
        stack[50] = 0
        result = singular_values(stack)
        assert result.resolved[:70].all()
        assert not result.resolved[70:].any()
        assert np.isneginf(result.values[70:]).all()
        assert (result.errors[70:] == 1).all()
        left, right = np.random.default_rng(0).normal(size=(2, 120, 5))
        ranked = singular_values((left[:, :, None] * right[:, None, :]).astype(dtype))
        assert ranked.resolved[1:].tolist() == [[True] + [False] * 4] * 120
        assert np.isneginf(ranked.values[1:, 1:]).all()
        dots = np.log(np.abs((right[1:] * left[:-1]).sum(-1))).sum()
        expected = dots + np.log(np.linalg.norm(left[-1]) * np.linalg.norm(right[0]))
        assert abs(ranked.values[-1, 0] - expected) < 1e4 * jnp.finfo(dtype).eps

    def test_steps_with_saturated_units_are_exact(self):
        # diag(s) W with s down to 2^−100: far below ε σ_max. Rows so far apart have the lengths of Gram–Schmidt.
        rng = np.random.default_rng(0)
        w = rng.normal(size=(3, 3)).astype(np.float32)
        slopes = np.ldexp(1.0, np.array([-100, 0, -65]))
        stack = np.broadcast_to((slopes[:, None] * w).astype(np.float32), (40, 3, 3))
        result = of_steps(stack)
        assert result.resolved.all()
        r = np.abs(np.diag(np.linalg.qr(w[[1, 2, 0]].astype(np.float64).T)[1]))
        np.testing.assert_allclose(
            result.values[0], np.log(r * np.array([1.0, 2.0**-65, 2.0**-100])), rtol=1e-6
        )
        with np.errstate(divide="ignore"):
            dense = np.log(np.linalg.svd(stack[0], compute_uv=False))
        assert np.abs(dense - result.values[0]).max() > 1

    def test_a_dead_unit_is_not_resolved_and_the_others_are(self):
        stack = np.random.default_rng(0).normal(size=(40, 3, 3)).astype(np.float32)
        stack[1, 2] = 0
        result = of_steps(stack)
        assert result.resolved.sum() == 119
        assert not result.resolved[1, 2]
        assert result.values[1, 2] == -np.inf
        expected = np.log(np.linalg.svd(stack[1].astype(float))[1][:2])
        np.testing.assert_allclose(result.values[1, :2], expected, atol=1e3 * jnp.finfo(np.float32).eps)

    def test_forward_derivatives_are_those_of_the_scale_and_vmap_is_the_batch(self, float64):
        stack = self.constructed(float64, steps=8)[0]

        def values(log_scale):
            return spectrum.log_singular_values(jnp.exp(log_scale) * stack, lags=(3, 8)).values

        scales = np.array([0.0, 0.3])
        batch, slopes = jax.jit(jax.vmap(lambda s: jax.jvp(values, (s,), (1.0,))))(scales)
        lags = np.repeat([[3.0], [8.0]], 5, axis=1)
        np.testing.assert_allclose(batch[1] - batch[0], 0.3 * lags, atol=1e-12)
        np.testing.assert_allclose(slopes, [lags, lags], atol=1e-9)


class TestSummaries:
    def test_kaplan_yorke_interpolates_where_the_sum_changes_sign(self):
        ky = jax.jit(spectrum.kaplan_yorke)
        for exponents, expected in [
            ([0.41922, -1.62319], 1.25827),
            ([0.9056, 0.0, -14.5723], 2.06215),
            ([-14.5723, 0.9056, 0.0], 2.06215),
            ([-0.1, -0.2], 0.0),
            ([0.0, -0.5], 1.0),
            ([0.0, 0.0, -1.0], 2.0),
            ([1.0, -np.inf], 1.0),
            ([-np.inf, -np.inf], 0.0),
            ([0.5, -0.25, -0.5, -np.inf], 2.5),
        ]:
            assert abs(ky(np.array(exponents, np.float32)) - expected) < 1e-5, exponents

    def test_entropy_rates_are_sums_of_what_is_positive(self):
        rate = jax.jit(spectrum.entropy_rate)
        for exponents, expected in [
            ([0.5, 0.25, -1.0], 0.75),
            ([-1.0, 0.5], 0.5),
            ([-1.0, -np.inf], 0),
            ([0.0], 0),
        ]:
            assert rate(np.array(exponents, np.float32)) == expected, exponents

    def test_exponents_that_were_left_out_are_missed(self):
        leading = np.array([0.5, 0.1], np.float32)
        with pytest.raises(ValueError, match=r"2 exponents sum to 0.6.*Give more exponents, or size=S"):
            spectrum.kaplan_yorke(leading)
        with pytest.raises(
            ValueError, match=r"smallest of 2 exponents is 0.1.*Give more exponents, or size=S"
        ):
            spectrum.entropy_rate(leading)
        with pytest.raises(ValueError, match="sum to 0"):
            spectrum.kaplan_yorke(np.array([0.0]))
        for function in (spectrum.kaplan_yorke, spectrum.entropy_rate):
            with pytest.raises(ValueError, match="left out"):
                function(leading, size=3)
            assert np.isnan(jax.jit(function)(leading))
        # All are given: D is S.
        assert spectrum.kaplan_yorke(leading, size=2) == 2
        assert jax.jit(partial(spectrum.kaplan_yorke, size=2))(leading) == 2
        assert abs(spectrum.entropy_rate(leading, size=2) - 0.6) < 1e-6
        assert abs(jax.jit(spectrum.entropy_rate)(np.array([0.5, -0.1])) - 0.5) < 1e-6

    def test_what_is_not_known_has_no_dimension(self):
        unknown = np.array([0.5, np.nan, -1.0])
        assert np.isnan(spectrum.kaplan_yorke(unknown))
        assert np.isnan(spectrum.entropy_rate(unknown))
        assert np.isnan(spectrum.entropy_rate(unknown, size=3))

    @pytest.mark.parametrize("function", [spectrum.kaplan_yorke, spectrum.entropy_rate])
    def test_a_batch_is_for_vmap(self, function):
        with pytest.raises(ValueError, match=r"shape \(2, 2\); expected \(k,\).*vmap"):
            function(np.ones((2, 2)))
        with pytest.raises(ValueError, match="k >= 1"):
            function(np.ones(0))
        exponents = np.array([[0.5, -1.0], [-0.5, -1.0]])
        np.testing.assert_allclose(jax.vmap(function)(exponents), [function(row) for row in exponents])

    def test_participation_counts_the_weights_that_matter(self):
        ratio = jax.jit(spectrum.participation_ratio)
        rng = np.random.default_rng(0)
        w = rng.uniform(size=(3, 7))
        expected = w.sum(1) ** 2 / (w**2).sum(1)
        np.testing.assert_allclose(ratio(np.log(w).astype(np.float32)), expected, rtol=1e-5)
        for offset in (-1e4, 0.0, 1e4):
            assert ratio(np.full(7, offset, np.float32)) == 7
            assert ratio(np.array([-np.inf] * 6 + [offset], np.float32)) == 1
        assert ratio(np.full(7, -np.inf, np.float32)) == 0
        assert np.isnan(ratio(np.array([0.0] * 6 + [np.nan], np.float32)))


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"k": 4}, r"k is 4; expected an integer in \[1, 3\], 3 = S"),
            ({"k": 0}, r"k is 0; expected an integer in \[1, 3\]"),
            ({"k": 2.0}, "k is 2.0; expected an integer"),
            ({"align": 20}, "align (is )?20.* there are 20 steps: none is left to count"),
            ({"align": -1}, "align is -1; expected an integer >= 0"),
            ({"every": 0}, "every is 0; expected an integer >= 1"),
            ({"blocks": 0}, "blocks is 0; expected an integer >= 1"),
            ({"accuracy": 0}, "accuracy is 0; expected a positive number"),
            ({"accuracy": 1e-9}, "a step in float32 rounds at.*float64"),
        ],
    )
    def test_options_out_of_range_are_named(self, options, message):
        stack = np.ones((20, 3, 3))
        with pytest.raises(ValueError, match=message):
            spectrum.lyapunov_from_jacobians(stack, **options)
        with pytest.raises(ValueError, match=message):
            spectrum.lyapunov(
                lambda p, s, x: s, None, np.ones(3), np.ones((20, 1)), **{"burn_in": 0} | options
            )

    def test_burn_in_and_alignment_leave_something_to_count(self):
        def run(**options):
            return spectrum.lyapunov(lambda p, s, x: s, None, np.ones(3), np.ones((20, 1)), **options)

        with pytest.raises(
            ValueError, match="burn_in is 10 and align 10, and there are 20 steps: none is left"
        ):
            run(burn_in=10, align=10)
        with pytest.raises(
            ValueError, match=r"burn_in is 30 and align 2, .* none is left to count. Give more"
        ):
            run(burn_in=30)
        assert jax.eval_shape(partial(run, burn_in=10, align=9)).block_steps.shape == (1,)

    @pytest.mark.parametrize(
        "function",
        [spectrum.lyapunov_from_jacobians, spectrum.log_singular_values, spectrum.step_log_singular_values],
    )
    def test_stacks_are_square_and_finite(self, function):
        for stack, message in [
            (np.ones((3, 3)), r"shape \(3, 3\); expected \(T, S, S\)"),
            (np.ones((2, 4, 3, 3)), "vmap"),
            (np.ones((0, 3, 3)), "T >= 1"),
            (np.ones((4, 3, 2)), r"expected \(T, S, S\)"),
            (np.ones((4, 3, 3), int), "floating point"),
            (np.where(np.arange(36).reshape(4, 3, 3) == 19, np.nan, 1.0), r"1 entry .* index \(2, 0, 1\)"),
        ]:
            with pytest.raises(ValueError, match=message):
                function(stack)

    @pytest.mark.parametrize("function", [spectrum.log_singular_values, spectrum.step_log_singular_values])
    def test_an_accuracy_beyond_the_dtype_is_refused(self, function):
        with pytest.raises(ValueError, match=r"accuracy is 1e-09, but a step in float32 .*float64"):
            function(np.ones((4, 3, 3)), accuracy=1e-9)
        with pytest.raises(ValueError, match="accuracy is nan; expected a positive number"):
            function(np.ones((4, 3, 3)), accuracy=float("nan"))

    @pytest.mark.parametrize("lag", [-1, 5, 1.0, True])
    def test_lags_are_integers_up_to_the_number_of_steps(self, lag):
        with pytest.raises(ValueError, match=rf"lag is {lag}; expected an integer in \[0, 4\], 4 = T"):
            spectrum.log_singular_values(np.ones((4, 3, 3)), lags=[1, lag])

    def test_no_lag_is_too_few(self):
        with pytest.raises(ValueError, match="lags is empty"):
            spectrum.log_singular_values(np.ones((4, 3, 3)), lags=[])

    def test_a_run_goes_on_as_it_began(self):
        def run(steps=20, **options):
            return spectrum.lyapunov(
                lambda p, s, x: 0.5 * s, None, np.ones(3), np.ones((steps, 1)), **options
            )

        first = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), jax.eval_shape(partial(run, k=2)))
        with pytest.raises(
            ValueError, match=r"shape \(3, 2\); expected \(S, k\) = \(3, 3\). Ask for the same k"
        ):
            run(k=3, resume=first)
        with pytest.raises(ValueError, match="burn_in is 2 with resume; expected none"):
            run(k=2, resume=first, burn_in=2)
        with pytest.raises(ValueError, match="align is 2 with resume; expected none"):
            run(k=2, resume=first, align=2)

    def test_a_batch_is_sent_to_vmap(self):
        with pytest.raises(ValueError, match=r"leaf of shape \(2, 5\); exponents are of one sequence.*vmap"):
            spectrum.lyapunov(cells.lstm(), *example(cells.lstm(), "float32", batch=(2,)))


class TestRepr:
    def results(self):
        stack = np.random.default_rng(0).normal(size=(120, 5, 5))
        stack[:, 2] = stack[:, 1]
        return (
            of_stack(stack[:40, 2:, 2:], align=0),
            of_stack(stack[:40, :3, :3], align=0),
            singular_values(stack),
        )

    def test_results_print_as_short_tables(self, float64):
        regular, singular, values = self.results()
        assert regular.resolved.all()
        lines = repr(singular).splitlines()
        assert lines[0] == "Lyapunov exponents, nats per step: 40 steps in 10 blocks"
        assert len(lines) == 5
        assert f"{singular.values[0]:.4g}" in lines[2]
        assert "not resolved" in lines[4]
        assert f"< {singular.upper_bounds[2]:.4g}" in lines[4]
        assert "not resolved" not in repr(regular)
        many = jax.tree.map(lambda leaf: np.repeat(leaf, 20, axis=-1), regular._replace(last=()))
        assert len(repr(many._replace(block_steps=regular.block_steps)).splitlines()) == 14
        lines = repr(values).splitlines()
        assert lines[0] == "singular values, natural logarithms: 485 of 605 resolved"
        assert len(lines) == 12
        assert lines[-1].endswith("not resolved")

    def test_a_batch_prints_its_first_and_a_traced_result_its_shapes(self, float64):
        for result, name in zip(self.results()[1:], ("Lyapunov", "SingularValues"), strict=True):
            printed = []
            jax.eval_shape(lambda result, printed=printed: printed.append(repr(result)), result)
            assert printed[0].startswith(f"{name}(values=float64[")
            batch = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), result)
            assert repr(batch) == f"the first of a batch of (2,)\n{result!r}"
