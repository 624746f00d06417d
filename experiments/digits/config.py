"""The experiment's settings and tolerances, all fixed before the run, each with its reason."""

import dataclasses

from experiments import common

STEPS = 64
"""T: an 8 × 8 image, one pixel a step."""

CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the digits experiment; every field can be given on the command line."""

    seed: int = 0
    """Root of all random numbers but the train/test split, which is always the same."""
    seeds: int = 4
    """Independent runs of each network; the intervals are over these."""
    hidden_size: int = 32
    """N, hidden units of every network."""
    gain_below: float = 0.4
    """g of the tanh network whose every step contracts. σ_max of a Gaussian matrix is about 2g, so this asks for
    g < 1/2; between 1/2 and 1 single steps can expand though the product vanishes."""
    gain_at: float = 1.0
    """g at the edge of stability of the linear network, where the spectral radius is about 1."""
    gain_above: float = 3.0
    """g of the tanh network that is chaotic, even when driven."""
    longest_memory: float = 64.0
    """Gate biases of LSTM and GRU for memories of 1 to this many steps (`initializers.chrono`)."""
    updates: int = 1000
    """Optimiser updates of each run."""
    batch_size: int = 32
    """Sequences an update, drawn from the training set with replacement."""
    learning_rate: float = 3e-3
    """Of Adam, one for all networks. (Three times as much mends LSTM and GRU a little and undoes tanh.)"""
    clip_norm: float = 1.0
    """Global norm to which gradients are clipped in the clipped half of the runs."""
    chunk: int = 100
    """Updates between two looks at the test accuracy; divides `updates`."""
    test_size: int = 497
    """Images held out of the 1797."""
    sequences: int = 8
    """Held-out sequences on which Jacobians and gradients are measured."""
    fit_first: int = 5
    """First lag of the window in which rates are fitted; before it the largest singular value of one step rules."""
    fit_last: int = 60
    """Last lag of that window, and the long lag at which gradients are compared."""
    lags_shown: tuple[int, ...] = (1, 8, 32, 64)
    """Lags at which all singular values are computed."""

    rate_tolerance: float = 1 / STEPS
    """Nats per step below which a rate counts as zero: over all T = 64 steps it changes a norm less than e-fold."""
    linearity: float = 0.98
    """Least r² of a straight line through a log-norm that is called exponential: its fluctuations from step to
    step are then a seventh of what the line accounts for."""
    bound_tolerance: float = 1e-9
    """Nats by which a norm may exceed its bound through rounding: 64 products in float64 round to 1e-12."""
    clip_tolerance: float = 1e-6
    """Relative excess of a clipped norm, and 1 − cosine to the gradient: 8 ε of float32, one rounding an entry."""
    gate_margin: float = 1.0
    """Decades by which more of the gradient must reach lag `fit_last`: a factor of ten could not be mistaken for a
    constant factor between cells, as between the norms of h and of (h, c)."""
    accuracy_margin: float = 5.0
    """Percentage points of test accuracy: more than twice the binomial standard error of one run on 497 images."""

    def __post_init__(self):
        for name, low, high in (
            ("seed", 0, 2**31 - 1),
            ("seeds", 2, 1000),
            ("hidden_size", 2, 512),
            ("updates", 1, 10**6),
            ("batch_size", 1, 1797),
            ("chunk", 1, 10**6),
            ("test_size", 50, 1747),
            ("sequences", 1, 50),
            ("fit_first", 1, STEPS - 2),
            ("fit_last", 3, STEPS),
        ):
            common.within(name, getattr(self, name), low, high)
        for name, low, high in (
            ("gain_below", 0.0, 0.5),
            ("gain_at", 0.0, 10.0),
            ("gain_above", 0.0, 10.0),
            ("longest_memory", 2.0, 1e6),
            ("learning_rate", 0.0, 1.0),
            ("clip_norm", 0.0, 1e6),
            ("rate_tolerance", 0.0, 1.0),
            ("linearity", 0.0, 1.0),
            ("bound_tolerance", 0.0, 1.0),
            ("clip_tolerance", 0.0, 1.0),
            ("gate_margin", 0.0, 100.0),
            ("accuracy_margin", 0.0, 100.0),
        ):
            common.strictly_between(name, getattr(self, name), low, high)
        if not self.gain_below < self.gain_at < self.gain_above:
            raise ValueError(
                f"gain_below, gain_at, gain_above are {self.gain_below}, {self.gain_at}, {self.gain_above}; "
                "expected them in increasing order. Change one of them."
            )
        common.whole_chunks(self.updates, self.chunk)
        common.window_of_lags(self.fit_first, self.fit_last, 3)
        if not self.lags_shown or any(not 1 <= lag <= STEPS for lag in self.lags_shown):
            raise ValueError(
                f"lags_shown is {self.lags_shown}; expected one or more lags in [1, {STEPS}], the length of a sequence."
            )


TINY = Config(
    seeds=2, hidden_size=6, updates=4, chunk=2, batch_size=8, sequences=2, test_size=60, lags_shown=(1, 64)
)
"""Runs in seconds, for tests: what it measures means nothing."""

PRESETS = {"full": Config(), "tiny": TINY}
