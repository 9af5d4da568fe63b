"""What a type of task is: how wide its head is, its loss, its metrics.

Shape legend: T tasks of one kind that run as one, N examples, O numbers per example from the head, C classes, K values.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from math import prod
from typing import ClassVar

import pyarrow as pa
import torch
from torch import Tensor, nn

from mtl_runner.batch import Decision, Fields, TargetSpec
from mtl_runner.encoders.base import FeatureSpec
from mtl_runner.errors import UserError, choices, nearest
from mtl_runner.heads import LinearHeads
from mtl_runner.imbalance.base import weighted_mean
from mtl_runner.metrics import METRICS, Metric

Summary = Mapping[str, Tensor]
"""Statistics of some examples of T tasks, by name, [T, …]; ``confusion`` [T, C, C] is drawn and written down."""


class Task(ABC):
    """One thing to learn.

    Tasks of equal ``signature`` run as one: the methods below the constructor's properties then work on all T of them at
    once, and it does not matter which of them is asked.

    A type's own options are the keyword arguments of its constructor behind ``name`` and ``spec``; ``datasets/kinds.py`` has
    their names.
    """

    kind: ClassVar[str]
    streaming: ClassVar[bool] = False
    """Whether outputs are too large to be kept until all of them are there: they are then measured by ``summarise``, batch by
    batch, instead of ``evaluate``."""
    per_position: ClassVar[bool] = False
    """Whether the first axis of a target behind the examples are the positions of the stream's sequence."""

    def __init__(self, name: str, spec: TargetSpec) -> None:
        self.name = name
        self.spec = spec
        self.metrics = _primary_first(name, spec)

    @property
    def primary(self) -> Metric:
        """The metric that averages, early stopping and sweeps use: higher is better, 1 is perfect."""
        return self.metrics[0]

    @property
    def main(self) -> bool:
        """Whether it counts in the averages and in early stopping."""
        return self.spec.role == "main"

    @property
    def signature(self) -> Hashable:
        """Equal for tasks that can run as one."""
        options = tuple(sorted((name, str(value)) for name, value in self.spec.options.items()))
        return (self.kind, self.spec.stream, self.spec.shape, len(self.spec.classes), options)

    @property
    @abstractmethod
    def width(self) -> int:
        """O, the numbers per example that its head gives."""

    def head(self, features: FeatureSpec, names: Sequence[str], seed: int) -> nn.Module:
        """A module (features, apart) to raw outputs [T, N, O] for the T tasks ``names``; see ``LinearHeads``.

        Of a map or a sequence it reads the mean over all positions that are there (global average pooling).
        """
        if len(features.shape) == 3:
            return LinearHeads(features.shape[0], self.width, names, seed, positions=(-2, -1))
        if len(features.shape) == 2:
            return LinearHeads(features.shape[1], self.width, names, seed, positions=(-2,))
        return LinearHeads(prod(features.shape), self.width, names, seed)

    def outputs(self, raw: Tensor) -> Tensor:
        """Outputs in the shape that loss, metrics and prediction expect, from the head's [T, N, O]."""
        return raw

    def no_outputs(self) -> Tensor:
        """The outputs [0, …] of no example."""
        return self.outputs(torch.zeros(0, self.width))

    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Element-wise loss [T, N, …] of the shape of ``targets``, which has no missing labels; for kinds that have one."""
        raise NotImplementedError(f"{self.kind} has no element-wise loss")

    def loss(self, outputs: Tensor, targets: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        """The loss of each task and whether any label counted, both [T]; a task with none has loss 0.

        Here Σ weight · criterion / Σ weight over the examples, and over the values and positions of each.

        Args:
            outputs: [T, N, …].
            targets: [T, N, …], without missing labels.
            weights: like ``targets``, 0 where a label is missing; None: all are 1.
        """
        return weighted_mean(self.criterion(outputs, targets), weights), counted(targets, weights)

    def evaluate(
        self, outputs: Tensor, targets: Tensor, specs: Sequence[TargetSpec], context: Fields | None = None
    ) -> dict[str, Tensor]:
        """Each metric of the kind, [T]; NaN where it is undefined.

        Args:
            outputs: [T, N, …].
            targets: [T, N, …], some labels may be missing.
            specs: of the T tasks: their units, and how their outputs are read.
            context: of the N examples, where the data set has any: ``user`` …
        """
        raise NotImplementedError(f"{self.kind} is measured by its summaries")

    def summarise(
        self, outputs: Tensor, targets: Tensor, specs: Sequence[TargetSpec], context: Fields | None = None
    ) -> dict[str, Tensor]:
        """What ``evaluated`` needs of one batch, each [T, …] and of a size that does not depend on N; arguments as above."""
        raise NotImplementedError(f"{self.kind} is measured on all examples at once")

    def merged(self, one: Summary, other: Summary) -> dict[str, Tensor]:
        """The summary of two batches together, from that of each: here their sum."""
        return {name: value + other[name] for name, value in one.items()}

    def evaluated(self, summary: Summary, specs: Sequence[TargetSpec]) -> dict[str, Tensor]:
        """As ``evaluate``, from the summary of all examples."""
        raise NotImplementedError(f"{self.kind} is measured on all examples at once")

    def decide(self, outputs: Tensor, specs: Sequence[TargetSpec]) -> Tensor | None:
        """The predicted classes [T, N] of the T tasks ``specs``, for kinds that have classes."""
        return None

    @abstractmethod
    def predictions(self, outputs: Tensor, context: Fields | None = None) -> dict[str, pa.Array]:
        """What a user reads, by column name, from this task's outputs [N, …]: classes by name, values in their unit.

        Of an output for each position of a sequence, ``context`` says how many there are (``length`` [N]).
        """


def _primary_first(name: str, spec: TargetSpec) -> tuple[Metric, ...]:
    metrics = METRICS[spec.kind]
    if spec.metric is None:
        return metrics
    candidates = {metric.name: metric for metric in metrics if metric.higher_is_better}
    if spec.metric not in candidates:
        allowed = f"{choices(candidates)}{nearest(spec.metric, candidates)}"
        raise UserError(f"dataset.tasks.{name}.metric={spec.metric}: for a {spec.kind} task allowed are {allowed}")
    chosen = candidates[spec.metric]
    return (chosen, *(metric for metric in metrics if metric != chosen))


def counted(targets: Tensor, weights: Tensor | None) -> Tensor:
    """[T]: whether any label of ``targets`` [T, N, …] has a weight; None: all have."""
    if weights is None:
        return torch.ones(len(targets), dtype=torch.bool, device=targets.device)
    return weights.flatten(1).sum(1) > 0


def calibrated(outputs: Tensor, specs: Sequence[TargetSpec]) -> Tensor:
    """Logits [T, N, …] of each task's probabilities; ``outputs`` themselves where all tasks read them as they are."""
    return _read(outputs, [spec.decision.calibrated for spec in specs], specs)


def shifted(outputs: Tensor, specs: Sequence[TargetSpec]) -> Tensor:
    """Logits [T, N, …] of each task's predicted classes; ``outputs`` themselves where all tasks read them as they are."""
    return _read(outputs, [spec.decision.shifted for spec in specs], specs)


def _read(outputs: Tensor, ways: Sequence[Callable[[Tensor], Tensor]], specs: Sequence[TargetSpec]) -> Tensor:
    """One task after the other: that is once at the end of a run, and a decision has one arithmetic, whoever asks."""
    if all(spec.decision == Decision() for spec in specs):
        return outputs
    return torch.stack([way(output) for way, output in zip(ways, outputs, strict=True)])


def named_classes(labels: Tensor, classes: Sequence[str]) -> pa.Array:
    """Class names of the labels [N], without a Python object per row."""
    return pa.DictionaryArray.from_arrays(pa.array(labels.cpu().numpy().astype("int32")), pa.array(list(classes)))


def chosen_option(name: str, option: str, value: str, allowed: Sequence[str]) -> str:
    """The value of an option of the task ``name``; raises ``UserError`` unless it is one of ``allowed``."""
    if value not in allowed:
        raise UserError(f"dataset.tasks.{name}.{option}={value}: allowed are {choices(allowed)}{nearest(value, allowed)}")
    return value


def positive_option(name: str, option: str, value: float) -> float:
    """The same for a number, which has to be above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise UserError(f"dataset.tasks.{name}.{option}={value}: a number above 0 is expected")
    return float(value)


def whole_option(name: str, option: str, value: int) -> int:
    """The same for a whole number, which has to be 1 or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"dataset.tasks.{name}.{option}={value}: a whole number of 1 or more is expected")
    return value


def share_option(name: str, option: str, value: float) -> float:
    """The same for a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UserError(f"dataset.tasks.{name}.{option}={value}: a number from 0 to 1 is expected")
    return float(value)
