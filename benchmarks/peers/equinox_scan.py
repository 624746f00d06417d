"""A scan over equinox's GRUCell or LSTMCell, which take one example: `jax.vmap` is the batch. It has no tanh cell."""

import jax
from jax import lax

from benchmarks.peers import TURNS, Entrant, Peer, by_layout, joined
from rnn_jax.types import PyTree


def build(
    cell_name: str, params: PyTree, state: PyTree, xs: jax.Array, last: bool = False, unroll: int = 1
) -> Entrant:
    """The gradient by automatic differentiation of the scan; the cell is its own tree of parameters."""
    import equinox

    make = {"gru": equinox.nn.GRUCell, "lstm": equinox.nn.LSTMCell}[cell_name]
    # Drawn and dropped: a cell is made by drawing one.
    drawn = make(xs.shape[-1], params.w_hh.shape[-1], dtype=params.w_hh.dtype, key=jax.random.key(0))

    def layout(params):
        weights = dict(zip(("weight_ih", "weight_hh", "bias"), joined(params), strict=True))
        if cell_name == "gru":
            weights["bias_n"] = params.b_hn
        return equinox.tree_at(
            lambda cell: [getattr(cell, name) for name in weights], drawn, list(weights.values())
        )

    def outputs(cell, state, xs):
        def body(carry, x):
            carry = jax.vmap(cell)(x, carry)
            return carry, (carry[0] if cell_name == "lstm" else carry)

        carry = (state.h, state.c) if cell_name == "lstm" else state
        hs = lax.scan(body, carry, xs, unroll=unroll)[1]
        return hs[-1] if last else hs

    return by_layout(layout, params, outputs, state, xs)


PEER = Peer("equinox", ("equinox",), "pip install equinox", ("gru", "lstm"), build, turns=TURNS)
