"""Layer-normalised cells are their equations, and do not see the scale of their weights."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import bptt, cells, initializers, unroll
from rnn_jax.cells.normalized import EPSILON
from tests.cases import (
    GRADIENT_BOUND,
    NORMALIZED,
    D,
    N,
    assert_close,
    example,
    random_cotangents,
    rounding,
)

ELMAN, LSTM, GRU = NORMALIZED.values()
every_cell = pytest.mark.parametrize("cell", NORMALIZED.values(), ids=NORMALIZED)


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def ln(a):
    return (a - a.mean()) / np.sqrt(a.var() + EPSILON)


def elman_by_hand(p, h, x):
    return np.tanh(p.gain * ln(p.w_hh @ h + p.w_xh @ x) + p.b_h)


def lstm_by_hand(p, state, x):
    h, c = state
    i, f, g, o = p.gain_hh * ln(p.w_hh @ h) + p.gain_xh * ln(p.w_xh @ x) + p.b_h
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return cells.LSTMState(h=sigmoid(o) * np.tanh(p.gain_c * ln(c) + p.b_c), c=c)


def gru_by_hand(p, h, x):
    gates = p.gain_hh[:2] * ln(p.w_hh[:2] @ h) + p.gain_xh[:2] * ln(p.w_xh[:2] @ x) + p.b_h[:2]
    reset, keep = sigmoid(gates)
    inner = p.gain_hh[2] * ln(p.w_hh[2] @ h) + p.b_hn
    n = np.tanh(p.gain_xh[2] * ln(p.w_xh[2] @ x) + p.b_h[2] + reset * inner)
    return keep * h + (1 - keep) * n


@pytest.mark.parametrize(
    ("cell", "by_hand"),
    [(ELMAN, elman_by_hand), (LSTM, lstm_by_hand), (GRU, gru_by_hand)],
    ids=["elman", "lstm", "gru"],
)
def test_a_step_is_its_equations_sequence_by_sequence(cell, by_hand, float64):
    params, state, xs = example(cell, float64)
    new = jax.jit(cell.step)(params, state, xs[0])
    as_numpy = partial(jax.tree.map, np.asarray)
    for b in range(2):
        one = partial(jax.tree.map, lambda leaf, b=b: np.asarray(leaf[b]))
        assert_close(one(new), by_hand(as_numpy(params), one(state), np.asarray(xs[0, b])), rounding(float64))


@every_cell
def test_gains_start_at_one_in_the_dtype_of_the_parameters(cell, dtype):
    zero = {"recurrent": initializers.zeros, "kernel": initializers.zeros}
    params = cell.init(jax.random.key(0), D, N, dtype=dtype, **zero)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {dtype}
    gains = {name: value for name, value in params._asdict().items() if name.startswith("gain")}
    assert gains
    assert all((value == 1).all() for value in gains.values())


@every_cell
def test_a_step_does_not_change_with_the_scale_of_the_weights(cell, float64):
    params, state, xs = example(cell, float64)
    # Under one LN both matrices grow together; apart, one alone may.
    larger = params._replace(w_hh=7 * params.w_hh, w_xh=(7 if cell is ELMAN else 1) * params.w_xh)
    step = jax.jit(cell.step)
    assert_close(step(larger, state, xs[0]), step(params, state, xs[0]), 100 * EPSILON)


def test_a_state_of_zeros_multiplies_gradients_by_up_to_one_over_the_root_of_epsilon(float64):
    params, state, xs = example(GRU, float64, batch=())
    jacobian = jax.jit(jax.jacfwd(GRU.step, argnums=1))
    at_zero, elsewhere = (np.linalg.norm(jacobian(params, h, xs[0]), 2) for h in (0 * state, state))
    assert elsewhere < 3
    assert 5 * elsewhere < at_zero < 1 / np.sqrt(EPSILON)


def test_gradients_along_time_are_those_of_jax(float64):
    case = example(ELMAN, float64)
    cotangents = random_cotangents(jax.eval_shape(partial(unroll.unroll, ELMAN), *case))

    @jax.jit
    def both(params, state, xs):
        by_hand = bptt.bptt(ELMAN, params, state, xs, cotangents)
        return by_hand[:3], jax.vjp(partial(unroll.unroll, ELMAN), params, state, xs)[1](cotangents)

    by_hand, automatic = both(*case)
    assert_close(by_hand, automatic, GRADIENT_BOUND["float64"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gain_hh": jnp.ones(N)}, r"gain_hh has shape \(5,\); expected \(4, 5\)"),
        ({"gain_c": jnp.ones((4, N))}, r"gain_c has shape \(4, 5\); expected \(5,\)"),
        ({"w_hh": jnp.ones((N, N))}, r"w_hh has shape \(5, 5\); expected \(4, 5, 5\)"),
        ({"w_xh": jnp.ones((4, N, D + 1))}, "x has shape"),
    ],
)
def test_parameters_that_do_not_fit_name_the_remedy(change, message):
    params, state, xs = example(LSTM, "float32")
    with pytest.raises(ValueError, match=message):
        LSTM.step(params._replace(**change), state, xs[0])
    with pytest.raises(ValueError, match="activation is 'tanh'"):
        cells.layer_norm_elman("tanh")


def test_statistics_of_half_precision_are_in_single():
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float16), ELMAN.init(jax.random.key(0), 1, 2))
    params = params._replace(
        w_xh=jnp.array([[300.0], [-300.0]], jnp.float16), w_hh=jnp.zeros_like(params.w_hh)
    )
    h = ELMAN.step(params, jnp.zeros(2, jnp.float16), jnp.ones(1, jnp.float16))
    np.testing.assert_allclose(h, np.tanh([1, -1]), rtol=2e-3)
