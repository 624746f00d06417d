"""The settings that trainings have, and those of trainings on a synthetic task."""

import dataclasses
from collections.abc import Callable

import optax

from experiments import common
from experiments.learning.training import Schedule


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a training; every field can be given on the command line."""

    seed: int = 0
    """Root of all random numbers."""
    seeds: int = 3
    """Independent runs of each network; the intervals are over these."""
    hidden_size: int = 128
    """N, hidden units of every network."""
    updates: int = 1500
    """Optimiser updates of each run."""
    chunk: int = 100
    """Updates between two looks at the held-out loss; divides `updates`."""
    batch_size: int = 32
    """Sequences an update."""
    learning_rate: float = 1e-3
    """Of the optimiser, one for all networks."""
    clip_norm: float = 1.0
    """Global norm to which gradients are clipped."""

    def __post_init__(self):
        for name, low, high in (
            ("seed", 0, 2**31 - 1),
            ("seeds", 2, 1000),
            ("hidden_size", 2, 4096),
            ("updates", 1, 10**7),
            ("chunk", 1, 10**6),
            ("batch_size", 1, 10**5),
        ):
            common.within(name, getattr(self, name), low, high)
        for name, low, high in (("learning_rate", 0.0, 1.0), ("clip_norm", 0.0, 1e6)):
            common.strictly_between(name, getattr(self, name), low, high)
        common.whole_chunks(self.updates, self.chunk)

    def schedule(self, optimiser: Callable[[float], optax.GradientTransformation]) -> Schedule:
        """How networks are trained, all alike."""
        return Schedule(
            hidden_size=self.hidden_size,
            updates=self.updates,
            chunk=self.chunk,
            optimiser=optimiser,
            learning_rate=self.learning_rate,
            clip_norm=self.clip_norm,
        )


@dataclasses.dataclass(frozen=True)
class TaskConfig(Config):
    """Settings of a training on a synthetic task."""

    held_out: int = 256
    """Sequences of the held-out loss; those of an update are always new ones."""

    def __post_init__(self):
        super().__post_init__()
        common.within("held_out", self.held_out, 1, 10**5)
