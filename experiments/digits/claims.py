"""What the note claims, put to the measurements: one verdict each, with a control for which it is false."""

import numpy as np

from experiments import verdicts
from experiments.digits.config import Config
from experiments.digits.flow import CLIPPED, UNCLIPPED, Result
from experiments.digits.networks import ABOVE, AT, BELOW, GRU, LSTM, networks
from experiments.verdicts import Verdict, interval, is_above, is_below, judge, single

_NOTE = "lecture note, section 4"
_PASCANU = "Pascanu, Mikolov and Bengio (2013)"
_RATE_REASON = "over all 64 steps it would change a norm less than e-fold"
_CLIP_REASON = "about 8 ε of float32, one rounding an entry"


def verdicts_of(config: Config, result: Result) -> list[Verdict]:
    """All verdicts, in the order of the note."""
    return [
        _vanishes(config, result),
        _bounded(config, result),
        _explodes(config, result),
        _norm_above_one(config, result),
        _clipping_bounds(config, result),
        _clipping_keeps_direction(config, result),
        *(_gates_keep(config, result, network, after) for network in (GRU, LSTM) for after in (False, True)),
        _gates_learn(config, result),
    ]


def rates(config: Config, log_norms: np.ndarray) -> verdicts.Fit:
    """Nats per lag of ln‖∂h_T/∂h_{T−n}‖, one fit a seed to the median over sequences; `(R, E, T + 1)`."""
    return verdicts.fit(np.median(log_norms, axis=1), config.fit_first, config.fit_last)


def decades(config: Config, log_gradients: np.ndarray) -> np.ndarray:
    """log₁₀ ‖∂L/∂h_{T−n}‖/‖∂L/∂h_T‖ at the long lag n, median over sequences, `(R,)`; `(R, E, T + 1)`."""
    with np.errstate(invalid="ignore"):  # a dead network has no gradient at either end
        ratio = log_gradients[..., config.fit_last] - log_gradients[..., 0]
    return np.median(ratio, axis=1) / np.log(10)


def _vanishes(config: Config, result: Result) -> Verdict:
    step_norms = result.before.step_norms[BELOW]
    fit = rates(config, result.before.log_norms[BELOW])
    largest, straight = step_norms.max(), fit.r_squared.min()
    premise = "" if largest < 1 else f"not every step contracts: the largest norm is {largest:.3g}"
    if not straight >= config.linearity:
        premise = premise or f"not a straight line: r² = {straight:.3g}"
    return judge(
        is_below(-config.rate_tolerance),
        name="vanishing",
        claim="if every step's norm is below 1, the product vanishes exponentially in the lag",
        source=_NOTE,
        expected=f"rate < -{config.rate_tolerance:.3g}",
        measured=interval(fit.rate),
        unit="nats per step",
        tolerance=config.rate_tolerance,
        reason=_RATE_REASON,
        control="linear networks with orthogonal weights: every norm is 1",
        control_measured=interval(
            verdicts.fit(result.controls.unit_norm, config.fit_first, config.fit_last).rate
        ),
        premise=premise,
        remark=f"step norms {step_norms.min():.2f} to {largest:.2f}; r² {straight:.3f}",
    )


def _bounded(config: Config, result: Result) -> Verdict:
    elman = ~np.isnan(result.before.log_bound[:, 0, 0])

    def excess(log_norms, log_bound):
        return float((log_norms - log_bound[..., None, :]).max())

    before = excess(result.before.log_norms[elman], result.before.log_bound[elman])
    after = excess(result.after.log_norms[elman], result.after.log_bound[elman])
    return judge(
        is_below(config.bound_tolerance),
        name="bound",
        claim="no product exceeds (γ σ_max)ⁿ",
        source=f"{_PASCANU}, section 2.1",
        expected=f"excess < {config.bound_tolerance:.0e}",
        measured=single(max(before, after)),
        unit="nats, worst case",
        tolerance=config.bound_tolerance,
        reason="64 products in float64 round to about 1e-12",
        control="the spectral radius in the place of σ_max, which bounds no norm",
        control_measured=single(excess(result.before.log_norms[BELOW], result.controls.log_radius_power)),
    )


def _explodes(config: Config, result: Result) -> Verdict:
    step_norms = result.before.step_norms[ABOVE]
    fit = rates(config, result.before.log_norms[ABOVE])
    straight = fit.r_squared.min()
    return judge(
        is_above(config.rate_tolerance),
        name="exploding",
        claim=f"with weights of gain {config.gain_above:g} the product grows exponentially in the lag",
        source=_NOTE,
        expected=f"rate > {config.rate_tolerance:.3g}",
        measured=interval(fit.rate),
        unit="nats per step",
        tolerance=config.rate_tolerance,
        reason=_RATE_REASON,
        control=f"the same network with gain {config.gain_below:g}",
        control_measured=interval(rates(config, result.before.log_norms[BELOW]).rate),
        premise="" if straight >= config.linearity else f"not a straight line: r² = {straight:.3g}",
        remark=f"step norms {step_norms.min():.2f} to {step_norms.max():.2f}; r² {straight:.3f}",
    )


def _norm_above_one(config: Config, result: Result) -> Verdict:
    # Only sequences each of whose steps has a norm above 1; a seed that has none of them does not count.
    above = (result.before.step_norms[AT] > 1).all(-1)
    curves = [
        norms[kept] for norms, kept in zip(result.before.log_norms[AT], above, strict=True) if kept.any()
    ]
    slopes = [rates(config, curve[None]).rate[0] for curve in curves]
    return judge(
        is_above(config.rate_tolerance),
        name="norm above 1",
        claim="if the norm of every step is above 1, the product grows exponentially",
        source=f"{_NOTE}, taken literally",
        expected=f"rate > {config.rate_tolerance:.3g}",
        measured=interval(slopes) if slopes else single(np.nan),
        unit="nats per step",
        tolerance=config.rate_tolerance,
        reason=_RATE_REASON,
        control="W = [[.9, 5], [0, .9]]: every norm is 5.2, the spectral radius .9",
        control_measured=single(
            verdicts.fit(result.controls.non_normal, config.fit_first, config.fit_last).rate[0]
        ),
        premise="" if slopes else "no sequence has a norm above 1 at every step",
        remark=f"{above.mean():.0%} of the sequences; above 1 is necessary to explode, not sufficient",
    )


def _clipping_bounds(config: Config, result: Result) -> Verdict:
    def excess(setting):
        return single(result.updates.clipped_norm[:, setting].max() / config.clip_norm - 1)

    return judge(
        is_below(config.clip_tolerance),
        name="clipping bounds",
        claim="clipping the global norm bounds every update's gradient",
        source=f"{_PASCANU}, algorithm 1",
        expected=f"excess < {config.clip_tolerance:.0e}",
        measured=excess(CLIPPED),
        unit="of the threshold, worst case",
        tolerance=config.clip_tolerance,
        reason=_CLIP_REASON,
        control="the runs without clipping",
        control_measured=excess(UNCLIPPED),
    )


def _clipping_keeps_direction(config: Config, result: Result) -> Verdict:
    acted = result.updates.gradient_norm[:, CLIPPED] > config.clip_norm
    premise = "" if acted.any() else "no gradient reached the threshold"

    def turn(cosine, worst):
        return single(1 - worst(cosine[:, CLIPPED][acted])) if acted.any() else single(np.nan)

    return judge(
        is_below(config.clip_tolerance),
        name="clipping keeps direction",
        claim="clipping the global norm leaves the gradient's direction",
        source=f"{_PASCANU}, algorithm 1",
        expected=f"1 - cosine < {config.clip_tolerance:.0e}",
        measured=turn(result.updates.cosine, np.min),
        unit="worst case",
        tolerance=config.clip_tolerance,
        reason=_CLIP_REASON,
        control="clipping entry by entry to the same norm, at its mildest",
        control_measured=turn(result.updates.entrywise_cosine, np.max),
        premise=premise,
        remark=f"clipping acted on {acted.mean():.0%} of the updates",
    )


def _gates_keep(config: Config, result: Result, network: int, after: bool) -> Verdict:
    def reach(which):
        profile = result.after.log_gradients[which, CLIPPED] if after else result.before.log_gradients[which]
        return decades(config, profile)

    name = networks(config)[network].name
    shut = result.controls.shut_after if after else result.controls.shut_before
    when = "after training" if after else "before training"
    with np.errstate(invalid="ignore"):
        more, control = reach(network) - reach(AT), decades(config, shut) - reach(AT)
    return judge(
        is_above(config.gate_margin),
        name=f"{name} {when.split()[0]}",
        claim=f"{when}, more gradient reaches lag {config.fit_last} in the {name} than in tanh g={config.gain_at:g}",
        source=f"{_NOTE}, last paragraph",
        expected=f"more by > {config.gate_margin:g}",
        measured=interval(more),
        unit="decades",
        tolerance=config.gate_margin,
        reason="a factor of ten is more than a constant factor between cells could account for",
        control="the LSTM with its forget gates shut",
        control_measured=interval(control),
    )


def _gates_learn(config: Config, result: Result) -> Verdict:
    final = 100 * result.accuracy[:, CLIPPED, :, -1]
    return judge(
        is_above(config.accuracy_margin),
        name="LSTM accuracy",
        claim=f"the LSTM classifies more digits than tanh g={config.gain_at:g}",
        source=f"{_NOTE}, last paragraph",
        expected=f"more by > {config.accuracy_margin:g}",
        measured=interval(final[LSTM] - final[AT]),
        unit="percentage points",
        tolerance=config.accuracy_margin,
        reason="more than twice the binomial standard error of one run on 497 images",
        control="the trained LSTM with its forget gates shut",
        control_measured=interval(100 * result.controls.shut_accuracy - final[AT]),
    )
