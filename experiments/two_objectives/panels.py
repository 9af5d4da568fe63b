"""The figure: a panel for each weighting."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from mtl_runner.figures.style import INK, PALE, TRAIN, VALIDATION

FAMILIES = {
    "weights from the losses": ("losses", "trajectory"),
    "weights from inner products of the tasks' gradients": ("gramian",),
    "updates from the tasks' whole gradients": ("jacobian",),
}
"""Headings, and what the weightings below them need."""
COLUMNS, SIDE, GAP = 8, 1.7, 0.1
"""Panels in a row; inches of a panel's side, and between panels."""
REACH = 11.0
FRONT = "#d9822b"
TIME = LinearSegmentedColormap.from_list("time", ["#8dbbe3", VALIDATION, "#0b2a49"])
DEPTH = LinearSegmentedColormap.from_list("depth", ["#dfe5eb", "#ffffff"])


class Run(Protocol):
    """What a panel shows."""

    @property
    def option(self) -> str: ...
    @property
    def needs(self) -> str: ...
    @property
    def trajectories(self) -> Tensor: ...


def trajectories_figure(
    runs: Sequence[Run], on_front: Mapping[str, int], front: Tensor, mean: Callable[[Tensor], Tensor]
) -> Figure:
    """Trajectories over the contours of the mean loss, a block of rows for each family.

    Args:
        runs: the weightings' trajectories.
        on_front: of each weighting, how many of its ends are on the Pareto front.
        front: points [n, 2] of it.
        mean: the mean of the objectives [...] at points [..., 2].
    """
    blocks = {title: [each for each in runs if each.needs in needs] for title, needs in FAMILIES.items()}
    rows = [(title, members[i : i + COLUMNS]) for title, members in blocks.items() for i in range(0, len(members), COLUMNS)]
    width, height = 0.45 + COLUMNS * (SIDE + GAP), 0.75 + sum(_height(rows, i) for i in range(len(rows)))
    figure = Figure(figsize=(width, height), dpi=110)
    ground = _ground(mean)
    top = height - 0.4
    for number, (title, members) in enumerate(rows):
        top -= _height(rows, number)
        if number == 0 or rows[number - 1][0] != title:
            figure.text(0.4 / width, (top + SIDE + 0.3) / height, title, fontsize=10.5, color=INK, style="italic")
        for column, each in enumerate(members):
            place = (0.4 + column * (SIDE + GAP), top)
            axes = figure.add_axes((place[0] / width, place[1] / height, SIDE / width, SIDE / height))
            _panel(axes, each, on_front[each.option], front, ground)
            axes.tick_params(labelleft=column == 0, labelbottom=number == len(rows) - 1)
    _legend(figure)
    return figure


def _height(rows: Sequence[tuple[str, Sequence[Run]]], number: int) -> float:
    """Inches of a row of panels, with its titles above it; the first of a family has the family's name too."""
    first = number == 0 or rows[number - 1][0] != rows[number][0]
    return SIDE + 0.28 + (0.36 if first else 0)


def _ground(mean: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    axis = torch.linspace(-REACH, REACH, 151, dtype=torch.float64)
    x, y = torch.meshgrid(axis, axis, indexing="xy")
    return x, y, mean(torch.stack([x, y], -1))


def _panel(axes: Axes, run: Run, reached: int, front: Tensor, ground: tuple[Tensor, Tensor, Tensor]) -> None:
    axes.set_facecolor("white")
    axes.contourf(*ground, levels=14, cmap=DEPTH)
    axes.contour(*ground, levels=14, colors=[TRAIN], linewidths=0.4, linestyles="solid", alpha=0.5)
    axes.plot(front[:, 0], front[:, 1], color=FRONT, linewidth=4, alpha=0.75, solid_capstyle="round", zorder=2)
    for path in run.trajectories:
        _trajectory(axes, path)
    axes.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), xticks=(-10, 0, 10), yticks=(-10, 0, 10))
    axes.tick_params(labelsize=7.5, length=2, colors=INK)
    axes.spines[:].set_color(PALE)
    axes.set_title(run.option, loc="left", fontsize=9.5, fontweight="bold", color=INK, pad=3)
    axes.set_title(f"{reached} of {len(run.trajectories)}", loc="right", fontsize=8.5, color=INK, pad=3)


def _trajectory(axes: Axes, path: Tensor) -> None:
    points = path[:: max(1, len(path) // 300)]
    segments = torch.stack([points[:-1], points[1:]], 1)
    line = LineCollection(list(segments.numpy()), cmap=TIME, linewidths=1.5, zorder=3, capstyle="round")
    line.set_array(torch.linspace(0, 1, len(segments)).numpy())
    axes.add_collection(line)
    axes.plot(*path[0], "o", color="white", markeredgecolor=INK, markersize=4, markeredgewidth=0.9, zorder=4)
    axes.plot(*path[-1], "o", color=INK, markeredgecolor="white", markersize=5, markeredgewidth=0.7, zorder=5)


def _legend(figure: Figure) -> None:
    handles = [
        Line2D([], [], marker="o", color="none", markerfacecolor="white", markeredgecolor=INK, markersize=5, label="start"),
        Line2D([], [], color=VALIDATION, linewidth=1.8, label="trajectory, darker with time"),
        Line2D([], [], marker="o", color="none", markerfacecolor=INK, markeredgecolor="white", markersize=6, label="end"),
        Line2D([], [], color=FRONT, linewidth=4, alpha=0.75, label="Pareto front; ends on it are counted"),
        Line2D([], [], color=TRAIN, linewidth=0.8, label="mean of the two losses"),
    ]
    figure.legend(handles=handles, loc="upper center", ncols=5, fontsize=9, frameon=False, labelcolor=INK, borderaxespad=0.3)
