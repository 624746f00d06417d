"""What theory claims, put to the measurements: one verdict each, with a control for which it is false."""

import math

import jax
import numpy as np

from experiments.laboratory.config import Config
from experiments.laboratory.flow import AFTER, BEFORE, Result
from experiments.laboratory.networks import ELMAN, GRU, LSTM
from experiments.verdicts import Verdict, interval, is_above, is_below, judge, single
from rnn_jax import decay

_fit_rate = jax.jit(decay.fit_rate, static_argnums=(1, 2))
WHEN = {BEFORE: "before training", AFTER: "after training"}


def verdicts_of(config: Config, result: Result) -> list[Verdict]:
    """All verdicts."""
    return [
        _accounting(config, result),
        _bounded(config, result),
        *(_cell_path(config, result, when) for when in WHEN),
        *(_rate_is_exponent(config, result, when) for when in WHEN),
        *(_gates_keep(config, result, name, when) for when in WHEN for name in (GRU, LSTM)),
        _slows(config, result),
        _reaches(config, result),
    ]


def rates(config: Config, curves: np.ndarray) -> decay.Rate:
    """Nats per lag of decay curves, `(…, T)`."""
    return decay.Rate(*map(np.asarray, _fit_rate(curves, config.fit_first, config.fit_last)))


def decades(config: Config, curves: np.ndarray) -> np.ndarray:
    """log₁₀ of what is left of the gradient at the far lag, of decay curves `(…, T)`."""
    return (curves[..., config.far] - curves[..., 0]) / math.log(10)


def far_shares(config: Config, shares: np.ndarray) -> np.ndarray:
    """The share of ∂L/∂θ from the far lags, mean over sequences, from `(…, E, T + 1)` to `(…)`."""
    return shares[..., config.row :].sum(-1).mean(-1)


def _accounting(config: Config, result: Result) -> Verdict:
    flows = result.flow.values()
    return judge(
        is_below(config.accounting_tolerance),
        name="accounting",
        claim="the contributions by lag sum to the gradient that jax.grad gives",
        source="backpropagation through time, summed by lag",
        expected=f"relative error < {config.accounting_tolerance:.0e}",
        measured=single(max(flow.accounting.max() for flow in flows)),
        unit="worst case",
        tolerance=config.accounting_tolerance,
        reason="sums over lags and steps in float64 round to about 1e-14, more where parts of a gradient cancel",
        control=f"the sum without lags >= {config.row}, where it matters least",
        control_measured=single(min(flow.without_far.min() for flow in flows)),
    )


def _bounded(config: Config, result: Result) -> Verdict:
    flow = result.flow[ELMAN]
    steps = flow.log_norms.shape[-2]
    lag = np.arange(1, steps + 1)[:, None] - np.arange(steps + 1)
    there = lag >= 0

    def excess(log_bound):
        return single((flow.log_norms[..., there] - log_bound[..., there]).max())

    return judge(
        is_below(config.bound_tolerance),
        name="bound",
        claim="no gradient of the Elman network exceeds (γ σ_max)ⁿ times that at lag 0, γ = 1",
        source="Pascanu, Mikolov and Bengio (2013), section 2.1",
        expected=f"excess < {config.bound_tolerance:.0e}",
        measured=excess(flow.log_bound),
        unit="nats, worst case",
        tolerance=config.bound_tolerance,
        reason="63 products in float64 round to about 1e-12",
        control="γ = 1/4, the sigmoid's",
        control_measured=excess(flow.log_bound - lag * math.log(4)),
    )


def _cell_path(config: Config, result: Result, when: int) -> Verdict:
    whole, controls = result.flow[LSTM].curves, result.controls

    def lost(whole, cut):
        return interval(decades(config, whole[when]) - decades(config, cut[when]))

    return judge(
        is_above(config.path_margin),
        name=f"cell path {WHEN[when].split()[0]}",
        claim=f"{WHEN[when]}, the LSTM's gradient at lag {config.far} travels through the cell state: cutting that "
        "path takes a decade",
        source="Hochreiter and Schmidhuber (1997): the carousel of constant error",
        expected=f"loss > {config.path_margin:g}",
        measured=lost(whole, controls.no_cell_path),
        unit="decades",
        tolerance=config.path_margin,
        reason="a path carries the gradient if without it less than a tenth arrives",
        control="the LSTM with its forget gates shut, through whose cell nothing travels",
        control_measured=lost(controls.shut, controls.shut_no_cell_path),
        remark=f"cutting the path through the hidden state instead: {lost(whole, controls.no_hidden_path)}",
    )


def _rate_is_exponent(config: Config, result: Result, when: int) -> Verdict:
    rate = jax.tree.map(lambda leaf: leaf[when], rates(config, result.flow[ELMAN].curves))
    exponents = result.spectra[ELMAN].lyapunov.values[when]
    straight = rate.r_squared.min()
    return judge(
        is_below(config.rate_tolerance),
        name=f"rate {WHEN[when].split()[0]}",
        claim=f"{WHEN[when]}, the Elman network's gradient decays at the rate of its largest Lyapunov exponent",
        source="Oseledets (1968)",
        expected=f"distance < {config.rate_tolerance:g}",
        measured=interval(np.abs(rate.rate - exponents[:, 0])),
        unit="nats per step",
        tolerance=config.rate_tolerance,
        reason="a random direction among N units may lose ln √N nats until it lies along the leading one",
        control="the median exponent",
        control_measured=interval(np.abs(rate.rate - exponents[:, exponents.shape[1] // 2])),
        remark=f"rates {rate.rate.min():.3f} to {rate.rate.max():.3f}; r² {straight:.3f}",
    )


def _gates_keep(config: Config, result: Result, name: str, when: int) -> Verdict:
    plain = decades(config, result.flow[ELMAN].curves[when])
    gated = decades(config, result.flow[name].curves[when])
    return judge(
        is_above(config.gate_margin),
        name=f"{name} {WHEN[when].split()[0]}",
        claim=f"{WHEN[when]}, a decade more of the gradient reaches lag {config.far} in the {name} than in the "
        "Elman network",
        source="lecture note, section 4, last paragraph",
        expected=f"more by > {config.gate_margin:g}",
        measured=interval(gated - plain),
        unit="decades",
        tolerance=config.gate_margin,
        reason="a factor of ten is more than a constant factor between cells could account for",
        control="the LSTM with its forget gates shut",
        control_measured=interval(decades(config, result.controls.shut[when]) - plain),
        remark=f"decades left: {name} {gated.mean():.2f}, Elman {plain.mean():.2f}",
    )


def _slows(config: Config, result: Result) -> Verdict:
    def change(curves):
        rate = rates(config, curves).rate
        return interval(rate[AFTER] - rate[BEFORE])

    return judge(
        is_above(config.slowing),
        name="learning slows decay",
        claim="learning to predict the next pixel makes the Elman network's gradient decay more slowly",
        source="the task: the pixel above the next one is a row back",
        expected=f"rate higher by > {config.slowing:.3g}",
        measured=change(result.flow[ELMAN].curves),
        unit="nats per step",
        tolerance=config.slowing,
        reason="e-fold over the whole sequence",
        control="the same network, trained to give back the pixel that it reads",
        control_measured=change(result.controls.memoryless),
    )


def _reaches(config: Config, result: Result) -> Verdict:
    def change(shares):
        share = far_shares(config, shares)
        return interval(share[AFTER] - share[BEFORE])

    return judge(
        is_above(config.share_margin),
        name="learning reaches a row back",
        claim=f"by learning, the share of the Elman network's dL/dtheta that comes from lags >= {config.row} grows",
        source="the task: the pixel above the next one is a row back",
        expected=f"by > {config.share_margin:g}",
        measured=change(result.flow[ELMAN].shares),
        unit="of the gradient",
        tolerance=config.share_margin,
        reason="a tenth of a gradient could not be cut off unnoticed",
        control="the same network, trained to give back the pixel that it reads",
        control_measured=change(result.controls.memoryless_shares),
    )
