"""From raw rows to tensors: what was fitted on the training part, as JSON, applied to any table by whole columns.

Fields of the stream: one of numbers (``numeric`` [N, D], or another name and shape, as ``image`` [N, 1, 8, 8]) and
``categorical`` [N, K]. Number = (value - center) / scale, a missing one = the fill (the training median), with a 0/1 indicator
column behind the numbers if the column had missing values in training. Category 0 = not seen in training; the others follow the
vocabulary from 1 on, in which null stands for missing if training had missing values (else a missing one is 0 too).
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtl_runner.batch import MISSING, StreamSpec, TargetSpec
from mtl_runner.datasets.prepared import Prepared
from mtl_runner.datasets.rows.columns import RULES, BadValueError, categories, numbers
from mtl_runner.datasets.rows.reading import Reading, Rows, column_names, read_batches, where
from mtl_runner.errors import UserError, choices, nearest


@dataclass(frozen=True)
class Number:
    """A numeric input column."""

    name: str
    center: float = 0.0
    scale: float = 1.0
    fill: float = 0.0
    indicator: bool = False


@dataclass(frozen=True)
class Category:
    """A categorical input column; its indices are 1 + the position in the vocabulary, 0 for what is not in it."""

    name: str
    vocabulary: tuple[str | None, ...] = ()

    @property
    def cardinality(self) -> int:
        """Number of indices."""
        return len(self.vocabulary) + 1

    @cached_property
    def index(self) -> dict[str | None, int]:
        """Index of each known category."""
        return {value: position for position, value in enumerate(self.vocabulary, start=1)}


@dataclass(frozen=True)
class Target:
    """How a task's labels are read from its columns."""

    kind: str
    columns: tuple[str, ...]
    classes: tuple[str, ...] = ()
    labels: Mapping[str, int] = field(default_factory=dict)
    """Label of each category of the column."""
    other: int | None = None
    """Label of a category that is not in ``labels``; None: no label."""
    center: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    flat: bool = False
    """One number per example, [N], instead of a vector, [N, K]."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the type, as far as they were fitted; JSON."""

    def spec(self, stream: str) -> TargetSpec:
        """The description that models and metrics use."""
        shape = () if self.flat or self.labelled else (len(self.columns),)
        fitted = (self.classes, self.columns, shape, self.center, self.scale)
        return TargetSpec(self.kind, stream, "main", *fitted, options=self.options)

    @property
    def labelled(self) -> bool:
        """Whether targets are classes."""
        return self.kind in ("binary", "multiclass", "ordinal")


@dataclass(frozen=True)
class Preparation(Prepared):
    """All that turns a table with the right column names into inputs and targets."""

    kind: ClassVar[str] = "table"
    numbers: tuple[Number, ...]
    categories: tuple[Category, ...] = ()
    tasks: Mapping[str, Target] = field(default_factory=dict)
    """By task name, also of tasks that a run leaves out."""
    reading: Reading = field(default_factory=Reading)
    """How the files were written."""
    stream: str = "input"
    number_field: str = "numeric"
    shape: tuple[int, ...] | None = None
    """Shape of one example's numbers, where they are no plain vector."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that ``inputs`` needs."""
        return tuple(column.name for column in self.numbers) + tuple(column.name for column in self.categories)

    def target_columns(self, tasks: Iterable[str] | None = None) -> tuple[str, ...]:
        """The columns that ``targets`` needs for these tasks (None: all), each once."""
        names = [name for task in (self.tasks if tasks is None else tasks) for name in self.tasks[task].columns]
        return tuple(dict.fromkeys(names))

    @property
    def task_names(self) -> tuple[str, ...]:
        return tuple(self.tasks)

    def batches(self, path: Path, columns: Collection[str], size: int) -> Iterator[Rows]:
        some = False
        for rows in read_batches(path, tuple(columns), size, self.reading):
            some = True
            yield rows
        if not some:  # a header and nothing else
            yield pa.table({name: pa.nulls(0, pa.string()) for name in column_names(path, self.reading)})

    @property
    def stream_spec(self) -> StreamSpec:
        """Shapes, cardinalities and names of the input stream."""
        names = tuple(column.name for column in self.numbers)
        names += tuple(f"{column.name} is missing" for column in self.numbers if column.indicator)
        fields: dict[str, tuple[int, ...]] = {}
        described: dict[str, tuple[str, ...]] = {}
        if names:
            fields[self.number_field] = self.shape or (len(names),)
            described[self.number_field] = names
        if self.categories:
            fields["categorical"] = (len(self.categories),)
            described["categorical"] = tuple(column.name for column in self.categories)
        return StreamSpec(fields, tuple(column.cardinality for column in self.categories), described)

    def inputs(self, rows: Rows) -> dict[str, Tensor]:
        """The stream's fields, float32 and int64, for a table, a record batch or a mapping of columns.

        Raises ``UserError`` for a column that is not there and, with file, line and column, for a cell that is no number.
        """
        require(rows, self.columns)
        size = rows.num_rows
        fields: dict[str, Tensor] = {}
        if self.numbers:
            numeric = torch.from_numpy(self._numeric(rows, size))
            fields[self.number_field] = numeric.view(size, *self.shape) if self.shape else numeric
        if self.categories:
            table = np.empty((size, len(self.categories)), np.int64)
            for place, column in enumerate(self.categories):
                table[:, place] = looked_up(rows, column.name, column.index, 0, self.reading.missing)
            fields["categorical"] = torch.from_numpy(table)
        return fields

    def _numeric(self, rows: Rows, size: int) -> NDArray[np.float32]:
        indicators = sum(column.indicator for column in self.numbers)
        table = np.empty((size, len(self.numbers) + indicators), np.float32)
        indicator = len(self.numbers)
        for place, column in enumerate(self.numbers):
            values = read_numbers(rows, column.name, self.reading.missing)
            absent = np.isnan(values)
            if column.indicator:
                table[:, indicator] = absent
                indicator += 1
            values = np.where(absent, column.fill, values)
            with np.errstate(over="ignore"):  # far outside the training range: infinite in float32, and nobody's prediction
                table[:, place] = (values - column.center) / column.scale
        return table

    def targets(self, rows: Rows, tasks: Collection[str] | None = None) -> dict[str, Tensor]:
        """Labels of these tasks (None: all) as training sees them; no label where a cell is missing or its class is unknown."""
        named = self.tasks if tasks is None else {name: self.tasks[name] for name in tasks}
        require(rows, self.target_columns(named))
        return {name: self._target(rows, target) for name, target in named.items()}

    def _target(self, rows: Rows, target: Target) -> Tensor:
        missing = self.reading.missing
        if target.kind == "survival":
            time = torch.tensor(read_checked(rows, target.columns[0], missing, "survival"))
            both = torch.stack([time, _floats(self._labels(rows, target.columns[1], target))], 1).float()
            return both.masked_fill(both.isnan().any(1, keepdim=True), torch.nan)
        if target.kind == "multilabel":
            return _floats(torch.stack([self._labels(rows, column, target) for column in target.columns], 1))
        if target.labelled:
            labels = self._labels(rows, target.columns[0], target)
            return _floats(labels) if target.kind == "binary" else labels
        values = np.stack([read_checked(rows, column, missing, target.kind) for column in target.columns], axis=1)
        scaled = torch.from_numpy((values - np.array(target.center)) / np.array(target.scale)).float()
        return scaled[:, 0].contiguous() if target.flat else scaled

    def _labels(self, rows: Rows, column: str, target: Target) -> Tensor:
        """The label of each row's category, -100 where it has none."""
        other = MISSING if target.other is None else target.other
        index: dict[str | None, int] = {None: MISSING}
        index.update(target.labels)
        return torch.from_numpy(looked_up(rows, column, index, other, self.reading.missing))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; ``from_json`` gives an equal object back, also after a trip through a file."""
        plain: dict[str, Any] = json.loads(json.dumps({"kind": self.kind, "rules": RULES, **asdict(self)}))
        return plain

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Preparation":
        """The preparation that ``to_json`` wrote."""
        if stored.get("rules") != RULES:
            raise UserError(
                f"this run's preparation follows rules {stored.get('rules')}, this version of the program rules {RULES}"
            )
        shape = stored["shape"]
        return cls(
            tuple(Number(**column) for column in stored["numbers"]),
            tuple(Category(column["name"], tuple(column["vocabulary"])) for column in stored["categories"]),
            {name: _target(target) for name, target in stored["tasks"].items()},
            Reading.from_json(stored["reading"]),
            stored["stream"],
            stored["number_field"],
            None if shape is None else tuple(shape),
        )


def _target(stored: Mapping[str, Any]) -> Target:
    lists = {key: tuple(stored[key]) for key in ("columns", "classes", "center", "scale")}
    options = dict(stored.get("options", {}))  # the first runs have none
    return Target(
        stored["kind"], labels=dict(stored["labels"]), other=stored["other"], flat=stored["flat"], options=options, **lists
    )


def _floats(labels: Tensor) -> Tensor:
    return torch.where(labels == MISSING, torch.nan, labels.float())


def require(rows: Rows, columns: Iterable[str]) -> None:
    """Raises ``UserError`` unless the table has these columns."""
    wanted, there = list(columns), set(rows.schema.names)
    absent = [name for name in wanted if name not in there]
    if absent:
        raise UserError(
            f"{where(rows)} has no column {choices([repr(name) for name in absent], 5)}{nearest(absent[0], there - {*wanted})}; "
            f"it has: {choices(rows.schema.names)}"
        )


def read_numbers(rows: Rows, name: str, missing: Collection[str]) -> NDArray[np.float64]:
    """A column's numbers, NaN where missing; a bad one raises ``UserError`` with file, line and column."""
    try:
        return numbers(_column(rows, name), missing)
    except BadValueError as bad:
        raise UserError(f"{where(rows, bad.row)}, column '{name}': {bad}") from None


def read_checked(rows: Rows, name: str, missing: Collection[str], kind: str) -> NDArray[np.float64]:
    """A column's numbers as a task of this kind can have them: counts are whole and not negative, times not negative."""
    values = read_numbers(rows, name, missing)
    if kind not in ("count", "survival"):
        return values
    wrong = (values < 0) | ((values % 1 != 0) & ~np.isnan(values) if kind == "count" else False)
    if wrong.any():
        row = int(wrong.argmax())
        expected = "a count is a whole number from 0 on" if kind == "count" else "a time is a number from 0 on"
        raise UserError(f"{where(rows, row)}, column '{name}': {values[row]:g}; {expected}")
    return values


def looked_up(rows: Rows, name: str, index: Mapping[str | None, int], other: int, missing: Collection[str]) -> NDArray[np.int64]:
    """Each row's entry in ``index`` by the column's category (None: missing); ``other`` for those without one."""
    values, positions = categories(_column(rows, name), missing)
    return np.array([index.get(value, other) for value in values], np.int64)[positions]


def _column(rows: Rows, name: str) -> pa.Array | pa.ChunkedArray:
    return rows.column(rows.schema.get_field_index(name))
