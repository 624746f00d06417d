"""A scan and a loop give the same states; lengths freeze, reverse aligns, nothing is traced twice."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import bptt, cells, unroll
from tests.cases import ALL, D, N, assert_close, example, rounding

LENGTHS = jnp.array([3, 0, 12])


def jit_unroll(function):
    return jax.jit(function, static_argnums=0, static_argnames="reverse")


scan = jit_unroll(unroll.unroll)


@pytest.mark.parametrize(
    ("name", "lengths", "reverse", "dtype"),
    [
        ("elman-tanh", None, False, "float64"),
        ("elman-tanh", None, True, "float32"),
        ("elman-tanh", [3, 0, 5], False, "float32"),
        ("elman-tanh", [3, 0, 5], True, "float64"),
        ("stack", None, False, "float32"),
        ("stack", [3, 0, 5], True, "float64"),
    ],
    indirect=["dtype"],
)
def test_scan_and_loop_agree(name, lengths, reverse, dtype):
    cell = ALL[name]
    lengths = None if lengths is None else np.array(lengths)

    @jax.jit
    def three_ways(*case):
        runs = unroll.unroll, unroll.unroll_loop, unroll.final_state
        return [run(cell, *case, lengths=lengths, reverse=reverse) for run in runs]

    states, by_loop, final = three_ways(*example(cell, dtype, steps=5, batch=(3,)))
    assert_close(states, by_loop, rounding(dtype, 5))
    last = jax.tree.map(lambda leaf: leaf[0 if reverse else -1], states)
    assert_close(final, last, rounding(dtype, 5))


@pytest.mark.parametrize(
    ("cell", "dtype"),
    [(cells.gru(), "float32"), (ALL["stack"], "float64")],
    ids=["gru", "stack"],
    indirect=["dtype"],
)
def test_any_number_of_batch_axes_is_vmap(cell, dtype):
    params, state, xs = example(cell, dtype, batch=(2, 3))
    mapped = unroll.unroll
    for _ in range(2):
        mapped = jax.vmap(mapped, in_axes=(None, None, 0, 1), out_axes=1)
    expected = jax.jit(mapped, static_argnums=0)(cell, params, state, xs)
    assert_close(scan(cell, params, state, xs), expected, rounding(dtype, 12))


def test_a_sequence_is_frozen_after_its_length_and_may_have_length_zero():
    params, state, xs = example(cells.gru(), "float32", batch=(3,))
    states = scan(cells.gru(), params, state, xs, lengths=LENGTHS)
    full = scan(cells.gru(), params, state, xs)
    np.testing.assert_array_equal(states[2:, 0], jnp.broadcast_to(states[2, 0], (10, N)))
    np.testing.assert_array_equal(states[:, 1], jnp.broadcast_to(state[1], (12, N)))
    assert_close(states[:, 2], full[:, 2], rounding("float32", 12))


def test_in_reverse_the_state_stays_initial_over_the_padding():
    cell = cells.gru()
    params, state, xs = example(cell, "float32", batch=(3,))
    states = scan(cell, params, state, xs, lengths=LENGTHS, reverse=True)
    np.testing.assert_array_equal(states[3:, 0], jnp.broadcast_to(state[0], (9, N)))
    short = scan(cell, params, state[0], xs[:3, 0][::-1])[::-1]  # outputs stay aligned with their inputs
    assert_close(states[:3, 0], short, rounding("float32", 3))


@pytest.mark.parametrize("run", [unroll.unroll, bptt.unroll], ids=["plain", "bptt"])
def test_what_stands_in_the_padding_reaches_neither_states_nor_gradients(run):
    params, state, xs = example(cells.lstm(), "float32", batch=(3,))
    lengths = jnp.array([3, 0, 11])
    spoiled = jnp.where(unroll.valid(xs, lengths)[..., None], xs, jnp.nan)

    def loss(params, xs):
        return (run(cells.lstm(), params, state, xs, lengths=lengths).h ** 2).sum()

    value_and_grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    clean, dirty = value_and_grads(params, xs), value_and_grads(params, spoiled)
    chex.assert_trees_all_equal(clean, dirty)
    assert not dirty[1][1][3:, 0].any()


def test_the_second_call_is_not_traced_again():
    traced_once = jax.jit(chex.assert_max_traces(unroll.unroll, n=1), static_argnums=0)
    for seed in range(2):
        params, state, xs = example(cells.lstm(), "float32", seed=seed)
        traced_once(cells.lstm(), params, state, xs)


@pytest.mark.parametrize("run", [unroll.unroll, bptt.unroll], ids=["plain", "bptt"])
def test_both_directions_are_two_recurrences_aligned_with_the_inputs(run, float64):
    cell = cells.gru()
    a, b = example(cell, float64, seed=1), example(cell, float64, seed=2)
    together = jax.jit(partial(unroll.bidirectional, cell, unroll=run))
    both = together((a.params, b.params), (a.state, b.state), a.xs)
    assert_close(both.forward, scan(cell, a.params, a.state, a.xs), rounding(float64, 12))
    flipped = scan(cell, b.params, b.state, a.xs[::-1])[::-1]
    assert_close(both.backward, flipped, rounding(float64, 12))


def test_h_0_to_h_t_are_all_at_hand():
    params, state, xs = example(cells.lstm(), "float32", batch=())
    states = scan(cells.lstm(), params, state, xs)
    trajectory = unroll.with_initial(state, states)
    previous = unroll.previous_states(state, states)
    chex.assert_trees_all_equal(jax.tree.map(lambda leaf: leaf[0], trajectory), state)
    chex.assert_trees_all_equal(jax.tree.map(lambda leaf: leaf[1:], trajectory), states)
    chex.assert_trees_all_equal(jax.tree.map(lambda leaf: leaf[:-1], trajectory), previous)
    backward = unroll.previous_states(state, states, reverse=True)
    chex.assert_trees_all_equal(jax.tree.map(lambda leaf: leaf[-1], backward), state)
    chex.assert_trees_all_equal(backward.h[:-1], states.h[1:])


def test_inputs_may_be_a_tree_with_masks_in_it():
    def zoneout(params, state, inputs):
        x, keep = inputs
        return jnp.where(keep, state, params * x)

    xs = (jnp.arange(1.0, 5.0)[:, None], jnp.array([False, True, False, True])[:, None])
    states = unroll.unroll(zoneout, 2.0, jnp.zeros(1), xs)
    np.testing.assert_array_equal(states[:, 0], [2, 2, 6, 6])
    grad = jax.jit(jax.grad(lambda p: bptt.unroll(zoneout, p, jnp.zeros(1), xs).sum()))(2.0)
    assert grad == 1 + 1 + 3 + 3


class TestBadInput:
    cell = cells.elman()
    params = cell.init(jax.random.key(0), D, N)
    state = cell.initial_state(params, (2,))
    xs = jnp.ones((4, 2, D))

    @pytest.mark.parametrize(
        "run", [unroll.unroll, unroll.unroll_loop, unroll.final_state, bptt.unroll, bptt.final_state]
    )
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"xs": jnp.ones((0, 2, D))}, r"no time step.*T >= 1"),
            ({"xs": jnp.float32(1.0)}, r"expected \(T, \*B, features\)"),
            ({"xs": ()}, "no array"),
            ({"xs": (jnp.ones((4, 2)), jnp.ones((3, 2)))}, r"\[3, 4\] time steps"),
            ({"xs": jnp.ones((4, 2, D)).at[1, 0, 2].set(jnp.nan)}, r"xs has 1 entry .* index \(1, 0, 2\)"),
            ({"xs": jnp.ones((4, 2, D), int)}, "x is int32"),
            ({"xs": jnp.ones((4, D))}, r"batch shape \(\) but h has \(2,\)"),
            ({"state": jnp.full((2, N), jnp.inf)}, "state has 10 entries .* infinite"),
            (
                {"params": params._replace(b_h=jnp.full(N, jnp.nan))},
                r"params\.b_h has 5 entries .* learning rate",
            ),
            ({"lengths": jnp.array([1, 5])}, r"lengths holds 5; expected 0 <= length <= T = 4"),
            ({"lengths": jnp.array([-1, 2])}, "lengths holds -1"),
            (
                {"lengths": jnp.array([1, 2, 3])},
                r"lengths has shape \(3,\) but state has a leaf of shape \(2, 5\)",
            ),
            ({"lengths": jnp.array([1.0, 2.0])}, "lengths is float32; expected integers"),
        ],
    )
    def test_errors_name_the_value_and_the_remedy(self, run, change, message):
        arguments = {"params": self.params, "state": self.state, "xs": self.xs} | change
        with pytest.raises(ValueError, match=message):
            run(self.cell, **arguments)

    def test_small_integers_do_not_wrap(self):
        lengths = np.array([200, 3], np.uint8)
        xs = jnp.ones((300, 2, D))
        states = scan(self.cell, self.params, self.state, xs, lengths=lengths)
        np.testing.assert_array_equal(states[199, 0], states[-1, 0])
        with pytest.raises(ValueError, match="lengths holds 200"):
            unroll.unroll(self.cell, self.params, self.state, xs[:100], lengths=lengths)

    def test_what_is_no_step_is_refused(self):
        with pytest.raises(ValueError, match="expected a cell or a step"):
            unroll.unroll("lstm", self.params, self.state, self.xs)

    def test_a_step_that_changes_its_state_is_named(self):
        with pytest.raises(ValueError, match=r"float32\[2,2\] but the state it was given is float32\[2\]"):
            unroll.unroll(lambda p, s, x: jnp.outer(s, s), None, jnp.ones(2), jnp.ones((3, 1)))

    def test_shapes_are_checked_under_jit_too(self):
        with pytest.raises(ValueError, match="4 features"):
            scan(self.cell, self.params, self.state, jnp.ones((4, 2, D + 1)))
