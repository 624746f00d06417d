"""The metrics of training, line by line."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments.digits.config import Config
from experiments.digits.flow import CLIPPED, UNCLIPPED, Result
from experiments.digits.networks import networks


def metrics(config: Config, result: Result) -> Iterator[dict[str, Any]]:
    """One line a chunk of updates, for every network, clip setting and seed."""
    for m, network in enumerate(networks(config)):
        for c, clip in ((CLIPPED, "yes"), (UNCLIPPED, "no")):
            for seed in range(config.seeds):
                for i, accuracy in enumerate(result.accuracy[m, c, seed]):
                    chunk = slice(i * config.chunk, (i + 1) * config.chunk)
                    norms = result.updates.gradient_norm[m, c, seed, chunk]
                    yield {
                        "network": network.name,
                        "clip": clip,
                        "seed": seed,
                        "update": (i + 1) * config.chunk,
                        "loss": float(result.updates.loss[m, c, seed, chunk].mean()),
                        "gradient_norm": float(np.median(norms)),
                        "clipped": float((norms > config.clip_norm).mean()) if c == CLIPPED else 0.0,
                        "test_accuracy": float(accuracy),
                    }
