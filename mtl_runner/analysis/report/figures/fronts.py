"""What one task pays for another: groups in the plane of two tasks."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import hypot, isfinite
from typing import TYPE_CHECKING

from mtl_runner.analysis.comparison import Comparison, Group, TaskInfo
from mtl_runner.analysis.report.columns import unit
from mtl_runner.analysis.report.figures.hypervolume import Point, front, hypervolume
from mtl_runner.analysis.report.figures.numbers import nearest, spread
from mtl_runner.analysis.report.figures.parts import BLUE, GREY, INK, SMALL, canvas, small
from mtl_runner.figures.style import ems, shortened, titles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PAIRS, _GROUPS, _FEW, _SIDE, _STEP, _TOP = 4, 30, 8, 2.3, 3.15, 0.95
"""Pairs and groups shown; groups up to which all have intervals; inches of a panel, to the next one, and on top."""
_FAR = 11.0
"""From a point to its number, in points of print, from where on a line joins them."""


def draw(comparison: Comparison) -> "Figure | str":
    """The pairs of tasks whose scores agree least over the groups, each with its front and hypervolume.

    The reference point of the hypervolume is the worst mean of any group in each task, so that the worst groups add nothing.
    """
    groups = comparison.groups[:_GROUPS]
    if len(comparison.tasks) < 2 or len(groups) < 2:
        return "it takes two tasks and two groups"
    pairs = conflicting(comparison, groups)[:_PAIRS]
    if not pairs:
        return "no two tasks are known in two groups"
    numbered = [f"{place}  {shortened(group.name, 40)}" for place, group in enumerate(groups, start=1)]
    across = len(pairs) if len(pairs) < 4 else 2
    down = -(-len(pairs) // across)
    beside = 0.65 + _STEP * across
    listed = _TOP + 0.17 * len(groups) + 0.1
    size = beside + 0.25 + SMALL / 72 * max(map(ems, numbered)), max(_TOP + _STEP * down - 0.1, listed)
    figure = canvas(*size)
    for place, pair in enumerate(pairs):
        row, column = divmod(place, across)
        axes = small(figure, 0.7 + _STEP * column, size[1] - _TOP - _SIDE - _STEP * row, _SIDE, _SIDE)
        _plane(axes, pair, groups)
    for place, text in enumerate(numbered):
        bold = "bold" if groups[place].is_baseline else "normal"
        y = 1 - (_TOP + 0.08 + 0.17 * place) / size[1]
        figure.text(beside / size[0], y, text, fontsize=SMALL, color=INK, va="center", fontweight=bold)
    many = len(comparison.tasks) * (len(comparison.tasks) - 1) // 2
    which = f"the {len(pairs)} pairs of {many} that agree least; " if len(pairs) < many else ""
    titles(
        figure,
        "what one task pays for another",
        f"{which}blue: Pareto front; cross: the reference point, the worst mean in each task",
    )
    return figure


def conflicting(comparison: Comparison, groups: tuple[Group, ...]) -> list[tuple[TaskInfo, TaskInfo]]:
    """Pairs of tasks known in at least two groups, the lowest correlation over groups first."""
    agreement = {}
    for one, other in combinations(comparison.tasks, 2):
        points = list(points_of(groups, one, other).values())
        if len(points) > 1:
            agreement[one, other] = correlation(points)
    return sorted(agreement, key=lambda pair: agreement[pair])


def correlation(points: list[Point]) -> float:
    """Pearson's; 1 where one of both is constant, as nothing is then paid."""
    from statistics import StatisticsError, correlation

    try:
        return correlation(*zip(*points, strict=True))
    except StatisticsError:
        return 1.0


def points_of(groups: tuple[Group, ...], one: TaskInfo, other: TaskInfo) -> dict[int, Point]:
    """The mean scores by a group's place, turned so that larger is better."""
    signs = [1 if task.higher_is_better else -1 for task in (one, other)]
    found = {}
    for place, group in enumerate(groups):
        means = [group.scores[task.name].mean if task.name in group.scores else float("nan") for task in (one, other)]
        if all(map(isfinite, means)):
            found[place] = (signs[0] * means[0], signs[1] * means[1])
    return found


def _plane(axes: "Axes", pair: tuple[TaskInfo, TaskInfo], groups: tuple[Group, ...]) -> None:
    signs = [1 if task.higher_is_better else -1 for task in pair]
    points = points_of(groups, *pair)
    best = front(points.values())
    reference = min(x for x, _ in points.values()), min(y for _, y in points.values())
    steps = [(reference[0], best[0][1]), *best, (best[-1][0], reference[1])]
    xs, ys = ([sign * point[axis] for point in steps] for axis, sign in enumerate(signs))
    axes.step(xs, ys, where="pre", color=BLUE, linewidth=1.2, zorder=1)
    axes.fill_between(xs, ys, signs[1] * reference[1], step="pre", color=BLUE, alpha=0.08, linewidth=0)
    axes.plot(signs[0] * reference[0], signs[1] * reference[1], "x", color=INK, markersize=5, zorder=3)
    for place, (x, y) in points.items():
        color = BLUE if (x, y) in best else GREY
        at = signs[0] * x, signs[1] * y
        axes.plot(*at, "D" if groups[place].is_baseline else "o", color=color, markersize=4.5, zorder=2)
    axes.margins(0.15)
    limits = axes.get_xlim(), axes.get_ylim()
    _intervals(axes, pair, [groups[place] for place, point in points.items() if len(points) <= _FEW or point in best])
    axes.set(xlim=limits[0][:: signs[0]], ylim=limits[1][:: signs[1]])
    shown = {place: (signs[0] * x, signs[1] * y) for place, (x, y) in points.items()}
    _numbers(axes, shown, (signs[0] * reference[0], signs[1] * reference[1]))
    for task, axis in zip(pair, (axes.xaxis, axes.yaxis), strict=True):
        axis.set_label_text(shortened(f"{task.name}: {unit(task)}", 38), fontsize=8, color=INK)
    axes.set_title(_said(best, reference, signs), loc="left", fontsize=7.5, color=INK, pad=4)


def _numbers(axes: "Axes", at: Mapping[int, Point], cross: Point) -> None:
    """Each group's number beside its point; a line leads to one that found room only further away, or near another point."""
    size = 7 if len(at) <= _FEW else 6
    box = axes.get_window_extent()
    inch = axes.figure.dpi
    spots = [((x - box.x0) * 72 / inch, (y - box.y0) * 72 / inch) for x, y in axes.transData.transform([*at.values(), cross])]
    sizes = [(0.7 * size * len(str(place + 1)), 1.2 * size) for place in at]
    middles = spread(spots[:-1], sizes, (box.width * 72 / inch, box.height * 72 / inch), spots[-1:])
    for (place, point), spot, middle in zip(at.items(), spots, middles, strict=False):
        away = (middle[0] - spot[0], middle[1] - spot[1])
        unsure = hypot(*away) > _FAR or nearest(middle, spots[:-1]) != spot
        line = {"arrowstyle": "-", "linewidth": 0.4, "color": INK, "shrinkA": 0, "shrinkB": 0} if unsure else None
        look = {"ha": "center", "va": "center", "fontsize": size, "color": INK, "zorder": 4}
        axes.annotate(str(place + 1), point, away, textcoords="offset points", arrowprops=line, **look)  # type: ignore[arg-type]


def _intervals(axes: "Axes", pair: tuple[TaskInfo, TaskInfo], groups: Sequence[Group]) -> None:
    """Faint, and cut off by the panel: the points are what it shows."""
    for group in groups:
        x, y = (group.scores[task.name] for task in pair)
        if isfinite(x.half) and isfinite(y.half):
            axes.errorbar(x.mean, y.mean, y.half, x.half, color=GREY, linewidth=0.6, alpha=0.7, zorder=0.8)


def _said(best: Sequence[Point], reference: Point, signs: Sequence[int]) -> str:
    volume, box = hypervolume(best, reference), (best[-1][0] - reference[0]) * (best[0][1] - reference[1])
    share = f", {volume / box:.0%} of the ideal box" if box else ""
    return f"hypervolume {volume:.3g}{share}\nreference ({signs[0] * reference[0]:.4g}, {signs[1] * reference[1]:.4g})"
