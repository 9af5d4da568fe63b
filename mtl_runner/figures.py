"""Pictures of a run: learning curves and confusion matrices, from the plain files of its folder."""

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAIN, VALIDATION, INK, PALE = "#9aa5b1", "#1f6fb4", "#2f3a45", "#e4e8ec"
_COUNTED, _NAMED = 30, 60
"""Classes up to which the cells of a confusion matrix have their counts, and its rows their names."""


def draw(folder: Path) -> None:
    """Draws what the folder has data for: ``figures/learning_curves.png``, ``figures/confusion_<task>.png``."""
    target = folder / "figures"
    target.mkdir(exist_ok=True)
    lines = [json.loads(text) for text in _text(folder / "metrics.jsonl").splitlines()]
    if lines:
        _save(learning_curves(lines, json.loads(_text(folder / "test_metrics.json") or "{}")), target / "learning_curves.png")
    for task, confusion in json.loads(_text(folder / "confusion.json") or "{}").items():
        if any(map(any, confusion["matrix"])):
            _save(confusion_matrix(task, confusion["classes"], confusion["matrix"]), target / f"confusion_{file_name(task)}.png")


def file_name(task: str) -> str:
    """``task`` as part of a file's name; a changed one gets four hexadecimal digits, so that two names stay two."""
    kept = re.sub(r"[^\w.\-]", "_", task)[:100]
    return kept if kept == task else f"{kept}_{crc32(task.encode()) & 0xFFFF:04x}"


def learning_curves(lines: Sequence[Mapping[str, Any]], test: Mapping[str, Any]) -> "Figure":
    """A pair of small panels for each task: its loss, and its primary metric with the epoch whose weights were kept.

    Args:
        lines: of ``metrics.jsonl``.
        test: ``test_metrics.json``; without it there is no primary metric and no kept epoch.
    """
    tasks = list(
        dict.fromkeys(name.split("/", 1)[1].removesuffix("/loss") for line in lines for name in line["metrics"] if _is_loss(name))
    )
    best = {
        task: epoch for names, epoch in test.get("best_epoch", {}).items() for task in _members(names, tasks, test["best_epoch"])
    }
    grid = _Grid(len(tasks))
    for index, task in enumerate(tasks):
        upper, lower = grid.pair(index)
        upper.set_title(_shortened(task, 27), loc="left", fontsize=10, fontweight="bold", color=INK)
        for part, color in (("train", TRAIN), ("validation", VALIDATION)):
            _curve(upper, lines, f"{part}/{task}/loss", part, color)
        metric = test.get("primary", {}).get(task)
        if metric:
            _curve(lower, lines, f"validation/{task}/{metric}", "validation", VALIDATION)
            _kept(lower, lines, f"validation/{task}/{metric}", best.get(task))
        upper.set_ylabel("loss", fontsize=8, color=INK)
        lower.set_ylabel(metric or "", fontsize=8, color=INK)
        lower.set_xlabel("epoch", fontsize=8, color=INK)
        if index == 0:
            upper.legend(fontsize=7.5, frameon=False, labelcolor=INK, borderaxespad=0.2)
    return grid.figure


def confusion_matrix(task: str, classes: Sequence[str], matrix: Sequence[Sequence[int]]) -> "Figure":
    """Counts of the test part, rows true and columns predicted; a cell's colour is its share of the row."""
    from matplotlib.figure import Figure

    count = len(classes)
    side = min(max(2.2, 0.42 * count), 11.0)
    names = [_shortened(str(name), 18) for name in classes]
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
    axes.set_title(
        f"{_shortened(task, 30)}: {right} of {sum(totals)} right", loc="left", fontsize=10, fontweight="bold", color=INK
    )
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(
        image, cax=figure.add_axes(((margin + side + 0.12) / width, bottom / height, 0.1 / width, side / height))
    )
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7, length=0, colors=INK)
    bar.set_label("share of the true class", fontsize=7.5, color=INK)
    return figure


@dataclass
class _Grid:
    """Pairs of panels, side by side as long as they fit; sizes in inches."""

    pairs: int

    def __post_init__(self) -> None:
        from matplotlib.figure import Figure

        self.columns = max(1, min(self.pairs, 4 if self.pairs > 6 else 3))
        self.rows = -(-self.pairs // self.columns)
        self.size = (0.15 + 3.25 * self.columns, 0.15 + 3.25 * self.rows)
        self.figure = Figure(figsize=self.size, dpi=130)

    def pair(self, index: int) -> tuple["Axes", "Axes"]:
        row, column = divmod(index, self.columns)
        left, bottom = 0.7 + 3.25 * column, 0.55 + 3.25 * (self.rows - 1 - row)
        lower, upper = (self._panel(left, bottom + offset) for offset in (0, 1.25))
        upper.tick_params(labelbottom=False)
        return upper, lower

    def _panel(self, left: float, bottom: float) -> "Axes":
        from matplotlib.ticker import MaxNLocator

        width, height = self.size
        axes = self.figure.add_axes((left / width, bottom / height, 2.45 / width, 1.1 / height))
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(TRAIN)
        axes.grid(color=PALE, linewidth=0.8)
        axes.tick_params(labelsize=7.5, length=2, colors=INK)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        return axes


def _curve(axes: "Axes", lines: Sequence[Mapping[str, Any]], name: str, label: str, color: str) -> None:
    points = [(line["epoch"], line["metrics"][name]) for line in lines if name in line["metrics"]]
    marker = "o" if len(points) < 3 else None
    axes.plot(
        [x for x, _ in points], [y for _, y in points], color=color, label=label, linewidth=1.6, marker=marker, markersize=3
    )


def _kept(axes: "Axes", lines: Sequence[Mapping[str, Any]], name: str, epoch: int | None) -> None:
    for line in lines if epoch else ():
        value = line["metrics"].get(name)
        if line["epoch"] == epoch and value is not None and isfinite(value):
            axes.plot(line["epoch"], value, "o", color=VALIDATION, markersize=4.5, markeredgecolor="white", zorder=3)
            axes.set_title(f"kept: epoch {epoch}, {value:.3g}", loc="right", fontsize=7, color=VALIDATION, pad=1.5)


def _counts(axes: "Axes", matrix: Sequence[Sequence[int]], shares: Sequence[Sequence[float]]) -> None:
    digits = max(len(str(value)) for row in matrix for value in row)
    for y, row in enumerate(matrix):
        for x, value in enumerate(row):
            color = "white" if shares[y][x] > 0.55 else INK if value else "#c0c7ce"
            axes.text(x, y, str(value), ha="center", va="center", fontsize=8 if digits <= 4 else 6, color=color)


def _save(figure: "Figure", path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a class name in a script that the font lacks
        figure.savefig(path)


def _members(names: str, tasks: Sequence[str], networks: Mapping[str, int]) -> Sequence[str]:
    """The tasks of a network, from its name in ``best_epoch``: all of them where there is one network."""
    return tasks if len(networks) == 1 else [names] if names in tasks else names.split(",")


def _is_loss(name: str) -> bool:
    return name.startswith(("train/", "validation/")) and name.endswith("/loss")


def _shortened(text: str, length: int) -> str:
    text = text.replace("$", r"\$")  # else matplotlib reads a formula
    return text if len(text) <= length else text[: length - 1] + "…"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
