"""Backpropagation through time by hand equals `jax.grad`, everywhere, and it is really the hand that does it."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.interpreters import partial_eval

from benchmarks import loops
from rnn_jax import bptt, cells, jacobians, losses, readout, unroll
from tests.cases import (
    ALL,
    GRADIENT_BOUND,
    SINGLE,
    STACKS,
    STRUCTURED,
    D,
    N,
    assert_close,
    differs,
    example,
    random_cotangents,
    rounding,
)

LENGTHS = jnp.array([3, 0, 12])


def shown(value):
    """How an option is named in the name of a test; None for pytest's own way."""
    if value is LENGTHS:
        return "lengths"
    return ("reverse" if value else "forward") if isinstance(value, bool) else None


def bound(dtype):
    return GRADIENT_BOUND[dtype.name]


def gradients_of(run, cell, params, state, xs, cotangents, **options):
    """(∂/∂θ, ∂/∂h_0, ∂/∂xs) of an unrolling, by `jax.vjp` on the given cotangents."""
    return jax.vjp(partial(run, cell, **options), params, state, xs)[1](cotangents)


@partial(jax.jit, static_argnums=0, static_argnames="reverse")
def three_ways(cell, params, state, xs, cotangents, **options):
    """The gradients by hand, by hand as a custom VJP, and by JAX."""
    by_hand = bptt.bptt(cell, params, state, xs, cotangents, **options)
    arguments = (cell, params, state, xs, cotangents)
    return (
        (by_hand.params, by_hand.state, by_hand.xs),
        gradients_of(bptt.unroll, *arguments, **options),
        gradients_of(unroll.unroll, *arguments, **options),
    )


def cotangents_for(cell, case, **options):
    shapes = jax.eval_shape(partial(unroll.unroll, cell, **options), *case)
    return random_cotangents(shapes)


# All the other cells: where each of their derivatives is broken, below.
@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, "float64") for name in ("elman-tanh", "leaky-pre", "gru", "lstm", "gru-reset-before", *STACKS)]
    + [(name, "float32") for name in ("lstm", "stack-reset-before")],
    indirect=["dtype"],
)
def test_by_hand_equals_jax_grad_on_random_cotangents_at_every_step(name, dtype):
    cell = ALL[name]
    case = example(cell, dtype, steps=40)
    by_hand, by_vjp, automatic = three_ways(cell, *case, cotangents_for(cell, case))
    assert_close(by_hand, automatic, bound(dtype))
    assert_close(by_vjp, automatic, bound(dtype))


@pytest.mark.parametrize(
    ("name", "steps", "dtype"),
    [
        ("elman-tanh", 1, "float64"),
        ("stack", 1, "float64"),
        ("elman-tanh", 1000, "float32"),
        ("gru", 1000, "float64"),
        ("lstm", 1000, "float32"),
        ("gru-reset-before", 1000, "float32"),
    ],
    indirect=["dtype"],
)
def test_by_hand_equals_jax_grad_over_one_step_and_over_a_thousand(name, steps, dtype):
    cell = ALL[name]
    case = example(cell, dtype, steps=steps)
    by_hand, by_vjp, automatic = three_ways(cell, *case, cotangents_for(cell, case))
    assert_close(by_hand, automatic, bound(dtype))
    assert_close(by_vjp, automatic, bound(dtype))


@pytest.mark.parametrize(
    ("name", "lengths", "reverse"),
    [
        ("lstm", LENGTHS, False),
        ("lstm", LENGTHS, True),
        ("gru-reset-before", None, True),
        ("gru-reset-before", LENGTHS, True),
        ("stack-in-stack", LENGTHS, True),
        ("gru", jnp.array([[5, 0, 12], [1, 12, 4]]), True),
    ],
    ids=shown,
)
def test_by_hand_equals_jax_grad_with_lengths_and_in_reverse(name, lengths, reverse, float64):
    cell = ALL[name]
    case = example(cell, float64, batch=(3,) if lengths is None else lengths.shape)
    cotangents = cotangents_for(cell, case)
    by_hand, by_vjp, automatic = three_ways(cell, *case, cotangents, lengths=lengths, reverse=reverse)
    assert_close(by_hand, automatic, bound(float64))
    assert_close(by_vjp, automatic, bound(float64))


@pytest.mark.parametrize(
    ("name", "lengths", "reverse"),
    [
        ("elman-tanh", None, False),
        ("elman-tanh", LENGTHS, True),
        ("gru-reset-before", LENGTHS, False),
        ("gru-reset-before", None, True),
        ("stack", LENGTHS, True),
    ],
    ids=shown,
)
def test_the_gradient_of_the_final_state_alone_equals_jax_grad(name, lengths, reverse, float64):
    cell = ALL[name]
    params, state, xs = example(cell, float64, batch=(3,))
    cotangents = random_cotangents(state)
    options = {"lengths": lengths, "reverse": reverse}

    @jax.jit
    def both(params, state, xs):
        arguments = (cell, params, state, xs, cotangents)
        return (
            gradients_of(bptt.final_state, *arguments, **options),
            gradients_of(unroll.final_state, *arguments, **options),
        )

    by_hand, automatic = both(params, state, xs)
    assert_close(by_hand, automatic, bound(float64))


@pytest.mark.parametrize("name", ["elman-tanh", "gru", "stack"])
def test_no_batch_two_batch_axes_and_vmap_agree(name, float64):
    cell = ALL[name]
    case = example(cell, float64, batch=(2, 3))
    cotangents = cotangents_for(cell, case)
    native = jax.jit(partial(bptt.bptt, cell))(*case, cotangents)
    mapped = partial(bptt.bptt, cell)
    for _ in range(2):
        axes = bptt.Gradients(params=0, state=0, xs=1, deltas=1)
        mapped = jax.vmap(mapped, in_axes=(None, 0, 1, 1), out_axes=axes)
    mapped = jax.jit(mapped)(*case, cotangents)
    mapped = mapped._replace(params=jax.tree.map(lambda leaf: leaf.sum((0, 1)), mapped.params))
    assert_close(native, mapped, bound(float64))


@pytest.mark.parametrize("name", ["gru", "stack"])
def test_vmap_over_parameters_is_a_loop_over_networks(name, float64):
    cell = ALL[name]
    cases = [example(cell, float64, seed=seed) for seed in range(2)]
    cotangents = cotangents_for(cell, cases[0])
    together = jax.tree.map(lambda *leaves: np.stack(leaves), *cases)
    run = partial(gradients_of, bptt.unroll, cell)

    @jax.jit
    def both(together, cotangents):
        mapped = jax.vmap(run, in_axes=(0, 0, 0, None))(*together, cotangents)
        return mapped, lax.map(lambda case: run(*case, cotangents), together)

    assert_close(*both(together, cotangents), bound(float64))


@pytest.mark.parametrize(
    ("name", "lengths"), [("gru", None), ("gru", LENGTHS), ("stack-reset-before", LENGTHS)]
)
def test_a_bare_step_gives_what_its_cell_gives(name, lengths, float64):
    cell = ALL[name]
    case = example(cell, float64, batch=(3,))
    cotangents = cotangents_for(cell, case)

    @jax.jit
    def both(*arguments):
        return tuple(bptt.bptt(step, *arguments, lengths=lengths) for step in (cell, cell.step))

    assert_close(*both(*case, cotangents), bound(float64))


def test_a_step_of_your_own_needs_no_structure(float64):
    def peephole(params, state, x):  # a state tree, parameters in a dict, no batch axes native to it
        gate = jax.nn.sigmoid(params["w"] @ state["a"] + params["p"] * state["b"] + x["u"].sum())
        return {"a": jnp.tanh(state["b"] * x["v"]), "b": gate * state["b"] + (1 - gate) * state["a"]}

    keys = jax.random.split(jax.random.key(0), 4)
    params = {"w": jax.random.normal(keys[0], (N, N)) / 2, "p": jax.random.normal(keys[1], (N,))}
    state = {"a": jnp.ones(N), "b": jnp.linspace(-1, 1, N)}
    xs = {"u": jax.random.normal(keys[2], (9, D)), "v": jax.random.normal(keys[3], (9, N))}
    cotangents = cotangents_for(peephole, (params, state, xs))
    by_hand, by_vjp, automatic = three_ways(peephole, params, state, xs, cotangents)
    assert_close(by_hand, automatic, bound(float64))
    assert_close(by_vjp, automatic, bound(float64))


@pytest.mark.parametrize("name", ["leaky-pre", "gru-reset-before", "lstm", "stack"])
def test_deltas_obey_their_recursion_with_the_exact_jacobians(name, float64):
    # δ_{t−1} = J_tᵀ δ_t + ∂L/∂s_{t−1}, on the flattened state, δ_0 being the gradient of h_0.
    cell = ALL[name]
    case = example(cell, float64, batch=())
    cotangents = cotangents_for(cell, case)

    @jax.jit
    def both(*case):
        return bptt.bptt(cell, *case, cotangents), jacobians.state_jacobians(cell, *case)

    result, stacked = both(*case)
    deltas = flat(unroll.with_initial(result.state, result.deltas))
    immediate = flat(unroll.with_initial(jax.tree.map(jnp.zeros_like, result.state), cotangents))
    recursion = np.einsum("tij,ti->tj", stacked, deltas[1:]) + immediate[:-1]
    assert_close(deltas[:-1], recursion, GRADIENT_BOUND["float64"])
    np.testing.assert_array_equal(deltas[-1], immediate[-1])


def flat(tree):
    """A time-first tree as one array (T, S)."""
    return np.concatenate([np.asarray(leaf) for leaf in jax.tree.leaves(tree)], axis=-1)


# --- The hand-written derivatives are what runs: each one, broken, shows. ------------------------------------


def gate_by_gate(factors, array, axis):
    return jax.vmap(jnp.multiply, (0, axis), axis)(factors, array)


def off_by(cell, factors):
    """The cell with ds, du and dr of its pullback off by factors: one for each leaf of ds, each gate of du and dr."""

    def by_gate(pulled, factor):  # (B, N) is one gate
        return factor[0] * pulled if pulled.ndim == 2 else gate_by_gate(factor, pulled, axis=-2)

    def pullback(*arguments):
        ds, du, dr = cell.pullback(*arguments)
        leaves, structure = jax.tree.flatten(ds)
        ds = jax.tree.unflatten(structure, [f * leaf for f, leaf in zip(factors["ds"], leaves, strict=True)])
        return ds, by_gate(du, factors["du"]), by_gate(dr, factors["dr"])

    return cell._replace(pullback=pullback)


def derivatives_of(name):
    """The parts of a pullback that reach a gradient, and the entries of each."""
    gates = {"gru": 3, "lstm": 4}.get(name.split("-")[0], 1)
    carried = {"leaky": [0], "gru": [0], "lstm": [1]}.get(name.split("-")[0], [])  # of an LSTM c, not h
    return {"ds": carried, "du": range(gates), "dr": range(gates)}


def by_hand_alone(cell, case, cotangents):
    result = bptt.bptt(cell, *case, cotangents)
    return result.params, result.state, result.xs


def broken_and_automatic(cell, break_it):
    """From factors to the gradients of `break_it(cell, factors)` and JAX's of the cell: one program for them all."""
    case = example(cell, "float64", steps=3)
    cotangents = cotangents_for(cell, case)
    return jax.jit(
        lambda factors: (
            by_hand_alone(break_it(cell, factors), case, cotangents),
            gradients_of(unroll.unroll, cell, *case, cotangents),
        )
    )


def off_by_one_percent(ones, part, at):
    return ones | {part: np.where(np.arange(ones[part].size) == at, 1.01, ones[part])}


@pytest.mark.parametrize("name", STRUCTURED)
def test_breaking_any_one_derivative_of_any_cell_is_noticed(name, float64):
    cell, parts = STRUCTURED[name], derivatives_of(name)
    leaves = len(jax.tree.leaves(example(cell, float64).state))
    ones = {"ds": np.ones(leaves), "du": np.ones(len(parts["du"])), "dr": np.ones(len(parts["dr"]))}
    run = broken_and_automatic(cell, off_by)
    assert_close(*run(ones), bound(float64))
    every = [(part, at) for part, entries in parts.items() for at in entries]
    assert every == [one for one in every if differs(*run(off_by_one_percent(ones, *one)), 1e-6)]


def test_the_custom_vjp_runs_on_the_hand_written_derivatives_too(float64):
    cell = cells.lstm()
    case = example(cell, float64, steps=3)
    bad = off_by(cell, {"ds": (1, 1), "du": np.array([1, 1, 1, 1.01]), "dr": np.ones(4)})
    _, by_vjp, automatic = three_ways(bad, *case, cotangents_for(cell, case))
    assert differs(by_vjp, automatic, 1e-6)


@pytest.mark.parametrize("name", ["leaky-pre", "lstm"])
def test_breaking_the_derivative_of_what_a_cell_emits_is_noticed(name, float64):
    def scaled(cell, factor):
        return cell._replace(
            emit_pullback=lambda s, dh: jax.tree.map(lambda d: factor * d, cell.emit_pullback(s, dh))
        )

    run = broken_and_automatic(ALL[name], scaled)
    assert not differs(*run(1.0), 1e-6)
    assert differs(*run(1.01), 1e-6)


def test_breaking_the_whole_step_derivative_gate_by_gate_is_noticed(float64):
    def scaled(cell, factors):
        def step_pullback(*arguments):
            d_params, ds, dx = cell.step_pullback(*arguments)
            wrong = {leaf: gate_by_gate(f, getattr(d_params, leaf), 0) for leaf, f in factors.items()}
            return d_params._replace(**wrong), ds, dx

        return cell._replace(step_pullback=step_pullback)

    ones = dict.fromkeys(("w_hh", "w_xh", "b_h"), np.ones(3))
    run = broken_and_automatic(cells.gru_reset_before(), scaled)
    assert not differs(*run(ones), 1e-6)
    every = [(leaf, gate) for leaf in ones for gate in range(3)]
    assert every == [one for one in every if differs(*run(off_by_one_percent(ones, *one)), 1e-6)]


# --- The note's gradient, from the readout's loss to every parameter. -----------------------------------------


def whole_gradient_case(loss, dtype):
    """A readout of 4 outputs, and targets for 12 steps of 3 sequences."""
    rng = np.random.default_rng(5)
    out = readout.Readout(
        w_hy=jnp.asarray(rng.normal(size=(4, N)), dtype), b_y=jnp.asarray(rng.normal(size=4), dtype)
    )
    if loss is losses.CROSS_ENTROPY:
        return out, jnp.asarray(rng.integers(0, 4, (12, 3)))
    return out, jnp.asarray(rng.normal(size=(12, 3, 4)), dtype)


@pytest.mark.parametrize(
    ("name", "lengths", "loss"),
    [
        ("elman-tanh", None, losses.SQUARED_ERROR),
        ("elman-tanh", LENGTHS, losses.CROSS_ENTROPY),
        ("lstm", LENGTHS, losses.SQUARED_ERROR),
        ("stack", LENGTHS, losses.CROSS_ENTROPY),
    ],
)
def test_the_whole_gradient_by_hand_equals_jax_grad(name, lengths, loss, float64):
    cell = ALL[name]
    params, state, xs = example(cell, float64, batch=(3,))
    out, targets = whole_gradient_case(loss, float64)

    def loss_of(params, out, state, xs, weights):
        outputs = readout.linear(out, cell.emit(unroll.unroll(cell, params, state, xs, lengths=lengths)))
        return losses.total(loss.per_step(outputs, targets), weights)

    automatic = jax.jit(jax.value_and_grad(loss_of, argnums=(0, 1, 2, 3)))
    by_hand = jax.jit(partial(bptt.loss_gradients, cell, loss=loss))
    ends = jnp.full(3, 12) if lengths is None else lengths
    for weights in (losses.valid_steps(12, ends), losses.last_step(12, ends)):
        value, gradients = automatic(params, out, state, xs, weights)
        hand = by_hand(params, out, state, xs, targets, weights=weights, lengths=lengths)
        assert_close(hand.loss, value, bound(float64))
        assert_close((hand.params, hand.readout, hand.state, hand.xs), gradients, bound(float64))


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
def test_every_valid_step_counts_once_if_no_weights_are_given(lengths):
    cell = cells.gru()
    case = example(cell, "float32", batch=(3,))
    out, targets = whole_gradient_case(losses.CROSS_ENTROPY, "float32")
    run = jax.jit(partial(bptt.loss_gradients, cell))
    weights = jnp.ones((12, 3), bool) if lengths is None else losses.valid_steps(12, lengths)
    arguments = (case.params, out, case.state, case.xs, targets)
    # Two programs, compiled apart: they may round differently. One step counted wrongly is one in 36.
    without, given = run(*arguments, lengths=lengths), run(*arguments, lengths=lengths, weights=weights)
    assert_close(without, given, rounding("float32", 12))


# --- What the custom VJP promises. ------------------------------------------------------------------------


def test_states_are_those_of_the_plain_unroll(dtype):
    cell = STACKS["stack"]
    case = example(cell, dtype)
    states = jax.jit(partial(bptt.unroll, cell))(*case)
    assert_close(states, jax.jit(partial(unroll.unroll, cell))(*case), rounding(dtype, 12))
    last = jax.jit(partial(bptt.final_state, cell))(*case)
    assert_close(last, jax.tree.map(lambda leaf: leaf[-1], states), rounding(dtype, 12))


@pytest.mark.parametrize(
    ("cell", "what", "store"),
    [
        (cells.lstm(), bptt.unroll, "gates"),
        (cells.elman(), bptt.unroll, "states"),
        (cells.gru(), bptt.final_state, "checkpoints"),
    ],
    ids=["lstm-gates", "elman-states", "gru-checkpoints"],
)
def test_the_second_call_is_not_traced_again(cell, what, store):
    def loss(params, state, xs):
        return (cell.emit(what(cell, params, state, xs, store=store)) ** 2).sum()

    chex.clear_trace_counter()  # which goes by names
    traced_once = jax.jit(jax.grad(chex.assert_max_traces(loss, n=1)))
    for seed in range(2):
        traced_once(*example(cell, "float32", seed=seed))


def test_forward_mode_is_refused_here_and_works_on_the_plain_path():
    cell = cells.elman()
    params, state, xs = example(cell, "float32")
    tangent = jnp.ones_like(state)
    jax.jvp(lambda s: unroll.unroll(cell, params, s, xs), (state,), (tangent,))
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(lambda s: bptt.unroll(cell, params, s, xs), (state,), (tangent,))


@pytest.mark.parametrize("name", SINGLE)
def test_weight_gradients_are_formed_outside_the_loop(name):
    cell = SINGLE[name]
    params, state, xs = example(cell, "float32")

    def products_in_loops(run):
        def loss(params):
            return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(run(cell, params, state, xs)))

        jaxpr = jax.make_jaxpr(jax.grad(loss))(params).jaxpr
        live, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))  # as the compiler does
        return loops.weight_gradient_products(live)

    assert products_in_loops(bptt.unroll) == 0
    assert products_in_loops(unroll.unroll) > 0  # automatic differentiation leaves them inside


def test_a_step_that_does_not_count_may_have_a_target_that_is_not_a_number():
    cell = cells.gru()
    case = example(cell, "float32", batch=(3,))
    out, targets = whole_gradient_case(losses.SQUARED_ERROR, "float32")
    spoiled = jnp.where(losses.valid_steps(12, LENGTHS)[..., None], targets, jnp.nan)
    run = jax.jit(partial(bptt.loss_gradients, cell, loss=losses.SQUARED_ERROR))
    arguments = (case.params, out, case.state, case.xs)
    chex.assert_trees_all_equal(
        run(*arguments, spoiled, lengths=LENGTHS), run(*arguments, targets, lengths=LENGTHS)
    )


class TestBadInput:
    cell = cells.lstm()
    params, state, xs = example(cell, "float32")

    @pytest.mark.parametrize(
        ("cotangents", "message"),
        [
            (jnp.ones((12, 2, N)), r"cotangents is float32\[12,2,5\] but the states is .*emit_pullback"),
            (cells.LSTMState(jnp.ones((12, 2, N)), jnp.ones((11, 2, N))), r"float32\[11,2,5\]"),
            (cells.LSTMState(*[jnp.full((12, 2, N), jnp.nan)] * 2), r"cotangents\.h has 120 entries"),
        ],
        ids=["tree", "shape", "nan"],
    )
    def test_cotangents_must_be_like_the_states(self, cotangents, message):
        with pytest.raises(ValueError, match=message):
            bptt.bptt(self.cell, self.params, self.state, self.xs, cotangents)

    def test_integer_states_are_sent_to_jax_grad(self):
        def count(params, state, x):
            return {"h": params * state["h"] + x, "n": state["n"] + 1}

        state = {"h": jnp.zeros(2), "n": jnp.zeros((), int)}
        with pytest.raises(ValueError, match=r"leaf of dtype int32.*jax\.grad"):
            jax.grad(lambda p: bptt.unroll(count, p, state, jnp.ones((3, 2)))["h"].sum())(1.0)

    @pytest.mark.parametrize(
        ("state", "xs", "store", "message"),
        [
            ((), xs, None, r"the state is \(\); expected one array or more"),
            (state, xs, "gate", r"store is 'gate'; expected one of \('gates', "),
            (state, {"x": xs}, None, r"xs is \{.x.: float32\[1,2,3\]\}; expected one array"),
        ],
        ids=["empty", "store", "xs"],
    )
    def test_what_a_sequence_is_made_of_is_checked(self, state, xs, store, message):
        with pytest.raises(ValueError, match=message):
            bptt.unroll(self.cell, self.params, state, xs, store=store)

    def test_a_bare_step_has_no_readout(self):
        with pytest.raises(ValueError, match="needs a cell, whose emit"):
            bptt.loss_gradients(
                self.cell.step, self.params, None, self.state, self.xs, jnp.zeros((12, 2), int)
            )

    def test_targets_and_readouts_are_checked(self):
        out = readout.Readout(w_hy=np.ones((4, N), np.float32), b_y=np.zeros(4, np.float32))
        labels = np.zeros((12, 2), np.int32)
        above = np.where(np.arange(12)[:, None] == 0, 4, labels)
        run = partial(bptt.loss_gradients, self.cell, self.params)
        with pytest.raises(ValueError, match=r"labels holds 4; expected 0 <= label < 4"):
            run(out, self.state, self.xs, above)
        with pytest.raises(ValueError, match=r"weights has shape \(12,\); expected \(T, \*B\) = \(12, 2\)"):
            run(out, self.state, self.xs, labels, weights=np.ones(12, np.float32))
        with pytest.raises(ValueError, match=r"readout_params\.b_y has 4 entries"):
            run(out._replace(b_y=np.full(4, np.inf, np.float32)), self.state, self.xs, labels)
