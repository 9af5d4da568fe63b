"""What a type of task is: how wide its head is, its loss, its metrics.

Shape legend: T tasks of one kind that run as one, N examples, O numbers per example from the head, C classes, K values.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from math import prod
from typing import ClassVar

import pyarrow as pa
import torch
from torch import Tensor, nn

from mtl_runner.batch import Decision, TargetSpec
from mtl_runner.encoders.base import FeatureSpec
from mtl_runner.errors import UserError, choices, nearest
from mtl_runner.heads import LinearHeads
from mtl_runner.metrics import METRICS, Metric


class Task(ABC):
    """One thing to learn.

    Tasks of equal ``signature`` run as one: the methods below the constructor's properties then work on all T of them at
    once, and it does not matter which of them is asked.
    """

    kind: ClassVar[str]

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
        return (self.kind, self.spec.stream, self.spec.shape, len(self.spec.classes))

    @property
    @abstractmethod
    def width(self) -> int:
        """O, the numbers per example that its head gives."""

    def head(self, features: FeatureSpec, names: Sequence[str], seed: int) -> nn.Module:
        """A module (features, apart) to raw outputs [T, N, O] for the T tasks ``names``; see ``LinearHeads``.

        Of a map or a sequence it reads the mean over all positions (global average pooling), those of padding included: an
        encoder of sequences leaves padding out when it pools itself, and does so by default.
        """
        if len(features.shape) == 3:
            return LinearHeads(features.shape[0], self.width, names, seed, positions=(-2, -1))
        if len(features.shape) == 2:
            return LinearHeads(features.shape[1], self.width, names, seed, positions=(-2,))
        return LinearHeads(prod(features.shape), self.width, names, seed)

    def outputs(self, raw: Tensor) -> Tensor:
        """Outputs in the shape that loss, metrics and prediction expect, from the head's [T, N, O]."""
        return raw

    @abstractmethod
    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Element-wise loss [T, N] or [T, N, K]; ``targets`` has no missing labels."""

    @abstractmethod
    def evaluate(self, outputs: Tensor, targets: Tensor, specs: Sequence[TargetSpec]) -> dict[str, Tensor]:
        """Each metric of the kind, [T]; NaN where it is undefined.

        Args:
            outputs: [T, N, …].
            targets: [T, N, …], some labels may be missing.
            specs: of the T tasks: their units, and how their outputs are read.
        """

    def decide(self, outputs: Tensor, specs: Sequence[TargetSpec]) -> Tensor | None:
        """The predicted classes [T, N] of the T tasks ``specs``, for kinds that have classes."""
        return None

    @abstractmethod
    def predictions(self, outputs: Tensor) -> dict[str, pa.Array]:
        """What a user reads, by column name, from this task's outputs [N, …]: classes by name, values in their unit."""


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
