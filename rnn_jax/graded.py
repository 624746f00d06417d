"""Singular values of a graded matrix A = diag(2^e) U to high relative accuracy, however far apart they are.

A dense decomposition of A is wrong below ε σ_max. Rotations of pairs of rows are not (Hestenes 1958; Demmel and
Veselić 1992): each makes two rows orthogonal and mixes into the small one only what it takes from it, so that the
rows end as σ_i times orthonormal vectors, each with an error relative to itself. Here every row carries its own
exponent of two, and rows may differ by more than the range of a float. For rows x = 2^a u and y = 2^b v, a ≥ b,
with r = 2^(b−a), a rotation with tangent t = r τ leaves them orthogonal:

    δ = (|u|² − r² |v|²)/2,   τ = u·v / (δ ± √(δ² + (r u·v)²)),   c = 1/√(1 + t²)
    u ← c (u + r² τ v)        v ← c (v − τ u)                      ± the sign of δ

Where r underflows this is a Gram–Schmidt step. All pairs of a round are independent, and S − 1 rounds of a
round-robin tournament are a sweep: rows are rotated on each other as players meet (Brent and Luk 1985).

The relative error of each row is carried along in the mean square: what cancels in v − τ u is lost to v.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.products import power_of_two, rescale

_SWEEPS = 30
"""Convergence is quadratic in the end: 4 to 10 sweeps are usual, and more than 30 have not been seen to help."""

_ABSENT = -(2**28)
"""The exponent of a row of zeros: below that of every other row."""


_UNKNOWN = 1e6
"""The largest variance of a row: of one that is all rounding, which rotations must not make look better."""


class Rows(NamedTuple):
    """Rows 2^exponent · mantissa of one matrix.

    Attributes:
      mantissa: `(S, M)`, the largest entry of a row in [½, 1), or all zero.
      exponent: `(S,)`, integers.
      variance: the square of the relative error of each row, `(S,)`.
    """

    mantissa: jax.Array
    exponent: jax.Array
    variance: jax.Array


def rows_of(matrix: jax.Array) -> Rows:
    """The rows of a matrix `(S, M)` that is taken as exact.

    >>> rows_of(jnp.array([[1.0, 0.0], [0.0, 8.0]])).exponent
    Array([1, 4], dtype=int32)
    """
    size = matrix.shape[0]
    return _normalise(Rows(matrix, jnp.zeros(size, jnp.int32), jnp.zeros(size, matrix.dtype)))


def multiply(matrix: jax.Array, exponent: jax.Array, error: jax.Array, rows: Rows) -> Rows:
    """(2^exponent M) diag(2^e) U, each row with an exponent of its own again.

    Args:
      matrix: M, `(S, S)`, upper triangular.
      exponent: an integer.
      error: the absolute error of each entry of M in and above the diagonal.
      rows: diag(2^e) U.

    >>> jax.jit(multiply)(2.0 * jnp.eye(2), jnp.array(3), jnp.array(0.0), rows_of(jnp.eye(2))).exponent
    Array([5, 5], dtype=int32)
    """
    reached = jnp.where(jnp.triu(jnp.ones_like(matrix)) > 0, rows.exponent[None, :], _ABSENT)
    largest = reached.max(1)
    scales = power_of_two(reached - largest[:, None], matrix.dtype)
    with jax.default_matmul_precision("highest"):
        mantissa = (matrix * scales) @ rows.mantissa
    squares = (rows.mantissa**2).sum(-1)
    inherited = ((matrix * scales) ** 2 * rows.variance[None, :] + (error * scales) ** 2) @ squares
    variance = _share(inherited, (mantissa**2).sum(-1), _UNKNOWN)
    return _normalise(Rows(mantissa, largest + exponent, variance))


class SingularValues(NamedTuple):
    """Singular values of one matrix, largest first.

    Attributes:
      log_values: ln σ_i, `(S,)`; −∞ for 0, NaN for all if an entry is NaN or infinite.
      errors: the estimated relative error of each σ_i through rounding, that of its logarithm among it, `(S,)`; at
        most 1: nothing is known, as for 0 and NaN.
    """

    log_values: jax.Array
    errors: jax.Array


def singular_values(rows: Rows) -> SingularValues:
    """The singular values of diag(2^e) U.

    Args:
      rows: S rows.

    Returns:
      `SingularValues`. No reverse-mode derivative: the number of sweeps depends on the data. Where values are equal,
      only symmetric functions of them, such as their sum, have one at all.

    >>> rows = rows_of(jnp.array([[1.0, 0.5], [0.5, 1.0]]))._replace(exponent=jnp.array([1, -1999]))
    >>> for value in singular_values(rows).log_values / jnp.log(2.0):
    ...     print(round(float(value), 2))  # σ₁ = |row 1|, then σ₂ = 2^−2000 |row 2 less its part along row 1|
    0.16
    -2000.58
    """
    size = rows.mantissa.shape[0]
    eps = jnp.finfo(rows.mantissa.dtype).eps
    # An even number of players, large rows first, as they should end.
    table = jax.tree.map(lambda leaf: jnp.pad(leaf, ((0, size % 2), *((0, 0),) * (leaf.ndim - 1))), rows)
    table = _normalise(table)
    order = jnp.argsort(-table.exponent)
    table = jax.tree.map(lambda leaf: leaf[order], table)
    rounds = max(len(order) - 1, 1)

    def one_sweep(carry):
        table, sweep, _ = carry
        table, cosines = lax.scan(lambda table, _: _round(table), table, None, length=rounds)
        return table, sweep + 1, cosines.max()

    def unfinished(carry):
        _, sweep, cosine = carry
        # What is left of a cosine changes σ by its square; a sum of S products is zero to √S ε.
        return (sweep < _SWEEPS) & (cosine > len(order) ** 0.5 * eps)

    start = (table, 0, jnp.asarray(jnp.inf, rows.mantissa.dtype))
    with jax.default_matmul_precision("highest"):
        table, _, _ = lax.while_loop(unfinished, one_sweep, start)
    norms = jnp.sqrt((table.mantissa**2).sum(-1))
    exponents = table.exponent * jnp.log(2.0).astype(norms.dtype)
    log_values = jnp.where(norms > 0, jnp.log(jnp.where(norms > 0, norms, 1)) + exponents, -jnp.inf)
    order = jnp.argsort(-log_values)[:size]
    log_values, variance = log_values[order], table.variance[order]
    errors = jnp.sqrt(variance + eps**2 * (1 + jnp.where(jnp.isfinite(log_values), log_values, 0) ** 2))
    log_values = jnp.where(jnp.isfinite(rows.mantissa).all(), log_values, jnp.nan)
    return SingularValues(
        log_values=log_values, errors=jnp.where(jnp.isfinite(log_values), jnp.minimum(errors, 1), 1)
    )


def _normalise(table: Rows) -> Rows:
    mantissa, shift = rescale(table.mantissa, axes=-1)
    present = jnp.abs(mantissa).max(-1) > 0
    return table._replace(mantissa=mantissa, exponent=jnp.where(present, table.exponent + shift, _ABSENT))


def _round(table: Rows) -> tuple[Rows, jax.Array]:
    """Rotate row i with row S/2 + i, then seat the rows for the next round; the largest cosine that was met."""
    half = len(table.exponent) // 2
    first = jax.tree.map(lambda leaf: leaf[:half], table)
    second = jax.tree.map(lambda leaf: leaf[half:], table)
    swap = first.exponent < second.exponent
    large, small = _where(swap, second, first), _where(swap, first, second)
    large, small, cosine = _rotate(large, small)
    first, second = _where(swap, small, large), _where(swap, large, small)
    return _normalise(_reseat(first, second)), cosine.max()


def _rotate(large: Rows, small: Rows) -> tuple[Rows, Rows, jax.Array]:
    """Make pairs of rows orthogonal; also the |cosine| of each pair before."""
    # To first order dσ = uᵀ dA v, with the rotations as they are: they have no derivative where two σ are equal.
    u, v = lax.stop_gradient((large.mantissa, small.mantissa))
    r = power_of_two(small.exponent - large.exponent, u.dtype)
    uu, vv, uv = (u * u).sum(-1), (v * v).sum(-1), (u * v).sum(-1)
    delta = (uu - r * r * vv) / 2
    root = jnp.sqrt(delta * delta + (r * uv) ** 2)
    divisor = jnp.where(delta < 0, delta - root, delta + root)
    tau = jnp.where(divisor == 0, 0, uv / jnp.where(divisor == 0, 1, divisor))
    c = lax.rsqrt(1 + (r * tau) ** 2)
    new_u = c[:, None] * (large.mantissa + (r * r * tau)[:, None] * small.mantissa)
    new_v = c[:, None] * (small.mantissa - tau[:, None] * large.mantissa)

    # Errors add up in the mean square, each with the length of what it comes in with, rounding among them.
    rounding = jnp.finfo(u.dtype).eps ** 2
    turned = jnp.abs(tau) > jnp.finfo(u.dtype).eps
    error_u = large.variance + rounding * turned
    error_v = small.variance + rounding * turned
    uu_new, vv_new = (lax.stop_gradient(x * x).sum(-1) for x in (new_u, new_v))
    lost_u = c * c * (uu * error_u + (r * r * tau) ** 2 * vv * error_v)
    lost_v = c * c * (vv * error_v + tau**2 * uu * error_u)
    large = Rows(new_u, large.exponent, _share(lost_u, uu_new, _UNKNOWN))
    small = Rows(new_v, small.exponent, _share(lost_v, vv_new, _UNKNOWN))
    return large, small, jnp.sqrt(_share(uv * uv, uu * vv))


def _share(a: jax.Array, b: jax.Array, most: float = 1.0) -> jax.Array:
    """a/b, at most `most`; 0/0 is 0."""
    return jnp.where(a < most * b, a / jnp.where(b > 0, b, 1), jnp.where(a > 0, most, 0).astype(a.dtype))


def _where(mask: jax.Array, a: Rows, b: Rows) -> Rows:
    return jax.tree.map(lambda a, b: jnp.where(mask.reshape(-1, *(1,) * (a.ndim - 1)), a, b), a, b)


def _reseat(first: Rows, second: Rows) -> Rows:
    """The next round of the tournament: the first player stays, all others move one seat on."""

    def move(first, second):
        top = jnp.concatenate([first[:1], second[:1], first[1:-1]])[: len(first)]
        bottom = jnp.concatenate([second[1:], first[-1:]]) if len(first) > 1 else second
        return jnp.concatenate([top, bottom])

    return jax.tree.map(move, first, second)
