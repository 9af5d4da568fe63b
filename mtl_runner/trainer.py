"""Training of one network: the step, and an epoch of steps."""

import contextlib
import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor

from mtl_runner.batch import Batch, Split
from mtl_runner.errors import UserError
from mtl_runner.evaluate import Report, evaluate, score
from mtl_runner.learner import Learner
from mtl_runner.loader import IndexLoader, TrainingRows
from mtl_runner.model import MultiTaskModel
from mtl_runner.tasks.group import masked, pack
from mtl_runner.weighting.base import Objectives, Weighting


@dataclass(frozen=True)
class Step:
    """What a step leaves behind, on the device: losses, whether they counted, and weights, each [T]."""

    losses: Tensor
    active: Tensor
    weights: Tensor


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


@dataclass
class Progress:
    """Where the training of a network stands; part of the checkpoint."""

    epoch: int = 0
    step: int = 0
    skipped: int = 0
    """Steps that were not taken, as a loss was not finite."""
    skipped_in_a_row: int = 0


class Trainer:
    """Trains one network: the whole model where anything couples its tasks, one task's part of it where nothing does.

    Args:
        model: on the device.
        learner: the network's optimizer, schedule and early stopping.
        weighting: on the device; its tasks are those of the network, in their order.
        rows: the training part with the network's tasks, on the device.
        validation: the validation part with the network's tasks, on the device.
        loader: makes the batches.
        plan: budget and options.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        learner: Learner,
        weighting: Weighting,
        rows: TrainingRows,
        validation: Split,
        loader: IndexLoader,
        plan: Plan,
    ) -> None:
        self.model = model
        self.learner = learner
        self.weighting = weighting
        self.groups = {key: model.task_groups[key] for key in learner.network.groups}
        self.names = list(learner.network.tasks)
        self.tasks = {task.name: task for group in self.groups.values() for task in group.tasks}
        self.loader = loader
        self.plan = plan
        self.progress = Progress()
        self.shared = [parameter for parameter in model.sharing.shared() if parameter.requires_grad]
        self.rows = rows
        self.validation = pack(validation, self.groups)
        self._prepared = None if rows.acting else masked(pack(rows.split, self.groups))
        self._at_best: Report | None = None
        self._before_cut: dict[str, Any] | None = None

    # ---- one step -------------------------------------------------------------------------------------------------

    def train_step(self, batch: Batch) -> Step:
        self.learner.zero_grad()
        objectives = self.objectives(batch)
        weights = self.weighting.backward(objectives)
        if (penalty := self.penalty()) is not None:
            penalty.backward()
        if self.finite(objectives):
            self.learner.step()
        return Step(objectives.losses, objectives.active, weights)

    def objectives(self, batch: Batch) -> Objectives:
        """Forward pass and losses."""
        with self.precision():
            outputs = self.model.outputs(batch.inputs, self.groups)
        pairs = [
            group.losses(outputs[key].float(), batch.targets[key], batch.weights.get(key)) for key, group in self.groups.items()
        ]
        return Objectives([loss for loss, _ in pairs], torch.cat([active for _, active in pairs]), self.shared)

    def penalty(self) -> Tensor | None:
        """What sharing mode and L1 add to the objective."""
        penalty = self.model.sharing.penalty()
        if self.plan.l1:
            absolute = torch.stack([parameter.abs().sum() for parameter in self.learner.network.parameters()])
            penalty = self.plan.l1 * absolute.sum() + (0 if penalty is None else penalty)
        return penalty

    def precision(self) -> AbstractContextManager[Any]:
        if self.plan.precision == "bf16":
            return torch.autocast(self.loader.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    def finite(self, objectives: Objectives) -> bool:
        """Whether the step can be taken; one with a loss that is not finite is skipped and counted."""
        finite = objectives.losses.isfinite()
        if bool(finite.all()):
            self.progress.skipped_in_a_row = 0
            return True
        self.progress.skipped += 1
        self.progress.skipped_in_a_row += 1
        if self.progress.skipped_in_a_row > self.plan.max_skipped:
            broken = [name for name, fine in zip(self.names, finite.tolist(), strict=True) if not fine]
            raise UserError(
                f"training diverged: no finite loss of {', '.join(broken)} in {self.progress.skipped_in_a_row} steps in a row "
                f"(trainer.max_skipped={self.plan.max_skipped}); try a lower optimizer.lr or trainer.clip_norm=1.0"
            )
        return False

    # ---- epochs ---------------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether there is budget left, and the network has not stopped early."""
        done, budget = self.progress.epoch, self.plan.epochs
        if self.plan.steps is not None:
            done, budget = self.progress.step, self.plan.steps
        return done < budget and not self.learner.stopping.done

    def epoch(self, each_step: Callable[[], None] = lambda: None) -> dict[str, float]:
        """One pass over the training part; returns ``train/<task>/loss``, ``weight/<task>`` …"""
        split = self.training_part()
        if self.plan.steps is not None and self.plan.steps - self.progress.step < self.loader.batches(split):
            self._before_cut = copy.deepcopy(self._state() | {"weights": self.learner.weights()})
        self.progress.epoch += 1
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
        return metrics | {f"weight/{name}": weight / n for name, weight, n in zip(self.names, weights, counts, strict=True) if n}

    def validate(self) -> Report:
        """Validation metrics of the network's tasks; after it has stopped, those of its best weights."""
        if self._at_best is not None:
            return self._at_best
        report = evaluate(self.model, self.validation, self.plan.eval_batch_size)
        if self.learner.stopping.done:
            self._at_best = report
        return report

    def end_epoch(self, report: Report) -> None:
        """Early stopping, best weights, learning rate. A network that stops takes its best weights at once."""
        self.learner.end_epoch(self._score(report), self.progress.epoch)
        if self.learner.stopping.done:
            self.learner.restore_best()

    def _score(self, report: Report) -> float | None:
        """What early stopping looks at: the named task, else the main tasks, else all that there are."""
        tasks = list(self.tasks.values())
        monitored = [task for task in tasks if task.name == self.plan.monitor]
        return score(report.metrics, monitored or [task for task in tasks if task.main] or tasks)

    def training_part(self) -> Split:
        """The rows of the next epoch, ready for the loss."""
        return self._prepared or masked(pack(self.rows.epoch(self.progress.epoch + 1), self.groups))

    def fit_criteria(self) -> None:
        """Show the training targets, as they are after resampling, to the imbalance criteria."""
        packed = pack(self.rows.epoch(0), self.groups)
        for key, group in self.groups.items():
            group.fit(packed.targets[key])

    # ---- checkpoint -----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All but the model's weights, and the whole state before an epoch that the budget in steps cut short."""
        return {"now": self._state(), "before_cut": self._before_cut}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``.

        With more steps to take than it had, an epoch that was cut short is taken up again from its beginning: the steps are
        then those of a run that had the larger budget from the start.
        """
        now, cut = state["now"], state["before_cut"]
        again = cut is not None and self.plan.steps is not None and self.plan.steps > now["progress"]["step"]
        chosen = cut if again else now
        self._before_cut = None if again else cut
        self.learner.load_state_dict(chosen["learner"])
        self.weighting.load_state_dict(chosen["weighting"])
        self.progress = Progress(**chosen["progress"])
        if again:
            self.learner.load_weights(chosen["weights"])

    def _state(self) -> dict[str, Any]:
        return {
            "learner": self.learner.state_dict(),
            "weighting": self.weighting.state_dict(),
            "progress": vars(self.progress) | {},
        }


def planned_epochs(epochs: int | None, steps: int | None, steps_per_epoch: int) -> int:
    """The budget in epochs; a budget in steps takes as many epochs as it begins."""
    if steps is not None:
        return ceil(steps / steps_per_epoch)
    assert epochs is not None  # one of the two is given: the configuration was checked
    return epochs
