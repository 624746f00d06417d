"""Others who compute the same: one file a peer, imported when it is measured.

    own             this library, in the ways that are compared among themselves
    flax_linen      flax.linen.RNN over SimpleCell, GRUCell, OptimizedLSTMCell
    flax_nnx        flax.nnx.RNN over the cells of the same names
    equinox_scan    a scan over equinox's GRUCell and LSTMCell
    torch_nn        torch's nn.RNN, nn.GRU, nn.LSTM, the fused ones
    lyapax_map      Lyapunov exponents of a map by lyapax

All start from the same numbers, copied into each one's own layout.
"""

import importlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import harness
from rnn_jax.types import PyTree


class Entrant(NamedTuple):
    """One way to a gradient, ready to run.

    Attributes:
      gradient: no argument; the gradient for its own parameters, in its own layout.
      outputs: no argument; the outputs whose squares are summed, without a way back.
      translate: a gradient in the layout of this library's parameters; None for a leaf that it does not have.
      program: the compiled gradient; None for what is not compiled by JAX.
      lacks: parameters of this library's that it does not have: it has less to do, and is shown but not compared.
      turns: how many steps a turn of the loop takes, for the gradient and for the outputs.
    """

    gradient: Callable[[], Any]
    outputs: Callable[[], Any]
    translate: Callable[[Any], PyTree]
    program: harness.Compiled | None
    lacks: tuple[str, ...] = ()
    turns: tuple[int, int] = (1, 1)


class Peer(NamedTuple):
    """Another library's way, and what it takes.

    Attributes:
      name: in the tables.
      requires: modules.
      install: how to get them.
      cells: which cells it has.
      build: `(cell name, parameters, state, xs, last) -> Entrant`; with `last` the loss is that of h_T alone. (For
        what is no gradient, as the peer's file says.)
      obstacle: no argument; why it cannot be compared on this device, or None.
      turns: steps in a turn of its loop that are tried, which `build` takes as `unroll`; none if it has no such option.
    """

    name: str
    requires: tuple[str, ...]
    install: str
    cells: tuple[str, ...]
    build: Callable[..., Any]
    obstacle: Callable[[], str | None] = lambda: None
    turns: tuple[int, ...] = ()


TURNS = (1, 4)
"""Steps in a turn: as JAX has it if not asked, and as this library's own loops have it on an accelerator."""

_TRIALS = 3


def strongest(peer: Peer, *arguments: Any) -> Entrant:
    """The peer with as many steps in a turn of its loop as are fastest, by trial, for the gradient and for the outputs.

    `arguments` are those of `Peer.build`.
    """
    ways = {n: peer.build(*arguments, unroll=n) for n in peer.turns} or {1: peer.build(*arguments)}
    gradient = _fastest({n: way.gradient for n, way in ways.items()})
    outputs = _fastest({n: way.outputs for n, way in ways.items()})
    return ways[gradient]._replace(outputs=ways[outputs].outputs, turns=(gradient, outputs))


def _fastest(calls: dict[int, Callable[[], Any]]) -> int:
    if len(calls) == 1:
        return next(iter(calls))
    names = {str(n): call for n, call in calls.items()}
    seconds = harness.interleave(names, _TRIALS)
    return min(calls, key=lambda n: min(seconds[str(n)]))


def differentiate(
    params: PyTree,
    outputs: Callable[[PyTree, PyTree, jax.Array], jax.Array],
    state: PyTree,
    xs: jax.Array,
    translate: Callable[[PyTree], PyTree] = lambda gradient: gradient,
) -> Entrant:
    """The gradient of the sum of squares of `outputs(params, state, xs)`, compiled from cold caches."""

    def loss(params, state, xs):
        return (outputs(params, state, xs) ** 2).sum()

    program = harness.compile_cold(jax.grad(loss), params, state, xs)
    alone = jax.jit(outputs)
    return Entrant(program.call, lambda: alone(params, state, xs), translate, program)


def by_layout(
    layout: Callable[[PyTree], PyTree],
    params: PyTree,
    outputs: Callable[[PyTree, PyTree, jax.Array], jax.Array],
    state: PyTree,
    xs: jax.Array,
    lacks: tuple[str, ...] = (),
) -> Entrant:
    """`differentiate` for a peer whose parameters are `layout` of this library's.

    By the chain rule the layout's transpose takes gradients back; it copies, so nothing is rounded. `lacks` as in
    `Entrant`.
    """

    def translate(gradient):
        (own,) = jax.vjp(layout, params)[1](gradient)
        return own._replace(**dict.fromkeys(lacks))

    return differentiate(layout(params), outputs, state, xs, translate)._replace(lacks=lacks)


def joined(params: PyTree) -> tuple[jax.Array, jax.Array, jax.Array]:
    """w_xh, w_hh and b_h with the gates one below the other, (G·N, …), as other libraries have them."""
    leaves = params.w_xh, params.w_hh, params.b_h
    if params.b_h.ndim == 1:  # one gate
        return leaves
    w_xh, w_hh, b_h = (leaf.reshape(-1, *leaf.shape[2:]) for leaf in leaves)
    return w_xh, w_hh, b_h


def installed(peers: Iterable[Peer]) -> tuple[list[Peer], dict[str, str]]:
    """The peers that can be measured here, and why the others cannot."""
    found, absent = [], {}
    for peer in peers:
        try:
            for module in peer.requires:
                importlib.import_module(module)
        except ImportError as error:
            absent[peer.name] = f"{error}; {peer.install}"
            continue
        obstacle = peer.obstacle()
        if obstacle is None:
            found.append(peer)
        else:
            absent[peer.name] = obstacle
    return found, absent


def to_numpy(tree: PyTree) -> PyTree:
    """Writable copies, for libraries that share memory with what they are given."""
    return jax.tree.map(np.array, tree)
