"""Contracts that every cell keeps, and each cell against its equations written out in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import cells, initializers, types
from rnn_jax.cells import activations
from tests.cases import ALL, SINGLE, STRUCTURED, D, N, assert_close, example, rounding

all_cells = pytest.mark.parametrize("cell", ALL.values(), ids=ALL.keys())


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def as_numpy(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


@all_cells
def test_a_step_keeps_tree_shapes_and_dtype_of_the_state(cell, dtype):
    params, state, xs = example(cell, dtype)
    new = jax.eval_shape(cell.step, params, state, xs[0])
    assert jax.tree.structure(new) == jax.tree.structure(state)
    assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, state)
    assert {leaf.dtype for leaf in jax.tree.leaves(new)} == {dtype}
    assert jax.eval_shape(cell.emit, new).shape == (2, N)


@all_cells
def test_batch_axes_are_vmap(cell, float64):
    params, state, xs = example(cell, float64, batch=(2, 3))
    mapped = jax.vmap(jax.vmap(cell.step, (None, 0, 0)), (None, 0, 0))
    both = jax.jit(lambda *arguments: (cell.step(*arguments), mapped(*arguments)))
    assert_close(*both(params, state, xs[0]), rounding(float64))


@pytest.mark.parametrize("name", STRUCTURED)
def test_the_parts_of_a_cell_take_a_whole_sequence_at_once(name, float64):
    cell = STRUCTURED[name]
    params, _, xs = example(cell, float64, batch=())
    rows = jnp.stack([cell.drive(params, x) for x in xs])
    assert_close(cell.drive(params, xs), rows, rounding(float64))


@all_cells
def test_initial_states_are_zero_in_the_dtype_of_the_parameters(cell, dtype):
    params, _, _ = example(cell, dtype)
    state = cell.initial_state(params, (4,))
    assert all(
        leaf.shape[0] == 4 and leaf.dtype == dtype and not leaf.any() for leaf in jax.tree.leaves(state)
    )


@pytest.mark.parametrize("factory", [cells.elman, cells.gru, cells.gru_reset_before, cells.lstm])
def test_a_factory_returns_the_same_cell_each_time_so_that_jit_does_not_retrace(factory):
    assert factory() is factory()
    assert cells.leaky(0.5) is cells.leaky(0.5)
    assert cells.stack(factory(), cells.gru()) is cells.stack(factory(), cells.gru())


def test_numpy_options_neither_change_dtypes_nor_make_another_cell(float64):
    assert cells.leaky(np.float64(0.3)) is cells.leaky(0.3)
    assert cells.lstm(np.float64(1.0)) is cells.lstm(forget_bias=1.0)
    assert cells.elman() is cells.elman(activation=jnp.tanh)
    w = initializers.gaussian(np.float64(0.5))(jax.random.key(0), (2, 2), jnp.float32)
    assert w.dtype == jnp.float32


def test_elman_is_the_recurrence_of_the_note(float64):
    params, h, xs = example(cells.elman(), float64)
    w_hh, w_xh, b_h = as_numpy(params)
    expected = np.tanh(np.asarray(h) @ w_hh.T + np.asarray(xs[0]) @ w_xh.T + b_h)
    assert_close(cells.elman().step(params, h, xs[0]), expected, rounding(float64))


def test_entry_i_j_of_a_weight_leads_from_j_to_i():
    w_hh = jnp.zeros((2, 2)).at[0, 1].set(1.0)
    params = cells.ElmanParams(w_hh=w_hh, w_xh=jnp.zeros((2, 1)), b_h=jnp.zeros(2))
    new = cells.elman(cells.identity).step(params, jnp.array([0.0, 3.0]), jnp.zeros(1))
    np.testing.assert_array_equal(new, [3.0, 0.0])


@pytest.mark.parametrize("activation", [jnp.tanh, jax.nn.relu])
def test_leak_one_gives_elmans_hidden_states(activation, float64):
    elman = cells.elman(activation)
    params, v, xs = example(elman, float64)
    post = cells.leaky(1.0, activation)
    pre = cells.leaky(1.0, activation, pre_activation=True)
    h = pre.emit(v)
    assert_close(post.step(params, h, xs[0]), elman.step(params, h, xs[0]), rounding(float64))
    assert_close(pre.emit(pre.step(params, v, xs[0])), elman.step(params, h, xs[0]), rounding(float64))


def test_leaky_cells_are_their_equations(float64):
    params, state, xs = example(cells.leaky(0.3), float64)
    (w_hh, w_xh, b_h), s, x = as_numpy(params), np.asarray(state), np.asarray(xs[0])
    post = 0.7 * s + 0.3 * np.tanh(s @ w_hh.T + x @ w_xh.T + b_h)
    pre = 0.7 * s + 0.3 * (np.tanh(s) @ w_hh.T + x @ w_xh.T + b_h)
    assert_close(cells.leaky(0.3).step(params, state, xs[0]), post, rounding(float64))
    assert_close(cells.leaky(0.3, pre_activation=True).step(params, state, xs[0]), pre, rounding(float64))


def test_gru_applies_the_reset_gate_after_the_product(float64):
    params, state, xs = example(cells.gru(), float64)
    (r_hh, w, b, b_hn), h, x = as_numpy(params), np.asarray(state), np.asarray(xs[0])
    reset = sigmoid(x @ w[0].T + b[0] + h @ r_hh[0].T)
    keep = sigmoid(x @ w[1].T + b[1] + h @ r_hh[1].T)
    new = np.tanh(x @ w[2].T + b[2] + reset * (h @ r_hh[2].T + b_hn))
    assert_close(cells.gru().step(params, state, xs[0]), keep * h + (1 - keep) * new, rounding(float64))


def test_gru_reset_before_applies_it_to_the_state(float64):
    cell = cells.gru_reset_before()
    params, state, xs = example(cell, float64)
    (r_hh, w, b), h, x = as_numpy(params), np.asarray(state), np.asarray(xs[0])
    reset = sigmoid(x @ w[0].T + b[0] + h @ r_hh[0].T)
    keep = sigmoid(x @ w[1].T + b[1] + h @ r_hh[1].T)
    new = np.tanh(x @ w[2].T + b[2] + (reset * h) @ r_hh[2].T)
    assert_close(cell.step(params, state, xs[0]), keep * h + (1 - keep) * new, rounding(float64))
    same_weights = cells.GRUParams(*params, b_hn=jnp.zeros(N))
    after = cells.gru().step(same_weights, state, xs[0])
    assert (
        float(jnp.abs(after - cell.step(params, state, xs[0])).max()) > 1e-3
    )  # the two forms are told apart


@pytest.mark.parametrize("forget_bias", [0.0, 1.0])
def test_lstm_is_its_equations_with_the_forget_bias_added(forget_bias, float64):
    cell = cells.lstm(forget_bias)
    params, (h0, c0), xs = example(cell, float64)
    (r_hh, w, b), h, c, x = as_numpy(params), np.asarray(h0), np.asarray(c0), np.asarray(xs[0])
    a = [x @ w[k].T + b[k] + h @ r_hh[k].T for k in range(4)]
    c_new = sigmoid(a[1] + forget_bias) * c + sigmoid(a[0]) * np.tanh(a[2])
    expected = cells.LSTMState(h=sigmoid(a[3]) * np.tanh(c_new), c=c_new)
    assert_close(cell.step(params, cells.LSTMState(h0, c0), xs[0]), expected, rounding(float64))


def test_a_forget_bias_in_the_cell_equals_one_in_the_parameters():
    params, state, xs = example(cells.lstm(), "float32")
    moved = params._replace(b_h=params.b_h.at[1].add(1.0))
    constant = cells.lstm(forget_bias=1.0).step(params, state, xs[0])
    assert_close(constant, cells.lstm().step(moved, state, xs[0]), rounding("float32"))


def test_a_stack_feeds_each_layer_what_the_layer_below_emits(float64):
    layers = (cells.lstm(), cells.leaky(0.4, pre_activation=True), cells.gru())
    stack = cells.stack(*layers)
    params, state, xs = example(stack, float64)
    x, expected = xs[0], []
    for layer, p, s in zip(layers, params, state, strict=True):
        expected.append(layer.step(p, s, x))
        x = layer.emit(expected[-1])
    assert_close(stack.step(params, state, xs[0]), tuple(expected), rounding(float64))
    assert_close(stack.emit(tuple(expected)), x, rounding(float64))


def test_layers_of_a_stack_may_differ_in_size():
    stack = cells.stack(cells.lstm(), cells.gru())

    def one_step(key):
        params = stack.init(key, D, (6, 4))
        return stack.step(params, stack.initial_state(params), jnp.ones(D))

    new = jax.eval_shape(one_step, jax.random.key(0))
    assert (new[0].h.shape, new[1].shape) == ((6,), (4,))


@pytest.mark.parametrize("cell", [cells.gru(), cells.lstm(), cells.gru_reset_before()])
def test_recurrent_initialisers_are_called_gate_by_gate(cell):
    w_hh = cell.init(jax.random.key(0), D, 6, recurrent=initializers.orthogonal(0.5)).w_hh
    for block in w_hh:
        np.testing.assert_allclose(block @ block.T, 0.25 * np.eye(6), atol=1e-6)
    assert float(jnp.abs(w_hh[0] - w_hh[1]).max()) > 0.01  # each gate has a key of its own


@pytest.mark.parametrize("activation", [*activations._MAX_SLOPES])
def test_derivatives_by_hand_are_jaxs_own_also_at_the_corners(activation):
    z = jnp.array([-3.0, -1.0, -0.2, 0.0, 0.5, 1.0, 2.0])
    _, expected = jax.jvp(activation, (z,), (jnp.ones_like(z),))
    np.testing.assert_allclose(activations.derivative(activation)(z, activation(z)), expected, rtol=1e-5)
    assert float(expected.max()) <= activations.max_slope(activation) + 1e-6


def test_relu_has_derivative_zero_at_zero():
    assert activations.derivative(jax.nn.relu)(jnp.zeros(1), jnp.zeros(1)) == 0
    _, other_relu = jax.jvp(lambda z: jnp.maximum(z, 0), (jnp.zeros(1),), (jnp.ones(1),))
    assert other_relu == 0.5  # the convention that this library does not use


@pytest.mark.parametrize("name", SINGLE)
def test_local_pullbacks_are_the_transposed_derivatives_of_the_parts(name, float64):
    cell = SINGLE[name]
    params, state, xs = example(cell, float64)
    new = cell.step(params, state, xs[0])
    d_new = jax.tree.map(
        lambda leaf: jnp.cos(jnp.arange(leaf.size, dtype=leaf.dtype)).reshape(leaf.shape), new
    )
    if cell.pullback:
        u, r = cell.drive(params, xs[0]), cell.recur(params, cell.emit(state))
        expected = jax.vjp(lambda s, u, r: cell.update(s, cell.gates(u, r)), state, u, r)[1](d_new)
        actual = cell.pullback(state, cell.gates(u, r), new, d_new)
    else:
        expected = jax.vjp(cell.step, params, state, xs[0])[1](d_new)
        actual = cell.step_pullback(params, state, xs[0], new, d_new)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-12, atol=1e-14)
    dh = jnp.ones_like(cell.emit(state))
    for a, e in zip(
        jax.tree.leaves(cell.emit_pullback(state, dh)),
        jax.tree.leaves(jax.vjp(cell.emit, state)[1](dh)[0]),
        strict=True,
    ):
        np.testing.assert_allclose(a, e, rtol=1e-12)


def test_emit_of_a_cell_without_a_pullback_is_differentiated():
    cell = cells.lstm()._replace(emit_pullback=None)
    state = cells.LSTMState(jnp.ones(2), jnp.ones(2))
    np.testing.assert_array_equal(types.pull_emit(cell, state, jnp.full(2, 3.0)).h, [3.0, 3.0])


class TestBadInput:
    params = cells.elman().init(jax.random.key(0), D, N)
    state = jnp.zeros(N)

    @pytest.mark.parametrize(
        ("change", "x", "message"),
        [
            ({}, jnp.ones(D + 1), r"x has shape \(4,\), so 4 features, but w_xh with shape \(5, 3\) takes 3"),
            ({}, jnp.ones(D, int), r"x is int32; expected float32.*one_hot"),
            ({}, jnp.ones(D, jnp.float16), r"x is float16 but w_xh is float32.*astype\(float32\)"),
            ({}, jnp.ones((7, D)), r"batch shape \(7,\) but h has \(\).*initial_state\(params, \(7,\)\)"),
            ({}, jnp.float32(1.0), "no feature axis"),
            (
                {"w_hh": jnp.ones((N, N + 1))},
                jnp.ones(D),
                r"w_hh has shape \(5, 6\); a recurrent matrix is square",
            ),
        ],
        ids=["features", "integers", "dtype", "batch", "scalar", "not-square"],
    )
    def test_a_step_names_the_value_and_the_remedy(self, change, x, message):
        with pytest.raises(ValueError, match=message):
            cells.elman().step(self.params._replace(**change), self.state, x)

    @pytest.mark.parametrize(
        ("cell", "params", "message"),
        [
            (
                cells.lstm(),
                example(cells.gru(), "float32").params,
                r"w_hh has shape \(3, 5, 5\); expected \(4, 5, 5\)",
            ),
            (cells.gru_reset_before(), example(cells.gru(), "float32").params, "b_hn, which only"),
            (cells.gru(), example(cells.gru_reset_before(), "float32").params, "no b_hn, which gru"),
            (
                cells.elman(),
                params._replace(w_xh=jnp.ones((1, D))),
                r"w_xh has shape \(1, 3\); expected \(5, 3\)",
            ),
            (cells.elman(), params._replace(b_h=jnp.ones(1)), r"b_h has shape \(1,\); expected \(5,\)"),
            (cells.elman(), params._replace(b_h=jnp.ones(N, int)), "b_h is int32 and w_hh is float32"),
        ],
        ids=["gates", "b_hn", "no-b_hn", "w_xh", "b_h", "integers"],
    )
    def test_parameters_that_do_not_fit_are_not_broadcast(self, cell, params, message):
        with pytest.raises(ValueError, match=message):
            cell.step(
                params,
                self.state if cell is not cells.lstm() else cells.LSTMState(*[self.state] * 2),
                jnp.ones(D),
            )

    def test_activations_are_functions_and_forget_biases_finite(self):
        with pytest.raises(ValueError, match="activation is 'tanh'"):
            cells.elman("tanh")
        with pytest.raises(ValueError, match="forget_bias is nan"):
            cells.lstm(float("nan"))

    def test_layers_come_in_tuples_of_the_right_size(self):
        deep = cells.stack(cells.gru(), cells.gru())
        p, s = deep.init(jax.random.key(0), D, N), (self.state, self.state)
        with pytest.raises(ValueError, match="params is a list of 2; a stack of 2 layers takes a tuple of 2"):
            deep.step(list(p), s, jnp.ones(D))
        with pytest.raises(ValueError, match="state is a tuple of 1"):
            deep.step(p, s[:1], jnp.ones(D))

    def test_states_of_another_size_are_refused(self):
        with pytest.raises(ValueError, match="h has shape"):
            cells.gru().step(cells.gru().init(jax.random.key(0), D, N), jnp.zeros(N + 1), jnp.ones(D))

    @pytest.mark.parametrize("leak", [0, -0.1, 1.5, float("nan")])
    def test_leaks_outside_0_1_are_refused(self, leak):
        with pytest.raises(ValueError, match=r"leak is .*; expected 0 < leak <= 1"):
            cells.leaky(leak)

    @pytest.mark.parametrize("size", [0, -1, 2.0, True])
    def test_sizes_are_positive_integers(self, size):
        with pytest.raises(ValueError, match="expected an integer >= 1"):
            cells.elman().init(jax.random.key(0), D, size)

    def test_stacks_name_what_they_need(self):
        with pytest.raises(ValueError, match="no cell"):
            cells.stack()
        with pytest.raises(ValueError, match="takes cells"):
            cells.stack(cells.lstm)
        with pytest.raises(ValueError, match="2 of them"):
            cells.stack(cells.gru(), cells.gru()).init(jax.random.key(0), D, (1, 2, 3))

    def test_an_unknown_largest_slope_is_not_guessed(self):
        with pytest.raises(ValueError, match="largest slope"):
            cells.max_slope(jnp.sin)
