"""Norms of products made along a trajectory: the stack of Jacobians, (T, S, S), is never held.

    prefix     ∂h_t/∂h_0        P_t = J_t P_{t−1}             J_t times columns, by forward mode
    suffix     ∂h_T/∂h_{T−n}    P_nᵀ = J_{T−n+1}ᵀ P_{n−1}ᵀ    J_tᵀ times columns, by reverse mode
    by_lag     ∂h_t/∂h_{t−n}    one n, all t                  from the Jacobians of one block of n steps after another

These are the twins of the functions of the same names in `rnn_jax.products`, which take the stack. T products
would be as large as the stack that is avoided, so these give log-norms along the way and the last product. Beside
that `suffix` holds the states, (T, S), and `by_lag` the Jacobians and products of two blocks, (n, S, S).

One sequence, `(T, D)`; `jax.vmap` is the batch. For the smallest singular value P⁻ᵀ, a product in the same order,
is carried in the place of P, and each step's Jacobian is inverted (`products.inverse_transpose`).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from rnn_jax import checks, jacobians, products, tables
from rnn_jax import unroll as unrolling
from rnn_jax.products import Scaled
from rnn_jax.types import Cell, PyTree, Step


class Stream(NamedTuple):
    """Log-norms of a product that grows along a trajectory.

    Attributes:
      factors: how many factors the product has at each entry, `(M + 1,)`: 0, every, 2 every, … M every ≤ T.
      log_norms: ln of its norm there, `(M + 1,)`, in nats; −∞ where it is zero or, with `ord=-2`, singular.
      product: the product of all T factors; with `ord=-2` its transposed inverse, NaN if it is singular.
    """

    factors: jax.Array
    log_norms: jax.Array
    product: Scaled

    def __repr__(self) -> str:
        return tables.render(self, self.log_norms.ndim - 1, _table)


def prefix(
    step: Cell | Step, params: PyTree, state: PyTree, xs: PyTree, *, ord: int | str = 2, every: int = 1
) -> Stream:
    """ln‖∂h_t/∂h_0‖ at t = 0, every, 2 every, … ≤ T.

    Args:
      step: a cell, or any `step(params, state, x) -> state`.
      params: θ.
      state: s_0 of one sequence; S is the number of its entries.
      xs: x_1 … x_T, `(T, D)`.
      ord: 2, "fro" or −2, as in `products.log_norms`. "fro" is the cheap one.
      every: steps from one norm to the next, in [1, T].

    Returns:
      `Stream`; entry m is ln‖∂h_t/∂h_0‖ at t = m · every, `product` is ∂h_T/∂h_0.

    Raises:
      ValueError: as `unroll.unroll`; an unknown `ord`; `every` out of range.

    >>> def halve(params, state, x):
    ...     return 0.5 * state + x
    >>> jax.jit(lambda xs: prefix(halve, None, jnp.zeros(2), xs, every=1000))(jnp.zeros((2000, 2)))
    log-norms of products of Jacobians, in nats
    factors  log-norm
          0         0
       1000    -693.1
       2000     -1386
    """
    params, state, xs, every = _arguments(step, params, state, xs, ord, every)
    identity = _identity(state)

    def advance(carry, x):
        state, product = carry
        # What is not used of the two is not computed: the state of one, the Jacobian's columns of the other.
        new, _ = jacobians.push(step, params, state, x, identity)

        def times(matrix):
            return jacobians.push(step, params, state, x, matrix)[1]

        return new, _extend(product, times, ord)

    return _stream(advance, state, xs, identity, ord, every)


def suffix(
    step: Cell | Step, params: PyTree, state: PyTree, xs: PyTree, *, ord: int | str = 2, every: int = 1
) -> Stream:
    """ln‖∂h_T/∂h_{T−n}‖ at lags n = 0, every, 2 every, … ≤ T. Arguments and errors as for `prefix`.

    Returns:
      `Stream`; entry m is ln‖∂h_T/∂h_{T−n}‖ at n = m · every, `product` is ∂h_T/∂h_0.

    >>> def double(params, state, x):
    ...     return 2.0 * state
    >>> stream = jax.jit(lambda xs: suffix(double, None, jnp.zeros(3), xs, every=4))(jnp.zeros((8, 1)))
    >>> stream.log_norms / jnp.log(2.0)
    Array([0., 4., 8.], dtype=float32)
    """
    params, state, xs, every = _arguments(step, params, state, xs, ord, every)
    with jax.default_matmul_precision("highest"):
        states = unrolling.unroll(step, params, state, xs)
    inputs = (unrolling.previous_states(state, states), xs)

    def advance(carry, inputs):
        _, product = carry
        previous, x = inputs

        def times(matrix):
            return jacobians.pull(step, params, previous, x, matrix)

        return (), _extend(product, times, ord)

    backward = jax.tree.map(lambda leaf: leaf[::-1], inputs)
    stream = _stream(advance, (), backward, _identity(state), ord, every)
    return stream._replace(product=stream.product._replace(mantissa=stream.product.mantissa.T))


def by_lag(
    step: Cell | Step, params: PyTree, state: PyTree, xs: PyTree, lag: int, *, ord: int | str = 2
) -> jax.Array:
    """ln‖∂h_t/∂h_{t−n}‖ of one lag n, for t = n … T.

    Args:
      step, params, state, xs, ord: as in `prefix`.
      lag: n, in [1, T].

    Returns:
      `(T − n + 1,)`, entry t − n is ln‖∂h_t/∂h_{t−n}‖.

    Raises:
      ValueError: as `prefix`; a lag out of range.

    >>> def double(params, state, x):
    ...     return 2.0 * state
    >>> jax.jit(lambda xs: by_lag(double, None, jnp.zeros(3), xs, lag=5))(jnp.zeros((8, 1))) / jnp.log(2.0)
    Array([5., 5., 5., 5.], dtype=float32)
    """
    params, state, xs, _ = _arguments(step, params, state, xs, ord, 1)
    steps = checks.sequence_length(xs)
    lag = checks.integer("lag", lag, 1, steps, "T, the number of steps")

    def block(carry, xs):
        state, before, singular_before = carry
        identity = _identity(state)

        def one(state, x):
            new, jacobian = jacobians.push(step, params, state, x, identity)
            return new, jacobian

        state, stack = lax.scan(one, state, xs)
        if ord == -2:
            factors, singular = jax.vmap(products.inverse_transpose)(stack)
        else:
            factors, singular = products.rescale(stack), jnp.zeros(stack.shape[0], bool)
        windows = products.windows_across(before, products.first_factors(factors))
        # A window holds the steps up to its own of this block, and those after its own of the block before.
        count = singular.shape[0]
        later = jnp.cumsum(singular_before[::-1])[::-1] - singular_before
        held = jnp.cumsum(singular) + later[:count] > 0
        return (state, products.last_factors(factors), singular), _log_norm(_Product(windows, held), ord)

    def blocks(leaf):
        return leaf[: steps - steps % lag].reshape(-1, lag, *leaf.shape[1:])

    identity = _identity(state)
    nothing = products.rescale(jnp.broadcast_to(identity, (lag + 1, *identity.shape)))
    carry, log_norms = lax.scan(block, (state, nothing, jnp.zeros(lag, bool)), jax.tree.map(blocks, xs))
    log_norms = log_norms.ravel()
    if steps % lag:
        _, rest = block(carry, jax.tree.map(lambda leaf: leaf[-(steps % lag) :], xs))
        log_norms = jnp.concatenate([log_norms, rest])
    return log_norms[lag - 1 :]


class _Product(NamedTuple):
    """A product M_n … M_1, or with `ord=-2` its transposed inverse M_n⁻ᵀ … M_1⁻ᵀ, which says nothing if `singular`."""

    scaled: Scaled
    singular: jax.Array


def _extend(product: _Product, times: Callable[[jax.Array], jax.Array], ord: int | str) -> _Product:
    """The product with one more factor M on the left; `times(A)` is M A."""
    scaled, singular = product
    if ord == -2:
        inverse = products.inverse_transpose(
            times(jnp.eye(scaled.mantissa.shape[-1], dtype=scaled.mantissa.dtype))
        )
        return _Product(products.multiply(inverse.scaled, scaled), singular | inverse.singular)
    return _Product(products.carry(Scaled(times(scaled.mantissa), scaled.exponent)), singular)


def _log_norm(product: _Product, ord: int | str) -> jax.Array:
    if ord == -2:
        return jnp.where(product.singular, -jnp.inf, -products.log_norm(product.scaled))
    return products.log_norm(product.scaled, ord)


def _stream(
    advance: Callable, first: PyTree, inputs: PyTree, identity: jax.Array, ord: int | str, every: int
) -> Stream:
    """Scan `advance((carry, product), input)`, with a norm at the start and after every group of `every` steps."""
    steps = checks.sequence_length(inputs)
    groups = steps // every

    def several(carry, inputs):
        return lax.scan(lambda carry, x: (advance(carry, x), None), carry, inputs)[0]

    def group(carry, inputs):
        carry = several(carry, inputs)
        return carry, _log_norm(carry[1], ord)

    start = _Product(products.rescale(identity), jnp.zeros((), bool))
    grouped = jax.tree.map(
        lambda leaf: leaf[: groups * every].reshape(groups, every, *leaf.shape[1:]), inputs
    )
    carry, log_norms = lax.scan(group, (first, start), grouped)
    if steps % every:
        carry = several(carry, jax.tree.map(lambda leaf: leaf[groups * every :], inputs))
    scaled, singular = carry[1]
    return Stream(
        factors=every * jnp.arange(groups + 1),
        log_norms=jnp.concatenate([_log_norm(start, ord)[None], log_norms]),
        product=scaled._replace(mantissa=jnp.where(singular, jnp.nan, scaled.mantissa)),
    )


def _identity(state: PyTree) -> jax.Array:
    flat, _ = ravel_pytree(state)
    return jnp.eye(flat.size, dtype=flat.dtype)


def _arguments(
    step: Cell | Step, params: PyTree, state: PyTree, xs: PyTree, ord: int | str, every: int
) -> tuple[PyTree, PyTree, PyTree, int]:
    params, state, xs, _ = unrolling.arguments(params, state, xs, None)
    checks.one_sequence(step, state, "products of Jacobians are")
    products.check_ord(ord)
    every = checks.integer("every", every, 1, checks.sequence_length(xs), "T, the number of steps")
    return params, state, xs, every


def _table(stream: Stream) -> str:
    shown = tables.ends(len(stream.log_norms), 12)
    rows = [[str(stream.factors[i]), tables.number(stream.log_norms[i])] for i in shown]
    return "log-norms of products of Jacobians, in nats\n" + tables.columns(["factors", "log-norm"], rows)
