"""Every public numeric function compiles for CPU, GPU and TPU, whichever machine this is."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax import export

from rnn_jax import (
    bptt,
    cells,
    clipping,
    constraints,
    decay,
    flow,
    graded,
    initializers,
    jacobians,
    losses,
    online,
    orthogonal,
    products,
    readout,
    recording,
    regularizers,
    spectrum,
    streaming,
    sweeps,
    tasks,
    truncated,
    unroll,
)
from tests.cases import ALL, D, N, example

PLATFORMS = ("cpu", "cuda", "tpu")
DEEP = ALL["stack"]
OUT = readout.Readout(w_hy=jnp.ones((4, N)), b_y=jnp.zeros(4))
STACK = jnp.ones((6, 4, 4))
LABELS = jnp.zeros((12, 2), int)
LENGTHS = jnp.array([3, 12])


def pair(run, params, state, xs):
    return unroll.bidirectional(cells.gru(), (params, params), (state, state), xs, unroll=run)


def on(cell, function, **options):
    """The function with its cell bound, and arguments for a batch."""
    return partial(function, cell, **options), tuple(example(cell, "float32"))


def one(cell, function):
    """The same with arguments for one sequence."""
    return partial(function, cell), tuple(example(cell, "float32", batch=()))


def training_gradient(run):
    cell = cells.lstm()

    def loss(params, state, xs):
        return jnp.sum(cell.emit(run(cell, params, state, xs, lengths=LENGTHS)) ** 2)

    return jax.grad(loss), tuple(example(cell, "float32"))


def by_hand(params, state, xs):
    return bptt.bptt(DEEP, params, state, xs, unroll.unroll(DEEP, params, state, xs))


def from_every_state(function, **options):
    """A method with the signature of BPTT, the states for cotangents."""

    def run(params, state, xs):
        xs = xs[:4]
        states = unroll.unroll(DEEP, params, state, xs)
        return function(DEEP, params, state, xs, states, lengths=LENGTHS // 3, **options)

    return run, tuple(example(DEEP, "float32"))


def one_step_online(params, state, xs):
    influence = online.no_influence(DEEP, params, state)
    state, influence = online.rtrl_step(DEEP, params, state, xs[0], influence)
    return state, influence, online.contract(DEEP, influence, state)


def last_output(cell):
    return lambda states: cell.emit(states)[-1].sum()


def clipped(params, state, xs):
    cell = clipping.clip_along_time(DEEP, 1.0)
    return bptt.bptt(cell, params, state, xs, unroll.unroll(cell, params, state, xs))


def whole_gradient(params, state, xs):
    return bptt.loss_gradients(cells.lstm(), params, OUT, state, xs, LABELS)


def initialise(make):
    return lambda key: make(key, (8, 8), jnp.float32), (jax.random.key(0),)


def first_input(function):
    """The function of one step on the first input of a sequence, and a matrix with as many rows as the state."""
    cell = cells.lstm()
    params, state, xs = example(cell, "float32", batch=())
    return partial(function, cell), (params, state, xs[0], jnp.eye(2 * N))


def recorded(params):
    recorder = recording.recorder(jnp.sum, every=2, updates=4)
    return recorder.record(recorder.init(params), 2, params)


def profile(params, state, xs):
    cell = cells.lstm()
    return flow.profile(cell, params, state, xs, lambda states: cell.emit(states).sum(-1))


def drawn(task):
    return lambda key: task.sample(key, (2, 3)), (jax.random.key(0),)


STATES = jnp.ones((12, 2, N))
PARITIES = tasks.Batch(xs=jnp.ones((12, 2, 1)), targets=LABELS, weights=LABELS == 0)
SCALED = products.rescale(STACK)
ROWS = graded.rows_of(STACK[0])
EXPONENTS = jnp.array([0.5, -0.1, -1.0])
CASES = {
    "unroll.unroll": on(DEEP, unroll.unroll),
    "unroll.unroll_loop": on(cells.gru(), unroll.unroll_loop),
    "unroll.final_state": on(DEEP, unroll.final_state, reverse=True),
    "unroll.bidirectional": (partial(pair, unroll.unroll), tuple(example(cells.gru(), "float32"))),
    "unroll.with_initial": (unroll.with_initial, (STATES[0], STATES)),
    "unroll.previous_states": (unroll.previous_states, (STATES[0], STATES)),
    "bptt.bptt": (by_hand, tuple(example(DEEP, "float32"))),
    "bptt.loss_gradients": (whole_gradient, tuple(example(cells.lstm(), "float32"))),
    "bptt.unroll": training_gradient(bptt.unroll),
    "bptt.final_state": training_gradient(bptt.final_state),
    "truncated.windows": from_every_state(truncated.windows, window=3),
    "truncated.sliding": from_every_state(truncated.sliding, steps=3),
    "truncated.windows_loop": from_every_state(truncated.windows_loop, window=2),
    "truncated.sliding_loop": from_every_state(truncated.sliding_loop, steps=2),
    "online.rtrl": from_every_state(online.rtrl),
    "online.no_influence": (one_step_online, tuple(example(DEEP, "float32"))),
    "online.rtrl_step": (one_step_online, tuple(example(DEEP, "float32"))),
    "online.contract": (one_step_online, tuple(example(DEEP, "float32"))),
    "clipping.clip_along_time": (clipped, tuple(example(DEEP, "float32"))),
    "clipping.norms": (clipping.norms, (STATES,)),
    "jacobians.state_jacobians": one(DEEP, jacobians.state_jacobians),
    "jacobians.input_jacobians": one(DEEP, jacobians.input_jacobians),
    "jacobians.parameter_jacobians": one(cells.gru_reset_before(), jacobians.parameter_jacobians),
    "jacobians.structured": one(DEEP, jacobians.structured),
    "products.prefix": (products.prefix, (STACK,)),
    "products.suffix": (products.suffix, (STACK,)),
    "products.log_norms": (partial(products.log_norms, ord=-2), (STACK,)),
    "products.by_lag": (lambda stack: products.by_lag(stack, 2), (STACK,)),
    "products.log_norm": (products.log_norm, (SCALED,)),
    "products.multiply": (products.multiply, (SCALED, SCALED)),
    "products.rescale": (products.rescale, (STACK,)),
    "products.carry": (products.carry, (SCALED,)),
    "products.times_power_of_two": (products.times_power_of_two, (STACK, jnp.array(3))),
    "products.power_of_two": (partial(products.power_of_two, dtype=jnp.float32), (jnp.array([3, -5]),)),
    "products.inverse_transpose": (products.inverse_transpose, (STACK[0],)),
    "products.first_factors": (partial(products.first_factors, associative=True), (SCALED,)),
    "products.last_factors": (products.last_factors, (SCALED,)),
    "products.windows_across": (products.windows_across, (SCALED, SCALED)),
    "jacobians.push": first_input(jacobians.push),
    "jacobians.pull": first_input(jacobians.pull),
    "streaming.prefix": one(DEEP, partial(streaming.prefix, ord=-2, every=5)),
    "streaming.suffix": one(DEEP, streaming.suffix),
    "streaming.by_lag": one(DEEP, partial(streaming.by_lag, lag=5)),
    "graded.rows_of": (graded.rows_of, (STACK[0],)),
    "graded.multiply": (graded.multiply, (STACK[0], jnp.array(1), jnp.array(0.0), ROWS)),
    "graded.singular_values": (graded.singular_values, (ROWS,)),
    "orthogonal.factor": (orthogonal.factor, (jnp.ones((40, 36)),)),
    "orthogonal.householder": (orthogonal.householder, (STACK[0],)),
    "spectrum.lyapunov": one(DEEP, partial(spectrum.lyapunov, every=3)),
    "spectrum.lyapunov_from_jacobians": (
        partial(spectrum.lyapunov_from_jacobians, every=None, segments=2),
        (jnp.ones((12, 4, 4)),),
    ),
    "spectrum.log_singular_values": (spectrum.log_singular_values, (STACK,)),
    "spectrum.step_log_singular_values": (spectrum.step_log_singular_values, (STACK,)),
    "spectrum.random_frame": (
        lambda key: spectrum.random_frame(key, 5, 2, jnp.float32),
        (jax.random.key(0),),
    ),
    "spectrum.kaplan_yorke": (spectrum.kaplan_yorke, (EXPONENTS,)),
    "spectrum.entropy_rate": (spectrum.entropy_rate, (EXPONENTS,)),
    "spectrum.participation_ratio": (spectrum.participation_ratio, (EXPONENTS,)),
    "decay.by_lag": (decay.by_lag, (jnp.ones((5, 6)),)),
    "decay.relative_log_norms": (decay.relative_log_norms, (jnp.ones((5, 6)),)),
    "decay.horizon": (decay.horizon, (EXPONENTS,)),
    "decay.fit_rate": (lambda y: decay.fit_rate(y, 0, 5), (jnp.ones((2, 6)),)),
    "recording.recorder": (recorded, (jnp.ones(3),)),
    "flow.profile": (profile, tuple(example(cells.lstm(), "float32", batch=()))),
    "regularizers.omega": on(DEEP, lambda *arguments: regularizers.omega(*arguments, last_output(DEEP))),
    "regularizers.omega_immediate": on(
        cells.lstm(), lambda *arguments: regularizers.omega_immediate(*arguments, last_output(cells.lstm()))
    ),
    "regularizers.flossing": one(DEEP, partial(regularizers.flossing, k=2)),
    "constraints.orthogonality_penalty": (constraints.orthogonality_penalty, (STACK,)),
    "constraints.cayley": (constraints.cayley, (STACK, STACK[..., 0])),
    "constraints.cayley_inverse": (constraints.cayley_inverse, (STACK,)),
    "constraints.margin": (lambda w: constraints.margin(w, w[..., 0], w, 0.1), (STACK,)),
    "constraints.spectral_normalize": (constraints.spectral_normalize, (STACK, STACK[..., 0])),
    "tasks.recall.copy_memory": drawn(tasks.copy_memory(5)),
    "tasks.recall.memorization": drawn(tasks.memorization(5)),
    "tasks.recall.random_permutation": drawn(tasks.random_permutation(12)),
    "tasks.marked.adding": drawn(tasks.adding(20, variant="hochreiter")),
    "tasks.marked.multiplication": drawn(tasks.multiplication(12)),
    "tasks.marked.temporal_order": drawn(tasks.temporal_order(12, bits=3)),
    "tasks.streams.delayed_copy": drawn(tasks.delayed_copy(12, 3)),
    "tasks.streams.delayed_xor": drawn(tasks.delayed_xor(12, 3)),
    "tasks.streams.probabilistic_add": drawn(tasks.probabilistic_add(12)),
    "tasks.streams.parity": drawn(tasks.parity(12)),
    "tasks.streams.flip_flop": drawn(tasks.flip_flop(12)),
    "tasks.streams.chaotic_teacher": drawn(tasks.chaotic_teacher(12, units=N)),
    "tasks.task.wrong": (partial(tasks.wrong, tasks.parity(12)), (jnp.ones((12, 2, 2)), PARITIES)),
    "products.log_bound": (lambda w: products.log_bound(w, 5), (STACK[0],)),
    "readout.init": (lambda key: readout.init(key, N, 4), (jax.random.key(0),)),
    "readout.linear": (readout.linear, (OUT, STATES)),
    "readout.softmax": (readout.softmax, (OUT, STATES)),
    "readout.pullback": (readout.pullback, (OUT, STATES, jnp.ones((12, 2, 4)))),
    "losses.cross_entropy": (losses.cross_entropy, (jnp.ones((12, 2, 4)), LABELS)),
    "losses.cross_entropy_derivative": (losses.cross_entropy_derivative, (jnp.ones((12, 2, 4)), LABELS)),
    "losses.binary_cross_entropy": (losses.binary_cross_entropy, (STATES, STATES)),
    "losses.binary_cross_entropy_derivative": (losses.binary_cross_entropy_derivative, (STATES, STATES)),
    "losses.squared_error": (losses.squared_error, (STATES, STATES)),
    "losses.squared_error_derivative": (losses.squared_error_derivative, (STATES, STATES)),
    "losses.valid_steps": (partial(losses.valid_steps, 12), (LENGTHS,)),
    "losses.last_step": (partial(losses.last_step, 12), (LENGTHS,)),
    "losses.total": (losses.total, (STATES, STATES)),
    "losses.mean": (losses.mean, (STATES, STATES > 0)),
    "initializers.gaussian": initialise(initializers.gaussian()),
    "initializers.orthogonal": initialise(initializers.orthogonal()),
    "initializers.identity": initialise(initializers.identity()),
    "initializers.spectral_radius": initialise(initializers.spectral_radius(0.9)),
    "initializers.forget_gate": (
        lambda key: cells.lstm().init(key, D, N, bias=initializers.forget_gate()),
        (jax.random.key(0),),
    ),
    "initializers.chrono": (
        lambda key: cells.lstm().init(key, D, N, bias=initializers.chrono(50.0)),
        (jax.random.key(0),),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_numeric_function_lowers_for_every_platform(name):
    function, arguments = CASES[name]
    exported = export.export(jax.jit(function), platforms=PLATFORMS)(*arguments)
    assert exported.platforms == PLATFORMS


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("bptt.")])
def test_sequences_swept_as_on_an_accelerator_lower_for_one(name, monkeypatch):
    monkeypatch.setattr(sweeps, "_on_a_cpu", lambda: False)
    function, arguments = CASES[name]
    platforms = tuple(platform for platform in PLATFORMS if platform != "cpu")
    anew = jax.jit(lambda *arguments: function(*arguments))  # not as it was traced for another test
    assert export.export(anew, platforms=platforms)(*arguments).platforms == platforms


@pytest.mark.parametrize(
    ("wrap", "masks"),
    [
        (cells.zoneout, lambda key, state: cells.zoneout_masks(key, state, 1, rates=0.5)),
        (cells.recurrent_dropout, lambda key, state: cells.dropout_masks(key, state.h, 1, rate=0.5)),
        (cells.candidate_dropout, lambda key, state: cells.dropout_masks(key, state.h, 1, rate=0.5)),
    ],
    ids=["zoneout", "recurrent_dropout", "candidate_dropout"],
)
def test_masked_cells_step_on_every_platform(wrap, masks):
    def step(key, params, state, x):
        mask = jax.tree.map(lambda leaf: leaf[0], masks(key, state))
        return wrap(cells.lstm()).step(params, state, (x, mask))

    params, state, xs = example(cells.lstm(), "float32")
    exported = export.export(jax.jit(step), platforms=PLATFORMS)(jax.random.key(0), params, state, xs[0])
    assert exported.platforms == PLATFORMS


@pytest.mark.parametrize("name", ALL)
def test_every_cell_steps_on_every_platform(name):
    cell = ALL[name]
    params, state, xs = example(cell, "float32")
    exported = export.export(jax.jit(cell.step), platforms=PLATFORMS)(params, state, xs[0])
    assert exported.platforms == PLATFORMS


def test_no_public_numeric_function_is_missing_here():
    internal = {f"unroll.{name}" for name in ("arguments", "body_of", "valid", "where_valid")}
    internal |= {"spectrum.resolution"}
    modules = (bptt, clipping, constraints, decay, flow, graded, initializers, jacobians, losses, online)
    modules += (orthogonal, products, readout, recording, regularizers, spectrum, streaming)
    modules += (tasks.marked, tasks.recall, tasks.streams, tasks.task, truncated, unroll)
    public = {
        f"{module.__name__.removeprefix('rnn_jax.')}.{name}"
        for module in modules
        for name, function in vars(module).items()
        if inspect.isfunction(function)
        and not name.startswith("_")
        and function.__module__ == module.__name__
    }
    checks = {name for name in public if name.split(".")[1].startswith("check_")}
    assert public - internal - checks == set(CASES)
