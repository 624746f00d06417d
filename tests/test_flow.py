"""Every number of a profile is the derivative that its name says, and one sweep finds them all."""

from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax import lax
from jax.extend import core

from rnn_jax import (
    bptt,
    cells,
    decay,
    flow,
    initializers,
    jacobians,
    losses,
    products,
    readout,
    spectrum,
    unroll,
)
from tests.cases import ALL, GRADIENT_BOUND, D, N, assert_close, draw, example, rounding
from tests.test_flax import by_flax, flax_network

T = 4


def peephole(params, state, x):
    """A step of one's own: a state tree, parameters in a dict, inputs in a tree."""
    gate = jax.nn.sigmoid(params["w"] @ state["a"] + params["p"] * state["b"] + x["u"].sum())
    return {"a": jnp.tanh(state["b"] * x["v"]), "b": gate * state["b"] + (1 - gate) * state["a"]}


NETWORKS = {name: ALL[name] for name in ("elman-tanh", "gru", "lstm", "gru-reset-before", "stack")}
NETWORKS |= {"peephole": peephole}


def network(name, dtype, steps=T):
    """Parameters, state, inputs and targets of one sequence."""
    rng = np.random.default_rng(3)
    targets = jnp.asarray(rng.normal(size=(steps, N)), dtype)
    if name != "peephole":
        return *example(NETWORKS[name], dtype, batch=(), steps=steps), targets
    normal = lambda *shape: jnp.asarray(rng.normal(0, 0.7, shape), dtype)
    params, state = {"w": normal(N, N), "p": normal(N)}, {"a": normal(N), "b": normal(N)}
    return params, state, {"u": normal(steps, D), "v": normal(steps, N)}, targets


def distance(step, targets, states):
    """L_t = ½ ‖h_t − y_t‖²."""
    h = step.emit(states) if isinstance(step, cells.Cell) else states["a"]
    return 0.5 * ((h - targets) ** 2).sum(-1)


@partial(jax.jit, static_argnums=0, static_argnames=("lags", "directions"))
def profile_of(step, params, state, xs, targets, **options):
    return flow.profile(step, params, state, xs, partial(distance, step, targets), **options)


@cache
def profiled(name, dtype):
    return profile_of(NETWORKS[name], *network(name, dtype))


@partial(jax.jit, static_argnums=0)
def oracle(step, params, state, xs, targets):
    """∂L_t/∂s_k by running again from s_k and `jax.jacrev`, `[k]` a tree of leaves (T, …), and ∂⁺s_t/∂θ."""
    states = unroll.unroll_loop(step, params, state, xs)

    def losses_from(s_k, k):
        pieces = [jax.tree.map(lambda leaf: leaf[: max(k - 1, 0)], states)]
        if k > 0:
            pieces.append(jax.tree.map(lambda leaf: leaf[None], s_k))
        if k < T:
            pieces.append(unroll.unroll_loop(step, params, s_k, jax.tree.map(lambda leaf: leaf[k:], xs)))
        return distance(step, targets, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *pieces))

    all_states = unroll.with_initial(state, states)
    at = lambda k: jax.tree.map(lambda leaf: leaf[k], all_states)
    gradients = [jax.jacrev(partial(losses_from, k=k))(at(k)) for k in range(T + 1)]
    return gradients, jacobians.parameter_jacobians(step, params, state, xs)


@cache
def expected(name):
    """The oracle's ∂L_t/∂s_k: for each component of the state (k, t, …); and the immediate ∂s_t/∂θ."""
    gradients, immediate = oracle(NETWORKS[name], *network(name, "float64"))
    return jax.tree.map(lambda *leaves: np.stack(leaves), *gradients), immediate


def flat(tree):
    """The components of a state side by side."""
    return np.concatenate([np.asarray(leaf) for leaf in jax.tree.leaves(tree)], axis=-1)


def log_norm(x):
    with np.errstate(divide="ignore"):
        return np.log(np.linalg.norm(x, axis=-1)).T  # [k, t] → [t, k]


SLOW = {"gru", "gru-reset-before", "elman-tanh"}  # nothing that the others do not have
each_network = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in NETWORKS]
)


@each_network
def test_every_norm_is_that_of_the_gradient_found_by_running_again_from_each_state(name, float64):
    result, (gradients, _) = profiled(name, float64), expected(name)
    np.testing.assert_allclose(result.log_norms, log_norm(flat(gradients)), rtol=0, atol=1e-11)
    jax.tree.map(
        lambda actual, g: np.testing.assert_allclose(actual, log_norm(g), rtol=0, atol=1e-10),
        result.component_log_norms,
        gradients,
    )
    later = np.arange(T + 1)[None] > np.arange(1, T + 1)[:, None]  # k > t
    np.testing.assert_array_equal(np.isneginf(result.log_norms), later)


@each_network
def test_immediate_and_total_gradients_are_those_sums(name, float64):
    result, (gradients, _) = profiled(name, float64), expected(name)
    assert_close(result.total, jax.tree.map(lambda g: g.sum(1), gradients), 1e-12)
    own = jax.tree.map(lambda g: g[np.arange(1, T + 1), np.arange(T)], gradients)
    np.testing.assert_allclose(flat(result.immediate), flat(own), rtol=1e-12, atol=1e-14)


@each_network
def test_each_lag_contributes_what_the_immediate_jacobians_say(name, float64):
    result, (gradients, immediate) = profiled(name, float64), expected(name)
    rows = flat(gradients)
    for n in range(T):
        times = np.arange(1, T - n + 1)  # k = t − n ≥ 1
        contribution = jax.tree.map(
            lambda j, k=times, n=n: np.einsum("ks,ks...->...", rows[k, k + n - 1], np.asarray(j)[k - 1]),
            immediate,
        )
        actual = jax.tree.map(lambda leaf, n=n: leaf[n], result.contributions)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-13), actual, contribution)
    assert not any(leaf[-1].any() for leaf in jax.tree.leaves(result.contributions))  # no later lags


@jax.jit
def summed(contributions):
    return jax.tree.map(lambda leaf: leaf.sum(0), contributions)


@partial(jax.jit, static_argnums=0)
def other_gradients(step, params, state, xs, targets):
    """By `jax.grad` for θ, and all δ by `bptt`."""

    def loss(params):
        return distance(step, targets, unroll.unroll(step, params, state, xs)).sum()

    states = unroll.unroll(step, params, state, xs)
    cotangents = jax.grad(lambda states: distance(step, targets, states).sum())(states)
    by_hand = bptt.bptt(step, params, state, xs, cotangents)
    return jax.grad(loss)(params), unroll.with_initial(by_hand.state, by_hand.deltas)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("elman-tanh", "float64"), ("lstm", "float32"), ("stack", "float64"), ("peephole", "float64")],
    indirect=["dtype"],
)
def test_contributions_sum_to_jax_grad_and_totals_are_those_of_bptt(name, dtype):
    result = profiled(name, dtype)
    gradient, deltas = other_gradients(NETWORKS[name], *network(name, dtype))
    assert_close(summed(result.contributions), gradient, GRADIENT_BOUND[dtype.name])
    assert_close(result.total, deltas, GRADIENT_BOUND[dtype.name])
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(result._replace(per_step=result.losses)))


@each_network
def test_shares_are_projections_on_the_gradient_and_sum_to_one(name, float64):
    result = profiled(name, float64)
    rows = np.concatenate(
        [np.reshape(leaf, (T + 1, -1)) for leaf in jax.tree.leaves(result.contributions)], 1
    )
    gradient = rows.sum(0)
    np.testing.assert_allclose(result.contribution_norms, np.linalg.norm(rows, axis=1), rtol=1e-12)
    np.testing.assert_allclose(result.shares, rows @ gradient / (gradient @ gradient), rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(result.shares.sum(), 1, rtol=1e-12)


@pytest.mark.parametrize("name", ["lstm", "stack"])
def test_the_norms_of_the_components_combine_to_the_norm(name, float64):
    result = profiled(name, float64)
    combined = (
        np.logaddexp.reduce([2 * np.asarray(x) for x in jax.tree.leaves(result.component_log_norms)]) / 2
    )
    np.testing.assert_allclose(combined, result.log_norms, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("lags", [0, 2])
def test_later_lags_may_be_left_together(lags, float64):
    full = profiled("elman-tanh", float64)
    result = profile_of(NETWORKS["elman-tanh"], *network("elman-tanh", float64), lags=lags, directions=0)
    together = jax.tree.map(
        lambda leaf: np.concatenate([leaf[:lags], leaf[lags:].sum(0, keepdims=True)]),
        jax.tree.map(np.asarray, full.contributions),
    )
    assert_close(result.contributions, together, 1e-12)
    assert result.alignment.shape == (T + 1, 0)
    assert_close(result.log_norms[:, 0], full.log_norms[:, 0], rounding(float64))


# --- Long sequences. ------------------------------------------------------------------------------------------


def linear(dtype, w, steps):
    """The linear network with this matrix, and a loss of the last state alone: L_T = a · h_T."""
    params = cells.ElmanParams(
        w_hh=jnp.asarray(w, dtype), w_xh=jnp.zeros((N, D), dtype), b_h=jnp.ones(N, dtype)
    )
    return params, jnp.ones(N, dtype), jnp.zeros((steps, D), dtype)


@jax.jit
def of_the_last_state(params, state, xs, direction):
    last = jnp.zeros(len(xs)).at[-1].set(1).astype(direction.dtype)
    cell = cells.elman(cells.identity)
    return flow.profile(cell, params, state, xs, lambda h: last * (h @ direction), lags=2)


def test_four_hundred_contracting_steps_do_not_underflow(dtype):
    steps, gain = 400, 0.3
    w = jax.jit(lambda key: initializers.orthogonal(gain)(key, (N, N), dtype))(jax.random.key(0))
    result = of_the_last_state(*linear(dtype, w, steps), jnp.ones(N, dtype))
    expected = (steps - np.arange(steps + 1)) * np.log(gain) + np.log(N) / 2
    np.testing.assert_allclose(
        result.log_norms[-1], expected, rtol=0, atol=steps * 100 * jnp.finfo(dtype).eps
    )
    assert np.isneginf(result.log_norms[:-1]).all()  # the other losses have no gradient
    with np.errstate(under="ignore"):
        assert (result.total[0] == 0).all() == (dtype == jnp.float32)  # what a plain backward pass gives
    assert result.alignment[0].min() > 0  # and yet its direction is known
    np.testing.assert_allclose(result.shares.sum(), 1, rtol=rounding(dtype))


def test_gradients_that_grow_past_the_range_keep_their_norms():
    result = of_the_last_state(*linear("float32", 3.0 * np.eye(N), 400), jnp.ones(N))
    np.testing.assert_allclose(result.log_norms[-1, 0], 400 * np.log(3) + np.log(N) / 2, rtol=1e-6)
    assert "NOT RESOLVED: the gradient overflows" in repr(result)


def test_a_gradient_along_the_direction_that_grows_is_found_to_be():
    w = np.diag([1.0, 0.5, 0.3, 0.2, 0.1])
    result = of_the_last_state(*linear("float32", w, 400), jnp.ones(N))
    assert result.alignment.shape == (401, 3)
    np.testing.assert_allclose(result.alignment[0], 1, rtol=1e-5)
    assert result.alignment[-1, 0] < 0.9  # at T the frame is random
    across = of_the_last_state(*linear("float32", w, 400), jnp.eye(N)[1])
    np.testing.assert_allclose(across.alignment[0], [0, 1, 1], atol=1e-5)


def test_a_random_frame_holds_its_size_of_a_vector_on_average():
    frames = jax.vmap(lambda key: spectrum.random_frame(key, 8, 2, jnp.float32).T)(
        jax.random.split(jax.random.key(1), 2000)
    )
    np.testing.assert_allclose((frames[:, :, 0] ** 2).sum(1).mean(), 2 / 8, atol=4 * 0.2 / 2000**0.5)


def test_the_directions_become_the_singular_vectors_of_the_explicit_product(float64):
    cell, steps = NETWORKS["elman-tanh"], 40
    case = network("elman-tanh", float64, steps)
    result = profile_of(cell, *case, lags=0)
    product, stack = np.eye(N), np.asarray(jax.jit(partial(jacobians.state_jacobians, cell))(*case[:3]))
    for jacobian in reversed(stack):
        product = product @ jacobian  # ∂s_T/∂s_0 in the end
    left, _, right = np.linalg.svd(product)
    delta = np.asarray(result.total[0])
    share = lambda directions: np.cumsum((directions[:3] @ delta) ** 2) / (delta @ delta)
    np.testing.assert_allclose(result.alignment[0], share(right), atol=1e-4)
    # A sweep with J in the place of Jᵀ would find others.
    assert abs(share(left.T) - share(right)).max() > 0.05


# --- The bound. -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["elman-tanh", "elman-relu"])
def test_the_bound_holds_and_is_the_norm_itself_at_lag_0(name, float64):
    cell = ALL[name]
    params, state, xs = example(cell, float64, batch=(), steps=12)
    log_step_bound = jax.jit(products.log_bound, static_argnums=1)(params.w_hh, 1)[1]
    result = profile_of(cell, params, state, xs, jnp.zeros((12, N)), log_step_bound=log_step_bound, lags=0)
    reached = ~np.isneginf(result.log_norms)
    assert (result.log_norms <= result.log_bound + 1e-12)[reached].all()
    np.testing.assert_array_equal(np.diagonal(result.log_bound, 1), np.diagonal(result.log_norms, 1))
    tighter = result.log_bound + (np.arange(13)[None] - np.arange(1, 13)[:, None]) * 1.0
    assert (result.log_norms > tighter)[reached].any()
    np.testing.assert_allclose(np.diff(decay.relative_log_norms(result.log_bound)), log_step_bound, rtol=1e-9)


def test_no_bound_is_claimed_if_none_was_given(float64):
    assert np.isnan(profiled("lstm", float64).log_bound).all()


def test_zero_weights_bound_by_zero_beyond_lag_0():
    bound = flow._bound(jnp.zeros((2, 1)), jnp.array([[1, 0, -1], [2, 1, 0]]), -jnp.inf)
    np.testing.assert_array_equal(bound, [[-np.inf, 0, -np.inf], [-np.inf, -np.inf, 0]])


# --- Transformations. -----------------------------------------------------------------------------------------


@cache
def batched():
    """Three sequences by vmap."""
    cell = ALL["lstm"]
    params, state, xs = example(cell, "float32", batch=(3,), steps=T)
    targets = draw(np.random.default_rng(2), jax.ShapeDtypeStruct((T, 3, N), "float32"))
    mapped = jax.jit(jax.vmap(partial(profile_of, cell), in_axes=(None, 0, 1, 1)))
    return mapped(params, state, xs, targets), (params, state, xs, targets)


def test_vmap_is_a_loop_and_the_loop_traces_once():
    mapped, (params, state, xs, targets) = batched()
    one, traces = partial(profile_of, ALL["lstm"], params), []
    for b in range(3):
        alone = one(jax.tree.map(lambda leaf, b=b: leaf[b], state), xs[:, b], targets[:, b])
        same = jax.tree.map(lambda leaf, b=b: leaf[b], mapped)
        chex.assert_trees_all_close(alone, same, rtol=1e-4, atol=1e-5)
        traces.append(profile_of._cache_size())
    assert len(set(traces)) == 1


def test_a_curve_of_the_profile_has_the_gradient_of_finite_differences(float64):
    cell = ALL["elman-relu"]  # with units that are dead, and gradients that are exactly zero
    params, state, xs = example(cell, float64, batch=(), steps=T)
    targets = network("elman-tanh", float64)[-1].at[0].set(0)

    def decays(w_hh):
        loss = lambda h: jnp.arange(T) * distance(cell, targets, h)
        result = flow.profile(cell, params._replace(w_hh=w_hh), state, xs, loss, lags=1)
        curve = decay.relative_log_norms(result.log_norms)
        return curve[:4].mean() + result.shares[0] + result.contribution_norms.sum()

    evaluate = jax.jit(jax.value_and_grad(decays))
    value, gradient = evaluate(params.w_hh)
    assert np.isfinite(value)
    tangent = 1e-6 * np.random.default_rng(1).normal(size=(N, N))
    difference = (evaluate(params.w_hh + tangent)[0] - evaluate(params.w_hh - tangent)[0]) / 2
    np.testing.assert_allclose((gradient * tangent).sum(), difference, rtol=1e-6)


def primitives(jaxpr):
    """The primitives of a program, also those inside its loops, and the direction of each loop over time."""
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        yield (
            f"{name} {'in reverse' if equation.params['reverse'] else 'forward'}" if name == "scan" else name
        )
        for value in jax.tree.leaves(list(equation.params.values())):
            if isinstance(value, core.ClosedJaxpr | core.Jaxpr):
                yield from primitives(value.jaxpr if isinstance(value, core.ClosedJaxpr) else value)


def program_of(**options):
    case = network("elman-tanh", "float32")
    return jax.make_jaxpr(lambda *case: profile_of(ALL["elman-tanh"], *case, **options))(*case).jaxpr


def test_one_forward_pass_and_one_reverse_sweep_is_all():
    loops = [name for name in primitives(program_of()) if name.startswith("scan")]
    assert loops == ["scan forward", "scan in reverse"]


def test_what_is_not_asked_for_is_not_done():
    assert "qr" in set(primitives(program_of(directions=1)))
    assert "qr" not in set(primitives(program_of(directions=0)))
    two_weight_gradients = f"f32[2,{N},{N}]"
    assert two_weight_gradients in str(program_of(lags=1, directions=0))
    assert two_weight_gradients not in str(program_of(lags=0, directions=0))


# --- Which losses are per step. -------------------------------------------------------------------------------


OUT = readout.Readout(
    w_hy=jnp.asarray(np.random.default_rng(5).normal(size=(4, N)), jnp.float32), b_y=jnp.zeros(4)
)
LABELS = jnp.arange(40) % 4
MASK = (jnp.arange(40) % 3 == 0).astype(jnp.float32)


def entropy(h, sharpness=1.0):
    return losses.cross_entropy(sharpness * readout.linear(OUT, h), LABELS[: len(h)])


def square(h):
    return 0.5 * (readout.linear(OUT, h) ** 2).sum(-1)


def last(h, n):
    return jnp.arange(len(h)) == len(h) - n


PER_STEP = {
    "squared error": square,
    "cross-entropy": entropy,
    "cross-entropy, saturated": partial(entropy, sharpness=300.0),
    "masked": lambda h: MASK[: len(h)] * entropy(h) / MASK[: len(h)].sum(),
    "mean": lambda h: square(h) / len(h),
    "last step": lambda h: last(h, 1) * entropy(h),
    "none": lambda h: 0 * h[:, 0],
    "tiny": lambda h: 1e-25 * square(h),
    "half precision": lambda h: entropy(h.astype(jnp.bfloat16).astype(jnp.float32)),
    "inner scan": lambda h: lax.map(lambda s: jnp.tanh(s).sum(), h),
}
NOT_PER_STEP = {
    "normalised": lambda h: square(h) / square(h).sum(),
    "smoothed": lambda h: square(h) + jnp.roll(square(h), 1),
    "cumulative": lambda h: jnp.cumsum(square(h)),
    "delayed": lambda h: jnp.roll(square(h), 1),
    "centred": lambda h: square(h) - square(h).mean(),
    "one pair": lambda h: square(h) + 0.1 * last(h, 1) * square(h)[0],
    "batch norm": lambda h: square(h - h.mean(0, keepdims=True)),
}


@jax.jit
def which_are_per_step(h):
    kinds = PER_STEP | NOT_PER_STEP
    return {name: flow._differentiate(loss, h, len(h)).per_step for name, loss in kinds.items()}


@pytest.mark.parametrize("steps", [2, 40])
def test_usual_losses_are_per_step_and_those_that_look_elsewhere_are_not(steps):
    h = jnp.tanh(jnp.asarray(np.random.default_rng(6).normal(size=(steps, N)), jnp.float32))
    found = {name for name, per_step in which_are_per_step(h).items() if per_step}
    assert found == set(PER_STEP)


def test_one_loss_that_looks_at_one_other_state_is_always_found():
    h, at = jnp.tanh(jnp.linspace(-1, 1, 40 * N).reshape(40, N)), jnp.arange(40)

    def is_missed(t, k):
        loss = lambda h: square(h) + 0.1 * (at == t) * square(h)[k]
        return flow._differentiate(loss, h, 40).per_step

    missed = jax.jit(jax.vmap(jax.vmap(is_missed, (None, 0)), (0, None)))(at, at)
    np.testing.assert_array_equal(missed, np.eye(40, dtype=bool))  # its own state alone


def test_a_loss_over_time_raises_where_it_can_and_is_shown_where_it_cannot():
    cell, case = ALL["elman-tanh"], example(ALL["elman-tanh"], "float32", batch=(), steps=4)
    loss = NOT_PER_STEP["smoothed"]
    with pytest.raises(ValueError, match=r"another loss than L_. depends on s_.*Do not normalise"):
        flow.profile(cell, *case, loss)
    assert batched()[0].per_step.all()
    assert "NOT PER STEP" in repr(profiled("lstm", "float32")._replace(per_step=np.False_))


# --- Bad input. -----------------------------------------------------------------------------------------------


class TestBadInput:
    @pytest.mark.parametrize(
        ("loss", "message"),
        [
            (
                lambda h: (h**2).sum(),
                r"not per step: loss\(states\) is float32\[\]; expected float32\[4\].*one number",
            ),
            (lambda h: h**2, r"is float32\[4,5\]; expected float32\[4\]"),
            (lambda h: (h.sum(-1), 0), r"is \(float32\[4\], int32\[\]\); expected"),
            (lambda h: jnp.argmax(h, -1), r"loss\(states\) is int32; expected floating point"),
            (lambda h: h.sum(-1) / 0, r"loss\(states\) has 4 entries that are NaN or infinite"),
        ],
        ids=["total", "unsummed", "auxiliary", "integer", "infinite"],
    )
    def test_a_loss_that_is_not_one_number_a_step_is_refused(self, loss, message):
        case = example(ALL["elman-tanh"], "float32", batch=(), steps=4)
        with pytest.raises(ValueError, match=message):
            flow.profile(ALL["elman-tanh"], *case, loss)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"lags": 13}, r"lags is 13; expected an integer in \[0, 12\], 12 = T"),
            ({"lags": -1}, "lags is -1"),
            ({"directions": 11}, r"directions is 11; expected an integer in \[0, 10\], 10 = S"),
        ],
    )
    def test_lags_and_directions_out_of_range_are_refused(self, options, message):
        case = example(ALL["lstm"], "float32", batch=())
        with pytest.raises(ValueError, match=message):
            flow.profile(ALL["lstm"], *case, lambda s: s.h.sum(-1), **options)

    def test_a_bound_for_each_unit_is_refused(self):
        case = example(ALL["elman-tanh"], "float32", batch=())
        with pytest.raises(ValueError, match=r"log_step_bound has shape \(5,\); expected one number"):
            jax.eval_shape(
                lambda *c: flow.profile(
                    ALL["elman-tanh"], *c, lambda h: h.sum(-1), log_step_bound=jnp.ones(5)
                ),
                *case,
            )

    def test_a_batch_is_refused_with_the_way_to_map_it(self):
        case = example(ALL["lstm"], "float32")
        with pytest.raises(ValueError, match=r"leaf of shape \(2, 5\); a profile is of one sequence.*vmap"):
            flow.profile(ALL["lstm"], *case, lambda s: s.h.sum(-1))

    def test_an_integer_state_is_refused(self):
        with pytest.raises(
            ValueError, match="state has a leaf of dtype int32; a profile is of floating-point numbers"
        ):
            flow.profile(lambda p, s, x: s + 1, 1.0, jnp.zeros(1, int), jnp.ones((3, 1)), lambda s: s[:, 0])


def test_one_step_and_a_step_without_parameters_have_a_profile():
    @jax.jit
    def run(xs):
        return flow.profile(lambda params, state, x: state / 2 + x, None, jnp.zeros(1), xs, lambda s: s[:, 0])

    result = run(jnp.ones((1, 1)))
    np.testing.assert_allclose(result.log_norms, [[np.log(0.5), 0]], rtol=1e-6)
    np.testing.assert_array_equal(result.shares, [0, 0])
    np.testing.assert_array_equal(result.contribution_norms, [0, 0])
    np.testing.assert_array_equal(result.total, [[0.5], [1.0]])


def test_a_lag_over_which_an_exploding_gradient_dies_contributes_zero_and_not_nan():
    # x_t multiplies the gradient: by 0 from s_2 to s_1, by 1e30 at the later steps.
    xs = jnp.asarray(np.where(np.arange(8) == 1, 0, 1e30)[:, None])

    @jax.jit
    def run(xs):
        zero = lambda x: x - lax.stop_gradient(x)
        step = lambda params, state, x: x * zero(state) + zero(params)
        loss = lambda s: (jnp.arange(8) == 7) * s[:, 0]
        return flow.profile(step, jnp.ones(1), jnp.zeros(1), xs, loss, directions=0)

    result = run(xs)
    np.testing.assert_allclose(result.log_norms[-1, 2], 6 * np.log(1e30), rtol=1e-6)
    assert np.isneginf(result.log_norms[-1, :2]).all()
    np.testing.assert_array_equal(np.asarray(result.contributions)[[0, 6, 7], 0], [1, np.inf, 0])


# --- What it prints as. ---------------------------------------------------------------------------------------


def test_it_prints_a_short_table(float64):
    table = repr(profiled("lstm", float64))
    lines = table.splitlines()
    assert lines[0] == "Gradient flow over T = 4 steps, S = 10 state entries"
    assert lines[1].split() == ["lag", "mean", "ln", "ratio", "in", "h", "in", "c", "share", "of", "gradient"]
    assert [line.split()[0] for line in lines[2:5]] == ["0", "1", "2"]
    assert "horizon: no lag is below 0.001" in table
    assert "3 leading directions" in table
    assert "bound" not in table


@pytest.mark.slow
def test_it_prints_within_a_hundred_columns_whatever_the_state():
    state = {name: jnp.ones(2) for name in ("a_component_with_a_long_name", *"bcdef")}
    halve = lambda params, state, x: jax.tree.map(lambda s: params * s + x, state)
    options = {"lags": 3, "directions": 0, "log_step_bound": 0.0}

    @jax.jit
    def run(state):
        return flow.profile(
            halve, jnp.array(0.5), state, jnp.ones((12, 1)), lambda s: s["b"].sum(-1), **options
        )

    table = repr(run(state))
    assert max(map(len, table.splitlines())) <= 100
    assert "(2 more not shown)" in table
    assert "share of gradient at lags >= 3" in table
    assert "horizon: lag 10 is the first below 0.001" in table


def test_it_prints_the_first_of_a_batch_and_shapes_under_a_transformation():
    assert repr(batched()[0]).startswith("the first of a batch of (3,)\nGradient flow over T = 4 steps")
    seen = []

    @jax.jit
    def inside(params, state, xs, targets):
        seen.append(repr(profile_of(ALL["gru"], params, state, xs, targets)))
        return 0

    inside(*network("gru", "float32"))
    assert seen[0].startswith(
        "Profile(losses=float32[4], immediate=float32[4,5], total=float32[5,5], log_norms="
    )


def test_losses_without_a_gradient_of_their_own_are_counted():
    result = of_the_last_state(*linear("float32", np.eye(N), 400), jnp.ones(N))
    assert "losses without a gradient, left out of the means: 399 of 400" in repr(result)


# --- Flax's cells are steps, in two lines. --------------------------------------------------------------------


@pytest.mark.parametrize(
    "module", [linen.GRUCell, pytest.param(nnx.OptimizedLSTMCell, marks=pytest.mark.slow)]
)
def test_the_profile_of_a_flax_cell_has_the_gradients_of_jax_grad_through_it(module, float64):
    step, params, carry, xs = flax_network(module, batch=())
    read = lambda states: jnp.square(jax.tree.leaves(states)[-1]).sum(-1)

    @jax.jit
    def both(params, carry):
        by_jax = jax.grad(lambda *network: read(by_flax(step, *network, xs)).sum(), argnums=(0, 1))
        return by_jax(params, carry), flow.profile(step, params, carry, xs, read)

    gradients, result = both(params, carry)
    initial = jax.tree.map(lambda leaf: leaf[0], result.total)
    assert_close((summed(result.contributions), initial), gradients, GRADIENT_BOUND["float64"])
    assert result.per_step
