"""A matrix with names, as colours and numbers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mtl_runner.figures.style import INK, TRAIN, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NUMBERED, _NAMED = 16, 80
"""Rows or columns up to which cells have their numbers, and rows and columns their names."""


def heat_map(title: str, rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]]) -> "Figure":
    """Blue for what is large; where there are negative numbers, these are red, and 0 is white.

    Args:
        title: what the numbers are.
        rows: their names.
        columns: their names.
        values: a number for each row and column, NaN where there is none.
    """
    from matplotlib.figure import Figure

    height, width = len(rows), len(columns)
    cell = min(0.62, max(7 / max(height, width), 0.06))
    names, tops = ([shortened(name, 18) for name in each] for each in (rows, columns))
    size = min(8.0, 55 * cell)
    left, top = 0.3 + 0.085 * max(map(len, names)) * size / 8, 0.75 + 0.06 * max(map(len, tops)) * size / 8
    whole = max(left + cell * width + 0.9, 0.085 * len(title) + 0.3), top + cell * height + 0.2
    figure = Figure(figsize=whole, dpi=130)
    axes = figure.add_axes((left / whole[0], 0.2 / whole[1], cell * width / whole[0], cell * height / whole[1]))
    finite = [value for line in values for value in line if value == value]
    most = max(map(abs, finite), default=1) or 1
    signed = min(finite, default=0) < 0
    limits = {"cmap": "RdBu", "vmin": -most, "vmax": most} if signed else {"cmap": "Blues", "vmin": 0, "vmax": most}
    axes.imshow(values, aspect="auto", **limits)  # type: ignore[arg-type]
    axes.tick_params(length=0, labelsize=size, colors=INK, top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.set_xticks(range(width), tops if width <= _NAMED else [""] * width, rotation=40, ha="left", rotation_mode="anchor")
    axes.set_yticks(range(height), names if height <= _NAMED else [""] * height)
    for spine in axes.spines.values():
        spine.set(edgecolor=TRAIN, linewidth=0.5)
    if max(width, height) <= _NUMBERED:
        for y, line in enumerate(values):
            for x, value in enumerate(line):
                if value == value:
                    dark = abs(value) > 0.6 * most
                    axes.text(x, y, f"{value:.2g}", ha="center", va="center", fontsize=7, color="white" if dark else INK)
    beside = figure.add_axes(
        ((left + cell * width + 0.15) / whole[0], 0.2 / whole[1], 0.1 / whole[0], min(cell * height, 2.4) / whole[1])
    )
    bar = figure.colorbar(axes.images[0], cax=beside)
    bar.outline.set(edgecolor=TRAIN, linewidth=0.5)
    bar.ax.tick_params(labelsize=7, length=0, colors=INK)
    figure.text(0.12 / whole[0], 1 - 0.3 / whole[1], title, fontsize=10, fontweight="bold", color=INK)
    return figure
