"""How far the tasks' gradients agree."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mtl_runner.figures.style import INK, TRAIN, ems, shortened, titles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

UNKNOWN = "#bdbdbd"
_NUMBERED, _NAMED = 15, 160
"""Tasks up to which the cells have their numbers, and rows and columns their names."""
Row = Sequence[float | None]


def gradient_cosines(gradients: Mapping[str, Any]) -> "Figure":
    """Each pair of tasks once: the mean cosine as colour, and in print with the share of steps in which they conflict.

    Args:
        gradients: ``gradients.json``.
    """
    from matplotlib.figure import Figure

    count = len(gradients["tasks"]) - 1
    numbered = count < _NUMBERED
    names = [shortened(name, 18) for name in gradients["tasks"]] if count < _NAMED else [""] * (count + 1)
    cell = min(0.62, max(8 / count, 0.085))
    side, size = cell * count, min(8.0, 55 * cell)
    left, bottom = _margins([size / 72 * ems(name) for name in names], cell, slanted=numbered)
    width, height = max(left + side + 0.8, 3.8), bottom + max(side, 1.2) + 0.65
    figure = Figure(figsize=(width, height), dpi=130)
    axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
    _cells(axes, [row[:-1] for row in gradients["cosine"][1:]], 0.8 if numbered else 0.3)
    if numbered:
        _numbers(axes, gradients["cosine"], gradients["conflicts"])
    _names(axes, names, size, slanted=numbered)
    tall = min(max(side, 1.2), 2.4)
    beside = figure.add_axes(((left + side + 0.2) / width, 1 - (0.65 + tall) / height, 0.1 / width, tall / height))
    bar = figure.colorbar(axes.images[0], cax=beside, ticks=(-1, -0.5, 0, 0.5, 1))
    bar.outline.set(edgecolor=TRAIN, linewidth=0.5)
    bar.ax.tick_params(labelsize=7, length=0, colors=INK)
    said = f"shared {gradients['of']}; mean of {gradients['steps']:,} steps" + ("; below: in conflict" if numbered else "")
    titles(figure, "cosine of the tasks' gradients", said)
    return figure


def _margins(lengths: list[float], cell: float, slanted: bool) -> tuple[float, float]:
    """Left and below, for names of these ``lengths``; a slanted one also reaches to the left of its column."""
    hanging = [0.77 * length - cell * (place + 0.5) for place, length in enumerate(lengths[:-1])] if slanted else []
    return 0.25 + max(lengths[1:] + hanging), 0.25 + max(lengths[:-1]) * (0.64 if slanted else 1)


def _cells(axes: "Axes", cosines: Sequence[Row], width: float) -> None:
    """The lower triangle; grey where no step had both tasks."""
    from matplotlib.colors import ListedColormap

    count = len(cosines)
    none = float("nan")
    values = [[none if value is None or x > y else value for x, value in enumerate(row)] for y, row in enumerate(cosines)]
    unknown = [[0 if value is None and x <= y else none for x, value in enumerate(row)] for y, row in enumerate(cosines)]
    axes.imshow(values, cmap="RdBu", vmin=-1, vmax=1)
    axes.imshow(unknown, cmap=ListedColormap([UNKNOWN]))
    places = range(count)
    axes.hlines([y - 0.5 for y in places], -0.5, [y + 0.5 for y in places], color=TRAIN, linewidth=width, clip_on=False)
    axes.vlines([x + 0.5 for x in places], [x - 0.5 for x in places], count - 0.5, color=TRAIN, linewidth=width, clip_on=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(color=TRAIN, linewidth=width)


def _numbers(axes: "Axes", cosines: Sequence[Row], conflicts: Sequence[Row]) -> None:
    for y in range(1, len(cosines)):
        for x in range(y):
            cosine, share = cosines[y][x], conflicts[y][x]
            if cosine is None or share is None:
                continue
            color = "white" if abs(cosine) > 0.6 else INK
            said = f"{cosine:z.2f}".replace("-", "\N{MINUS SIGN}")
            axes.text(x, y - 1.12, said, ha="center", va="center", fontsize=9, color=color)
            axes.text(x, y - 0.74, f"{share:.0%}", ha="center", va="center", fontsize=6, color=color)


def _names(axes: "Axes", names: Sequence[str], size: float, slanted: bool) -> None:
    places = range(len(names) - 1)
    turned = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if slanted else {"rotation": 90}
    axes.set_xticks(places, names[:-1], fontsize=size, **turned)
    axes.set_yticks(places, names[1:], fontsize=size)
    axes.tick_params(length=0, colors=INK)
