"""Products of Jacobians that neither under- nor overflow.

    ∂h_t/∂h_k = J_t J_{t−1} … J_{k+1},  the newest factor on the left

Two hundred steps of ½·I underflow float32, and a chaotic network overflows float64. So a product is carried as
mantissa · 2^exponent: after each factor the matrix is divided by the power of two next to its largest entry,
which is exact, and the exponent is an integer. Norms are given as natural logarithms.

A matrix of zeros stays zero with exponent 0, and its log-norm is −∞.

On the CPU, jaxlib 0.10 can hang when one compiled program runs two batched decompositions side by side: there,
take spectral log-norms and another SVD or QR of a batch in two jitted calls.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax import checks


class Scaled(NamedTuple):
    """Matrices mantissa · 2^exponent.

    Attributes:
      mantissa: `(…, S, S)`, the largest entry in [½, 1), or all zero.
      exponent: `(…)`, integers.
    """

    mantissa: jax.Array
    exponent: jax.Array


def prefix(jacobians: jax.Array) -> Scaled:
    """∂h_t/∂h_0 = J_t … J_1 for t = 0 … T.

    Args:
      jacobians: J_1 … J_T, `(T, S, S)`.

    Returns:
      T + 1 scaled matrices; entry t is ∂h_t/∂h_0, entry 0 the identity.

    Raises:
      ValueError: not a stack of square matrices, or NaN or infinity in a concrete one.

    >>> prefix(jnp.full((3, 1, 1), 0.5)).exponent  # mantissa ½, so that ½ⁿ = ½ · 2^(1 − n)
    Array([ 1,  0, -1, -2], dtype=int32)
    """
    jacobians = _stack(jacobians)
    return _accumulate(jacobians, lambda product, factor: factor @ product, reverse=False)


def suffix(jacobians: jax.Array) -> Scaled:
    """∂h_T/∂h_{T−n} = J_T … J_{T−n+1} for n = 0 … T: by lag, as the gradient travels back from the end.

    Args:
      jacobians: J_1 … J_T, `(T, S, S)`.

    Returns:
      T + 1 scaled matrices; entry n is ∂h_T/∂h_{T−n}, entry 0 the identity.

    >>> suffix(jnp.stack([jnp.eye(2), 4 * jnp.eye(2)])).exponent
    Array([1, 3, 3], dtype=int32)
    """
    jacobians = _stack(jacobians)
    return _accumulate(jacobians, lambda product, factor: product @ factor, reverse=True)


def log_norms(jacobians: jax.Array, ord: int | str = 2) -> jax.Array:
    """ln‖∂h_T/∂h_{T−n}‖ for n = 0 … T.

    Args:
      jacobians: J_1 … J_T, `(T, S, S)`.
      ord: 2, the spectral norm (largest singular value), or "fro", the Frobenius norm.

    Returns:
      `(T + 1,)`, in nats; −∞ where the product is zero.

    Raises:
      ValueError: as `prefix`, or an unknown `ord`.

    >>> round(float(log_norms(jnp.broadcast_to(0.5 * jnp.eye(3), (1000, 3, 3)))[-1] / jnp.log(0.5)), 3)
    1000.0
    """
    if ord not in (2, "fro"):
        raise ValueError(f"ord is {ord!r}; expected 2 (spectral norm) or 'fro' (Frobenius norm).")
    products = suffix(jacobians)
    return _log_norm(products.mantissa, ord) + products.exponent * jnp.asarray(
        math.log(2), products.mantissa.dtype
    )


def log_bound(w_hh: jax.Array, steps: int, gamma: float = 1.0) -> jax.Array:
    """The note's bound in logarithms, ln (γ σ_max(W_hh))ⁿ ≥ ln‖∂h_T/∂h_{T−n}‖, for n = 0 … T.

    ‖diag(f') W_hh‖ ≤ γ σ_max(W_hh) with γ = max |f'| (Pascanu, Mikolov and Bengio 2013, section 2.1): below 1
    the gradient must vanish; above 1 it may explode, and often does not.

    Args:
      w_hh: `(N, N)`, of an Elman cell.
      steps: T.
      gamma: γ, from `cells.max_slope`: 1 for tanh and ReLU, ¼ for the sigmoid.

    >>> log_bound(0.5 * jnp.eye(2), 2)
    Array([ 0.       , -0.6931472, -1.3862944], dtype=float32)
    """
    w_hh = jnp.asarray(w_hh)
    checks.square("w_hh", w_hh.shape)
    if w_hh.ndim != 2:
        raise ValueError(f"w_hh has shape {w_hh.shape}; the bound is for one recurrent matrix, (N, N).")
    checks.finite("w_hh", w_hh)
    if steps < 0 or not gamma >= 0:
        raise ValueError(
            f"steps is {steps} and gamma {gamma}; expected steps >= 0 and gamma >= 0, such as 1 for tanh."
        )
    lags = jnp.arange(steps + 1)
    # 0 · ln 0 would be NaN at lag 0, where the product is the identity whatever the weights.
    return jnp.where(lags == 0, 0, lags * jnp.log(gamma * jnp.linalg.norm(w_hh, 2)).astype(w_hh.dtype))


def _accumulate(jacobians: jax.Array, multiply: Callable, *, reverse: bool) -> Scaled:
    """All T + 1 partial products, from the identity on, shortest first."""
    start = _rescale(Scaled(jnp.eye(jacobians.shape[-1], dtype=jacobians.dtype), jnp.zeros((), jnp.int32)))

    def body(product, factor):
        factor = _rescale(Scaled(factor, jnp.zeros((), jnp.int32)))
        mantissa = multiply(product.mantissa, factor.mantissa)
        product = _rescale(Scaled(mantissa, product.exponent + factor.exponent))
        return product, product

    with jax.default_matmul_precision("highest"):
        # Flipped rather than scanned in reverse, so that the shortest product comes first.
        _, products = lax.scan(body, start, jacobians[::-1] if reverse else jacobians)
    return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), start, products)


def _rescale(scaled: Scaled) -> Scaled:
    """The same matrix with its largest entry in [½, 1): a division by a power of two, which is exact."""
    mantissa, exponent = scaled
    _, shift = jnp.frexp(lax.stop_gradient(jnp.abs(mantissa).max()))
    return Scaled(mantissa=_times_power_of_two(mantissa, -shift), exponent=exponent + shift)


def _times_power_of_two(x: jax.Array, exponent: jax.Array) -> jax.Array:
    """x · 2^exponent, in two factors: next to the ends of the range 2^exponent alone is out of it."""
    half = exponent // 2
    one = jnp.ones((), x.dtype)
    return x * jnp.ldexp(one, half) * jnp.ldexp(one, exponent - half)


def _log_norm(matrices: jax.Array, ord: int | str) -> jax.Array:
    if ord == "fro":
        # Not jnp.linalg.norm: the logarithm of the squared sum has no kink that a gradient could trip over.
        return 0.5 * jnp.log((matrices * matrices).sum((-2, -1)))
    return jnp.log(jnp.linalg.svd(matrices, compute_uv=False)[..., 0])


def _stack(jacobians: jax.Array) -> jax.Array:
    jacobians = jnp.asarray(jacobians)
    if jacobians.ndim != 3 or jacobians.shape[-1] != jacobians.shape[-2] or jacobians.shape[0] == 0:
        raise ValueError(
            f"jacobians has shape {jacobians.shape}; expected (T, S, S) with T >= 1, of one sequence. For a batch, "
            "jax.vmap over it."
        )
    if not jnp.issubdtype(jacobians.dtype, jnp.floating):
        raise ValueError(f"jacobians is {jacobians.dtype}; expected floating point.")
    checks.finite("jacobians", jacobians)
    return jacobians
