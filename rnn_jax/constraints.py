"""Recurrent matrices held where gradients neither vanish nor explode: functions from free parameters to W_hh.

    soft        ‖WᵀW − I‖²_F                               a penalty, added to the loss
    Cayley      W = (I + A)⁻¹ (I − A) D                    A = F − Fᵀ of a free F, D = diag(±1): orthogonal, always
    margin      W = U diag(s) Vᵀ, s = 1 + 2m (σ(p) − ½)    U and V orthogonal: singular values in [1 − m, 1 + m]
    spectral    W / σ_max(W)                               by power iteration: the longest singular value is 1

References: Helfrich, Willmott and Ye (2018) for the Cayley map with signs D, without which no W with the eigenvalue −1
is reached, which is every W of determinant −1; Vorontsov, Trabelsi, Kadoury and Pal (2017), section 2 for the penalty
and the margin; Miyato, Kataoka, Koyama and Yoshida (2018), sections 2.1 and 2.2 for the last.

An orthogonal W makes a linear network keep the length of every gradient; with tanh the products still shrink by
diag(f'), and cannot grow. The free parameters are what is trained, W is made of them inside the loss:

    loss(free) = task(params._replace(w_hh=cayley(free, signs)))

so any optimiser of optax will do. All functions take gates, `(G, N, N)`, matrix by matrix.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax import checks


def orthogonality_penalty(w: jax.Array) -> jax.Array:
    """‖WᵀW − I‖²_F, summed over gates: 0 for orthogonal matrices only.

    Args:
      w: W_hh, `(…, N, N)`.

    >>> orthogonality_penalty(2 * jnp.eye(3))  # 3 (2² − 1)²
    Array(27., dtype=float32)
    """
    w = _square("w", w)
    with jax.default_matmul_precision("highest"):
        return ((w.mT @ w - _identity(w)) ** 2).sum()


def cayley(free: jax.Array, signs: jax.Array | None = None) -> jax.Array:
    """W = (I + A)⁻¹ (I − A) D with A = F − Fᵀ: orthogonal for every F; the identity, or D, for F = 0.

    Args:
      free: F, `(…, N, N)`; only its skew part counts.
      signs: the diagonal of D, `(…, N)`, entries ±1, not to be trained; all 1 if not given. From `cayley_inverse`.

    Returns:
      W, `(…, N, N)`.

    On a CPU, stack what is to be solved under `vmap` and call this once: two batched solves of jaxlib that run side by
    side have been seen to wait for each other for ever, on two cores.

    >>> cayley(jnp.array([[0.0, 1.0], [0.0, 0.0]]))  # a quarter turn
    Array([[ 0., -1.],
           [ 1.,  0.]], dtype=float32)
    """
    free = _square("free", free)
    skew, identity = free - free.mT, _identity(free)
    with jax.default_matmul_precision("highest"):
        w = jnp.linalg.solve(identity + skew, identity - skew)
    return w if signs is None else w * _signs(signs, w)


class CayleyForm(NamedTuple):
    """An orthogonal matrix as `cayley(free, signs)`.

    Attributes:
      free: A/2, skew, `(…, N, N)`.
      signs: the diagonal of D, `(…, N)`, ±1.
    """

    free: jax.Array
    signs: jax.Array


def cayley_inverse(w: jax.Array) -> CayleyForm:
    """What `cayley` makes an orthogonal W of: where a training starts, `cayley(*cayley_inverse(w))` being W.

    A = (I + W D)⁻¹ (I − W D), and D such that no eigenvalue of W D is −1. There always is one: in the elimination of
    I + W D column by column, each pivot is 1 + d_k c_k, and its sign d_k is chosen so that it is at least 1.

    Args:
      w: `(…, N, N)`, orthogonal, of either determinant.

    Raises:
      ValueError: a concrete W that is not orthogonal: WᵀW − I is √ε or more in the root mean square.

    >>> reflection = jnp.array([[0.0, 1.0], [1.0, 0.0]])
    >>> form = cayley_inverse(reflection)
    >>> form.signs, bool((cayley(*form) == reflection).all())
    (Array([ 1., -1.], dtype=float32), True)
    """
    w = _square("w", w)
    penalty = orthogonality_penalty(w)
    if checks.is_concrete(penalty) and not penalty <= w.size * jnp.finfo(w.dtype).eps:
        raise ValueError(
            f"w is not orthogonal: ‖WᵀW − I‖ is {float(penalty) ** 0.5:.2g}; expected 0 to rounding. Draw it with "
            "initializers.orthogonal(), or take the polar factor U Vᵀ of an SVD."
        )
    signs = jnp.vectorize(_best_signs, signature="(n,n)->(n)")(w)
    w = w * _signs(signs, w)
    identity = _identity(w)
    with jax.default_matmul_precision("highest"):
        skew = jnp.linalg.solve(identity + w, identity - w)
    return CayleyForm(free=(skew - skew.mT) / 4, signs=signs)


def _best_signs(w: jax.Array) -> jax.Array:
    """d_k = ±1 such that elimination of I + W diag(d), without exchanges, has pivots 1 + |c_k|.

    Column k of I + W D is e_k + d_k w_k. Before its turn, multiples of rows above k are subtracted in it, where e_k is
    zero: so the pivot is 1 + d_k c_k, c_k being what has become of W_kk in the same subtractions.
    """
    size = w.shape[-1]

    def eliminate(k, carry):
        rest, signs = carry
        sign = jnp.where(rest[k, k] < 0, -1, 1).astype(w.dtype)
        column = sign * rest[:, k] + (jnp.arange(size) == k)
        multipliers = jnp.where(jnp.arange(size) > k, column / column[k], 0)
        return rest - multipliers[:, None] * rest[k][None, :], signs.at[k].set(sign)

    return lax.fori_loop(0, size, eliminate, (w, jnp.ones(size, w.dtype)))[1]


def margin(u: jax.Array, p: jax.Array, v: jax.Array, width: float) -> jax.Array:
    """W = U diag(s) Vᵀ with s = 1 + 2m (σ(p) − ½): singular values in [1 − m, 1 + m], wherever p goes.

    To start from an orthogonal W take it for U, the identity for V, and p = 0.

    Args:
      u, v: orthogonal matrices, `(…, N, N)`, from `cayley`.
      p: free, `(…, N)`.
      width: m, in [0, 1]. With 0 W is orthogonal, with 1 it is any invertible matrix of norm below 2.

    Raises:
      ValueError: for another width, or shapes that do not fit.

    >>> margin(jnp.eye(2), jnp.array([0.0, 100.0]), jnp.eye(2), 0.25)
    Array([[1.  , 0.  ],
           [0.  , 1.25]], dtype=float32)
    """
    u, v = _square("u", u), _square("v", v)
    if not 0 <= width <= 1:
        raise ValueError(f"width is {width}; expected a number in [0, 1], such as 0.1.")
    if v.shape != u.shape or p.shape != u.shape[:-1]:
        raise ValueError(
            f"u, p and v have shapes {u.shape}, {p.shape} and {v.shape}; expected (…, N, N), (…, N) and (…, N, N)."
        )
    s = 1 + 2 * float(width) * (jax.nn.sigmoid(p) - 0.5)
    with jax.default_matmul_precision("highest"):
        return (u * s[..., None, :]) @ v.mT


class Normalized(NamedTuple):
    """W / σ, and the vector that the next estimate of σ starts from.

    Attributes:
      w: `(…, N, N)`.
      sigma: the estimate of σ_max(W), `(…)`.
      vector: an estimate of the right singular vector, `(…, N)`, of length 1; a constant for differentiation.
    """

    w: jax.Array
    sigma: jax.Array
    vector: jax.Array


def spectral_normalize(w: jax.Array, vector: jax.Array, *, steps: int = 1) -> Normalized:
    """W / σ with σ = uᵀ W v from power iteration: as W moves little from one update to the next, one step follows it.

        u = W v / ‖W v‖,    v ← Wᵀ u / ‖Wᵀ u‖        `steps` times; then σ = uᵀ W v, u and v being constants

    σ ≤ σ_max(W), so the norm of the result is 1 from above. The gradient is that of W / σ_max(W) where u and v have
    converged: no direction in which W only grows is left in it. A matrix of zeros is returned as it is.

    Args:
      w: `(…, N, N)`.
      vector: v, `(…, N)`: at first any random vector, then `vector` of the last result.
      steps: of power iteration, ≥ 1.

    Raises:
      ValueError: a vector of another shape, or of zeros; steps < 1.

    >>> made = spectral_normalize(jnp.diag(jnp.array([4.0, 1.0])), jnp.ones(2), steps=20)
    >>> made.w
    Array([[1.  , 0.  ],
           [0.  , 0.25]], dtype=float32)
    """
    w = _square("w", w)
    vector = jnp.asarray(vector).astype(w.dtype)
    steps = checks.integer("steps", steps, 1)
    if vector.shape != w.shape[:-1]:
        raise ValueError(
            f"vector has shape {vector.shape}; expected (…, N) = {w.shape[:-1]}, one a matrix of w."
        )
    if checks.is_concrete(vector) and not (vector != 0).any(-1).all():
        raise ValueError(
            "vector is zero; expected a random one at first, such as jax.random.normal(key, (N,))."
        )
    fixed = lax.stop_gradient(w)

    def iterate(_, vectors):
        _, v = vectors
        u = _unit(_times(fixed, v))
        # A matrix of zeros leaves no direction: the next one begins where this one did.
        return u, _unit(_times(fixed.mT, u), otherwise=v)

    start = _unit(lax.stop_gradient(vector))
    with jax.default_matmul_precision("highest"):
        u, v = lax.fori_loop(0, steps, iterate, (start, start))
        sigma = (u * _times(w, v)).sum(-1)
    return Normalized(w / jnp.where(sigma > 0, sigma, 1)[..., None, None], sigma, v)


def _times(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    return (matrix @ vector[..., None])[..., 0]


def _unit(vector: jax.Array, otherwise: jax.Array | float = 0.0) -> jax.Array:
    """The vector of length 1; something else for zero."""
    norm = jnp.linalg.norm(vector, axis=-1, keepdims=True)
    return jnp.where(norm > 0, vector / jnp.where(norm > 0, norm, 1), otherwise)


def _square(name: str, matrix: jax.Array) -> jax.Array:
    matrix = jnp.asarray(matrix)
    checks.square(name, matrix.shape)
    if not jnp.issubdtype(matrix.dtype, jnp.floating):
        raise ValueError(f"{name} is {matrix.dtype}; expected floating point.")
    return matrix


def _identity(like: jax.Array) -> jax.Array:
    """I for each matrix; broadcast in so many words, for `jax_numpy_rank_promotion="raise"`."""
    return jnp.broadcast_to(jnp.eye(like.shape[-1], dtype=like.dtype), like.shape)


def _signs(signs: jax.Array, w: jax.Array) -> jax.Array:
    """D as factors of the columns of W."""
    signs = jnp.asarray(signs, w.dtype)
    if signs.shape != w.shape[:-1]:
        raise ValueError(
            f"signs has shape {signs.shape}; expected (…, N) = {w.shape[:-1]}, from cayley_inverse()."
        )
    return lax.stop_gradient(signs)[..., None, :]
