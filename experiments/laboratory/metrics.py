"""The metrics of training, line by line."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments.laboratory.config import Config
from experiments.laboratory.flow import Result


def metrics(config: Config, result: Result) -> Iterator[dict[str, Any]]:
    """One line a chunk of updates, for every network and seed."""
    for name, training in result.training.items():
        for seed in range(config.seeds):
            for i, test_loss in enumerate(training.test_loss[:, seed]):
                chunk = slice(i * config.chunk, (i + 1) * config.chunk)
                yield {
                    "network": name,
                    "seed": seed,
                    "update": (i + 1) * config.chunk,
                    "loss": float(training.loss[chunk, seed].mean()),
                    "gradient_norm": float(np.median(training.gradient_norm[chunk, seed])),
                    "test_loss": float(test_loss),
                }
