"""Thresholds, or an offset for each class, chosen on the validation part."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from math import inf, isfinite
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from mtl_runner import metrics
from mtl_runner.batch import Decision, TargetSpec
from mtl_runner.errors import UserError, choices, nearest
from mtl_runner.imbalance.base import Adjuster

Costs = Sequence[Sequence[Annotated[float, Ge(0)]]]
PASSES = 10
"""Over the classes, at most; an ascent mostly ends sooner."""
_ROUNDING = 1e-12


class Threshold(Adjuster):
    """The decision that is best on validation examples by one figure; the default one, where none is better.

    Binary tasks: the class is positive where z + b > 0. Of all b that differ in what they decide, N + 1 at most, the best one;
    it lies in the middle between two neighbouring logits, and of equally good ones it is the nearest to 0. O(N log N).

    Multiclass tasks: the class is argmax_c z_c + b_c. Coordinate ascent from b = 0, the rarest class first: each class gets the
    best offset given the others, exactly, by a scan over the margins max_{k ≠ c} (z_k + b_k) - z_c; only what is better is
    taken, until a pass over the classes finds nothing. The best b of all cannot be found that way for sure, but never one
    that is worse than none. A class without a validation example keeps b_c = 0. O(N C² + N C log N) a pass.

    A task of whose classes less than two are among its validation examples keeps its default.

    Args:
        objective: ``f1`` (macro, as reported), ``balanced_accuracy``, ``g_mean``, or ``cost``: the mean of ``costs``, to be low.
        costs: rows are true, columns predicted classes, in the order of the task's classes; one matrix for all tasks
            or ``{task: matrix}``. For a binary task ``[[0, 1], [5, 0]]`` has a missed positive cost 5 false alarms.
        tasks: limit it to these tasks; all binary and multiclass tasks otherwise.

    Raises:
        UserError: costs without the objective ``cost`` or the other way round, or a matrix that does not fit a task.
    """

    kinds = frozenset({"binary", "multiclass"})

    def __init__(
        self,
        *,
        objective: Literal["f1", "balanced_accuracy", "g_mean", "cost"] = "f1",
        costs: Costs | Mapping[str, Costs] | None = None,
        tasks: Sequence[str] | None = None,
    ) -> None:
        super().__init__(tasks)
        if objective == "cost" and costs is None:
            raise UserError("imbalance.threshold.objective=cost needs imbalance.threshold.costs, e.g. [[0,1],[5,0]]")
        if objective != "cost" and costs is not None:
            raise UserError(f"imbalance.threshold.costs: imbalance.threshold.objective={objective} reads none; take cost for it")
        self.objective = objective
        self.costs = costs

    def check(self, targets: Mapping[str, TargetSpec]) -> None:
        for name in self.costs if isinstance(self.costs, Mapping) else ():
            if name not in targets:
                allowed = f"{choices(targets)}{nearest(name, targets)}"
                raise UserError(f"imbalance.threshold.costs.{name}: no such task is served; those served are {allowed}")
        for name, spec in targets.items() if self.costs is not None else ():
            self._matrix(name, len(spec.classes))

    def fit(self, name: str, outputs: Tensor, targets: Tensor, prior: Tensor) -> Decision:
        logits, labels = outputs.detach().cpu(), targets.long().cpu()
        if len(labels.unique()) < 2 or not logits.isfinite().all():
            return Decision()
        figure = _Cost(self._matrix(name, len(prior))) if self.objective == "cost" else _Rate(_RATES[self.objective], len(prior))
        decision = _threshold(logits, labels, figure) if logits.ndim == 1 else _offsets(logits, labels, figure)
        found, default = (max(figure.of(labels, _classes(each, logits)), figure.least) for each in (decision, Decision()))
        return decision if found > default + _ROUNDING else Decision()

    def _matrix(self, name: str, classes: int) -> Tensor:
        key, costs = "imbalance.threshold.costs", self.costs
        if isinstance(costs, Mapping):
            if name not in costs:
                raise UserError(f"{key}: no matrix for task {name}; give it one, or limit imbalance.threshold.tasks")
            key, costs = f"{key}.{name}", costs[name]
        assert costs is not None
        if len(costs) != classes or any(len(row) != classes for row in costs):
            widths = " and ".join(map(str, sorted({len(row) for row in costs}))) or "no"
            raise UserError(
                f"{key}: task {name} has {classes} classes and needs {classes} rows of {classes} numbers, "
                f"not {len(costs)} of {widths}"
            )
        if wrong := [value for row in costs for value in row if not (value >= 0 and isfinite(value))]:
            raise UserError(f"{key}: a cost of task {name} is {wrong[0]}; allowed are numbers from 0 on")
        return torch.tensor(costs, dtype=torch.float64)


def _classes(decision: Decision, logits: Tensor) -> Tensor:
    shifted = decision.shifted(logits)
    return (shifted > 0).long() if logits.ndim == 1 else shifted.argmax(-1)


class _Figure(ABC):
    """What is to be high, of true and predicted classes [N]."""

    least = 0.0
    """What figures below it are worth."""

    @abstractmethod
    def of(self, labels: Tensor, predicted: Tensor) -> float:
        """Of these predictions."""

    @abstractmethod
    def along(self, labels: Tensor, predicted: Tensor, label: int) -> Tensor:
        """Where the first k examples are predicted to be ``label`` instead, for k = 0 … N: [N + 1]."""


class _Rate(_Figure):
    def __init__(self, rate: Callable[[Tensor, Tensor, Tensor], Tensor], classes: int) -> None:
        self.rate = rate
        self.classes = classes

    def of(self, labels: Tensor, predicted: Tensor) -> float:
        counted = (labels[labels == predicted], labels, predicted)
        return float(self.rate(*(each.bincount(minlength=self.classes).double() for each in counted)))

    def along(self, labels: Tensor, predicted: Tensor, label: int) -> Tensor:
        unit = torch.eye(self.classes, dtype=torch.float64)
        true, before = unit[labels], unit[predicted]
        change = unit[label] - before
        hits = (true * before).sum(0) + _sums(true * change)
        return self.rate(hits, true.sum(0), before.sum(0) + _sums(change))


class _Cost(_Figure):
    least = -inf

    def __init__(self, costs: Tensor) -> None:
        self.costs = costs / (costs.max() if costs.any() else 1)

    def of(self, labels: Tensor, predicted: Tensor) -> float:
        return -float(self.costs[labels, predicted].mean())

    def along(self, labels: Tensor, predicted: Tensor, label: int) -> Tensor:
        before = self.costs[labels, predicted]
        return -(before.sum() + _sums(self.costs[labels, label] - before)) / len(labels)


def _g_mean(hits: Tensor, true: Tensor, predicted: Tensor) -> Tensor:
    """G-mean; where classes have no hit, that of the others less their number, so that an ascent finds its way out of 0."""
    missed = (hits == 0) & (true > 0)
    return metrics.g_mean(torch.where(missed, true, hits), true, predicted) - missed.sum(-1)


_RATES = {"f1": metrics.macro_f1, "balanced_accuracy": metrics.balanced_accuracy, "g_mean": _g_mean}


def _threshold(logits: Tensor, labels: Tensor, figure: _Figure) -> Decision:
    margins = -logits.double()
    return Decision(offsets=(_scan(margins, labels, torch.zeros_like(labels), 1, 0.0, figure, logits.dtype),))


def _offsets(logits: Tensor, labels: Tensor, figure: _Figure) -> Decision:
    counts, means = labels.bincount(minlength=logits.shape[1]).tolist(), logits.double().mean(0).tolist()
    # the order of the ascent: one that does not depend on how the classes are numbered
    rarest_first = sorted((c for c, count in enumerate(counts) if count), key=lambda c: (counts[c], means[c]))
    decision = Decision(offsets=(0.0,) * len(counts))
    best, before = figure.of(labels, _classes(decision, logits)), -inf
    for _ in range(PASSES):
        if best == before:
            break
        before = best
        for label in rarest_first:
            shifted = decision.shifted(logits)
            shifted[:, label] = -inf
            value, other = shifted.max(1)
            now = decision.offsets[label]
            offset = _scan(value.double() - logits[:, label].double(), labels, other, label, now, figure, logits.dtype)
            tried = Decision(offsets=(*decision.offsets[:label], offset, *decision.offsets[label + 1 :]))
            # asked again with the arithmetic of a decision: where margins are a rounding apart, it may differ from the scan's
            if (found := figure.of(labels, _classes(tried, logits))) > best + _ROUNDING:
                best, decision = found, tried
    return decision


def _scan(margins: Tensor, labels: Tensor, others: Tensor, label: int, now: float, figure: _Figure, dtype: torch.dtype) -> float:
    """The best offset of class ``label``, which takes an example from ``others`` where it is above the margin.

    In the middle between two margins, as a number that ``dtype`` has; of equally good ones the nearest to ``now``.
    """
    ordered, order = margins.sort()
    reach = 2 + 1e-6 * ordered.abs().max()  # beyond the outermost margins, also where numbers are so large that they have gaps
    below, above = torch.cat([ordered[:1] - reach, ordered]), torch.cat([ordered, ordered[-1:] + reach])
    middle = ((below + above) / 2).to(dtype).double()
    offsets = torch.where(middle > below, middle, above)
    figures = figure.along(labels[order], others[order], label).masked_fill(below == above, -inf)
    good = figures >= figures.max() - _ROUNDING
    return float(offsets[good][(offsets[good] - now).abs().argmin()])


def _sums(values: Tensor) -> Tensor:
    """Of the first k rows, for k = 0 … N."""
    return torch.cat([torch.zeros_like(values[:1]), values.cumsum(0)])
