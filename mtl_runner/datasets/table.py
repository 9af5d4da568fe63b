"""Any CSV or Parquet file as a multi-task data set."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from annotated_types import Ge
from numpy.typing import NDArray

from mtl_runner.batch import Data
from mtl_runner.datasets.base import Dataset, Tasks, task_options, texts
from mtl_runner.datasets.rows.arrays import Source, assembled
from mtl_runner.datasets.rows.columns import MISSING_TEXTS, categories
from mtl_runner.datasets.rows.inputs import fit_inputs, matching
from mtl_runner.datasets.rows.labels import TYPES, Labels, read_labels
from mtl_runner.datasets.rows.notes import label_notes
from mtl_runner.datasets.rows.preparation import Preparation, read_numbers
from mtl_runner.datasets.rows.reading import Reading, as_read, concatenated, file_notes, read, where
from mtl_runner.datasets.splitting import Splitting, split
from mtl_runner.datasets.stratify import Floats, Ints
from mtl_runner.errors import UserError

TASK_KEYS = ("type", "columns", "role", "metric", "positive", "classes")
"""What a user may say about a task of any type that a table has."""


class Table(Dataset):
    """Rows of a file; some columns are tasks, the others inputs.

    Columns are named by their names or by patterns (``*``, ``?``, ``[…]``). A column of a task is never an input, whether the
    task is trained or not; the columns of a reconstruction task, which are inputs by nature, are the exception.

    Args:
        path: a CSV-like or Parquet file, or several to put one after the other; ``.gz`` may be left out or be too much.
        tasks: by name, their options: ``type`` (guessed where not named), ``columns`` (default: the task's name), ``role``,
            ``metric``, ``positive`` (the values that mean yes), ``classes`` (their order), ``time`` and ``event`` (the columns
            of a survival task), and the type's own; or just a list of names.
        test_path: file(s) whose rows are the test part; the split then divides the others.
        only: train only these tasks; rows, inputs and preparation stay the same.
        inputs: columns to use; None: all others.
        ignore: columns not to use.
        numeric, categorical: columns whose type is not to be guessed.
        weights: the column of example weights (numbers, 0 or more).
        split: ``by`` (random, group, time, column), ``column``, ``validation`` and ``test`` (shares).
        fold: test on this one of ``folds`` parts; ``split.test`` is not used then.
        split_seed: moves the split.
        separator, encoding, missing, names, comment, decimal: how the files are written; see ``Reading``.
    """

    provides = frozenset({"numeric", "categorical"})

    def __init__(
        self,
        path: str | list[str],
        tasks: dict[str, dict[str, Any] | None] | list[str],
        test_path: str | list[str] | None = None,
        only: list[str] | None = None,
        inputs: str | list[str] | None = None,
        ignore: str | list[str] | None = None,
        numeric: str | list[str] | None = None,
        categorical: str | list[str] | None = None,
        weights: str | None = None,
        split: dict[str, Any] | None = None,
        fold: Annotated[int, Ge(0)] | None = None,
        folds: Annotated[int, Ge(2)] = 5,
        split_seed: int = 0,
        separator: str | None = None,
        encoding: str = "utf-8",
        missing: list[str] | None = None,
        names: list[str] | None = None,
        comment: str | None = None,
        decimal: Literal[".", ","] | None = None,
        stream: str = "input",
    ) -> None:
        self.path, self.test_path, self.only, self.stream = (path, test_path, only, stream)
        self.options = task_options(with_times(tasks), TASK_KEYS, TYPES)
        self.named = {
            "inputs": texts(inputs),
            "ignore": texts(ignore),
            "numeric": texts(numeric),
            "categorical": texts(categorical),
        }
        self.weights = weights
        self.splitting = Splitting.of(split or {}, fold, folds, split_seed)
        if separator is not None and len(separator) != 1:
            raise UserError(f"dataset.separator={separator!r} is not a single character")
        tokens = MISSING_TEXTS if missing is None else tuple(missing)
        self.reading = Reading(separator, encoding, tokens, texts(names), comment, decimal=decimal)

    def load(self) -> Data:
        """Read, split, fit on the training part, prepare."""
        table, tested = self._read()
        labels = self._labels(table)
        strata = [column for task in labels.values() for column in task.strata] or [np.zeros(table.num_rows, np.int64)]
        groups = self._split_values(table)
        parts = split(self.splitting, np.stack(strata, axis=1), groups, tested)
        chosen = self._input_columns(table, labels)
        forced = (matching(self.named[key], table.schema.names, f"dataset.{key}") for key in ("numeric", "categorical"))
        inputs = fit_inputs(table, chosen, parts["train"], self.reading.missing, *forced)
        targets = {name: task.fit(parts["train"]) for name, task in labels.items()}
        preparation = Preparation(
            tuple(inputs.numbers), tuple(inputs.categories), targets, as_read(self.reading, table), self.stream
        )
        values = {name: tensor.numpy() for name, tensor in preparation.targets(table).items()}
        context: dict[str, NDArray[Any]] = {"row": np.arange(table.num_rows)}
        if self.splitting.by == "group" and groups is not None:
            context["group"] = np.unique(groups.astype(str), return_inverse=True)[1].reshape(-1)
        prepared = {field: tensor.numpy() for field, tensor in preparation.inputs(table).items()}
        source = Source(prepared, values, context, self._weights(table))
        notes = file_notes(table) + inputs.notes + label_notes(labels, targets, values, parts)
        return assembled(source, parts, preparation, self.options, self.only, notes)

    def _read(self) -> tuple[pa.Table, Ints | None]:
        table = read(self.path, self.reading)
        if self.test_path is None:
            return table, None
        both = concatenated([table, read(self.test_path, self.reading)])
        return both, np.arange(table.num_rows, both.num_rows)

    def _labels(self, table: pa.Table) -> dict[str, Labels]:
        labels = {}
        for name, options in self.options.items():
            place = f"dataset.tasks.{name}" if options.columns else "dataset.tasks"
            columns = matching(options.columns or (name,), table.schema.names, place)
            labels[name] = read_labels(table, columns, options, self.reading.missing)
        return labels

    def _column(self, table: pa.Table, name: str, key: str) -> str:
        return matching([name], table.schema.names, f"dataset.{key}")[0]

    def _split_values(self, table: pa.Table) -> NDArray[Any] | None:
        """The split column as texts, None where missing."""
        if self.splitting.column is None:
            return None
        name = self._column(table, self.splitting.column, "split.column")
        spellings, positions = categories(table.column(name), self.reading.missing)
        return np.array(spellings, dtype=object)[positions]

    def _input_columns(self, table: pa.Table, labels: dict[str, Labels]) -> list[str]:
        names = table.schema.names
        used = {column for task in labels.values() if task.kind != "reconstruction" for column in task.columns}
        split_column = self.splitting.column
        apart = used | {name for name in (self.weights, split_column) if name is not None}
        wanted = matching(self.named["inputs"], names, "dataset.inputs") if self.named["inputs"] else names
        if typed := [name for name in self.named["inputs"] if name in used]:
            raise UserError(f"dataset.inputs: column '{typed[0]}' is a task's, and a task is never an input")
        if split_column in self.named["inputs"] and self.splitting.by == "time":
            apart.discard(str(split_column))
        ignored = matching(self.named["ignore"], names, "dataset.ignore")
        return [name for name in names if name in wanted and name not in apart and name not in ignored]

    def _weights(self, table: pa.Table) -> NDArray[np.float32] | None:
        if self.weights is None:
            return None
        name = self._column(table, self.weights, "weights")
        values: Floats = read_numbers(table, name, self.reading.missing)
        bad = ~(values >= 0)
        if bad.any():
            row = int(bad.argmax())
            problem = "no weight" if np.isnan(values[row]) else f"weight {values[row]:g}, which is negative"
            raise UserError(f"{where(table, row)}, column '{name}': {problem}")
        if not values.any():
            raise UserError(f"dataset.weights: all weights in column '{name}' are 0")
        return values.astype(np.float32)


def with_times(tasks: Tasks) -> Tasks:
    """The tasks' options; those of survival have their columns from ``time`` and ``event``, which are these words by default."""
    if not isinstance(tasks, Mapping):
        return tasks
    return {name: _with_time(options) for name, options in tasks.items()}


def _with_time(options: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if not isinstance(options, Mapping) or options.get("type") != "survival" or options.get("columns"):
        return options
    rest = {key: value for key, value in options.items() if key not in ("time", "event")}
    return rest | {"columns": [str(options.get("time") or "time"), str(options.get("event") or "event")]}
