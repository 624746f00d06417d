"""The hand-written gradient of a sequence keeps weight gradients out of its loop and is no slower than the others.

Every contender computes the same thing, the gradient of L = Σ_t ‖h_t‖², summed over the batch, with respect to
all parameters of the cell and nothing else (not h_0, not x_t):

    hand-written   `rnn_jax.bptt.unroll` under `jax.grad`
    autodiff       `rnn_jax.unroll.unroll` under `jax.grad`, the same cell
    flax.linen     `flax.linen.RNN` under `jax.grad`, with SimpleCell, GRUCell or OptimizedLSTMCell

They start from the same numbers, copied into each one's own layout, and are compared before the clock starts:
outputs and gradients, leaf by leaf, ‖a − b‖₂ ≤ tolerance · ‖b‖₂ with b from automatic differentiation. Matrix
products are in full precision on every device, so that float32 means the same everywhere.
"""

import importlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness, loops
from rnn_jax import bptt, cells, unroll
from rnn_jax.types import Cell, PyTree

CLAIM = "the hand-written gradient keeps weight gradients out of its loop and is no slower than the others"


class Shape(NamedTuple):
    """Batch, time steps, hidden units, input features."""

    B: int
    T: int
    N: int
    D: int


class Preset(NamedTuple):
    """What a preset measures: shapes by name, and timed rounds."""

    shapes: Mapping[str, Shape]
    rounds: int


SHAPES = {
    "S1": Shape(B=64, T=200, N=64, D=8),  # a neuroscience task
    "S2": Shape(B=64, T=784, N=128, D=1),  # images pixel by pixel
    "S3": Shape(B=32, T=128, N=512, D=512),  # characters
    "S4": Shape(B=16, T=500, N=512, D=123),  # speech
    "S5": Shape(B=50, T=1000, N=128, D=10),  # copy and adding tasks
    "S6": Shape(B=1, T=1000, N=256, D=32),  # one stream
}

PRESETS = {
    # Small, wide and unbatched: about a minute on two cores.
    "quick": Preset(shapes={name: SHAPES[name] for name in ("S1", "S3", "S6")}, rounds=5),
    "full": Preset(shapes=SHAPES, rounds=9),
}

CELLS = {"tanh": cells.elman(), "gru": cells.gru(), "lstm": cells.lstm()}

# Sums over up to T·B = 50 000 terms, in an order of each contender's own: the error is rounding, grown along T.
TOLERANCES = {"float32": 5e-5, "float64": 1e-12}

HAND_WRITTEN, AUTODIFF = "hand-written", "autodiff"


class Contender(NamedTuple):
    """One way to the same gradient.

    Attributes:
      params: the parameters in its own layout.
      outputs: `(params, state, xs) -> h_1 … h_T`, `(T, B, N)`; state is that of this library's cell.
      translate: a gradient for its own parameters, in the layout of this library's.
    """

    params: PyTree
    outputs: Callable[[PyTree, PyTree, jax.Array], jax.Array]
    translate: Callable[[PyTree], PyTree] = lambda gradient: gradient


Peer = Callable[[str, PyTree], Contender]
"""`(cell name, this library's parameters) -> contender`."""


def run(settings: harness.Settings) -> dict[str, Any]:
    """Measure every cell at every shape of the preset, printing rows as they come; the record to keep.

    Raises:
      harness.BenchmarkError: if the contenders do not compute the same.
    """
    preset = PRESETS[settings.preset]
    rounds = preset.rounds if settings.rounds is None else settings.rounds
    peers, skipped = installed()
    record: dict[str, Any] = {
        "benchmark": "gradient",
        "claim": CLAIM,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": {
            "preset": settings.preset,
            "dtype": settings.dtype,
            "rounds": rounds,
            "tolerance": TOLERANCES[settings.dtype],
            "matmul_precision": "highest",
            "shapes": {name: shape._asdict() for name, shape in preset.shapes.items()},
        },
        "device": harness.device(),
        "versions": harness.versions(["flax"]),
        "skipped": skipped,
        "cases": [],
    }
    print(heading(record))
    with jax.enable_x64(settings.dtype == "float64"), jax.default_matmul_precision("highest"):
        for shape_name, shape in preset.shapes.items():
            for cell_name in CELLS:
                case = {"shape": shape_name, **shape._asdict(), "cell": cell_name}
                profile = settings.profile and settings.profile / f"{shape_name}-{cell_name}"
                case["contenders"] = measure(shape, cell_name, settings.dtype, rounds, peers, profile)
                record["cases"].append(case)
                print("\n".join(rows(case)), flush=True)
    record["verdicts"] = verdicts(record["cases"])
    print("\n".join(conclusion(record)))
    return record


def measure(
    shape: Shape,
    cell_name: str,
    dtype: str,
    rounds: int,
    peers: Mapping[str, Peer],
    profile: Path | None = None,
) -> dict[str, dict[str, Any]]:
    """What is recorded of each contender, for one cell at one shape: checked equal first, then timed in turn."""
    params, state, xs = problem(CELLS[cell_name], shape, dtype)
    entrants = contenders(cell_name, params, peers)
    programs = {
        name: harness.compile_cold(jax.grad(_loss(contender)), contender.params, state, xs)
        for name, contender in entrants.items()
    }
    errors = check_equal(entrants, programs, state, xs, dtype)
    calls = {name: program.call for name, program in programs.items()}
    seconds = harness.interleave(calls, rounds)
    if profile is not None:
        harness.profile_round(calls, profile)

    tbn_bytes = shape.T * shape.B * shape.N * np.dtype(dtype).itemsize
    return {
        name: {
            "seconds": seconds[name],
            "spread": harness.spread(seconds[name]),
            "ratio": harness.ratios(seconds[name], seconds[HAND_WRITTEN]),
            "trace_seconds": program.trace_seconds,
            "compile_seconds": program.compile_seconds,
            "temporary_bytes": program.temporary_bytes,
            "temporary_per_TBN": program.temporary_bytes and program.temporary_bytes / tbn_bytes,
            "weight_gradient_products_in_loops": loops.weight_gradient_products(program.jaxpr),
            "relative_error": errors[name],
        }
        for name, program in programs.items()
    }


def problem(cell: Cell, shape: Shape, dtype: str) -> tuple[PyTree, PyTree, jax.Array]:
    """Parameters, initial state and inputs, the same in every run; no leaf is zero: one copied wrongly shows.

    Entries of xs are standard normal, those of parameters and state have variance 1 / the size of the last axis:
    products are of order 1, whatever the shape.
    """
    params = jax.eval_shape(lambda key: cell.init(key, shape.D, shape.N, dtype=dtype), jax.random.key(0))
    state = jax.eval_shape(lambda params: cell.initial_state(params, (shape.B,)), params)
    rng = np.random.default_rng(0)

    def draw(leaf):
        return jnp.asarray(rng.normal(0, leaf.shape[-1] ** -0.5, leaf.shape).astype(leaf.dtype))

    xs = jnp.asarray(rng.normal(size=(shape.T, shape.B, shape.D)).astype(dtype))
    return jax.tree.map(draw, params), jax.tree.map(draw, state), xs


def installed() -> tuple[dict[str, Peer], dict[str, str]]:
    """The peers that can be imported, and why the others cannot."""
    found, absent = {}, {}
    for name, peer in PEERS.items():
        try:
            importlib.import_module(name)
            found[name] = peer
        except ImportError as error:
            absent[name] = str(error)
    return found, absent


def contenders(cell_name: str, params: PyTree, peers: Mapping[str, Peer]) -> dict[str, Contender]:
    """All contenders for one cell, the hand-written gradient first."""
    cell = CELLS[cell_name]
    return {
        HAND_WRITTEN: _own(cell, bptt.unroll, params),
        AUTODIFF: _own(cell, unroll.unroll, params),
        **{name: peer(cell_name, params) for name, peer in peers.items()},
    }


def _own(cell: Cell, unrolling: Callable, params: PyTree) -> Contender:
    def outputs(params, state, xs):
        return cell.emit(unrolling(cell, params, state, xs))

    return Contender(params, outputs)


def flax_linen(cell_name: str, params: PyTree) -> Contender:
    """`flax.linen.RNN`; the LSTM is OptimizedLSTMCell, whose four gates share a product."""
    import flax.linen

    layout = _FLAX_LAYOUTS[cell_name]
    hidden_size, dtype = params.w_hh.shape[-1], params.w_hh.dtype
    cell = getattr(flax.linen, layout.cell)(hidden_size, dtype=dtype, param_dtype=dtype)
    rnn = flax.linen.RNN(cell, time_major=True)

    def variables(params):
        return {"params": {"cell": layout.params(params)}}

    def outputs(variables, state, xs):
        return rnn.apply(variables, xs, initial_carry=layout.carry(state))

    def translate(gradient):
        # By the chain rule the layout's transpose takes gradients back; it copies, so nothing is rounded.
        return jax.vjp(variables, params)[1](gradient)[0]

    return Contender(variables(params), outputs, translate)


def _flax_elman(params: cells.ElmanParams) -> PyTree:
    """Kernels are (in, out); the bias is the input's."""
    return {"i": {"kernel": params.w_xh.T, "bias": params.b_h}, "h": {"kernel": params.w_hh.T}}


def _flax_gru(params: cells.GRUParams) -> PyTree:
    """Biases are the input's, gate by gate; the candidate's product has its own, as here."""
    tree = {}
    for gate, name in enumerate("rzn"):
        tree[f"i{name}"] = {"kernel": params.w_xh[gate].T, "bias": params.b_h[gate]}
        tree[f"h{name}"] = {"kernel": params.w_hh[gate].T}
    tree["hn"]["bias"] = params.b_hn
    return tree


def _flax_lstm(params: cells.LSTMParams) -> PyTree:
    """Biases are the recurrent product's, gate by gate."""
    tree = {}
    for gate, name in enumerate("ifgo"):
        tree[f"i{name}"] = {"kernel": params.w_xh[gate].T}
        tree[f"h{name}"] = {"kernel": params.w_hh[gate].T, "bias": params.b_h[gate]}
    return tree


class _FlaxLayout(NamedTuple):
    """The name of a cell, its parameters from ours, its carry from our state."""

    cell: str
    params: Callable[[Any], PyTree]
    carry: Callable[[Any], PyTree] = lambda h: h


_FLAX_LAYOUTS = {
    "tanh": _FlaxLayout("SimpleCell", _flax_elman),
    "gru": _FlaxLayout("GRUCell", _flax_gru),
    "lstm": _FlaxLayout("OptimizedLSTMCell", _flax_lstm, lambda state: (state.c, state.h)),
}

PEERS: dict[str, Peer] = {"flax.linen": flax_linen}  # by the module that each one needs


def _loss(contender: Contender) -> Callable[[PyTree, PyTree, jax.Array], jax.Array]:
    return lambda params, state, xs: (contender.outputs(params, state, xs) ** 2).sum()


def check_equal(
    entrants: Mapping[str, Contender],
    programs: Mapping[str, harness.Compiled],
    state: PyTree,
    xs: jax.Array,
    dtype: str,
) -> dict[str, float]:
    """The largest relative error of each contender, over its outputs and every leaf of its gradient.

    Raises:
      harness.BenchmarkError: if one exceeds the tolerance: times of different computations say nothing.
    """
    results = {
        name: (
            jax.jit(contender.outputs)(contender.params, state, xs),
            contender.translate(programs[name].call()),
        )
        for name, contender in entrants.items()
    }
    errors = {name: _relative_error(result, results[AUTODIFF]) for name, result in results.items()}
    for name, error in errors.items():
        if not error <= TOLERANCES[dtype]:
            raise harness.BenchmarkError(
                f"{name} and {AUTODIFF} differ by {error:.1e} in outputs or gradients, more than the "
                f"{TOLERANCES[dtype]:.0e} of {dtype}; nothing is kept. Look at how its parameters are laid out."
            )
    return errors


def _relative_error(tree: PyTree, reference: PyTree) -> float:
    """max over leaves of ‖a − b‖₂ / ‖b‖₂."""

    def error(a, b):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        return np.linalg.norm(a - b) / np.linalg.norm(b)

    return float(max(jax.tree.leaves(jax.tree.map(error, tree, reference))))


def verdicts(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the measurements say of the claim."""
    return [_loop_verdict(cases), *(_time_verdict(cases, cell) for cell in CELLS)]


def _loop_verdict(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Automatic differentiation is the negative control: the count must see what it leaves in the loop."""

    def products(name):
        return [case["contenders"][name]["weight_gradient_products_in_loops"] for case in cases]

    return {
        "claim": "no weight-gradient product inside the hand-written loop",
        "expected": 0,
        "measured": max(products(HAND_WRITTEN)),
        "control": f"autodiff has {min(products(AUTODIFF))} or more",
        "verdict": "holds" if max(products(HAND_WRITTEN)) == 0 < min(products(AUTODIFF)) else "fails",
    }


def _time_verdict(cases: list[dict[str, Any]], cell: str) -> dict[str, Any]:
    """The best of the others at each shape over hand-written: geometric mean over shapes of the ratios' quartiles.

    Inconclusive while 1 lies between the quartiles, and with fewer rounds than five: their quartiles are one and
    the same round, or neighbours.
    """

    def mean(quartile):
        return harness.geometric_mean(
            min(c["ratio"][quartile] for name, c in case["contenders"].items() if name != HAND_WRITTEN)
            for case in cases
            if case["cell"] == cell
        )

    lower, upper = mean("lower_quartile"), mean("upper_quartile")
    rounds = min(len(c["seconds"]) for case in cases for c in case["contenders"].values())
    if rounds < 5 or lower < 1 <= upper:
        verdict = "inconclusive"
    else:
        verdict = "holds" if lower >= 1 else "fails"
    return {
        "claim": f"{cell}: no slower than the best of the others (its time over hand-written)",
        "expected": ">= 1",
        "measured": mean("median"),
        "quartiles": [lower, upper],
        "verdict": verdict,
    }


def heading(record: Mapping[str, Any]) -> str:
    """What is measured, on what, and the columns of the table."""
    settings, device, versions = record["settings"], record["device"], record["versions"]
    name = device["processor"] if device["platform"] == "cpu" else device["kind"]
    others = ", ".join(f"{p} {versions[p] or 'not installed'}" for p in ("jax", "flax"))
    return "\n".join(
        [
            f"gradient of Σ h² with respect to the parameters, {settings['dtype']}, rounds: {settings['rounds']}",
            f"{device['platform']}: {name}, {device['cores']} cores; {others}",
            "",
            *(
                f"{name}       " + ", ".join(f"{axis} = {size}" for axis, size in shape.items())
                for name, shape in settings["shapes"].items()
            ),
            "x hand   time over the hand-written one's, median over rounds",
            "temp     peak temporary memory, in units of T·B·N floats",
            "in loop  weight-gradient products inside the time loops",
            "",
            _COLUMNS.format(*_TITLES),
        ]
    )


_TITLES = (
    "",
    "cell",
    "contender",
    "median ms",
    "quartiles ms",
    "x hand",
    "trace+compile s",
    "temp",
    "in loop",
)
_COLUMNS = "{:3} {:5} {:13} {:>9} {:>17} {:>7} {:>15} {:>6} {:>8}"


def rows(case: Mapping[str, Any]) -> list[str]:
    """The lines of the table for one cell at one shape."""
    return [
        _COLUMNS.format(
            case["shape"],
            case["cell"],
            name,
            f"{1e3 * c['spread']['median']:.1f}",
            f"{1e3 * c['spread']['lower_quartile']:.1f} … {1e3 * c['spread']['upper_quartile']:.1f}",
            f"{c['ratio']['median']:.2f}",
            f"{c['trace_seconds']:.2f} + {c['compile_seconds']:.2f}",
            "?" if c["temporary_per_TBN"] is None else f"{c['temporary_per_TBN']:.1f}",
            c["weight_gradient_products_in_loops"],
        )
        for name, c in case["contenders"].items()
    ]


def conclusion(record: Mapping[str, Any]) -> list[str]:
    """The lines under the table: what was skipped, and the verdicts."""
    lines = [""]
    lines += [f"skipped: {name} ({reason})" for name, reason in record["skipped"].items()]
    for verdict in record["verdicts"]:
        measured = verdict["measured"]
        text = f"{measured:.2f}" if isinstance(measured, float) else str(measured)
        control = f" ({verdict['control']})" if "control" in verdict else ""
        lines.append(f"{verdict['verdict']:12} {verdict['claim']}: {text}{control}")
    return lines
