"""What was found, as files."""

import csv
import io
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from mtl_runner.explain.explanation import Explanation
from mtl_runner.explain.permutation import Floats
from mtl_runner.figures import heat_map
from mtl_runner.folder import write_text

DRAWN = 30
"""Inputs in a figure: those with the largest share of a task's total in any task."""


def write(found: Explanation, folder: Path) -> list[Path]:
    """``importance.csv`` · ``attributions.csv`` · ``shared.csv`` (pairs of tasks) · ``inputs.csv`` (who uses each) ·
    ``importance.png`` · ``attributions.png``; returns their paths. Numbers that are undefined are empty cells."""
    tables = {
        "importance.csv": _importance(found),
        "attributions.csv": _attributions(found),
        "shared.csv": _shared(found),
        "inputs.csv": _inputs(found),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        write_text(folder / name, _csv(rows))
    figures = {
        "importance.png": ("importance: share of a task's summed drops", shares(found.importance.drop)),
        "attributions.png": ("attributions: share of a task's summed attributions", shares(found.attributions.strength())),
    }
    for name, (title, values) in figures.items():
        _draw(found, title, values, folder / name)
    return [folder / name for name in (*tables, *figures)]


def shares(values: Floats) -> Floats:
    """[T, I]: each input's part of what a task's inputs amount to; those below 0 as 0."""
    positive = np.nan_to_num(values).clip(min=0)
    total = positive.sum(1, keepdims=True)
    return np.asarray(positive / np.where(total > 0, total, 1))


def _importance(found: Explanation) -> Iterator[list[object]]:
    yield ["task", "input", "metric", "baseline", "drop", "low", "high", "surely_used"]
    drop, half = found.importance.drop, found.importance.half
    for t, task in enumerate(found.tasks):
        for i, name in enumerate(found.inputs):
            bounds = [drop[t, i], drop[t, i] - half[t, i], drop[t, i] + half[t, i]]
            yield [task, name, found.metrics[t], found.importance.baseline[t], *bounds, "yes" if found.used[t, i] else "no"]


def _attributions(found: Explanation) -> Iterator[list[object]]:
    yield ["task", "input", "mean_absolute", "share", "mean", "completeness_gap"]
    strength, mean, gap = found.attributions.strength(), found.attributions.mean(), found.attributions.gap()
    part = shares(strength)
    for t, task in enumerate(found.tasks):
        for i, name in enumerate(found.inputs):
            yield [task, name, strength[t, i], part[t, i], mean[t, i], gap[t]]


def _shared(found: Explanation) -> Iterator[list[object]]:
    yield ["task", "other", "cosine_importance", "cosine_attributions", "jaccard", "both", "only_task", "only_other"]
    for pair in found.pairs:
        sets = ("; ".join(names) for names in (pair.both, pair.only_one, pair.only_other))
        yield [pair.one, pair.other, pair.importance, pair.attribution, pair.jaccard, *sets]


def _inputs(found: Explanation) -> Iterator[list[object]]:
    yield ["input", "tasks", "used_by"]
    for i, name in enumerate(found.inputs):
        users = found.users(i)
        yield [name, len(users), "; ".join(users)]


def _csv(rows: Iterable[list[object]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: object) -> object:
    if not isinstance(value, float):
        return value
    return "" if np.isnan(value) else f"{value:z.6g}"


def _draw(found: Explanation, title: str, values: Floats, path: Path) -> None:
    most = [int(i) for i in np.argsort(-values.max(0), kind="stable")[:DRAWN]]
    rows = [found.inputs[i] for i in most]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in a script that the font lacks
        heat_map(title, rows, found.tasks, values[:, most].T.tolist()).savefig(path)
