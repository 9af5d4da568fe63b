"""What a person should know about the labels before training on them, one line each."""

import re
import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_runner.batch import MISSING
from mtl_runner.datasets.rows.labels import Labels
from mtl_runner.datasets.rows.preparation import Target
from mtl_runner.datasets.stratify import Ints
from mtl_runner.errors import UserError, choices

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


def label_notes(
    labels: Mapping[str, Labels], targets: Mapping[str, Target], values: Mapping[str, NDArray[Any]], parts: Mapping[str, Ints]
) -> list[str]:
    """Guessed types, missing labels, classes that are rare or not in every part, constant targets.

    Raises ``UserError`` where no task has a label in the training part.
    """
    present = {name: ~np.isnan(array) if array.dtype.kind == "f" else array != MISSING for name, array in values.items()}
    if not any(present[name][parts["train"]].any() for name in values):
        raise UserError("no task has a label in the training part: there is nothing to learn from")
    notes = [_guess(name, labels[name], target) for name, target in targets.items() if labels[name].guessed]
    for name, target in targets.items():
        lines = _missing(present[name], parts)
        if present[name][parts["train"]].any():
            lines += (
                _classes(labels[name], target, values[name], parts)
                if target.labelled
                else _constant(labels[name], parts["train"]) + _unmarked(labels[name], parts["train"])
            )
        notes += [f"task {name}: {line}" for line in lines]
    return notes


def _guess(name: str, labels: Labels, target: Target) -> str:
    what = ""
    if labels.kind == "binary":
        what = f", positive: {target.classes[1]}" if len(labels.names) != 1 else f", of one value: {labels.names[0]}"
    elif labels.kind == "multiclass":
        what = f", {len(target.classes)} classes"
    return f"task {name}: taken for {labels.kind}{what} ({_key(name, labels)} says otherwise)"


def _key(name: str, labels: Labels) -> str:
    """What to type for another type. On the command line a name can be part of a key only if it is like one in Python."""
    if not _PLAIN.fullmatch(name):
        columns = ",".join('"' + column.replace('"', r"\"") + '"' for column in labels.columns)
        return shlex.quote(f"dataset.tasks={{NAME:{{columns:{columns if len(labels.columns) == 1 else f'[{columns}]'},type:…}}}}")
    if labels.options.listed:
        return f"'dataset.tasks={{{name}:{{type:…}}}}' in place of the list"
    return f"dataset.tasks.{name}.type"


def _missing(present: NDArray[np.bool_], parts: Mapping[str, Ints]) -> list[str]:
    counts = {
        part: (int(present[rows].any(axis=-1).sum() if present.ndim > 1 else present[rows].sum()), len(rows))
        for part, rows in parts.items()
    }
    told = [f"{have} of {rows} {part} rows have a label" for part, (have, rows) in counts.items() if have]
    return [] if all(have in (0, rows) for have, rows in counts.values()) else ["; ".join(told)]


def _classes(labels: Labels, target: Target, values: NDArray[Any], parts: Mapping[str, Ints]) -> list[str]:
    counts = {part: _counted(values[rows], len(target.classes)) for part, rows in parts.items()}
    lines = []
    if (counts["train"] > 0).sum() == 1:
        lines.append(f"is constant in the training part: always {target.classes[int(counts['train'].argmax())]}")
    total = np.sum(list(counts.values()), axis=0)
    if single := [name for name, count in zip(target.classes, total, strict=True) if count == 1]:
        lines.append(f"one row only of class {choices(single)}")
    for part, rows in counts.items():
        absent = [
            name for name, count, everywhere in zip(target.classes, rows, total, strict=True) if not count and everywhere > 1
        ]
        if absent and rows.any():
            lines.append(f"no {part} row of class {choices(absent)}")
    if unseen := _unseen(labels, target):
        lines.append(f"class {choices(unseen)} is not in the training part; its rows count as unlabelled")
    return lines


def _unseen(labels: Labels, target: Target) -> list[str]:
    return [name for name in labels.names if name not in target.labels] if target.other is None else []


def _counted(values: NDArray[Any], classes: int) -> NDArray[np.int64]:
    known = ~np.isnan(values) if values.dtype.kind == "f" else values != MISSING
    return np.bincount(values[known].astype(np.int64), minlength=classes)


def _constant(labels: Labels, training: Ints) -> list[str]:
    if labels.values is None:
        return []
    lines = []
    for name, column in zip(labels.columns, labels.values[training].T, strict=False):
        known = column[~np.isnan(column)]
        if len(known) and known.min() == known.max():
            lines.append(f"column '{name}' is constant in the training part: always {known[0]:g}")
    return lines


def _unmarked(labels: Labels, training: Ints) -> list[str]:
    """Of the labels of a multilabel task and of the event of a survival task: those that no training row has, or all have."""
    if labels.marks is None:
        return []
    marks = labels.marks.values[training]
    columns = labels.columns[-marks.shape[1] :]
    never = [name for name, column in zip(columns, marks.T, strict=True) if not (column == 1).any()]
    always = [name for name, column in zip(columns, marks.T, strict=True) if (column == 1).any() and not (column == 0).any()]
    lines = [f"no training row has {choices(never)}"] if never else []
    return lines + ([f"every training row has {choices(always)}"] if always else [])
