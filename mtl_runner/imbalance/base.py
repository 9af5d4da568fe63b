"""The places where an imbalance strategy can act, and what each place hands to it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from mtl_runner.batch import Batch, Decision, Split, TargetSpec, labelled

_AT_ONCE = 2**22
"""Labels that are counted together: maps have millions, and as whole numbers of 8 bytes they take more memory than the data."""
Place = Literal["data", "loss", "decision", "representation"]


class Strategy(ABC):
    """Something done about imbalance, at one place, for the tasks whose kind it can serve."""

    place: ClassVar[Place]
    kinds: ClassVar[frozenset[str]]
    """The kinds of task that it can serve; the others are left as they are, with one line that says so."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """The fields that inputs may have for it to work on them; empty: any."""

    def __init__(self, tasks: Sequence[str] | None = None) -> None:
        super().__init__()
        self.tasks = tasks

    def serves(self, targets: Mapping[str, TargetSpec]) -> list[str]:
        """The tasks that it acts on: of a kind that it can serve, and named in ``tasks`` where that is given."""
        return [name for name, spec in targets.items() if spec.kind in self.kinds and (self.tasks is None or name in self.tasks)]

    def check(self, targets: Mapping[str, TargetSpec]) -> None:  # noqa: B027 - most have nothing to check
        """Asked once, before anything is made; ``targets`` are all tasks served in the run.

        Raises:
            UserError: options that make no sense for them.
        """


class Resampler(Strategy):
    """Chooses or makes the rows of the training part. All tensors that it is given are on the CPU."""

    place: ClassVar[Place] = "data"
    renewed: ClassVar[bool] = True
    """Whether it is asked anew in each epoch, or once for the whole training."""

    @abstractmethod
    def __call__(self, split: Split, targets: Mapping[str, TargetSpec], generator: torch.Generator) -> Split:
        """The training part of this epoch, from the one that was read; ``targets`` are the tasks served."""


class Sampler(Strategy):
    """Chooses which rows of the training part make up which batch."""

    place: ClassVar[Place] = "data"

    @abstractmethod
    def plan(
        self, split: Split, targets: Mapping[str, TargetSpec], batch_size: int, generator: torch.Generator
    ) -> list[dict[str, Tensor]]:
        """The batches of an epoch: of each, the rows of every stream of ``split``, on the CPU.

        Their number depends on ``split`` and ``batch_size`` alone.
        """


class Criterion(Strategy, nn.Module):
    """Takes the place of a task kind's loss.

    One object serves the T tasks that run as one; what it learns from the training targets is kept per task.
    """

    place: ClassVar[Place] = "loss"
    names: Sequence[str] = ()
    """The T tasks, in the order of the first axis; known before ``fit``."""

    def fit(self, targets: Tensor, classes: int) -> None:
        """Learn from the training targets [T, N, …] as they are after resampling; unlabelled entries are to be passed over."""

    def head(self, head: nn.Module) -> nn.Module:
        """The head to use; ``head`` is that of the task's kind, which knows its own sizes."""
        return head

    def before_epoch(self, epoch: int, epochs: int) -> None:
        """``epoch``, from 1, of a budget of ``epochs`` is about to begin."""

    def loss(self, outputs: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        """The loss of each task, [T]: by default the ``weighted_mean`` over its examples and positions.

        Args:
            outputs: [T, N, …].
            targets: [T, N, …], without missing labels.
            weights: like ``targets``, 0 where a label was missing; None: all are 1.
        """
        return weighted_mean(self(outputs, targets), weights)

    @abstractmethod
    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Element-wise loss [T, N] of logits [T, N] (binary) or [T, N, C], for targets [T, N] without missing labels."""


class Adjuster(Strategy):
    """Changes how a trained model's outputs are read; the model itself stays as it is."""

    place: ClassVar[Place] = "decision"

    @abstractmethod
    def fit(self, name: str, outputs: Tensor, targets: Tensor, prior: Tensor) -> Decision:
        """How the outputs of the task ``name`` are to be read.

        Args:
            outputs: logits of its labelled validation examples with the best weights, [N] (binary) or [N, C]; N may be 0.
            targets: their classes, [N].
            prior: share of each class in the training part as the model saw it, [C].
        """


class Mixer(Strategy):
    """Makes a batch of training out of pairs of its examples."""

    place: ClassVar[Place] = "representation"

    @abstractmethod
    def fit(self, targets: Mapping[str, Tensor], served: Mapping[str, Tensor], classes: Mapping[str, int]) -> None:
        """Learn from the training targets [N, T, …] of each group of tasks; ``served`` [T] says on which of them it acts."""

    @abstractmethod
    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The mixed batch: N rows, and for each group two sets of targets one after the other, [2 N, T, …], whose weights are
        the shares that the two examples of a pair have in it.

        Targets of ``batch`` are packed and without missing labels, with weight 0 in their place.
        """


class SecondPhase(Strategy):
    """Trains the heads of the tasks that it serves once more, after the rest: all else is frozen.

    Args:
        epochs: budget of the phase.
        reset: whether the heads start anew.
        tasks: limit it to these tasks.
    """

    place: ClassVar[Place] = "representation"

    def __init__(self, epochs: int, reset: bool, tasks: Sequence[str] | None = None) -> None:
        super().__init__(tasks)
        self.epochs = epochs
        self.reset = reset

    @abstractmethod
    def criterion(self) -> Criterion:
        """The loss of the phase, for one group of tasks."""


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Σ weight · value / Σ weight of each task, [T], from [T, N, …]; 0 where no weight counts. Without weights all are 1."""
    if weights is None:
        return values.flatten(1).mean(1)
    shares = weights.flatten(1)
    total = shares.sum(1)
    return (values.flatten(1) * shares).sum(1) / torch.where(total > 0, total, 1)


def class_counts(targets: Tensor, classes: int) -> Tensor:
    """Number of labelled examples (and positions) of each class, [T, C] float32, for targets [T, N, …]."""
    counts = torch.zeros(len(targets), classes, dtype=torch.long, device=targets.device)
    positions = max(1, targets[0, :1].numel())
    for part in targets.split(max(1, _AT_ONCE // positions), 1):
        mask = labelled(part).flatten(1)
        counts.scatter_add_(1, torch.where(mask, part.flatten(1), 0).long(), mask.long())
    return counts.float()


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
    return nn.functional.cross_entropy(outputs.movedim(-1, 1), targets.long(), reduction="none")


def of_class(weights: Tensor, targets: Tensor) -> Tensor:
    """The weight of each example's class, [T, N, …], from weights [T, C] and targets [T, N, …]."""
    return weights.gather(1, targets.flatten(1).long()).view(targets.shape)
