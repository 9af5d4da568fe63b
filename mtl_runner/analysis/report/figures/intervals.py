"""Each group's mean with its interval, task by task."""

from math import isfinite
from typing import TYPE_CHECKING

from mtl_runner.analysis.comparison import Comparison, Estimate, Group
from mtl_runner.analysis.report.columns import higher_is_better, telling, unit
from mtl_runner.analysis.report.figures.parts import BLUE, GREY, INK, ORANGE, canvas, names, small, titled
from mtl_runner.figures.style import ems, shortened, titles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS, GROUPS = 12, 60
"""Tasks, the average among them, and groups that are shown."""
_ACROSS, _WIDE, _GAP, _ROW, _TOP = 4, 1.75, 0.28, 0.2, 0.75


def draw(comparison: Comparison) -> "Figure | str":
    """A panel for the average and for each task; a row for each group, the runs as dots under the mean."""
    groups = comparison.groups[:GROUPS]
    tasks = telling(comparison, PANELS - 1)
    lone = len(comparison.tasks) == 1
    count = len(tasks) + (not lone)
    across = min(count, _ACROSS)
    left, high = 0.3 + 8 / 72 * max(map(ems, names(groups))), _ROW * len(groups) + 0.1
    down = -(-count // across)
    size = max(left + across * (_WIDE + _GAP), 4.6), _TOP + down * (high + 0.72) - 0.1
    figure = canvas(*size)
    for place in range(count):
        row, column = divmod(place, across)
        axes = small(figure, left + column * (_WIDE + _GAP), size[1] - _TOP - high - row * (high + 0.72), _WIDE, high)
        task = None if place == 0 and not lone else tasks[place - (not lone)]
        titled(axes, task.name if task else "average", _WIDE + _GAP - 0.1)
        axes.set_xlabel(
            shortened(unit(task) if task else f"of tasks {'↑' if higher_is_better(comparison) else '↓'}", 30),
            fontsize=7.5,
            color=INK,
            labelpad=2,
        )
        _rows(axes, groups, task.name if task else None, task.metric if task else "")
        axes.set_yticks(range(len(groups)), names(groups) if column == 0 else [""] * len(groups), fontsize=8)
        if not (task.higher_is_better if task else higher_is_better(comparison)):
            axes.invert_xaxis()
    single = all(len(group.runs) == 1 for group in groups)
    said = "single runs" if single else "mean and 95 % interval; dots: single runs"
    said += "; dashed: the baseline" if comparison.baseline else ""
    said += "; orange: sure negative transfer, seed by seed" if any(group.suffers for group in groups) else ""
    said += f"; {len(tasks)} of {len(comparison.tasks)} tasks" if len(tasks) < len(comparison.tasks) else ""
    said += f"; the best {GROUPS} of {len(comparison.groups)} groups" if len(groups) < len(comparison.groups) else ""
    titles(figure, "test metric by group and task", said)
    return figure


def _rows(axes: "Axes", groups: tuple[Group, ...], task: str | None, metric: str) -> None:
    for y, group in enumerate(groups):
        runs = [run.scores.get(task, {}).get(metric, float("nan")) if task else run.average for run in group.runs]
        if len(runs) > 1:
            axes.plot(runs, [y + 0.3] * len(runs), "o", color=GREY, alpha=0.7, markersize=2.4, markeredgewidth=0, zorder=1.5)
        estimate = group.scores.get(task) if task else group.average
        if estimate is None or not isfinite(estimate.mean):
            continue
        _point(axes, y, estimate, ORANGE if task in group.suffers else BLUE, group.is_baseline)
        if group.is_baseline:
            axes.axvline(estimate.mean, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    axes.set_ylim(len(groups) - 0.3, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")


def _point(axes: "Axes", y: int, estimate: Estimate, color: str, hollow: bool) -> None:
    if isfinite(estimate.half):
        axes.plot(
            [estimate.mean - estimate.half, estimate.mean + estimate.half],
            [y, y],
            color=color,
            linewidth=1.6,
            solid_capstyle="butt",
        )
    axes.plot(estimate.mean, y, "D" if hollow else "o", color=color, markersize=4.6, markerfacecolor="white" if hollow else color)
