"""`python -m experiments list` and `python -m experiments run NAME [--field value …]`."""

import sys

import jax

# Training runs in float32, by arrays that say so; Jacobians, their products and singular values are measured in
# float64, which JAX must be told to allow before the first array is made.
jax.config.update("jax_enable_x64", True)

from experiments import runner  # noqa: E402  (the setting comes before anything that uses JAX)

if __name__ == "__main__":
    sys.exit(runner.main(sys.argv[1:]))
