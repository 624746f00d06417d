"""δ_t is clipped inside the recursion, by hand and by `jax.grad` alike, which is another thing than a global norm."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnn_jax import bptt, cells, clipping, jacobians, online, regularizers, spectrum, truncated, unroll
from tests.cases import ALL, GRADIENT_BOUND, STACKS, N, assert_close, example, random_cotangents

MAX_NORM = 1.5
LSTM = cells.lstm()
LENGTHS = jnp.array([5, 12])


by_hand = jax.jit(bptt.bptt, static_argnums=0)


@partial(jax.jit, static_argnums=0)
def automatically(cell, params, state, xs, cotangents, lengths):
    """The gradients of the plain unrolling by JAX."""
    return jax.vjp(partial(unroll.unroll, cell, lengths=lengths), params, state, xs)[1](cotangents)


def case_of(cell, dtype):
    case = example(cell, dtype, gain=1.5)
    shapes = jax.eval_shape(partial(unroll.unroll, cell), *case)
    return case, random_cotangents(shapes)


@pytest.mark.parametrize("name", ["gru-reset-before", "lstm", "stack"])
def test_by_hand_and_by_jax_grad_it_is_the_same_for_every_kind_of_cell(name, float64):
    cell = clipping.clip_along_time(ALL[name], MAX_NORM)
    case, cotangents = case_of(ALL[name], float64)
    ours = by_hand(cell, *case, cotangents, lengths=LENGTHS)
    automatic = automatically(cell, *case, cotangents, lengths=LENGTHS)
    assert_close((ours.params, ours.state, ours.xs), automatic, GRADIENT_BOUND["float64"])
    for layer in ours.deltas if cell.layers else [ours.deltas]:
        assert (clipping.norms(layer) > MAX_NORM).sum() > 5


def test_a_bare_step_is_clipped_as_a_cell_is(float64):
    case, cotangents = case_of(LSTM, float64)
    as_cell = by_hand(clipping.clip_along_time(LSTM, MAX_NORM), *case, cotangents, lengths=LENGTHS)
    as_step = by_hand(clipping.clip_along_time(LSTM.step, MAX_NORM), *case, cotangents, lengths=LENGTHS)
    assert_close(as_step, as_cell, GRADIENT_BOUND["float64"])


def test_it_is_the_recursion_of_its_definition_with_a_norm_for_each_sequence(float64):
    (params, state, xs), cotangents = case_of(LSTM, float64)
    cell, lengths = clipping.clip_along_time(LSTM, MAX_NORM), jnp.array([12, 12])
    deltas = by_hand(cell, params, state, xs, cotangents, lengths=lengths).deltas
    js = jax.jit(jax.vmap(partial(jacobians.state_jacobians, LSTM), in_axes=(None, 0, 1)))(params, state, xs)
    expected = np.zeros((12, 2, 2 * N))
    for b in range(2):
        carried = np.zeros(2 * N)
        for t in reversed(range(12)):
            expected[t, b] = delta = np.concatenate([cotangents.h[t, b], cotangents.c[t, b]]) + carried
            carried = np.asarray(js[b, t]).T @ delta * min(1, MAX_NORM / np.linalg.norm(delta))
    np.testing.assert_allclose(np.concatenate([deltas.h, deltas.c], axis=-1), expected, rtol=1e-11)
    long = np.linalg.norm(expected, axis=-1) > MAX_NORM
    np.testing.assert_array_equal(clipping.norms(deltas) > MAX_NORM, long)
    assert long[1:].any(0).all()


def test_a_norm_that_is_never_reached_changes_nothing():
    case, cotangents = case_of(cells.elman(), "float32")
    clipped = by_hand(clipping.clip_along_time(cells.elman(), 1e6), *case, cotangents)
    assert_close(clipped, by_hand(cells.elman(), *case, cotangents), 0)


def test_each_layer_of_a_stack_has_a_norm_of_its_own():
    layers = [clipping.clip_along_time(layer, MAX_NORM) for layer in STACKS["stack"].layers]
    assert clipping.clip_along_time(STACKS["stack"], MAX_NORM) is cells.stack(*layers)


def test_the_same_cell_and_norm_give_the_same_cell_so_that_nothing_is_traced_again():
    assert clipping.clip_along_time(LSTM, MAX_NORM) is clipping.clip_along_time(LSTM, np.float32(MAX_NORM))


@pytest.mark.parametrize("max_norm", [0.0, 1.0])
def test_neither_a_zero_gradient_nor_a_zero_norm_gives_nan(max_norm, float64):
    cell = clipping.clip_along_time(cells.elman(), max_norm)
    case, cotangents = case_of(cells.elman(), float64)
    for given in (0 * cotangents, cotangents) if max_norm == 0 else (0 * cotangents,):
        for leaf in jax.tree.leaves(by_hand(cell, *case, given)._replace(deltas=None)):
            np.testing.assert_array_equal(leaf, 0)
    assert jax.grad(lambda delta: clipping.norms(delta).sum())(jnp.zeros((2, 3))).tolist() == [[0] * 3] * 2


def test_second_derivatives_are_those_of_the_clipped_gradient(float64):
    cell = clipping.clip_along_time(cells.elman(), 0.5)
    case, cotangents = case_of(cells.elman(), float64)
    ours, plain = (
        jax.jit(
            jax.grad(
                lambda p, r=run: (jax.vjp(partial(r, cell), p, *case[1:])[1](cotangents)[0].w_hh ** 2).sum()
            )
        )
        for run in (bptt.unroll, unroll.unroll)
    )
    assert_close(ours(case.params), plain(case.params), 1e-11)


def test_a_global_norm_keeps_the_direction_of_the_gradient_and_clipping_along_time_does_not(float64):
    # Two sources of gradient: one explodes on its way back, the other arrives where it is used.
    params = cells.ElmanParams(w_hh=jnp.diag(jnp.array([2.0, 0.5])), w_xh=jnp.eye(2), b_h=jnp.zeros(2))
    cell, xs = cells.elman(cells.identity), jnp.ones((30, 2))

    def direction(gradient):
        flat = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(gradient)])
        return flat / jnp.linalg.norm(flat)

    def gradient(cell):
        return by_hand(cell, params, jnp.zeros(2), xs, jnp.ones((30, 2))).params

    exact, along_time = gradient(cell), gradient(clipping.clip_along_time(cell, MAX_NORM))
    clip = optax.clip_by_global_norm(1.0)
    globally, _ = clip.update(exact, clip.init(exact))
    np.testing.assert_allclose(direction(globally), direction(exact), rtol=1e-14)
    np.testing.assert_allclose(optax.tree.norm(globally), 1)
    assert direction(along_time) @ direction(exact) < 0.99
    # What the second unit has to say is left after a global norm only as rounding.
    assert abs(globally.b_h[1]) < 1e-8
    assert abs(along_time.b_h[1]) > 0.1


def test_what_measures_gradients_does_not_take_a_clipped_cell():
    cell = clipping.clip_along_time(cells.gru(), 1.0)
    params, state, xs = example(cells.gru(), "float32", batch=())
    for measure in (jacobians.structured, spectrum.lyapunov):
        with pytest.raises(
            ValueError, match="a Jacobian from the structure of a cell got a cell of clip_along_time"
        ):
            jax.eval_shape(partial(measure, cell), params, state, xs)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.eval_shape(partial(jacobians.state_jacobians, cell), params, state, xs)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: clipping.clip_along_time(cells.gru(), -1.0),
            "max_norm is -1.0; expected a finite number >= 0",
        ),
        (lambda: clipping.clip_along_time(cells.gru(), float("nan")), "max_norm is nan"),
        (lambda: clipping.clip_along_time(cells.gru(), float("inf")), "max_norm is inf"),
        (lambda: clipping.clip_along_time("gru", 1.0), "expected a cell or a step"),
        (lambda: clipping.norms(jnp.array(1.0)), r"the state is float32\[\]; expected leaves \(\*B, N\)"),
        (lambda: clipping.norms((jnp.ones((2, 3)), jnp.ones(3))), "with the same batch axes"),
    ],
)
def test_bad_arguments_name_the_remedy(call, message):
    with pytest.raises(ValueError, match=message):
        call()


PLAIN = cells.elman(cells.identity)
ONE = cells.ElmanParams(w_hh=jnp.array([[0.5]]), w_xh=jnp.array([[1.0]]), b_h=jnp.zeros(1))


@pytest.mark.parametrize(
    "clipped", [clipping.clip_along_time(PLAIN, 1.0), clipping.clip_along_time(PLAIN.step, 1.0)]
)
@pytest.mark.parametrize(
    "method",
    [
        lambda cell, *a: online.rtrl(cell, *a, a[-1]),
        lambda cell, *a: truncated.sliding(cell, *a, a[-1], steps=2),
        lambda cell, *a: truncated.windows_loop(cell, *a, a[-1], window=2),
        lambda cell, *a: regularizers.omega(cell, *a, jnp.sum),
        lambda cell, *a: regularizers.omega_immediate(cell, *a, jnp.sum),
        lambda cell, *a: cells.recurrent_dropout(cell),
    ],
    ids=["rtrl", "sliding", "windows_loop", "omega", "omega_immediate", "dropout"],
)
def test_what_would_misread_clipped_derivatives_refuses_them(method, clipped):
    with pytest.raises(
        ValueError, match=r"a cell of clip_along_time|needs a cell with one recurrent product"
    ):
        method(clipped, ONE, jnp.zeros(1), jnp.ones((4, 1)))


def test_so_does_a_stack_of_clipped_layers():
    stack = clipping.clip_along_time(cells.stack(PLAIN, PLAIN), 1.0)
    with pytest.raises(ValueError, match="a cell of clip_along_time"):
        online.rtrl(stack, (ONE, ONE), (jnp.zeros(1),) * 2, jnp.ones((4, 1)), None)


@pytest.mark.parametrize(("dtype", "size"), [("float32", 1e19), ("float32", 1e-30), ("float16", 1e4)])
def test_norms_at_the_ends_of_the_range_are_norms(dtype, size):
    delta = np.asarray([3 * size, 4 * size], dtype)
    np.testing.assert_allclose(clipping.norms(delta), 5 * size, rtol=1e-3)
    clip = clipping.clip_along_time(lambda params, state, x: state, 1e-3 * size)
    _, pull = jax.vjp(lambda state: clip(None, state, None), jnp.asarray(delta))
    np.testing.assert_allclose(pull(jnp.asarray(delta))[0], delta / 5e3, rtol=2e-3)
