"""The readout and its derivative by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import readout
from tests.cases import assert_close, draw, rounding


def drawn(dtype, *shapes):
    """A readout of 5 units into 3 outputs, and arrays of the given shapes."""
    rng = np.random.default_rng(0)
    array = lambda *shape: draw(rng, jax.ShapeDtypeStruct(shape, dtype))
    return readout.Readout(w_hy=array(3, 5), b_y=array(3)), *(array(*shape) for shape in shapes)


@pytest.fixture
def case(dtype):
    return drawn(dtype, (7, 2, 5))


def test_outputs_are_w_h_plus_b(case, dtype):
    params, h = case
    expected = np.einsum("kn,tbn->tbk", params.w_hy, h) + np.asarray(params.b_y)
    assert_close(readout.linear(params, h), expected.astype(dtype), rounding(dtype))


def test_softmax_outputs_are_probabilities(case, dtype):
    params, h = case
    o = np.asarray(readout.linear(params, h))
    expected = np.exp(o) / np.exp(o).sum(-1, keepdims=True)
    assert_close(readout.softmax(params, h), expected, rounding(dtype))


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)], ids=str)
def test_the_pullback_is_the_vjp_of_the_linear_readout(batch, float64):
    params, h, do = drawn(float64, (7, *batch, 5), (7, *batch, 3))
    by_jax = jax.jit(lambda params, h, do: jax.vjp(readout.linear, params, h)[1](do))
    assert_close(jax.jit(readout.pullback)(params, h, do), by_jax(params, h, do), rounding(float64))


def test_wrong_sizes_name_the_readout():
    params = readout.init(jax.random.key(0), 5, 3)
    with pytest.raises(ValueError, match=r"h has shape \(4,\), so 4 features, but w_hy with shape \(3, 5\)"):
        readout.linear(params, jnp.ones(4))
