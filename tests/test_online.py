"""Gradients forward in time equal those of BPTT, over a whole sequence and over windows that hand on the influence."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from rnn_jax import bptt, cells, jacobians, online, truncated, unroll
from tests.cases import ALL, assert_close, differs, rounding
from tests.test_truncated import LENGTHS, K, T, case_of, of_peephole, peephole

EXACT = 1e-10

METHODS = {
    "bptt": bptt.bptt,
    "windows": partial(truncated.windows, window=T),
    "sliding": partial(truncated.sliding, steps=T),
    "rtrl": online.rtrl,
}
"""Every method of the family, made exact."""


@partial(jax.jit, static_argnums=0)
def by_every_method(cell, *case, lengths=None):
    return {name: method(cell, *case, lengths=lengths) for name, method in METHODS.items()}


def assert_all_the_same(results):
    """The same four fields, which hold the same, or None."""
    exact = results["bptt"]
    for name, result in results.items():
        assert result._fields[:4] == bptt.Gradients._fields, name
        assert None not in (result.params, result.state), name
        for field in bptt.Gradients._fields:
            actual, expected = getattr(result, field), getattr(exact, field)
            if actual is not None:
                assert_close(actual, expected, EXACT)
    assert results["rtrl"].xs is results["rtrl"].deltas is None


QUICK = ("elman-tanh", "gru-reset-before", "stack")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in ALL]
)
def test_every_method_is_called_like_bptt_and_is_bptt_where_it_is_exact(name, float64):
    case = case_of(ALL[name], float64)
    assert_all_the_same(by_every_method(ALL[name], *case, lengths=LENGTHS))


@pytest.mark.parametrize("batch", [(), (3,)])
def test_every_method_takes_a_bare_step(batch, float64):
    # A bare step may have batch axes of which nobody else knows.
    cell = ALL["elman-tanh"]
    assert_all_the_same(by_every_method(cell.step, *case_of(cell, float64, batch=batch)))


def test_a_state_in_a_tree_of_your_own_has_an_influence_too(float64):
    params, *case = of_peephole(float64)
    step = lambda params, state, x: peephole(params | {"count": 2}, state, x)
    params = {name: params[name] for name in ("w", "p")}
    online_gradients, exact = jax.jit(lambda *case: (online.rtrl(step, *case), bptt.bptt(step, *case)))(
        params, *case
    )
    assert_close(online_gradients.params, exact.params, EXACT)
    assert_close(online_gradients.state, exact.state, EXACT)


# --- The recursion: over one window, from P_0 = 0, a broken one could hide. -----------------------------------


def test_windows_that_hand_on_the_influence_add_up_to_bptt_and_others_do_not(float64):
    cell, steps = ALL["lstm"], 3 * K
    params, state, xs, cotangents = case_of(cell, float64, steps=steps)
    run = jax.jit(partial(online.rtrl, cell))
    beginning = online.no_influence(cell, params, state)

    def over_windows(hand_on):
        s, influence, parts = state, beginning, []
        for start in range(0, steps, K):
            x, cotangent = jax.tree.map(lambda leaf, t=start: leaf[t : t + K], (xs, cotangents))
            part = run(params, s, x, cotangent, influence=hand_on(influence))
            s, influence = part.last, part.influence
            parts.append((part.params, part.state))
        return jax.tree.map(lambda *leaves: sum(leaves), *parts)

    @jax.jit
    def references(*case):
        return bptt.bptt(cell, *case), truncated.windows(cell, *case, window=K)

    full, windows = references(params, state, xs, cotangents)
    d_params, d_state = over_windows(lambda influence: influence)
    assert_close(d_params, full.params, EXACT)
    assert_close(d_state, full.state, EXACT)

    # Without the influence these are windows with a stopped gradient; with one that is 1 % off, neither.
    forgotten = over_windows(lambda influence: beginning)
    assert_close(forgotten[0], windows.params, EXACT)
    assert differs(forgotten[0], full.params, 1e-2)
    stretched = over_windows(lambda influence: jax.tree.map(lambda leaf: 1.01 * leaf, influence))
    assert differs(stretched[0], full.params, 1e-4)


def test_the_influence_obeys_its_recursion_with_the_exact_jacobians(float64):
    # P_t = J_t P_{t−1} + ∂s_t/∂θ and Φ_t = J_t … J_1, from the stacks of `jacobians`.
    cell = ALL["stack"]
    params, state, xs, cotangents = case_of(cell, float64, batch=(), steps=K)

    @jax.jit
    def both(*case):
        stacks = jacobians.state_jacobians(cell, *case), jacobians.parameter_jacobians(cell, *case)
        return online.rtrl(cell, *case, cotangents).influence, stacks

    influence, (stack, immediate) = both(params, state, xs)
    total = jax.tree.map(lambda leaf: np.zeros(leaf.shape[1:]), immediate)
    product = np.eye(stack.shape[-1])
    for t in range(K):
        j = np.asarray(stack[t])
        total = jax.tree.map(lambda p, now, t=t, j=j: np.tensordot(j, p, 1) + now[t], total, immediate)
        product = j @ product
    assert_close(influence.params, total, EXACT)
    assert_close(np.concatenate(jax.tree.leaves(influence.state), axis=-1), product, EXACT)


def test_step_by_step_with_losses_of_your_own_is_the_whole_sequence(float64):
    cell = ALL["elman-tanh"]
    params, state, xs, cotangents = case_of(cell, float64)
    whole = jax.jit(partial(online.rtrl, cell))(params, state, xs, cotangents)

    @jax.jit
    def one_step(state, influence, x, cotangent):
        state, influence = online.rtrl_step(cell, params, state, x, influence)
        return state, influence, online.contract(cell, influence, cotangent)

    influence, parts = online.no_influence(cell, params, state), []
    for t in range(T):
        x, cotangent = jax.tree.map(lambda leaf, t=t: leaf[t], (xs, cotangents))
        state, influence, part = one_step(state, influence, x, cotangent)
        parts.append((part.params, part.state))
    summed = jax.tree.map(lambda *leaves: sum(leaves), *parts)
    assert_close(summed, (whole.params, whole.state), rounding(float64))
    assert_close((state, influence), (whole.last, whole.influence), rounding(float64))


def test_where_the_parameters_change_the_gradient_is_off_by_the_order_of_the_change(float64):
    cell = ALL["elman-tanh"]
    params, state, xs, cotangents = case_of(cell, float64, batch=(), steps=12)
    direction = jax.tree.map(jnp.cos, params)
    last = jnp.zeros_like(cotangents).at[-1].set(cotangents[-1])

    @jax.jit
    def off_by(rate):
        at = lambda t: jax.tree.map(lambda p, d: p + (t - 11) * rate * d, params, direction)

        def step(carry, inputs):
            t, x = inputs
            return online.rtrl_step(cell, at(t), carry[0], x, carry[1]), None

        beginning = state, online.no_influence(cell, params, state)
        (_, influence), _ = lax.scan(step, beginning, (jnp.arange(12.0), xs))
        changing = online.contract(cell, influence, cotangents[-1]).params
        constant = online.rtrl(cell, params, state, xs, last).params
        difference = jax.tree.map(jnp.subtract, changing, constant)
        return jnp.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(difference)))

    errors = [off_by(rate) for rate in (1e-4, 5e-5)]
    assert errors[0] > 1e-5
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.01)


# --- What it costs. -------------------------------------------------------------------------------------------


def test_the_memory_does_not_grow_with_the_sequence():
    cell = ALL["gru"]

    def held(steps):
        case = case_of(cell, "float32", batch=(), steps=steps)
        compiled = jax.jit(partial(online.rtrl, cell)).lower(*case).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    # A few numbers a step would be kilobytes here.
    assert held(1000) - held(10) < 1000


# --- A published case in which truncation goes the wrong way. -------------------------------------------------


def balanced(theta, s, x):
    """Influence balancing (Tallec and Ollivier, Unbiased online recurrent optimization, ICLR 2018).

    s_t = A s_{t−1} + θ (1, …, 1, −1, …, −1) with 23 units, A_ii = A_i,i+1 = ½ and ten plus signs; L_t = ½ (s_t¹ − 1)².
    The influence of θ on the first unit is positive at first, and negative once the minus signs have come through.
    """
    del x
    return (s + jnp.append(s[1:], 0.0)) / 2 + theta * jnp.where(jnp.arange(23) < 10, 1.0, -1.0)


def test_short_truncation_has_the_wrong_sign_on_influence_balancing_and_this_the_right_one(float64):
    # At rest s¹ = 2 (10 − 13) θ, which has to rise to 1: θ has to fall from ½, and the gradient is positive.
    theta, state, xs = jnp.array(0.5), jnp.ones(23), jnp.zeros((400, 1))

    @jax.jit
    def gradients(*case):
        states = unroll.unroll(balanced, *case)
        case = *case, (states - 1) * (jnp.arange(23) == 0)[None]
        short = [truncated.sliding(balanced, *case, steps=k).params for k in (1, 10)]
        short += [truncated.windows(balanced, *case, window=k).params for k in (1, 10)]
        long = truncated.sliding(balanced, *case, steps=100).params
        rtrl = online.rtrl(balanced, *case)
        return short, long, rtrl.params, rtrl.last[0], bptt.bptt(balanced, *case).params

    short, long, forward, at_rest, exact = gradients(theta, state, xs)
    assert at_rest == pytest.approx(-6 * theta)
    np.testing.assert_allclose(forward, exact, rtol=EXACT)
    assert max(short) < 0 < min(long, exact)


class TestBadInput:
    def test_an_influence_too_large_to_hold_is_refused_with_its_size(self):
        cell = cells.lstm()
        params = jax.eval_shape(lambda key: cell.init(key, 512, 1024), jax.random.key(0))
        state = jax.eval_shape(cell.initial_state, params)
        with pytest.raises(
            ValueError, match=r"on 2048 state entries takes 48\.\d GiB.*at most 4.*bptt\.bptt"
        ):
            jax.eval_shape(partial(online.no_influence, cell), params, state)

    def test_an_influence_of_another_network_is_refused(self):
        cell = ALL["elman-tanh"]
        params, state, xs, cotangents = case_of(cell, "float32")
        other = online.no_influence(cell, params, state[:2])
        with pytest.raises(ValueError, match=r"influence is .*but that of such a state is.*to begin anew"):
            online.rtrl(cell, params, state, xs, cotangents, influence=other)

    def test_integers_among_the_parameters_or_in_the_state_are_refused(self):
        params, state, xs, cotangents = of_peephole("float32")
        with pytest.raises(ValueError, match="params has a leaf of dtype int32"):
            online.rtrl(peephole, params, state, xs, cotangents)
        count = lambda params, state, x: state + 1
        with pytest.raises(ValueError, match="the state has a leaf of dtype int32"):
            online.no_influence(count, jnp.ones(()), jnp.array(0))

    def test_cotangents_of_another_shape_are_refused(self):
        *case, cotangents = case_of(ALL["elman-tanh"], "float32")
        with pytest.raises(ValueError, match=r"cotangents is float32\[4,3,5\] but the states is"):
            online.rtrl(ALL["elman-tanh"], *case, cotangents[1:])


def test_half_precision_adds_up_in_single():
    cell = cells.elman(cells.identity)
    params = cells.ElmanParams(*(jnp.zeros(shape, jnp.bfloat16) for shape in ((1, 1), (1, 1), (1,))))
    ones = jnp.ones((1000, 1), jnp.bfloat16)
    gradients = jax.jit(online.rtrl, static_argnums=0)(cell, params, jnp.zeros(1, jnp.bfloat16), ones, ones)
    assert gradients.params.b_h.dtype == jnp.bfloat16
    assert gradients.params.b_h == 1000
