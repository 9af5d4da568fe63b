"""A comparison as columns of text with marks, which each kind of table shows in its own way."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import floor, isfinite, log10, nan
from statistics import median

from mtl_runner.analysis.comparison import Comparison, Estimate, Group, Paired, TaskInfo
from mtl_runner.analysis.statistics import LEVEL

NONE = "–"
"""What stands where there is no number."""


@dataclass(frozen=True)
class Cell:
    """What a table says of a group in one respect."""

    text: str
    value: float
    """What it is sorted by."""
    top: bool = False
    """The best mean of its column."""
    close: bool = False
    """Not told apart from the best group."""
    suffers: bool = False
    """Sure negative transfer."""


@dataclass(frozen=True)
class Column:
    """One respect, with a cell for each group."""

    title: str
    unit: str
    cells: tuple[Cell, ...]

    @property
    def marked(self) -> bool:
        """Whether a cell has a mark behind its number."""
        return any(cell.close or cell.suffers for cell in self.cells)


def overall(comparison: Comparison) -> list[Column]:
    """The average, Δm where there is a baseline, mean rank, training time and number of parameters."""
    groups = comparison.groups
    higher, close = higher_is_better(comparison), _closeness(comparison, "average")
    known = any(group.delta_m for group in groups)
    averages = [group.average for group in groups]
    found = [_estimates("average", f"of tasks {'↑' if higher else '↓'}", averages, close, higher_is_better=higher)]
    if comparison.baseline:
        found.append(_estimates("Δm", "% ↑", [_gain(group, group.delta_m, known) for group in groups], signed=True))
    plain = (
        ("mean rank", "1 is best ↓", [group.rank for group in groups], "{:.2f}".format),
        ("training time", "s", [group.seconds.mean for group in groups], _amount),
        ("parameters", "", [group.parameters for group in groups], _amount),
    )
    return found + [_plain(*column) for column in plain if any(map(isfinite, column[2]))]


def scores(comparison: Comparison, tasks: Iterable[TaskInfo]) -> list[Column]:
    """The primary metric of each of these tasks."""
    found = []
    for task in tasks:
        estimates = [_or_nan(group.scores.get(task.name)) for group in comparison.groups]
        suffers = [task.name in group.suffers for group in comparison.groups]
        found.append(
            _estimates(task.name, unit(task), estimates, _closeness(comparison, task.name), suffers, task.higher_is_better)
        )
    return found


def gains(comparison: Comparison, tasks: Iterable[TaskInfo]) -> list[Column]:
    """The gain over the baseline in each of these tasks, in %."""
    found = []
    for task in tasks:
        known = any(task.name in group.gains for group in comparison.groups)
        estimates = [_gain(group, group.gains.get(task.name), known) for group in comparison.groups]
        suffers = [known and task.name in group.suffers for group in comparison.groups]
        found.append(_estimates(task.name, "% ↑", estimates, suffers=suffers, signed=True))
    return found


def telling(comparison: Comparison, most: int) -> tuple[TaskInfo, ...]:
    """At most so many tasks, in their order: those in which some group gains or loses most.

    Without a baseline, those in which groups differ most.
    """

    def size(task: TaskInfo) -> float:
        changes = [abs(group.gains[task.name].mean) for group in comparison.groups if task.name in group.gains]
        means = [group.scores[task.name].mean for group in comparison.groups if task.name in group.scores]
        known = [value for value in changes or means if isfinite(value)]
        return (max(known) - (0 if changes else min(known))) if known else -1.0

    chosen = {task.name for task in sorted(comparison.tasks, key=size, reverse=True)[:most]}
    return tuple(task for task in comparison.tasks if task.name in chosen)


def unit(task: TaskInfo) -> str:
    """``accuracy ↑``: the metric, and where it is better."""
    return f"{task.metric} {'↑' if task.higher_is_better else '↓'}"


def decimals(estimates: Sequence[Estimate], signed: bool = False) -> int:
    """Places after the point: two digits of the median interval that begins with 1 or 2, one of others; without any, 4 digits.

    Scores that are at most 1, no differences (``signed``), have two at least.
    """
    means = [abs(estimate.mean) for estimate in estimates if isfinite(estimate.mean)]
    halves = [estimate.half for estimate in estimates if isfinite(estimate.half) and estimate.half > 0]
    if halves:
        typical = median(halves)
        places = -floor(log10(typical))
        return min(max(places + int(typical * 10.0**places < 3), 0 if signed or max(means) > 1 else 2), 6)
    most = max(means, default=0)
    return min(max(3 - floor(log10(most)), 0), 4) if most else 4


def shown(estimate: Estimate, places: int, signed: bool = False) -> str:
    """``0.832 ± 0.004``, without what is not known."""
    if not isfinite(estimate.mean):
        return NONE
    if signed and not estimate.n:
        return "0"
    mean = f"{estimate.mean:{'+' if signed else ''}z.{places}f}".replace("-", "−")
    return f"{mean} ± {estimate.half:.{places}f}" if isfinite(estimate.half) else mean


def _estimates(
    title: str,
    of: str,
    estimates: Sequence[Estimate],
    close: Sequence[bool] | None = None,
    suffers: Sequence[bool] | None = None,
    higher_is_better: bool = True,
    signed: bool = False,
) -> Column:
    places, none = decimals(estimates, signed), [False] * len(estimates)
    texts = [shown(estimate, places, signed) for estimate in estimates]
    turned = [(1 if higher_is_better else -1) * estimate.mean for estimate in estimates]
    best = max(filter(isfinite, turned), default=None) if len(estimates) > 1 else None
    marks = zip(texts, estimates, turned, close or none, suffers or none, strict=True)
    return Column(title, of, tuple(Cell(text, each.mean, value == best, *has) for text, each, value, *has in marks))


def _plain(title: str, of: str, values: Sequence[float], text: Callable[[float], str]) -> Column:
    return Column(title, of, tuple(Cell(text(value) if isfinite(value) else NONE, value) for value in values))


def _amount(value: float) -> str:
    """Three digits: ``0.412``, ``8.25``, ``412``, ``12.3k``, ``4.56M``."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.3g}{letter}"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _closeness(comparison: Comparison, key: str) -> list[bool]:
    return [differs(group.against_best.get(key)) is False for group in comparison.groups]


def differs(paired: Paired | None) -> bool | None:
    """Whether a group can be told apart from the reference; None where that could not be tested."""
    return None if paired is None or not isfinite(paired.holm) else paired.holm < LEVEL


def higher_is_better(comparison: Comparison) -> bool:
    """Of the average."""
    return any(task.higher_is_better for task in comparison.tasks if task.role == "main")


def _gain(group: Group, gain: Estimate | None, known: bool) -> Estimate:
    """Of a baseline over itself it is 0, where others have a gain at all."""
    return Estimate(0.0, nan, 0) if known and gain is None and group.reference is None else _or_nan(gain)


def _or_nan(estimate: Estimate | None) -> Estimate:
    return estimate or Estimate(nan, nan, 0)
