"""The gradient-flow laboratory costs little more than what would break, and much less than what would do.

Each question is answered by this library and by the plain forms that one would write first:

    product    ln‖∂h_t/∂h_0‖_F at every t, factors made in the scan    a product of plain floats, the same norms
    exponent   the largest Lyapunov exponent of a tanh network         all Jacobians first, then a vector through them
    spectrum   all exponents of a stack of Jacobians                   a scan of `jnp.linalg.qr`
    singular   all singular values of a long product                   the same scan, which gives their product alone
    profile    ‖∂L_t/∂h_k‖ for all t and k                             one reverse pass a loss, in turn; all at once

Answers are compared before the clock starts. (In `product` every factor has norm 1, or plain floats would overflow.)
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import harness
from rnn_jax import cells, flow, initializers, jacobians, spectrum, streaming, unroll

CLAIM = "norms, spectra and profiles cost little more than what would break, and much less than what would do"

HERE = "rnn_jax"


class Sizes(NamedTuple):
    """Time steps and hidden units."""

    T: int
    N: int


class Case(NamedTuple):
    """One question at one size.

    Attributes:
      arguments: what every contender is called with.
      contenders: functions of the arguments by name, this library's first; each gives the same array.
      target: the least time of each of the others over this library's that is claimed.
      tolerance: by which answers may differ, relative to the largest, in units of ε, at most 1 %.
    """

    arguments: tuple
    contenders: Mapping[str, Callable[..., jax.Array]]
    target: Mapping[str, float]
    tolerance: float


QUICK = {
    "product": [Sizes(20_000, 32)],
    "exponent": [Sizes(500, 256)],
    "spectrum": [Sizes(500, 64), Sizes(200, 128)],
    "singular": [Sizes(2000, 32)],
    "profile": [Sizes(100, 64)],
}
FULL = {
    "product": [Sizes(1_000_000, 32)],
    "exponent": [Sizes(1000, 256)],
    "spectrum": [Sizes(1000, 64), Sizes(500, 128), Sizes(200, 256)],
    "singular": [Sizes(20_000, 32)],
    "profile": [Sizes(100, 64), Sizes(400, 128)],
}
PRESETS = {"quick": (QUICK, 5), "full": (FULL, 9)}


def product(sizes: Sizes, dtype: str) -> Case:
    """Householder reflections, each drawn from its own key inside the scan."""

    def reflect(key, state, t):
        v = jax.random.normal(jax.random.fold_in(key, t), state.shape, state.dtype)
        return state - 2 * v * (v @ state) / (v @ v)

    def scaled(key, times):
        return streaming.prefix(reflect, key, jnp.zeros(sizes.N, dtype), times, ord="fro").log_norms

    def plain(key, times):
        def body(matrix, t):
            matrix = jax.vmap(lambda column: reflect(key, column, t), in_axes=1, out_axes=1)(matrix)
            return matrix, 0.5 * jnp.log((matrix * matrix).sum())

        identity = jnp.eye(sizes.N, dtype=dtype)
        _, logs = lax.scan(body, identity, times)
        return jnp.concatenate([jnp.log(jnp.asarray([sizes.N], dtype)) / 2, logs])

    contenders = {HERE: scaled, "plain floats": plain}
    return Case(
        (jax.random.key(0), jnp.arange(sizes.T)), contenders, {"plain floats": 1 / 1.2}, 100 * sizes.T**0.5
    )


def exponent(sizes: Sizes, dtype: str) -> Case:
    """A tanh network with a constant input; not a chaotic one, in which rounding alone would part the contenders."""
    cell = cells.elman()
    params = cell.init(
        jax.random.key(0), 1, sizes.N, recurrent=initializers.gaussian(0.9), dtype=jnp.dtype(dtype)
    )
    state, xs = jnp.full(sizes.N, 0.5, dtype), jnp.ones((sizes.T, 1), dtype)
    start = jax.random.key(1)

    def streamed(params, state, xs):
        return spectrum.lyapunov(cell, params, state, xs, k=1, burn_in=0, align=0, key=start).values

    def materialised(params, state, xs):
        stack = jacobians.state_jacobians(cell, params, state, xs)
        vector = jnp.linalg.qr(jax.random.normal(start, (1, sizes.N), dtype).T)[0][:, 0]

        def body(vector, jacobian):
            vector = jacobian @ vector
            length = jnp.linalg.norm(vector)
            return vector / length, jnp.log(length)

        return lax.scan(body, vector, stack)[1].mean(keepdims=True)

    contenders = {HERE: streamed, "Jacobians first": materialised}
    return Case((params, state, xs), contenders, {"Jacobians first": sizes.N / 8}, 100 * sizes.T**0.5)


def _gaussian_stack(sizes: Sizes, dtype: str) -> jax.Array:
    normal = np.random.default_rng(0).normal(size=(sizes.T, sizes.N, sizes.N)) / np.sqrt(sizes.N)
    return jnp.asarray(normal.astype(dtype))


def _qr_scan(stack: jax.Array) -> jax.Array:
    """Σ_t ln |R_t,ii| / T from the random frame that `spectrum` starts from."""
    size = stack.shape[-1]
    frame = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (size, size), stack.dtype).T)[0]

    def body(frame, jacobian):
        frame, triangular = jnp.linalg.qr(jacobian @ frame)
        return frame, jnp.log(jnp.abs(jnp.diagonal(triangular)))

    return lax.scan(body, frame, stack)[1].mean(0)


def full_spectrum(sizes: Sizes, dtype: str) -> Case:
    """Gaussian matrices."""

    def here(stack):
        return spectrum.lyapunov_from_jacobians(stack, align=0).values

    # Small pivots magnify rounding: by the condition of a step, about N², in most steps less.
    contenders = {HERE: here, "scan of qr": _qr_scan}
    return Case((_gaussian_stack(sizes, dtype),), contenders, {"scan of qr": 1.0}, 100 * sizes.N**2)


def singular(sizes: Sizes, dtype: str) -> Case:
    """Gaussian matrices; what both can give is ln|det| of the product."""

    def here(stack):
        return spectrum.log_singular_values(stack, lags=(sizes.T,)).values.sum(-1) / sizes.T

    def determinant(stack):
        return _qr_scan(stack).sum(keepdims=True)

    contenders = {HERE: here, "scan of qr": determinant}
    return Case((_gaussian_stack(sizes, dtype),), contenders, {"scan of qr": 1 / 1.2}, 100 * sizes.N**2)


def profile(sizes: Sizes, dtype: str) -> Case:
    """The loss ½ ‖h_t‖² of a tanh network."""
    cell = cells.elman()
    params = cell.init(jax.random.key(0), 8, sizes.N, dtype=jnp.dtype(dtype))
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(sizes.T, 8)).astype(dtype))
    state = jnp.full(sizes.N, 0.1, dtype)

    def losses(states):
        return 0.5 * (states * states).sum(-1)

    def here(params, state, xs):
        log_norms = flow.profile(cell, params, state, xs, losses, lags=0, directions=0).log_norms
        return jnp.exp(log_norms)[:, 1:]

    def pullback(params, state, xs):
        """Of all L_t to a shift of every h_k."""

        def shifted(params, state, inputs):
            x, shift = inputs
            return cell.step(params, state, x) + shift

        def of_shifts(shifts):
            return losses(unroll.unroll(shifted, params, state, (xs, shifts)))

        return jax.vjp(of_shifts, jnp.zeros((sizes.T, sizes.N), dtype))[1]

    def norms(pull):
        return lambda one_loss: jnp.linalg.norm(pull(one_loss)[0], axis=-1)

    def in_turn(params, state, xs):
        return lax.map(norms(pullback(params, state, xs)), jnp.eye(sizes.T, dtype=dtype))

    def at_once(params, state, xs):
        return jax.vmap(norms(pullback(params, state, xs)))(jnp.eye(sizes.T, dtype=dtype))

    contenders = {HERE: here, "a pass a loss": in_turn, "passes at once": at_once}
    target = {"a pass a loss": sizes.T / 4, "passes at once": 1.0}
    return Case((params, state, xs), contenders, target, 10 * sizes.T)


CASES: dict[str, Callable[[Sizes, str], Case]] = {
    "product": product,
    "exponent": exponent,
    "spectrum": full_spectrum,
    "singular": singular,
    "profile": profile,
}


def run(settings: harness.Settings) -> dict[str, Any]:
    """Measure every case of the preset, printing rows as they come; the record to keep.

    Raises:
      harness.BenchmarkError: if the contenders do not give the same.
    """
    sizes_of, rounds = PRESETS[settings.preset]
    rounds = rounds if settings.rounds is None else settings.rounds
    record: dict[str, Any] = {
        "benchmark": "laboratory",
        "claim": CLAIM,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": {
            "preset": settings.preset,
            "dtype": settings.dtype,
            "rounds": rounds,
            "matmul_precision": "highest",
        },
        "device": harness.device(),
        "versions": harness.versions([]),
        "skipped": {},
        "cases": [],
    }
    device = record["device"]
    name = device["processor"] if device["platform"] == "cpu" else device["kind"]
    print(
        f"{CLAIM}\n{settings.dtype}, rounds: {rounds}; {device['platform']}: {name}, {device['cores']} cores"
    )
    print(f"\n{_COLUMNS.format(*_TITLES)}")
    with jax.enable_x64(settings.dtype == "float64"), jax.default_matmul_precision("highest"):
        for name, all_sizes in sizes_of.items():
            for sizes in all_sizes:
                folder = settings.profile and settings.profile / f"{name}-T{sizes.T}-N{sizes.N}"
                case = {"name": name, **sizes._asdict()}
                case["contenders"] = measure(
                    CASES[name](sizes, settings.dtype), settings.dtype, rounds, folder
                )
                record["cases"].append(case)
                print("\n".join(rows(case)), flush=True)
    return record


def measure(case: Case, dtype: str, rounds: int, folder: Any = None) -> dict[str, dict[str, Any]]:
    """What is recorded of each contender: checked equal first, then timed in turn."""
    programs = {name: harness.compile_cold(f, *case.arguments) for name, f in case.contenders.items()}
    errors = _errors({name: program.call() for name, program in programs.items()}, case.tolerance, dtype)
    calls = {name: program.call for name, program in programs.items()}
    seconds = harness.interleave(calls, rounds)
    if folder is not None:
        harness.profile_round(calls, folder)
    measured = {}
    for name, program in programs.items():
        ratio = harness.ratios(seconds[name], seconds[HERE])
        target = case.target.get(name)
        measured[name] = {
            "seconds": seconds[name],
            "spread": harness.spread(seconds[name]),
            "ratio": ratio,
            "target": target,
            "verdict": None if target is None else _verdict(ratio, target, rounds),
            "compile_seconds": program.trace_seconds + program.compile_seconds,
            "temporary_bytes": program.temporary_bytes,
            "relative_error": errors[name],
        }
    return measured


def _errors(answers: Mapping[str, jax.Array], tolerance: float, dtype: str) -> dict[str, float]:
    reference = np.asarray(answers[HERE], np.float64)
    errors = {
        name: float(np.abs(np.asarray(answer, np.float64) - reference).max() / np.abs(reference).max())
        for name, answer in answers.items()
    }
    allowed = min(tolerance * float(jnp.finfo(dtype).eps), 1e-2)
    for name, error in errors.items():
        if not error <= allowed:
            raise harness.BenchmarkError(
                f"{name} and {HERE} differ by {error:.1e}, more than {allowed:.1e}; nothing is kept."
            )
    return errors


def _verdict(ratio: Mapping[str, float], target: float, rounds: int) -> str:
    """Inconclusive while the target lies between the quartiles, and with fewer than five rounds."""
    if rounds < 5 or ratio["lower_quartile"] < target <= ratio["upper_quartile"]:
        return "inconclusive"
    return "holds" if ratio["lower_quartile"] >= target else "fails"


_TITLES = ("", "T", "N", "contender", "median ms", "x here", "target", "", "compile s", "temp MB")
_COLUMNS = "{:9} {:>7} {:>4} {:15} {:>10} {:>7} {:>7} {:12} {:>9} {:>8}"


def rows(case: Mapping[str, Any]) -> list[str]:
    """The lines of the table for one case."""
    return [
        _COLUMNS.format(
            case["name"],
            case["T"],
            case["N"],
            name,
            f"{1e3 * c['spread']['median']:.1f}",
            f"{c['ratio']['median']:.2f}",
            "" if c["target"] is None else f"{c['target']:.2f}",
            c["verdict"] or "",
            f"{c['compile_seconds']:.2f}",
            "?" if c["temporary_bytes"] is None else f"{c['temporary_bytes'] / 1e6:.1f}",
        ).rstrip()
        for name, c in case["contenders"].items()
    ]
