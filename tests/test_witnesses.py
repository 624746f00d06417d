"""Lyapunov exponents held against two libraries that compute them by code of their own.

clvlib multiplies Jacobians that it is given: driven networks. lyapax differentiates a map: networks without input.
Both push a frame with J, newest factor on the left, as `spectrum` does. Where they start, count or sort otherwise,
comments say so. They are in the extra `peers`; a test whose library is not installed skips.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import cells, jacobians, spectrum
from tests import cases

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("float64")]

BOUND = 1e-9
"""Nats per step, for every exponent.

From the same Jacobians and frame only the rounding of each length is left, ε ‖J Q‖ / R_ii. The gains below keep it
under 1e-10; at gain 3 an R_ii of e^−16 leaves 5e-9.
"""

CONTROL = 1e-3
"""What some exponent is off by at least for Jacobians in the wrong order or transposed; 3e-3 to 8e-1 was found."""

ELMAN, LSTM = cells.elman(), cells.lstm()

jacobians_of = jax.jit(jacobians.state_jacobians, static_argnums=0)


def network(cell, *, gain, inputs=3, units=16):
    """Parameters and a state: weights N(0, gain²/N), biases N(0, .1²)."""
    rng = np.random.default_rng(0)
    params = jax.eval_shape(lambda key: cell.init(key, inputs, units, dtype=jnp.float64), jax.random.key(0))
    state = jax.eval_shape(cell.initial_state, params)

    def scale(path, leaf):
        return 0.1 if path[-1].name.startswith("b_") else gain / np.sqrt(leaf.shape[-1])

    params = jax.tree_util.tree_map_with_path(lambda p, leaf: cases.draw(rng, leaf, scale(p, leaf)), params)
    return params, jax.tree.map(lambda leaf: cases.draw(rng, leaf, 0.5), state)


def normal(*shape):
    return jnp.asarray(np.random.default_rng(1).normal(size=shape))


def reach(step, params, state, xs, *, align=0, **options):
    """A first run, for the state and the frame that both libraries start from."""
    run = jax.jit(
        lambda state, xs: spectrum.lyapunov(step, params, state, xs, align=align, blocks=1, **options)
    )
    return run(state, xs)


def from_jacobians(**options):
    """A function of (stack, first run): exponents of J_1 … J_T alone, from the frame that the first run reached."""

    def run(stack, first):
        return spectrum.lyapunov_from_jacobians(stack, resume=first, blocks=1, **options).finite_time[-1]

    return jax.jit(run)


def from_step(step, params, xs, first, **options):
    """The same from the step function, without a Jacobian."""

    def run(xs, first):
        result = spectrum.lyapunov(step, params, first.last.state, xs, resume=first, blocks=1, **options)
        return result.finite_time[-1]

    return jax.jit(run)(xs, first)


def assert_same(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=BOUND)


def assert_wrong_order_is_seen(exponents, stack, right):
    """For J_T … J_1 and for J_1ᵀ … J_Tᵀ."""
    for wrong in (stack[::-1], stack.swapaxes(1, 2)):
        assert np.abs(exponents(wrong) - right).max() > CONTROL


# clvlib: driven networks


def by_clvlib(stack, frame=None, *, discard=0, every=1):
    """Exponents of J_1 … J_T after the first `discard`, from a frame `(S, k)`, or from clvlib's own.

    Its own is the first k columns of the identity, and it counts from the first step. A frame that is given comes in
    as the Jacobian of a step before all others: Q_0 I = Q_0 has R = I. Means over fewer steps are taken from its
    history of R. Of a map it asks for J(t), and it divides by times: they are 0, 1, 2, …
    """
    clvlib = pytest.importorskip("clvlib")
    matrices = np.asarray(stack)
    steps, size, _ = matrices.shape
    assert steps % every == discard % every == 0, "clvlib leaves out what comes after the last full group"
    k = size
    if frame is not None:
        k = frame.shape[1]
        # The columns after the first k meet zeros of its identity; steps of I fill the group up.
        start = np.stack([np.pad(frame, ((0, 0), (0, size - k))), *[np.eye(size)] * (every - 1)])
        matrices = np.concatenate([start, matrices])
        discard += every
    _, _, _, triangular = clvlib.lyap_exp(
        lambda t, x: x,  # asked for, and not used: the trajectory is in the Jacobians
        lambda t, x: matrices[int(t)],
        np.zeros((len(matrices) + 1, size)),
        np.arange(len(matrices) + 1.0),
        k_step=every,
        stepper="discrete",
        n_lyap=k,
    )
    # Entry 0 is the start.
    lengths = np.diagonal(triangular[1 + discard // every :], axis1=1, axis2=2)
    return np.log(lengths).sum(0) / (len(matrices) - discard)


@pytest.mark.parametrize(("k", "every"), [(None, 1), (3, 4)], ids=["all", "leading"])
@pytest.mark.parametrize("cell", [ELMAN, LSTM], ids=["elman", "lstm"])
def test_exponents_of_a_driven_network_are_those_of_clvlib(cell, k, every):
    params, state = network(cell, gain=1.0)
    xs = normal(800, 3)
    first = reach(cell, params, state, xs[:200], k=k)
    stack = jacobians_of(cell, params, first.last.state, xs[200:])
    theirs = by_clvlib(stack, first.last.frame, every=every)
    assert_same(from_jacobians(k=k, every=every)(stack, first), theirs)
    assert_same(from_step(cell, params, xs[200:], first, k=k, every=every), theirs)
    assert_wrong_order_is_seen(partial(by_clvlib, frame=first.last.frame, every=every), stack, theirs)


def test_frames_that_start_apart_have_the_same_exponents_after_alignment():
    """The identity, counted by clvlib, and a random frame: burn-in and alignment discard what they say."""
    params, state = network(ELMAN, gain=1.2, units=5)
    xs, burn_in, align = normal(4000, 3), 500, 2500
    ours = reach(ELMAN, params, state, xs, burn_in=burn_in, align=align).values
    stack = jacobians_of(ELMAN, params, state, xs)[burn_in:]
    assert_same(ours, by_clvlib(stack, discard=align))
    for other in (align - 1, align + 1):
        assert np.abs(ours - by_clvlib(stack, discard=other)).max() > 1e-5


def test_exponents_of_a_period_are_its_eigenvalues_here_and_in_clvlib():
    """J_3 J_2 J_1 has eigenvalues 8, −1, ⅛; J_1 J_2 J_3, which a frame pushed with Jᵀ finds, has others."""
    rng = np.random.default_rng(2)
    vectors, first, second = rng.normal(size=(3, 3, 3))
    product = vectors @ np.diag([8, -1, 1 / 8]) @ np.linalg.inv(vectors)
    period = np.stack([first, second, product @ np.linalg.inv(second @ first)])
    stack, exact = np.tile(period, (200, 1, 1)), np.log([2, 1, 1 / 2])
    run = jax.jit(partial(spectrum.lyapunov_from_jacobians, align=300, blocks=1))
    assert_same(run(stack).values, exact)
    assert_same(by_clvlib(stack, discard=300), exact)
    assert_wrong_order_is_seen(partial(by_clvlib, discard=300), stack, exact)


# lyapax: maps without input


def by_lyapax(step, params, first, xs, *, every=1):
    """Exponents from the map, and the s_0 … s_{T−1} that they were found along; from the state and frame of `first`.

    lyapax draws a frame and aligns it while the state burns in; a checkpoint of its own goes on from one that is
    given. A map has dt = 1.
    """
    lyapax = pytest.importorskip("lyapax")
    state, frame = first.last
    steps, k = len(xs), frame.shape[1]

    def run(state, frame):
        start = lyapax.LyapunovCheckpoint(state, frame, jnp.zeros(k), elapsed_time=0.0, dt=1.0)
        options = {"renorm_every": every, "resume": start, "save_states": True}
        return lyapax.lyapunov_spectrum(lambda s: step(params, s, xs[0]), state, 1.0, steps, **options)

    with jax.numpy_rank_promotion("allow"):  # it adds (k,) to (T, k)
        result = jax.jit(run)(state, frame)
    # It sorts its exponents at the end; the checkpoint has them in the order of the frame.
    exponents = result.checkpoint.cum_log_growth / steps
    assert_same(np.sort(exponents)[::-1], result.exponents)
    return exponents, jnp.concatenate([state[None], result.trajectory[:-1]])


def along(orbit, step, params):
    """J_1 … J_T at the states s_0 … s_{T−1} that are given."""
    one = lambda s: jacobians.state_jacobians(step, params, s, jnp.zeros((1, 1)))[0]
    return jax.jit(jax.vmap(one))(orbit)


def autonomous(gain):
    params, state = network(ELMAN, gain=gain, inputs=1, units=32)
    return ELMAN.step, params, state


def henon():
    def step(params, state, x):
        a, b = params
        return jnp.stack([1 - a * state[0] ** 2 + state[1], b * state[0]])

    return step, (1.4, 0.3), jnp.zeros(2)


@pytest.mark.parametrize(("k", "every"), [(None, 1), (5, 4)], ids=["all", "leading"])
def test_exponents_of_a_chaotic_network_are_those_of_lyapax_along_the_same_orbit(k, every):
    """Orbits from two programs part after some hundred steps, so the Jacobians are those of the orbit of lyapax."""
    step, params, state = autonomous(2.5)
    xs = jnp.zeros((1000, 1))
    first = reach(step, params, state, xs[:400], k=k)
    theirs, orbit = by_lyapax(step, params, first, xs, every=every)
    assert theirs[0] > 0.1
    stack = along(orbit, step, params)
    ours = from_jacobians(k=k, every=every)
    assert_same(ours(stack, first), theirs)
    assert_wrong_order_is_seen(partial(ours, first=first), stack, theirs)


@pytest.mark.parametrize(
    ("gain", "steps"),
    [(2.5, 60), (0.9, 1000)],
    ids=["chaotic", "at-a-fixed-point"],
)
def test_exponents_from_the_step_are_those_of_lyapax(gain, steps):
    """Where there is chaos, over so few steps that ε exp(λ_1 T) stays below 1e-11."""
    step, params, state = autonomous(gain)
    xs = jnp.zeros((steps, 1))
    first = reach(step, params, state, jnp.zeros((400, 1)))
    theirs, _ = by_lyapax(step, params, first, xs)
    assert_same(from_step(step, params, xs, first), theirs)


def test_exponents_and_dimension_of_henon_are_those_of_lyapax_along_the_same_orbit():
    """One matrix takes its Jacobian to the transpose at all states: in the long run it cannot see a wrong order."""
    lyapax = pytest.importorskip("lyapax")
    step, params, state = henon()
    xs = jnp.zeros((2000, 1))
    first = reach(step, params, state, xs[:400])
    theirs, orbit = by_lyapax(step, params, first, xs)
    ours = np.asarray(from_jacobians()(along(orbit, step, params), first))
    assert_same(ours, theirs)
    assert_same(ours.sum(), np.log(0.3))
    assert_same(spectrum.kaplan_yorke(ours), lyapax.kaplan_yorke_dimension(theirs))
