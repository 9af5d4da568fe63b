"""What the labels of each task are like before anything is trained on them, and the primary metric that follows from it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mtl_runner.batch import Data, Split, TargetSpec, labelled
from mtl_runner.errors import choices

PARTS = ("train", "validation", "test")

_CLASSES: Mapping[str, tuple[int, tuple[str, ...]]] = {"survival": (1, ("censored", "event")), "detection": (4, ())}
"""Kinds of task of whose labels one number is a class: its place, and the classes' names where they are not the columns."""
_NUMBERS = ("regression", "quantile", "count", "rating", "multilabel")
"""Kinds of task whose labels are some numbers; of a multilabel task the mean is the share of examples that have the label."""
_RARE = 0.2
"""A class with a smaller share of the training labels is rare."""


@dataclass(frozen=True)
class Numbers:
    """The training labels of one output of a task, in the user's unit; NaN without any."""

    name: str
    """Empty where the task has one output only."""
    mean: float
    sd: float
    """Root mean squared distance from the mean."""
    skewness: float
    """Mean cubed distance from the mean / sd³, 0 for a symmetric distribution; NaN where all labels are equal."""
    min: float
    max: float


@dataclass(frozen=True)
class TaskProfile:
    """The labels of a task. Where an example has a class for each of its positions, these are counted one by one."""

    name: str
    kind: str
    labelled: Mapping[str, int]
    """By part."""
    missing: Mapping[str, int]
    """By part."""
    classes: tuple[str, ...] = ()
    counts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """By part: the labels of each class; empty for a task without classes."""
    outputs: tuple[Numbers, ...] = ()
    """Of a task whose labels are numbers."""

    @property
    def shares(self) -> tuple[float, ...]:
        """Of each class, among the labels of the training part; NaN without any."""
        total = self.labelled["train"]
        return tuple(count / total if total else math.nan for count in self.counts.get("train", ()))

    @property
    def rarest(self) -> int | None:
        """The class with the fewest labels in the training part, the first of several; None without labels or classes."""
        counts = self.counts.get("train", ())
        return counts.index(min(counts)) if any(counts) else None

    @property
    def imbalance_ratio(self) -> float | None:
        """Labels of the largest class / those of the smallest, in the training part; infinite where a class has none.

        None without labels or classes.
        """
        if self.rarest is None:
            return None
        counts = self.counts["train"]
        return max(counts) / min(counts) if min(counts) else math.inf


def profile(data: Data) -> list[TaskProfile]:
    """Of each task, in their order: how many labels there are in each part, and what they are."""
    return [
        _profile(name, spec, {part: _without_padding(data.splits[part], name, spec) for part in PARTS})
        for name, spec in data.targets.items()
    ]


def _without_padding(split: Split, name: str, spec: TargetSpec) -> Tensor:
    """The labels of a part; of one for each token [N, L], those of the tokens that are there, one after the other."""
    target = split.targets[name].cpu()
    lengths = split.context.get(spec.stream, {}).get("length")
    if spec.kind != "tagging" or lengths is None:
        return target
    return target[torch.arange(target.shape[1]) < lengths.cpu()[:, None]]


def _profile(name: str, spec: TargetSpec, targets: Mapping[str, Tensor]) -> TaskProfile:
    known = {part: int(labelled(target).reshape(len(target), -1).any(1).sum()) for part, target in targets.items()}
    missing = {part: len(target) - known[part] for part, target in targets.items()}
    if spec.kind in _CLASSES or spec.classes:
        place, classes = _CLASSES.get(spec.kind, (..., ()))
        spec = replace(spec, classes=spec.classes or classes or spec.columns)
        counts = {part: class_counts(target[..., place], spec) for part, target in targets.items()}
        known = {part: sum(row) for part, row in counts.items()}
        if spec.kind not in _CLASSES:
            missing = {part: target.numel() - known[part] for part, target in targets.items()}
        return TaskProfile(name, spec.kind, known, missing, spec.classes, counts)
    outputs = _outputs(spec, targets["train"]) if spec.kind in _NUMBERS else ()
    return TaskProfile(name, spec.kind, known, missing, outputs=outputs)


def class_counts(target: Tensor, spec: TargetSpec) -> tuple[int, ...]:
    """Labels of each class, exact however many there are."""
    return tuple(torch.bincount(target[labelled(target) & (target >= 0)].long(), minlength=len(spec.classes)).tolist())


def _outputs(spec: TargetSpec, targets: Tensor) -> tuple[Numbers, ...]:
    width = targets[0].numel() if len(targets) else 1
    columns = targets.double().reshape(len(targets), width).T
    names = spec.columns if len(spec.columns) == width > 1 else [""] * width
    return tuple(
        _numbers(name, center + scale * column[labelled(column)])
        for name, column, center, scale in zip(names, columns, spec.center or [0] * width, spec.scale or [1] * width, strict=True)
    )


def _numbers(name: str, values: Tensor) -> Numbers:
    if not len(values):
        return Numbers(name, *[math.nan] * 5)
    low, high = values.aminmax()
    away = values - values.mean()
    sd = away.square().mean().sqrt()
    skewness = away.pow(3).mean() / sd**3 if low < high else math.nan
    return Numbers(name, *map(float, (values.mean(), sd, skewness, low, high)))


def with_primary_metrics(data: Data) -> tuple[Data, list[str]]:
    """The same data with primary metrics that notice a rare class, and the lines that say so.

    A binary task gets average precision where one of its classes has under 20 % of the training labels: many easy negatives
    lift the area under the ROC curve. Average precision is that of the positive class, and near 1 for any model where that is
    the frequent one: there the task gets balanced accuracy. Multiclass tasks have balanced accuracy in any case. What the
    user chose stays, and a task without training labels, or with those of one class only, has no rare class.
    """
    rare: dict[str, dict[str, str]] = {"average_precision": {}, "balanced_accuracy": {}}
    single: list[str] = []
    targets = dict(data.targets)
    for name, spec in data.targets.items():
        if spec.kind == "binary" and spec.metric is None:
            counts = class_counts(data.splits["train"].targets[name].cpu(), spec)
            if any(counts) and not min(counts):
                single.append(_one_class(name, spec.classes[counts.index(max(counts))]))
            elif any(counts) and min(counts) < _RARE * sum(counts):
                place = counts.index(min(counts))
                metric = "average_precision" if place == 1 else "balanced_accuracy"
                share = f"{min(counts) / sum(counts):.1%}".replace("%", " %")
                rare[metric][name] = f"{share} of its training labels are '{spec.classes[place]}'"
                targets[name] = replace(spec, metric=metric)
    return replace(data, targets=targets), [*single, *(line for metric, tasks in rare.items() for line in _said(metric, tasks))]


def _one_class(name: str, only: str) -> str:
    return (
        f"all training labels of {name} are '{only}': it learns to answer that and nothing else, "
        "and metrics that compare two classes are undefined on a part without the other"
    )


def _said(metric: str, rare: Mapping[str, str]) -> list[str]:
    if len(rare) > 1:
        return [
            f"primary metric of {len(rare)} tasks ({choices(rare, 5)}) is {metric}: "
            "the rarer of their two classes has under 20 % of the training labels"
        ]
    return [f"primary metric of {name} is {metric}: {share}" for name, share in rare.items()]
