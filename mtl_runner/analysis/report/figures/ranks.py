"""Critical-difference diagram (Demšar 2006, figure 1)."""

from collections.abc import Sequence
from math import ceil, floor, isfinite
from typing import TYPE_CHECKING

from mtl_runner.analysis.comparison import Comparison, Group
from mtl_runner.analysis.report.figures.parts import INK, canvas, names
from mtl_runner.analysis.report.words import p_is, repeat
from mtl_runner.figures.style import ems, titles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDE, _ROW, _TOP, _BAR = 4.2, 0.24, 1.5, 0.13
"""Inches of the axis of ranks, from name to name, from the top to the axis, and from clique to clique."""


def draw(comparison: Comparison) -> "Figure | str":
    """Mean ranks on an axis, the best on the right; a bar joins groups that cannot be told apart."""
    ranking = comparison.ranking
    groups = sorted((group for group in comparison.groups if isfinite(group.rank)), key=lambda group: group.rank)
    if ranking is None or not isfinite(ranking.critical_difference) or len(groups) < 2:
        return "it takes three groups, and two tasks or seeds that all of them have"
    joined = cliques([group.rank for group in groups], ranking.critical_difference)
    half = len(groups) // 2
    left, right = (0.45 + 8 / 72 * max(map(ems, _labels(each))) for each in (groups[half:], groups[:half]))
    rows = -(-len(groups) // 2)
    below = 0.2 + _BAR * len(joined)
    size = left + _WIDE + right, _TOP + below + _ROW * rows + 0.1
    figure = canvas(*size)
    axes = figure.add_axes((left / size[0], 0, _WIDE / size[0], 1))
    high, low = ceil(groups[-1].rank), floor(groups[0].rank)
    inch = max(high - low, ranking.critical_difference) / _WIDE
    axes.set(xlim=(low + inch * _WIDE, low), ylim=(_TOP - size[1], _TOP))
    axes.axis("off")
    _axis(axes, low, high, ranking.critical_difference)
    _names(axes, groups, inch, below)
    for place, (first, last) in enumerate(joined):
        ends = [groups[first].rank - 0.04 * inch, groups[last].rank + 0.04 * inch]
        axes.plot(ends, [-0.13 - _BAR * place] * 2, color=INK, linewidth=3.2, solid_capstyle="butt", clip_on=False)
    verdict = "" if ranking.friedman_p < 0.05 else ", so no difference is sure"
    titles(
        figure, "mean ranks and their critical difference",
        f"{ranking.blocks} blocks of tasks and {repeat(comparison)}s; Friedman {p_is(ranking.friedman_p)}{verdict}; "
        "a bar joins groups within CD",
    )  # fmt: skip
    return figure


def cliques(ranks: Sequence[float], critical: float) -> list[tuple[int, int]]:
    """First and last place of each longest run of sorted ``ranks`` that differ by less than ``critical``, of two at least."""
    found: list[tuple[int, int]] = []
    for first, rank in enumerate(ranks):
        last = max(place for place, other in enumerate(ranks) if other >= rank and (place == first or other - rank < critical))
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found


def _axis(axes: "Axes", low: int, high: int, critical: float) -> None:
    axes.plot([low, high], [0, 0], color=INK, linewidth=1, clip_on=False)
    step = max(1, (high - low) // 10)
    for tick in range(low, high + 1):
        axes.plot([tick, tick], [0, 0.09 if (tick - low) % step == 0 else 0.05], color=INK, linewidth=1, clip_on=False)
        if (tick - low) % step == 0:
            axes.text(tick, 0.13, str(tick), ha="center", va="bottom", fontsize=8, color=INK)
    left = axes.get_xlim()[0]
    axes.plot([left, left - critical], [0.5, 0.5], color=INK, linewidth=1, marker="|", markersize=7, clip_on=False)
    axes.text(left - critical / 2, 0.56, f"CD = {critical:.2f}", ha="center", va="bottom", fontsize=8, color=INK)


def _names(axes: "Axes", groups: Sequence[Group], inch: float, below: float) -> None:
    """The better half on the right, the best on top; the worse half on the left, the worst on top."""
    high, low = axes.get_xlim()
    half = len(groups) // 2
    for place, group in enumerate(groups):
        right = place < half
        y = -below - _ROW * ((place if right else len(groups) - 1 - place) + 0.5)
        end, text = (low - 0.1 * inch, low - 0.16 * inch) if right else (high + 0.1 * inch, high + 0.16 * inch)
        axes.plot([group.rank, group.rank, end], [0, y, y], color=INK, linewidth=0.8, clip_on=False)
        bold = "bold" if group.is_baseline else "normal"
        said, side = _labels([group])[0], "left" if right else "right"
        axes.text(text, y, said, ha=side, va="center", fontsize=8, color=INK, fontweight=bold)


def _labels(groups: Sequence[Group]) -> list[str]:
    return [f"{name} ({group.rank:.2f})" for name, group in zip(names(groups), groups, strict=True)]
