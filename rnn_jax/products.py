"""Products of Jacobians that neither under- nor overflow.

    ∂h_t/∂h_k = J_t J_{t−1} … J_{k+1},  the newest factor on the left

Two hundred steps of ½·I underflow float32, and a chaotic network overflows float64. So a product is carried as
mantissa · 2^exponent: after each factor the matrix is divided by the power of two next to its largest entry,
which is exact, and the exponent is an integer. Norms are given as natural logarithms.

    prefix    ∂h_t/∂h_0      for all t          suffix    ∂h_T/∂h_{T−n}    for all lags n
    by_lag    ∂h_t/∂h_{t−n}  for all t, one n

The first two multiply factor after factor, or with `associative=True` in a tree of depth log T (Blelloch 1990),
for devices that multiply many matrices as fast as one. For products made along a trajectory, without the stack
of its Jacobians, see `rnn_jax.streaming`; for all singular values, `rnn_jax.spectrum`.

A matrix of zeros has exponent 0, and its log-norm is −∞. (Subnormal numbers count as zero where a device flushes
them.) The smallest singular value of a product is far below the rounding of its largest; it is taken as
σ_min(P) = 1/‖P⁻¹‖, from the product of the inverses.

On the CPU, jaxlib 0.10 can hang when one compiled program runs two batched decompositions side by side: there,
take spectral log-norms and another SVD or QR of a batch in two jitted calls.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from rnn_jax import checks, tables


class Scaled(NamedTuple):
    """Matrices mantissa · 2^exponent.

    Attributes:
      mantissa: `(…, S, S)`, the largest entry in [½, 1), or all zero.
      exponent: `(…)`, integers.
    """

    mantissa: jax.Array
    exponent: jax.Array

    def __repr__(self) -> str:
        return tables.render(self, 0, _table)


def rescale(x: jax.Array, axes: int | tuple[int, ...] = (-2, -1)) -> Scaled:
    """x = mantissa · 2^exponent with the largest entry over `axes` in [½, 1): a power of two, which is exact.

    Args:
      x: floating point, of any shape; matrices by default, rows with `axes=-1`.
      axes: those that share an exponent.

    Returns:
      The mantissa in the shape of `x`; exponents in that shape without `axes`, 0 where all entries are 0.

    >>> rescale(jnp.array([[3.0, 0.5], [0.0, 0.0]]), axes=-1).exponent
    Array([2, 0], dtype=int32)
    """
    largest = lax.stop_gradient(jnp.abs(x).max(axes))
    exponent = jnp.where(largest >= jnp.finfo(x.dtype).tiny, jnp.frexp(largest)[1], 0)
    return Scaled(mantissa=times_power_of_two(x, -exponent, axes), exponent=exponent)


def carry(scaled: Scaled, axes: int | tuple[int, ...] = (-2, -1)) -> Scaled:
    """The same numbers with their largest entry in [½, 1) again; no exponent stays with a matrix that became zero.

    Args:
      scaled: any mantissa, and an exponent for the entries over `axes`.
      axes: as in `rescale`.

    >>> carry(Scaled(mantissa=jnp.zeros((1, 1)), exponent=jnp.array(9))).exponent
    Array(0, dtype=int32)
    """
    mantissa, shift = rescale(scaled.mantissa, axes)
    zero = jnp.abs(mantissa).max(axes) == 0
    return Scaled(mantissa=mantissa, exponent=jnp.where(zero, 0, scaled.exponent + shift))


def times_power_of_two(x: jax.Array, exponent: jax.Array, axes: int | tuple[int, ...] = ()) -> jax.Array:
    """x · 2^exponent, in two factors: next to the ends of the range 2^exponent alone is out of it.

    Args:
      x: floating point.
      exponent: integers, in the shape of `x` without `axes`.
      axes: those of `x` that share an exponent.

    >>> times_power_of_two(jnp.array([2.0**-100, 1.0]), jnp.array([200, -1]))
    Array([1.2676506e+30, 5.0000000e-01], dtype=float32)
    """
    half = exponent // 2
    # Expanded last: XLA would make the power anew for every entry of x.
    first, second = (jnp.expand_dims(power_of_two(part, x.dtype), axes) for part in (half, exponent - half))
    return x * first * second


def power_of_two(exponent: jax.Array, dtype: DTypeLike) -> jax.Array:
    """2^exponent from its bits, exact on every device; 0 below the normal numbers, the largest power above them.

    (`jnp.ldexp` calls `pow`, which is slow, and on accelerators not always exact.)

    >>> power_of_two(jnp.array([-3, -200, 0]), jnp.float32)
    Array([0.125, 0.   , 1.   ], dtype=float32)
    """
    info = jnp.finfo(dtype)
    integers = jnp.dtype(f"int{info.bits}")
    bias = info.maxexp - 1
    biased = (jnp.clip(exponent, info.minexp - 1, bias) + bias).astype(integers)
    return lax.bitcast_convert_type(biased << integers.type(info.nmant), dtype)


def multiply(left: Scaled, right: Scaled) -> Scaled:
    """The product of two scaled matrices, or of two stacks entry by entry.

    >>> half = rescale(0.5 * jnp.eye(2))
    >>> multiply(half, half).exponent  # ¼ = ½ · 2⁻¹
    Array(-1, dtype=int32)
    """
    with jax.default_matmul_precision("highest"):
        product = left.mantissa @ right.mantissa
    return carry(Scaled(mantissa=product, exponent=left.exponent + right.exponent))


def prefix(jacobians: jax.Array, *, associative: bool = False) -> Scaled:
    """∂h_t/∂h_0 = J_t … J_1 for t = 0 … T.

    Args:
      jacobians: J_1 … J_T, `(T, S, S)`.
      associative: multiply in a tree rather than one by one.

    Returns:
      T + 1 scaled matrices; entry t is ∂h_t/∂h_0, entry 0 the identity.

    Raises:
      ValueError: not a stack of square matrices, or NaN or infinity in a concrete one.

    >>> jax.jit(prefix)(jnp.full((3, 1, 1), 0.5))  # the mantissa is ½: ½ⁿ = ½ · 2^(1 − n)
    matrices mantissa · 2^exponent, mantissa float32[4, 1, 1]
    entry  exponent  ln Frobenius norm
        0         1                  0
        1         0            -0.6931
        2        -1             -1.386
        3        -2             -2.079
    """
    return first_factors(rescale(check_stack(jacobians)), associative)


def suffix(jacobians: jax.Array, *, associative: bool = False) -> Scaled:
    """∂h_T/∂h_{T−n} = J_T … J_{T−n+1} for n = 0 … T: by lag, as the gradient travels back from the end.

    Args:
      jacobians, associative: as in `prefix`.

    Returns:
      T + 1 scaled matrices; entry n is ∂h_T/∂h_{T−n}, entry 0 the identity.

    >>> jax.jit(suffix)(jnp.stack([jnp.eye(2), 4 * jnp.eye(2)])).exponent
    Array([1, 3, 3], dtype=int32)
    """
    return last_factors(rescale(check_stack(jacobians)), associative)


def by_lag(jacobians: jax.Array, lag: int) -> Scaled:
    """∂h_t/∂h_{t−n} = J_t … J_{t−n+1} of one lag n, for t = n … T.

    Time is cut into blocks of n steps; a window that ends i steps into a block is the product of the first i
    factors of that block and the last n − i of the one before (van Herk 1992): three products a window, whatever n.

    Args:
      jacobians: J_1 … J_T, `(T, S, S)`.
      lag: n, in [0, T].

    Returns:
      T − n + 1 scaled matrices; entry t − n is ∂h_t/∂h_{t−n}.

    Raises:
      ValueError: as `prefix`, or a lag out of range.

    >>> run = jax.jit(by_lag, static_argnums=1)
    >>> run(jnp.array([2.0, 1.0, 4.0]).reshape(3, 1, 1), 2).exponent  # 2 · 1, 1 · 4; mantissa ½
    Array([2, 3], dtype=int32)
    """
    jacobians = check_stack(jacobians)
    steps, size, _ = jacobians.shape
    lag = checks.integer("lag", lag, 0, steps, "T, the number of Jacobians")
    identity = jnp.eye(size, dtype=jacobians.dtype)
    if lag == 0:
        return rescale(jnp.broadcast_to(identity, (steps + 1, size, size)))
    padding = jnp.broadcast_to(identity, (-steps % lag, size, size))
    blocks = rescale(jnp.concatenate([jacobians, padding]).reshape(-1, lag, size, size))
    firsts, lasts = jax.vmap(first_factors)(blocks), jax.vmap(last_factors)(blocks)
    # Nothing comes before the first block: of its windows only the one that fills it is asked for.
    before = jax.tree.map(lambda leaf: jnp.concatenate([leaf[:1], leaf[:-1]]), lasts)
    windows = jax.vmap(windows_across)(before, firsts)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[lag - 1 : steps], windows)


def windows_across(before: Scaled, firsts: Scaled) -> Scaled:
    """The windows of n factors that end in a block: its first i factors after the last n − i of the block before.

    Args:
      before: `last_factors` of the block before, n + 1 entries.
      firsts: `first_factors` of the block, up to n + 1 entries.

    Returns:
      Entry i − 1 for i = 1, 2, … as far as `firsts` goes.

    >>> earlier, later = rescale(jnp.full((2, 1, 1), 2.0)), rescale(jnp.full((2, 1, 1), 8.0))
    >>> log_norm(windows_across(last_factors(earlier), first_factors(later))) / jnp.log(2.0)  # 2 · 8, 8 · 8
    Array([4., 6.], dtype=float32)
    """
    count = firsts.mantissa.shape[0] - 1
    return multiply(
        jax.tree.map(lambda leaf: leaf[1:], firsts),
        jax.tree.map(lambda leaf: leaf[-2::-1][:count], before),
    )


def log_norms(jacobians: jax.Array, ord: int | str = 2, *, associative: bool = False) -> jax.Array:
    """ln‖∂h_T/∂h_{T−n}‖ for n = 0 … T.

    Args:
      jacobians: J_1 … J_T, `(T, S, S)`.
      ord: 2, the spectral norm (largest singular value); "fro", the Frobenius norm; −2, the smallest singular
        value, from the product of the inverses, resolved however far it is below the largest.
      associative: as in `prefix`.

    Returns:
      `(T + 1,)`, in nats; −∞ where the product is zero, and with `ord=-2` from the first factor on that is
      singular to working precision. Differentiable; what is −∞ has derivative 0.

    Raises:
      ValueError: as `prefix`, or an unknown `ord`.

    >>> halvings = jnp.broadcast_to(0.5 * jnp.eye(3), (1000, 3, 3))
    >>> round(float(jax.jit(log_norms)(halvings)[-1] / jnp.log(0.5)), 3)
    1000.0
    """
    check_ord(ord)
    jacobians = check_stack(jacobians)
    if ord != -2:
        return log_norm(last_factors(rescale(jacobians), associative), ord)
    # P⁻ᵀ = J_T⁻ᵀ … J_{T−n+1}⁻ᵀ is a product in the same order.
    inverses = jax.vmap(inverse_transpose)(jacobians)
    singular = jnp.concatenate([jnp.zeros(1, bool), jnp.cumsum(inverses.singular[::-1]) > 0])
    return jnp.where(singular, -jnp.inf, -log_norm(last_factors(inverses.scaled, associative)))


def log_norm(scaled: Scaled, ord: int | str = 2) -> jax.Array:
    """ln‖mantissa · 2^exponent‖, of each matrix of any stack, `(…)`.

    Args:
      scaled: matrices, from any function of this module.
      ord: 2 or "fro". (The smallest singular value of a product is not in its rounded entries: `log_norms`.)

    >>> log_norm(prefix(jnp.full((3, 1, 1), 2.0))) / jnp.log(2.0)
    Array([0., 1., 2., 3.], dtype=float32)
    """
    if ord not in (2, "fro"):
        raise ValueError(f"ord is {ord!r}; expected 2 (spectral norm) or 'fro' (Frobenius norm).")
    mantissa, exponent = scaled
    if ord == "fro":
        # Half the logarithm of the squared sum has no kink that a gradient could trip over.
        log_mantissa = 0.5 * _log((mantissa * mantissa).sum((-2, -1)))
    else:
        log_mantissa = _log(jnp.linalg.svd(mantissa, compute_uv=False)[..., 0])
    return log_mantissa + exponent * jnp.asarray(math.log(2), mantissa.dtype)


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


class Inverse(NamedTuple):
    """The transposed inverse of a matrix, and whether the matrix was singular to working precision.

    Attributes:
      scaled: J⁻ᵀ; the identity where `singular`.
      singular: boolean.
    """

    scaled: Scaled
    singular: jax.Array


def inverse_transpose(matrix: jax.Array) -> Inverse:
    """J⁻ᵀ of one square matrix J = 2^r E 2^c, as 2^−r E⁻ᵀ 2^−c.

    Rows, then columns are divided by the power of two next to their largest entry: a network whose units saturate
    has tiny rows, diag(f') W_hh, which make J ill-conditioned but not its inverse inaccurate. J counts as singular
    if elimination leaves a pivot of E of at most S ε.

    >>> inverse = inverse_transpose(jnp.array([[4.0, 0.0], [0.0, 1e-30]]))
    >>> inverse.scaled.exponent, inverse.singular  # 1e30 = 0.79 · 2^100
    (Array(100, dtype=int32), Array(False, dtype=bool))
    """
    size = matrix.shape[-1]
    rows, row_exponents = rescale(matrix, axes=1)
    equilibrated, column_exponents = rescale(rows, axes=0)
    pivots = jnp.abs(jnp.diagonal(lax.linalg.lu(lax.stop_gradient(equilibrated))[0]))
    singular = pivots.min() <= size * jnp.finfo(matrix.dtype).eps
    with jax.default_matmul_precision("highest"):
        regular = jnp.where(singular, jnp.eye(size, dtype=matrix.dtype), equilibrated)
        inverse = jnp.linalg.inv(regular).T
    # The exponents of its entries, of which the largest is taken out before any is applied.
    shifts = jnp.where(singular, 0, -row_exponents[:, None] - column_exponents[None, :])
    largest = jnp.where(inverse != 0, shifts, shifts.min()).max()
    mantissa, exponent = rescale(times_power_of_two(inverse, jnp.minimum(shifts - largest, 0)))
    return Inverse(Scaled(mantissa=mantissa, exponent=exponent + largest), singular)


def first_factors(factors: Scaled, associative: bool = False) -> Scaled:
    """The products of the first n factors of a scaled stack, n = 0 … T, later ones on the left: see `prefix`.

    >>> first_factors(rescale(jnp.full((3, 1, 1), 2.0))).exponent
    Array([1, 2, 3, 4], dtype=int32)
    """
    return _accumulate(factors, lambda product, factor: multiply(factor, product), associative)


def last_factors(factors: Scaled, associative: bool = False) -> Scaled:
    """The products of the last n factors of a scaled stack, n = 0 … T, later ones on the left: see `suffix`.

    >>> last_factors(rescale(jnp.array([4.0, 1.0]).reshape(2, 1, 1))).exponent
    Array([1, 1, 3], dtype=int32)
    """
    return _accumulate(jax.tree.map(lambda leaf: leaf[::-1], factors), multiply, associative)


def _accumulate(factors: Scaled, extend: Callable, associative: bool) -> Scaled:
    """All partial products, shortest first, from the identity on: `extend(product, next factor)`."""
    mantissas = factors.mantissa
    identity = rescale(jnp.eye(mantissas.shape[-1], dtype=mantissas.dtype))
    if associative:
        products = lax.associative_scan(extend, factors)
    else:
        _, products = lax.scan(lambda p, factor: (new := extend(p, factor), new), identity, factors)
    return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), identity, products)


def _log(x: jax.Array) -> jax.Array:
    """ln x for x ≥ 0; −∞ at 0, with derivative 0 rather than NaN."""
    return jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 1)), -jnp.inf)


def _table(scaled: Scaled) -> str:
    mantissas, exponents = scaled.mantissa, scaled.exponent
    title = f"matrices mantissa · 2^exponent, mantissa {mantissas.dtype}{list(mantissas.shape)}"
    if exponents.ndim != 1:
        return f"{title}, exponents from {exponents.min()} to {exponents.max()}" if exponents.size else title
    with np.errstate(divide="ignore"):
        logs = np.log((mantissas.astype(float) ** 2).sum((-2, -1))) / 2 + exponents * math.log(2)
    rows = [[str(n), str(exponents[n]), tables.number(logs[n])] for n in tables.ends(len(exponents), 10)]
    return f"{title}\n{tables.columns(['entry', 'exponent', 'ln Frobenius norm'], rows)}"


def check_ord(ord: int | str) -> None:
    """Raise unless `ord` names a norm of this module.

    >>> check_ord(1)
    Traceback (most recent call last):
        ...
    ValueError: ord is 1; expected 2 (spectral norm), 'fro' (Frobenius norm) or -2 (smallest singular value).
    """
    if ord not in (2, "fro", -2):
        raise ValueError(
            f"ord is {ord!r}; expected 2 (spectral norm), 'fro' (Frobenius norm) or -2 (smallest singular value)."
        )


def check_stack(jacobians: jax.Array) -> jax.Array:
    """The stack as an array; raise unless it is `(T, S, S)`, floating point and, if concrete, finite.

    >>> check_stack(jnp.ones((2, 3)))
    Traceback (most recent call last):
        ...
    ValueError: jacobians has shape (2, 3); expected (T, S, S) with T >= 1, of one sequence. For a batch, ...
    """
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
