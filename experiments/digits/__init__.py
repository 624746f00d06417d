"""Why does a plain RNN forget, and a gated one not, on handwritten digits read pixel by pixel?

Six networks read 64 pixels, one a step, and name the digit after the last one. Before and after training it is
measured how the gradient travels back: norms of the Jacobian products and of ∂L/∂h against lag, the bound that
the weights set, exact singular values, and what global-norm clipping does to every update.

    config       settings, and tolerances fixed before the run
    data         the digits as sequences
    networks     tanh below, at and above gain 1; ReLU from the identity; GRU; LSTM
    training     Adam on hand-written gradients, with and without clipping, seeds by vmap
    measurement  the gradient-flow profile of a network
    flow         the run: every network before and after training, and the controls
    claims       the verdicts
    table, figures, metrics   what is shown and kept
"""

from collections.abc import Mapping

from matplotlib.figure import Figure

from experiments.digits import figures as _figures
from experiments.digits import table as _table
from experiments.digits.claims import verdicts_of as verdicts
from experiments.digits.config import PRESETS, Config
from experiments.digits.flow import Result, run
from experiments.digits.metrics import metrics

__all__ = ["PRESETS", "figures", "metrics", "run", "table", "verdicts"]


def table(config: Config, result: Result, judged: list) -> str:
    """The rows and verdicts to print."""
    return _table.text(config, result, judged)


def figures(config: Config, result: Result) -> Mapping[str, Figure]:
    """The figures by file name."""
    return {
        "gradient_flow": _figures.gradient_flow(config, result),
        "singular_values": _figures.singular_values(config, result),
        "training": _figures.training(config, result),
    }
