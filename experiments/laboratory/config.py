"""The experiment's settings and tolerances, all fixed before the run, each with its reason."""

import dataclasses

from experiments import common
from experiments.digits.config import STEPS as PIXELS

STEPS = PIXELS - 1
"""T: every pixel but the last is read, every pixel but the first predicted."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the laboratory experiment; every field can be given on the command line."""

    seed: int = 0
    """Root of all random numbers but the train/test split, which is always the same."""
    seeds: int = 4
    """Independent runs of each network; the intervals are over these."""
    hidden_size: int = 32
    """N, hidden units of every network."""
    longest_memory: float = 64.0
    """Gate biases of LSTM and GRU for memories of 1 to this many steps (`initializers.chrono`): the whole image."""
    updates: int = 600
    """Optimiser updates of each run."""
    batch_size: int = 32
    """Sequences an update, drawn from the training set with replacement."""
    learning_rate: float = 3e-3
    """Of Adam, one for all networks."""
    clip_norm: float = 1.0
    """Global norm to which gradients are clipped."""
    every: int = 30
    """The decay curve is measured before every so many updates; divides `chunk`."""
    chunk: int = 60
    """Updates between two looks at the held-out loss; divides `updates`."""
    test_size: int = 497
    """Images held out of the 1797."""
    sequences: int = 8
    """Held-out sequences whose gradients are measured before and after training."""
    recorded: int = 4
    """Of these, how many are measured during training."""
    images: int = 40
    """Held-out images, one behind the other, that drive a network while its Lyapunov exponents are measured. The first
    is there to forget the start."""
    lags_shown: tuple[int, ...] = (0, 1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 63)
    """Lags at which all singular values are computed, increasing."""
    directions: int = 3
    """Leading directions with which the gradient is compared."""
    row: int = 8
    """Lags from here on are called far: a row of the image, behind which is the pixel above."""
    far: int = 32
    """The long lag at which gradients are compared: half the image."""
    fit_first: int = 8
    """First lag of the window in which rates are fitted; before it the gradient turns from the readout's direction."""
    fit_last: int = 48
    """Last lag of that window: five rows, in which each column of the image counts alike."""

    accounting_tolerance: float = 1e-10
    """Relative: 64 lags of 63 steps in float64 round to about 1e-14, more where the parts of a gradient cancel."""
    path_margin: float = 1.0
    """Decades: a path carries the gradient if without it less than a tenth arrives."""
    rate_tolerance: float = 0.05
    """Nats per step: of a random direction in N = 32 dimensions 1/√32 lies along the leading one. Losing the rest of it
    within the window would add ln √32 / 40 = .043 to the rate."""
    gate_margin: float = 1.0
    """Decades by which more of the gradient must reach the far lag: a factor of ten could not be mistaken for a
    constant factor between cells, as between the norms of h and of (h, c)."""
    slowing: float = 1 / STEPS
    """Nats per step by which a rate must rise to count as slower decay: e-fold over the whole sequence."""
    share_margin: float = 0.1
    """Share of the gradient of the parameters: a tenth of it could not be cut off unnoticed."""
    bound_tolerance: float = 1e-9
    """Nats by which a norm may exceed its bound through rounding: 63 products in float64 round to 1e-12."""

    def __post_init__(self):
        for name, low, high in (
            ("seed", 0, 2**31 - 1),
            ("seeds", 2, 1000),
            ("hidden_size", 2, 512),
            ("updates", 1, 10**6),
            ("batch_size", 1, 1797),
            ("every", 1, 10**6),
            ("chunk", 1, 10**6),
            ("test_size", 50, 1747),
            ("sequences", 1, 50),
            ("recorded", 1, self.sequences),
            ("images", 2, self.test_size),
            ("directions", 1, self.hidden_size),
            ("row", 1, STEPS - 1),
            ("far", 1, STEPS - 1),
            ("fit_first", 0, STEPS - 4),
            ("fit_last", 3, STEPS - 1),
        ):
            common.within(name, getattr(self, name), low, high)
        for name, low, high in (
            ("longest_memory", 2.0, 1e6),
            ("learning_rate", 0.0, 1.0),
            ("clip_norm", 0.0, 1e6),
            ("accounting_tolerance", 0.0, 1.0),
            ("path_margin", 0.0, 100.0),
            ("rate_tolerance", 0.0, 1.0),
            ("gate_margin", 0.0, 100.0),
            ("slowing", 0.0, 1.0),
            ("share_margin", 0.0, 1.0),
            ("bound_tolerance", 0.0, 1.0),
        ):
            common.strictly_between(name, getattr(self, name), low, high)
        common.whole_chunks(self.updates, self.chunk)
        common.window_of_lags(self.fit_first, self.fit_last, 4)
        if self.chunk % self.every:
            raise ValueError(
                f"every is {self.every} and chunk {self.chunk}; expected an every that divides chunk. Pass --every."
            )
        increasing = list(self.lags_shown) == sorted(set(self.lags_shown))
        if not self.lags_shown or not increasing or any(not 0 <= lag <= STEPS for lag in self.lags_shown):
            raise ValueError(
                f"lags_shown is {self.lags_shown}; expected one or more increasing lags in [0, {STEPS}], the length of "
                "a sequence."
            )


TINY = Config(
    seeds=2,
    hidden_size=6,
    updates=4,
    chunk=2,
    every=1,
    batch_size=8,
    sequences=2,
    recorded=1,
    images=3,
    test_size=60,
    lags_shown=(1, 63),
)
"""Runs in seconds, for tests: what it measures means nothing."""

PRESETS = {"full": Config(), "tiny": TINY}
