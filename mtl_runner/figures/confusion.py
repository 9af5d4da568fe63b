"""Confusion matrices."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mtl_runner.figures.style import INK, PALE, shortened, titles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COUNTED, _NAMED = 30, 60
"""Classes up to which the cells of a confusion matrix have their counts, and its rows their names."""


def confusion_matrix(task: str, classes: Sequence[str], matrix: Sequence[Sequence[int]]) -> "Figure":
    """Counts of the test part, rows true and columns predicted; a cell's colour is its share of the row."""
    from matplotlib.figure import Figure

    count = len(classes)
    side = min(max(2.2, 0.42 * count), 11.0)
    names = [shortened(str(name), 18) for name in classes]
    margin = 0.5 + 0.06 * max(map(len, names))
    slanted = max(map(len, names)) > 5
    bottom = 0.45 + (0.055 * max(map(len, names)) if slanted else 0.15)
    figure = Figure(figsize=(margin + side + 0.9, bottom + side + 0.55), dpi=130)
    width, height = figure.get_size_inches()
    axes = figure.add_axes((margin / width, bottom / height, side / width, side / height))
    totals = [sum(row) for row in matrix]
    shares = [[value / total if total else float("nan") for value in row] for row, total in zip(matrix, totals, strict=True)]
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="equal")
    axes.set_facecolor(PALE)
    if count <= _COUNTED:
        _counts(axes, matrix, shares)
    ticks = range(count) if count <= _NAMED else []
    size = 8 if count <= _COUNTED else 5
    axes.set_xticks(
        ticks, [names[i] for i in ticks], fontsize=size, rotation=40 if slanted else 0, ha="right" if slanted else "center"
    )
    axes.set_yticks(ticks, [names[i] for i in ticks], fontsize=size)
    axes.tick_params(length=0, colors=INK)
    axes.set_xlabel("predicted", color=INK, fontsize=9)
    axes.set_ylabel("true", color=INK, fontsize=9)
    right = sum(matrix[i][i] for i in range(count))
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(
        image,
        cax=figure.add_axes(((margin + side + 0.12) / width, bottom / height, 0.1 / width, side / height)),
        ticks=(0, 0.5, 1),
    )
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7, length=0, colors=INK)
    bar.set_label("share of the true class", fontsize=7.5, color=INK)
    titles(figure, f"{task}: {right} of {sum(totals)} right")
    return figure


def _counts(axes: "Axes", matrix: Sequence[Sequence[int]], shares: Sequence[Sequence[float]]) -> None:
    digits = max(len(str(value)) for row in matrix for value in row)
    for y, row in enumerate(matrix):
        for x, value in enumerate(row):
            color = "white" if shares[y][x] > 0.55 else INK if value else "#c0c7ce"
            axes.text(x, y, str(value), ha="center", va="center", fontsize=8 if digits <= 4 else 6, color=color)
