"""Every public numeric function compiles for CPU, GPU and TPU, whichever machine this is."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax import export

from rnn_jax import bptt, cells, initializers, jacobians, losses, products, readout, unroll
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


def whole_gradient(params, state, xs):
    return bptt.loss_gradients(cells.lstm(), params, OUT, state, xs, LABELS)


def initialise(make):
    return lambda key: make(key, (8, 8), jnp.float32), (jax.random.key(0),)


STATES = jnp.ones((12, 2, N))
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
    "jacobians.state_jacobians": one(DEEP, jacobians.state_jacobians),
    "jacobians.input_jacobians": one(DEEP, jacobians.input_jacobians),
    "jacobians.parameter_jacobians": one(cells.gru_reset_before(), jacobians.parameter_jacobians),
    "jacobians.structured": one(DEEP, jacobians.structured),
    "products.prefix": (products.prefix, (STACK,)),
    "products.suffix": (products.suffix, (STACK,)),
    "products.log_norms": (products.log_norms, (STACK,)),
    "products.log_bound": (lambda w: products.log_bound(w, 5), (STACK[0],)),
    "readout.init": (lambda key: readout.init(key, N, 4), (jax.random.key(0),)),
    "readout.linear": (readout.linear, (OUT, STATES)),
    "readout.softmax": (readout.softmax, (OUT, STATES)),
    "readout.pullback": (readout.pullback, (OUT, STATES, jnp.ones((12, 2, 4)))),
    "losses.cross_entropy": (losses.cross_entropy, (jnp.ones((12, 2, 4)), LABELS)),
    "losses.cross_entropy_derivative": (losses.cross_entropy_derivative, (jnp.ones((12, 2, 4)), LABELS)),
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


@pytest.mark.parametrize("name", ALL)
def test_every_cell_steps_on_every_platform(name):
    params, state, xs = example(ALL[name], "float32")
    exported = export.export(jax.jit(ALL[name].step), platforms=PLATFORMS)(params, state, xs[0])
    assert exported.platforms == PLATFORMS


def test_no_public_numeric_function_is_missing_here():
    internal = {"unroll.arguments", "unroll.valid", "unroll.where_valid"}
    modules = (bptt, initializers, jacobians, losses, products, readout, unroll)
    public = {
        f"{module.__name__.removeprefix('rnn_jax.')}.{name}"
        for module in modules
        for name, function in vars(module).items()
        if inspect.isfunction(function)
        and not name.startswith("_")
        and function.__module__ == module.__name__
    }
    assert public - internal == set(CASES)
