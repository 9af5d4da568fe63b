"""Metrics of a model on a split: pure, nothing is trained and nothing is kept."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mtl_runner.batch import Split
from mtl_runner.model import MultiTaskModel
from mtl_runner.tasks.base import Task
from mtl_runner.tasks.group import masked

Metrics = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Report:
    """Metrics by task, primary first; NaN where undefined. ``losses`` has the loss as in training, without penalties."""

    metrics: Metrics
    losses: Mapping[str, float]

    def undefined(self) -> list[str]:
        """``task (metric, metric)`` of those that have no value on this split; the task alone where none has."""
        absent = {task: [name for name, value in row.items() if math.isnan(value)] for task, row in self.metrics.items()}
        return [
            task if len(names) == len(self.metrics[task]) else f"{task} ({', '.join(names)})"
            for task, names in absent.items()
            if names
        ]


@torch.no_grad()
def predict(model: MultiTaskModel, split: Split, batch_size: int) -> dict[str, Tensor]:
    """Outputs [T, N, …] of each group of a packed split, in batches, dropout and batch statistics off."""
    training = model.training
    model.eval()
    pieces: dict[str, list[Tensor]] = {key: [] for key in split.targets}
    for start in range(0, max(split.size(stream) for stream in split.inputs), batch_size):
        inputs = {
            stream: {name: value[start : start + batch_size] for name, value in fields.items()}
            for stream, fields in split.inputs.items()
        }
        for key, value in model.outputs(inputs, split.targets).items():
            pieces[key].append(value)
    model.train(training)
    return {key: torch.cat(values, 1) for key, values in pieces.items()}


@torch.no_grad()
def measure(model: MultiTaskModel, outputs: Mapping[str, Tensor], split: Split) -> Report:
    """Metrics of outputs that were computed on a packed split."""
    metrics: dict[str, Mapping[str, float]] = {}
    losses: dict[str, float] = {}
    clean = masked(split)
    for key, values in outputs.items():
        group = model.task_groups[key]
        metrics.update(group.evaluate(values, split.targets[key]))
        loss, active = group.losses(values, clean.targets[key], clean.weights.get(key))
        losses.update(zip(group.names, torch.where(active, loss, torch.nan).tolist(), strict=True))
    return Report(metrics, losses)


def evaluate(model: MultiTaskModel, split: Split, batch_size: int) -> Report:
    """Metrics of the tasks of a packed split."""
    return measure(model, predict(model, split, batch_size), split)


def confusions(model: MultiTaskModel, outputs: Mapping[str, Tensor], split: Split) -> dict[str, list[list[int]]]:
    """Confusion matrix (rows true, columns predicted) of each task that has classes."""
    return {
        name: matrix
        for key, values in outputs.items()
        for name, matrix in model.task_groups[key].confusions(values, split.targets[key]).items()
    }


def score(metrics: Metrics, tasks: Sequence[Task]) -> float | None:
    """Mean of the primary metrics of ``tasks``; those that are undefined are left out; nothing where all of them are."""
    values = [metrics[task.name][task.primary.name] for task in tasks if task.name in metrics]
    defined = [value for value in values if math.isfinite(value)]
    return sum(defined) / len(defined) if defined else None


def averages(metrics: Metrics, tasks: Sequence[Task]) -> dict[str, float]:
    """Mean over the main tasks: of the primary metrics (``primary``), and of each metric over the tasks that have it.

    What is no figure of the model, having no direction, has no mean.
    """
    main = [task for task in tasks if task.main]
    means = {}
    if (mean := score(metrics, main)) is not None:
        means["primary"] = mean
    for name in dict.fromkeys(metric.name for task in main for metric in task.metrics if metric.higher_is_better is not None):
        values = [metrics[task.name][name] for task in main if not math.isnan(metrics[task.name].get(name, math.nan))]
        if values:
            means[name] = sum(values) / len(values)
    return means
