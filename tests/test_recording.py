"""A recorder measures when it should, in a scan as in a Python loop, and overwrites nothing."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from rnn_jax import decay, flow, recording
from tests.cases import ALL, N, example

OPTIMISER = optax.adam(0.1)


def measure(params):
    return {"norm": jnp.linalg.norm(params), "sign": jnp.sign(params[0]).astype(int)}


@jax.jit
def one_update(params, state):
    updates, state = OPTIMISER.update(jax.grad(lambda p: jnp.sum(p**4))(params), state)
    return optax.apply_updates(params, updates), state


def by_loop(recorder, updates):
    params, record = jnp.ones(3), jax.jit(recorder.record)
    state, records = OPTIMISER.init(params), record(recorder.init(params), 0, params)
    trajectory = [params]
    for update in range(1, updates + 1):
        params, state = one_update(params, state)
        records = record(records, update, params)
        trajectory.append(params)
    return records, trajectory


@pytest.mark.parametrize(("every", "updates"), [(1, 4), (3, 10), (5, 10), (20, 10)])
def test_in_a_scan_it_records_what_it_records_in_a_loop(every, updates):
    recorder = recording.recorder(measure, every=every, updates=updates)

    @jax.jit
    def by_scan(params):
        def body(carry, update):
            params, state, records = carry
            params, state = one_update(params, state)
            return (params, state, recorder.record(records, update, params)), None

        records = recorder.record(recorder.init(params), 0, params)
        carry = (params, OPTIMISER.init(params), records)
        return lax.scan(body, carry, jnp.arange(1, updates + 1))[0][2]

    records, trajectory = by_loop(recorder, updates)
    chex.assert_trees_all_close(by_scan(jnp.ones(3)), records, rtol=1e-6)
    times = np.arange(0, updates + 1, every)
    np.testing.assert_array_equal(records.updates, times)
    norms = [np.linalg.norm(trajectory[t]) for t in times]
    np.testing.assert_allclose(records.results["norm"], norms, rtol=1e-6)


def test_updates_that_are_not_due_or_out_of_range_leave_the_records_as_they_are():
    init, record = recording.recorder(measure, every=2, updates=5)
    empty = init(jnp.ones(3))
    np.testing.assert_array_equal(empty.updates, [-1, -1, -1])
    assert np.isnan(empty.results["norm"]).all()
    record = jax.jit(record)
    for update in (1, 5, 6, 100, -2):
        chex.assert_trees_all_equal(record(empty, update, jnp.ones(3)), empty)
    np.testing.assert_array_equal(record(empty, 4, jnp.ones(3)).updates, [-1, -1, 4])


def test_it_records_the_mean_decay_curve_of_a_batch():
    cell = ALL["elman-tanh"]
    params, state, xs = example(cell, "float32", batch=(3,), steps=4)

    def curve(params):
        def one(state, xs):
            return flow.profile(cell, params, state, xs, lambda h: h[:, 0] ** 2, lags=0, directions=0)

        norms = jax.vmap(one, in_axes=(0, 1))(state, xs).log_norms
        return jax.vmap(decay.relative_log_norms)(norms).mean(0)

    init, record = recording.recorder(curve, every=10, updates=20)
    records = jax.jit(lambda params: record(init(params), 10, params))(params)
    assert records.results.shape == (3, 4)
    assert np.isfinite(records.results[1]).all()
    np.testing.assert_array_equal(records.updates, [-1, 10, -1])
    assert params.w_hh.shape == (N, N)


class TestBadInput:
    @pytest.mark.parametrize(
        ("every", "updates", "message"),
        [
            (0, 5, "every is 0; expected an integer >= 1"),
            (2.5, 5, "every is 2.5; expected an integer"),
            (1, -1, "updates is -1; expected an integer >= 0"),
        ],
    )
    def test_numbers_out_of_range_are_refused(self, every, updates, message):
        with pytest.raises(ValueError, match=message):
            recording.recorder(measure, every=every, updates=updates)

    @pytest.mark.parametrize("update", [0.5, jnp.arange(2)])
    def test_an_update_that_is_no_integer_is_refused(self, update):
        init, record = recording.recorder(measure, every=1, updates=5)
        with pytest.raises(ValueError, match="expected one integer"):
            record(init(jnp.ones(3)), update, jnp.ones(3))
