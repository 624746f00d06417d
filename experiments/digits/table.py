"""What a run prints: a row for each network with and without clipping, then the verdicts."""

import numpy as np

from experiments.digits import claims
from experiments.digits.config import Config
from experiments.digits.flow import CLIPPED, UNCLIPPED, Result
from experiments.digits.networks import networks
from experiments.verdicts import Verdict, lines

_ROW = "{:10} {:>5} {:>13} {:>15} {:>14} {:>13} {:>12} {:>10}"


def text(config: Config, result: Result, verdicts: list[Verdict]) -> str:
    """The whole table, at most 100 columns."""
    return "\n".join([*_header(config), *_rows(config, result), "", *lines(verdicts)])


def _header(config: Config) -> list[str]:
    return [
        "",
        f"rate      growth of the norm of dh_T/dh_(T-n), nats per lag, n = {config.fit_first} to {config.fit_last}",
        f"reach     norm of dL/dh at lag {config.fit_last} over that at lag 0, powers of ten",
        f"          medians over {config.sequences} held-out sequences; ± standard deviation over {config.seeds} seeds",
        "",
        _ROW.format(
            "", "clip", "accuracy %", "rate before", "rate after", "reach before", "reach after", "clipped %"
        ),
    ]


def _rows(config: Config, result: Result) -> list[str]:
    rows = []
    for m, network in enumerate(networks(config)):
        for setting in (CLIPPED, UNCLIPPED):
            norms = result.updates.gradient_norm[m, CLIPPED]
            rows.append(
                _ROW.format(
                    network.name,
                    f"{config.clip_norm:g}" if setting == CLIPPED else "no",
                    _spread(100 * result.accuracy[m, setting, :, -1], 1),
                    _spread(claims.rates(config, result.before.log_norms[m]).rate, 3),
                    _spread(claims.rates(config, result.after.log_norms[m, setting]).rate, 3),
                    _spread(claims.decades(config, result.before.log_gradients[m]), 1),
                    _spread(claims.decades(config, result.after.log_gradients[m, setting]), 1),
                    f"{100 * (norms > config.clip_norm).mean():.0f}" if setting == CLIPPED else "",
                )
            )
    return rows


def _spread(samples: np.ndarray, digits: int) -> str:
    """Mean ± standard deviation; "exactly 0" where a norm is zero, as of a ReLU network whose units are all dead."""
    if np.isneginf(samples).all() or np.isnan(samples).all():
        return "exactly 0"
    if not np.isfinite(samples).all():
        return f"0 in {(~np.isfinite(samples)).sum()} of {samples.size}"
    return f"{samples.mean():.{digits}f} ± {samples.std(ddof=1):.{digits}f}"
