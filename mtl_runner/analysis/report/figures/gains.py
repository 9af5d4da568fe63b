"""The gains over the baseline, as colours."""

from math import isfinite, nan
from statistics import quantiles
from typing import TYPE_CHECKING

from mtl_runner.analysis.comparison import Comparison, Estimate
from mtl_runner.analysis.report.words import gain_of, listed
from mtl_runner.figures.table import heat_map

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROWS, _COLUMNS, _NUMBERED = 60, 40, (50, 16)
"""Tasks and groups that are shown, and those up to which a heat map has numbers."""


def draw(comparison: Comparison) -> "Figure | str":
    """Task × group in %, Δm on top; a triangle where the whole 95 % interval is on one side of 0."""
    if comparison.baseline is None:
        return "there is no single-task baseline of the same seeds"
    groups = [group for group in comparison.groups if group.reference][:_COLUMNS]
    if not groups:
        return "there is nothing beside the baseline"
    tasks = [task.name for task in comparison.tasks if any(task.name in group.gains for group in groups)][:_ROWS]
    if not tasks:
        return "no task has a gain in %"
    rows = [[group.delta_m for group in groups], *([group.gains.get(task) for group in groups] for task in tasks)]
    rows = rows[1:] if len(comparison.tasks) == 1 else rows
    values = [[each.mean if each else nan for each in row] for row in rows]
    title, names = f"{gain_of(comparison)}, in % (▲▼ sure)", ["Δm"] * (len(rows) > len(tasks)) + tasks
    figure = heat_map(title, names, [group.name for group in groups], values, _limit(values), _without(comparison))
    numbered = len(rows) <= _NUMBERED[0] and len(groups) <= _NUMBERED[1]
    for y, row in enumerate(rows):
        for x, gain in enumerate(row):
            if (sign := sure(gain)) != 0:
                dark = abs(values[y][x]) > 0.6 * figure.axes[0].images[0].get_clim()[1]
                place, size = (x, 5.5) if not numbered else (x + 0.38, 5)
                figure.axes[0].text(
                    place,
                    y,
                    "▲" if sign > 0 else "▼",
                    fontsize=size,
                    color="white" if dark else "#2f3a45",
                    ha="center",
                    va="center",
                )
    if len(rows) > len(tasks):
        figure.axes[0].axhline(0.5, color="#2f3a45", linewidth=1)
    return figure


def _without(comparison: Comparison) -> str:
    """Which tasks are not there, as their metric gives no percentage: values below 0 or a baseline not surely above, say."""
    missing = [task for task in comparison.tasks if not any(task.name in group.gains for group in comparison.groups)]
    said = listed((f"{task.name} ({task.metric})" for task in missing), "")
    return f"no gain in %, and no part in Δm: {said}" if missing else ""


def sure(gain: Estimate | None) -> int:
    """1 for a sure gain, -1 for a sure loss, 0 where the interval holds 0 or is unknown."""
    if gain is None or not isfinite(gain.half):
        return 0
    return (gain.mean - gain.half > 0) - (gain.mean + gain.half < 0)


def _limit(values: list[list[float]]) -> float | None:
    """Where the colours end: one collapsed task does not leave all the others pale."""
    sizes = sorted(abs(value) for row in values for value in row if isfinite(value))
    if len(sizes) < 4 or not (typical := quantiles(sizes, n=4)[2]):
        return None
    return 2.5 * typical if sizes[-1] > 2.5 * typical else None
