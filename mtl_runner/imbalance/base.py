"""The places where an imbalance strategy can act, and what each place hands to it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from mtl_runner.batch import Split, TargetSpec, labelled

Place = Literal["data", "loss"]


class Strategy(ABC):
    """Something done about imbalance, at one place, for the tasks whose kind it can serve."""

    place: ClassVar[Place]
    kinds: ClassVar[frozenset[str]]
    """The kinds of task that it can serve; the others are left as they are, with one line that says so."""

    def __init__(self, tasks: Sequence[str] | None = None) -> None:
        super().__init__()
        self.tasks = tasks

    def serves(self, targets: Mapping[str, TargetSpec]) -> list[str]:
        """The tasks that it acts on: of a kind that it can serve, and named in ``tasks`` where that is given."""
        return [name for name, spec in targets.items() if spec.kind in self.kinds and (self.tasks is None or name in self.tasks)]


class Resampler(Strategy):
    """Chooses the rows of the training part anew in each epoch."""

    place: ClassVar[Place] = "data"

    @abstractmethod
    def __call__(self, split: Split, targets: Mapping[str, TargetSpec], generator: torch.Generator) -> Split:
        """The training part of this epoch, from the one that was read; ``targets`` are the tasks served."""


class Criterion(Strategy, nn.Module):
    """Takes the place of a task kind's element-wise loss.

    One object serves the T tasks that run as one; what it learns from the training targets is kept per task.
    """

    place: ClassVar[Place] = "loss"

    def fit(self, targets: Tensor, classes: int) -> None:
        """Learn from the training targets [T, N] as they are after resampling; unlabelled entries are to be passed over."""

    @abstractmethod
    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Element-wise loss [T, N] of logits [T, N] (binary) or [T, N, C], for targets [T, N] without missing labels."""


def class_counts(targets: Tensor, classes: int) -> Tensor:
    """Number of labelled examples of each class, [T, C] float32, for targets [T, N]."""
    mask = labelled(targets)
    labels = torch.where(mask, targets, 0).long()
    counts = torch.zeros(len(targets), classes, dtype=torch.long, device=targets.device)
    return counts.scatter_add_(1, labels, mask.long()).float()


def inverse_frequency(targets: Tensor, classes: int) -> Tensor:
    """Class weights N / (C · n_c) [T, C], scikit-learn's ``balanced``: they average 1 over the labelled examples.

    C counts the classes that occur; a class without an example gets weight 1 (it is never looked up in training).
    """
    counts = class_counts(targets, classes)
    present = counts > 0
    weights = counts.sum(1, keepdim=True) / (present.sum(1, keepdim=True) * counts)
    return torch.where(present, weights, 1.0)


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """-log of the probability of the true class, [T, N]: of logits [T, N] with 0/1 floats, or [T, N, C] with class numbers."""
    if targets.is_floating_point():
        return nn.functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
    return nn.functional.cross_entropy(outputs.movedim(-1, 1), targets, reduction="none")


def of_class(weights: Tensor, targets: Tensor) -> Tensor:
    """The weight of each example's class, [T, N], from weights [T, C] and targets [T, N]."""
    return weights.gather(1, targets.long())
