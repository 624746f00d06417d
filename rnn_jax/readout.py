"""The readout ŷ_t = g(W_hy h_t + b_y), g the identity or softmax, and its derivative by hand.

    o_t = W_hy h_t + b_y
    ∂L/∂W_hy = Σ_t (∂L/∂o_t) h_tᵀ      ∂L/∂b_y = Σ_t ∂L/∂o_t      ∂L/∂h_t = W_hyᵀ ∂L/∂o_t

Losses (`rnn_jax.losses`) take o_t and give ∂L_t/∂o_t, which is ŷ_t − y_t both for softmax with cross-entropy
and for linear outputs with squared error.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from rnn_jax import checks, initializers


class Readout(NamedTuple):
    """Parameters of a readout: `w_hy` (K, N) and `b_y` (K,)."""

    w_hy: jax.Array
    b_y: jax.Array


def init(
    key: jax.Array,
    hidden_size: int,
    output_size: int,
    *,
    kernel: initializers.Initializer = initializers.gaussian(),
    bias: initializers.Initializer = initializers.zeros,
    dtype: DTypeLike = float,
) -> Readout:
    """Parameters of a readout of `hidden_size` units into `output_size` outputs.

    >>> init(jax.random.key(0), 8, 3).w_hy.shape
    (3, 8)
    """
    key_kernel, key_bias = jax.random.split(key)
    return Readout(
        w_hy=kernel(key_kernel, (output_size, hidden_size), dtype),
        b_y=bias(key_bias, (output_size,), dtype),
    )


def linear(params: Readout, h: jax.Array) -> jax.Array:
    """o_t = W_hy h_t + b_y: linear outputs, or the logits of a softmax.

    Args:
      h: emitted hidden states, `(…, N)`: one, a batch, or a whole sequence.

    Returns:
      `(…, K)`.

    >>> linear(Readout(w_hy=jnp.array([[1.0, 2.0]]), b_y=jnp.array([0.5])), jnp.array([1.0, 1.0]))
    Array([3.5], dtype=float32)
    """
    checks.operand("h", h, "w_hy", params.w_hy)
    o = h @ params.w_hy.T
    return o + lax.broadcast_to_rank(params.b_y, o.ndim)


def softmax(params: Readout, h: jax.Array) -> jax.Array:
    """ŷ_t = softmax(W_hy h_t + b_y): class probabilities, `(…, K)`.

    >>> softmax(Readout(w_hy=jnp.zeros((4, 2)), b_y=jnp.zeros(4)), jnp.ones(2))
    Array([0.25, 0.25, 0.25, 0.25], dtype=float32)
    """
    return jax.nn.softmax(linear(params, h), axis=-1)


def pullback(params: Readout, h: jax.Array, do: jax.Array) -> tuple[Readout, jax.Array]:
    """∂L/∂W_hy and ∂L/∂b_y, summed over time and batch, and ∂L/∂h_t: the three equations above.

    Args:
      h: emitted hidden states, `(…, N)`.
      do: ∂L/∂o, `(…, K)`.

    Returns:
      Gradients for the parameters, in a `Readout`, and for `h`, `(…, N)`.

    >>> params = Readout(w_hy=jnp.array([[1.0, 2.0]]), b_y=jnp.zeros(1))
    >>> grads, dh = pullback(params, jnp.array([[3.0, 4.0]]), jnp.array([[10.0]]))
    >>> grads.w_hy, dh
    (Array([[30., 40.]], dtype=float32), Array([[10., 20.]], dtype=float32))
    """
    checks.operand("h", h, "w_hy", params.w_hy)
    batch = tuple(range(h.ndim - 1))
    return Readout(w_hy=jnp.tensordot(do, h, (batch, batch)), b_y=do.sum(batch)), do @ params.w_hy
