"""Learning a synthetic task: what the experiments that ask for it share.

config     settings of a training
training   fresh sequences at every update; the held-out loss, and how far the gradient reaches, on the way
views      learning curves and the gradient against lag, as figures and as a table
"""

from experiments.learning.config import Config

__all__ = ["Config"]
