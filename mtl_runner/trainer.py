"""The training loop."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import ceil, isfinite
from typing import Any

import torch
from torch import Tensor

from mtl_runner.batch import Batch, Split
from mtl_runner.errors import UserError
from mtl_runner.evaluate import Report, averages, evaluate, score
from mtl_runner.imbalance.base import Resampler
from mtl_runner.learner import Learner
from mtl_runner.loader import IndexLoader
from mtl_runner.model import MultiTaskModel
from mtl_runner.seeding import generator
from mtl_runner.tasks.base import Task
from mtl_runner.tasks.group import masked, pack
from mtl_runner.weighting.base import Objectives, Weighting


@dataclass(frozen=True)
class Step:
    """What a step leaves behind, on the device: losses, whether they counted, and weights, each [T]."""

    losses: Tensor
    active: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Epoch:
    """What an epoch was like."""

    number: int
    step: int
    metrics: Mapping[str, float]
    """Flat: ``train/<task>/loss``, ``validation/<task>/<metric>``, ``validation/average``, ``weight/<task>``, ``lr`` …"""


@dataclass(frozen=True)
class Plan:
    """How long and how to train; see ``conf/trainer/default.yaml``."""

    epochs: int
    steps: int | None
    monitor: str
    l1: float
    precision: str
    eval_batch_size: int
    max_skipped: int
    seed: int


@dataclass
class Progress:
    """Where the training stands; part of the checkpoint."""

    epoch: int = 0
    step: int = 0
    skipped: int = 0
    """Steps that some network did not take, as its loss was not finite."""


class Trainer:
    """Trains a model.

    Args:
        model: on the device.
        weighting: on the device; its tasks are in the order of ``model.order``.
        learners: one for each of the model's networks.
        tasks: all tasks.
        train: the training part as it was read, on the device.
        validation: the validation part, packed for the model's groups, on the device.
        loader: makes the batches.
        resamplers: by name; each epoch's training part goes through them.
        plan: budget and options.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        weighting: Weighting,
        learners: Sequence[Learner],
        tasks: Sequence[Task],
        train: Split,
        validation: Split,
        loader: IndexLoader,
        resamplers: Mapping[str, Resampler],
        plan: Plan,
    ) -> None:
        self.model = model
        self.weighting = weighting
        self.learners = list(learners)
        self.tasks = {task.name: task for task in tasks}
        self.train_split = train
        self.validation = validation
        self.loader = loader
        self.resamplers = resamplers
        self.plan = plan
        self.progress = Progress()
        self.shared = [parameter for parameter in model.sharing.shared() if parameter.requires_grad]
        self._prepared = None if resamplers else masked(pack(train, model.task_groups))
        self._run_again()

    # ---- one step -------------------------------------------------------------------------------------------------

    def train_step(self, batch: Batch) -> Step:
        for learner in self.running:
            learner.zero_grad()
        objectives = self.objectives(batch)
        weights = self.weighting.backward(objectives)
        if (penalty := self.penalty()) is not None:
            penalty.backward()
        if ready := self.ready(objectives):
            for learner in ready:
                learner.step()
            self.weighting.after_step(lambda: self.objectives(batch).losses)
        return Step(objectives.losses, objectives.active, weights)

    def objectives(self, batch: Batch) -> Objectives:
        """Forward pass and losses of the tasks that are still being trained."""
        with self.precision():
            outputs = self.model.outputs(batch.inputs, self.groups)
        pairs = [
            self.model.task_groups[key].losses(outputs[key].float(), batch.targets[key], batch.weights.get(key))
            for key in self.groups
        ]
        return Objectives([loss for loss, _ in pairs], torch.cat([active for _, active in pairs]), self.shared)

    def penalty(self) -> Tensor | None:
        """What sharing mode and L1 add to the objective."""
        penalty = self.model.sharing.penalty()
        if self.plan.l1:
            absolute = torch.stack(
                [parameter.abs().sum() for learner in self.running for parameter in learner.network.parameters()]
            )
            penalty = self.plan.l1 * absolute.sum() + (0 if penalty is None else penalty)
        return penalty

    def precision(self) -> AbstractContextManager[Any]:
        if self.plan.precision == "bf16":
            return torch.autocast(self.loader.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    def ready(self, objectives: Objectives) -> list[Learner]:
        """The networks that can take the step: one with a loss that is not finite skips it, and that is counted."""
        finite = objectives.losses.isfinite()
        broken = [] if bool(finite.all()) else [name for name, fine in zip(self.names, finite.tolist(), strict=True) if not fine]
        self.progress.skipped += bool(broken)
        for learner in self.running:
            own = [name for name in broken if name in learner.network.tasks]
            learner.skipped = learner.skipped + 1 if own else 0
            if learner.skipped > self.plan.max_skipped:
                raise UserError(
                    f"training diverged: no finite loss of {', '.join(own)} in {learner.skipped} steps in a row "
                    f"(trainer.max_skipped={self.plan.max_skipped}); try a lower optimizer.lr or trainer.clip_norm=1.0"
                )
        return [learner for learner in self.running if not learner.skipped]

    # ---- epochs ---------------------------------------------------------------------------------------------------

    def fit(self, each_step: Callable[[], None] = lambda: None) -> Iterator[Epoch]:
        """Train until the budget is used up or every network has stopped early; yields after each epoch."""
        while self.running and not self._used_up():
            yield self.epoch(each_step)

    def epoch(self, each_step: Callable[[], None] = lambda: None) -> Epoch:
        """One pass over the training part, then the validation."""
        self.progress.epoch += 1
        split = self.training_part()
        self.model.train()
        sums = torch.zeros(3, len(self.names), device=self.loader.device)
        for batch in self.loader.epoch(split, self.progress.epoch):
            step = self.train_step(batch)
            self.progress.step += 1
            counted = step.active & step.losses.isfinite() & step.weights.isfinite()
            sums += torch.stack([torch.where(counted, step.losses, 0), counted, torch.where(counted, step.weights, 0)])
            each_step()
            if self.progress.step == self.plan.steps:
                break
        losses, counts, weights = sums.tolist()
        metrics = {f"train/{name}/loss": loss / n for name, loss, n in zip(self.names, losses, counts, strict=True) if n}
        metrics |= {f"weight/{name}": weight / n for name, weight, n in zip(self.names, weights, counts, strict=True) if n}
        metrics |= {"skipped_steps": float(self.progress.skipped)} if self.progress.skipped else {}
        metrics |= {"lr": self.running[0].learning_rate}
        metrics |= self._validate()
        finite = {name: value for name, value in metrics.items() if isfinite(value)}
        return Epoch(self.progress.epoch, self.progress.step, finite)

    def steps_per_epoch(self) -> int:
        return self.loader.batches(self.training_part())

    def restore_best(self) -> None:
        """Give every network the weights of its best epoch."""
        for learner in self.learners:
            learner.restore_best()

    def _validate(self) -> dict[str, float]:
        report = evaluate(self.model, self.validation, self.plan.eval_batch_size)
        for learner in self.running:
            learner.end_epoch(self._score(learner, report), self.progress.epoch)
            if learner.stopping.done:  # from here on it is evaluated, beside those still in training, at its best
                learner.restore_best()
        self._run_again()
        metrics = {f"validation/{name}/loss": loss for name, loss in report.losses.items()}
        metrics |= {
            f"validation/{task}/{name}": value for task, values in report.metrics.items() for name, value in values.items()
        }
        average = averages(report.metrics, list(self.tasks.values())).get("primary")
        return metrics if average is None else metrics | {"validation/average": average}

    def _score(self, learner: Learner, report: Report) -> float | None:
        """What the learner's early stopping looks at: the named task, else its main tasks, else all that it has."""
        own = [self.tasks[name] for name in learner.network.tasks]
        monitored = [task for task in own if task.name == self.plan.monitor]
        return score(report.metrics, monitored or [task for task in own if task.main] or own)

    def training_part(self) -> Split:
        """The rows of this epoch, ready for the loss."""
        return self._prepared or masked(pack(self._resampled(), self.model.task_groups))

    def fit_criteria(self) -> None:
        """Show the training targets, as they are after resampling, to the imbalance criteria."""
        packed = pack(self._resampled(), self.model.task_groups)
        for key, group in self.model.task_groups.items():
            group.fit(packed.targets[key])

    def _resampled(self) -> Split:
        split = self.train_split
        targets = {name: task.spec for name, task in self.tasks.items()}
        for name, resampler in self.resamplers.items():
            served = {task: targets[task] for task in resampler.serves(targets)}
            split = resampler(split, served, generator(self.plan.seed, name, self.progress.epoch))
        return split

    def _run_again(self) -> None:
        """Note which networks are still to be trained, and their tasks in the order of the losses."""
        self.running = [learner for learner in self.learners if not learner.stopping.done]
        self.groups = [key for learner in self.running for key in learner.network.groups]
        self.names = [name for learner in self.running for name in learner.network.tasks]

    def _used_up(self) -> bool:
        done, budget = (
            (self.progress.epoch, self.plan.epochs) if self.plan.steps is None else (self.progress.step, self.plan.steps)
        )
        return done >= budget

    # ---- checkpoint -----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "weighting": self.weighting.state_dict(),
            "learners": [learner.state_dict() for learner in self.learners],
            "progress": vars(self.progress) | {},
            "torch_rng": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.weighting.load_state_dict(state["weighting"])
        for learner, saved in zip(self.learners, state["learners"], strict=True):
            learner.load_state_dict(saved)
        self.progress = Progress(**state["progress"])
        torch.set_rng_state(state["torch_rng"].cpu())
        self._run_again()


def planned_epochs(epochs: int | None, steps: int | None, steps_per_epoch: int) -> int:
    """The budget in epochs; a budget in steps takes as many epochs as it begins."""
    if steps is not None:
        return ceil(steps / steps_per_epoch)
    assert epochs is not None  # one of the two is given: the configuration was checked
    return epochs
