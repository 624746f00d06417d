"""Lyapunov exponents of a map by lyapax, from a state and a frame that are given."""

import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp

from benchmarks.peers import Peer


def build(step: Callable[[jax.Array], jax.Array], steps: int) -> Callable[..., jax.Array]:
    """`(state, frame) -> exponents`, in the order of the frame, orthogonalised at every step.

    lyapax draws a frame of its own, but goes on from a checkpoint that is given. A map has dt = 1. It sorts its
    exponents at the end; the checkpoint has them in the order of the frame.
    """
    import lyapax

    def exponents(state, frame):
        start = lyapax.LyapunovCheckpoint(state, frame, jnp.zeros_like(frame[0]), elapsed_time=0.0, dt=1.0)
        # It adds (k,) to (T, k), and warns of float32, which is what was asked for.
        with jax.numpy_rank_promotion("allow"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "lyapax: jax_enable_x64")
            result = lyapax.lyapunov_spectrum(step, state, 1.0, steps, renorm_every=1, resume=start)
        return result.checkpoint.cum_log_growth / steps

    return exponents


PEER = Peer("lyapax", ("lyapax",), "pip install lyapax", cells=(), build=build)
