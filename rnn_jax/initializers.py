"""Initial recurrent matrices and biases.

Every initialiser is `(key, shape, dtype) -> array`, as in `jax.nn.initializers`, for matrices stored
`(out, in)`: entry [i, j] leads from unit j to unit i. (`jax.nn.initializers` assume `(in, out)`; pass them
`in_axis=-1, out_axis=-2` to use them here.) Cells call the matrix initialisers gate by gate, so that each
gate's block is orthogonal, or has the stated gain, by itself; and the bias initialiser once, with all gates.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax import checks

Initializer = Callable[..., jax.Array]

zeros = jax.nn.initializers.zeros
"""All zero; the default bias."""


def gaussian(gain: float = 1.0) -> Initializer:
    """Independent entries W_ij ~ N(0, g²/N), N the number of inputs.

    As N grows the eigenvalues fill the disc of radius g (Girko's circular law) while the largest singular
    value tends to 2g: between g = ½ and g = 1 single steps can expand though long products vanish.

    Args:
      gain: g ≥ 0.

    >>> w = gaussian(0.5)(jax.random.key(0), (400, 400))
    >>> bool(abs(w.std() * 20 - 0.5) < 0.01)
    True
    """
    gain = _at_least_zero("gain", gain)

    def init(key, shape, dtype=float):
        return gain / math.sqrt(shape[-1]) * jax.random.normal(key, shape, dtype)

    return init


def orthogonal(gain: float = 1.0) -> Initializer:
    """g·Q with Q drawn uniformly (Haar) from the orthogonal matrices: every singular value is g.

    Q comes from the QR decomposition of a Gaussian matrix, its columns multiplied by sign(diag R), without
    which the distribution is not uniform (Mezzadri 2007).

    Args:
      gain: g ≥ 0.

    >>> w = orthogonal(2.0)(jax.random.key(0), (3, 3))
    >>> bool(jnp.allclose(w @ w.T, 4 * jnp.eye(3), atol=1e-5))
    True
    """
    gain = _at_least_zero("gain", gain)
    draw = jax.nn.initializers.orthogonal(gain)

    def init(key, shape, dtype=float):
        # One after the other under `jax.vmap`: on a CPU of two cores two batched factorisations of jaxlib that run
        # side by side, such as those of two gates, can wait for each other for ever.
        return jax.custom_batching.sequential_vmap(lambda key: draw(key, shape, dtype))(key)

    return init


def identity(gain: float = 1.0) -> Initializer:
    """g·I (Le, Jaitly and Hinton 2015, with ReLU and g = 1: the IRNN).

    >>> identity(0.5)(jax.random.key(0), (2, 2))
    Array([[0.5, 0. ],
           [0. , 0.5]], dtype=float32)
    """
    gain = _at_least_zero("gain", gain)

    def init(key, shape, dtype=float):
        del key
        checks.square("a matrix for identity()", shape)
        return gain * jnp.eye(shape[-1], dtype=dtype)

    return init


def spectral_radius(radius: float) -> Initializer:
    """A Gaussian matrix scaled so that its largest |eigenvalue| is `radius`.

    ρ(A) = lim ‖Aⁿ‖^(1/n) (Gelfand), with n = 2ᵏ reached by k squarings: matrix products only, so that it runs
    on every device and under `jit`, where an eigenvalue solver for general matrices does not.

    Args:
      radius: ρ ≥ 0.

    >>> w = spectral_radius(0.9)(jax.random.key(0), (50, 50))
    >>> import numpy as np
    >>> bool(abs(abs(np.linalg.eigvals(w)).max() - 0.9) < 1e-4)
    True
    """
    radius = _at_least_zero("radius", radius)

    def init(key, shape, dtype=float):
        checks.square("a matrix for spectral_radius()", shape)
        matrix = gaussian()(key, shape, dtype)
        return radius / jnp.exp(_log_spectral_radius(matrix)) * matrix

    return init


def _log_spectral_radius(matrix: jax.Array) -> jax.Array:
    """ln ρ(A) = lim ln‖A^(2ᵏ)‖ / 2ᵏ, the power rescaled to norm 1 at each squaring.

    After k squarings the error is ln(κ)/2ᵏ, κ the condition of the eigenbasis, plus rounding that enters the
    j-th squaring divided by 2ʲ: 52 squarings, the digits of a float64, leave rounding only.
    """

    def square(carry, weight):
        power, log_radius = carry
        norm = jnp.linalg.norm(power)
        power = power / norm
        return (power @ power, log_radius + weight * jnp.log(norm)), None

    weights = 0.5 ** jnp.arange(52, dtype=matrix.dtype)
    with jax.default_matmul_precision("highest"):
        (_, log_radius), _ = lax.scan(square, (matrix, jnp.zeros((), matrix.dtype)), weights)
    return log_radius


def forget_gate(value: float = 1.0) -> Initializer:
    """LSTM biases that are zero but for the forget gate's, b_f = `value` (Gers et al. 2000; Jozefowicz et al. 2015).

    At zero weights the cell state decays by σ(b_f) a step: a timescale of −1/ln σ(b_f) = 1.44 steps at
    b_f = 0 and 3.19 at b_f = 1.

    >>> forget_gate(1.0)(jax.random.key(0), (4, 2))
    Array([[0., 0.],
           [1., 1.],
           [0., 0.],
           [0., 0.]], dtype=float32)
    """

    def init(key, shape, dtype=float):
        del key
        if len(shape) != 2 or shape[0] != 4:
            raise ValueError(
                f"forget_gate() was asked for biases of shape {shape}; it is for an LSTM's (4, N), gates i, f, "
                "g, o. For a GRU use chrono(), whose update gate keeps the state."
            )
        return jnp.zeros(shape, dtype).at[1].set(value)

    return init


def chrono(longest: float) -> Initializer:
    """Gate biases for memories of 1 to `longest` steps (Tallec and Ollivier 2018, eq. 16).

    LSTM, (4, N): b_f = ln u and b_i = −ln u with u ~ U[1, longest − 1]. GRU, (3, N): b_z = ln u for the update
    gate z, which keeps the state here (h' = z h + (1 − z) n). A unit's timescale at zero weights is then about u.

    Args:
      longest: the longest dependency in steps, > 2.

    >>> b = chrono(100.0)(jax.random.key(0), (4, 1000))
    >>> bool((b[1] >= 0).all() and (b[1] <= jnp.log(99.0)).all() and (b[0] == -b[1]).all())
    True
    """
    if not longest > 2:
        raise ValueError(
            f"longest is {longest}; expected more than 2 steps. It is the longest dependency to keep."
        )

    def init(key, shape, dtype=float):
        if len(shape) != 2 or shape[0] not in (3, 4):
            raise ValueError(
                f"chrono() was asked for biases of shape {shape}; it is for gated cells: (4, N) for an LSTM, "
                "(3, N) for a GRU."
            )
        log_times = jnp.log(jax.random.uniform(key, shape[1:], dtype, 1.0, longest - 1.0))
        biases = jnp.zeros(shape, dtype).at[1].set(log_times)
        return biases.at[0].set(-log_times) if shape[0] == 4 else biases

    return init


def _at_least_zero(name: str, value: float) -> float:
    """The value as a Python float, which leaves the dtype of arrays alone where a NumPy one does not."""
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} is {value}; expected a finite number >= 0.")
    return float(value)
