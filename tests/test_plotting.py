"""What is drawn is what was measured; zeros, gaps and what is not resolved are seen; bad input is refused.

Figures are made without pyplot, as the functions are; each is rendered too, since warnings are errors here.
"""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import rcParams
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from rnn_jax import decay, drawing, plotting, spectrum
from rnn_jax.recording import Records
from rnn_jax.spectrum import SingularValues

LAGS = np.arange(40.0)
CURVE = -0.3 * LAGS
LN10 = np.log(10)

fit_rate = jax.jit(decay.fit_rate, static_argnums=(1, 2))


@pytest.fixture
def axis():
    """An axis, rendered once more after the test; nothing of it reaches the settings."""
    before = dict(rcParams)
    axis = Figure(dpi=50).add_subplot()
    yield axis
    if axis.has_data():
        render(axis)
    assert dict(rcParams) == before


def render(axis):
    FigureCanvasAgg(axis.figure).draw()


def legend(axis):
    return [text.get_text() for text in axis.get_legend().get_texts()]


def labelled(axis, label):
    """The one line whose name in the legend begins so."""
    (line,) = [line for line in axis.lines if str(line.get_label()).startswith(label)]
    return line


def triangle(steps=12, rate=0.5):
    t, k = np.arange(1, steps + 1)[:, None], np.arange(steps + 1)
    return np.where(k <= t, -rate * (t - k), -np.inf)


def singular_values(resolved=True):
    values = -np.arange(20)[:, None] * np.linspace(0.1, 3, 5)
    return SingularValues(values, np.full(values.shape, resolved), np.zeros(values.shape))


def exponents(lost=0):
    """Four exponents of ten blocks, the smallest of them lost."""
    k, known = 4, np.arange(4) < 4 - lost
    values = np.array([0.1, -0.3, -1.0, -2.5])
    return spectrum.Lyapunov(
        values=np.where(known, values, -np.inf),
        standard_errors=np.where(known, [0.02, 0.03, 0.05, 0.2], np.inf),
        resolved=known,
        upper_bounds=values,
        rounding=np.where(known, 1e-7, np.inf),
        finite_time=np.zeros((10, k)),
        history=np.zeros((10, k)),
        block_steps=np.full(10, 100),
        last=spectrum.Continuation(state=np.zeros(8), frame=np.eye(8, k)),
    )


def training(rates=(-1.0, -0.5, -0.1)):
    curves = np.array(rates)[:, None] * LAGS
    return Records(100 * np.arange(len(rates)), curves)


def test_importing_the_module_does_not_import_matplotlib():
    code = "import sys, rnn_jax.plotting; print('matplotlib' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_lines_are_told_apart_by_colour_line_and_marker_and_by_lightness():
    def lightness(line):
        return np.dot(to_rgb(line["color"]), (0.2126, 0.7152, 0.0722))

    assert len({line["color"] for line in plotting.LINES}) == len(plotting.LINES)
    assert len({line["marker"] for line in plotting.LINES}) == len(plotting.LINES)
    assert all(lightness(line) < 0.7 for line in plotting.LINES)  # seen on white
    styles = [line["linestyle"] for line in plotting.LINES]
    alike = [(a, b) for a in range(6) for b in range(a) if styles[a] == styles[b]]
    assert all(abs(lightness(plotting.LINES[a]) - lightness(plotting.LINES[b])) > 0.3 for a, b in alike)


def test_natural_logarithms_are_drawn_as_powers_of_ten_however_small(axis):
    assert plotting.norms_against_lag(axis, 100 * jnp.asarray(CURVE), label="a") is axis
    np.testing.assert_allclose(labelled(axis, "a").get_ydata(), 100 * CURVE / LN10, rtol=1e-6)
    assert axis.get_ylim()[0] < -500  # no float holds 10^-508
    assert axis.yaxis.get_major_formatter()(-500.0, 0) == "$10^{-500}$"
    assert all(tick == round(tick) for tick in axis.get_yticks())


def test_a_range_within_one_power_of_ten_has_ticks_that_are_no_powers(axis):
    plotting.norms_against_lag(axis, -0.02 * LAGS, label="GRU")
    render(axis)
    texts = [text.get_text() for text in axis.get_yticklabels()]
    assert len(set(texts)) == len(texts) > 2
    assert drawing.power_of_ten(-0.5) == "0.32"
    assert drawing.power_of_ten(-4.5) == r"$3.2\cdot 10^{-5}$"


def test_curves_on_one_axis_keep_their_looks_and_share_what_explains_them(axis):
    for name, line in zip(("Elman", "GRU", "LSTM"), plotting.LINES, strict=False):
        plotting.norms_against_lag(axis, CURVE, label=name, line=line, bound=0 * CURVE, floor=1e-3)
        drawn = labelled(axis, name)
        assert (drawn.get_color(), drawn.get_marker()) == (line["color"], line["marker"])
    assert [text.split(",")[0] for text in legend(axis)] == [
        "Elman",
        "GRU",
        "LSTM",
        "upper bound",
        "horizon: first below 0.001 of lag 0",
    ]
    marks = [tuple(line.get_markevery()) for line in axis.lines if line.get_gid() == "curve"]
    assert len(set(marks)) == 3  # equal curves do not hide each other's markers


def test_a_longer_curve_drawn_later_is_not_cut_off(axis):
    plotting.norms_against_lag(axis, CURVE, label="short")
    plotting.norms_against_lag(axis, -0.1 * np.arange(90), label="long")
    assert axis.get_xlim()[0] == 0
    assert axis.get_xlim()[1] > 89


def test_a_bound_that_grows_does_not_flatten_the_curves(axis):
    plotting.norms_against_lag(axis, CURVE, label="Elman", bound=5 * LAGS)
    assert axis.get_ylim()[1] < 1
    bound = axis.lines[1]
    np.testing.assert_allclose(bound.get_ydata(), 5 * LAGS / LN10)
    assert bound.get_color() == labelled(axis, "Elman").get_color()


def test_the_fit_runs_over_its_window_at_its_rate_and_the_legend_says_it(axis):
    curve = CURVE + 0.1 * np.random.default_rng(0).normal(size=CURVE.size)
    fit = fit_rate(curve, 10, 30)
    plotting.norms_against_lag(axis, curve, label="GRU", fit=fit, window=(10, 30))
    drawn = axis.lines[1]
    np.testing.assert_array_equal(drawn.get_xdata(), [10, 30])
    slope = np.diff(drawn.get_ydata())[0] / 20 * LN10
    assert abs(slope - float(fit.rate)) < 1e-6
    np.testing.assert_allclose(
        drawn.get_ydata()[1], curve[30] / LN10, rtol=1e-5
    )  # the rate is that of the ends
    digits = [f"{float(x):.2f}".replace("-", "−") for x in fit[:3]]
    assert legend(axis)[0] == "GRU: {} [{}, {}] nats per step".format(*digits)


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        ((-0.312, -0.331, -0.293), "−0.31 [−0.33, −0.29]"),
        ((2.0, 2.0, 2.0), "2"),
        ((-np.inf, -np.inf, np.inf), "−∞"),
        ((12.3, -30.0, 50.0), "12 [−30, 50]"),
    ],
)
def test_a_rate_is_written_as_exactly_as_it_is_known(interval, text):
    assert drawing.interval(*interval) == text


def test_the_horizon_is_ringed_and_named_and_its_absence_is_said(axis):
    plotting.norms_against_lag(axis, CURVE, label="Elman", floor=1e-3)
    plotting.norms_against_lag(axis, 0.01 * CURVE, label="LSTM", floor=1e-3)
    assert legend(axis)[:2] == ["Elman, horizon 24", "LSTM, no horizon up to 39"]  # e^(−0.3·24) < 1/1000
    (ring,) = [line for line in axis.lines if line.get_markersize() == 11 and len(line.get_xdata())]
    assert ring.get_xdata()[0] == 24


def test_exact_zeros_are_marked_at_the_lower_edge_a_row_a_curve(axis):
    dead = np.where(LAGS < 20, -0.01 * LAGS, -np.inf)
    never = np.where(LAGS < 1, 0.0, -np.inf)
    plotting.norms_against_lag(axis, dead, label="ReLU")
    plotting.norms_against_lag(axis, never, label="no recurrence", line=plotting.LINES[5])
    assert np.isnan(labelled(axis, "ReLU").get_ydata()[20:]).all()  # not drawn as if it went on
    rows = [line for line in axis.lines if line.get_gid() == "lower edge"]
    assert [np.isfinite(row.get_ydata()).sum() for row in rows] == [20, 39]
    assert np.nanmax(rows[0].get_ydata()) < np.nanmin(rows[1].get_ydata())
    assert legend(axis)[-1] == "exactly 0 (lower edge)"
    assert 0 in labelled(axis, "no recurrence").get_markevery()  # one point, seen by its marker
    low, high = axis.get_ylim()  # what is drawn stays clear of the rows
    assert (np.nanmin(labelled(axis, "ReLU").get_ydata()) - low) / (high - low) > np.nanmax(
        rows[1].get_ydata()
    )
    assert [tuple(note.xy) for note in axis.texts] == [(20, 0), (1, 0)]


def test_lags_may_be_those_of_a_stream(axis):
    plotting.norms_against_lag(axis, -0.1 * np.arange(0, 100, 10.0), label="s", lags=np.arange(0, 100, 10))
    np.testing.assert_array_equal(labelled(axis, "s").get_xdata(), np.arange(0, 100, 10))


def test_labels_that_are_there_are_kept(axis):
    axis.set_ylabel("mine")
    plotting.norms_against_lag(axis, CURVE, label="a")
    assert axis.get_ylabel() == "mine"
    assert axis.get_xlabel() == "lag $n$, in steps"


def test_the_map_has_entry_t_k_at_x_k_and_y_t_and_nothing_above_the_diagonal(axis):
    log_norms = triangle()
    plotting.norms_by_time(axis, jnp.asarray(log_norms))
    (mesh,) = [c for c in axis.collections if not isinstance(c, PolyCollection)]
    drawn = mesh.get_array()
    later = np.arange(13) > np.arange(1, 13)[:, None]
    np.testing.assert_array_equal(np.ma.getmaskarray(drawn), later)
    np.testing.assert_allclose(drawn[~later], log_norms[~later] / LN10, rtol=1e-6)
    corners = mesh.get_coordinates()
    np.testing.assert_array_equal(corners[4, 7], [6.5, 4.5])  # the corner of (k, t) = (7, 5)
    assert axis.get_ylim() == (12.5, 0.5)  # time runs down
    assert legend(axis) == ["none: the state is later, $k > t$"]
    assert not [c for c in axis.collections if isinstance(c, PolyCollection) and c is not mesh]


def test_zeros_of_the_map_are_hatched_and_blanks_are_not(axis):
    log_norms = triangle()
    log_norms[6:, :3] = -np.inf
    plotting.norms_by_time(axis, log_norms)
    (hatched,) = [c for c in axis.collections if isinstance(c, PolyCollection)]
    assert hatched.get_hatch()
    boxes = [path.get_extents().bounds for path in hatched.get_paths()]
    assert boxes == [(-0.5, t - 0.5, 3.0, 1.0) for t in range(7, 13)]
    assert legend(axis)[0] == "exactly 0"


def test_colours_of_a_map_end_at_powers_of_ten_sixteen_at_most(axis):
    plotting.norms_by_time(axis, triangle())
    mesh = axis.collections[0]
    assert (mesh.norm.vmin, mesh.norm.vmax) == (-3, 0)  # e^(−6) is 10^(−2.6)
    assert mesh.colorbar.extend == "neither"
    assert mesh.get_cmap().name == "cividis"
    assert r"\partial L_t" in mesh.colorbar.ax.get_ylabel()
    mesh.colorbar.remove()
    axis.clear()
    plotting.norms_by_time(axis, triangle(rate=9.0))
    assert (axis.collections[0].norm.vmin, axis.collections[0].norm.vmax) == (-16, 0)
    assert axis.collections[0].colorbar.extend == "min"  # and what is below is said to be


def test_maps_share_their_colours_if_asked(axis):
    plotting.norms_by_time(axis, triangle(), decades=(-2, -1))
    mesh = axis.collections[0]
    assert (mesh.norm.vmin, mesh.norm.vmax, mesh.colorbar.extend) == (-2, -1, "both")


@pytest.mark.parametrize("log_norms", [np.full((3, 4), -np.inf), triangle(1), triangle(4, rate=0)])
def test_a_map_of_nothing_but_zeros_or_of_one_value_is_drawn(log_norms, axis):
    plotting.norms_by_time(axis, log_norms)


def test_the_fan_holds_every_singular_value_and_draws_out_edges_and_middle(axis):
    result = singular_values()
    plotting.singular_values_against_lag(axis, result)
    assert legend(axis) == [
        r"$\sigma_{1}$, largest",
        r"$\sigma_{3}$",
        r"$\sigma_{5}$, smallest",
        "the others",
        r"$\sigma = 1$",
    ]
    drawn = [tuple(line.get_ydata()) for line in axis.lines if len(line.get_xdata()) == 20]
    assert sorted(drawn) == sorted(tuple(column) for column in result.values.T / LN10)


def test_what_is_not_resolved_in_the_fan_is_crossed_or_left_out_and_counted(axis):
    result = singular_values()
    result.resolved[10:, 4] = False
    result.values[15:, 4] = -np.inf
    plotting.singular_values_against_lag(axis, result, lags=np.arange(0, 40, 2))
    smallest = labelled(axis, r"$\sigma_{5}$").get_ydata()
    assert np.isnan(smallest[10:]).all()
    assert np.isfinite(smallest[:10]).all()
    (crosses,) = [line for line in axis.lines if line.get_marker() == "x" and len(line.get_xdata())]
    np.testing.assert_array_equal(crosses.get_xdata(), np.arange(20, 30, 2))
    assert r"$\sigma_{5}$, smallest (10 of 20 lags)" in legend(axis)
    assert "10 of 100 not resolved,\n5 of them not drawn" in legend(axis)


def test_a_fan_of_one_singular_value_is_drawn(axis):
    values = np.zeros((3, 1))
    plotting.singular_values_against_lag(axis, SingularValues(values, values == 0, values))
    assert legend(axis) == [r"$\sigma_{1}$", r"$\sigma = 1$"]


def test_exponents_have_bars_of_their_errors_over_the_band_of_theory(axis):
    theory, deviations = np.linspace(0, -1, 4), np.full(4, 0.1)
    plotting.lyapunov_spectrum(axis, exponents(), label="random", theory=theory, theory_deviations=deviations)
    (container,) = axis.containers
    points, _, (bars,) = container
    np.testing.assert_allclose(points.get_ydata(), exponents().values)
    lengths = [segment[1, 1] - segment[0, 1] for segment in bars.get_segments()]
    np.testing.assert_allclose(lengths, 2 * 1.96 * exponents().standard_errors, rtol=1e-4)
    np.testing.assert_allclose(labelled(axis, "theory").get_ydata(), theory)
    band = axis.collections[0].get_paths()[0].vertices
    assert np.isclose(band[:, 1].max(), 0.196)
    assert sorted(legend(axis)) == ["random, ±1.96 std. errors", "theory", "theory, 95 % of runs"]
    assert "nats per step" in axis.get_ylabel()


def test_an_exponent_of_minus_infinity_hangs_from_its_bound(axis):
    plotting.lyapunov_spectrum(axis, exponents(lost=1), label="rank 3", relative=True)
    arrow = labelled(axis, "rank 3, not resolved: upper bound")
    assert arrow.get_xdata() == [0.5]  # i/S
    np.testing.assert_allclose(arrow.get_ydata(), [-2.5])
    assert axis.containers[0][0].get_xdata().size == 3
    assert axis.get_xlabel() == r"$i\, /\, S$"


def test_an_exponent_that_rounding_blurs_is_hollow_with_a_longer_bar(axis):
    blurred = exponents()._replace(
        resolved=np.array([True, True, True, False]), rounding=np.array([0, 0, 0, 0.5])
    )
    plotting.lyapunov_spectrum(axis, blurred, label="blurred")
    points, _, (bars,) = axis.containers[1]
    assert points.get_markerfacecolor() == "white"
    (segment,) = bars.get_segments()
    expected = 2 * (0.5 + 1.96 * exponents().standard_errors[3])
    np.testing.assert_allclose(segment[1, 1] - segment[0, 1], expected, rtol=1e-5)


def test_one_block_has_no_errors_and_the_legend_says_so(axis):
    result = exponents()._replace(standard_errors=np.full(4, np.inf))
    plotting.lyapunov_spectrum(axis, result, label="diagonal")
    assert legend(axis) == ["diagonal, one block, so no errors"]


def test_shares_against_the_gradient_are_hatched_and_the_rest_stands_apart(axis):
    plotting.shares_by_lag(axis, jnp.array([0.7, 0.5, -0.3, 0.1]))
    assert legend(axis) == ["along the gradient", "against it", "all lags ≥ 3"]
    along, against, rest = axis.patches
    np.testing.assert_allclose(along.get_data().values, [0.7, 0.5, 0], rtol=1e-6)
    np.testing.assert_allclose(against.get_data().values, [0, 0, -0.3], rtol=1e-6)
    assert against.get_hatch()
    assert rest.get_x() > 2.5
    assert np.isclose(rest.get_height(), 0.1)


def test_lags_that_are_all_told_apart_leave_no_rest(axis):
    plotting.shares_by_lag(axis, np.array([0.7, 0.3, 0.0]))
    assert legend(axis) == ["along the gradient"]


def test_shares_of_no_gradient_are_said_to_be_none(axis):
    plotting.shares_by_lag(axis, np.zeros(5))
    assert axis.texts[0].get_text() == "the gradient is exactly 0"


def test_a_rest_without_lags_is_drawn(axis):
    plotting.shares_by_lag(axis, np.ones(1))


def test_components_share_the_square_of_the_norm_lag_by_lag(axis):
    h, c = triangle(rate=1.0), triangle(rate=0.25) + np.log(2.0)
    plotting.components_by_lag(axis, {"c": c, "h": h})
    drawn = {line.get_label(): line.get_ydata() for line in axis.lines}
    n = np.arange(13)
    expected = np.exp(-2 * n) / (np.exp(-2 * n) + 4 * np.exp(-0.5 * n))
    np.testing.assert_allclose(drawn["in h"], expected, rtol=1e-5)
    np.testing.assert_allclose(drawn["in h"] + drawn["in c"], 1, rtol=1e-6)


def test_components_count_those_losses_only_that_have_a_gradient(axis):
    h, c = triangle(), triangle()
    h[:8], c[:8] = -np.inf, -np.inf  # the first losses do not count
    c[8:] = np.where(np.arange(13) < 5, -np.inf, c[8:])  # and c passes nothing on to the first states
    plotting.components_by_lag(axis, (h, c), labels=("h", "c"))
    in_h = labelled(axis, "in h").get_ydata()
    np.testing.assert_allclose(in_h[[0, 12]], [0.5, 1.0])


def test_layers_and_components_of_a_stack_are_named(axis):
    from rnn_jax.cells import LSTMState

    plotting.components_by_lag(axis, (triangle(), LSTMState(triangle(), triangle())))
    assert legend(axis) == ["in layer 1", "in layer 2 h", "in layer 2 c"]


def test_the_horizon_over_training_is_that_of_each_curve(axis):
    plotting.horizon_over_training(axis, training(), label="GRU")
    line = labelled(axis, "GRU")
    np.testing.assert_array_equal(line.get_xdata(), [0, 100, 200])
    np.testing.assert_array_equal(line.get_ydata(), [7, 14, np.nan])
    (beyond,) = [line for line in axis.lines if line.get_gid() == "upper edge"]
    np.testing.assert_array_equal(np.isfinite(beyond.get_ydata()), [False, False, True])
    assert legend(axis) == ["GRU", "beyond the 39 lags measured (upper edge)"]
    assert axis.get_ylim()[0] == 0


def test_a_later_training_with_a_longer_horizon_is_not_cut_off(axis):
    plotting.horizon_over_training(axis, training((-1.0, -1.0)), label="Elman")
    plotting.horizon_over_training(axis, training((-0.2, -0.2)), label="GRU", line=plotting.LINES[4])
    assert axis.get_ylim()[1] > 35


def test_a_training_without_any_gradient_is_marked(axis):
    records = training()
    records.results[1] = -np.inf
    plotting.horizon_over_training(axis, records, label="GRU")
    assert legend(axis)[-1] == "no gradient at all (lower edge)"


def test_measurements_not_taken_yet_are_left_out(axis):
    records = Records(np.array([0, 100, -1]), np.vstack([training().results[:2], np.full(40, np.nan)]))
    plotting.norms_over_training(axis, records, (1, 10))
    line = labelled(axis, "lag 10")
    np.testing.assert_array_equal(line.get_xdata(), [0, 100])
    np.testing.assert_allclose(line.get_ydata(), np.array([-10, -5]) / LN10)
    assert r"relative to $n = 0$" in axis.get_ylabel()


def test_norms_over_training_are_relative_to_lag_0(axis):
    records = training()
    plotting.norms_over_training(axis, records._replace(results=records.results + 7), (1,))
    np.testing.assert_allclose(labelled(axis, "lag 1").get_ydata(), np.array([-1, -0.5, -0.1]) / LN10)


def test_the_map_over_training_has_updates_along_and_lags_upwards(axis):
    records = training()
    records.results[0, 30:] = -np.inf
    plotting.norms_by_lag_over_training(axis, records)
    mesh = axis.collections[0]
    assert mesh.get_array().shape == (40, 3)
    np.testing.assert_allclose(mesh.get_array()[:, 1], records.results[1] / LN10)
    np.testing.assert_array_equal(mesh.get_coordinates()[0, :, 0], [-50, 50, 150, 250])
    assert legend(axis) == ["exactly 0"]


@pytest.mark.parametrize("settings", [{}, plotting.SETTINGS])
def test_every_function_draws_in_any_settings_without_a_warning(settings):
    import matplotlib

    with matplotlib.rc_context(dict(settings)):
        figure = Figure(figsize=(12, 9), layout="constrained")
        axes = figure.subplots(3, 3).ravel()
        fit = fit_rate(CURVE, 5, 35)
        for _ in range(2):  # a second run on the same axis
            plotting.norms_against_lag(axes[0], CURVE, label="a", bound=CURVE, fit=fit, window=(5, 35))
            plotting.singular_values_against_lag(axes[1], singular_values())
            plotting.lyapunov_spectrum(axes[2], exponents(), label="a")
            plotting.shares_by_lag(axes[3], np.array([0.5, 0.5, 0]))
            plotting.components_by_lag(axes[4], triangle())
            plotting.horizon_over_training(axes[5], training(), label="a")
            plotting.norms_over_training(axes[6], training(), (1, 5))
        plotting.norms_by_time(axes[7], triangle())
        plotting.norms_by_lag_over_training(axes[8], training())
        FigureCanvasAgg(figure).draw()
    assert all(axis.get_xlabel() and axis.get_ylabel() for axis in axes)


BATCH = np.zeros((2, 3, 4))

BAD = {
    "a batch of curves": (
        lambda axis: plotting.norms_against_lag(axis, np.zeros((2, 5)), label="a"),
        r"shape \(2, 5\).*Index a batch",
    ),
    "no lag": (lambda axis: plotting.norms_against_lag(axis, [], label="a"), r"shape \(0,\)"),
    "NaN in a curve": (
        lambda axis: plotting.norms_against_lag(axis, [0.0, np.nan], label="a"),
        r"nan at index \(1,\).*logs\[:t \+ 1\]",
    ),
    "infinity in a curve": (
        lambda axis: plotting.norms_against_lag(axis, [np.inf], label="a"),
        "inf at index",
    ),
    "text": (lambda axis: plotting.norms_against_lag(axis, ["a"], label="a"), "expected numbers"),
    "a bound of another length": (
        lambda axis: plotting.norms_against_lag(axis, CURVE, label="a", bound=CURVE[:-1]),
        r"bound has shape \(39,\); expected \(40,\)",
    ),
    "a fit without a window": (
        lambda axis: plotting.norms_against_lag(axis, CURVE, label="a", fit=decay.Rate(1.0, 1.0, 1.0, 1.0)),
        "belong together",
    ),
    "a window beyond the curve": (
        lambda axis: plotting.norms_against_lag(
            axis, CURVE, label="a", fit=decay.Rate(1.0, 1.0, 1.0, 1.0), window=(5, 40)
        ),
        r"window is \(5, 40\)",
    ),
    "a fit of several curves": (
        lambda axis: plotting.norms_against_lag(
            axis, CURVE, label="a", fit=decay.Rate(*np.zeros((4, 2))), window=(5, 10)
        ),
        r"fit has shape \(2,\)",
    ),
    "a fit of every other lag": (
        lambda axis: plotting.norms_against_lag(
            axis, CURVE, label="a", lags=2 * LAGS, fit=decay.Rate(1.0, 1.0, 1.0, 1.0), window=(5, 10)
        ),
        "per entry",
    ),
    "lags that go back": (
        lambda axis: plotting.norms_against_lag(axis, CURVE, label="a", lags=-LAGS),
        "increasing",
    ),
    "a floor above 1": (
        lambda axis: plotting.norms_against_lag(axis, CURVE, label="a", floor=2.0),
        "0 < floor < 1",
    ),
    "a batch of maps": (lambda axis: plotting.norms_by_time(axis, BATCH), "Index a batch"),
    "a map that is not (T, T + 1)": (
        lambda axis: plotting.norms_by_time(axis, np.zeros((4, 4))),
        r"\(T, T \+ 1\)",
    ),
    "a map with NaN": (lambda axis: plotting.norms_by_time(axis, decay.by_lag(triangle())), "nan at index"),
    "decades upside down": (
        lambda axis: plotting.norms_by_time(axis, triangle(), decades=(0, -3)),
        r"decades is \(0, -3\)",
    ),
    "a batch of fans": (
        lambda axis: plotting.singular_values_against_lag(axis, SingularValues(BATCH, BATCH == 0, BATCH)),
        "Index a batch",
    ),
    "a fan with other lags": (
        lambda axis: plotting.singular_values_against_lag(axis, singular_values(), lags=(1, 2)),
        r"lags has shape \(2,\); expected \(20,\)",
    ),
    "shares that are infinite": (lambda axis: plotting.shares_by_lag(axis, [-np.inf, 1.0]), "infinity"),
    "shares of a batch": (lambda axis: plotting.shares_by_lag(axis, np.zeros((2, 3))), "Index a batch"),
    "components of a batch": (lambda axis: plotting.components_by_lag(axis, {"h": BATCH}), "Index a batch"),
    "components of unlike lengths": (
        lambda axis: plotting.components_by_lag(axis, (triangle(3), triangle(4))),
        "the same for all",
    ),
    "too many components": (lambda axis: plotting.components_by_lag(axis, (triangle(),) * 7), "7 leaves"),
    "too few labels": (
        lambda axis: plotting.components_by_lag(axis, (triangle(),) * 2, labels=["h"]),
        "expected one a component, 2",
    ),
    "records of a tree": (
        lambda axis: plotting.horizon_over_training(axis, Records(np.arange(2), {"a": BATCH}), label="a"),
        "is a tree",
    ),
    "records of a batch of trainings": (
        lambda axis: plotting.horizon_over_training(axis, Records(np.zeros((2, 3)), BATCH), label="a"),
        "Index a batch",
    ),
    "records of a batch of curves": (
        lambda axis: plotting.norms_over_training(axis, Records(np.arange(2), BATCH), (1,)),
        "Index a batch",
    ),
    "records without a measurement": (
        lambda axis: plotting.norms_over_training(axis, Records(np.array([-1]), np.zeros((1, 4))), (1,)),
        "no measurement yet",
    ),
    "records with NaN": (
        lambda axis: plotting.norms_over_training(axis, Records(np.arange(1), np.full((1, 4), np.nan)), (1,)),
        "nan at index",
    ),
    "a map of one measurement": (
        lambda axis: plotting.norms_by_lag_over_training(axis, Records(np.arange(1), np.zeros((1, 4)))),
        "two or more",
    ),
    "a lag that was not measured": (
        lambda axis: plotting.norms_over_training(axis, training(), (1, 40)),
        r"in \[0, 40\)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_before_anything_is_drawn(name, axis):
    draw, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        draw(axis)
    assert not axis.has_data()


def test_a_batch_of_spectra_and_a_theory_that_does_not_fit_are_refused(axis):
    batch = jax.tree.map(lambda leaf: leaf[None], exponents())
    with pytest.raises(ValueError, match="Index a batch"):
        plotting.lyapunov_spectrum(axis, batch, label="a")
    with pytest.raises(ValueError, match=r"theory has shape \(3,\); expected \(4,\)"):
        plotting.lyapunov_spectrum(axis, exponents(), label="a", theory=np.zeros(3))
    with pytest.raises(ValueError, match="holds -1; expected"):
        plotting.lyapunov_spectrum(
            axis, exponents(), label="a", theory=np.zeros(4), theory_deviations=-np.ones(4)
        )
    with pytest.raises(ValueError, match="give both"):
        plotting.lyapunov_spectrum(axis, exponents(), label="a", theory_deviations=np.ones(4))
    assert not axis.has_data()


def test_results_without_values_are_refused(axis):
    with pytest.raises(ValueError, match="outside of jit"):
        jax.jit(lambda x: plotting.norms_against_lag(axis, x, label="a"))(CURVE)
