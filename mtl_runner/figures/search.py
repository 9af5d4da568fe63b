"""What a search has tried: values in their order, what mattered, and the trials that none other beats in everything."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import ceil
from typing import TYPE_CHECKING

from mtl_runner.figures.style import INK, TRAIN, VALIDATION, ems, fitted, panel, shortened, titles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HIGH = 2.3
_LABELLED = 25
"""Points of a front up to which each has the number of its trial."""


@dataclass(frozen=True)
class Tried:
    """A trial as the pictures need it."""

    number: int
    values: Sequence[float]
    """One for each objective; of a pruned trial the last that was reported, if any."""
    pruned: bool = False
    best: bool = False
    """Whether no other trial is as good in every objective and better in one."""


def history(trials: Sequence[Tried], objectives: Sequence[str], title: str) -> "Figure":
    """A panel for each objective: the value of each trial, and the best so far; pruned trials are crosses."""
    from matplotlib.ticker import MaxNLocator

    figure, panels = _panels(len(objectives), title, f"{len(trials)} trials; the line is the best so far, crosses were pruned")
    for place, (axes, objective) in enumerate(zip(panels, objectives, strict=True)):
        whole = [(trial.number, trial.values[place]) for trial in trials if not trial.pruned]
        cut = [(trial.number, trial.values[place]) for trial in trials if trial.pruned and trial.values]
        best = [max(value for _, value in whole[: end + 1]) for end in range(len(whole))]
        axes.step([x for x, _ in whole], best, where="post", color=VALIDATION, linewidth=1.4)
        axes.plot(*_xy(cut), "x", color=TRAIN, markersize=3.5, markeredgewidth=0.9)
        axes.plot(*_xy(whole), "o", color=VALIDATION, markersize=3, markeredgewidth=0)
        axes.set_xlabel("trial", fontsize=8, color=INK)
        axes.set_ylabel(shortened(objective, 30), fontsize=8, color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure


def importances(shares: Mapping[str, Mapping[str, float]], title: str) -> "Figure":
    """A panel of bars for each objective: the share of the variance over the trials that each key explains."""
    keys = sorted(
        {key for row in shares.values() for key in row}, key=lambda key: -sum(row.get(key, 0) for row in shares.values())
    )
    names = [shortened(key, 32) for key in keys]
    left = 0.3 + 8 / 72 * max(map(ems, names), default=0)
    high = max(0.24 * len(keys), 0.3)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(left + 2.5 * len(shares) + 0.15, high + 1.3), dpi=130)
    titles(figure, title, "how much each searched key explains (fANOVA)")
    for place, (objective, row) in enumerate(shares.items()):
        axes = panel(figure, left + 2.5 * place, 0.45, 2.25, high)
        values = [row.get(key, 0.0) for key in keys]
        axes.barh(range(len(keys)), values, height=0.62, color=VALIDATION)
        for y, value in enumerate(values):
            axes.text(value + 0.02, y, f"{value:.2f}", va="center", fontsize=7, color=INK)
        axes.set_yticks(range(len(keys)), names if place == 0 else [""] * len(keys), fontsize=8)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.set(xlim=(0, 1.15), ylim=(len(keys) - 0.5, -0.5))
        axes.set_xticks((0, 0.5, 1))
        axes.set_title(fitted(objective, 2.2, 8), loc="left", fontsize=8, color=INK, pad=4)
        axes.set_xlabel("share of the variance", fontsize=8, color=INK)
    return figure


def fronts(trials: Sequence[Tried], objectives: Sequence[str], title: str) -> "Figure":
    """A panel for each pair of objectives: those that none other beats in everything, with their numbers; the others are grey.

    With more than two objectives a trial of the front may look beaten in one pair: it is better in a third.
    """
    pairs = list(combinations(range(len(objectives)), 2))
    best, others = ([trial for trial in trials if trial.best == wanted and not trial.pruned] for wanted in (True, False))
    said = f"{len(best)} of {len(best) + len(others)} finished trials are beaten by none in all objectives; the others are grey"
    figure, panels = _panels(len(pairs), title, said)
    for axes, (x, y) in zip(panels, pairs, strict=True):
        axes.plot(
            *_xy([(trial.values[x], trial.values[y]) for trial in others]),
            "o",
            color=TRAIN,
            alpha=0.6,
            markersize=3,
            markeredgewidth=0,
        )
        points = sorted((trial.values[x], trial.values[y]) for trial in best)
        if len(pairs) == 1:
            axes.step(*_xy(points), where="pre", color=VALIDATION, linewidth=1)
        axes.plot(*_xy(points), "o", color=VALIDATION, markersize=4, markeredgewidth=0)
        for trial in best[:_LABELLED]:
            axes.annotate(
                str(trial.number),
                (trial.values[x], trial.values[y]),
                xytext=(3, 3),
                textcoords="offset points",
                fontsize=6.5,
                color=INK,
            )
        axes.set_xlabel(shortened(objectives[x], 40), fontsize=8, color=INK)
        axes.set_ylabel(shortened(objectives[y], 30), fontsize=8, color=INK)
        axes.margins(0.08)
    return figure


def _panels(count: int, bold: str, plain: str) -> tuple["Figure", list["Axes"]]:
    """So many panels, three in a row."""
    from matplotlib.figure import Figure

    columns = min(count, 3)
    rows, wide = ceil(count / columns), 3.6 if columns > 1 else 4.9
    figure = Figure(figsize=(0.15 + wide * columns, 0.6 + (_HIGH + 0.6) * rows), dpi=130)
    titles(figure, bold, plain)
    places = [divmod(index, columns) for index in range(count)]
    return figure, [
        panel(figure, 0.7 + wide * column, 0.5 + (_HIGH + 0.6) * (rows - 1 - row), wide - 0.75, _HIGH) for row, column in places
    ]


def _xy(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
