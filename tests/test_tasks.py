"""Each task is what its paper says, restated in NumPy; its baseline is what the best constants reach on a sample."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import bptt, cells, initializers, losses, readout, tasks
from tests.cases import rounding

SAMPLE = 20_000
"""Sequences of a sample: a frequency p is known to √(p (1 − p)/SAMPLE), and no check is tighter than five of those."""

TASKS = {
    "copy-arjovsky": tasks.copy_memory(7, positions=3),
    "copy-bai": tasks.copy_memory(7, positions=3, variant="bai"),
    "memorization": tasks.memorization(7, positions=3),
    "permutation": tasks.random_permutation(12, symbols=20),
    "adding-arjovsky": tasks.adding(21),
    "adding-pascanu": tasks.adding(33, variant="pascanu"),
    "adding-hochreiter": tasks.adding(25, variant="hochreiter"),
    "multiplication": tasks.multiplication(33),
    "order": tasks.temporal_order(37),
    "order-3": tasks.temporal_order(37, bits=3),
    "delayed-copy": tasks.delayed_copy(20, 6),
    "delayed-xor": tasks.delayed_xor(20, 6),
    "add": tasks.probabilistic_add(30, lags=(6, 3)),
    "parity": tasks.parity(11),
    "flip-flop": tasks.flip_flop(16, probability=0.3),
    "teacher": tasks.chaotic_teacher(20, units=16, seed=7),
}
LEAST = {
    "copy-arjovsky": tasks.copy_memory(1, positions=1),
    "memorization": tasks.memorization(0, positions=1),
    "permutation": tasks.random_permutation(2, symbols=3),
    "adding-arjovsky": tasks.adding(2),
    "adding-pascanu": tasks.adding(10, variant="pascanu"),
    "adding-hochreiter": tasks.adding(20, variant="hochreiter"),
    "multiplication": tasks.multiplication(10),
    "order": tasks.temporal_order(10),
    "order-3": tasks.temporal_order(10, bits=3),
    "delayed-copy": tasks.delayed_copy(2, 1),
    "delayed-xor": tasks.delayed_xor(3, 1),
    "add": tasks.probabilistic_add(3, lags=(2, 1)),
    "parity": tasks.parity(1),
    "flip-flop": tasks.flip_flop(1, bits=1),
}
"""Every task at its least length."""


@cache
def sample(task, size=SAMPLE, dtype="float32"):
    """One batch of the task, as NumPy arrays."""
    drawn = jax.jit(task.sample, static_argnums=(1, 2))(jax.random.key(42), (size,), jnp.dtype(dtype))
    return jax.tree.map(np.asarray, drawn)


def tokens(xs):
    """The symbols of a one-hot sequence."""
    assert set(np.unique(xs)) <= {0, 1}
    np.testing.assert_array_equal(xs.sum(-1), 1)
    return xs.argmax(-1)


def marked(batch, positions=2):
    """Values and marks, and the positions of the marks in their order, `(positions, B)`."""
    values, marks = np.moveaxis(batch.xs, -1, 0)
    np.testing.assert_array_equal((marks == 1).sum(0), positions)
    return values, marks, (marks == 1).T.nonzero()[1].reshape(-1, positions).T


def recalls(task, batch, *, blank, marker, before):
    """The inputs and targets of a recall task; `before` is how many steps the marker comes before the first answer."""
    x, y = tokens(batch.xs), batch.targets
    size = task.length - task.lag  # T = delay + 2 S and the lag is delay + S
    said, asked = x[:size], task.lag - before
    assert not np.isin(said, (blank, marker)).any()
    np.testing.assert_array_equal(x[size:asked], blank)
    np.testing.assert_array_equal(x[asked], marker)
    np.testing.assert_array_equal(y[: task.lag], blank)
    np.testing.assert_array_equal(y[task.lag :], said)
    return x[asked + 1 :]


def copy(task, batch, *, after):
    symbols = task.input_size - 2
    np.testing.assert_array_equal(
        recalls(task, batch, blank=0, marker=symbols + 1, before=1), 0 if after == "blanks" else symbols + 1
    )


def memorization(task, batch):
    symbols = task.input_size - 2
    rest = recalls(task, batch, blank=symbols, marker=symbols + 1, before=0)
    np.testing.assert_array_equal(rest, symbols)


def permutation(task, batch):
    x = tokens(batch.xs)
    assert x[0].max() == 1
    assert x[1:].min() == 2
    np.testing.assert_array_equal(batch.targets[-1], x[0])
    assert task.lag == task.length - 1


def adding(task, batch, *, scale):
    values, marks, positions = marked(batch)
    assert set(np.unique(marks)) <= {0, 1}
    assert values.min() >= 0
    np.testing.assert_allclose(
        batch.targets[-1, :, 0], scale * (values * marks).sum(0), atol=rounding(values.dtype)
    )
    assert task.lag == task.length - 1 - positions.min()


def adding_hochreiter(task, batch):
    values, marks, positions = marked(batch)
    half = task.length // 2
    assert positions[0].max() < 10
    assert positions[1].max() < half
    np.testing.assert_array_equal(marks[1:-1] == -1, False)
    np.testing.assert_array_equal(marks[-1], -1)
    rare = positions[0] == 0
    np.testing.assert_array_equal(marks[0], np.where(rare, 1, -1))
    a, b = np.take_along_axis(values, positions, 0)
    np.testing.assert_array_equal((a == 0) | ((b == 0) & (positions[1] < 10)), rare)
    assert values.min() < -0.5
    np.testing.assert_allclose(batch.targets[-1, :, 0], 0.5 + (a + b) / 4, atol=rounding(values.dtype))
    earliest = positions[
        np.stack([a, b]) != 0
    ].min()  # a is 0 if the first pair is marked, and b may be the first
    assert task.lag == task.length - 1 - earliest


def multiplication(task, batch):
    values, _, positions = marked(batch)
    a, b = np.take_along_axis(values, positions, 0)
    np.testing.assert_allclose(batch.targets[-1, :, 0], a * b, atol=rounding(values.dtype))
    assert task.lag == task.length - 1 - positions.min()


def order(task, batch):
    x = tokens(batch.xs)
    symbols = x.T[x.T < 2].reshape(x.shape[1], -1)  # of each sequence, in their order
    np.testing.assert_array_equal(batch.targets[-1], symbols @ 2 ** np.arange(symbols.shape[1]))
    assert task.lag == task.length - 1 - (x < 2).argmax(0).min()


def delayed(task, batch, *, lags):
    x = batch.xs[..., 0]
    assert set(np.unique(x)) == {0, 1}
    bits = x.astype(int)
    for t in range(max(lags), task.length):
        expected = np.bitwise_xor.reduce([bits[t - lag] for lag in lags])
        np.testing.assert_array_equal(batch.targets[t, :, 0], expected)
    assert task.lag == max(lags)


def add(task, batch, *, lags):
    x = batch.xs[..., 0]
    assert set(np.unique(x)) == {0, 1}
    t = np.arange(max(lags), task.length)
    p = 1 / 2 + x[t - lags[0]] / 2 - x[t - lags[1]] / 4
    y = batch.targets[t]
    for probability in (1 / 4, 1 / 2, 3 / 4, 1):
        assert_frequency((y[p == probability] == 1).mean(), probability, (p == probability).sum())
    assert task.lag == max(lags)


def parity(task, batch):
    x = batch.xs[..., 0]
    assert set(np.unique(x)) == {-1, 1}
    np.testing.assert_array_equal(batch.targets[-1], (x == 1).sum(0) % 2)
    assert task.lag == task.length - 1


def flip_flop(task, batch):
    assert set(np.unique(batch.xs)) <= {-1, 0, 1}
    held = np.zeros_like(batch.xs[0])
    for x, y in zip(batch.xs, batch.targets, strict=True):
        held[x != 0] = x[x != 0]
        np.testing.assert_array_equal(y, held)
    assert np.abs(batch.targets).min() == 1
    assert task.lag == task.length - 1


def teacher(task, batch):
    """In float64; a label is not compared where u·h is so small that rounding, grown by chaos, can turn its sign."""
    x = batch.xs[..., 0]
    assert set(np.unique(x)) == {-1, 1}
    x, labels = x[:, :2000], batch.targets[:, :2000]
    cell, u = network(units=16, gain=3.0, drive=0.5, seed=7, dtype=batch.xs.dtype)
    h = np.zeros((x.shape[1], 16))
    amplified = 1e6 * np.finfo(batch.xs.dtype).eps
    compared = 0
    for x_t, y_t in zip(x, labels, strict=True):
        h = np.tanh(h @ cell.w_hh.T + x_t[:, None] * cell.w_xh[:, 0])
        said = h @ u
        clear = np.abs(said) > amplified
        np.testing.assert_array_equal(y_t[clear], said[clear] > 0)
        compared += clear.mean() / len(x)
    assert compared > 0.8
    assert task.lag == task.length - 1


def network(*, units, gain, drive, seed, dtype="float32"):
    """The teacher that the docstring of `chaotic_teacher` describes, as float64 NumPy arrays."""
    key_cell, key_out = jax.random.split(jax.random.key(seed))
    recurrent, kernel = initializers.gaussian(gain), initializers.gaussian(drive)
    params = cells.elman().init(key_cell, 1, units, recurrent=recurrent, kernel=kernel, dtype=dtype)
    out = readout.init(key_out, units, 1, dtype=dtype)
    assert not params.b_h.any()
    assert not out.b_y.any()
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params), np.asarray(
        out.w_hy[0], np.float64
    )


DEFINITIONS = {
    "copy-arjovsky": partial(copy, after="blanks"),
    "copy-bai": partial(copy, after="markers"),
    "memorization": memorization,
    "permutation": permutation,
    "adding-arjovsky": partial(adding, scale=1),
    "adding-pascanu": partial(adding, scale=1 / 2),
    "adding-hochreiter": adding_hochreiter,
    "multiplication": multiplication,
    "order": order,
    "order-3": order,
    "delayed-copy": partial(delayed, lags=(6,)),
    "delayed-xor": partial(delayed, lags=(6, 12)),
    "add": partial(add, lags=(6, 3)),
    "parity": parity,
    "flip-flop": flip_flop,
    "teacher": teacher,
}
AT_LEAST = DEFINITIONS | {
    "delayed-copy": partial(delayed, lags=(1,)),
    "delayed-xor": partial(delayed, lags=(1, 2)),
    "add": partial(add, lags=(2, 1)),
}


def assert_frequency(observed, expected, trials):
    """Within five standard errors; exactly, where the expected frequency is 0 or 1."""
    error = 5 * np.sqrt(expected * (1 - expected) / trials)
    assert (np.abs(observed - expected) <= error + 1e-12).all(), (observed, expected)


@pytest.mark.parametrize("name", TASKS)
def test_a_batch_is_what_the_paper_says(name):
    DEFINITIONS[name](TASKS[name], sample(TASKS[name]))


@pytest.mark.parametrize("name", ["adding-hochreiter", "multiplication", "flip-flop", "teacher"])
def test_a_batch_is_what_the_paper_says_in_float64(name, float64):
    batch = sample(TASKS[name], 1000, "float64")
    assert batch.xs.dtype == float64
    DEFINITIONS[name](TASKS[name], batch)


@pytest.mark.parametrize("name", LEAST)
def test_a_task_is_right_at_its_least_length(name):
    AT_LEAST[name](LEAST[name], sample(LEAST[name], 1000))


@pytest.mark.parametrize("name", TASKS)
def test_scored_steps_are_those_whose_targets_have_their_inputs(name):
    task, batch = TASKS[name], sample(TASKS[name])
    first = {"delayed-copy": 6, "delayed-xor": 12, "add": 6}.get(name, 0)
    if name.split("-")[0] in ("permutation", "adding", "multiplication", "order", "parity"):
        first = task.length - 1
    expected = np.arange(task.length) >= first
    np.testing.assert_array_equal(batch.weights, np.broadcast_to(expected[:, None], batch.weights.shape))
    assert not batch.targets[~expected].any()


MARKS = {
    "adding-arjovsky": [(0, 10), (10, 21)],
    "adding-pascanu": [(0, 3), (3, 16)],
    "multiplication": [(0, 3), (3, 16)],
    "order": [(3, 6), (18, 21)],
    "order-3": [(3, 6), (11, 14), (22, 25)],
}


@pytest.mark.parametrize("name", [*MARKS, "adding-hochreiter"])
def test_marks_cover_their_intervals_uniformly_and_nothing_else(name):
    task, batch = TASKS[name], sample(TASKS[name])
    expected = np.zeros(task.length)
    if name == "adding-hochreiter":  # p in the first ten; q, when it is one of them, is not p
        expected[:12] = 1 / 11
        expected[:10] = 1 / 10 + 9 / 10 / 11
    for start, stop in MARKS.get(name, []):
        expected[start:stop] = 1 / (stop - start)
    marks = tokens(batch.xs) < 2 if name.startswith("order") else batch.xs[..., 1] == 1
    assert_frequency(marks.mean(1), expected, SAMPLE)


@pytest.mark.parametrize(
    ("name", "symbols"),
    [
        ("copy-arjovsky", lambda batch: (tokens(batch.xs)[:3], range(1, 9))),
        ("memorization", lambda batch: (tokens(batch.xs)[:3], range(5))),
        ("permutation", lambda batch: (tokens(batch.xs)[1:], range(2, 20))),
        ("permutation", lambda batch: (tokens(batch.xs)[:1], range(2))),
        ("order-3", lambda batch: (tokens(batch.xs)[:3], range(2, 6))),
        ("order-3", lambda batch: (batch.targets[-1:], range(8))),
        ("delayed-xor", lambda batch: (batch.xs[..., 0], range(2))),
        ("parity", lambda batch: (batch.xs[..., 0], (-1, 1))),
        ("flip-flop", lambda batch: (batch.targets[..., 2], (-1, 1))),
        ("teacher", lambda batch: (batch.xs[..., 0], (-1, 1))),
    ],
)
def test_symbols_are_uniform_at_each_step(name, symbols):
    drawn, alphabet = symbols(sample(TASKS[name]))
    for symbol in alphabet:
        assert_frequency((drawn == symbol).mean(1), 1 / len(alphabet), SAMPLE)


def test_values_are_uniform_and_pulses_as_frequent_as_said():
    assert_frequency((sample(TASKS["adding-arjovsky"]).xs[..., 0] < 0.25).mean(1), 1 / 4, SAMPLE)
    assert_frequency((sample(TASKS["adding-hochreiter"]).xs[1:, :, 0] < -0.5).mean(1), 1 / 4, SAMPLE)
    pulses = np.abs(sample(TASKS["flip-flop"]).xs).mean(1)
    assert_frequency(pulses[1:], 0.3, SAMPLE)
    np.testing.assert_array_equal(pulses[0], 1)


def per_sequence(task, batch, prediction):
    """The mean loss of the scored steps, `(B,)`, of values or of probabilities `(T, 1 or B, K)`."""
    if task.loss is losses.SQUARED_ERROR:
        per_step = ((batch.targets - prediction) ** 2).sum(-1) / 2
    else:
        p = np.broadcast_to(prediction, (*batch.targets.shape, task.output_size))
        per_step = -np.log(np.take_along_axis(p, batch.targets[..., None], -1)[..., 0])
    return (per_step * batch.weights).sum(0) / batch.weights[:, 0].sum()


def best_constants(task, batch):
    """The best constant of each step on this sample: the mean, or the frequencies of the labels, `(T, 1, K)`."""
    if task.loss is losses.SQUARED_ERROR:
        return batch.targets.mean(1, keepdims=True, dtype=np.float64)
    return np.stack([(batch.targets == label).mean(1) for label in range(task.output_size)], -1)[:, None]


def assert_expected(loss, expected, free=0):
    """The mean over the sample is the expectation, up to five standard errors, and what `free` fitted numbers gain."""
    assert abs(loss.mean() - expected) <= 5 * loss.std() / np.sqrt(len(loss)) + 5 * free / len(loss)


@pytest.mark.parametrize("name", TASKS)
def test_the_best_constants_cost_the_baseline(name):
    task, batch = TASKS[name], sample(TASKS[name])
    loss = per_sequence(task, batch, best_constants(task, batch))
    assert_expected(loss, task.baseline, free=task.output_size)
    assert task.floor < task.baseline
    with pytest.raises(AssertionError):  # the sample would show a baseline that is a tenth too high
        assert_expected(loss, 1.1 * task.baseline, free=task.output_size)


@pytest.mark.parametrize(
    ("task", "published"),
    [
        (tasks.copy_memory(500), 10 * np.log(8) / 520),  # Arjovsky et al. 2016, section 5.1
        (tasks.temporal_order(100), np.log(4)),
        (tasks.temporal_order(100, bits=3), np.log(8)),
        (tasks.random_permutation(100), np.log(2)),
    ],
)
def test_cross_entropies_of_chance_are_the_published_ones(task, published):
    assert abs(task.baseline - published) < 1e-15


@pytest.mark.parametrize(
    ("task", "published"),
    [
        (tasks.adding(100), 1 / 6),
        (tasks.adding(100, variant="pascanu"), 1 / 24),
        (tasks.adding(100, variant="hochreiter"), (2 - 0.1 - 0.9 / 49) / 48),
        (tasks.multiplication(100), 7 / 144),
    ],
)
def test_mean_squared_errors_of_chance_are_twice_the_baseline(task, published):
    assert abs(2 * task.baseline - published) < 1e-15


@pytest.mark.parametrize("name", ["copy-arjovsky", "flip-flop"])
def test_the_baseline_is_in_the_units_of_the_masked_mean(name):
    task, batch = TASKS[name], sample(TASKS[name])
    constants = best_constants(task, batch)
    if task.loss is losses.CROSS_ENTROPY:
        constants = np.log(np.maximum(constants, 1e-30))
    outputs = jnp.asarray(np.broadcast_to(constants, (*batch.weights.shape, task.output_size)), "float32")
    per_step = task.loss.per_step(outputs, jnp.asarray(batch.targets))
    assert abs(losses.mean(per_step, jnp.asarray(batch.weights)) - task.baseline) < 0.02 * task.baseline


def test_the_entropy_floors_are_those_of_the_exact_predictors():
    task, batch = TASKS["add"], sample(TASKS["add"])
    first, second = (
        np.concatenate([np.zeros_like(batch.xs[:lag, :, 0]), batch.xs[:-lag, :, 0]]) for lag in (6, 3)
    )
    exact = {
        "neither": np.full_like(first, 5 / 8),
        "first": 3 / 8 + first / 2,
        "both": 1 / 2 + first / 2 - second / 4,
    }
    for known, p in exact.items():
        probabilities = np.maximum(np.stack([1 - p, p], -1), 1e-30)
        assert_expected(per_sequence(task, batch, probabilities), getattr(tasks.ADD_FLOORS, known))
    assert (task.baseline, task.floor) == (tasks.ADD_FLOORS.neither, tasks.ADD_FLOORS.both)


def test_a_flip_flop_without_memory_passes_the_pulses_on():
    task, batch = TASKS["flip-flop"], sample(TASKS["flip-flop"])
    assert_expected(per_sequence(task, batch, batch.xs), 3 / 2 * 0.7 * 15 / 16)


def test_no_input_alone_tells_of_a_delayed_exclusive_or():
    batch = sample(TASKS["delayed-xor"])
    for x in batch.xs:
        assert abs(np.corrcoef(x[:, 0], batch.targets[-1, :, 0])[0, 1]) < 5 / np.sqrt(SAMPLE)


def exponent_of_the_theory(gain, drive):
    """λ of the docstring of `chaotic_teacher`; the expectations are sums over a grid, exact to rounding."""
    z = np.linspace(-9, 9, 2001)
    weights = np.exp(-(z**2) / 2) / np.exp(-(z**2) / 2).sum()
    q = 1.0
    for _ in range(1000):
        q = gain**2 * weights @ np.tanh(np.sqrt(q) * z) ** 2 + drive**2
    return np.log(gain**2 * weights @ np.cosh(np.sqrt(q) * z) ** -4) / 2


def exponent_measured(gain, drive, units=256, steps=600):
    """The mean rate at which a tangent grows along a trajectory of a teacher."""
    cell, _ = network(units=units, gain=gain, drive=drive, seed=0)
    rng = np.random.default_rng(0)
    h, tangent, rates = np.zeros(units), rng.normal(size=units), []
    for x in rng.choice([-1.0, 1.0], steps):
        h = np.tanh(cell.w_hh @ h + cell.w_xh[:, 0] * x)
        tangent = (1 - h**2) * (cell.w_hh @ tangent)
        rates.append(np.log(np.linalg.norm(tangent)))
        tangent /= np.linalg.norm(tangent)
    return np.mean(rates[steps // 6 :])


def test_the_teacher_is_chaotic_at_the_rate_of_the_theory():
    assert round(exponent_of_the_theory(3.0, 0.5), 2) == 0.30
    for gain, drive in [(3.0, 0.5), (1.0, 0.5)]:
        expected = exponent_of_the_theory(gain, drive)
        # The theory is that of infinitely many units: at gain 3 it is .055, .024, .013 above N = 64, 128, 256.
        assert abs(exponent_measured(gain, drive) - expected) < 0.05
    assert exponent_of_the_theory(1.0, 0.5) < 0


@pytest.mark.parametrize("name", TASKS)
def test_shapes_and_dtypes_follow_the_batch_axes(name, dtype):
    task = TASKS[name]
    for batch_shape in [(), (3,), (2, 3), (0,)]:
        xs, targets, weights = jax.eval_shape(
            lambda key, shape=batch_shape: task.sample(key, shape), jax.random.key(0)
        )
        steps = (task.length, *batch_shape)
        assert (xs.shape, xs.dtype) == ((*steps, task.input_size), dtype)
        assert (weights.shape, weights.dtype) == (steps, bool)
        if task.loss is losses.CROSS_ENTROPY:
            assert (targets.shape, targets.dtype) == (steps, jnp.zeros((), int).dtype)
        else:
            assert (targets.shape, targets.dtype) == ((*steps, task.output_size), dtype)


def test_a_sample_is_a_function_of_the_key_alone():
    task = tasks.copy_memory(5)
    draw = jax.jit(task.sample, static_argnums=1)
    one, again, eager = (
        draw(jax.random.key(0), (4,)),
        draw(jax.random.key(0), (4,)),
        task.sample(jax.random.key(0), (4,)),
    )
    jax.tree.map(np.testing.assert_array_equal, one, again)
    jax.tree.map(np.testing.assert_array_equal, one, eager)
    assert (draw(jax.random.key(1), (4,)).xs != one.xs).any()


def test_equal_settings_are_one_task_which_is_not_traced_again():
    assert tasks.adding(50).sample is tasks.adding(np.int64(50), variant="arjovsky").sample
    assert tasks.adding(50) == tasks.adding(50)
    assert tasks.adding(50).sample is not tasks.adding(51).sample
    assert tasks.adding(50).sample is not tasks.adding(50, variant="pascanu").sample


@pytest.mark.parametrize("name", ["copy-arjovsky", "flip-flop"])
def test_a_batch_goes_into_the_hand_written_gradient_as_it_is(name):
    task, batch = (
        TASKS[name],
        jax.tree.map(jnp.asarray, jax.tree.map(lambda a: a[:, :5], sample(TASKS[name]))),
    )
    cell = cells.elman()
    params = cell.init(jax.random.key(0), task.input_size, 8)
    out = readout.init(jax.random.key(1), 8, task.output_size)
    out = jax.tree.map(jnp.zeros_like, out)
    gradients = jax.jit(partial(bptt.loss_gradients, cell, loss=task.loss))(
        params, out, cell.initial_state(params, (5,)), batch.xs, batch.targets, weights=batch.weights
    )
    silent = np.log(task.output_size) if task.loss is losses.CROSS_ENTROPY else task.baseline
    np.testing.assert_allclose(gradients.loss / batch.weights.sum(), silent, rtol=1e-5)


def answers(task, batch):
    """Outputs that are right."""
    if task.loss is losses.CROSS_ENTROPY:
        return np.eye(task.output_size, dtype=np.float32)[batch.targets]
    return batch.targets


@pytest.mark.parametrize("name", ["memorization", "adding-hochreiter", "order", "flip-flop"])
def test_right_answers_are_not_wrong_and_one_wrong_step_is_enough(name):
    task, batch = TASKS[name], jax.tree.map(lambda a: a[:, :4], sample(TASKS[name]))
    outputs = answers(task, batch).copy()
    assert not tasks.wrong(task, jnp.asarray(outputs), batch).any()
    outputs[-1, 1] = np.where(outputs[-1, 1] == outputs[-1, 1].max(), np.nan, outputs[-1, 1])
    outputs[-1, 2] = (
        np.roll(outputs[-1, 2], 1) if task.tolerance is None else outputs[-1, 2] + 2 * task.tolerance
    )
    np.testing.assert_array_equal(tasks.wrong(task, jnp.asarray(outputs), batch), [False, True, True, False])


def test_chance_has_the_published_error_rate_in_temporal_order():
    for name, rate in (("order", 3 / 4), ("order-3", 7 / 8)):
        task, batch = TASKS[name], jax.tree.map(lambda a: a[:, :2000], sample(TASKS[name]))
        constant = np.broadcast_to(np.eye(task.output_size)[1], (*batch.weights.shape, task.output_size))
        assert_frequency(tasks.wrong(task, jnp.asarray(constant), batch).mean(), rate, 2000)


def test_the_constant_between_two_values_is_wrong():
    for name, between in (("flip-flop", 0.0), ("delayed-copy", 0.5), ("delayed-xor", 0.5)):
        batch = jax.tree.map(lambda a: a[:, :2], sample(TASKS[name]))
        assert tasks.wrong(TASKS[name], jnp.full(batch.targets.shape, between), batch).all()


@pytest.mark.parametrize(("name", "tolerance"), [("adding-pascanu", 0.2), ("adding-hochreiter", 0.04)])
def test_a_sum_is_right_up_to_the_published_error(name, tolerance):
    task, batch = TASKS[name], jax.tree.map(lambda a: a[:, :1], sample(TASKS[name]))
    for error, is_wrong in ((0.99, False), (-0.99, False), (1.01, True), (-1.01, True)):
        outputs = jnp.asarray(batch.targets + np.float32(error * tolerance))
        assert tasks.wrong(task, outputs, batch) == is_wrong


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tasks.copy_memory(0), "delay is 0; expected an integer >= 1"),
        (lambda: tasks.copy_memory(5, symbols=1), "symbols is 1; expected an integer >= 2"),
        (lambda: tasks.copy_memory(5, positions=0), "positions is 0"),
        (lambda: tasks.copy_memory(5, variant="tcn"), "variant is 'tcn'; expected one of 'arjovsky', 'bai'"),
        (lambda: tasks.memorization(-1), "delay is -1; expected an integer >= 0"),
        (lambda: tasks.random_permutation(1), "length is 1; expected an integer >= 2"),
        (lambda: tasks.adding(1), "length is 1; expected at least 2 for 'arjovsky'"),
        (lambda: tasks.adding(9, variant="pascanu"), "length is 9; expected at least 10 for 'pascanu'"),
        (lambda: tasks.adding(19, variant="hochreiter"), "length is 19; expected at least 20"),
        (lambda: tasks.adding(50, variant="le"), "variant is 'le'; expected one of 'arjovsky'"),
        (lambda: tasks.adding(50.0), "length is 50.0; expected an integer"),
        (lambda: tasks.multiplication(9), "length is 9; expected at least 10 for multiplication"),
        (lambda: tasks.temporal_order(9), "length is 9; expected at least 10 for temporal_order"),
        (lambda: tasks.temporal_order(20, bits=4), "bits is 4; expected one of 2, 3"),
        (lambda: tasks.delayed_copy(6, 6), "length is 6; expected at least 7"),
        (lambda: tasks.delayed_xor(12, 6), "length is 12; expected at least 13"),
        (lambda: tasks.delayed_xor(12, 0), "delay is 0"),
        (lambda: tasks.probabilistic_add(8), "length is 8; expected at least 9"),
        (lambda: tasks.probabilistic_add(20, lags=(3, 3)), "two different ones"),
        (lambda: tasks.probabilistic_add(20, lags=3), "lags is 3; expected two of them"),
        (lambda: tasks.probabilistic_add(20, lags=(3, 0)), r"lags\[1\] is 0"),
        (lambda: tasks.parity(0), "length is 0"),
        (lambda: tasks.flip_flop(5, probability=0), r"probability is 0; expected one in \(0, 1\)"),
        (lambda: tasks.flip_flop(5, probability=1), r"probability is 1; expected one in \(0, 1\)"),
        (lambda: tasks.flip_flop(5, bits=0), "bits is 0"),
        (lambda: tasks.chaotic_teacher(5, gain=-1.0), "gain is -1.0; expected a finite number > 0"),
        (lambda: tasks.chaotic_teacher(5, drive=float("nan")), "drive is nan"),
        (
            lambda: tasks.parity(5).sample(jax.random.key(0), 32),
            r"batch_shape is 32; expected a tuple of sizes",
        ),
        (lambda: tasks.parity(5).sample(jax.random.key(0), (-1,)), r"batch_shape is \(-1,\)"),
        (lambda: tasks.parity(5).sample(jax.random.key(0), (), int), "dtype is int"),
        (
            lambda: tasks.wrong(tasks.parity(5), jnp.zeros((5, 3)), sample(tasks.parity(5), 3)),
            r"outputs has shape \(5, 3\); expected \(T, \*B, K\) = \(5, 3, 2\)",
        ),
    ],
)
def test_wrong_arguments_name_the_remedy(call, message):
    with pytest.raises(ValueError, match=message):
        call()
