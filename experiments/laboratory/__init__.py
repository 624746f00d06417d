"""Where does the gradient of a recurrent network come from, and through which part of its state?

Three networks read handwritten digits pixel by pixel and predict the next pixel at every step, so that every step
has a loss of its own. Before and after training it is measured which state gets how much gradient from which loss,
across which lag, along which path, and how fast the gradient decays, beside what the Jacobians say: singular
values of their products, Lyapunov exponents. During training the decay is recorded.

    config       settings, and tolerances fixed before the run
    networks     Elman, GRU, LSTM; the loss; the LSTM's step with one path cut
    training     Adam on hand-written gradients, seeds by vmap, the decay of the gradient recorded on the way
    measurement  gradient flow, singular values, exponents
    flow         the run: every network before and after training, and the controls
    claims       the verdicts
    table, figures, metrics   what is shown and kept

The sequences are those of `experiments.digits`.
"""

from collections.abc import Mapping

from matplotlib.figure import Figure

from experiments.laboratory import figures as _figures
from experiments.laboratory import table as _table
from experiments.laboratory.claims import verdicts_of as verdicts
from experiments.laboratory.config import PRESETS, Config
from experiments.laboratory.flow import Result, run
from experiments.laboratory.metrics import metrics

__all__ = ["PRESETS", "figures", "metrics", "run", "table", "verdicts"]


def table(config: Config, result: Result, judged: list) -> str:
    """The rows and verdicts to print."""
    return _table.text(config, result, judged)


def figures(config: Config, result: Result) -> Mapping[str, Figure]:
    """The figures by file name."""
    return {
        "decay": _figures.decay_with_lag(config, result),
        "maps": _figures.maps(config, result),
        "paths": _figures.paths(config, result),
        "shares": _figures.shares(config, result),
        "spectra": _figures.spectra(config, result),
        "training": _figures.training(config, result),
    }
