"""From the configuration to objects: the only part that instantiates options."""

from mtl_runner.build.checks import check_combination
from mtl_runner.build.identity import job_hash, uncoupled
from mtl_runner.build.model import make_model, make_weighting
from mtl_runner.build.optimizing import make_learner
from mtl_runner.build.options import make_device, set_up_torch, trainer_options
from mtl_runner.build.strategies import check_strategies, make_adjusters, make_strategies
from mtl_runner.build.training import make_training

__all__ = [
    "check_combination",
    "check_strategies",
    "job_hash",
    "make_adjusters",
    "make_device",
    "make_learner",
    "make_model",
    "make_strategies",
    "make_training",
    "make_weighting",
    "set_up_torch",
    "trainer_options",
    "uncoupled",
]
