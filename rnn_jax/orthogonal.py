"""Thin QR decompositions A = Q R from matrix products, for frames of many columns.

LAPACK's Householder QR is exact whatever A is, but a small part of its work is matrix products: on most devices it
takes many times longer than the product beside it. Gram–Schmidt in panels of columns is nearly all products. With
Q_p the panels so far and Y the next columns of A:

    Y ← Y − Q_p (Q_pᵀ Y)             their part in the span so far
    YᵀY = D L Lᵀ D                   D the lengths of the columns: L is as well conditioned as their directions
    Q ← Y D⁻¹ L⁻ᵀ                    R_ii = D_ii L_ii > 0

A = Q R then holds to rounding, but Q is orthonormal only up to about ε (condition of A)². For lengths along a
trajectory that is enough: if J_t Q_{t−1} = Q_t R_t exactly, and Q̂_t, R̂_t are the orthonormal factors,

    Q_t = Q̂_t U_t    ⇒    R̂_t = U_t R_t U_{t−1}⁻¹,    R̂_T … R̂_1 = U_T (R_T … R_1) U_0⁻¹    (U triangular)

so that Σ ln R_t,ii is wrong only by ln U_T,ii − ln U_0,ii: where a sum begins and ends, the frame has to be
orthonormal, and in between only well conditioned. What is asked for is checked: E = QᵀQ − I on eight vectors of signs,
for each of which ‖E v‖² is ‖E‖² (Frobenius) in the mean. Where it does not hold, the pass is repeated on Q ("twice is
enough"), and where that does not help either (A is singular to working precision, or not finite), Householder QR
decides. Neither is computed otherwise, also under `jax.vmap`: there, one of a batch that fails makes all be computed
again.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap

# The two sizes are those of a CPU. On an accelerator panels could be wider; and a branch there waits for its condition,
# once for every orthogonalisation.

PANEL = 16
"""Columns in a panel. With more, LAPACK's triangular solver starts threads, which takes longer than the work."""

FEW = 32
"""Up to so many columns Householder QR is as fast."""

_LOOSE = 0.1
"""‖QᵀQ − I‖ below which a frame is well conditioned: Q R = A then costs no digit."""


class Factors(NamedTuple):
    """A = Q R.

    Attributes:
      q: Q, `(N, k)`.
      lengths: the diagonal of R, `(k,)`, not negative.
    """

    q: jax.Array
    lengths: jax.Array


def factor(matrix: jax.Array, exactly: bool | jax.Array = True) -> Factors:
    """Q and the diagonal of R from matrix products: the twin of `householder`.

    Args:
      matrix: A, `(N, k)`, k ≤ N.
      exactly: Q is orthonormal to rounding. Otherwise only ‖QᵀQ − I‖ < 0.1 up to chance, A = Q R with R triangular: see
        above for what that is good for.

    Returns:
      `Factors`. Its derivatives, of both modes, are those of the orthonormal Q.

    >>> q, lengths = factor(jnp.diag(jnp.array([3.0, -2.0])))
    >>> lengths
    Array([3., 2.], dtype=float32)
    """
    if matrix.shape[1] == 1:
        return _normalised(matrix)
    return householder(matrix) if matrix.shape[1] <= FEW else _factor(matrix, jnp.asarray(exactly))


def _normalised(column: jax.Array) -> Factors:
    """Of one column: its direction and its length; the first axis and 0 of zero."""
    scale = lax.stop_gradient(jnp.abs(column).max())
    zero = scale == 0
    scaled = column / jnp.where(zero, 1, scale)
    # The square root has no derivative at 0.
    length = jnp.sqrt(jnp.where(zero, 1, (scaled**2).sum()))
    first = jnp.zeros_like(column).at[0].set(1)
    return Factors(jnp.where(zero, first, scaled / length), (scale * length)[None])


def householder(matrix: jax.Array) -> Factors:
    """Q and the diagonal of R by `jnp.linalg.qr`, orthonormal to rounding whatever the matrix.

    >>> householder(jnp.array([[-3.0], [4.0]])).q[:, 0]
    Array([-0.6,  0.8], dtype=float32)
    """
    with jax.default_matmul_precision("highest"):
        q, r = jnp.linalg.qr(matrix)
    diagonal = jnp.diagonal(r)
    return Factors(q * jnp.where(diagonal < 0, -1, 1).astype(q.dtype)[None, :], jnp.abs(diagonal))


@jax.custom_jvp
def _factor(matrix: jax.Array, exactly: jax.Array) -> Factors:
    rounding = 8 * matrix.shape[1] * float(jnp.finfo(matrix.dtype).eps)
    allowed = jnp.where(exactly, rounding, _LOOSE).astype(matrix.dtype)
    with jax.default_matmul_precision("highest"):
        # In rows, so that panels are contiguous; the barrier keeps XLA from reading columns all the same.
        rows = lax.optimization_barrier(matrix.T)
        done, lengths = _checked(*(leaf[None] for leaf in (rows, *_gram_schmidt(rows), allowed)))
    return Factors(done[0].T, lengths[0])


@custom_vmap
def _checked(
    rows: jax.Array, done: jax.Array, lengths: jax.Array, allowed: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Qᵀ and R_ii of a batch of Aᵀ, made again where ‖QᵀQ − I‖ is beyond what is allowed.

    One branch for the whole batch: `jax.vmap` of a branch would always compute both sides.
    """
    good = jax.vmap(_loss)(done) <= allowed

    def again():
        repeated, more = jax.vmap(_gram_schmidt)(done)
        # (Q R') R: the diagonals of triangular matrices multiply.
        second = _choose(good, (done, lengths), (repeated, lengths * more))
        better = jax.vmap(_loss)(second[0]) <= allowed
        return lax.cond((good | better).all(), lambda: second, lambda: by_householder(good | better, second))

    def by_householder(kept, second):
        q, diagonal = jax.vmap(householder)(rows.mT)
        return _choose(kept, second, (q.mT, diagonal))

    return lax.cond(good.all(), lambda: (done, lengths), again)


@_checked.def_vmap
def _checked_batch(size: int, batched: tuple, *arguments: jax.Array) -> tuple[tuple, tuple]:
    """The new axis joins the one that is there."""
    wide = [
        a if b else jnp.broadcast_to(a, (size, *a.shape)) for a, b in zip(arguments, batched, strict=True)
    ]
    done, lengths = _checked(*(a.reshape(-1, *a.shape[2:]) for a in wide))
    return (done.reshape(wide[1].shape), lengths.reshape(wide[2].shape)), (True, True)


def _choose(mask: jax.Array, these: tuple, those: tuple) -> tuple[jax.Array, jax.Array]:
    (rows, lengths), (other_rows, other_lengths) = these, those
    return (
        jnp.where(mask[:, None, None], rows, other_rows),
        jnp.where(mask[:, None], lengths, other_lengths),
    )


@_factor.defjvp
def _factor_jvp(primals: tuple, tangents: tuple) -> tuple[Factors, Factors]:
    """With X = Qᵀ dA R⁻¹ and Ω = Qᵀ dQ, skew, of the lower triangle of X: dR = (X − Ω) R, dQ = dA R⁻¹ − Q (X − Ω)."""
    matrix, exactly = primals
    d_matrix, _ = tangents
    q, lengths = factors = _factor(matrix, jnp.ones_like(exactly))
    with jax.default_matmul_precision("highest"):
        r = jnp.triu(q.T @ matrix)
        quotient = lax.linalg.triangular_solve(r, d_matrix, left_side=False, lower=False)
        x = q.T @ quotient
        lower = jnp.tril(x, -1)
        d_q = quotient - q @ (x - (lower - lower.T))
    return factors, Factors(d_q, jnp.diagonal(x) * lengths)


def _gram_schmidt(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One pass, unchecked: the rows Qᵀ and R_ii of Aᵀ; NaN where a panel is singular to working precision.

    In halves rather than panel by panel: the same work in fewer, larger products.
    """
    if len(rows) <= PANEL:
        return _panel(rows)
    half = -(-len(rows) // (2 * PANEL)) * PANEL
    first, first_lengths = _gram_schmidt(rows[:half])
    second, second_lengths = _gram_schmidt(rows[half:] - (rows[half:] @ first.T) @ first)
    return jnp.concatenate([first, second]), jnp.concatenate([first_lengths, second_lengths])


def _panel(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The same for few rows Y, from the Cholesky factor of Y Yᵀ."""
    gram = rows @ rows.T
    scales = lax.rsqrt(jnp.diagonal(gram))
    lower = lax.linalg.cholesky(gram * scales[:, None] * scales[None, :], symmetrize_input=False)
    identity = jnp.eye(len(rows), dtype=rows.dtype)
    inverse = lax.linalg.triangular_solve(lower, identity, left_side=True, lower=True)
    return (inverse * scales[None, :]) @ rows, jnp.diagonal(lower) / scales


def _loss(rows: jax.Array) -> jax.Array:
    """‖QᵀQ − I‖ (Frobenius), from eight vectors of signs."""
    signs = jnp.asarray(np.random.default_rng(0).choice([-1.0, 1.0], (8, len(rows))), rows.dtype)
    return jnp.sqrt((((signs @ rows) @ rows.T - signs) ** 2).sum() / 8)
