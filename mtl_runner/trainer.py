"""Training of one network: the step, and an epoch of steps."""

import contextlib
import copy
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from mtl_runner.batch import Batch, Split
from mtl_runner.errors import UserError
from mtl_runner.evaluate import Report, evaluate
from mtl_runner.gradient_statistics import GradientStatistics, gramian
from mtl_runner.imbalance.base import Adjuster
from mtl_runner.learner import Learner
from mtl_runner.loader import IndexLoader, TrainingRows
from mtl_runner.model import MultiTaskModel
from mtl_runner.plan import Plan, Progress
from mtl_runner.seeding import Replay
from mtl_runner.tasks.group import masked, pack
from mtl_runner.validation import adjust, watched
from mtl_runner.weighting.base import Objectives, Weighting, mean_losses

AFFINITY_EVERY = 10
"""Of so many steps of an epoch gradients are compared in one, the first, where a sharing mode asks how far tasks agree."""


@dataclass(frozen=True)
class Step:
    """What a step leaves behind, on the device: losses, whether they counted, and weights, each [T]."""

    losses: Tensor
    active: Tensor
    weights: Tensor
    gramian: Tensor | None
    """[T, T]: inner products of the tasks' gradients, where they were computed."""

    @classmethod
    def of(cls, draws: Sequence[Objectives], weights: Tensor, gramian: Tensor | None) -> "Step":
        """Losses are the mean over the draws in which a task has labels."""
        return cls(*mean_losses(draws), weights, gramian)


class Trainer:
    """Trains one network: the whole model where anything couples its tasks, one task's part of it where nothing does.

    Args:
        model: on the device.
        learner: the network's optimizer, schedule and early stopping.
        weighting: on the device; its tasks are those of the network, in their order.
        rows: the training part with the network's tasks.
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
        self.shared: list[nn.Parameter] = []
        self.private: list[nn.Parameter] = []
        self.last_layer: list[nn.Parameter] = []
        self.look_at_what_is_shared()
        self.rows = rows
        self.validation = pack(validation, self.groups)
        self._prepared: Split | None = None
        self._at_best: Report | None = None
        self.statistics = GradientStatistics(self.names, weighting.gramian_of)
        self.replay = Replay(model)
        self._before_cut: dict[str, Any] | None = None
        self._epoch_began = 0

    def look_at_what_is_shared(self) -> None:
        """Some modes change it in the course of training."""
        self.shared = [parameter for parameter in self.model.sharing.shared() if parameter.requires_grad]
        self.last_layer = self.model.sharing.last_layer()
        known = {id(parameter) for parameter in self.shared}
        self.private = [parameter for parameter in self.learner.network.parameters() if id(parameter) not in known]
        self.weighting.regroup(self._grouping())

    def _grouping(self) -> tuple[str, ...]:
        """Tells which parameters are shared by which tasks."""
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        return (*(names[id(parameter)] for parameter in self.shared), *map(str, self.model.sharing.grouping()))

    # ---- one step -------------------------------------------------------------------------------------------------

    def train_step(self, batch: Batch) -> Step:
        self.learner.zero_grad()
        parts = [self.rows.mixed(part, self.progress.step, i) for i, part in enumerate(batch.chunk(self.weighting.draws))]
        draws = [self.objectives(part) for part in parts]
        sampled = self.sampled_gramian(draws[0])
        weights = self.weighting.backward(*draws)
        if (penalty := self.penalty()) is not None:
            penalty.backward()
        step = Step.of(draws, weights, self.weighting.gramian if sampled is None else sampled)
        norm = self.learner.gradient_norm()
        if self.finite(step, norm):
            self.learner.step(norm)
            self.weighting.after_step(lambda: self.losses_again(parts[0]))
        return step

    def objectives(self, batch: Batch) -> Objectives:
        """Forward pass and losses."""
        boundary: Sequence[Tensor] = ()
        copies: Sequence[Sequence[Tensor]] = ()
        if self.weighting.needs == "trajectory":
            self.replay.mark()
        with self.precision():
            if self.weighting.apart:
                outputs, boundary, copies = self.model.outputs_apart(batch.inputs, self.groups)
            else:
                outputs = self.model.outputs(batch.inputs, self.groups)
        pairs = [
            group.losses(outputs[key].float(), batch.targets[key], batch.weights.get(key)) for key, group in self.groups.items()
        ]
        parts, active = zip(*pairs, strict=True)
        return Objectives(parts, torch.cat(active), self.shared, self.private, boundary, copies, last_layer=self.last_layer)

    def losses_again(self, batch: Batch) -> Tensor:
        """The losses [T] of a batch with the parameters as they are now, and the masks that the last forward pass drew."""
        with torch.no_grad(), self.replay.again():
            return self.objectives(batch).losses

    def sampled_gramian(self, objectives: Objectives) -> Tensor | None:
        """That of the steps to be looked at, of which the first is one, where the weighting computes none of its own."""
        if self.weighting.needs in ("gramian", "jacobian") or not self.shared:
            return None
        every, step = self.plan.log_gradients_every, self.progress.step
        asked = bool(self.model.sharing.affinity) and (step - self._epoch_began) % AFFINITY_EVERY == 0
        return gramian(objectives) if asked or (every is not None and step % every == 0) else None

    def penalty(self) -> Tensor | None:
        """What sharing mode and L1 add to the objective."""
        penalty = self.model.sharing.penalty() if self.learner.network.shares else None
        if self.plan.l1:
            absolute = torch.stack([parameter.abs().sum() for parameter in self.learner.network.parameters()])
            penalty = self.plan.l1 * absolute.sum() + (0 if penalty is None else penalty)
        return penalty

    def precision(self) -> AbstractContextManager[Any]:
        if self.plan.precision == "bf16":
            return torch.autocast(self.loader.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    def finite(self, step: Step, norm: Tensor) -> bool:
        """Whether the step can be taken; one with a loss, weight or gradient that is not finite is skipped and counted."""
        if math.isfinite((step.losses + step.weights).sum().add(norm)):
            self.progress.skipped_in_a_row = 0
            return True
        self.progress.skipped += 1
        self.progress.skipped_in_a_row += 1
        if self.progress.skipped_in_a_row > self.plan.max_skipped:
            raise UserError(
                f"training diverged: no finite loss or gradient of {', '.join(self._broken(step))} "
                f"in {self.progress.skipped_in_a_row} steps in a row "
                f"(trainer.max_skipped={self.plan.max_skipped}); try a lower optimizer.lr or trainer.clip_norm=1.0"
            )
        return False

    def _broken(self, step: Step) -> list[str]:
        """The tasks whose losses are not finite; else those without a finite weight; else all of them."""
        for values in (step.losses, step.weights):
            if broken := [name for name, fine in zip(self.names, values.isfinite().tolist(), strict=True) if not fine]:
                return broken
        return self.names

    # ---- epochs ---------------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether there is budget left, and the network has not stopped early."""
        done, budget = self.progress.epoch, self.plan.epochs
        if self.plan.steps is not None:
            done, budget = self.progress.step, self.plan.steps
        return done < budget and not self.learner.stopping.done

    def epoch(self, each_step: Callable[[], None] = lambda: None) -> dict[str, float]:
        """One pass over the training part; returns ``train/<task>/loss``, ``weight/<task>``, ``gradient/<task>/norm`` …"""
        split = self.training_part()
        number = self.progress.epoch + 1
        plan = self.rows.plan(number, self.loader.batch_size)
        if self.plan.steps is not None and self.plan.steps - self.progress.step < self.loader.batches(split, plan):
            self._before_cut = copy.deepcopy(self._state() | {"weights": self.learner.weights()})
        self.progress.epoch = number
        self._epoch_began = self.progress.step
        self._begin_epoch(number)
        sums = torch.zeros(3, len(self.names), device=self.loader.device)
        for batch in self.loader.epoch(split, number, plan):
            step = self.train_step(self.ready(batch))
            self.progress.step += 1
            counted = step.active & step.losses.isfinite() & step.weights.isfinite()
            sums += torch.stack([torch.where(counted, step.losses, 0), counted, torch.where(counted, step.weights, 0)])
            self.statistics.add(step.gramian, step.active)
            each_step()
            if self.progress.step == self.plan.steps:
                break
        self.weighting.after_epoch(sums[0] / sums[1])
        losses, counts, weights = sums.tolist()
        metrics = {f"train/{name}/loss": loss / n for name, loss, n in zip(self.names, losses, counts, strict=True) if n}
        metrics |= {f"weight/{name}": weight / n for name, weight, n in zip(self.names, weights, counts, strict=True) if n}
        metrics |= self.statistics.end_epoch()
        if self.learner.network.shares:
            self.model.sharing.after_epoch(number, self._affinity())
            metrics |= {f"sharing/{name}": value for name, value in self.model.sharing.metrics().items()}
        return metrics

    def _begin_epoch(self, number: int) -> None:
        if self.learner.network.shares:
            self.model.sharing.before_epoch(number)
        for group in self.groups.values():
            if group.criterion is not None:
                group.criterion.before_epoch(number - self.plan.start, self.plan.epochs - self.plan.start)
        self.look_at_what_is_shared()
        self.model.eval()
        for module in self.learner.network.modules:
            module.train()

    def _affinity(self) -> Tensor | None:
        """Mean cosines of the tasks' gradients in the last epoch, in the order that the sharing mode has them."""
        cosines = self.statistics.cosines
        if not self.model.sharing.affinity or cosines is None:
            return None
        places = [self.names.index(task) for task in self.model.sharing.tasks]
        return cosines[places][:, places]

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
        score = watched(report, list(self.tasks.values()), self.plan.monitor)
        self.learner.end_epoch(score, self.progress.epoch)
        if self.learner.stopping.done:
            self.learner.restore_best()

    def adjust(self, adjusters: Mapping[str, Adjuster]) -> None:
        """Choose how the outputs of these tasks are to be read, on the validation part."""
        adjust(self.model, self.groups, self.validation, adjusters, self.plan.eval_batch_size)

    def forget(self) -> None:
        """What was measured before counts no more: outputs are read in another way now."""
        self._at_best = None

    def training_part(self) -> Split:
        """The rows of the next epoch, on the device: ready for the loss, but for what ``ready`` does with each batch."""
        if self._prepared is None or self.rows.renewed:
            split = replace(self.rows.epoch(self.progress.epoch + 1), context={}).to(self.loader.device)
            self._prepared = split if self.rows.augmentation else masked(pack(split, self.groups))
        return self._prepared

    def ready(self, batch: Batch) -> Batch:
        """A batch of the training part as a step takes it: augmented, and without padding that all of its sequences end in."""
        if self.rows.augmentation:
            batch = masked(pack(self.rows.augmented(batch, self.progress.step), self.groups))
        return self.model.trimmed(batch)

    def batches(self) -> int:
        """Number of batches in the next epoch."""
        number = self.progress.epoch + 1
        return self.loader.batches(self.rows.epoch(number), self.rows.plan(number, self.loader.batch_size))

    def fit_criteria(self) -> None:
        """Show the training targets, as they are after resampling, to what learns from them."""
        packed = pack(self.rows.seen(self.loader.batch_size).to(self.loader.device), self.groups)
        for key, group in self.groups.items():
            group.fit(packed.targets[key])
        self.rows.fit(packed, {key: group.names for key, group in self.groups.items()})

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
        self.statistics.load_state_dict(chosen.get("gradients"))  # the first checkpoints had none
        self.progress = Progress(**chosen["progress"])
        if again:
            self.learner.load_weights(chosen["weights"])
        self.look_at_what_is_shared()

    def _state(self) -> dict[str, Any]:
        return {
            "learner": self.learner.state_dict(),
            "weighting": self.weighting.state_dict(),
            "gradients": self.statistics.state_dict(),
            "progress": vars(self.progress) | {},
        }
