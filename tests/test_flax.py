"""Claims held against Flax: its cells, of linen and of nnx, are cells of this library, and steps like any other.

How the parameters correspond. A Flax kernel is (in, out), so that W = kernelᵀ; x_t enters through the kernels named
i… and dense_i, h_{t−1} through those named h… and dense_h.

    SimpleCell         linen  i, h                      nnx  dense_i, dense_h                  b_h is the bias of i
    GRUCell            linen  ir iz in, hr hz hn        nnx  dense_i, dense_h: r, z, n         b_h is the bias of i…,
                                                                                               b_hn that of hn; in nnx 0
    LSTMCell           linen  ii if ig io, hi hf hg ho  nnx  the same, but if_                 b_h is the bias of h…
    OptimizedLSTMCell  linen  as LSTMCell               nnx  dense_i, dense_h: i, f, g, o      b_h is the bias of h…

The carry of an LSTM is (c, h) in Flax and (h, c) here.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax import lax
from jax.flatten_util import ravel_pytree

from rnn_jax import bptt, cells, jacobians, unroll
from tests.cases import assert_close, differs

pytestmark = pytest.mark.usefixtures("float64")

OUTPUTS, GRADIENTS = 1e-12, 1e-10  # ‖a − b‖₂ / ‖b‖₂ of each array
T, B, D, N = 12, 2, 3, 5


class Witness(NamedTuple):
    """A Flax cell and what it is here.

    Attributes:
      module: the class, of linen or nnx.
      cell: this library's cell.
      params: from Flax's tree of parameters to the cell's.
      state, carry: from Flax's carry to the cell's state, and back; also whole sequences of them.
    """

    module: Any
    cell: cells.Cell
    params: Callable
    state: Callable = lambda carry: carry
    carry: Callable = lambda state: state


def stack(tree, names, kind):
    """The kernels, transposed, or the biases of some gates, (G, …)."""
    return jnp.stack([tree[name][kind].T for name in names])


def split(array, gates):
    """The same of a kernel or bias with all gates side by side: (…, G·N) → (G, N, …)."""
    return array.T.reshape(gates, N, *array.shape[:-1])


def simple(i, h):
    return lambda p: cells.ElmanParams(w_hh=p[h]["kernel"].T, w_xh=p[i]["kernel"].T, b_h=p[i]["bias"])


def gru_linen(p):
    i, h = ("ir", "iz", "in"), ("hr", "hz", "hn")
    return cells.GRUParams(
        w_hh=stack(p, h, "kernel"),
        w_xh=stack(p, i, "kernel"),
        b_h=stack(p, i, "bias"),
        b_hn=p["hn"]["bias"],
    )


def gru_nnx(p):
    i, h = p["dense_i"], p["dense_h"]
    return cells.GRUParams(
        w_hh=split(h["kernel"], 3),
        w_xh=split(i["kernel"], 3),
        b_h=split(i["bias"], 3),
        b_hn=jnp.zeros(N),
    )


def lstm(forget):
    i, h = ("ii", forget, "ig", "io"), ("hi", "hf", "hg", "ho")
    return lambda p: cells.LSTMParams(
        w_hh=stack(p, h, "kernel"), w_xh=stack(p, i, "kernel"), b_h=stack(p, h, "bias")
    )


def lstm_fused(p):
    i, h = p["dense_i"], p["dense_h"]
    return cells.LSTMParams(w_hh=split(h["kernel"], 4), w_xh=split(i["kernel"], 4), b_h=split(h["bias"], 4))


def lstm_state(carry):
    c, h = carry
    return cells.LSTMState(h=h, c=c)


def lstm_carry(state):
    return state.c, state.h


LSTM = {"cell": cells.lstm(), "state": lstm_state, "carry": lstm_carry}
WITNESSES = {
    "linen.SimpleCell": Witness(linen.SimpleCell, cells.elman(), simple("i", "h")),
    "linen.GRUCell": Witness(linen.GRUCell, cells.gru(), gru_linen),
    "linen.LSTMCell": Witness(linen.LSTMCell, params=lstm("if"), **LSTM),
    "linen.OptimizedLSTMCell": Witness(linen.OptimizedLSTMCell, params=lstm("if"), **LSTM),
    "nnx.SimpleCell": Witness(nnx.SimpleCell, cells.elman(), simple("dense_i", "dense_h")),
    "nnx.GRUCell": Witness(nnx.GRUCell, cells.gru(), gru_nnx),
    "nnx.LSTMCell": Witness(nnx.LSTMCell, params=lstm("if_"), **LSTM),
    "nnx.OptimizedLSTMCell": Witness(nnx.OptimizedLSTMCell, params=lstm_fused, **LSTM),
}


def random_like(tree):
    """Independent normal numbers in the shapes of a tree."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape), tree)


def flax_network(module, batch=(B,)):
    """Flax's cell as `(step, tree of parameters, carry, xs)`, all of it random: kernels of gain 1, no zero bias."""
    options = {"dtype": jnp.float64, "param_dtype": jnp.float64}
    if issubclass(module, linen.Module):
        network = module(N, **options)
        carry = jax.eval_shape(lambda key: network.initialize_carry(key, (*batch, D)), jax.random.key(0))
        x = jax.ShapeDtypeStruct((*batch, D), jnp.float64)
        tree = jax.eval_shape(network.init, jax.random.key(0), carry, x)["params"]
        step = lambda tree, carry, x: network.apply({"params": tree}, carry, x)[0]
    else:
        network = nnx.eval_shape(lambda: module(D, N, rngs=nnx.Rngs(0), **options))
        carry = jax.eval_shape(
            lambda key: network.initialize_carry((*batch, D), nnx.Rngs(key)), jax.random.key(0)
        )
        graph, tree = nnx.split(network)
        tree = nnx.to_pure_dict(tree)
        step = lambda tree, carry, x: nnx.merge(graph, tree)(carry, x)[0]

    # Weights N(0, 1/(size of the input)); a kernel is (in, out).
    tree = jax.tree.map(
        lambda leaf: leaf / leaf.shape[0] ** 0.5 if leaf.ndim == 2 else leaf, random_like(tree)
    )
    return step, tree, *random_like((carry, jax.ShapeDtypeStruct((T, *batch, D), jnp.float64)))


# Compiling is nearly all that these tests cost, and small arrays need no optimised code.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class Derivatives(NamedTuple):
    """The carry after every step, and the gradients for Flax's parameters, the initial carry and the inputs."""

    carries: Any
    gradients: tuple


def by_flax(step, tree, carry, xs):
    """The carry after every step, by a scan of Flax's cell."""

    def body(carry, x):
        carry = step(tree, carry, x)
        return carry, carry

    return lax.scan(body, carry, xs)[1]


def by_library(witness, tree, carry, xs):
    """The same from this library's cell."""
    states = unroll.unroll(witness.cell, witness.params(tree), witness.state(carry), xs)
    return witness.carry(states)


@cache
def expected(name):
    """Flax's cell under JAX's own scan and differentiation; with it the step, its arguments and the cotangents."""
    step, *network = flax_network(WITNESSES[name].module)

    @jit
    def derivatives(cotangents, *network):
        carries, pullback = jax.vjp(partial(by_flax, step), *network)
        return Derivatives(carries, pullback(cotangents))

    cotangents = random_like(jax.eval_shape(partial(by_flax, step), *network))
    return step, network, cotangents, derivatives(cotangents, *network)


def by_unroll(witness, step, network, cotangents):
    """This library's cell, differentiated by JAX."""
    del step
    carries, pullback = jax.vjp(partial(by_library, witness), *network)
    return Derivatives(carries, pullback(cotangents))


def by_bptt(witness, step, network, cotangents):
    """This library's cell and its backpropagation; parameter gradients return through the transposed mapping."""
    del step
    tree, carry, xs = network
    params, to_tree = jax.vjp(witness.params, tree)
    state = witness.state(carry)
    gradients = bptt.bptt(witness.cell, params, state, xs, witness.state(cotangents))
    carries = witness.carry(bptt.unroll(witness.cell, params, state, xs))
    return Derivatives(carries, (*to_tree(gradients.params), witness.carry(gradients.state), gradients.xs))


def by_bptt_of_the_bare_step(witness, step, network, cotangents):
    """Flax's cell given to this library's backpropagation as it is."""
    del witness
    gradients = bptt.bptt(step, *network, cotangents)
    return Derivatives(bptt.unroll(step, *network), tuple(gradients)[:3])


WAYS = [by_unroll, by_bptt, by_bptt_of_the_bare_step]
SLOW = ["linen.LSTMCell", "nnx.LSTMCell"]  # the optimised cells have the same equations
FAST = ["nnx.SimpleCell", "linen.GRUCell", "linen.OptimizedLSTMCell"]  # in every way; the others by bptt


def param(*values, fast):
    return pytest.param(*values, marks=() if fast else pytest.mark.slow)


@pytest.mark.parametrize(
    ("name", "way"),
    [
        param(name, way, fast=name in FAST or (way is by_bptt and name not in SLOW))
        for name in WITNESSES
        for way in WAYS
    ],
)
def test_outputs_and_gradients_are_those_of_flax(name, way):
    step, network, cotangents, derivatives = expected(name)
    actual = jit(partial(way, WITNESSES[name], step))(network, cotangents)
    assert_close(actual.carries, derivatives.carries, OUTPUTS)
    assert_close(actual.gradients, derivatives.gradients, GRADIENTS)


@pytest.mark.parametrize("name", [param(name, fast=name in FAST) for name in WITNESSES])
def test_a_flax_cell_as_a_bare_step_has_the_jacobians_of_the_cell_here(name):
    witness = WITNESSES[name]
    step, tree, carry, xs = flax_network(witness.module, batch=())
    of_flax = jit(partial(jacobians.state_jacobians, step))(tree, carry, xs)
    of_cell = jit(partial(jacobians.state_jacobians, witness.cell))(
        witness.params(tree), witness.state(carry), xs
    )
    # Entry i of this library's flattened state is entry here_to_flax[i] of Flax's flattened carry.
    flat, unravel = ravel_pytree(carry)
    here_to_flax = ravel_pytree(witness.state(unravel(jnp.arange(float(flat.size)))))[0].astype(int)
    assert_close(of_flax[:, here_to_flax][:, :, here_to_flax], of_cell, GRADIENTS)
    if witness.state is lstm_state:
        assert differs(of_flax, of_cell, 1e-2)  # the order (c, h) matters


@pytest.mark.parametrize("wrong", ["not transposed", "f for i", "carry unswapped"])
def test_a_wrong_mapping_is_seen(wrong):
    witness = WITNESSES["linen.OptimizedLSTMCell"]
    _, network, _, derivatives = expected("linen.OptimizedLSTMCell")

    def params(tree):
        right = witness.params(tree)
        if wrong == "not transposed":
            return right._replace(w_hh=right.w_hh.mT)
        if wrong == "f for i":
            return cells.LSTMParams(*(leaf[jnp.array([1, 0, 2, 3])] for leaf in right))
        return right

    state = cells.LSTMState._make if wrong == "carry unswapped" else witness.state
    mapped = jit(partial(by_library, witness._replace(params=params, state=state)))(*network)
    assert differs(mapped, derivatives.carries, 1e-2)
