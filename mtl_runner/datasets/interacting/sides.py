"""What is known of users and items, beside the interactions: tables joined by id, and cells with several values."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from mtl_runner.datasets.rows.columns import categories
from mtl_runner.errors import UserError


@dataclass(frozen=True)
class Side:
    """A table with one row for each user, or for each item."""

    key: str
    """The column of the interactions that names the user or the item."""
    ids: tuple[str, ...]
    columns: Mapping[str, tuple[str | None, ...]]
    """By name, in the order of the ids, as written."""

    @classmethod
    def of(cls, table: pa.Table, key: str, place: str, missing: Collection[str]) -> "Side":
        """The table whose column ``key`` has the ids; ``place`` starts messages.

        Raises:
            UserError: an id is missing or there twice.
        """
        spellings, rows = categories(table.column(key), missing)
        ids = [spellings[row] for row in rows]
        named = tuple(each for each in ids if each is not None)
        if len(named) < len(ids):
            raise UserError(f"{place}: row {ids.index(None) + 1} has no '{key}'")
        if len(set(named)) < len(named):
            twice = Counter(named).most_common(1)[0][0]
            raise UserError(f"{place}: '{key}' {twice} is there twice")
        texts = {name: tuple(table.column(name).cast(pa.string()).to_pylist()) for name in table.schema.names if name != key}
        return cls(key, named, texts)

    @cached_property
    def index(self) -> dict[str | None, int]:
        """Row of each id."""
        return {each: row for row, each in enumerate(self.ids)}

    @cached_property
    def arrays(self) -> dict[str, pa.Array]:
        """The columns as Arrow has them."""
        return {name: pa.array(values, pa.string()) for name, values in self.columns.items()}

    def beside(self, rows: pa.Table, missing: Collection[str]) -> pa.Table:
        """The rows with the columns that they do not have yet; null for an id that is not in the table."""
        absent = [name for name in self.columns if name not in rows.schema.names]
        if not absent:
            return rows
        spellings, positions = categories(rows.column(self.key), missing)
        found = np.array([self.index.get(each, -1) for each in spellings])[positions]
        places = pa.array(found, mask=found < 0)
        for name in absent:
            rows = rows.append_column(name, self.arrays[name].take(places))
        return rows


@dataclass(frozen=True)
class Many:
    """A column with several values in one cell, ``Action|Comedy``: one column of 0 and 1 for each value."""

    name: str
    separator: str
    values: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(f"{self.name}: {value}" for value in self.values)

    def parts(self, cell: str | None) -> set[str]:
        """The values of a cell."""
        return set() if cell is None else {part.strip() for part in cell.split(self.separator)} - {""}

    def fitted(self, rows: pa.Table, missing: Collection[str]) -> "Many":
        """With the values that the rows have."""
        spellings, positions = categories(rows.column(self.name), missing)
        used = {spellings[place] for place in np.unique(positions)}
        return Many(self.name, self.separator, tuple(sorted(set[str]().union(*(self.parts(cell) for cell in used)))))

    def beside(self, rows: pa.Table, missing: Collection[str]) -> pa.Table:
        """The rows with these columns."""
        spellings, positions = categories(rows.column(self.name), missing)
        has = [self.parts(cell) for cell in spellings]
        for value, column in zip(self.values, self.columns, strict=True):
            rows = rows.append_column(column, pa.array(np.array([value in parts for parts in has], np.uint8)[positions]))
        return rows
