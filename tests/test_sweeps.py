"""The backward sweep in every mode equals automatic differentiation, and costs what it says."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import partial_eval

from rnn_jax import bptt, cells, sweeps, unroll
from tests.cases import (
    ALL,
    GRADIENT_BOUND,
    SINGLE,
    assert_close,
    differs,
    draw,
    example,
    multiplications,
    random_cotangents,
    rounding,
)

STEPS = 41  # a prime: no chunk length divides it
LENGTHS = jnp.array([3, 0, STEPS])
every_store = pytest.mark.parametrize("store", sweeps.STORES)
on_a_cpu = pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="other backends have names and fusions of their own"
)


@pytest.fixture
def short_chunks(monkeypatch):
    """Chunks of 7 steps for three sequences."""
    monkeypatch.setattr(sweeps, "_ROWS", 21)
    monkeypatch.setattr(sweeps, "_LEAST_CHUNKS", {"gates": 1, "states": 1})


def gradients_of(run, cell, params, state, xs, cotangents, **options):
    return jax.vjp(partial(run, cell, **options), params, state, xs)[1](cotangents)


automatic = jax.jit(partial(gradients_of, unroll.unroll), static_argnums=0)


def problem(cell, dtype="float64"):
    case = example(cell, dtype, steps=STEPS, batch=(3,))
    return case, random_cotangents(jax.eval_shape(partial(unroll.unroll, cell), *case))


@pytest.mark.parametrize(
    ("name", "store"),
    [
        # Which gates are kept differs from cell to cell; how they are formed again does not.
        *[
            (name, "gates")
            for name in ("elman-tanh", "elman-identity", "elman-softplus", "leaky-post", "gru")
        ],
        *[(name, "states") for name in ("elman-softplus", "leaky-pre", "lstm")],
        *[(name, "checkpoints") for name in ("elman-tanh", "leaky-post", "gru")],
    ],
)
def test_every_store_gives_the_gradient_where_no_chunk_length_divides_the_sequence(
    name, store, short_chunks, float64
):
    cell = SINGLE[name]
    case, cotangents = problem(cell)
    assert STEPS % sweeps.plan(cell, store, False, *case).chunk != 0
    by_hand = jax.jit(partial(gradients_of, partial(bptt.unroll, store=store), cell))(*case, cotangents)
    assert_close(by_hand, automatic(cell, *case, cotangents), GRADIENT_BOUND["float64"])


@pytest.mark.parametrize(
    ("name", "store", "reverse"),
    [
        ("lstm", "gates", True),
        ("lstm", "states", False),
        ("lstm", "checkpoints", True),
        ("gru-reset-before", "gates", False),
        ("gru-reset-before", "states", True),
        ("gru-reset-before", "checkpoints", False),
        pytest.param("stack-in-stack", "gates", True, marks=pytest.mark.slow),
        pytest.param("stack-in-stack", "states", True, marks=pytest.mark.slow),
        pytest.param("stack-in-stack", "checkpoints", False, marks=pytest.mark.slow),
    ],
)
def test_every_store_gives_the_gradient_with_lengths_and_in_reverse(
    name, store, reverse, short_chunks, float64
):
    cell = ALL[name]
    case, cotangents = problem(cell)
    last = random_cotangents(case.state, seed=3)

    @jax.jit
    def both(params, state, xs):
        options = {"lengths": LENGTHS, "reverse": reverse}
        result = bptt.bptt(cell, params, state, xs, cotangents, store=store, **options)
        by_hand = (
            (result.params, result.state, result.xs),
            gradients_of(partial(bptt.final_state, store=store), cell, params, state, xs, last, **options),
        )
        automatic = (
            gradients_of(unroll.unroll, cell, params, state, xs, cotangents, **options),
            gradients_of(unroll.final_state, cell, params, state, xs, last, **options),
        )
        return by_hand, automatic

    assert_close(*both(*case), GRADIENT_BOUND["float64"])


@every_store
def test_a_bare_step_with_keys_and_integers_among_its_inputs(store, short_chunks, float64):
    def noisy(params, state, x):
        noise = jax.random.normal(x["key"], state.shape, state.dtype)
        return jnp.tanh(params["w"] @ state + params["table"][x["token"]] + 0.1 * noise + x["u"])

    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(5, 5)) / 3), "table": jnp.asarray(rng.normal(size=(4, 5)))}
    xs = {
        "key": jax.random.split(jax.random.key(0), STEPS),
        "token": jnp.asarray(rng.integers(0, 4, STEPS)),
        "u": jnp.asarray(rng.normal(size=(STEPS, 5))),
    }
    cotangents = jnp.asarray(rng.normal(size=(STEPS, 5)))

    @jax.jit
    def of_floats(params, u):
        def gradients(run):
            states, pull = jax.vjp(lambda p, u: run(noisy, p, jnp.zeros(5), xs | {"u": u}), params, u)
            return states, pull(cotangents)

        return gradients(partial(bptt.unroll, store=store)), gradients(unroll.unroll)

    assert_close(*of_floats(params, xs["u"]), GRADIENT_BOUND["float64"])


@pytest.mark.parametrize("name", ["lstm", "gru-reset-before"])
def test_deltas_are_the_same_from_chunks_and_from_the_plain_twin(name, short_chunks, float64):
    cell = ALL[name]
    case, cotangents = problem(cell)
    plan = sweeps.plan(cell, "gates", False, *case)
    zeros = jax.tree.map(jnp.zeros_like, case.state)

    @jax.jit
    def both(params, state, xs):
        operands = (params, state, xs, cotangents, zeros)
        _, kept = sweeps.forward(plan, params, state, xs, LENGTHS)
        swept = sweeps.backward(plan, params, state, xs, LENGTHS, kept, cotangents, zeros)
        return swept, sweeps._plain(plan, operands, LENGTHS)

    assert_close(*both(*case), GRADIENT_BOUND["float64"])


def curvature(run, cell, case, outer, **options):
    """∂²/∂h_0² of Σ h³, in one order or the other of the two modes."""
    params, state, xs = case

    def loss(state):
        return sum((leaf**3).sum() for leaf in jax.tree.leaves(run(cell, params, state, xs, **options)))

    return jax.jit(outer(jax.grad(loss)))(state)


@pytest.mark.parametrize(
    ("store", "outer"),
    [
        ("gates", jax.jacrev),
        ("states", jax.jacfwd),
        ("checkpoints", jax.jacrev),
        ("checkpoints", jax.jacfwd),
    ],
)
@pytest.mark.parametrize("what", ["unroll", "final_state"])
def test_second_derivatives_are_those_of_the_plain_unrolling(what, store, outer, short_chunks, float64):
    case = example(cells.gru(), float64, steps=9, batch=(3,))
    by_hand = curvature(partial(getattr(bptt, what), store=store), cells.gru(), case, outer)
    plain = curvature(getattr(unroll, what), cells.gru(), case, outer)
    assert_close(by_hand, plain, GRADIENT_BOUND["float64"])


@pytest.mark.parametrize(("store", "outer"), [("gates", jax.jacfwd), ("checkpoints", jax.jacrev)])
@pytest.mark.parametrize("what", ["unroll", "final_state"])
def test_second_derivatives_of_sequences_of_several_lengths_in_reverse(
    what, store, outer, short_chunks, float64
):
    """Of a stack, and of a step that takes integers."""

    def counted(params, state, inputs):
        x, index = inputs
        return jnp.tanh(params.w_hh @ state + params.w_xh @ x + index)

    lengths = jnp.array([9, 0, 4])
    elman = example(cells.elman(), float64, steps=9, batch=(3,))
    batched = jax.vmap(counted, in_axes=(None, 0, 0))
    stacked = cells.stack(cells.elman(), cells.lstm())
    indices = jnp.arange(27).reshape(9, 3)
    for cell, case in (
        (stacked, example(stacked, float64, steps=9, batch=(3,))),
        (batched, (elman.params, elman.state, (elman.xs, indices))),
    ):
        options = {"lengths": lengths, "reverse": True}
        by_hand = curvature(partial(getattr(bptt, what), store=store), cell, case, outer, **options)
        plain = curvature(getattr(unroll, what), cell, case, outer, **options)
        assert_close(by_hand, plain, GRADIENT_BOUND["float64"])


def test_a_pullback_may_ask_for_the_shape_of_what_it_does_not_read(float64):
    cell = cells.leaky(0.3, cells.identity)
    case, cotangents = problem(cell)
    by_hand = jax.jit(partial(gradients_of, partial(bptt.unroll, store="gates"), cell))(*case, cotangents)
    assert_close(by_hand, automatic(cell, *case, cotangents), GRADIENT_BOUND["float64"])


def test_wrong_arguments_are_named_before_anything_is_planned():
    params, state, _ = example(cells.gru(), "float32")
    with pytest.raises(ValueError, match=r"x has batch shape \(3,\) but h has \(2,\)"):
        bptt.unroll(cells.gru(), params, state, jnp.ones((4, 3, 3)))


def test_a_chunk_is_full_where_a_divisor_is_near():
    params, state, xs = example(cells.elman(), "float32", steps=12)
    assert sweeps._evenly(200, 32) == 25
    assert sweeps._evenly(40, 7) == 5
    assert sweeps._evenly(41, 7) == 7  # a prime: the first chunk is not full
    assert sweeps._evenly(521, 512) == 261  # 522 steps, not 1024
    assert [sweeps._evenly(steps, 32) for steps in (1, 33, 37)] == [1, 17, 19]
    assert sweeps.plan(cells.elman(), "checkpoints", False, params, state, xs).chunk == 4


@pytest.fixture
def on_an_accelerator(monkeypatch):
    """Swept in turns of four steps, as for an accelerator, on whatever runs the test."""
    monkeypatch.setattr(sweeps, "_on_a_cpu", lambda: False)


@pytest.mark.parametrize(("steps", "chunk"), [(40, 40), (STEPS, 41), (STEPS, 6)])
@pytest.mark.parametrize(("name", "store"), [("gru", "gates"), ("lstm", "states")])
def test_turns_of_several_steps_give_the_same(
    name, store, steps, chunk, monkeypatch, on_an_accelerator, float64
):
    """In one chunk that is made of turns, in one that has a step to spare, in chunks of a turn and a half."""
    monkeypatch.setattr(sweeps, "_LEAST_CHUNKS", {"gates": 1, "states": 1})
    monkeypatch.setattr(sweeps, "_STEPS", chunk)
    cell = SINGLE[name]
    case = example(cell, "float64", steps=steps, batch=(3,))
    cotangents = random_cotangents(jax.eval_shape(partial(unroll.unroll, cell), *case))
    assert sweeps.plan(cell, store, False, *case).chunk == chunk
    options = {} if steps == 40 else {"lengths": LENGTHS, "reverse": True}
    by_hand = jax.jit(partial(gradients_of, partial(bptt.unroll, store=store, **options), cell))
    plain = jax.jit(partial(gradients_of, partial(unroll.unroll, **options), cell))
    assert_close(by_hand(*case, cotangents), plain(*case, cotangents), GRADIENT_BOUND["float64"])


def test_so_do_those_of_a_few_units_on_a_cpu(monkeypatch, short_chunks, float64):
    monkeypatch.setattr(sweeps, "_TINY", 3 * 4 * 5)
    cell = cells.lstm()
    case, cotangents = problem(cell)
    by_hand = jax.jit(partial(gradients_of, bptt.unroll, cell))(*case, cotangents)
    assert_close(by_hand, automatic(cell, *case, cotangents), GRADIENT_BOUND["float64"])


@pytest.mark.parametrize("steps", [3, 7])
def test_the_last_state_from_checkpoints_of_a_turn_or_less(steps, on_an_accelerator, float64):
    case = example(cells.lstm(), float64, steps=steps, batch=(3,))
    cotangents = random_cotangents(case.state)
    by_hand = partial(gradients_of, partial(bptt.final_state, store="checkpoints"), cells.lstm())
    plain = partial(gradients_of, unroll.final_state, cells.lstm())
    assert_close(
        *(jax.jit(gradients)(*case, cotangents) for gradients in (by_hand, plain)), GRADIENT_BOUND["float64"]
    )


@pytest.mark.parametrize("name", ["stack", "gru-reset-before", "bare step"])
def test_every_kind_of_cell_takes_turns_on_an_accelerator(name, on_an_accelerator, float64):
    cell = ALL.get(name, cells.elman())
    case, cotangents = problem(cell)
    swept = cells.elman().step if name == "bare step" else cell
    by_hand = jax.jit(partial(gradients_of, bptt.unroll, swept))(*case, cotangents)
    assert_close(by_hand, automatic(cell, *case, cotangents), GRADIENT_BOUND["float64"])


def test_a_cpu_takes_turns_with_a_few_gated_units(monkeypatch):
    monkeypatch.undo()  # what counts as tiny is meant here

    def tiny(cell, batch):
        case = example(cell, "float32", batch=batch)
        return sweeps._is_tiny(cell, case.params, case.xs)

    assert tiny(cells.gru(), (4,))  # u_t has 60 numbers
    assert not tiny(cells.gru(), (5,))  # and 75
    assert not tiny(cells.elman(), ())  # no gates
    assert not sweeps._is_tiny(cells.elman().step, None, None)  # not known to have any


@on_a_cpu
@pytest.mark.parametrize(("device", "found"), [("accelerator", [4, 4]), ("cpu", [1, 1]), ("tiny", [4, 4])])
def test_compiled_loops_multiply_once_for_each_step_of_a_turn(device, found, monkeypatch):
    monkeypatch.setattr(sweeps, "_on_a_cpu", lambda: device != "accelerator")
    monkeypatch.setattr(sweeps, "_TINY", 10**9 if device == "tiny" else 0)
    assert products_of_innermost_loops(compiled_gradient(cells.gru(), "gates", steps=200)) == found


@on_a_cpu
def test_a_cpu_takes_no_turns_where_no_gates_are_kept(monkeypatch):
    monkeypatch.setattr(sweeps, "_TINY", 10**9)
    outputs = jax.jit(partial(bptt.unroll, cells.gru())).lower(*shapes(cells.gru(), 200)).compile()
    assert products_of_innermost_loops(outputs) == [1]


def test_where_inputs_are_few_the_forward_sweep_goes_in_shorter_chunks_on_a_cpu(monkeypatch, float64):
    def chunk(inputs, batch, units):
        u_t = jax.ShapeDtypeStruct((batch, 4, units), jnp.float32)
        return sweeps._cached_chunk(100, u_t, jax.ShapeDtypeStruct((1000, batch, inputs), jnp.float32))

    assert [chunk(inputs, 8, 64) for inputs in (8, 9)] == [25, 100]  # 32 steps fit, and 25 is a divisor near
    assert [chunk(1, batch, 64) for batch in (0, 1, 500)] == [100, 100, 2]

    cell = cells.gru()
    case, cotangents = problem(cell)
    monkeypatch.setattr(sweeps, "_FEW_INPUTS", 1)
    monkeypatch.setattr(sweeps, "_CACHED", 0)
    assert sweeps._cached_chunk(STEPS, jax.eval_shape(cell.drive, case[0], case[2][0]), case[2]) == 2
    by_hand = jax.jit(partial(gradients_of, partial(bptt.unroll, lengths=LENGTHS), cell))(*case, cotangents)
    expected = partial(automatic, cell, lengths=LENGTHS)
    assert_close(by_hand, expected(*case, cotangents), GRADIENT_BOUND["float64"])


def test_what_is_kept_is_chosen_from_shapes_alone(monkeypatch):
    cell = cells.lstm()
    case = example(cell, "float32")
    assert sweeps.plan(cell, None, False, *case).store == "gates"
    monkeypatch.setattr(sweeps, "_KEPT_BYTES", 12 * 2 * 5 * 4 * 6 - 1)  # s_t and a_t are six numbers a unit
    assert sweeps.plan(cell, None, False, *case).store == "states"
    deep, plain = cells.stack(cell, cell), cells.elman()
    assert sweeps.plan(deep, None, False, *example(deep, "float32")).store == "states"
    assert sweeps.plan(plain, None, False, *example(plain, "float32")).store == "gates"  # keeps h_t alone


def test_only_the_gates_that_the_way_back_reads_are_kept():
    def kept(cell):
        params, state, xs = example(cell, "float32")
        _, kept = sweeps.forward(
            sweeps.plan(cell, "gates", False, params, state, xs), params, state, xs, None
        )
        return len(jax.tree.leaves(kept.gates))

    assert kept(cells.elman()) == 0  # tanh' = 1 − h²
    assert kept(cells.elman(jax.nn.hard_tanh)) == 1  # read from z
    assert kept(cells.leaky(0.3)) == 1  # tanh(z), not z
    assert (kept(cells.gru()), kept(cells.lstm())) == (4, 4)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@pytest.mark.parametrize("cell", [cells.elman(), cells.gru()], ids=["elman", "gru"])
def test_the_products_of_the_loop_are_those_of_the_cell(cell, batch, float64):
    params, h, _ = example(cell, float64, batch=batch)
    h = jnp.asarray(np.random.default_rng(0).normal(size=h.shape))
    r, pull = jax.vjp(partial(cell.recur, params), h)
    transposed = cell.recurrent(params).reshape(-1, h.shape[-1]).T
    assert_close(cell.recur(params, h, transposed=transposed), r, rounding("float64", 2))
    assert_close(cell.recur_pullback(params, r), pull(r)[0], rounding("float64", 2))


@pytest.mark.parametrize(
    ("batch", "cpu", "transposed"), [((2, 3), True, 1), ((1,), True, 0), ((), True, 0), ((6,), False, 0)]
)
def test_the_recurrent_matrix_is_transposed_once_before_the_loop(batch, cpu, transposed, monkeypatch):
    monkeypatch.setattr(sweeps, "_on_a_cpu", lambda: cpu)
    cell = cells.lstm()
    program = jax.make_jaxpr(partial(bptt.unroll, cell))(*example(cell, "float32", batch=batch))
    scan = re.search(r"^ *(\S+ )+= scan\[", str(program), flags=re.MULTILINE)
    before = str(program)[: scan.start()].count("optimization_barrier")
    assert before == str(program).count("optimization_barrier") == transposed


WRONG = {
    "params_sums": lambda right, f: lambda *a: (s := right(*a))._replace(b_h=f * s.b_h),
    "params_gradient": lambda right, f: lambda *a: (g := right(*a))._replace(w_hh=f * g.w_hh),
    "drive_pullback": lambda right, f: lambda *a: f * right(*a),
    "recur_pullback": lambda right, f: lambda *a: f * right(*a),
}


@every_store
def test_a_wrong_derivative_shows_in_every_store(store, short_chunks, float64):
    cell = cells.lstm()
    case, cotangents = problem(cell)

    @jax.jit
    def gradients(factors):
        wrong = {part: make(getattr(cell, part), factors[part]) for part, make in WRONG.items()}
        result = bptt.bptt(cell._replace(**wrong), *case, cotangents, store=store)
        return result.params, result.state, result.xs

    ones, right = dict.fromkeys(WRONG, 1.0), automatic(cell, *case, cotangents)
    assert not differs(gradients(ones), right, 1e-4)
    assert [*WRONG] == [part for part in WRONG if differs(gradients(ones | {part: 1.01}), right, 1e-4)]


def test_half_precision_adds_up_in_single():
    cell = cells.gru()
    case = example(cell, "float32", steps=400, batch=(128,))
    params, state, xs = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), case)
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (params, state, xs))

    def gradient(run, params, state, xs):
        return jax.grad(lambda p: run(cell, p, state, xs).astype(jnp.float32).sum())(params)

    rounded = jax.jit(partial(gradient, bptt.unroll))(params, state, xs)
    exact = jax.jit(partial(gradient, unroll.unroll))(*single)
    assert len(sweeps._starts(sweeps.plan(cell, None, False, params, state, xs), 400)[0]) == 100
    for a, b in zip(rounded, exact, strict=True):
        assert a.dtype == jnp.bfloat16
        # ε is 8e-3; summed in half precision the error is 0.014 and more.
        assert np.linalg.norm(np.asarray(a, np.float64) - b) < 8e-3 * np.linalg.norm(b)


@every_store
@pytest.mark.parametrize("cell", [cells.lstm(), cells.gru_reset_before()], ids=["lstm", "reset-before"])
def test_an_empty_batch_has_gradients_of_zero(cell, store):
    case = example(cell, "float32", batch=(0,))
    for lengths in (None, jnp.zeros(0, int)):
        run = partial(bptt.final_state, store=store, lengths=lengths)
        gradient = jax.jit(jax.grad(lambda p, run=run: cell.emit(run(cell, p, case.state, case.xs)).sum()))
        assert not any(leaf.any() for leaf in jax.tree.leaves(gradient(case.params)))


def test_a_parameter_that_is_none_stays_none():
    def step(params, state, x):
        return params["w"] * state + x

    params, state, xs = {"w": jnp.ones(2), "none": None}, jnp.ones(2), jnp.ones((3, 2))
    assert bptt.bptt(step, params, state, xs, xs).params["none"] is None


# --- What it costs, without a clock. ----------------------------------------------------------------------


def squares(h):
    return (h**2).sum()


def shapes(cell, steps):
    """Of parameters, state and inputs, for (T, 16, 32) states."""
    params = jax.eval_shape(lambda key: cell.init(key, 8, 32), jax.random.key(0))
    state = jax.eval_shape(lambda p: cell.initial_state(p, (16,)), params)
    return params, state, jax.ShapeDtypeStruct((steps, 16, 8), jnp.float32)


def compiled_gradient(cell, store, *, steps, run=bptt.unroll, loss=squares):
    """The gradient of a loss of h with respect to the parameters, compiled."""

    def of_params(params, state, xs):
        return loss(cell.emit(run(cell, params, state, xs, store=store)))

    return jax.jit(jax.grad(of_params)).lower(*shapes(cell, steps)).compile()


def temporary(compiled, steps):
    """Bytes beside arguments and results, in units of T B N floats."""
    return compiled.memory_analysis().temp_size_in_bytes / (4 * steps * 16 * 32)


@pytest.mark.parametrize(
    ("cell", "store", "most"),
    [
        (cells.elman(), "states", 2.2),
        (cells.gru(), "states", 3.0),
        (cells.lstm(), "states", 3.5),
        (cells.elman(), "gates", 2.3),
        (cells.gru(), "gates", 7.0),
        (cells.lstm(), "gates", 8.0),
    ],
    ids=["elman-states", "gru-states", "lstm-states", "elman-gates", "gru-gates", "lstm-gates"],
)
def test_peak_temporary_memory(cell, store, most):
    assert temporary(compiled_gradient(cell, store, steps=2000), 2000) < most


def test_outputs_alone_hold_no_state_that_nobody_reads():
    outputs = jax.jit(lambda *operands: bptt.unroll(cells.lstm(), *operands).h)
    assert temporary(outputs.lower(*shapes(cells.lstm(), 2000)).compile(), 2000) < 0.2  # 1 with c


@pytest.mark.parametrize(("cell", "most"), [(cells.elman(), 1.5), (cells.lstm(), 2.7)], ids=["elman", "lstm"])
def test_constant_cotangents_are_never_made_whole(cell, most):
    # A loop over chunks could make all of them anew for every chunk, and its time would grow with T².
    compiled = compiled_gradient(cell, "states", steps=2000, loss=jnp.sum)
    assert temporary(compiled, 2000) < most


def test_the_final_state_needs_no_sequence_of_zeros_and_checkpoints_next_to_nothing():
    cell = cells.lstm()
    run = partial(compiled_gradient, cell, steps=4096, run=bptt.final_state)
    assert temporary(run("states"), 4096) < 2.5  # h and c
    nested = temporary(run("checkpoints"), 4096)
    assert nested < 0.4  # 0.44 with a copy of the inputs


def test_a_million_steps_are_gone_back_through_from_a_thousand_checkpoints():
    compiled = compiled_gradient(cells.lstm(), "checkpoints", steps=10**6, run=bptt.final_state)
    # As many steps at a time as there are checkpoints: of 4096 steps the same 26 numbers for each of √T.
    assert temporary(compiled, 10**6) < 26 / 1000


def test_a_million_steps_from_checkpoints_have_the_gradient_of_all_that_is_kept(float64):
    steps = 1_000_003  # a prime
    cell = cells.elman(cells.identity)
    turn = jnp.array([[0.6, -0.8], [0.8, 0.6]])  # nothing vanishes
    params = cells.ElmanParams(w_hh=turn, w_xh=jnp.ones((2, 1)), b_h=jnp.zeros(2))
    xs = draw(np.random.default_rng(0), jax.ShapeDtypeStruct((steps, 1), "float64"))

    def gradients(store):
        run = partial(bptt.final_state, cell, store=store)
        return jax.jit(jax.grad(lambda *operands: squares(run(*operands)), (0, 1, 2)))(
            params, jnp.ones(2), xs
        )

    assert_close(gradients("checkpoints"), gradients("gates"), rounding("float64", steps))


def products_of_innermost_loops(compiled):
    """How many matrix products a compiled program has in each loop that holds no other, where it has any."""
    blocks = re.findall(
        r"^(?:ENTRY )?%([\w.-]+) [^\n]*\{\n(.*?)^\}", compiled.as_text(), flags=re.DOTALL | re.MULTILINE
    )
    computations = dict(blocks)

    def whole(name):
        """With all that it calls."""
        text = computations[name]
        called = set(re.findall(r"(?:calls|to_apply|body|condition)=%([\w.-]+)", text))
        return text + "".join(map(whole, called))

    bodies = {whole(name) for name in re.findall(r"body=%([\w.-]+)", "".join(computations.values()))}
    counts = [len(re.findall(r" dot\(", body)) for body in bodies if " while(" not in body]
    return sorted(filter(None, counts))


@on_a_cpu
@pytest.mark.parametrize("what", ["unroll", "final_state"])
@every_store
@pytest.mark.parametrize("cell", [cells.elman(), cells.gru(), cells.lstm()], ids=["elman", "gru", "lstm"])
def test_compiled_loops_over_steps_multiply_once_a_step(cell, store, what):
    # W h on the way forward, once more where states are made again, and Wᵀ δ on the way back.
    run = getattr(bptt, what)
    found = products_of_innermost_loops(compiled_gradient(cell, store, steps=200, run=run))
    assert found == [1] * (3 if store == "checkpoints" else 2)


@on_a_cpu
@pytest.mark.parametrize("cell", [cells.elman(), cells.gru(), cells.lstm()], ids=["elman", "gru", "lstm"])
def test_compiled_loops_of_automatic_differentiation_hold_weight_gradients(cell):
    def run(*operands, store):
        del store
        return unroll.unroll(*operands)

    assert max(products_of_innermost_loops(compiled_gradient(cell, None, steps=200, run=run))) >= 3


@pytest.mark.parametrize("what", ["unroll", "final_state"])
@every_store
@pytest.mark.parametrize(
    ("cell", "gates"), [(cells.elman(), 1), (cells.gru(), 3), (cells.lstm(), 4)], ids=["elman", "gru", "lstm"]
)
def test_a_gradient_multiplies_no_more_than_the_equations_ask_for(cell, gates, store, what, short_chunks):
    counted, asked = multiplied(cell, gates, store, what, steps=16)
    assert counted == asked


@every_store
def test_a_chunk_that_is_not_full_costs_few_steps_for_nothing(store, short_chunks):
    counted, asked = multiplied(cells.gru(), 3, store, "unroll", steps=29)  # five chunks of six steps
    assert asked < counted <= asked * 30 / 29


def multiplied(cell, gates, store, what, steps):
    """What a gradient multiplies, and what the equations ask for."""
    params, state, xs = example(cell, "float32", steps=steps, batch=(3,))

    def loss(params):
        return squares(cell.emit(getattr(bptt, what)(cell, params, state, xs, store=store)))

    jaxpr = jax.make_jaxpr(jax.grad(loss))(params).jaxpr
    live, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))  # as the compiler does
    (steps, batch, d), n = xs.shape, params.w_hh.shape[-1]
    # u and r; Wᵀ dr; both weight gradients: 2 D + 3 N for every row. What is not kept is formed once more.
    again = 0 if store == "gates" or (cell is cells.elman() and store == "states") else d + n
    return multiplications(live), steps * batch * gates * n * (2 * d + 3 * n + again)


@on_a_cpu
@pytest.mark.parametrize(("cell", "gates"), [(cells.gru(), 3), (cells.lstm(), 4)], ids=["gru", "lstm"])
def test_every_gate_of_a_step_is_cut_from_its_chunk_by_itself(cell, gates):
    # XLA's CPU backend would compute slices of one slice entry by entry: see `_row_gate_by_gate`.
    params, state, xs = example(cell, "float32", steps=20)
    run = partial(sweeps.forward, sweeps.plan(cell, "states", False, params, state, xs))
    text = jax.jit(lambda *case: run(*case, None)[0]).lower(params, state, xs).compile().as_text()
    batch, size = cell.emit(state).shape
    cuts = re.findall(rf"f32\[1,{batch},1,{size}\]\S* dynamic-slice\(", text)
    assert len(cuts) == gates
    assert not re.findall(rf"f32\[1,{batch},{gates},{size}\]\S* dynamic-slice\(", text)


@pytest.mark.parametrize("cell", [cells.gru(), cells.stack(cells.lstm(), cells.gru())], ids=["gru", "stack"])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_last_state_from_checkpoints_of_few_steps(steps, cell, float64):
    case = example(cell, float64, steps=steps)
    cotangents = random_cotangents(case[1])
    by_hand = partial(gradients_of, partial(bptt.final_state, store="checkpoints"), cell)
    plain = partial(gradients_of, unroll.final_state, cell)
    assert_close(
        *(jax.jit(gradients)(*case, cotangents) for gradients in (by_hand, plain)), GRADIENT_BOUND["float64"]
    )


@every_store
def test_the_program_does_not_grow_with_the_sequence(store):
    # Lengths with a divisor near the chunk: the same branch of the program.
    sizes = [len(compiled_gradient(cells.gru(), store, steps=steps).as_text()) for steps in (1024, 4096)]
    assert abs(sizes[1] / sizes[0] - 1) < 0.02
