"""Dropout is a network with some of its weights, zoneout one some of whose units wait; masks come from outside."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import bptt, cells, clipping, unroll
from tests.cases import (
    ALL,
    GRADIENT_BOUND,
    STACKS,
    N,
    assert_close,
    differs,
    example,
    random_cotangents,
    rounding,
)

LSTM, GRU, DEEP = cells.lstm(), cells.gru(), STACKS["stack"]
KEY = jax.random.key(3)


@partial(jax.jit, static_argnums=0)
def run(cell, params, state, xs):
    return unroll.unroll(cell, params, state, xs)


def thinned(params, masks):
    """The columns of W_hh that lead from dropped units taken out."""
    return params._replace(w_hh=jnp.asarray(np.asarray(params.w_hh) * np.asarray(masks[0])))


@pytest.mark.parametrize("name", ["elman-tanh", "leaky-pre", "gru", "lstm-forget-bias"])
def test_dropout_is_the_same_cell_without_the_weights_that_lead_from_what_is_dropped(name, float64):
    cell = ALL[name]
    params, state, xs = example(cell, float64, batch=())
    masks = cells.dropout_masks(KEY, cell.emit(state), 12, rate=0.4)
    assert set(np.unique(masks)) == {0, 1 / 0.6}
    without = thinned(params, masks)
    dropped = run(cells.recurrent_dropout(cell), params, state, (xs, masks))
    assert_close(dropped, run(cell, without, state, xs), rounding(float64))


def test_each_layer_of_a_stack_drops_by_a_mask_of_its_own(float64):
    params, state, xs = example(DEEP, float64, batch=())
    hidden = tuple(layer.emit(s) for layer, s in zip(DEEP.layers, state, strict=True))
    masks = cells.dropout_masks(KEY, hidden, 12, rate=0.4)
    assert (masks[0] != masks[1]).any()
    without = tuple(map(thinned, params, masks))
    dropped = run(cells.recurrent_dropout(DEEP), params, state, (xs, masks))
    assert_close(dropped, run(DEEP, without, state, xs), rounding(float64))


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def lstm_by_hand(p, state, x, mask):
    i, f, g, o = p.w_hh @ state.h + p.w_xh @ x + p.b_h
    c = sigmoid(f) * state.c + sigmoid(i) * mask * np.tanh(g)
    return cells.LSTMState(h=sigmoid(o) * np.tanh(c), c=c)


def gru_by_hand(p, h, x, mask):
    (r, z, n), (u_r, u_z, u_n) = p.w_hh @ h, p.w_xh @ x + p.b_h
    candidate = np.tanh(u_n + sigmoid(r + u_r) * (n + p.b_hn))
    return sigmoid(z + u_z) * h + (1 - sigmoid(z + u_z)) * mask * candidate


@pytest.mark.parametrize(("cell", "by_hand"), [(LSTM, lstm_by_hand), (GRU, gru_by_hand)], ids=["lstm", "gru"])
def test_candidate_dropout_is_the_cell_with_what_it_writes_masked(cell, by_hand, float64):
    params, state, xs = example(cell, float64, batch=())
    masks = cells.dropout_masks(KEY, cell.emit(state), 12, rate=0.4, each_step=True)
    dropped = run(cells.candidate_dropout(cell), params, state, (xs, masks))
    params, state, xs, masks = jax.tree.map(np.asarray, (params, state, xs, masks))
    for t in range(12):
        state = by_hand(params, state, xs[t], masks[t])
        assert_close(jax.tree.map(lambda leaf, t=t: leaf[t], dropped), state, rounding(float64))


def test_the_candidates_of_a_stack_are_dropped_layer_by_layer(float64):
    params, state, xs = example(cells.stack(GRU, LSTM), float64)
    masks = cells.dropout_masks(KEY, (state[0], state[1].h), 12, rate=0.4, each_step=True)
    dropped = run(cells.candidate_dropout(cells.stack(GRU, LSTM)), params, state, (xs, masks))
    below = run(cells.candidate_dropout(GRU), params[0], state[0], (xs, masks[0]))
    above = run(cells.candidate_dropout(LSTM), params[1], state[1], (below, masks[1]))
    assert_close(dropped, (below, above), rounding(float64))


def test_what_an_lstm_keeps_passes_a_candidate_that_is_dropped_at_the_rate_of_its_forget_gate(float64):
    params, state, xs = example(LSTM, float64, batch=())
    params = params._replace(w_hh=0 * params.w_hh)
    forget = sigmoid(np.asarray(params.w_xh[1] @ xs[0] + params.b_h[1]))

    @jax.jit
    def kept(mask):
        step = lambda c: cells.candidate_dropout(LSTM).step(params, state._replace(c=c), (xs[0], mask)).c
        return step(state.c), jax.jacfwd(step)(state.c)

    new, jacobian = kept(jnp.zeros(N))
    np.testing.assert_allclose(new, forget * state.c, rtol=1e-12)
    np.testing.assert_allclose(jacobian, np.diag(forget), atol=1e-12)
    assert differs(kept(jnp.ones(N))[0], new, 0.01)


def test_zoneout_keeps_what_its_mask_says_and_the_layer_above_reads_what_was_kept(float64):
    params, state, xs = example(DEEP, float64)
    masks = cells.zoneout_masks(KEY, state, 12, rates=0.5)
    zoned = run(cells.zoneout(DEEP), params, state, (xs, masks))
    steps = [jax.jit(layer.step) for layer in DEEP.layers]
    for t in range(12):
        x, new = xs[t], []
        for layer, step, p, s, mask in zip(DEEP.layers, steps, params, state, masks, strict=True):
            m = jax.tree.map(lambda leaf, t=t: leaf[t], mask)
            new.append(jax.tree.map(lambda m, a, b: jnp.where(m == 1, a, b), m, s, step(p, s, x)))
            x = layer.emit(new[-1])
        state = tuple(new)
        assert_close(jax.tree.map(lambda leaf, t=t: leaf[t], zoned), state, rounding(float64))


def test_zoneout_of_a_bare_step_is_that_of_the_cell_and_means_mix_old_and_new(dtype):
    params, state, xs = example(LSTM, dtype)
    means = cells.zoneout_means(state, 12, rates=cells.LSTMState(h=0.25, c=0.5))
    assert (means.h == 0.25).all()
    assert (means.c == 0.5).all()
    first = jax.tree.map(lambda leaf: leaf[0], (xs, means))
    new, plain = (
        jax.jit(cells.zoneout(LSTM.step))(params, state, first),
        jax.jit(LSTM.step)(params, state, xs[0]),
    )
    assert_close(new.h, 0.25 * state.h + 0.75 * plain.h, rounding(dtype))
    assert_close(new.c, 0.5 * state.c + 0.5 * plain.c, rounding(dtype))
    assert_close(jax.jit(cells.zoneout(LSTM).step)(params, state, first), new, 0)


def test_without_a_mask_that_masks_the_cell_is_what_it_was(float64):
    params, state, xs = example(LSTM, float64)
    plain = run(LSTM, params, state, xs)
    nothing = cells.zoneout_means(state, 12, rates=0)
    assert_close(run(cells.zoneout(LSTM), params, state, (xs, nothing)), plain, rounding(float64))
    everything = cells.dropout_masks(KEY, state.h, 12, rate=0)
    for dropout in (cells.recurrent_dropout, cells.candidate_dropout):
        assert_close(run(dropout(LSTM), params, state, (xs, everything)), plain, rounding(float64))
    waiting = run(cells.zoneout(LSTM), params, state, (xs, cells.zoneout_means(state, 12, rates=1)))
    assert_close(jax.tree.map(lambda leaf: leaf[-1], waiting), state, 0)


@pytest.mark.parametrize("dropout", [cells.recurrent_dropout, cells.candidate_dropout])
def test_gradients_along_time_come_through_masks_as_jax_has_them(dropout, float64):
    cell = cells.zoneout(dropout(LSTM))
    params, state, xs = example(LSTM, float64)
    masks = cells.zoneout_masks(KEY, state, 12, rates=0.3)
    xs = ((xs, cells.dropout_masks(KEY, state.h, 12, rate=0.5)), masks)
    cotangents = random_cotangents(run(cell, params, state, xs))

    @jax.jit
    def both(params, state, xs):
        by_hand = bptt.bptt(cell, params, state, xs, cotangents)
        automatic = jax.vjp(partial(unroll.unroll, cell), params, state, xs)[1](cotangents)
        return (by_hand.params, by_hand.state, by_hand.xs), automatic

    by_hand, automatic = both(params, state, xs)
    assert_close(by_hand, automatic, GRADIENT_BOUND["float64"])


def test_masks_are_a_function_of_their_key_with_the_means_that_are_asked_for():
    state = cells.LSTMState(h=jnp.zeros((40, N)), c=jnp.zeros((40, N)))
    masks, other = (cells.zoneout_masks(jax.random.key(s), state, 50, rates=0.3) for s in (0, 1))
    assert_close(cells.zoneout_masks(jax.random.key(0), state, 50, rates=0.3), masks, 0)
    assert differs(masks, other, 0.1)
    assert (masks.h != masks.c).any()
    for leaf in masks:
        assert leaf.shape == (50, 40, N)
        assert abs(leaf.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / leaf.size)
    dropped = cells.dropout_masks(jax.random.key(0), jnp.zeros((4000, N)), 2, rate=0.3)
    np.testing.assert_array_equal(dropped[0], dropped[1])
    anew = cells.dropout_masks(jax.random.key(0), jnp.zeros((4000, N)), 2, rate=0.3, each_step=True)
    assert (anew[0] != anew[1]).any()
    assert set(np.unique(anew)) == set(np.unique(dropped))
    assert abs(dropped.mean() - 1) < 4 * np.sqrt(0.3 / 0.7 / dropped[0].size)


def test_the_same_cell_gives_the_same_wrapped_cell_so_that_nothing_is_traced_again():
    assert cells.zoneout(LSTM) is cells.zoneout(LSTM)
    assert cells.zoneout(LSTM.step) is cells.zoneout(LSTM.step)
    assert cells.recurrent_dropout(DEEP) is cells.recurrent_dropout(DEEP)
    assert cells.candidate_dropout(GRU) is cells.candidate_dropout(GRU)
    assert cells.candidate_dropout(GRU) is not cells.recurrent_dropout(GRU)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cells.recurrent_dropout(cells.gru_reset_before()), "made of drive, recur, gates and update"),
        (lambda: cells.recurrent_dropout(LSTM.step), "got a function without"),
        (lambda: cells.candidate_dropout(cells.elman()), r"needs cells.lstm\(\), .* got another Cell"),
        (
            lambda: cells.candidate_dropout(DEEP),
            r"needs cells.lstm\(\), .* got another Cell",
        ),  # has a leaky layer
        (lambda: cells.candidate_dropout(GRU.step), "got another function"),
        (lambda: cells.candidate_dropout(cells.zoneout(LSTM)), r"zoneout\(candidate_dropout\(cell\)\)"),
        (lambda: cells.candidate_dropout(cells.candidate_dropout(GRU)), "got another Cell"),
        (
            lambda: cells.candidate_dropout(clipping.clip_along_time(GRU, 1.0)),
            "got a cell of clip_along_time",
        ),
        (lambda: cells.zoneout("lstm"), "expected a cell or a step"),
        (
            lambda: cells.dropout_masks(KEY, jnp.ones(2), 3, rate=1),
            r"rate is 1; expected a probability in \[0, 1\)",
        ),
        (lambda: cells.zoneout_masks(KEY, jnp.ones(2), 3, rates=1.5), r"rate is 1.5; expected .* \[0, 1\]"),
        (lambda: cells.zoneout_means(jnp.ones(2), 0, rates=0.5), "steps is 0"),
        (
            lambda: cells.zoneout(lambda p, s, x: s)(None, jnp.ones(2), (1.0, jnp.ones(3))),
            r"the mask is float32\[3\] but the state is float32\[2\]",
        ),
        (
            lambda: cells.recurrent_dropout(LSTM).step(
                *example(LSTM, "float32")[:2], (jnp.ones((2, 3)), jnp.ones(N))
            ),
            r"the mask is float32\[5\] but h is float32\[2,5\]",
        ),
        (
            lambda: cells.zoneout(DEEP).step(*example(DEEP, "float32")[:2], (jnp.ones((2, 3)), jnp.ones(N))),
            "the mask is a ArrayImpl; a stack of 2 layers takes a tuple of 2",
        ),
    ],
)
def test_bad_arguments_name_the_remedy(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_rates_that_half_precision_cannot_hold_are_those_that_are_drawn():
    masks = cells.zoneout_masks(jax.random.key(0), jnp.zeros(100_000, jnp.bfloat16), 1, rates=0.001)
    assert masks.dtype == jnp.bfloat16
    assert 0.0007 < np.asarray(masks, np.float32).mean() < 0.0013
