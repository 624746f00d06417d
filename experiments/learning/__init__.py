"""Learning: what the experiments that train networks on a task share.

config     settings of a training
training   batches drawn on the device, seeds side by side, a look at the network now and then
problems   synthetic tasks: the held-out loss, and how far the gradient reaches
views      learning curves and the gradient against lag, as figures and as a table
"""

from experiments.learning.config import Config, TaskConfig

__all__ = ["Config", "TaskConfig"]
