"""flax.linen.RNN; the LSTM is OptimizedLSTMCell, whose four gates share a product."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from benchmarks.peers import TURNS, Entrant, Peer, by_layout
from rnn_jax import cells
from rnn_jax.types import PyTree


def _elman(params: cells.ElmanParams) -> PyTree:
    """Kernels are (in, out); the bias is the input's."""
    return {"i": {"kernel": params.w_xh.T, "bias": params.b_h}, "h": {"kernel": params.w_hh.T}}


def _gru(params: cells.GRUParams) -> PyTree:
    """Biases are the input's, gate by gate; the candidate's product has its own, as here."""
    tree = {}
    for gate, name in enumerate("rzn"):
        tree[f"i{name}"] = {"kernel": params.w_xh[gate].T, "bias": params.b_h[gate]}
        tree[f"h{name}"] = {"kernel": params.w_hh[gate].T}
    tree["hn"]["bias"] = params.b_hn
    return tree


def _lstm(params: cells.LSTMParams) -> PyTree:
    """Biases are the recurrent product's, gate by gate."""
    tree = {}
    for gate, name in enumerate("ifgo"):
        tree[f"i{name}"] = {"kernel": params.w_xh[gate].T}
        tree[f"h{name}"] = {"kernel": params.w_hh[gate].T, "bias": params.b_h[gate]}
    return tree


class _Layout(NamedTuple):
    """The name of a cell, its parameters from ours, its carry from our state."""

    cell: str
    params: Callable[[Any], PyTree]
    carry: Callable[[Any], PyTree] = lambda h: h


_LAYOUTS = {
    "tanh": _Layout("SimpleCell", _elman),
    "gru": _Layout("GRUCell", _gru),
    "lstm": _Layout("OptimizedLSTMCell", _lstm, lambda state: (state.c, state.h)),
}


def build(
    cell_name: str, params: PyTree, state: PyTree, xs: jax.Array, last: bool = False, unroll: int = 1
) -> Entrant:
    """The gradient by automatic differentiation of the module."""
    import flax.linen

    layout = _LAYOUTS[cell_name]
    hidden_size, dtype = params.w_hh.shape[-1], params.w_hh.dtype
    cell = getattr(flax.linen, layout.cell)(hidden_size, dtype=dtype, param_dtype=dtype)
    rnn = flax.linen.RNN(cell, time_major=True, unroll=unroll)

    def outputs(variables, state, xs):
        hs = rnn.apply(variables, xs, initial_carry=layout.carry(state))
        return hs[-1] if last else hs

    return by_layout(lambda params: {"params": {"cell": layout.params(params)}}, params, outputs, state, xs)


PEER = Peer("flax.linen", ("flax.linen",), "pip install flax", tuple(_LAYOUTS), build, turns=TURNS)
