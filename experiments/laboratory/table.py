"""What a run prints: a row for each network before and after training, then the verdicts."""

import math

import numpy as np

from experiments.laboratory import claims
from experiments.laboratory.config import Config
from experiments.laboratory.flow import Result
from experiments.verdicts import Verdict, lines
from rnn_jax import decay

_ROW = "{:6} {:6} {:>13} {:>16} {:>16} {:>8} {:>14} {:>13}"


def text(config: Config, result: Result, verdicts: list[Verdict]) -> str:
    """The whole table, at most 100 columns."""
    return "\n".join([*_header(config, result), *_rows(config, result), "", *lines(verdicts)])


def _header(config: Config, result: Result) -> list[str]:
    return [
        "",
        f"loss      mean of L_t; each pixel guessed by its mean: {float(result.guessing):.3f}",
        f"rate      of the norm of dL_t/ds_(t-n) in nats per lag, n = {config.fit_first} to {config.fit_last}",
        "exponent  the largest Lyapunov exponent, in nats per step",
        "horizon   the first lag with a norm below 0.001 of that at lag 0, median over seeds",
        f"share     of dL/dtheta from lags >= {config.row}, a row of the image or more",
        f"leading   share of |dL/ds_0|^2 in the {config.directions} directions that grow most (by chance: "
        f"{config.directions / config.hidden_size:.2f}; LSTM {config.directions / config.hidden_size / 2:.2f})",
        f"          means over {config.sequences} held-out sequences; ± standard deviation over {config.seeds} seeds",
        "",
        _ROW.format("", "", "loss", "rate", "exponent", "horizon", "share", "leading"),
    ]


def _rows(config: Config, result: Result) -> list[str]:
    rows = []
    for name, flow in result.flow.items():
        for when, label in claims.WHEN.items():
            horizon = float(np.median(decay.horizon(flow.curves)[when]))
            rows.append(
                _ROW.format(
                    name,
                    label.split()[0],
                    _spread(flow.losses[when].mean((-2, -1)), 3),
                    _spread(claims.rates(config, flow.curves).rate[when], 3),
                    _spread(result.spectra[name].lyapunov.values[when, :, 0], 3),
                    f"{horizon:g}" if math.isfinite(horizon) else "beyond",
                    _spread(claims.far_shares(config, flow.shares[when]), 2),
                    _spread(flow.alignment[when, :, :, 0, -1].mean(-1), 2),
                )
            )
    return rows


def _spread(samples: np.ndarray, digits: int) -> str:
    """Mean ± standard deviation."""
    return f"{samples.mean():.{digits}f} ± {samples.std(ddof=1):.{digits}f}"
