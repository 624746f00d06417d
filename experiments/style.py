"""The look of `rnn_jax.plotting` for every figure of an experiment.

Figures are made without pyplot, so no window system is asked for.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib
from matplotlib.figure import Figure

from rnn_jax import plotting

LINES = plotting.LINES
"""One for each network, in order."""

FEW = (LINES[4], LINES[2], LINES[1])
"""For up to three networks: colours that are far apart."""


@contextmanager
def figure(width: float, height: float) -> Iterator[Figure]:
    """An empty figure, in inches, to be drawn in the shared style."""
    with matplotlib.rc_context(dict(plotting.SETTINGS)):
        yield Figure(figsize=(width, height), layout="constrained")
