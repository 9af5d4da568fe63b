"""All that training needs, from the configuration."""

import functools
import logging
from collections.abc import Sequence
from dataclasses import replace

import torch

from mtl_runner.batch import Data
from mtl_runner.build.checks import ONE_ROW
from mtl_runner.build.model import make_weighting
from mtl_runner.build.optimizing import make_learner
from mtl_runner.build.strategies import make_strategies
from mtl_runner.build.words import Node, of_gradients, option
from mtl_runner.config import TrainerConfig
from mtl_runner.encoders.stacked import StackedBatchNorm
from mtl_runner.errors import NotApplicable, UserError, choices, nearest
from mtl_runner.imbalance.base import SecondPhase
from mtl_runner.loader import IndexLoader, TrainingRows
from mtl_runner.model import MultiTaskModel, Network
from mtl_runner.plan import Plan, Progress, planned_epochs
from mtl_runner.seeding import derive
from mtl_runner.tasks.base import Task
from mtl_runner.trainer import Trainer
from mtl_runner.training import Second, Training
from mtl_runner.weighting.base import Weighting
from mtl_runner.weighting.equal import Equal

BATCH_NORMS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, StackedBatchNorm)
log = logging.getLogger(__name__)


def make_training(config: Node, options: TrainerConfig, data: Data, model: MultiTaskModel, device: torch.device) -> Training:
    """Everything that training needs, on the device; ``model`` is moved there."""
    _check_monitor(options.early_stopping.monitor, model.tasks)
    if model.sharing.independent and option(config["weighting"]) != "equal":
        log.info("note: nothing is shared, so weighting=%s plays no part", option(config["weighting"]))
    elif of_gradients(config) and len(model.tasks) == 1:
        log.info("note: one task alone shares nothing, so weighting=%s plays no part", option(config["weighting"]))
    model.to(device)
    if options.batch_size == 1 and any(isinstance(module, BATCH_NORMS) for module in model.modules()):
        raise NotApplicable(ONE_ROW)
    making = _Trainers(config, options, data, model, device)
    phases = [strategy for strategy in make_strategies(config).values() if isinstance(strategy, SecondPhase)]
    for phase in phases:
        _check_second(phase, config, data, model)
    second = [Second(phase.epochs, functools.partial(making.second, phase)) for phase in phases]
    training = Training(model, making.first(), *second)
    if options.log_gradients_every and not any(trainer.shared for trainer in training.trainers):
        log.info("note: no parameters are shared and trained, so trainer.log_gradients_every plays no part")
    return training


def _check_second(phase: SecondPhase, config: Node, data: Data, model: MultiTaskModel) -> None:
    """Where heads read what other heads say, one of them cannot be trained anew without the rest."""
    served = phase.serves(data.targets)
    if model.sharing.outputs_feed and (left := [name for name in data.targets if name not in served]):
        raise NotApplicable(
            f"sharing={option(config['sharing'])}: heads read other tasks' outputs, and those of {', '.join(left)} stay as they "
            "are while others are trained once more; take sharing.through=features, or another imbalance strategy"
        )


class _Trainers:
    """Makes the trainers of each phase."""

    def __init__(self, config: Node, options: TrainerConfig, data: Data, model: MultiTaskModel, device: torch.device) -> None:
        self.config = config
        self.options = options
        self.data = data
        self.model = model
        self.loader = IndexLoader(options.batch_size, config["seed"], device)

    def first(self) -> list[Trainer]:
        """One for each network."""
        trainers = [self._first(network) for network in self.model.networks()]
        sizes = [trainer.rows.sizes() for trainer in trainers]
        before, after = (sum(counts) for counts in zip(*sizes, strict=True))
        if before != after:
            over = f", those of {len(trainers)} networks together" if len(trainers) > 1 else ""
            log.info("note: %s training rows become %s an epoch%s", f"{before:,}", f"{after:,}", over)
        if all(trainer.rows.unchanged() for trainer in trainers):
            log.info("note: resampling finds nothing to change in the training rows")
        return trainers

    def _first(self, network: Network) -> Trainer:
        rows, options = self._rows(network), self.options
        batches = self.loader.batches(rows.epoch(0), rows.plan(0, options.batch_size))
        plan = self._plan(planned_epochs(options.epochs, options.steps, batches))
        return self._trainer(network, make_weighting(self.config, self.model, network), rows, plan)

    def second(self, phase: SecondPhase, epochs: int, steps: int) -> list[Trainer]:
        """The heads of the tasks that ``phase`` serves, made ready; all else is frozen."""
        networks = self.model.second_networks(phase.serves(self.data.targets))
        self.model.requires_grad_(False)
        for key in (key for network in networks for key in network.groups):
            group = self.model.task_groups[key]
            if phase.reset:
                group.renew(derive(self.config["seed"], "second phase"))
            group.criterion = phase.criterion().to(self.loader.device)
            group.requires_grad_()
        plan = replace(self._plan(epochs + phase.epochs), steps=None, start=epochs)
        trainers = [self._trainer(network, Equal(network.tasks), self._rows(network), plan) for network in networks]
        for trainer in trainers:
            trainer.progress = Progress(epochs, steps)
        return trainers

    def _rows(self, network: Network) -> TrainingRows:
        targets = {name: self.data.targets[name] for name in network.tasks}
        part = self.data.splits["train"].only(network.tasks)
        return TrainingRows(part, targets, make_strategies(self.config), self.config["seed"], self.data.augmentation)

    def _trainer(self, network: Network, weighting: Weighting, rows: TrainingRows, plan: Plan) -> Trainer:
        weighting = weighting.to(self.loader.device)
        learner = make_learner(self.config, self.options, network, weighting, plan.epochs - plan.start)
        validation = self.data.splits["validation"].only(network.tasks).to(self.loader.device)
        trainer = Trainer(self.model, learner, weighting, rows, validation, self.loader, plan)
        trainer.fit_criteria()
        return trainer

    def _plan(self, epochs: int) -> Plan:
        options = self.options
        return Plan(
            epochs,
            options.steps,
            options.early_stopping.monitor,
            options.l1,
            options.precision,
            options.eval_batch_size,
            options.max_skipped,
            options.log_gradients_every,
        )


def _check_monitor(monitor: str, tasks: Sequence[Task]) -> None:
    allowed = ["average", *(task.name for task in tasks)]
    if monitor not in allowed:
        said = f"{choices(allowed)}{nearest(monitor, allowed)}"
        raise UserError(f"trainer.early_stopping.monitor={monitor}: there is no such task; allowed are {said}")
