"""Writes torch.npz: what torch's recurrent layers compute in float64, for tests that run without torch.

    python tests/references/generate.py          needs numpy and torch, and nothing else

Each family (`torch.nn.RNN` with tanh and with ReLU, `GRU`, `LSTM`) runs in each form: one layer, two layers, and
both directions over a packed batch of sequences of different lengths. Four groups of arrays belong to a case,
under torch's own names and in its own layout:

    arguments     input (T, B, D); h_0, c_0 (layers · directions, B, N); weight_ih_l0, …, bias_hh_l0_reverse
    results       output (T, B, directions · N), zero over the padding; h_n, c_n, each sequence's last state
    cotangents    ∂L/∂results, random: the loss is their inner product with the results
    gradients     ∂L/∂arguments, by torch's autograd

All arguments are random normal numbers. No bias and no initial state is zero, and W_hh of each gate is Gaussian
with a gain g, entries N(0, g²/N).
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

PATH = Path(__file__).with_name("torch.npz")
SEED = 20250801
GAIN = 1.0  # the largest at which nothing explodes, so that rounding is not amplified


class Case(NamedTuple):
    """A network and the sizes of its data: torch's mode, layers, directions; T, B, D, N; lengths `(B,)` if packed."""

    family: str
    layers: int = 1
    bidirectional: bool = False
    steps: int = 5
    batch: int = 2
    inputs: int = 3
    hidden: int = 4
    lengths: tuple[int, ...] | None = None


class Reference(NamedTuple):
    """The arrays of one case by torch's names, as said above."""

    arguments: dict[str, np.ndarray]
    results: dict[str, np.ndarray]
    cotangents: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]


FAMILIES = {"RNN_TANH": "RNN", "RNN_RELU": "RNN", "GRU": "GRU", "LSTM": "LSTM"}  # torch's mode: its class

FORMS = {
    "one-layer": {},
    "two-layers": {"layers": 2},
    "both-directions-packed": {"bidirectional": True, "lengths": (3, 5)},
}

CASES = {f"{family}/{form}": Case(family, **FORMS[form]) for family in FAMILIES for form in FORMS}


def reference(case: Case, seed: int, gain: float = GAIN) -> Reference:
    """One case by torch."""
    import torch  # here, so that the tests of the committed arrays do without it

    options = {"nonlinearity": case.family.removeprefix("RNN_").lower()} if "RNN" in case.family else {}
    layer = getattr(torch.nn, FAMILIES[case.family])(
        case.inputs,
        case.hidden,
        case.layers,
        bidirectional=case.bidirectional,
        dtype=torch.float64,
        **options,
    )
    state_shape = (case.layers * (1 + case.bidirectional), case.batch, case.hidden)
    rng = np.random.default_rng(seed)

    def normal(shape, scale=1.0):
        return torch.tensor(scale * rng.standard_normal(shape))

    arguments = {"input": normal((case.steps, case.batch, case.inputs)), "h_0": normal(state_shape)}
    if case.family == "LSTM":
        arguments["c_0"] = normal(state_shape)
    for name, parameter in layer.named_parameters():
        # W_hh and W_xh are scaled by their number of columns; a bias by half, which leaves the gates open.
        scale = 0.5 if "bias" in name else parameter.shape[1] ** -0.5
        arguments[name] = normal(parameter.shape, gain * scale if "weight_hh" in name else scale)

    arguments = {name: tensor.requires_grad_() for name, tensor in arguments.items()}
    results = _run(layer, arguments, case.lengths)
    cotangents = {name: normal(tensor.shape) for name, tensor in results.items()}
    gradients = torch.autograd.grad(
        list(results.values()), list(arguments.values()), list(cotangents.values())
    )
    gradients = dict(zip(arguments, gradients, strict=True))
    groups = (arguments, results, cotangents, gradients)
    return Reference(*({name: t.detach().numpy() for name, t in group.items()} for group in groups))


def _run(layer, arguments, lengths) -> dict:
    """The layer as a function of its parameters, initial state and input."""
    import torch
    from torch.nn.utils import rnn

    parameters = {name: arguments[name] for name, _ in layer.named_parameters()}
    state = tuple(arguments[name] for name in ("h_0", "c_0") if name in arguments)
    x = arguments["input"]
    if lengths is not None:
        x = rnn.pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
    x = (x, state if "c_0" in arguments else state[0])
    output, last = torch.func.functional_call(layer, parameters, x)
    if lengths is not None:
        output, _ = rnn.pad_packed_sequence(output, total_length=len(arguments["input"]))
    if "c_0" in arguments:
        return {"output": output, "h_n": last[0], "c_n": last[1]}
    return {"output": output, "h_n": last}


def references() -> dict[str, Reference]:
    """All that the file holds, by the names of the cases."""
    return {name: reference(case, SEED + number) for number, (name, case) in enumerate(CASES.items())}


def save(path: Path = PATH) -> None:
    """Writes the cases and, as `metadata/…`, what made them."""
    import torch

    arrays = {
        "metadata/generator": np.array("tests/references/generate.py"),
        "metadata/torch": np.array(torch.__version__),
        "metadata/numpy": np.array(np.__version__),
        "metadata/seed": np.array(SEED),
        "metadata/gain": np.array(GAIN),
    }
    for case, groups in references().items():
        for group, by_name in groups._asdict().items():
            arrays |= {f"{case}/{group}/{name}": array for name, array in by_name.items()}
    np.savez_compressed(path, **arrays)


def load(path: Path = PATH) -> tuple[dict[str, np.ndarray], dict[str, Reference]]:
    """The metadata, and the cases by name."""
    metadata: dict = {}
    cases: dict = {}
    with np.load(path, allow_pickle=False) as arrays:
        for key in arrays.files:
            *case, group, name = key.split("/")
            target = cases.setdefault("/".join(case), {}).setdefault(group, {}) if case else metadata
            target[name] = arrays[key]
    return metadata, {name: Reference(**groups) for name, groups in cases.items()}


if __name__ == "__main__":
    save()
    print(f"{PATH}: {len(CASES)} cases, {PATH.stat().st_size} bytes")
