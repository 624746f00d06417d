"""Exact Jacobians: forward mode, the structure of the cell, and closed forms all say the same."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from rnn_jax import bptt, cells, initializers, jacobians, unroll
from tests.cases import (
    ALL,
    STRUCTURED,
    STRUCTURED_STACKS,
    D,
    N,
    assert_close,
    differs,
    example,
    random_cotangents,
    rounding,
)

STRUCTURE = STRUCTURED | STRUCTURED_STACKS
forward_mode = jax.jit(jacobians.state_jacobians, static_argnums=0)
structured = jax.jit(jacobians.structured, static_argnums=0)


@pytest.mark.parametrize("name", STRUCTURE)
def test_the_structured_twin_equals_jacfwd(name, dtype):
    case = example(STRUCTURE[name], dtype, batch=())
    expected = forward_mode(STRUCTURE[name], *case)
    assert_close(
        structured(STRUCTURE[name], *case), expected, {"float64": 1e-12, "float32": 1e-5}[dtype.name]
    )


def test_the_structured_twin_runs_on_the_hand_written_derivatives(float64):
    cell = cells.lstm()

    def pullback(*arguments):
        ds, du, dr = cell.pullback(*arguments)
        return ds, du, dr.at[..., 1, :].multiply(1.01)

    case = example(cell, float64, batch=())
    assert differs(structured(cell._replace(pullback=pullback), *case), forward_mode(cell, *case), 1e-6)


@pytest.mark.parametrize("name", STRUCTURED)
def test_pushing_by_the_parts_of_a_cell_equals_pushing_by_its_step(name, dtype):
    cell = STRUCTURED[name]
    params, state, xs = example(cell, dtype, batch=())
    columns = random_cotangents(jnp.zeros((ravel_pytree(state)[0].size, 4), dtype))
    by_parts = jax.jit(partial(jacobians.push, cell))(params, state, xs[0], columns)
    by_step = jax.jit(partial(jacobians.push, cell.step))(params, state, xs[0], columns)
    assert_close(by_parts, by_step, rounding(dtype))


@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
@pytest.mark.parametrize("name", ["elman-tanh", "leaky-pre", "gru", "lstm"])
def test_both_ways_to_push_have_the_same_derivatives(name, mode, float64):
    cell = STRUCTURED[name]
    params, state, xs = example(cell, float64, batch=())
    columns = random_cotangents(jnp.zeros((ravel_pytree(state)[0].size, 2), float64))

    def derivatives(step):
        def total(params, state, x, columns):
            new, pushed = jacobians.push(step, params, state, x, columns)
            return sum((leaf**3).sum() for leaf in jax.tree.leaves((new, pushed)))

        return jax.jit(mode(total, argnums=(0, 1, 2, 3)))(params, state, xs[0], columns)

    assert_close(derivatives(cell), derivatives(cell.step), 1e-12)


def test_pushing_runs_on_the_hand_written_derivatives_and_one_product(float64):
    cell = cells.lstm()
    params, state, xs = example(cell, float64, batch=())
    columns = jnp.eye(2 * N, dtype=float64)

    def pullback(*arguments):
        ds, du, dr = cell.pullback(*arguments)
        return ds, du, dr.at[..., 1, :].multiply(1.01)

    expected = jacobians.push(cell.step, params, state, xs[0], columns)
    wrong = jacobians.push(cell._replace(pullback=pullback), params, state, xs[0], columns)
    assert differs(wrong, expected, 1e-6)
    # W_xh x, W_hh h and W_hh Q: the state is not computed twice.
    program = str(jax.make_jaxpr(partial(jacobians.push, cell))(params, state, xs[0], columns))
    assert program.count("dot_general[") == 3


@pytest.mark.parametrize("name", ["elman-tanh", "gru", "lstm"])
def test_the_structured_stack_is_written_without_another_of_its_size(name):
    cell = STRUCTURED[name]
    params = cell.init(jax.random.key(0), D, 64)
    arguments = params, cell.initial_state(params), jnp.ones((100, D))
    compiled = jax.jit(partial(jacobians.structured, cell)).lower(*arguments).compile()
    memory = compiled.memory_analysis()
    # States, gates and diagonals are vectors of 64 a step, the Jacobians have 64 or 128 of those.
    assert memory.temp_size_in_bytes < memory.output_size_in_bytes / 4


@pytest.mark.parametrize("name", ALL)
def test_the_product_of_all_steps_is_the_jacobian_of_the_whole_map(name, float64):
    cell = ALL[name]
    params, state, xs = example(cell, float64, batch=(), steps=4)
    start, unravel = ravel_pytree(state)

    def whole(flat_state):
        return ravel_pytree(unroll.final_state(cell, params, unravel(flat_state), xs))[0]

    product = np.eye(start.size)
    for j in forward_mode(cell, params, state, xs):
        product = j @ product  # the newest on the left
    assert_close(product, jax.jit(jax.jacfwd(whole))(start), 1e-12)


def test_elmans_jacobian_is_diag_of_the_slopes_times_the_weights(float64):
    # diag(f'(z_t)) W_hh, with W_hh and not its transpose: entry [i, j] is ∂h_i/∂h_j.
    cell = cells.elman()
    params, state, xs = example(cell, float64, batch=())
    h = unroll.unroll(cell, params, state, xs)
    expected = (1 - h**2)[:, :, None] * params.w_hh[None]
    transposed = (1 - h**2)[:, :, None] * params.w_hh.T[None]
    actual = forward_mode(cell, params, state, xs)
    assert_close(actual, expected, rounding(float64))
    assert differs(actual, transposed, 0.1)


def test_lstm_jacobians_hold_the_path_through_the_cell_state(float64):
    cell = cells.lstm()
    params, state, xs = example(cell, float64, batch=())
    previous = unroll.previous_states(state, unroll.unroll(cell, params, state, xs))
    a = cell.drive(params, xs) + cell.recur(params, previous.h)
    forget = jax.nn.sigmoid(a[:, 1])
    block = forward_mode(cell, params, state, xs)[:, N:, N:]  # ∂c_t/∂c_{t−1}
    assert_close(block, forget[:, :, None] * jnp.eye(N)[None], rounding(float64))


def test_log_determinants_are_sums_of_log_slopes(float64):
    # Elman: log|det J| = Σ log f'(z) + log|det W_hh|.
    cell = cells.elman()
    params, state, xs = example(cell, float64, batch=())
    h = unroll.unroll(cell, params, state, xs)
    log_det = np.linalg.slogdet(structured(cell, params, state, xs))[1]
    expected = np.log(1 - np.asarray(h) ** 2).sum(-1) + np.linalg.slogdet(params.w_hh)[1]
    np.testing.assert_allclose(log_det, expected, rtol=1e-11)


def test_lstm_log_determinants_are_sums_over_its_gates(float64):
    # log|det J| = Σ log f + Σ log|tanh(c_t) o (1 − o)| + log|det W_ho|: W_ho alone, of all recurrent matrices.
    cell = cells.lstm()
    params, state, xs = example(cell, float64, batch=())
    states = unroll.unroll(cell, params, state, xs)
    previous = unroll.previous_states(state, states)
    a = np.asarray(cell.drive(params, xs) + cell.recur(params, previous.h))
    f, o = 1 / (1 + np.exp(-a[:, 1])), 1 / (1 + np.exp(-a[:, 3]))
    gates = np.log(f) + np.log(np.abs(np.tanh(states.c) * o * (1 - o)))
    expected = gates.sum(-1) + np.linalg.slogdet(params.w_hh[3])[1]
    log_det = np.linalg.slogdet(structured(cell, params, state, xs))[1]
    np.testing.assert_allclose(log_det, expected, rtol=1e-10)


def test_an_lstm_with_an_empty_cell_state_has_a_singular_step():
    # c_t = 0: the derivative of h_t through the output gate is tanh(0) = 0.
    cell = cells.lstm()
    params = cell.init(jax.random.key(0), D, N, kernel=initializers.zeros)
    j = jacobians.state_jacobians(cell, params, cell.initial_state(params), jnp.zeros((1, D)))[0]
    assert np.isfinite(j).all()
    assert np.linalg.matrix_rank(np.asarray(j)) < 2 * N


@pytest.mark.parametrize("gain", [0.5, 1.0])
def test_every_step_of_a_linear_orthogonal_network_is_its_matrix(gain, float64):
    cell = cells.elman(cells.identity)
    params = cell.init(jax.random.key(0), D, N, recurrent=initializers.orthogonal(gain), dtype=float64)
    j = forward_mode(cell, params, jnp.ones(N), jnp.ones((4, D)))
    np.testing.assert_array_equal(j, np.broadcast_to(params.w_hh, (4, N, N)))
    np.testing.assert_allclose(np.linalg.svd(j, compute_uv=False), gain, rtol=1e-13)


@pytest.mark.parametrize("name", ["elman-tanh", "gru-reset-before", "lstm", "stack"])
def test_gradients_are_deltas_through_the_immediate_jacobians(name, float64):
    # ∂L/∂θ = Σ_t (∂s_t/∂θ)ᵀ δ_t and ∂L/∂x_t = (∂s_t/∂x_t)ᵀ δ_t: s_{t−1} held fixed.
    cell = ALL[name]
    case = example(cell, float64, batch=(), steps=5)
    states = unroll.unroll(cell, *case)
    gradients = jax.jit(partial(bptt.bptt, cell))(*case, random_cotangents(states))
    deltas = jnp.concatenate(jax.tree.leaves(gradients.deltas), axis=-1)
    immediate = jax.jit(partial(jacobians.parameter_jacobians, cell))(*case)
    through_params = jax.tree.map(lambda j: jnp.einsum("ts,ts...->...", deltas, j), immediate)
    assert_close(gradients.params, through_params, 1e-11)
    to_inputs = jax.jit(partial(jacobians.input_jacobians, cell))(*case)
    assert to_inputs.shape == (5, deltas.shape[-1], D)
    assert_close(gradients.xs, jnp.einsum("ts,tsd->td", deltas, to_inputs), 1e-11)


def test_vmap_is_the_batch(float64):
    cell = cells.gru()
    params, state, xs = example(cell, float64, batch=(3,))
    batch = jax.jit(jax.vmap(partial(jacobians.structured, cell), in_axes=(None, 0, 1)))(params, state, xs)
    assert_close(batch[1], structured(cell, params, state[1], xs[:, 1]), rounding(float64))


def test_a_step_of_your_own_has_jacobians_too():
    def rotate(params, state, x):
        return {"u": state["v"] + x, "v": params * state["u"]}

    j = jacobians.state_jacobians(rotate, 3.0, {"u": jnp.ones(1), "v": jnp.ones(1)}, jnp.ones((2, 1)))
    np.testing.assert_array_equal(j[0], [[0, 1], [3, 0]])


class TestBadInput:
    @pytest.mark.parametrize("function", [jacobians.state_jacobians, jacobians.structured])
    def test_a_batch_is_refused_with_the_way_to_map_it(self, function):
        case = example(cells.lstm(), "float32", batch=(2,))
        with pytest.raises(ValueError, match=r"leaf of shape \(2, 5\); Jacobians are of one sequence.*vmap"):
            function(cells.lstm(), *case)

    def test_a_cell_without_structure_is_sent_to_jacfwd(self):
        cell = cells.gru_reset_before()
        with pytest.raises(ValueError, match="state_jacobians"):
            jacobians.structured(cell, *example(cell, "float32", batch=()))
        with pytest.raises(ValueError, match="got a function without"):
            jacobians.structured(cell.step, *example(cell, "float32", batch=()))

    def test_inputs_without_a_step_are_refused(self):
        params, state, _ = example(cells.gru(), "float32", batch=())
        with pytest.raises(ValueError, match="no time step"):
            jacobians.state_jacobians(cells.gru(), params, state, jnp.ones((0, D)))
