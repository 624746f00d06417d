"""What is measured on a network, in float64, on held-out sequences.

‖J_t‖                        every step's Jacobian, over the whole state: (h, c) of an LSTM
ln‖∂h_T/∂h_{T−n}‖            n = 0 … T, spectral norm
ln‖∂L/∂h_{T−n}‖              n = 0 … T, L the cross-entropy of the last step
ln σ_i(∂h_T/∂h_{T−n})        all singular values at a few lags n
ln (γ σ_max(W_hh))ⁿ          the bound on the second, for Elman networks
"""

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.common import double
from rnn_jax import bptt, cells, jacobians, losses, products, unroll
from rnn_jax.types import Cell, PyTree


class Profile(NamedTuple):
    """Gradient flow of R networks on E sequences; S is the size of a state.

    Attributes:
      step_norms: ‖J_t‖, t = 1 … T, `(R, E, T)`.
      log_norms: ln‖∂h_T/∂h_{T−n}‖, n = 0 … T, `(R, E, T + 1)`.
      log_gradients: ln‖∂L/∂h_{T−n}‖, n = 0 … T, `(R, E, T + 1)`; of the joint (h, c) for an LSTM.
      log_singular_values: ln σ_i at L lags on the first sequence, largest first, `(R, L, S)`. NaN where not
        resolved: a product of S × S matrices in float64 carries rounding of about S ε σ_1.
      log_bound: ln (γ σ_max)ⁿ, n = 0 … T, `(R, T + 1)`; NaN for gated cells.
    """

    step_norms: jax.Array
    log_norms: jax.Array
    log_gradients: jax.Array
    log_singular_values: jax.Array
    log_bound: jax.Array


def profile(
    cell: Cell, slope: float | None, params: PyTree, xs: jax.Array, labels: jax.Array, lags: tuple[int, ...]
) -> Profile:
    """The `Profile` of R networks.

    Args:
      cell: the cell.
      slope: γ, or None.
      params: cell parameters and readout, leaves `(R, …)`.
      xs: `(T, E, D)`.
      labels: `(E,)`.
      lags: L lags in [1, T].
    """
    params, xs = double(params), double(xs)
    along = jax.block_until_ready(_along_sequences(cell, tuple(lags))(params, (xs, labels)))
    step_norms, log_singular_values = jax.block_until_ready(_decompose(along.steps, along.at_lags))
    return Profile(
        step_norms=step_norms,
        log_norms=along.log_norms,
        log_gradients=along.log_gradients,
        log_singular_values=log_singular_values,
        log_bound=_log_bound(slope, params[0], steps=xs.shape[0]),
    )


def gradients_by_lag(cell: Cell, params: PyTree, xs: jax.Array, labels: jax.Array) -> jax.Array:
    """ln‖∂L/∂h_{T−n}‖ for n = 0 … T, `(R, E, T + 1)`: a part of `profile`. Arguments as there."""
    return _gradients_by_lag(cell)(double(params), (double(xs), labels))


def linear_log_norms(w_hh: jax.Array, steps: int) -> jax.Array:
    """ln‖∂h_T/∂h_{T−n}‖, `(R, T + 1)`, of linear networks h_t = W_hh h_{t−1} + x_t; entry 1 is every step's ln‖J_t‖.

    Args:
      w_hh: `(R, N, N)`.
      steps: T.
    """
    return _linear_log_norms(jnp.asarray(w_hh, jnp.float64), steps)


class _Along(NamedTuple):
    """What one pass along the sequences gives: J_t `(R, E, T, S, S)`, products at the lags of the first sequence."""

    steps: jax.Array
    log_norms: jax.Array
    log_gradients: jax.Array
    at_lags: products.Scaled


# Here and below: one batched decomposition in a program, and the next program only when it is done. On CPUs a batched
# LAPACK call waits for tasks that it gives to the thread pool it runs in; in jaxlib 0.10 two at once can each hold a
# thread and wait for the other's, for ever if there are only two.
@cache
def _along_sequences(cell: Cell, lags: tuple[int, ...]) -> Callable:
    def one_network(params, data):
        xs, labels = data
        cell_params, _ = params
        h_0 = cell.initial_state(cell_params)
        steps = jax.vmap(lambda xs: jacobians.structured(cell, cell_params, h_0, xs), in_axes=1)(xs)
        return _Along(
            steps=steps,
            log_norms=jax.vmap(products.log_norms)(steps),
            log_gradients=_log_gradients(cell, params, xs, labels),
            at_lags=jax.tree.map(lambda leaf: leaf[jnp.array(lags)], products.suffix(steps[0])),
        )

    return jax.jit(jax.vmap(one_network, in_axes=(0, None)))


@jax.jit
def _decompose(steps: jax.Array, at_lags: products.Scaled) -> tuple[jax.Array, jax.Array]:
    """‖J_t‖ `(R, E, T)`, and ln σ_i of products `(R, L, S)`, NaN below the floor that rounding sets."""
    mantissa, exponent = at_lags
    runs, sequences, length, size, _ = steps.shape
    matrices = jnp.concatenate([steps.reshape(runs, sequences * length, size, size), mantissa], axis=1)
    values = jnp.linalg.svd(matrices, compute_uv=False)
    of_steps, of_products = values[:, : sequences * length], values[:, sequences * length :]
    floor = size * jnp.finfo(values.dtype).eps * of_products[..., :1]
    logs = jnp.log(of_products) + exponent[..., None] * jnp.log(2.0)
    return of_steps[..., 0].reshape(runs, sequences, length), jnp.where(of_products > floor, logs, jnp.nan)


def _log_bound(slope: float | None, cell_params: PyTree, steps: int) -> jax.Array:
    if slope is None:
        return jnp.full((cell_params.w_hh.shape[0], steps + 1), jnp.nan)
    return jax.vmap(lambda w_hh: products.log_bound(w_hh, steps, slope))(cell_params.w_hh)


@cache
def _gradients_by_lag(cell: Cell) -> Callable:
    def one_network(params, data):
        return _log_gradients(cell, params, *data)

    return jax.jit(jax.vmap(one_network, in_axes=(0, None)))


@partial(jax.jit, static_argnames="steps")
def _linear_log_norms(w_hh: jax.Array, steps: int) -> jax.Array:
    cell = cells.elman(cells.identity)

    def one_network(w_hh):
        n = w_hh.shape[-1]
        params = cells.ElmanParams(w_hh=w_hh, w_xh=jnp.zeros((n, 1)), b_h=jnp.zeros(n))
        return products.log_norms(jacobians.structured(cell, params, jnp.zeros(n), jnp.zeros((steps, 1))))

    return jax.vmap(one_network)(w_hh)


def _log_gradients(cell: Cell, params: PyTree, xs: jax.Array, labels: jax.Array) -> jax.Array:
    """ln‖δ_{T−n}‖ of each sequence's own loss, `(E, T + 1)`."""
    cell_params, readout_params = params
    steps, batch = xs.shape[0], labels.shape
    gradients = bptt.loss_gradients(
        cell,
        cell_params,
        readout_params,
        cell.initial_state(cell_params, batch),
        xs,
        jnp.broadcast_to(labels, (steps, *batch)),
        weights=losses.last_step(steps, jnp.full(batch, steps)),
    )
    deltas = unroll.with_initial(gradients.state, gradients.deltas)
    norms = jnp.linalg.norm(jnp.concatenate(jax.tree.leaves(deltas), axis=-1), axis=-1)
    return jnp.log(norms[::-1]).T
