"""Tasks of one kind on the same features, run as one operation."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtl_runner.batch import Fields, Split, TargetSpec, labelled
from mtl_runner.encoders.base import FeatureSpec
from mtl_runner.imbalance.base import Criterion, class_counts
from mtl_runner.metrics import confusion
from mtl_runner.tasks.base import Summary, Task, counted


class TaskGroup(nn.Module):
    """T tasks of equal signature that read the same features: one head matrix, one loss call, one metric call.

    Args:
        tasks: the T tasks.
        features: what the sharing mode hands to their head.
        seed: of the run; a head's initial weights depend on it and on its task's name.
        criterion: takes the place of the kind's loss (imbalance strategies), fitted later by ``fit``.
    """

    def __init__(self, tasks: Sequence[Task], features: FeatureSpec, seed: int, criterion: Criterion | None = None) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        self.kind = tasks[0]
        self.names = tuple(task.name for task in tasks)
        self.stream = tasks[0].spec.stream
        self.features = features
        self.criterion = criterion
        self.head = self._made_head(seed)
        self.priors: Tensor | None = None
        """Share of each class in what is trained on, [T, C], once ``fit`` has seen it."""
        self._apart = len(features.shape) + 2

    def forward(self, features: Tensor) -> Tensor:
        """Outputs [T, N, …] from features [N, …] that all read, or from those of each, [T, N, …]."""
        return self.kind.outputs(self.head(features, features.ndim == self._apart))

    def losses(self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Loss of each task and whether any label counted, both [T].

        The loss is that of the kind, or of the criterion in its place; the weight of a missing label is 0. A task without any
        label that counts has loss 0 and is not active.

        Args:
            outputs: [T, N, …].
            targets: [N, T, …] from ``masked``, without missing labels; of a mixed batch [2 N, T, …], two for each output.
            weights: like ``targets``, from ``masked``; nothing where all weights are 1.
        """
        if len(targets) > outputs.shape[1]:
            outputs = torch.cat([outputs, outputs], 1)
        targets, weights = targets.transpose(0, 1), None if weights is None else weights.transpose(0, 1)
        if self.criterion is None:
            return self.kind.loss(outputs, targets, weights)
        return self.criterion.loss(outputs, targets, weights), counted(targets, weights)

    def fit(self, targets: Tensor) -> None:
        """Show the training targets [N, T, …] to the criterion, and count their classes."""
        targets, classes = targets.transpose(0, 1), len(self.kind.spec.classes)
        if classes:
            counts = class_counts(targets, classes)
            self.priors = counts / counts.sum(1, keepdim=True)
        if self.criterion is not None:
            self.criterion.names = self.names
            self.criterion.fit(targets.cpu(), classes)  # in float64, which Apple's devices do not have
            self.criterion.to(targets.device)

    def renew(self, seed: int) -> None:
        """Give the head initial weights of another seed."""
        self.head.load_state_dict(self._made_head(seed).state_dict())

    def _made_head(self, seed: int) -> nn.Module:
        head = self.kind.head(self.features, self.names, seed)
        return head if self.criterion is None else self.criterion.head(head)

    @property
    def specs(self) -> list[TargetSpec]:
        """Of the T tasks, as they are now: how outputs are read may be chosen after training."""
        return [task.spec for task in self.tasks]

    def evaluate(self, outputs: Tensor, targets: Tensor, context: Fields | None = None) -> dict[str, dict[str, float]]:
        """Metrics by task, primary first; NaN where undefined."""
        return self._by_task(self.kind.evaluate(outputs, targets.transpose(0, 1), self.specs, context))

    def summarise(self, outputs: Tensor, targets: Tensor, context: Fields | None = None) -> Summary:
        """What a kind that is measured batch by batch keeps of one; ``targets`` are [N, T, …]."""
        return self.kind.summarise(outputs, targets.transpose(0, 1), self.specs, context)

    def evaluated(self, summary: Summary) -> dict[str, dict[str, float]]:
        """Metrics by task from the summary of all batches."""
        return self._by_task(self.kind.evaluated(summary, self.specs))

    def _by_task(self, values: dict[str, Tensor]) -> dict[str, dict[str, float]]:
        table = torch.stack([values[name] for name in values]).double().cpu().tolist()
        columns = dict(zip(values, table, strict=True))
        return {task.name: {metric.name: columns[metric.name][i] for metric in task.metrics} for i, task in enumerate(self.tasks)}

    def confusions(self, outputs: Tensor, targets: Tensor) -> dict[str, list[list[int]]]:
        """Confusion matrix of each task, rows true and columns predicted; empty for kinds without classes."""
        predicted = self.kind.decide(outputs, self.specs)
        if predicted is None:
            return {}
        matrices = confusion(predicted, targets.transpose(0, 1), len(self.tasks[0].spec.classes)).tolist()
        return dict(zip(self.names, matrices, strict=True))


def pack(split: Split, groups: dict[str, TaskGroup]) -> Split:
    """The split with the targets and weights of each group's tasks side by side, [N, T, …], under the group's key.

    Done once and not in each step, so that a step takes its rows with one operation per group and not one per task. The
    targets of a single task are not copied: maps of labels are as large as images.
    """
    targets = {key: _beside([split.targets[name] for name in group.names]) for key, group in groups.items()}
    weights = {}
    for key, group in groups.items():
        if any(name in split.weights for name in group.names):
            ones = torch.ones(len(targets[key]), device=targets[key].device)
            weights[key] = torch.stack([split.weights.get(name, ones) for name in group.names], 1)
    return Split(split.inputs, targets, {key: group.stream for key, group in groups.items()}, weights, split.context)


def _beside(targets: list[Tensor]) -> Tensor:
    return targets[0].unsqueeze(1) if len(targets) == 1 else torch.stack(targets, 1)


def masked(packed: Split) -> Split:
    """A packed split ready for ``losses``: every label that is missing becomes a label of weight 0.

    A group whose labels are all there and weigh the same gets no weights: its loss is a plain mean.
    """
    masks = {key: labelled(targets) for key, targets in packed.targets.items()}
    weights = {}
    for key, mask in masks.items():
        if key in packed.weights or not bool(mask.all()):
            given = packed.weights.get(key, torch.ones((), device=mask.device))
            weights[key] = mask * given.reshape(given.shape + (1,) * (mask.ndim - given.ndim))
    targets = {key: torch.where(masks[key], value, 0) if key in weights else value for key, value in packed.targets.items()}
    return Split(packed.inputs, targets, packed.streams, weights, packed.context)
