"""A measure as a heat map, tasks in the order of their dendrogram, and the groups that are proposed."""

from itertools import product
from math import floor, log10
from typing import TYPE_CHECKING

import numpy as np

from mtl_runner.affinity.grouping import Groups, linkage
from mtl_runner.affinity.measuring import Affinity
from mtl_runner.figures.style import INK, PALE, TRAIN, VALIDATION, ems, panel, shortened, titles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NUMBERED, _NAMED = 16, 80
"""Tasks up to which the cells have their numbers, and rows and columns their names."""
_TREE, _STRIP, _TOP = 1.0, 0.32, 0.62
"""Inches: height of the dendrogram, width of the groups' numbers, and over the dendrogram."""
_INSET = 0.05
"""Of a cell, by which frames are smaller than what they hold, so that those side by side stay apart."""


def picture(each: Affinity, groups: Groups) -> "Figure":
    """Above the dendrogram (average linkage on 1 - affinity, by the largest), below the matrix; beside it each task's group."""
    from matplotlib.figure import Figure
    from scipy.cluster.hierarchy import dendrogram

    tree = dendrogram(linkage(each.values.numpy()), no_plot=True)
    order = [int(leaf) for leaf in tree["leaves"]]
    count = len(order)
    names = [shortened(each.tasks[task], 18) for task in order] if count <= _NAMED else [""] * count
    cell = min(0.62, max(7 / count, 0.06))
    side, size = cell * count, min(8.0, 55 * cell)
    lengths = [size / 72 * ems(name) for name in names]
    slanted = cell > 0.3
    hanging = [0.77 * length - cell * (place + 0.5) for place, length in enumerate(lengths)] if slanted else []
    left = 0.3 + max(lengths + hanging)
    bottom = 0.25 + max(lengths) * (0.64 if slanted else 1)
    figure = Figure(figsize=(max(left + side + _STRIP + 1.0, 4.6), bottom + side + _TREE + _TOP), dpi=130)
    _tree(panel(figure, left, bottom + side + 0.04, side, _TREE - 0.1), tree, count)
    axes = panel(figure, left, bottom, side, side)
    power = _cells(axes, each, order)
    _names(axes, names, size, slanted)
    _groups(axes, order, groups, size)
    bar = figure.colorbar(
        axes.images[0], cax=panel(figure, left + side + _STRIP + 0.1, bottom + max(side - 2.4, 0), 0.1, min(side, 2.4))
    )
    bar.outline.set(edgecolor=TRAIN, linewidth=0.5)
    bar.ax.tick_params(labelsize=7, length=0, colors=INK)
    unit = f"in units of 1e{power}; " * bool(power)
    said = f"{'of rows on columns; ' * each.directed}{unit}framed: pairs of one proposed group, its number on the right"
    titles(figure, f"{each.name}: {each.title}", said)
    return figure


def _tree(axes: "Axes", tree: dict[str, list[list[float]]], count: int) -> None:
    for x, y in zip(tree["icoord"], tree["dcoord"], strict=True):
        axes.plot([value / 10 - 0.5 for value in x], y, color=VALIDATION, linewidth=1.1, solid_joinstyle="miter", clip_on=False)
    highest = max(max(y) for y in tree["dcoord"]) or 1.0
    axes.set(xlim=(-0.5, count - 0.5), ylim=(0, 1.03 * highest), xticks=[])
    axes.spines["bottom"].set_visible(False)
    axes.grid(visible=False)
    axes.locator_params(axis="y", nbins=3)
    axes.set_ylabel("distance", fontsize=7, color=INK)


def _cells(axes: "Axes", each: Affinity, order: list[int]) -> int:
    """The diagonal, of which nothing is asked, is pale, and so are pairs of which nothing is known.

    Small numbers are shown in units of a power of ten, which is returned.
    """
    values = each.values.numpy()[np.ix_(order, order)].copy()
    np.fill_diagonal(values, np.nan)
    known = values[~np.isnan(values)]
    most = float(np.abs(known).max()) or 1.0
    power = floor(log10(most)) if most < 0.095 else 0
    values, most = values / 10.0**power, most / 10.0**power
    signed = bool(known.min() < 0)
    axes.set_facecolor(PALE)
    axes.grid(visible=False)
    axes.imshow(values, aspect="auto", cmap="RdBu" if signed else "Blues", vmin=-most if signed else 0, vmax=most)
    axes.spines[:].set(visible=True, edgecolor=TRAIN, linewidth=0.5)
    if len(order) <= _NUMBERED:
        for y, x in zip(*np.nonzero(~np.isnan(values)), strict=True):
            color = "white" if abs(values[y, x]) > 0.6 * most else INK
            said = f"{values[y, x]:z.2f}".replace("-", "\N{MINUS SIGN}")
            axes.text(x, y, said, ha="center", va="center", fontsize=7, color=color)
    return power


def _names(axes: "Axes", names: list[str], size: float, slanted: bool) -> None:
    turned = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if slanted else {"rotation": 90}
    axes.set_xticks(range(len(names)), names, fontsize=size, **turned)
    axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.tick_params(length=0, colors=INK)


def _groups(axes: "Axes", order: list[int], groups: Groups, size: float) -> None:
    """The number of each task's group beside its row, and frames around its pairs: several where its tasks are no neighbours."""
    from matplotlib.patches import Rectangle

    numbers = {task: number for number, group in enumerate(groups, 1) for task in group}
    for place, task in enumerate(order if len(order) <= _NAMED else ()):
        axes.text(len(order) - 0.3, place, str(numbers[task]), fontsize=size, fontweight="bold", color=INK, va="center")
    for group in groups:
        stretches = _stretches(sorted(order.index(task) for task in group)) if len(group) > 1 else []
        for rows, columns in product(stretches, repeat=2):
            (left, wide), (top, high) = ((each[0] - 0.5 + _INSET, len(each) - 2 * _INSET) for each in (columns, rows))
            axes.add_patch(Rectangle((left, top), wide, high, fill=False, edgecolor=INK, linewidth=1.6))


def _stretches(places: list[int]) -> list[list[int]]:
    """Sorted ``places`` in as few pieces without a gap as there are."""
    found: list[list[int]] = []
    for place in places:
        if found and place == found[-1][-1] + 1:
            found[-1].append(place)
        else:
            found.append([place])
    return found
