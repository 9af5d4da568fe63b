"""Figures of a comparison, each for the page and for a paper."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mtl_runner.analysis.comparison import Comparison
from mtl_runner.analysis.report.figures import curves, fronts, gains, intervals, ranks, weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FIGURES", "Drawn", "draw"]

FIGURES: dict[str, tuple[Callable[[Comparison], "Figure | str"], str]] = {
    "intervals": (intervals.draw, "Test metrics with 95 % intervals"),
    "gains": (gains.draw, "Gains over the baseline"),
    "critical_difference": (ranks.draw, "Mean ranks and their critical difference"),
    "pareto_fronts": (fronts.draw, "Pareto fronts of task pairs"),
    "learning_curves": (curves.draw, "Learning curves"),
    "task_weights": (weights.draw, "Task weights over time"),
}
"""By the file's name: what draws it, or says why there is nothing to draw, and its title."""


@dataclass(frozen=True)
class Drawn:
    """A figure, or why there is none."""

    name: str
    title: str
    paths: tuple[Path, ...] = ()
    """SVG, then PDF."""
    missing: str = ""


def draw(comparison: Comparison, folder: Path) -> list[Drawn]:
    """Writes each figure that there is something for to ``folder`` as SVG and as PDF; the same comparison, the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, (make, title) in FIGURES.items():
        figure = make(comparison)
        if isinstance(figure, str):
            drawn.append(Drawn(name, title, missing=figure))
        else:
            drawn.append(Drawn(name, title, _save(figure, folder / name)))
    return drawn


def _save(figure: "Figure", stem: Path) -> tuple[Path, ...]:
    from matplotlib import rc_context

    paths = stem.with_suffix(".svg"), stem.with_suffix(".pdf")
    with rc_context({"svg.hashsalt": stem.name, "pdf.fonttype": 42}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in a script that the font lacks
        for path, date in zip(paths, ("Date", "CreationDate"), strict=True):
            figure.savefig(path, metadata={date: None})
    return paths
