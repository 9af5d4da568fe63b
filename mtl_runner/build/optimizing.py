"""Optimizer and schedule from the configuration."""

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mtl_runner.build.words import Node
from mtl_runner.config import TrainerConfig, plug
from mtl_runner.learner import Learner, Stopping
from mtl_runner.model import Network
from mtl_runner.weighting.base import Weighting


def make_learner(config: Node, options: TrainerConfig, network: Network, weighting: Weighting, epochs: int) -> Learner:
    """Optimizer, schedule and early stopping of one network."""
    optimizer, scheduler = make_optimizer(config, [{"params": network.parameters()}, *weighting.parameter_groups()], epochs)
    stopping = options.early_stopping
    return Learner(network, optimizer, scheduler, options.clip_norm, Stopping(stopping.patience, stopping.min_delta))


def make_optimizer(config: Node, groups: list[dict[str, Any]], epochs: int) -> tuple[Optimizer, LRScheduler | None]:
    optimizer = plug(config["optimizer"], "optimizer", config["allow_modules"])(groups)
    if not config["scheduler"]:
        return optimizer, None
    schedule = plug(config["scheduler"], "scheduler", config["allow_modules"])
    return optimizer, schedule(optimizer) if torchs(schedule.func) else schedule(optimizer, epochs)


def torchs(scheduler: object) -> bool:
    """Whether a schedule is one of torch's, which take the optimizer alone; others are given the budget."""
    return str(scheduler.__module__).partition(".")[0] == "torch"
