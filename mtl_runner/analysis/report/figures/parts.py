"""What the figures of a comparison have in common."""

from collections.abc import Sequence
from math import isfinite, nan
from statistics import fmean
from typing import TYPE_CHECKING

from mtl_runner.analysis.comparison import Group
from mtl_runner.figures.style import INK, PALE, fitted, panel, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#8b97a3"
COLORS = (BLUE, "#E69F00", "#009E73", "#CC79A7", "#56B4E9", ORANGE, "#2f3a45", "#a6761d")
"""Told apart also by the colour-blind (Okabe and Ito 2008); brown and ink stand for their yellow, pale on white, and black."""
DASHED = ("-", "--", "-.", ":")
SMALL = 7.5


def style(place: int) -> dict[str, str]:
    """Colour and dashes of a line; each pair of them occurs once."""
    return {"color": COLORS[place % len(COLORS)], "linestyle": DASHED[(place // len(COLORS) + place) % len(DASHED)]}


def canvas(width: float, height: float) -> "Figure":
    """An empty figure of so many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=130)


def titled(axes: "Axes", text: str, inches: float) -> None:
    """A panel's name, over its left edge, cut to a length in print."""
    axes.set_title(fitted(text, inches, 9.9), loc="left", fontsize=9, fontweight="bold", color=INK, pad=4)


def small(figure: "Figure", left: float, bottom: float, width: float, height: float) -> "Axes":
    """A panel at a place in inches, with few ticks."""
    from matplotlib.ticker import MaxNLocator

    axes = panel(figure, left, bottom, width, height)
    axes.xaxis.set_major_locator(MaxNLocator(4, min_n_ticks=2))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    return axes


def names(groups: Sequence[Group], length: int = 34) -> list[str]:
    """Of groups, as the figures show them."""
    return [shortened(group.name, length) for group in groups]


def mean(values: Sequence[float]) -> float:
    """Of what is known; NaN where nothing is."""
    known = [value for value in values if isfinite(value)]
    return fmean(known) if known else nan


def key(figure: "Figure", entries: Sequence[tuple[str, dict[str, str]]], left: float, top: float) -> None:
    """Lines with their names, one under the other from a place in inches."""
    from matplotlib.lines import Line2D

    wide, high = figure.get_size_inches()
    for place, (name, look) in enumerate(entries):
        y = 1 - (top + 0.17 * place) / high
        figure.add_artist(Line2D([left / wide, (left + 0.28) / wide], [y, y], linewidth=1.6, **look))  # type: ignore[arg-type]
        figure.text((left + 0.36) / wide, y, name, fontsize=SMALL, color=INK, va="center_baseline")


__all__ = [
    "BLUE",
    "COLORS",
    "GREY",
    "INK",
    "ORANGE",
    "PALE",
    "SMALL",
    "canvas",
    "key",
    "mean",
    "names",
    "small",
    "style",
    "titled",
]
