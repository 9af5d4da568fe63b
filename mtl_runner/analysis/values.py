"""The figures of each group by run, and what two groups have in common."""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum, isclose, isfinite, nan

from mtl_runner.analysis.comparison import TaskInfo
from mtl_runner.analysis.results import Result

AVERAGE = "average"
Unit = tuple[int, str]
"""Seed and split."""
Series = Mapping[Unit, float]
"""A figure of a group by seed and split: the mean of its runs of that seed and split."""


@dataclass(frozen=True)
class Design:
    """What was repeated: seeds on one split, or splits."""

    resampled: bool
    """Whether the split moves: then what counts is the mean over each split's seeds, as these see the same rows."""
    overlap: float = 0.0
    """Rows of the test part for each training row, where the split moves; 0 where it does not, or where this is not known."""

    @classmethod
    def of(cls, runs: Iterable[Result]) -> "Design":
        runs = list(runs)
        resampled = len({run.split for run in runs}) > 1
        shares = [run.rows["test"] / run.rows["train"] for run in runs if run.rows.get("train") and "test" in run.rows]
        return cls(resampled, max(shares, default=0.0) if resampled else 0.0)

    @property
    def repeat(self) -> str:
        """What is counted."""
        return "split" if self.resampled else "seed"

    def by_repeat(self, series: Series) -> dict[Hashable, float]:
        """What of ``series`` is not NaN: a value for each seed, or for each split."""
        found: dict[Hashable, list[float]] = {}
        for unit, value in sorted(series.items()):
            if isfinite(value):
                found.setdefault(unit[1] if self.resampled else unit, []).append(value)
        return {repeat: mean(values) for repeat, values in found.items()}

    def values(self, series: Series) -> list[float]:
        """The same without what they belong to."""
        return list(self.by_repeat(series).values())


def tasks_of(runs: Sequence[Result]) -> tuple[TaskInfo, ...]:
    """The tasks that all runs have, as most runs judge them, in the first one's order."""
    from mtl_runner.metrics import METRICS

    higher = {metric.name: metric.higher_is_better is not False for kind in METRICS.values() for metric in kind}
    common = [task for task in runs[0].primary if all(task in run.primary and task in run.scores for run in runs)]
    found = []
    for task in common:
        metric = Counter(run.primary[task] for run in runs).most_common(1)[0][0]
        role = Counter(run.roles.get(task, "main") for run in runs).most_common(1)[0][0]
        found.append(TaskInfo(task, metric, higher.get(metric, True), role))
    return tuple(found)


@dataclass(frozen=True)
class Table:
    """All figures of a group."""

    scores: Mapping[str, Series]
    """By task."""
    average: Series
    """Over the main tasks."""
    validation: Series
    """The validation averages."""

    def series(self, name: str) -> Series:
        """Of a task, or ``average``."""
        return self.average if name == AVERAGE else self.scores[name]


def table(runs: Sequence[Result], tasks: Sequence[TaskInfo], averaged: Sequence[str]) -> Table:
    """The figures of a group's runs; ``averaged`` are the tasks that its averages are over."""
    scores = {task.name: _by_unit(runs, [run.scores[task.name].get(task.metric, nan) for run in runs]) for task in tasks}
    units = dict.fromkeys(run.unit for run in runs)
    average = {unit: mean([scores[name][unit] for name in averaged]) for unit in units}
    known = [run for run in runs if isfinite(run.validation)]
    return Table(scores, average, _by_unit(known, [run.validation for run in known]))


def _by_unit(runs: Sequence[Result], values: Sequence[float]) -> dict[Unit, float]:
    found: dict[Unit, list[float]] = {}
    for run, value in zip(runs, values, strict=True):
        found.setdefault(run.unit, []).append(value)
    return {unit: mean(some) for unit, some in found.items()}


def differences(group: Series, reference: Series, higher_is_better: bool) -> dict[Unit, float]:
    """Group − reference for each seed and split that both have, + where the group is better; rounding counts as 0."""
    sign = 1 if higher_is_better else -1
    return {unit: 0.0 if isclose(a, b, rel_tol=1e-12) else sign * (a - b) for unit, a, b in common(group, reference)}


def gains(group: Series, reference: Series, higher_is_better: bool) -> dict[Unit, float]:
    """The differences in % of the reference."""
    apart = differences(group, reference, higher_is_better)
    return {unit: 100 * value / reference[unit] for unit, value in apart.items()}


def common(group: Series, reference: Series) -> list[tuple[Unit, float, float]]:
    """What both have a value for."""
    pairs = [(unit, group[unit], reference[unit]) for unit in group if unit in reference]
    return [(unit, a, b) for unit, a, b in pairs if isfinite(a) and isfinite(b)]


def mean(values: Sequence[float]) -> float:
    """NaN without any, or where one is NaN."""
    return fsum(values) / len(values) if values else nan
