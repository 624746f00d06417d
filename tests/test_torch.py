"""Claims held against torch: the outputs and gradients of nn.RNN, nn.GRU and nn.LSTM, from torch's own parameters.

The fast tests read what torch computed from `references/torch.npz` and do without torch; the slow ones run it.
"""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import bptt, cells, unroll
from tests.cases import assert_close, differs
from tests.references import convert, generate

pytestmark = pytest.mark.usefixtures("float64")

OUTPUTS, GRADIENTS = 1e-12, 1e-10  # ‖a − b‖₂ / ‖b‖₂ of each array
METADATA, COMMITTED = generate.load()

# Compiling is nearly all that these tests cost, and small arrays need no optimised code.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def run(unroll_with, case, torch_arguments):
    """torch's results from torch's arguments, by this library."""
    params, state, xs = convert.arguments(case, torch_arguments)
    cell, lengths = convert.cell(case), convert.lengths(case)
    if case.bidirectional:
        states = unroll.bidirectional(cell, params, state, xs, lengths=lengths, unroll=unroll_with)
    else:
        states = unroll_with(cell, params, state, xs, lengths=lengths)
    return convert.results(case, states)


def by_jax(unroll_with, case, torch_arguments, cotangents):
    """Results, and gradients by JAX through them."""
    results, pullback = jax.vjp(partial(run, unroll_with, case), torch_arguments)
    return results, pullback(cotangents)[0]


def by_bptt(case, torch_arguments, cotangents, *, cell=None):
    """The same by `bptt.bptt`; the conversions at both ends are linear, and transposed."""
    cell, lengths = cell or convert.cell(case), convert.lengths(case)
    (params, state, xs), to_torch = jax.vjp(partial(convert.arguments, case), torch_arguments)
    if case.bidirectional:
        states = unroll.bidirectional(cell, params, state, xs, lengths=lengths)
        results, pullback = jax.vjp(partial(convert.results, case), states)
        (d_states,) = pullback(cotangents)
        f = bptt.bptt(cell, params[0], state[0], xs, d_states.forward, lengths=lengths)
        b = bptt.bptt(cell, params[1], state[1], xs, d_states.backward, lengths=lengths, reverse=True)
        return results, to_torch(((f.params, b.params), (f.state, b.state), f.xs + b.xs))[0]

    states = unroll.unroll(cell, params, state, xs, lengths=lengths)
    results, pullback = jax.vjp(partial(convert.results, case), states)
    gradients = bptt.bptt(cell, params, state, xs, *pullback(cotangents), lengths=lengths)
    return results, to_torch((gradients.params, gradients.state, gradients.xs))[0]


WAYS = {
    "unroll.unroll": jit(partial(by_jax, unroll.unroll), static_argnums=0),
    "bptt.unroll": jit(partial(by_jax, bptt.unroll), static_argnums=0),
    "bptt.bptt": jit(by_bptt, static_argnums=0),
}
# The rest is in the slow job, where torch runs too.
FAST = {"one-layer": WAYS, "two-layers": ["bptt.bptt"], "both-directions-packed": ["bptt.unroll"]}


def assert_agrees(way, case, reference):
    results, gradients = WAYS[way](case, reference.arguments, reference.cotangents)
    assert_close(results, reference.results, OUTPUTS)
    assert_close(gradients, reference.gradients, GRADIENTS)


@pytest.mark.parametrize(
    ("name", "way"),
    [
        pytest.param(name, way, marks=() if way in FAST[name.split("/")[1]] else pytest.mark.slow)
        for name in generate.CASES
        for way in WAYS
    ],
)
def test_outputs_final_states_and_all_gradients_are_those_of_torch(name, way):
    assert_agrees(way, generate.CASES[name], COMMITTED[name])


def test_the_committed_arrays_say_what_made_them_and_hold_every_case_in_float64():
    assert METADATA["generator"] == "tests/references/generate.py"
    assert METADATA["torch"].item()[0].isdigit()
    assert METADATA["seed"] == generate.SEED
    assert METADATA["gain"] == generate.GAIN
    assert COMMITTED.keys() == generate.CASES.keys()
    assert {leaf.dtype for leaf in jax.tree.leaves(COMMITTED)} == {np.dtype("float64")}
    assert generate.PATH.stat().st_size < 200_000


@pytest.mark.parametrize("name", generate.CASES)
def test_the_committed_cases_are_hard_enough(name):
    """No bias, initial state or cotangent is zero, nor does one of torch's gradients vanish or explode."""
    reference = COMMITTED[name]
    for group in (reference.arguments, reference.cotangents):
        assert all((array != 0).all() for array in group.values())
    assert all(1e-2 < np.linalg.norm(array) < 1e3 for array in reference.gradients.values())


@pytest.mark.parametrize("name", generate.CASES)
def test_the_two_biases_of_torch_have_one_gradient_except_in_the_candidate_of_the_gru(name):
    case, gradients = generate.CASES[name], COMMITTED[name].gradients
    for bias_ih, bias_hh in ((k, k.replace("_ih", "_hh")) for k in gradients if k.startswith("bias_ih")):
        same = abs(gradients[bias_ih] - gradients[bias_hh]) < OUTPUTS
        candidate = np.arange(same.size) >= (2 if case.family == "GRU" else 4) * case.hidden
        np.testing.assert_array_equal(same, ~candidate)


def test_a_bias_outside_the_reset_gate_is_not_b_hn():
    case, reference = generate.CASES["GRU/one-layer"], COMMITTED["GRU/one-layer"]
    arguments, candidate = dict(reference.arguments), slice(2 * case.hidden, None)
    moved = np.zeros_like(arguments["bias_hh_l0"])
    moved[candidate] = arguments["bias_hh_l0"][candidate]
    arguments["bias_ih_l0"] = arguments["bias_ih_l0"] + moved
    arguments["bias_hh_l0"] = arguments["bias_hh_l0"] - moved
    assert differs(jit(partial(run, unroll.unroll, case))(arguments), reference.results, 1e-2)


def test_the_gru_of_torch_resets_after_the_product_and_not_before():
    case, reference = generate.CASES["GRU/one-layer"], COMMITTED["GRU/one-layer"]
    # Without b_hn the two forms have the same parameters, and still another n_t.
    arguments = reference.arguments | {"bias_hh_l0": np.zeros_like(reference.arguments["bias_hh_l0"])}
    params, h_0, xs = convert.arguments(case, arguments)
    before = cells.GRUResetBeforeParams(params.w_hh, params.w_xh, params.b_h)
    run_before = jit(lambda *a: unroll.unroll(cells.gru_reset_before(), *a))
    run_after = jit(lambda *a: unroll.unroll(cells.gru(), *a))
    assert differs(run_before(before, h_0, xs), run_after(params, h_0, xs), 1e-2)


@pytest.mark.parametrize("family", ["GRU", "LSTM"])
def test_any_other_order_of_the_gates_gives_other_outputs(family):
    case, reference = generate.CASES[f"{family}/one-layer"], COMMITTED[f"{family}/one-layer"]
    gates = convert.GATES[family]

    def outputs(order):
        def reorder(name, array):
            if not name.startswith(("weight", "bias")):
                return array
            return array.reshape(gates, case.hidden, *array.shape[1:])[order].reshape(array.shape)

        arguments = jax.tree.map(jnp.asarray, reference.arguments)
        return run(unroll.unroll, case, {name: reorder(name, array) for name, array in arguments.items()})

    orders = np.array(list(itertools.permutations(range(gates))))
    first, *others = np.asarray(jit(jax.vmap(outputs))(orders)["output"])
    assert_close(first, reference.results["output"], OUTPUTS)
    assert all(differs(output, reference.results["output"], 1e-2) for output in others)


def test_a_wrong_local_derivative_is_seen():
    """One gate's after the other, off by 1e-6 in the cell's own hand-written `pullback`."""
    case, reference, gates = generate.CASES["LSTM/one-layer"], COMMITTED["LSTM/one-layer"], 4
    cell = convert.cell(case)

    def gradients(off):
        def pullback(*args):
            ds, du, dr = cell.pullback(*args)
            factor = jnp.broadcast_to(1 + off[:, None], dr.shape)
            return ds, du * factor, dr * factor

        wrong = cell._replace(pullback=pullback)
        return by_bptt(case, reference.arguments, reference.cotangents, cell=wrong)[1]

    offs = np.concatenate([np.zeros((1, gates)), 1e-6 * np.eye(gates)])
    each = jit(jax.vmap(gradients))(offs)
    right, *wrong = [{name: array[i] for name, array in each.items()} for i in range(gates + 1)]
    assert_close(right, reference.gradients, GRADIENTS)
    assert all(differs(gradients, reference.gradients, GRADIENTS) for gradients in wrong)


LIVE_FORMS = {
    "long": {"steps": 400, "batch": 1, "hidden": 16},
    "wide": {"layers": 2, "steps": 20, "batch": 32, "inputs": 8, "hidden": 48},
    "packed": {"layers": 2, "steps": 60, "batch": 5, "lengths": (1, 60, 17, 59, 2)},
    "both-directions": {"bidirectional": True, "steps": 60, "batch": 5, "lengths": (1, 60, 17, 59, 2)},
}


LIVE_WAYS = {  # the committed cases go every way
    "long": ["bptt.unroll", "bptt.bptt"],
    "wide": ["bptt.bptt"],
    "packed": ["unroll.unroll", "bptt.bptt"],
    "both-directions": ["bptt.unroll"],
}


@pytest.mark.slow
@pytest.mark.parametrize("gain", [0.5, 1.0])
@pytest.mark.parametrize(("form", "way"), [(form, way) for form, ways in LIVE_WAYS.items() for way in ways])
@pytest.mark.parametrize("family", generate.FAMILIES)
def test_other_sizes_and_seeds_agree_with_torch_run_now(family, form, way, gain):
    pytest.importorskip("torch")
    case = generate.Case(family, **LIVE_FORMS[form])
    assert_agrees(way, case, generate.reference(case, seed=1, gain=gain))


@pytest.mark.slow
def test_the_committed_arrays_are_what_the_generator_writes(tmp_path):
    pytest.importorskip("torch")
    generate.save(tmp_path / "torch.npz")
    _, written = generate.load(tmp_path / "torch.npz")
    for name, reference in COMMITTED.items():
        jax.tree.map(np.testing.assert_array_equal, written[name].arguments, reference.arguments)
        # Another build of torch may round otherwise.
        assert_close(written[name], reference, OUTPUTS)
