"""From rows with texts to tensors: the preparation of ``text`` and ``glue``."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import torch
from torch import Tensor

from mtl_runner.batch import StreamSpec
from mtl_runner.datasets.prepared import Prepared
from mtl_runner.datasets.rows.columns import is_nested
from mtl_runner.datasets.rows.preparation import Preparation, require
from mtl_runner.datasets.rows.reading import Rows, where
from mtl_runner.datasets.words.text_reading import Reader, Texts, read_reader
from mtl_runner.errors import UserError

AT_ONCE = 1024
"""Texts that are read together when a model is used."""


@dataclass(frozen=True)
class TextPreparation(Prepared):
    """Texts as sequences of numbers; labels as those of a table."""

    kind: ClassVar[str] = "text"
    texts: tuple[str, ...]
    """The column of texts, or the two of pairs."""
    reader: Reader
    labels: Preparation
    """Of the tasks, and how the files are written."""

    @property
    def stream(self) -> str:  # type: ignore[override]
        return self.labels.stream

    @property
    def stream_spec(self) -> StreamSpec:
        return self.reader.spec

    @property
    def columns(self) -> tuple[str, ...]:
        return self.texts

    def target_columns(self, tasks: Iterable[str] | None = None) -> tuple[str, ...]:
        return self.labels.target_columns(tasks)

    @property
    def task_names(self) -> tuple[str, ...]:
        return self.labels.task_names

    def batches(self, path: Path, columns: Collection[str], size: int) -> Iterator[Rows]:
        return self.labels.batches(path, columns, min(size, AT_ONCE))

    def inputs(self, rows: Rows) -> dict[str, Tensor]:
        require(rows, self.texts)
        return {name: torch.from_numpy(value) for name, value in self.reader.fields(cells(rows, self.texts)).items()}

    def context(self, rows: Rows) -> dict[str, Tensor]:
        return {}

    def targets(self, rows: Rows, tasks: Collection[str] | None = None) -> dict[str, Tensor]:
        return self.labels.targets(rows, tasks)

    def blank(self, rows: int) -> pa.Table | None:
        return pa.table({name: pa.array([""] * rows, pa.string()) for name in self.texts})

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "texts": list(self.texts),
            "reader": self.reader.to_json(),
            "labels": self.labels.to_json(),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "TextPreparation":
        return cls(tuple(stored["texts"]), read_reader(stored["reader"]), Preparation.from_json(stored["labels"]))


def cells(rows: Rows, names: Iterable[str]) -> Texts:
    """The texts of each row, one or two.

    Raises:
        UserError: a column holds lists, or what else is no text.
    """
    columns = []
    for name in names:
        column = rows.column(rows.schema.get_field_index(name))
        if is_nested(column):
            raise UserError(f"{where(rows)}, column '{name}': holds {column.type}, where one text a row is expected")
        columns.append(column.cast(pa.string()).to_pylist())
    return list(zip(*columns, strict=True))
