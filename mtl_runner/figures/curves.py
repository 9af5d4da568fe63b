"""Learning curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

from mtl_runner.figures.style import INK, MOST_TASKS, PALE, TRAIN, VALIDATION, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def learning_curves(lines: Sequence[Mapping[str, Any]], test: Mapping[str, Any]) -> "Figure":
    """A pair of small panels for each of the first tasks: its loss, and its primary metric with the epoch of the kept weights.

    Args:
        lines: of ``metrics.jsonl``.
        test: ``test_metrics.json``; without it there is no primary metric and no kept epoch.
    """
    tasks = list(
        dict.fromkeys(name.split("/", 1)[1].removesuffix("/loss") for line in lines for name in line["metrics"] if _is_loss(name))
    )
    tasks = tasks[:MOST_TASKS]
    best = {
        task: epoch for names, epoch in test.get("best_epoch", {}).items() for task in _members(names, tasks, test["best_epoch"])
    }
    grid = _Grid(len(tasks))
    for index, task in enumerate(tasks):
        upper, lower = grid.pair(index)
        upper.set_title(shortened(task, 27), loc="left", fontsize=10, fontweight="bold", color=INK)
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
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
        axes.yaxis.set_major_locator(MaxNLocator(3))
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


def _members(names: str, tasks: Sequence[str], networks: Mapping[str, int]) -> Sequence[str]:
    """The tasks of a network, from its name in ``best_epoch``: all of them where there is one network."""
    return tasks if len(networks) == 1 else [names] if names in tasks else names.split(",")


def _is_loss(name: str) -> bool:
    return name.startswith(("train/", "validation/")) and name.endswith("/loss")
