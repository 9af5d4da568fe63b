"""What recall costs in precision."""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

from mtl_runner.figures.sheet import Sheet, Sheets
from mtl_runner.figures.style import DASHES, INK, VALIDATION, ems, end, fitted, panel, put_titles

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

_COLORS = (VALIDATION, "#d1622b", "#3a923a", "#8c5fb0", "#b8860b", "#c44e7d", "#2f9c95", "#7f4f24", "#5b6bd6", "#76818c")
_HEIGHT, _SIZE = 3.9, 7.5


def precision_recall(task: str, curves: Sequence[Mapping[str, Any]], sheets: Sheets) -> Sheet:
    """A curve for each class, its share of the labels as a dashed line, and a ring where the decision in use is.

    Args:
        task: its name.
        curves: ``precision_recall`` of the task in ``curves.json``.
        sheets: those of the tasks before; a new one is added.
    """
    labels = [
        f"{fitted(str(curve['class']), 1.5, _SIZE)}: AP {_short(curve['average_precision'])}, share {_short(curve['prevalence'])}"
        for curve in curves
    ]
    limit = end(max(max(*curve["precision"], curve["prevalence"]) for curve in curves))
    width = ceil(2 * (4.1 + _SIZE / 72 * max(map(ems, labels)))) / 2
    key = ("precision_recall", limit, width)
    if key not in sheets:
        sheets[key] = _blank(limit, width)
    sheet = sheets[key]
    sheet.clear()
    axes = sheet.figure.axes[0]
    for curve, label, color in zip(curves, labels, _COLORS, strict=False):
        sheet.put(_curve(axes, curve, label, color))
    sheet.put([axes.legend(fontsize=_SIZE, frameon=False, labelcolor=INK, loc="upper left", bbox_to_anchor=(1.02, 1.02))])
    decided = any(curve["decision"]["precision"] is not None for curve in curves)
    ring = "ring: the decision in use" if decided else "the decision in use predicts none"
    sheet.put(put_titles(sheet.figure, [fitted(task, width - 0.3, 11)], [f"dashed: share of the labels; {ring}"]))
    return sheet


def _curve(axes: "Axes", curve: Mapping[str, Any], label: str, color: str) -> "list[Artist]":
    """In steps, as average precision sums it up: no precision between two thresholds can be had."""
    recall, precision = [0, *curve["recall"]], [curve["precision"][0], *curve["precision"]]
    artists: list[Artist] = [
        *axes.plot(recall, precision, color=color, linewidth=1.4, drawstyle="steps-pre", label=label, clip_on=False),
        axes.axhline(curve["prevalence"], color=color, linewidth=0.9, linestyle=DASHES),
    ]
    if (decision := curve["decision"])["precision"] is not None:
        place = [decision["recall"]], [decision["precision"]]
        artists += axes.plot(*place, "o", color="white", markeredgecolor=color, markeredgewidth=1.6, clip_on=False, zorder=3)
    return artists


def _blank(limit: float, width: float) -> Sheet:
    """Axes up to a ``limit`` of precision, in a figure of ``width`` inches."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(width, _HEIGHT), dpi=130)
    axes = panel(figure, 0.7, 0.5, 2.8, 2.8)
    axes.set(xlim=(0, 1), ylim=(0, limit))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel("recall", fontsize=8, color=INK)
    axes.set_ylabel("precision", fontsize=8, color=INK)
    return Sheet(figure)


def _short(value: float) -> str:
    return f"{value:.3f}" if value >= 0.0095 or not value else f"{value:.1g}"
