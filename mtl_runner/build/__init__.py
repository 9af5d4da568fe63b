"""From the configuration to objects: the only part that instantiates options."""

from mtl_runner.build.checks import check_combination
from mtl_runner.build.model import make_model, make_weighting
from mtl_runner.build.optimizing import make_learner
from mtl_runner.build.options import make_device, trainer_options
from mtl_runner.build.strategies import check_strategies, make_adjusters, make_strategies
from mtl_runner.build.training import make_training

__all__ = [
    "check_combination",
    "check_strategies",
    "make_adjusters",
    "make_device",
    "make_learner",
    "make_model",
    "make_strategies",
    "make_training",
    "make_weighting",
    "trainer_options",
]
