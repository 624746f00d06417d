"""Activations and their derivatives by hand, as f'(z) from z and h = f(z).

    tanh        1 − h²                   sigmoid     h (1 − h)
    ReLU        1 if z > 0 else 0        hard tanh   1 if |z| ≤ 1 else 0
    identity    1

Conventions at the corners are those of `jax.nn`: ReLU has derivative 0 at 0 (a zero state with zero input
and bias sits exactly there), hard tanh has 1 at ±1.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Activation = Callable[[jax.Array], jax.Array]


def identity(z: jax.Array) -> jax.Array:
    """f(z) = z: the linear network.

    >>> identity(jnp.array(2.0))
    Array(2., dtype=float32, weak_type=True)
    """
    return z


_DERIVATIVES: dict[Callable, Callable[[jax.Array, jax.Array], jax.Array]] = {
    jnp.tanh: lambda z, h: 1 - h * h,
    jax.nn.relu: lambda z, h: (h > 0).astype(h.dtype),
    jax.nn.sigmoid: lambda z, h: h * (1 - h),
    jax.nn.hard_tanh: lambda z, h: (jnp.abs(z) <= 1).astype(z.dtype),
    identity: lambda z, h: jnp.ones_like(z),
}
_DERIVATIVES[jax.lax.tanh] = _DERIVATIVES[jnp.tanh]

_MAX_SLOPES: dict[Callable, float] = {jnp.tanh: 1.0, jax.lax.tanh: 1.0, jax.nn.relu: 1.0}
_MAX_SLOPES |= {jax.nn.sigmoid: 0.25, jax.nn.hard_tanh: 1.0, identity: 1.0}


def check_activation(activation: Activation) -> None:
    """Raise unless `activation` is a function.

    >>> check_activation("tanh")
    Traceback (most recent call last):
        ...
    ValueError: activation is 'tanh'; expected a function of an array, such as jnp.tanh or jax.nn.relu.
    """
    if not callable(activation):
        raise ValueError(
            f"activation is {activation!r}; expected a function of an array, such as jnp.tanh or jax.nn.relu."
        )


def derivative(activation: Activation) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """f' as a function of z and h = f(z): by hand for the activations above, one `jvp` with ones for any other.

    >>> derivative(jax.nn.relu)(jnp.array([-1.0, 0.0, 2.0]), jnp.array([0.0, 0.0, 2.0]))
    Array([0., 0., 1.], dtype=float32)
    """
    if activation in _DERIVATIVES:
        return _DERIVATIVES[activation]
    return lambda z, h: jax.jvp(activation, (z,), (jnp.ones_like(z),))[1]


def max_slope(activation: Activation) -> float:
    """γ = max |f'|, the constant of the norm bound (γ σ_max(W_hh))ⁿ (Pascanu, Mikolov and Bengio 2013, section 2.1).

    Raises:
      ValueError: for an activation that is not in the table above.

    >>> max_slope(jax.nn.sigmoid)
    0.25
    """
    if activation not in _MAX_SLOPES:
        raise ValueError(
            f"the largest slope of {activation} is not known; expected tanh, ReLU, sigmoid, hard tanh or "
            "identity. Pass its value to products.log_bound as gamma."
        )
    return _MAX_SLOPES[activation]
