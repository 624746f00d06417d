"""Colours, lines and text sizes that every figure shares.

Colours are Okabe and Ito's, told apart by colour-blind readers; each comes with a line style of its own, for grey.
Figures are made without pyplot, so no window system is asked for.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib
from matplotlib.figure import Figure

LINES = (
    {"color": "#56B4E9", "linestyle": (0, (1, 1)), "marker": "v"},
    {"color": "#0072B2", "linestyle": (0, (4, 1.5)), "marker": "o"},
    {"color": "#D55E00", "linestyle": (0, (6, 1.5, 1, 1.5)), "marker": "^"},
    {"color": "#CC79A7", "linestyle": (0, (2, 1)), "marker": "D"},
    {"color": "#009E73", "linestyle": "-", "marker": "s"},
    {"color": "#000000", "linestyle": "-", "marker": "x"},
)
"""One for each network, in order."""

_SETTINGS = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "legend.frameon": False,
}


@contextmanager
def figure(width: float, height: float) -> Iterator[Figure]:
    """An empty figure, in inches, to be drawn in the shared style."""
    with matplotlib.rc_context(_SETTINGS):
        yield Figure(figsize=(width, height), layout="constrained")
