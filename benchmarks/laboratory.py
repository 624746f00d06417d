"""The gradient-flow laboratory costs little more than what would break, and much less than what would do.

Each question is answered by this library and by the plain forms that one would write first:

    product    ln‖∂h_t/∂h_0‖_F at every t, factors made in the scan    a product of plain floats, the same norms
    exponent   the largest Lyapunov exponent of a tanh network         all Jacobians first, then a vector through them
    spectrum   all exponents of a stack of Jacobians                   a scan of `jnp.linalg.qr`
    leading k  the first k of them                                     the same scan of as many columns, and of all
    rarely     all, orthonormal only when rounding asks for it         all, orthonormal at every step; the scan
    autonomous all exponents of a network without input, by its step   lyapax; all Jacobians first, then the scan
    singular   all singular values of a long product                   the same scan, which gives their product alone
    profile    ‖∂L_t/∂h_k‖ for all t and k                             one reverse pass a loss, in turn; all at once
    deltas     ‖∂L/∂h_k‖ for all k                                     a reverse pass for every k; one for all shifts

Answers are compared before the clock starts. (In `product` every factor has norm 1, or plain floats would overflow.)
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import questions
from benchmarks.peers import lyapax_map
from benchmarks.questions import HERE, Question, Sizes
from benchmarks.runner import Benchmark, Case, Preset, Setup
from rnn_jax import bptt, cells, flow, initializers, jacobians, spectrum, streaming, unroll
from rnn_jax.types import Cell, PyTree

QUICK = {
    "product": [Sizes(20_000, 32)],
    "exponent": [Sizes(500, 256)],
    "spectrum": [Sizes(500, 64), Sizes(200, 128)],
    "leading 4": [Sizes(100, 256)],
    "leading 8": [Sizes(100, 256)],
    "rarely": [Sizes(200, 128)],
    "autonomous": [Sizes(500, 64)],
    "singular": [Sizes(2000, 32)],
    "profile": [Sizes(100, 64)],
    "deltas": [Sizes(100, 64)],
}
FULL = {
    "product": [Sizes(1_000_000, 32)],
    "exponent": [Sizes(1000, 256)],
    "spectrum": [Sizes(1000, 64), Sizes(500, 128), Sizes(200, 256)],
    "leading 4": [Sizes(200, 256)],
    "leading 8": [Sizes(200, 128), Sizes(200, 256)],
    "rarely": [Sizes(500, 128), Sizes(200, 256)],
    "autonomous": [Sizes(1000, 64), Sizes(500, 128), Sizes(200, 256)],
    "singular": [Sizes(20_000, 32)],
    "profile": [Sizes(100, 64), Sizes(400, 128)],
    "deltas": [Sizes(100, 64), Sizes(400, 128)],
}

ACCURACY = 1e-3
"""Nats per step, of the `rarely` case."""


def spectrum_target(units: int) -> float:
    """Of all exponents: never slower, and half as fast again at 128 units."""
    return 1.5 if units == 128 else 1.0


def product(sizes: Sizes, setup: Setup) -> Question:
    """Householder reflections, each drawn from its own key inside the scan."""

    def reflect(key, state, t):
        v = jax.random.normal(jax.random.fold_in(key, t), state.shape, state.dtype)
        return state - 2 * v * (v @ state) / (v @ v)

    def scaled(key, times):
        return streaming.prefix(reflect, key, jnp.zeros(sizes.N, setup.dtype), times, ord="fro").log_norms

    def plain(key, times):
        def body(matrix, t):
            matrix = jax.vmap(lambda column: reflect(key, column, t), in_axes=1, out_axes=1)(matrix)
            return matrix, 0.5 * jnp.log((matrix * matrix).sum())

        identity = jnp.eye(sizes.N, dtype=setup.dtype)
        _, logs = lax.scan(body, identity, times)
        return jnp.concatenate([jnp.log(jnp.asarray([sizes.N], setup.dtype)) / 2, logs])

    contenders = {HERE: scaled, "plain floats": plain}
    return Question(
        (jax.random.key(0), jnp.arange(sizes.T)), contenders, {"plain floats": 1 / 1.2}, 100 * sizes.T**0.5
    )


def exponent(sizes: Sizes, setup: Setup) -> Question:
    """A tanh network with a constant input; not a chaotic one, in which rounding alone would part the contenders."""
    cell = cells.elman()
    params = cell.init(jax.random.key(0), 1, sizes.N, recurrent=initializers.gaussian(0.9), dtype=setup.dtype)
    state, xs = jnp.full(sizes.N, 0.5, setup.dtype), jnp.ones((sizes.T, 1), setup.dtype)
    start = jax.random.key(1)

    def streamed(params, state, xs):
        return spectrum.lyapunov(cell, params, state, xs, k=1, burn_in=0, align=0, key=start).values

    def start_vector():
        """As `streamed` draws it."""
        return spectrum.random_frame(start, sizes.N, 1, setup.dtype)[:, 0]

    def materialised(stacked, params, state, xs):
        stack = stacked(cell, params, state, xs)
        vector = start_vector()

        def body(vector, jacobian):
            vector = jacobian @ vector
            length = jnp.linalg.norm(vector)
            return vector / length, jnp.log(length)

        return lax.scan(body, vector, stack)[1].mean(keepdims=True)

    def pushed(params, state, xs):
        """What `jax.jvp` of the step makes of the same, without a look at how far rounding goes."""

        def body(carry, x):
            state, vector = carry
            state, vector = jax.jvp(lambda s: cell.step(params, s, x), (state,), (vector,))
            length = jnp.linalg.norm(vector)
            return (state, vector / length), jnp.log(length)

        return lax.scan(body, (state, start_vector()), xs)[1].mean(keepdims=True)

    contenders = {
        HERE: streamed,
        "Jacobians first": partial(materialised, jacobians.state_jacobians),
        # A stack that is this library's own work.
        "by structure": partial(materialised, jacobians.structured),
        "jax.jvp": pushed,
    }
    return Question((params, state, xs), contenders, {"Jacobians first": sizes.N / 8}, 100 * sizes.T**0.5)


def _gaussian_stack(sizes: Sizes, dtype: str) -> jax.Array:
    normal = np.random.default_rng(0).normal(size=(sizes.T, sizes.N, sizes.N)) / np.sqrt(sizes.N)
    return jnp.asarray(normal.astype(dtype))


def _qr_scan(stack: jax.Array, k: int | None = None) -> jax.Array:
    """Σ_t ln |R_t,ii| / T, i = 1 … k, from the random frame that `spectrum` starts from."""
    size = stack.shape[-1]
    frame = spectrum.random_frame(None, size, size if k is None else k, stack.dtype)

    def body(frame, jacobian):
        frame, triangular = jnp.linalg.qr(jacobian @ frame)
        return frame, jnp.log(jnp.abs(jnp.diagonal(triangular)))

    return lax.scan(body, frame, stack)[1].mean(0)


def full_spectrum(sizes: Sizes, setup: Setup) -> Question:
    """Gaussian matrices."""

    def here(stack):
        return spectrum.lyapunov_from_jacobians(stack, align=0).values

    # Small pivots magnify rounding: by the condition of a step, about N², in most steps less.
    contenders = {HERE: here, "scan of qr": _qr_scan}
    target = {"scan of qr": spectrum_target(sizes.N)}
    return Question((_gaussian_stack(sizes, setup.dtype),), contenders, target, 100 * sizes.N**2)


def leading(k: int, sizes: Sizes, setup: Setup) -> Question:
    """The first k of the same; a frame of k columns is the beginning of that of all."""
    k = min(k, sizes.N)

    def here(stack):
        return spectrum.lyapunov_from_jacobians(stack, k=k, align=0).values

    contenders = {
        HERE: here,
        "k by qr": lambda stack: _qr_scan(stack, k),
        "all here": lambda stack: spectrum.lyapunov_from_jacobians(stack, align=0).values[:k],
        "all by qr": lambda stack: _qr_scan(stack)[:k],
    }
    target = {"k by qr": 1.0, "all here": sizes.N / (4 * k), "all by qr": sizes.N / (4 * k)}
    return Question((_gaussian_stack(sizes, setup.dtype),), contenders, target, 100 * sizes.N**2)


def rarely(sizes: Sizes, setup: Setup) -> Question:
    """All of the same with `every=None`. What that may lose by rounding is bounded by the accuracy, not by ε."""

    def here(stack, every):
        return spectrum.lyapunov_from_jacobians(stack, align=0, every=every, accuracy=ACCURACY).values

    contenders: dict[str, Callable[..., jax.Array]] = {
        HERE: partial(here, every=None),
        "every step": partial(here, every=1),
        "scan of qr": _qr_scan,
    }
    tolerance = ACCURACY / float(jnp.finfo(setup.dtype).eps)
    target = {"every step": 1.0, "scan of qr": spectrum_target(sizes.N)}
    return Question((_gaussian_stack(sizes, setup.dtype),), contenders, target, tolerance)


def autonomous(sizes: Sizes, setup: Setup) -> Question:
    """A tanh network that falls to a fixed point: in a chaotic one rounding alone would part the contenders."""
    cell = cells.elman()
    params = cell.init(jax.random.key(0), 1, sizes.N, recurrent=initializers.gaussian(0.9), dtype=setup.dtype)
    state, xs = jnp.full(sizes.N, 0.5, setup.dtype), jnp.zeros((sizes.T, 1), setup.dtype)
    frame = spectrum.random_frame(None, sizes.N, sizes.N, setup.dtype)

    def here(params, state, frame):
        del frame  # which it draws itself
        return spectrum.lyapunov(cell, params, state, xs, burn_in=0, align=0).values

    def jacobians_first(params, state, frame):
        del frame
        return _qr_scan(jacobians.structured(cell, params, state, xs))

    def by_peer(build):
        return lambda params, state, frame: build(lambda s: cell.step(params, s, xs[0]), sizes.T)(
            state, frame
        )

    contenders = {HERE: here, "Jacobians first": jacobians_first}
    contenders |= {peer.name: by_peer(peer.build) for peer in setup.peers}
    target = dict.fromkeys([name for name in contenders if name != HERE], spectrum_target(sizes.N))
    return Question((params, state, frame), contenders, target, 100 * sizes.N**2)


def singular(sizes: Sizes, setup: Setup) -> Question:
    """Gaussian matrices, of which both can give ln|det| of the product.

    In float32 they are a tenth of what is added to the identity: of steps as ill conditioned as a Gaussian matrix the
    smallest singular values would be lost.
    """
    stack = _gaussian_stack(sizes, setup.dtype)
    if setup.dtype == "float32":
        stack = jnp.eye(sizes.N, dtype=stack.dtype)[None] + 0.1 * stack

    def here(stack):
        return spectrum.log_singular_values(stack, lags=(sizes.T,)).values.sum(-1) / sizes.T

    def determinant(stack):
        return _qr_scan(stack).sum(keepdims=True)

    contenders = {HERE: here, "scan of qr": determinant}
    return Question((stack,), contenders, {"scan of qr": 1 / 1.2}, 100 * sizes.N**2)


def profile(sizes: Sizes, setup: Setup) -> Question:
    """The loss ½ ‖h_t‖² of a tanh network."""
    cell, params, state, xs = _driven(sizes, setup.dtype)

    def here(params, state, xs):
        log_norms = flow.profile(cell, params, state, xs, _losses, lags=0, directions=0).log_norms
        return jnp.exp(log_norms)[:, 1:]

    def pullback(params, state, xs):
        """Of all L_t to a shift of every h_k."""
        of_shifts = partial(_losses_of_shifts, cell, params, state, xs)
        return jax.vjp(of_shifts, jnp.zeros((sizes.T, sizes.N), setup.dtype))[1]

    def norms(pull):
        return lambda one_loss: jnp.linalg.norm(pull(one_loss)[0], axis=-1)

    def in_turn(params, state, xs):
        return lax.map(norms(pullback(params, state, xs)), jnp.eye(sizes.T, dtype=setup.dtype))

    def at_once(params, state, xs):
        return jax.vmap(norms(pullback(params, state, xs)))(jnp.eye(sizes.T, dtype=setup.dtype))

    contenders = {HERE: here, "a pass a loss": in_turn, "passes at once": at_once}
    # The norms of all (t, k) cost as many products of a vector as a pass for every loss: what can be saved is overhead.
    target = {"a pass a loss": 1.0, "passes at once": 1.0}
    return Question((params, state, xs), contenders, target, 10 * sizes.T)


def deltas(sizes: Sizes, setup: Setup) -> Question:
    """The loss Σ_t ½ ‖h_t‖² of a tanh network: how much of it reaches each h_k, one k after another."""
    cell, params, state, xs = _driven(sizes, setup.dtype)

    def here(params, state, xs):
        states = bptt.unroll(cell, params, state, xs)
        return jnp.linalg.norm(bptt.bptt(cell, params, state, xs, states).deltas, axis=-1)

    nowhere = jnp.zeros((sizes.T, sizes.N), setup.dtype)

    def in_turn(params, state, xs):
        def reaching(k):
            def of_shift(shift):
                return _losses_of_shifts(cell, params, state, xs, nowhere.at[k].set(shift)).sum()

            # A zero that no compiler knows: what is the same for all k would be computed once.
            return jnp.linalg.norm(jax.grad(of_shift)(0 * state * k))

        return lax.map(reaching, jnp.arange(sizes.T))

    def at_once(params, state, xs):
        of_shifts = partial(_losses_of_shifts, cell, params, state, xs)
        return jnp.linalg.norm(jax.grad(lambda shifts: of_shifts(shifts).sum())(nowhere), axis=-1)

    contenders = {HERE: here, "a pass a step": in_turn, "shifts": at_once}
    target = {"a pass a step": sizes.T / 4, "shifts": 1.0}
    return Question((params, state, xs), contenders, target, 10 * sizes.T)


def _driven(sizes: Sizes, dtype: str) -> tuple[Cell, PyTree, jax.Array, jax.Array]:
    """A tanh network, its state and its inputs."""
    cell = cells.elman()
    params = cell.init(jax.random.key(0), 8, sizes.N, dtype=dtype)
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(sizes.T, 8)).astype(dtype))
    return cell, params, jnp.full(sizes.N, 0.1, dtype), xs


def _losses(states: jax.Array) -> jax.Array:
    """L_t = ½ ‖h_t‖²."""
    return 0.5 * (states * states).sum(-1)


def _losses_of_shifts(
    cell: Cell, params: PyTree, state: jax.Array, xs: jax.Array, shifts: jax.Array
) -> jax.Array:
    """L_1 … L_T where a shift is added to every h_k: their derivatives in it are those in h_k."""

    def shifted(params, state, inputs):
        x, shift = inputs
        return cell.step(params, state, x) + shift

    return _losses(unroll.unroll(shifted, params, state, (xs, shifts)))


QUESTIONS: dict[str, Callable[[Sizes, Setup], Question]] = {
    "product": product,
    "exponent": exponent,
    "spectrum": full_spectrum,
    "leading 4": partial(leading, 4),
    "leading 8": partial(leading, 8),
    "rarely": rarely,
    "autonomous": autonomous,
    "singular": singular,
    "profile": profile,
    "deltas": deltas,
}


def cases(plan: Mapping[str, Sequence[Sizes]], setup: Setup) -> Iterator[Case]:
    """Every question at every size."""
    return questions.cases(plan, QUESTIONS, setup)


BENCHMARK = Benchmark(
    name="laboratory",
    claim="norms, spectra and profiles cost little more than what would break, and much less than what would do",
    legend=questions.LEGEND,
    columns=questions.COLUMNS,
    presets={"quick": Preset(QUICK, rounds=5), "full": Preset(FULL, rounds=9)},
    cases=cases,
    verdicts=questions.judge,
    peers=(lyapax_map.PEER,),
    packages=("lyapax",),
)
