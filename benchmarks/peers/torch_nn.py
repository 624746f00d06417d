"""torch's nn.RNN, nn.GRU and nn.LSTM: oneDNN's fused LSTM on a CPU, cuDNN's kernels for all three on a GPU of NVIDIA's.

It runs where JAX does, in full precision and with as many threads. It has two biases where one would do. The second
is zero here, and its gradient is not asked for, but for the candidate of the GRU, where it is b_hn and is compared.
"""

import jax
import jax.numpy as jnp

from benchmarks import records
from benchmarks.peers import Entrant, Peer, joined, to_numpy
from rnn_jax.types import PyTree

_MODULES = {"tanh": "RNN", "gru": "GRU", "lstm": "LSTM"}


def _obstacle() -> str | None:
    import torch

    platform = jax.devices()[0].platform
    if platform == "cpu" or (platform in ("gpu", "cuda") and torch.cuda.is_available()):
        return None
    return f"this build of torch does not run on the {platform} that JAX runs on"


def build(cell_name: str, params: PyTree, state: PyTree, xs: jax.Array, last: bool = False) -> Entrant:
    """The gradient by torch's own backward pass."""
    import torch

    device = "cpu" if jax.devices()[0].platform == "cpu" else "cuda"
    torch.set_num_threads(records.cores())
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    def tensor(array):
        return torch.from_numpy(to_numpy(array)).to(device)

    parameters = {name: tensor(array) for name, array in _layout(cell_name, params).items()}
    module = getattr(torch.nn, _MODULES[cell_name])(
        xs.shape[-1], params.w_hh.shape[-1], dtype=parameters["bias_ih_l0"].dtype, device=device
    )
    module.load_state_dict(parameters)
    if cell_name != "gru":
        module.bias_hh_l0.requires_grad_(False)  # one bias too many
    wanted = {name: array for name, array in module.named_parameters() if array.requires_grad}
    inputs = tensor(xs)
    # One layer is the leading axis of the state.
    h_0 = [tensor(leaf)[None] for leaf in ([state.h, state.c] if cell_name == "lstm" else [state])]
    carry = tuple(h_0) if cell_name == "lstm" else h_0[0]

    def forward():
        hs, _ = module(inputs, carry)
        return hs[-1] if last else hs

    def finished(result):
        if device == "cuda":
            torch.cuda.synchronize()
        return result

    def gradient():
        result = torch.autograd.grad((forward() ** 2).sum(), list(wanted.values()))
        return finished(dict(zip(wanted, result, strict=True)))

    def outputs():
        with torch.no_grad():
            # Where they are: a copy would count as its time.
            return jnp.from_dlpack(finished(forward()))

    def translate(gradient):
        arrays = {name: array.cpu().numpy() for name, array in gradient.items()}
        return _from_layout(cell_name, params, arrays)

    return Entrant(gradient, outputs, translate, program=None)


def _layout(cell_name: str, params: PyTree) -> dict[str, jax.Array]:
    """In the order of the module's parameters; gates one below the other, in the same order as here."""
    w_xh, w_hh, b_h = joined(params)
    second_bias = jnp.zeros_like(b_h)
    if cell_name == "gru":
        second_bias = second_bias.at[-params.b_hn.size :].set(params.b_hn)
    return {"weight_ih_l0": w_xh, "weight_hh_l0": w_hh, "bias_ih_l0": b_h, "bias_hh_l0": second_bias}


def _from_layout(cell_name: str, params: PyTree, arrays: dict) -> PyTree:
    own = params._replace(
        w_xh=arrays["weight_ih_l0"].reshape(params.w_xh.shape),
        w_hh=arrays["weight_hh_l0"].reshape(params.w_hh.shape),
        b_h=arrays["bias_ih_l0"].reshape(params.b_h.shape),
    )
    if cell_name == "gru":
        own = own._replace(b_hn=arrays["bias_hh_l0"].reshape(params.b_h.shape)[2])
    return own


PEER = Peer("torch", ("torch",), "pip install torch", tuple(_MODULES), build, _obstacle)
