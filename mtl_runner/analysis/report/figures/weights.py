"""What the weightings make of the tasks' weights."""

from math import isfinite
from typing import TYPE_CHECKING

from mtl_runner.analysis.comparison import Comparison, Group
from mtl_runner.analysis.report.figures.parts import GREY, INK, SMALL, canvas, key, mean, small, style, titled
from mtl_runner.analysis.results import WEIGHT
from mtl_runner.figures.style import ems, shortened, titles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PANELS, _COLORED, _WIDE, _HIGH, _TOP = 9, 8, 2.3, 1.6, 0.85
Lines = dict[str, dict[int, float]]
"""By task, the mean weight over the runs by epoch."""


def draw(comparison: Comparison) -> "Figure | str":
    """A panel for each group whose weights move, the best group of each weighting first."""
    from matplotlib.ticker import MaxNLocator

    moving = [(group, lines) for group in comparison.groups if moves(lines := weights_of(group))]
    if not moving:
        return "no group's task weights change"
    chosen = _spread(moving)[:_PANELS]
    colored = _telling([lines for _, lines in chosen])
    entries = [(shortened(task, 30), style(place)) for place, task in enumerate(colored)]
    others = {task for _, lines in chosen for task in lines} - set(colored)
    if others:
        entries.append((f"{len(others)} other tasks", {"color": GREY, "linestyle": "-"}))
    across = min(len(chosen), 3)
    down = -(-len(chosen) // across)
    beside = 0.6 + across * (_WIDE + 0.5)
    size = (
        max(beside + 0.5 + SMALL / 72 * max(ems(name) for name, _ in entries), 4.6),
        max(_TOP + down * (_HIGH + 0.65) - 0.1, _TOP + 0.17 * len(entries) + 0.2),
    )
    figure = canvas(*size)
    for place, (group, lines) in enumerate(chosen):
        row, column = divmod(place, across)
        axes = small(figure, 0.6 + column * (_WIDE + 0.5), size[1] - _TOP - _HIGH - row * (_HIGH + 0.65), _WIDE, _HIGH)
        for task, weights in sorted(lines.items(), key=lambda item: item[0] in colored):
            look = style(colored.index(task)) if task in colored else {"color": GREY, "linestyle": "-"}
            axes.plot(list(weights), list(weights.values()), linewidth=1.5 if task in colored else 0.5, **look)  # type: ignore[arg-type]
        titled(axes, group.name, _WIDE + 0.4)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
        axes.set_xlabel("epoch", fontsize=8, color=INK)
    figure.axes[0].set_ylabel("weight", fontsize=8, color=INK)
    key(figure, entries, beside - 0.25, _TOP + 0.05)
    which = f"; {len(chosen)} of {len(moving)} groups" if len(chosen) < len(moving) else ""
    titles(figure, "task weights over time", f"mean over the runs of a group, as long as all of them train{which}")
    return figure


def weights_of(group: Group) -> Lines:
    """The weights that the group's runs logged, as far as they are finite, up to the first epoch without one of the runs."""
    found: dict[str, dict[int, list[float]]] = {}
    for run in group.runs:
        for line in run.history:
            for name, value in line["metrics"].items():
                if name.startswith(WEIGHT) and isfinite(value):
                    found.setdefault(name.removeprefix(WEIGHT), {}).setdefault(line["epoch"], []).append(value)
    return {
        task: {epoch: mean(values) for epoch, values in sorted(by.items()) if len(values) == max(map(len, by.values()))}
        for task, by in found.items()
    }


def moves(lines: Lines) -> bool:
    """Whether there are several tasks, and their weights differ between epochs or tasks."""
    values = [value for by in lines.values() for value in by.values()]
    return len(lines) > 1 and max(values) - min(values) > 1e-6 * max(map(abs, values))


def _spread(moving: list[tuple[Group, Lines]]) -> list[tuple[Group, Lines]]:
    seen: dict[str, int] = {}
    turn = []
    for group, _ in moving:
        weighting = group.settings.get("weighting", "")
        turn.append(seen.get(weighting, 0))
        seen[weighting] = turn[-1] + 1
    return [moving[place] for place in sorted(range(len(moving)), key=lambda place: turn[place])]


def _telling(panels: list[Lines]) -> list[str]:
    """Tasks with a colour of their own: all of a few, else those with the most extreme weights at the end, in their order."""
    tasks = list(dict.fromkeys(task for lines in panels for task in lines))
    if len(tasks) <= _COLORED:
        return tasks
    last = {task: mean([list(lines[task].values())[-1] for lines in panels if task in lines]) for task in tasks}
    ranked = sorted(tasks, key=lambda task: last[task])
    chosen = {*ranked[: _COLORED // 2], *ranked[-_COLORED // 2 :]}
    return [task for task in tasks if task in chosen]
