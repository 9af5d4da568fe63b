"""A matrix with names, as colours and numbers."""

from collections.abc import Sequence
from math import floor, log10
from typing import TYPE_CHECKING

from mtl_runner.figures.style import INK, TRAIN, ems, shortened, titles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NUMBERED_COLUMNS, _NUMBERED_ROWS, _NAMED = 16, 50, 80
"""Columns and rows up to which cells have their numbers, and rows and columns their names."""
_TITLED = 5.5
"""Inches up to which a title makes a small figure wider before it is wrapped."""


def heat_map(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float]],
    limit: float | None = None,
    note: str = "",
) -> "Figure":
    """Blue for what is large; where there are negative numbers, these are red, and 0 is white.

    Args:
        title: what the numbers are.
        rows: their names.
        columns: their names.
        values: a number for each row and column, NaN where there is none.
        limit: the number with the deepest colour, which larger ones have too; else the largest one.
        note: what stands under the title.
    """
    from matplotlib.figure import Figure

    (high, row_size), (wide, column_size) = _cell(len(rows)), _cell(len(columns))
    width, height = wide * len(columns), high * len(rows)
    names, tops = (
        [shortened(name, 18) for name in each] if len(each) <= _NAMED else [""] * len(each) for each in (rows, columns)
    )
    slanted = wide > 0.3
    lengths = [column_size / 72 * ems(name) for name in tops]
    over = max(0.77 * length - wide * (len(tops) - place - 0.5) for place, length in enumerate(lengths)) if slanted else 0
    left, right = 0.25 + row_size / 72 * max(map(ems, names)), max(over + 0.15, 0.9)
    top = 0.7 + max(lengths) * (0.64 if slanted else 1)
    whole = max(left + width + right, min(0.153 * ems(title) + 0.35, _TITLED)), top + height + 0.2
    figure = Figure(figsize=whole, dpi=130)
    axes = figure.add_axes((left / whole[0], 0.2 / whole[1], width / whole[0], height / whole[1]))
    finite = [value for line in values for value in line if value == value]
    most = limit or max(map(abs, finite), default=1) or 1
    signed = min(finite, default=0) < 0
    limits = {"cmap": "RdBu", "vmin": -most, "vmax": most} if signed else {"cmap": "Blues", "vmin": 0, "vmax": most}
    axes.imshow(values, aspect="auto", **limits)  # type: ignore[arg-type]
    axes.tick_params(length=0, colors=INK, top=True, labeltop=True, bottom=False, labelbottom=False)
    turned = {"rotation": 40, "ha": "left", "rotation_mode": "anchor"} if slanted else {"rotation": 90}
    axes.set_xticks(range(len(tops)), tops, fontsize=column_size, **turned)
    axes.set_yticks(range(len(names)), names, fontsize=row_size)
    for spine in axes.spines.values():
        spine.set(edgecolor=TRAIN, linewidth=0.5)
    if len(rows) <= _NUMBERED_ROWS and len(columns) <= _NUMBERED_COLUMNS:
        _numbers(axes, values, _form(finite, most), most)
    beside = figure.add_axes(((left + width + 0.15) / whole[0], 0.2 / whole[1], 0.1 / whole[0], min(height, 2.4) / whole[1]))
    bar = figure.colorbar(axes.images[0], cax=beside, extend="both" if limit and signed else "neither")
    bar.outline.set(edgecolor=TRAIN, linewidth=0.5)
    bar.ax.tick_params(labelsize=7, length=0, colors=INK)
    titles(figure, title, note)
    return figure


def _cell(count: int) -> tuple[float, float]:
    """A cell's side along an axis with so many, and the size of the names there."""
    side = min(0.62, max(7 / count, 0.06))
    return side, min(8.0, 55 * side)


def _form(finite: Sequence[float], most: float) -> str:
    """How numbers are written: with as many decimals as give the largest three digits, so that close ones can be told apart."""
    if all(value == int(value) for value in finite) and most < 1e4:
        return "z.0f"
    return f"z.{max(0, 2 - floor(log10(most)))}f" if 0.01 <= most < 1e4 else "z.2g"


def _numbers(axes: "Axes", values: Sequence[Sequence[float]], form: str, most: float) -> None:
    for y, line in enumerate(values):
        for x, value in enumerate(line):
            if value == value:
                color = "white" if abs(value) > 0.6 * most else INK
                said = f"{value:{form}}" if value else "0"
                said = f"\N{MINUS SIGN}{said[1:]}" if said.startswith("-") else said
                axes.text(x, y, said, ha="center", va="center", fontsize=7, color=color)
