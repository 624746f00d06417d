"""What is measured on a network, in float64, on held-out sequences.

ln‖∂L_t/∂s_k‖                 all t and k, over the whole state and in each of its components
(∂⁺s/∂θ)ᵀ ∂L_t/∂s by lag      shares of ∂L/∂θ, and whether the parts sum to `jax.grad`'s
alignment                     of the gradient with the directions in which a perturbation grows most
ln σ_i(∂s_T/∂s_{T−n})         all singular values at a few lags n, of one sequence
λ_i                           Lyapunov exponents, driven by images one behind the other

Every measurement is one jitted program: several batched decompositions in one can hang on CPUs (jaxlib 0.10).
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.common import double
from experiments.digits.config import STEPS as PIXELS
from experiments.laboratory.config import STEPS
from experiments.laboratory.networks import Network, Paths, per_step_loss, with_paths
from rnn_jax import cells, decay, flow, jacobians, products, spectrum, unroll
from rnn_jax.types import Cell, PyTree, Step


class Flow(NamedTuple):
    """Gradient flow of networks `(…)` on E sequences.

    Attributes:
      losses: L_t, `(…, E, T)`.
      log_norms: ln‖∂L_t/∂s_k‖, `(…, E, T, T + 1)`, entry [t − 1, k].
      curves: decay curves, mean over the sequences, `(…, T)`: ln of the norm at lag n relative to that at lag 0.
      component_log_norms: as `log_norms`, for each component of the state, a tree of such arrays.
      shares: of ∂L/∂θ by lag, `(…, E, T + 1)`, the last entry 0.
      alignment: `(…, E, T + 1, m)`, see `flow.Profile`.
      log_bound: on `log_norms`, in their shape; NaN for gated cells.
      accounting: ‖Σ_n contribution of lag n − ∂L/∂θ‖ / ‖∂L/∂θ‖, ∂L/∂θ by `jax.grad`, `(…, E)`.
      without_far: the same with the far lags left out of the sum, `(…, E)`.
    """

    losses: jax.Array
    log_norms: jax.Array
    curves: jax.Array
    component_log_norms: PyTree
    shares: jax.Array
    alignment: jax.Array
    log_bound: jax.Array
    accounting: jax.Array
    without_far: jax.Array


class Spectra(NamedTuple):
    """How perturbations grow in networks `(…)`.

    Attributes:
      singular_values: of products of Jacobians along the first sequence, leaves `(…, L, S)`.
      lyapunov: exponents along the long sequence, leaves `(…, S)` and others.
    """

    singular_values: spectrum.SingularValues
    lyapunov: spectrum.Lyapunov


class Held(NamedTuple):
    """Held-out data, float64: E sequences and what they are to predict, `(T, E, 1)`, and a long one `(T', 1)`."""

    xs: jax.Array
    ys: jax.Array
    long: jax.Array


def gradient_flow(network: Network, params: PyTree, held: Held, *, row: int, directions: int) -> Flow:
    """The gradient flow of P networks.

    Args:
      network: the cell.
      params: cell parameters and readout, leaves `(P, …)`.
      held: the data.
      row: lags from here on are left out of the sum in `without_far`.
      directions: m.
    """
    params = double(params)
    cell, slope, (cell_params, _) = network.cell, network.slope, params
    if slope is None:
        bounds = jnp.zeros(cell_params.w_hh.shape[0])
    else:
        bounds = jax.vmap(lambda w_hh: products.log_bound(w_hh, 1, slope)[1])(cell_params.w_hh)
    return jax.block_until_ready(_flow(cell, slope is not None, row, directions)(params, bounds, held))


def spectra(cell: Cell, params: PyTree, held: Held, lags: tuple[int, ...]) -> Spectra:
    """Singular values at some lags, and exponents, of P networks."""
    cell_params, _ = double(params)
    kept = []
    for i in range(cell_params.w_hh.shape[0]):
        one = jax.tree.map(lambda leaf, i=i: leaf[i], cell_params)
        stack = _jacobians(cell, one, held.long)
        # The long sequence begins with the first of the others; it is cut at images.
        values = jax.block_until_ready(_singular_values(stack[:STEPS], lags=lags))
        kept.append(Spectra(values, jax.block_until_ready(_lyapunov(stack[PIXELS:]))))
    return jax.tree.map(lambda *leaves: np.stack(leaves), *kept)


def curves_of_paths(params: PyTree, held: Held, *, h: bool, c: bool) -> jax.Array:
    """The decay curves of P LSTMs, `(P, T)`, with the path back to h or to c cut if it is false."""
    steps = held.xs.shape[:2]
    return _curves_of_paths(double(params), Paths(held.xs, jnp.full(steps, h), jnp.full(steps, c)), held.ys)


def decay_curve(step: Cell | Step, cell: Cell, params: PyTree, xs: jax.Array, ys: jax.Array) -> jax.Array:
    """The decay curve of one network, `(T,)`, averaged over sequences `(T, E, 1)`."""
    return _curve(profiles(step, cell, params, xs, ys, lags=0, directions=0))


def profiles(
    step: Cell | Step, cell: Cell, params: PyTree, xs: jax.Array, ys: jax.Array, **options
) -> flow.Profile:
    """The profiles of one network on sequences `(T, E, 1)`, leaves `(E, …)`; options of `flow.profile`."""
    cell_params, readout_params = params
    state = cell.initial_state(cell_params)

    def one_sequence(xs, ys):
        loss = partial(per_step_loss, cell, readout_params, ys=ys)
        return flow.profile(step, cell_params, state, xs, loss, **options)

    return jax.vmap(one_sequence, in_axes=1)(xs, ys)


def _curve(profiles: flow.Profile) -> jax.Array:
    return jax.vmap(decay.relative_log_norms)(profiles.log_norms).mean(0)


# Networks one by one (`lax.map`): the contributions by lag of one take as much memory as 64 gradients a sequence.
@cache
def _flow(cell: Cell, bounded: bool, row: int, directions: int) -> Callable:
    def one_network(params, log_step_bound, held):
        options = {"log_step_bound": log_step_bound} if bounded else {}
        p = profiles(cell, cell, params, held.xs, held.ys, directions=directions, **options)
        return Flow(
            losses=p.losses,
            log_norms=p.log_norms,
            curves=_curve(p),
            component_log_norms=p.component_log_norms,
            shares=p.shares,
            alignment=p.alignment,
            log_bound=p.log_bound,
            **_accounting(cell, params, held, p.contributions, row),
        )

    return jax.jit(
        lambda params, bounds, held: lax.map(lambda one: one_network(*one, held), (params, bounds))
    )


def _accounting(cell: Cell, params: PyTree, held: Held, contributions: PyTree, row: int) -> dict[str, Any]:
    """How far the contributions by lag, leaves `(E, T + 1, …)`, are from the gradient by `jax.grad`."""
    cell_params, readout_params = params
    state = cell.initial_state(cell_params)

    def total(cell_params, xs, ys):
        return per_step_loss(cell, readout_params, unroll.unroll(cell, cell_params, state, xs), ys).sum()

    gradients = jax.vmap(jax.grad(total), in_axes=(None, 1, 1))(cell_params, held.xs, held.ys)

    def norms(trees):
        return jnp.sqrt(sum((leaf**2).sum(range(1, leaf.ndim)) for leaf in jax.tree.leaves(trees)))

    def error(lags):
        sums = jax.tree.map(lambda leaf: leaf[:, :lags].sum(1), contributions)
        return norms(jax.tree.map(jnp.subtract, sums, gradients)) / norms(gradients)

    return {"accounting": error(None), "without_far": error(row)}


@jax.jit
def _curves_of_paths(params: PyTree, xs: Paths, ys: jax.Array) -> jax.Array:
    return lax.map(lambda params: decay_curve(with_paths, cells.lstm(), params, xs, ys), params)


# One network a call: the Jacobians of a long sequence are many. Those of cells with as large a state share a program.
@partial(jax.jit, static_argnames="cell")
def _jacobians(cell: Cell, cell_params: PyTree, xs: jax.Array) -> jax.Array:
    return jacobians.structured(cell, cell_params, cell.initial_state(cell_params), xs)


_singular_values = jax.jit(spectrum.log_singular_values, static_argnames="lags")
_lyapunov = jax.jit(spectrum.lyapunov_from_jacobians)
