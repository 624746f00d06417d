"""torch's recurrent layers in this library's words.

    torch                                            here
    weight_ih (G·N, D), gates r, z, n or i, f, g, o  w_xh (G, N, D); an Elman layer has no axis of gates
    weight_hh (G·N, N)                               w_hh (G, N, N)
    bias_ih + bias_hh (G·N)                          b_h (G, N)
    but in the gate n of the GRU: bias_ih, bias_hh   b_h; b_hn, which is inside the reset gate
    h_0, c_0 (layers · directions, B, N)             a state for each layer or direction
    input (T, B, D)                                  xs

`arguments` and `results` are linear, so that gradients return through their transposes (`jax.vjp`): ∂L/∂b_h is
compared with the gradients of both of torch's biases.
"""

from operator import itemgetter

import jax
import jax.numpy as jnp

from rnn_jax import cells, unroll
from tests.references.generate import Case

CELLS = {
    "RNN_TANH": cells.elman(jnp.tanh),
    "RNN_RELU": cells.elman(jax.nn.relu),
    "GRU": cells.gru(),
    "LSTM": cells.lstm(),
}
GATES = {"GRU": 3, "LSTM": 4}


def cell(case: Case) -> cells.Cell:
    """The cell, or the stack of cells, of one direction."""
    layers = (CELLS[case.family],) * case.layers
    return cells.stack(*layers) if case.layers > 1 else layers[0]


def lengths(case: Case) -> jax.Array | None:
    """The lengths of the sequences, if they are packed."""
    return None if case.lengths is None else jnp.array(case.lengths)


def arguments(case: Case, torch: dict) -> tuple:
    """`(params, state, xs)`; params and state are tuples if there are two layers or two directions."""
    if case.bidirectional:
        assert case.layers == 1  # torch's second layer would read both directions of the first: no stack
        suffixes = ["_l0", "_l0_reverse"]
    else:
        suffixes = [f"_l{layer}" for layer in range(case.layers)]
    params = tuple(_params(case.family, torch, suffix) for suffix in suffixes)
    state = tuple(_state(torch, index) for index in range(len(suffixes)))
    if len(suffixes) == 1:
        params, state = params[0], state[0]
    return params, state, torch["input"]


def results(case: Case, states) -> dict:
    """torch's output, h_n and c_n from the states at every step (`unroll.Bidirectional` of two directions)."""
    emit = cell(case).emit
    if case.bidirectional:
        output = jnp.concatenate([emit(states.forward), emit(states.backward)], axis=-1)
        # The backward direction ends after x_1.
        layers = _at(-1, states.forward), _at(0, states.backward)
    else:
        output = emit(states)
        layers = _at(-1, states) if case.layers > 1 else (_at(-1, states),)
    # torch fills the padding with zeros; here the state is frozen.
    output = unroll.where_valid(unroll.valid(output, lengths(case)), output, jnp.zeros_like(output))
    if case.family == "LSTM":
        return {
            "output": output,
            "h_n": jnp.stack([s.h for s in layers]),
            "c_n": jnp.stack([s.c for s in layers]),
        }
    return {"output": output, "h_n": jnp.stack(layers)}


def _at(index: int, states):
    return jax.tree.map(itemgetter(index), states)


def _params(family: str, torch: dict, suffix: str):
    w_xh, w_hh, b_ih, b_hh = (
        torch[name + suffix] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    if family not in GATES:
        return cells.ElmanParams(w_hh=w_hh, w_xh=w_xh, b_h=b_ih + b_hh)
    gates, hidden = GATES[family], w_hh.shape[1]
    w_xh, w_hh = w_xh.reshape(gates, hidden, -1), w_hh.reshape(gates, hidden, hidden)
    b_ih, b_hh = b_ih.reshape(gates, hidden), b_hh.reshape(gates, hidden)
    if family == "LSTM":
        return cells.LSTMParams(w_hh=w_hh, w_xh=w_xh, b_h=b_ih + b_hh)
    return cells.GRUParams(w_hh=w_hh, w_xh=w_xh, b_h=jnp.stack([*(b_ih + b_hh)[:2], b_ih[2]]), b_hn=b_hh[2])


def _state(torch: dict, index: int):
    h = torch["h_0"][index]
    return cells.LSTMState(h=h, c=torch["c_0"][index]) if "c_0" in torch else h
