"""What the pictures have in common."""

import re
from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING, Any
from zlib import crc32

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

TRAIN, VALIDATION, INK, PALE = "#9aa5b1", "#1f6fb4", "#2f3a45", "#e4e8ec"

MOST_TASKS = 40
"""Tasks with panels or pictures of their own, the first ones; the files that these are drawn from have all."""

QUICK: dict[Any, Any] = {"text.hinting": "none", "axes.titley": 1.0}
"""For matplotlib: letters as they are, and titles where they are. Half of its time goes into texts."""
PNG = {"compress_level": 3}
"""Half of the time of the usual level 6, for a fifth more in size."""

_ENDS = (0.1, 0.25, 0.5, 1.0)
DASHES = (0, (4, 3))
_BOLD, _PLAIN = 0.18, 0.14
"""Inches from line to line of titles."""


def end(reach: float) -> float:
    """Where an axis of probabilities ends that shows values up to ``reach``: those of rare classes are small."""
    return next((limit for limit in _ENDS if reach <= limit), 1.0)


def shortened(text: str, length: int) -> str:
    """``text`` as matplotlib shows it, cut to ``length`` characters in the middle: names often differ in their ends alone."""
    end = (length - 1) // 2
    text = text if len(text) <= length else text[: length - 1 - end] + "…" + text[-end:]
    return text.replace("$", r"\$")  # else matplotlib reads a formula


def ems(name: str) -> float:
    """About how long a name is, in its font's size."""
    return sum(0.62 if letter.isascii() and not letter.isupper() else 0.9 for letter in name)


def fitted(text: str, inches: float, size: float) -> str:
    """``text`` as matplotlib shows it, cut to a length in print."""
    most = int(len(text) * 72 * inches / (size * max(ems(text), 1)))
    return shortened(text, max(most, 3))


def wrapped(text: str, inches: float, size: float) -> list[str]:
    """``text`` as matplotlib shows it, in lines of a length in print; a word that is longer goes on in the next."""
    lines: list[str] = []
    for piece in (piece for word in text.split() for piece in _pieces(word, inches, size)):
        if lines and size / 72 * ems(f"{lines[-1]} {piece}") <= inches:
            lines[-1] += f" {piece}"
        else:
            lines.append(piece)
    return [line.replace("$", r"\$") for line in lines]


def _pieces(word: str, inches: float, size: float) -> list[str]:
    count = ceil(size / 72 * ems(word) / inches)
    length = ceil(len(word) / count)
    return [word[start : start + length] for start in range(0, len(word), length)]


def file_name(task: str) -> str:
    """``task`` as part of a file's name; a changed one gets four hexadecimal digits, so that two names stay two."""
    kept = re.sub(r"[^\w.\-]", "_", task)[:100]
    return kept if kept == task else f"{kept}_{crc32(task.encode()) & 0xFFFF:04x}"


def panel(figure: "Figure", left: float, bottom: float, width: float, height: float) -> "Axes":
    """A plain panel at a place in inches."""
    wide, high = figure.get_size_inches()
    axes = figure.add_axes((left / wide, bottom / high, width / wide, height / high))
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(TRAIN)
    axes.grid(color=PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=7.5, length=2, colors=INK)
    return axes


def titles(figure: "Figure", bold: str, plain: str = "") -> "list[Text]":
    """In the upper left corner, each wrapped to the figure's width; the figure grows by what takes more than a line."""
    width = figure.get_size_inches()[0]
    upper, lower = wrapped(bold, width - 0.3, 11), wrapped(plain, width - 0.2, 7.5)
    _grow(figure, _BOLD * (len(upper) - 1) + _PLAIN * max(len(lower) - 1, 0))
    return put_titles(figure, upper, lower)


def put_titles(figure: "Figure", bold: Sequence[str], plain: Sequence[str]) -> "list[Text]":
    """These lines in the upper left corner, as they are."""
    width, height = figure.get_size_inches()
    first = 0.25 + _BOLD * len(bold)
    lines = [(0.25 + _BOLD * place, text, 10.0, "bold") for place, text in enumerate(bold)]
    lines += [(first + _PLAIN * place, text, 7.5, "normal") for place, text in enumerate(plain)]
    return [
        figure.text(0.12 / width, 1 - down / height, text, fontsize=size, fontweight=weight, color=INK)
        for down, text, size, weight in lines
    ]


def _grow(figure: "Figure", inches: float) -> None:
    """By so much on top: what is drawn keeps its size, and its place from the bottom."""
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + inches)
    share = height / (height + inches)
    for axes in figure.axes:
        left, bottom, wide, high = axes.get_position(original=True).bounds
        axes.set_position((left, bottom * share, wide, high * share))
    for text in figure.texts:
        text.set_y(text.get_position()[1] * share)
    for line in figure.lines:
        line.set_ydata([y * share for y in line.get_ydata()])  # type: ignore[union-attr]
