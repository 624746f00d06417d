"""Strict settings and the two dtypes for the whole suite."""

import os
from importlib.metadata import version

# Nearly all of the suite's time is compilation, and most of that the optimisation of machine code and the lowering of
# fusions through MLIR, which are not what is tested. XLA_FLAGS=--xla_backend_optimization_level=3 runs it optimised.
# To split programs this small, to compile their parts in parallel, costs more than it saves.
# Only jaxlib 0.10 has the last flag, and XLA ends the process at one that it does not know.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    + " --xla_cpu_use_fusion_emitters=false" * version("jaxlib").startswith("0.10."),
)

import jax
import jax.numpy as jnp
import pytest

from rnn_jax import sweeps

jax.config.update("jax_numpy_rank_promotion", "raise")
# Products in full: accelerators round the operands of float32 products by default.
jax.config.update("jax_default_matmul_precision", "highest")
# What compiles is compiled, and its time measured, whatever the developer keeps on disk.
jax.config.update("jax_compilation_cache_dir", None)


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """The test runs once in float32 and once in float64."""
    with jax.enable_x64(request.param == "float64"):
        yield jnp.dtype(request.param)


@pytest.fixture
def float64():
    """The test runs in float64."""
    with jax.enable_x64(True):
        yield jnp.dtype("float64")


@pytest.fixture(autouse=True)
def swept_as_on_a_cpu(monkeypatch):
    """Sequences are swept alike on every device, and the small networks of the tests like large ones.

    How an accelerator and tiny networks are swept is what `on_an_accelerator` of tests/test_sweeps.py is for.
    """
    monkeypatch.setattr(sweeps, "_on_a_cpu", lambda: True)
    monkeypatch.setattr(sweeps, "_TINY", 0)
