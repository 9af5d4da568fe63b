"""Metrics of a model on a split: pure, nothing is trained and nothing is kept."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mtl_runner.batch import Split, joined, labelled
from mtl_runner.fetching import fetched
from mtl_runner.model import MultiTaskModel
from mtl_runner.tasks.base import Summary, Task
from mtl_runner.tasks.group import masked

Metrics = Mapping[str, Mapping[str, float]]
POSITIONS = 2**15
"""Of sequences that are evaluated together."""


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


class Measured:
    """What metrics need of a model's outputs on a packed split, taken in batch by batch.

    Outputs are kept until all of them are there; those of kinds that are measured as they come (``Task.streaming``) are not:
    memory does not grow with the number of their examples.
    """

    def __init__(self, model: MultiTaskModel) -> None:
        self.groups = model.task_groups
        self._kept: dict[str, list[tuple[Tensor, Split]]] = {}
        self._summaries: dict[str, Summary] = {}
        self._losses: dict[str, Tensor] = {}

    def add(self, outputs: Mapping[str, Tensor], batch: Split) -> None:
        """A batch, packed, and the outputs [T, N, …] of the groups on it."""
        for key, values in outputs.items():
            if self.groups[key].kind.streaming:
                self._summarise(key, values, batch.only([key]))
            else:
                self._kept.setdefault(key, []).append((values, replace(batch.only([key]), inputs={})))

    def _summarise(self, key: str, values: Tensor, batch: Split) -> None:
        group, clean = self.groups[key], masked(batch)
        if not len(batch.targets[key]):
            return
        summary = group.summarise(values, batch.targets[key], batch.context.get(group.stream))
        known = self._summaries.get(key)
        self._summaries[key] = summary if known is None else group.kind.merged(known, summary)
        loss, active = group.losses(values, clean.targets[key], clean.weights.get(key))
        labels = labelled(batch.targets[key]).transpose(0, 1).flatten(1).sum(1) * active
        sums = torch.stack([torch.where(active, loss, 0).double().cpu() * labels.cpu(), labels.double().cpu()])
        self._losses[key] = self._losses.get(key, torch.zeros_like(sums)) + sums

    @property
    def outputs(self) -> dict[str, Tensor]:
        """[T, N, …] of each group whose kind keeps them."""
        return {key: torch.cat([values for values, _ in parts], 1) for key, parts in self._kept.items()}

    def report(self) -> Report:
        """The metrics; outputs are read as the tasks' specs say now."""
        metrics: dict[str, Mapping[str, float]] = {}
        losses: dict[str, float] = {}
        for key, values in self.outputs.items():
            group, split = self.groups[key], joined([batch for _, batch in self._kept[key]])
            metrics.update(group.evaluate(values, split.targets[key], split.context.get(group.stream)))
            clean = masked(split)
            loss, active = group.losses(values, clean.targets[key], clean.weights.get(key))
            losses.update(zip(group.names, torch.where(active, loss, torch.nan).tolist(), strict=True))
        for key, summary in self._summaries.items():
            metrics.update(self.groups[key].evaluated(summary))
            total, labels = self._losses[key]
            losses.update(zip(self.groups[key].names, (total / labels).tolist(), strict=True))
        order = [name for group in self.groups.values() for name in group.names if name in metrics]
        return Report({name: metrics[name] for name in order}, {name: losses[name] for name in order})

    def confusions(self) -> dict[str, list[list[int]]]:
        """Confusion matrix (rows true, columns predicted) of each task that has classes."""
        found: dict[str, list[list[int]]] = {}
        for key, values in self.outputs.items():
            targets = torch.cat([batch.targets[key] for _, batch in self._kept[key]])
            found |= self.groups[key].confusions(values, targets)
        for key, summary in self._summaries.items():
            if "confusion" in summary:
                found |= dict(zip(self.groups[key].names, summary["confusion"].tolist(), strict=True))
        return found


@torch.no_grad()
def measured(model: MultiTaskModel, split: Split, batch_size: int) -> Measured:
    """A packed split as the model sees it, in batches, dropout and batch statistics off."""
    result = Measured(model)
    for batch, outputs in _pieces(model, split, batch_size):
        result.add(outputs, batch)
    return result


@torch.no_grad()
def predict(model: MultiTaskModel, split: Split, batch_size: int) -> dict[str, Tensor]:
    """Outputs [T, N, …] of each group of a packed split, as above."""
    pieces: dict[str, list[Tensor]] = {key: [] for key in split.targets}
    for _, outputs in _pieces(model, split, batch_size):
        for key, value in outputs.items():
            pieces[key].append(value)
    return {key: torch.cat(values, 1) for key, values in pieces.items()}


def _pieces(model: MultiTaskModel, split: Split, batch_size: int) -> Iterator[tuple[Split, dict[str, Tensor]]]:
    training = model.training
    model.eval()
    batch_size = min(batch_size, _at_once(split))
    starts = range(0, max(split.size(stream) for stream in split.inputs), batch_size)
    for part in fetched(split, (split.part(start, start + batch_size) for start in starts)):
        batch = model.trimmed(part)
        yield batch, model.outputs(batch.inputs, batch.targets)
    model.train(training)


def _at_once(split: Split) -> int:
    """Rows whose sequences have ``POSITIONS`` positions: what a network computes is in memory for each of them at once."""
    lengths = [fields["tokens"].shape[1] for fields in split.inputs.values() if "tokens" in fields]
    return max(1, POSITIONS // max(lengths, default=1)) if lengths else max(map(split.size, split.inputs))


def evaluate(model: MultiTaskModel, split: Split, batch_size: int) -> Report:
    """Metrics of the tasks of a packed split."""
    return measured(model, split, batch_size).report()


def score(metrics: Metrics, tasks: Sequence[Task]) -> float | None:
    """Mean of the primary metrics of ``tasks``; those that are undefined are left out; nothing where all of them are."""
    values = [metrics[task.name][task.primary.name] for task in tasks if task.name in metrics]
    defined = [value for value in values if math.isfinite(value)]
    return sum(defined) / len(defined) if defined else None


def averages(metrics: Metrics, tasks: Sequence[Task]) -> dict[str, float]:
    """Mean over the main tasks: of the primary metrics (``primary``), and of each metric over the tasks that have it.

    What is no figure of the model, having no direction, has no mean, and neither has what is in the units of a task's labels.
    """
    main = [task for task in tasks if task.main]
    means = {}
    if (mean := score(metrics, main)) is not None:
        means["primary"] = mean
    for name in dict.fromkeys(metric.name for task in main for metric in task.metrics if metric.averaged):
        values = [metrics[task.name][name] for task in main if not math.isnan(metrics[task.name].get(name, math.nan))]
        if values:
            means[name] = sum(values) / len(values)
    return means
