"""Pictures of a run, from the plain files of its folder."""

import csv
import io
import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from mtl_runner.figures.confusion import confusion_matrix
from mtl_runner.figures.cosines import gradient_cosines
from mtl_runner.figures.curves import learning_curves
from mtl_runner.figures.labels import label_shares
from mtl_runner.figures.precision_recall import precision_recall
from mtl_runner.figures.reliability import reliability
from mtl_runner.figures.sheet import Sheet, Sheets
from mtl_runner.figures.style import MOST_TASKS, PNG, QUICK, file_name
from mtl_runner.figures.table import heat_map

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "confusion_matrix", "draw", "file_name", "gradient_cosines", "heat_map", "label_shares", "learning_curves",
    "precision_recall", "reliability",
]  # fmt: skip


def draw(folder: Path) -> None:
    """Draws what the folder has data for, in ``figures/``.

    ``labels.png`` · ``learning_curves.png`` · ``confusion_<task>.png`` · ``reliability_<task>.png`` ·
    ``precision_recall_<task>.png`` · ``gradient_cosines.png`` · ``sharing_<table>.png``.
    Where there are many tasks, the first ``MOST_TASKS`` have their own.
    """
    from matplotlib import rc_context

    target = folder / "figures"
    target.mkdir(exist_ok=True)
    with rc_context(QUICK):
        _draw(folder, target)


def _draw(folder: Path, target: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(_text(folder / "labels.csv"), newline="")))
    if (labels := label_shares(rows)) is not None:
        _save(labels, target / "labels.png")
    lines = [json.loads(text) for text in _text(folder / "metrics.jsonl").splitlines()]
    if lines:
        _save(learning_curves(lines, json.loads(_text(folder / "test_metrics.json") or "{}")), target / "learning_curves.png")
    confusions = json.loads(_text(folder / "confusion.json") or "{}")
    for task, confusion in list(confusions.items())[:MOST_TASKS]:
        if any(map(any, confusion["matrix"])):
            _save(confusion_matrix(task, confusion["classes"], confusion["matrix"]), target / f"confusion_{file_name(task)}.png")
    sheets: Sheets = {}
    for task, curves in list(json.loads(_text(folder / "curves.json") or "{}").items())[:MOST_TASKS]:
        _save(reliability(task, curves["reliability"], sheets), target / f"reliability_{file_name(task)}.png")
        _save(precision_recall(task, curves["precision_recall"], sheets), target / f"precision_recall_{file_name(task)}.png")
    if (gradients := json.loads(_text(folder / "gradients.json") or "{}")) and len(gradients["tasks"]) > 1:
        _save(gradient_cosines(gradients), target / "gradient_cosines.png")
    for path in sorted((folder / "sharing").glob("*.csv")):
        (title, *columns), *lines = csv.reader(_text(path).splitlines())
        values = [[float(cell or "nan") for cell in line[1:]] for line in lines]
        _save(heat_map(title, [line[0] for line in lines], columns, values), target / f"sharing_{path.stem}.png")


def _save(figure: "Figure | Sheet", path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a class name in a script that the font lacks
        figure.savefig(path, pil_kwargs=PNG)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
