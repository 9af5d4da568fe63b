"""Interactions with what is known of their users and items: the preparation of ``recsys``.

A row is one interaction. What the files of users and items say is kept with the run, so that a user's and an item's id are
enough to predict; a row that has such a column itself is read as it is, which is how a new user or item is described.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from mtl_runner.batch import StreamSpec
from mtl_runner.datasets.interacting.behaviours import After, before, impossible
from mtl_runner.datasets.interacting.sides import Many, Side
from mtl_runner.datasets.prepared import Prepared
from mtl_runner.datasets.rows.columns import categories
from mtl_runner.datasets.rows.preparation import Preparation, require
from mtl_runner.datasets.rows.reading import Rows
from mtl_runner.datasets.stratify import Ints


@dataclass(frozen=True)
class Joined(Prepared):
    """A ``Preparation`` of the interactions, with the columns of users and items beside them."""

    kind: ClassVar[str] = "recsys"
    table: Preparation
    user: str | None = None
    """The column that says whose row it is, for metrics."""
    sides: tuple[Side, ...] = ()
    many: tuple[Many, ...] = ()
    after: Mapping[str, After] = field(default_factory=dict)
    """By task."""

    @property
    def stream(self) -> str:  # type: ignore[override]
        return self.table.stream

    @property
    def stream_spec(self) -> StreamSpec:
        return self.table.stream_spec

    @property
    def columns(self) -> tuple[str, ...]:
        made = {column for many in self.many for column in many.columns}
        read = [name for name in self.table.columns if name not in made]
        keys = [side.key for side in self.sides] + [self.user] * (self.user is not None)
        return tuple(dict.fromkeys([*keys, *read, *(many.name for many in self.many)]))  # type: ignore[list-item]

    def target_columns(self, tasks: Iterable[str] | None = None) -> tuple[str, ...]:
        return self.table.target_columns(self._with_earlier(tasks))

    @property
    def task_names(self) -> tuple[str, ...]:
        return self.table.task_names

    def batches(self, path: Path, columns: Collection[str], size: int) -> Iterator[Rows]:
        return self.table.batches(path, columns, size)

    def joined(self, rows: Rows) -> pa.Table:
        """The rows with all columns that the preparation reads."""
        table = rows if isinstance(rows, pa.Table) else pa.Table.from_batches([rows])
        missing = self.table.reading.missing
        for side in self.sides:
            table = side.beside(table, missing)
        for many in self.many:
            table = many.beside(table, missing)
        return table

    def inputs(self, rows: Rows) -> dict[str, Tensor]:
        own = [name for name in self.columns if name not in {column for side in self.sides for column in side.columns}]
        require(rows, own)
        return self.table.inputs(self.joined(rows))

    def context(self, rows: Rows) -> dict[str, Tensor]:
        """``user``: a number for each id, the same in every file, whether the id was there in training or not."""
        if self.user is None or self.user not in rows.schema.names:
            return {}
        return {"user": torch.from_numpy(numbered(rows, self.user, self.table.reading.missing))}

    def targets(self, rows: Rows, tasks: Collection[str] | None = None) -> dict[str, Tensor]:
        names = self.task_names if tasks is None else tuple(tasks)
        values = self.table.targets(rows, self._with_earlier(names))
        filled = {name: values[name] for name in names}
        for name in names:
            if after := self.after.get(name):
                filled[name] = values[name].masked_fill(
                    impossible(name, values, self.after), torch.nan if after.otherwise is None else after.otherwise
                )
        return filled

    def _with_earlier(self, tasks: Iterable[str] | None) -> list[str]:
        """The tasks and all those whose labels theirs depend on."""
        names = list(self.task_names if tasks is None else tasks)
        return list(dict.fromkeys([*names, *(earlier for name in names for earlier in before(name, self.after))]))

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "table": self.table.to_json(),
            "user": self.user,
            "sides": [
                {"key": side.key, "ids": list(side.ids), "columns": {name: list(cells) for name, cells in side.columns.items()}}
                for side in self.sides
            ],
            "many": [{"name": many.name, "separator": many.separator, "values": list(many.values)} for many in self.many],
            "after": {name: {"task": each.task, "otherwise": each.otherwise} for name, each in self.after.items()},
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Joined":
        return cls(
            Preparation.from_json(stored["table"]),
            stored["user"],
            tuple(
                Side(side["key"], tuple(side["ids"]), {name: tuple(cells) for name, cells in side["columns"].items()})
                for side in stored["sides"]
            ),
            tuple(Many(many["name"], many["separator"], tuple(many["values"])) for many in stored["many"]),
            {name: After(**each) for name, each in stored["after"].items()},
        )


def numbered(rows: Rows, name: str, missing: Collection[str]) -> Ints:
    """A number for each id of a column, [N]: a hash, so that it does not depend on which ids there are."""
    spellings, positions = categories(rows.column(rows.schema.get_field_index(name)), missing)
    digests = [hashlib.blake2b(str(each).encode(), digest_size=8).digest() for each in spellings]
    return np.frombuffer(b"".join(digests), "<i8").astype(np.int64)[positions]
