"""Verdicts: a claim, the number that decides it, the tolerance that was set beforehand, and a negative control.

A claim is tested on an interval: over seeds, the 95 % interval of the mean,

    mean ± t_{0.975, n−1} · s / √n

or, for a worst case over everything that was measured, that one number. The claim *holds* when the whole interval
is on its side of the tolerance and *fails* when the whole interval is on the other; otherwise the run was too
small to tell. The same test is put to a negative control for which the claim is known to be false; when the
control does not fail, the test cannot tell true from false, and the verdict is inconclusive.
"""

import math
import textwrap
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

HOLDS = "holds"
FAILS = "fails"
INCONCLUSIVE = "inconclusive at this size"


class Interval(NamedTuple):
    """A measured value and the ends of its 95 % interval; all three are equal for a single number."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if not math.isfinite(self.high - self.low):
            return f"{self.value:.3g}"
        if self.low == self.high:
            return f"{self.value:.3g}"
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


class Verdict(NamedTuple):
    """One claim and what became of it.

    Attributes:
      name: a short handle.
      claim: the sentence that is put to the test.
      source: where it is claimed.
      expected: what would have to be measured, with the tolerance in it.
      measured: what was measured.
      unit: of `measured`.
      tolerance: from the configuration, set before the run.
      reason: why that tolerance.
      outcome: `HOLDS`, `FAILS` or `INCONCLUSIVE`.
      control: the case for which the same test must fail.
      control_measured: what was measured there.
      control_outcome: what the test said of it.
      remark: what else a reader should know, such as a premise that was not met.
    """

    name: str
    claim: str
    source: str
    expected: str
    measured: Interval
    unit: str
    tolerance: float
    reason: str
    outcome: str
    control: str
    control_measured: Interval
    control_outcome: str
    remark: str = ""


class Fit(NamedTuple):
    """Straight lines through curves, one a seed.

    Attributes:
      rate: the slope, `(R,)`; −∞ where a curve reaches −∞ in the window.
      r_squared: the share of a curve's variance that its line explains, `(R,)`; 1 for an exact line.
    """

    rate: np.ndarray
    r_squared: np.ndarray


def single(value: float) -> Interval:
    """A number without a spread: a worst case, or an exact one.

    >>> single(2.0)
    Interval(value=2.0, low=2.0, high=2.0)
    """
    value = float(value)
    return Interval(value, value, value)


def interval(samples: Sequence[float] | np.ndarray) -> Interval:
    """The mean of independent samples and its 95 % interval (Student's t); unbounded for one sample.

    Args:
      samples: one number a seed, `(R,)`. If any is infinite, so is the mean, and nothing bounds it.

    >>> interval([1.0, 2.0, 3.0])
    Interval(value=2.0, low=-0.48..., high=4.48...)
    """
    samples = np.asarray(samples, np.float64)
    mean = float(samples.mean())
    if samples.size < 2 or not np.isfinite(samples).all():
        return Interval(mean, -math.inf, math.inf)
    half = float(stats.t.ppf(0.975, samples.size - 1) * samples.std(ddof=1) / math.sqrt(samples.size))
    return Interval(mean, mean - half, mean + half)


def fit(curves: np.ndarray, first: int, last: int) -> Fit:
    """Least-squares lines through `curves` at n = first … last.

    Args:
      curves: one curve a seed against lag n = 0, 1, …, `(R, T + 1)`: logarithms of norms, in nats.
      first, last: the window of lags, both included.

    Returns:
      A rate in nats per step and r² for each seed.

    >>> fit(-0.5 * np.arange(11.0)[None], 1, 10)
    Fit(rate=array([-0.5]), r_squared=array([1.]))
    """
    lags = np.arange(first, last + 1, dtype=np.float64)
    window = np.asarray(curves, np.float64)[:, first : last + 1]
    finite = np.isfinite(window).all(-1)
    window = np.where(finite[:, None], window, 0.0)
    centred_lags, centred = lags - lags.mean(), window - window.mean(-1, keepdims=True)
    rate = centred @ centred_lags / (centred_lags @ centred_lags)
    residual = centred - rate[:, None] * centred_lags
    spread = (centred**2).sum(-1)
    # A flat curve is a line of slope 0: nothing is left to explain.
    r_squared = np.where(spread > 0, 1 - (residual**2).sum(-1) / np.where(spread > 0, spread, 1.0), 1.0)
    return Fit(rate=np.where(finite, rate, -np.inf), r_squared=np.where(finite, r_squared, np.nan))


def is_below(limit: float) -> Callable[[Interval], str]:
    """The test "less than `limit`".

    >>> is_below(0.0)(Interval(-1.0, -2.0, 1.0))
    'inconclusive at this size'
    """

    def test(measured: Interval) -> str:
        if measured.high < limit:
            return HOLDS
        return FAILS if measured.low >= limit else INCONCLUSIVE

    return test


def is_above(limit: float) -> Callable[[Interval], str]:
    """The test "greater than `limit`".

    >>> is_above(0.0)(single(1.0)), is_above(0.0)(single(0.0))
    ('holds', 'fails')
    """

    def test(measured: Interval) -> str:
        if measured.low > limit:
            return HOLDS
        return FAILS if measured.high <= limit else INCONCLUSIVE

    return test


def judge(
    test: Callable[[Interval], str],
    *,
    measured: Interval,
    control_measured: Interval,
    premise: str = "",
    remark: str = "",
    **fields,
) -> Verdict:
    """A verdict: one test put to the measurement and to the control.

    Args:
      test: `is_below(…)` or `is_above(…)`.
      measured, control_measured: what it is put to.
      premise: why the claim does not apply to what was measured; empty if it does.
      remark, fields: the remaining fields of `Verdict`.
    """
    outcome, control_outcome = test(measured), test(control_measured)
    if control_outcome != FAILS:
        premise = premise or "the negative control did not fail, so the test cannot tell"
    if premise:
        outcome = INCONCLUSIVE
    return Verdict(
        measured=measured,
        outcome=outcome,
        control_measured=control_measured,
        control_outcome=control_outcome,
        remark="; ".join(filter(None, (premise, remark))),
        **fields,
    )


def lines(verdicts: Sequence[Verdict]) -> list[str]:
    """Verdicts as they are printed: claim, numbers and control, at most 98 columns."""
    printed = []
    for verdict in verdicts:
        printed += textwrap.wrap(f"{verdict.outcome.upper()}: {verdict.claim}", 98, subsequent_indent="    ")
        printed += textwrap.wrap(
            f"{verdict.measured} {verdict.unit}, expected {verdict.expected}; "
            f"control ({verdict.control}) {verdict.control_measured}: {verdict.control_outcome}"
            + (f"; {verdict.remark}" if verdict.remark else ""),
            98,
            initial_indent="    ",
            subsequent_indent="    ",
        )
    return printed
