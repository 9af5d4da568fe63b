"""Which columns are inputs, of which type, and what is fitted of them on the training part."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy as np
import pyarrow as pa

from mtl_runner.datasets.rows.columns import BadValueError, categories, is_nested, numbers, order
from mtl_runner.datasets.rows.labels import moments
from mtl_runner.datasets.rows.preparation import Category, Number, read_numbers
from mtl_runner.datasets.rows.reading import where
from mtl_runner.datasets.stratify import Ints
from mtl_runner.errors import UserError, choices, nearest

FREE_TEXT = 20
"""Distinct values up to which a text column is never taken for free text."""


def matching(patterns: Iterable[str], names: Sequence[str], place: str) -> tuple[str, ...]:
    """The columns that the patterns name, each once: a column's own name, or ``*``, ``?``, ``[…]`` as in file names."""
    found: dict[str, None] = {}
    for pattern in patterns:
        hits = [pattern] if pattern in names else [name for name in names if fnmatchcase(name, pattern)]
        if not hits:
            raise UserError(f"{place}: no column is called '{pattern}'{nearest(pattern, names)}; there are: {choices(names)}")
        found.update(dict.fromkeys(hits))
    return tuple(found)


@dataclass
class Inputs:
    """The fitted input columns, in the table's order, and what there is to say about them."""

    numbers: list[Number] = field(default_factory=list)
    categories: list[Category] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    """Names of columns by the reason why they are no input."""

    @property
    def notes(self) -> list[str]:
        """One line on what the inputs are, one for each reason to leave some out."""
        widths = ", ".join(f"{column.name} {len(column.vocabulary)}" for column in self.categories[:12])
        more = f" (categories: {widths}{', …' if len(self.categories) > 12 else ''})" if self.categories else ""
        first = f"inputs: {len(self.numbers)} numeric, {len(self.categories)} categorical{more}"
        return [first] + [f"left out of the inputs, {reason}: {choices(names)}" for reason, names in self.left_out.items()]


def fit_inputs(
    table: pa.Table,
    names: Sequence[str],
    training: Ints,
    missing: Collection[str],
    numeric: Collection[str] = (),
    categorical: Collection[str] = (),
) -> Inputs:
    """Type, scale and vocabulary of the columns ``names``; those in ``numeric`` and ``categorical`` have that type.

    Raises ``UserError`` with file, line and column for a text in a column of numbers, and where no input is left.
    """
    if both := set(numeric) & set(categorical):
        raise UserError(f"column '{min(both)}' is named in dataset.numeric and in dataset.categorical")
    inputs = Inputs()
    for name in names:
        column = table.column(name)
        if is_nested(column):
            _leave(inputs, name, f"for holding {column.type} values", name in numeric or name in categorical)
        elif name in numeric or (name not in categorical and _is_numeric(table, name, missing)):
            _number(inputs, table, name, training, missing)
        else:
            _category(inputs, column, name, training, missing, name in categorical)
    if not inputs.numbers and not inputs.categories:
        reasons = "; ".join(f"{reason}: {choices(left, 5)}" for reason, left in inputs.left_out.items())
        raise UserError(f"{where(table)} has no input column left{' (' + reasons + ')' if reasons else ''}")
    return inputs


def _is_numeric(table: pa.Table, name: str, missing: Collection[str]) -> bool:
    """Whether the values are numbers; a few that are not, among many that are, are an error and no reason for categories."""
    column = table.column(name)
    if pa.types.is_boolean(column.type):
        return False
    try:
        numbers(column, missing)
    except BadValueError as bad:
        texts = {value for value in categories(column, missing)[0] if value is not None}
        readable = sum(_readable(text) for text in texts)
        if readable >= 10 and readable > 0.9 * len(texts):
            raise UserError(
                f"{where(table, bad.row)}, column '{name}': {bad}, but most of the column is; "
                "correct it, or add it to dataset.missing, or the column to dataset.categorical"
            ) from None
        return False
    return True


def _readable(text: str) -> bool:
    try:
        return not np.isnan(float(text))
    except ValueError:
        return False


def _number(inputs: Inputs, table: pa.Table, name: str, training: Ints, missing: Collection[str]) -> None:
    values = read_numbers(table, name, missing)[training]
    absent = np.isnan(values)
    if absent.all():
        return _leave(inputs, name, "empty in the training part")
    center, scale = moments(values)
    inputs.numbers.append(Number(name, center, scale, float(np.median(values[~absent])), bool(absent.any())))
    return None


def _category(inputs: Inputs, column: pa.ChunkedArray, name: str, training: Ints, missing: Collection[str], forced: bool) -> None:
    spellings, positions = categories(column, missing)
    counts = np.bincount(positions[training], minlength=len(spellings))
    used = [value for value, count in zip(spellings, counts, strict=True) if count]
    texts = {value for value in used if value is not None}
    present = sum(int(count) for value, count in zip(spellings, counts, strict=True) if value is not None)
    if not texts:
        return _leave(inputs, name, "empty in the training part")
    if not forced and len(texts) > max(FREE_TEXT, present // 2):
        return _leave(inputs, name, "text that hardly repeats (dataset.categorical would keep it)")
    vocabulary: tuple[str | None, ...] = (*([None] if None in used else []), *order(texts))
    inputs.categories.append(Category(name, vocabulary))
    return None


def _leave(inputs: Inputs, name: str, reason: str, forced: bool = False) -> None:
    if forced:
        raise UserError(f"column '{name}' cannot be an input: left out {reason}")
    inputs.left_out.setdefault(reason, []).append(name)
