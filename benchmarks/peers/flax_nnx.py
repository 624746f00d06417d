"""flax.nnx.RNN; gates share a product in both GRUCell and OptimizedLSTMCell.

Its GRU has no b_hn, so that this part of the gradient is neither computed by it nor compared.
"""

import jax

from benchmarks.peers import TURNS, Entrant, Peer, by_layout, joined
from rnn_jax.types import PyTree


def _dense(params: PyTree, biased: str) -> PyTree:
    """Two products of all gates, kernels (in, gates · N); the bias is that of the product named."""
    w_xh, w_hh, b_h = joined(params)
    tree = {"dense_i": {"kernel": w_xh.T}, "dense_h": {"kernel": w_hh.T}}
    tree[biased]["bias"] = b_h
    return {"cell": tree}


# The cell, the product that has the bias, what it lacks.
_CELLS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "tanh": ("SimpleCell", "dense_i", ()),
    "gru": ("GRUCell", "dense_i", ("b_hn",)),
    "lstm": ("OptimizedLSTMCell", "dense_h", ()),
}


def build(
    cell_name: str, params: PyTree, state: PyTree, xs: jax.Array, last: bool = False, unroll: int = 1
) -> Entrant:
    """The gradient by automatic differentiation of the module, split into graph and variables."""
    from flax import nnx

    name, biased, lacks = _CELLS[cell_name]
    dtype = params.w_hh.dtype
    make = getattr(nnx, name)
    cell = make(xs.shape[-1], params.w_hh.shape[-1], dtype=dtype, param_dtype=dtype, rngs=nnx.Rngs(0))
    graph, _, rest = nnx.split(nnx.RNN(cell, time_major=True, unroll=unroll, rngs=False), nnx.Param, ...)

    def outputs(variables, state, xs):
        rnn = nnx.merge(graph, nnx.State(variables), rest)
        carry = (state.c, state.h) if cell_name == "lstm" else state
        hs = rnn(xs, initial_carry=carry)
        return hs[-1] if last else hs

    return by_layout(lambda params: _dense(params, biased), params, outputs, state, xs, lacks)


PEER = Peer("flax.nnx", ("flax.nnx",), "pip install flax", tuple(_CELLS), build, turns=TURNS)
