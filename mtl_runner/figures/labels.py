"""How the labels of the training part are spread over the classes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mtl_runner.figures.style import INK, MOST_TASKS, ems, shortened, titles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, str]
_ROW, _BAR, _TOP, _SIZE = 0.3, 5.2, 0.6, 7.5
"""Inches from task to task, of a whole bar, and over the first one; size of the small print."""
_MANY, _FEW = (214, 222, 229), (31, 111, 180)
"""Colours of the largest and of the smallest class."""


def label_shares(rows: Sequence[Row]) -> "Figure | None":
    """A bar for each of the first tasks with classes, its largest class on the left, with names and counts where they fit.

    Args:
        rows: of ``labels.csv``; without a class among them there is nothing to draw.
    """
    from matplotlib.figure import Figure

    tasks: dict[str, list[Row]] = {}
    for row in rows:
        if row["class"]:
            tasks.setdefault(row["task"], []).append(row)
    if not tasks:
        return None
    shown = {name: sorted(tasks[name], key=lambda row: -int(row["train"])) for name in list(tasks)[:MOST_TASKS]}
    names, said = [shortened(name, 26) for name in shown], [_said(each) for each in shown.values()]
    left, right = 0.25 + 8 / 72 * max(map(ems, names)), 0.25 + _SIZE / 72 * max(map(ems, said))
    width, height = left + _BAR + right, _TOP + _ROW * len(shown) + 0.1
    figure = Figure(figsize=(width, height), dpi=130)
    axes = figure.add_axes((left / width, 0.1 / height, _BAR / width, _ROW * len(shown) / height))
    for y, each in enumerate(shown.values()):
        _bar(axes, y, each)
        axes.text(1 + 0.1 / _BAR, y, said[y], fontsize=_SIZE, color=INK, va="center_baseline")
    axes.set(xlim=(0, 1), ylim=(len(shown) - 0.5, -0.5), xticks=[])
    axes.set_yticks(range(len(shown)), names, fontsize=8)
    axes.tick_params(length=0, colors=INK)
    axes.spines[:].set_visible(False)
    which = f"the first {MOST_TASKS} of {len(tasks)} tasks; " if len(tasks) > MOST_TASKS else ""
    titles(
        figure, "labels of the training part", f"{which}share of each class, the largest first; beside the bar its smallest class"
    )
    return figure


def _said(rows: Sequence[Row]) -> str:
    """Beside a bar: its smallest class, how rare it is, and how many labels are missing."""
    total, missing, last = int(rows[0]["labelled_train"]), int(rows[0]["missing_train"]), rows[-1]
    absent = f"; {missing:,} missing" if missing else ""
    if not total:
        return f"no label{absent}"
    none = sum(row["train"] == "0" for row in rows)
    if none > 1:
        return f"{none} of {len(rows)} classes have none of {total:,}{absent}"
    count = int(last["train"])
    ratio = f" ({100 * count / total:.2g} %), ratio {float(last['imbalance_ratio']):,.3g}" if count else ""
    return f"{shortened(last['class'], 18)}: {count:,} of {total:,}{ratio}{absent}"


def _bar(axes: "Axes", y: int, rows: Sequence[Row]) -> None:
    total = int(rows[0]["labelled_train"]) or 1
    segments, colors, start = [], [], 0.0
    for rank, row in enumerate(rows):
        depth = rank / max(1, len(rows) - 1)
        share = int(row["train"]) / total
        segments.append((start, share))
        colors.append([(many + depth * (few - many)) / 255 for many, few in zip(_MANY, _FEW, strict=True)])
        text = f"{shortened(row['class'], 22)}: {int(row['train']):,}"
        if _SIZE / 72 * ems(text) < share * _BAR:
            color = "white" if depth > 0.5 else INK
            axes.text(start + share / 2, y, text, fontsize=_SIZE, color=color, ha="center", va="center_baseline")
        start += share
    edges = {"edgecolor": "white", "linewidth": 0.8} if len(rows) < 20 else {"linewidth": 0}
    axes.broken_barh(segments, (y - 0.38, 0.76), facecolors=colors, **edges)
