"""Columns that say yes or no of each row: the labels of a multilabel task, the event of a survival task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mtl_runner.datasets.base import TaskOptions
from mtl_runner.datasets.rows.columns import canonical, categories
from mtl_runner.datasets.rows.preparation import looked_up
from mtl_runner.datasets.rows.reading import where
from mtl_runner.datasets.stratify import Ints
from mtl_runner.errors import UserError, choices, nearest

NO = ("0", "no", "n", "false", "f", "-", "-1", "negative", "absent")
YES = ("1", "yes", "y", "true", "t", "+", "+1", "positive", "present")


@dataclass(frozen=True)
class Marks:
    """What the values of some columns mean, and each row's."""

    labels: Mapping[str, int]
    other: int | None
    """Meaning of any other value; None: no label."""
    values: Ints
    """1, 0, or -1 where missing, [N, K]."""


def read_marks(table: pa.Table, columns: Sequence[str], options: TaskOptions, missing: Sequence[str]) -> Marks:
    """Yes is what ``positive`` says, and then everything else is no; or else what means yes as a word or a number.

    Raises:
        UserError: with file, line and column, for a value that means neither; for one of ``positive`` that is in no column.
    """
    found = {column: categories(table.column(column), missing) for column in columns}
    used = {column: {names[code] for code in np.unique(codes)} - {None} for column, (names, codes) in found.items()}
    words = [str(word) for column in columns for word in sorted(map(str, used[column]))]
    place = f"dataset.tasks.{options.name}"
    if options.positive:
        positive = [str(canonical(value, ())) for value in options.positive]
        if words and not set(positive) & set(words):
            close = f"{nearest(positive[0], words)}; there are {choices(dict.fromkeys(words), 10)}"
            raise UserError(f"{place}.positive '{positive[0]}' is in none of its columns{close}")
        labels, other = dict.fromkeys(positive, 1), 0
    else:
        labels, other = {**dict.fromkeys(NO, 0), **dict.fromkeys(YES, 1)}, None
        labels |= {word: labels[word.lower()] for word in words if word.lower() in labels}
        for column, (names, codes) in found.items():
            if odd := sorted(str(word) for word in used[column] if word not in labels):
                row = int((codes == names.index(odd[0])).argmax())
                said = f"'{odd[0]}' means neither yes nor no; {place}.positive=… says what means yes"
                raise UserError(f"{where(table, row)}, column '{column}': {said}")
    index: dict[str | None, int] = {None: -1}
    index.update(labels)
    rest = -1 if other is None else other
    return Marks(labels, other, np.stack([looked_up(table, column, index, rest, missing) for column in columns], 1))
