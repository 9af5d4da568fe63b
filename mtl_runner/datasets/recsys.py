"""Interactions of users with items: one behaviour is one task."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from annotated_types import Ge
from numpy.typing import NDArray

from mtl_runner.batch import Data
from mtl_runner.datasets.base import Dataset, known, texts
from mtl_runner.datasets.interacting.behaviours import READ_AS, before, behaviours, impossible
from mtl_runner.datasets.interacting.joined import Joined, numbered
from mtl_runner.datasets.interacting.sides import Many, Side
from mtl_runner.datasets.rows.arrays import Source, assembled
from mtl_runner.datasets.rows.columns import MISSING_TEXTS, categories
from mtl_runner.datasets.rows.inputs import fit_inputs, matching
from mtl_runner.datasets.rows.labels import Labels, read_labels
from mtl_runner.datasets.rows.notes import label_notes
from mtl_runner.datasets.rows.preparation import Preparation
from mtl_runner.datasets.rows.reading import Reading, as_read, concatenated, file_notes, read, where
from mtl_runner.datasets.splitting import Splitting, split
from mtl_runner.datasets.stratify import Ints
from mtl_runner.errors import UserError


class Recsys(Dataset):
    """Rows of a file are interactions; user and item are inputs, each id a category, and one unseen in training is category 0.

    The other columns are inputs too (the context: hour, device, position), as are the columns of the files of users and items,
    which are joined by id. A row with such a column of its own keeps it.

    Args:
        path: a CSV-like or Parquet file of interactions, or several to put one after the other.
        user, item: the columns with the ids; null: there is none. One in ``ignore`` is no input, and still says who is who.
        tasks: by name, their options as of ``table``. ``after`` names the task of a behaviour that this one can only follow: rows
            where that, or what it follows itself, is 0 then have no label (``otherwise: missing``), as conversions of
            clicks, or the label 0 (``negative``), as the entire-space model needs it.
        users, items: files with a row for each user or item, whose column of ids is called as in the interactions.
        many: columns with several values in a cell and what is between them, {genres: "|"}.
        test_path: file(s) whose rows are the test part.
        only: train only these tasks; rows, inputs and preparation stay the same.
        inputs: columns to use beside user and item; None: all others.
        ignore: columns not to use.
        numeric, categorical: columns whose type is not to be guessed.
        split: ``by`` random, time, column, or user, item: validation and test then have users or items that training has
            not; ``column`` of the time, or of the parts' names; ``validation`` and ``test`` (shares).
        fold, folds, split_seed, separator, encoding, missing, names, comment, decimal: as of ``table``.
    """

    provides = frozenset({"numeric", "categorical"})

    def __init__(
        self,
        path: str | list[str],
        tasks: dict[str, dict[str, Any] | None] | list[str],
        user: str | None = "user",
        item: str | None = "item",
        users: str | None = None,
        items: str | None = None,
        many: dict[str, str] | None = None,
        test_path: str | list[str] | None = None,
        only: list[str] | None = None,
        inputs: str | list[str] | None = None,
        ignore: str | list[str] | None = None,
        numeric: str | list[str] | None = None,
        categorical: str | list[str] | None = None,
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
        self.path, self.test_path, self.only, self.stream = path, test_path, only, stream
        self.options, self.after = behaviours(tasks)
        self.user, self.item, self.side_paths = user, item, {"users": users, "items": items}
        self.many = tuple(Many(name, between) for name, between in (many or {}).items())
        if empty := [each.name for each in self.many if not each.separator]:
            raise UserError(f"dataset.many.{empty[0]} is what is between the values of a cell, such as '|'; it is empty")
        self.named = {"inputs": texts(inputs), "ignore": texts(ignore), "numeric": texts(numeric)}
        self.categorical = texts(categorical)
        self.splitting = self._splitting(split or {}, fold, folds, split_seed)
        tokens = MISSING_TEXTS if missing is None else tuple(missing)
        several = tuple(each.name for each in self.many)
        self.reading = Reading(separator, encoding, tokens, texts(names), comment, texts=several, decimal=decimal)

    def load(self) -> Data:
        """Read, join, split, fit on the training part, prepare."""
        rows, tested = self._interactions()
        for key, name in (("user", self.user), ("item", self.item)):
            self._check_ids(rows, key, name)
        described = self._side_tables()
        sides = tuple(Side.of(table, key, path, self.reading.missing) for table, key, path in described)
        files = [rows, *(table for table, _, _ in described)]
        bare = Joined(Preparation((), reading=as_read(self.reading, *files)), self.user, sides)
        table, labels = bare.joined(rows), self._labels(rows)
        values = self._split_values(table)
        strata = np.stack([column for task in labels.values() for column in task.strata], axis=1)
        parts = split(self.splitting, strata, values, tested)
        matching([each.name for each in self.many], table.schema.names, "dataset.many")
        many = tuple(each.fitted(table.take(parts["train"]), self.reading.missing) for each in self.many)
        for each in many:
            table = each.beside(table, self.reading.missing)
        prepared, notes = self._fit(table, labels, parts, replace(bare, many=many))
        targets = {name: tensor.numpy() for name, tensor in prepared.targets(table).items()}
        context: dict[str, NDArray[Any]] = {"row": np.arange(table.num_rows)}
        context |= {name: tensor.numpy() for name, tensor in prepared.context(table).items()}
        if self.splitting.by == "group":
            context["group"] = numbered(table, str(self.splitting.column), self.reading.missing)
        fields = {name: tensor.numpy() for name, tensor in prepared.table.inputs(table).items()}
        notes = file_notes(*files) + notes + self._following(prepared, table) + self._unseen(table, parts)
        notes += label_notes(labels, prepared.table.tasks, targets, parts)
        data = assembled(Source(fields, targets, context), parts, prepared.table, self.options, self.only, notes)
        specs = {name: replace(spec, kind=self.options[name].type or spec.kind) for name, spec in data.targets.items()}
        return replace(data, targets=specs, preparation=prepared.to_json())

    # ---- what is read ------------------------------------------------------------------------------------------------

    def _interactions(self) -> tuple[pa.Table, Ints | None]:
        """All interactions, and which of them are the test part where that is given."""
        table = read(self.path, self.reading)
        if self.test_path is None:
            return table, None
        both = concatenated([table, read(self.test_path, self.reading)])
        return both, np.arange(table.num_rows, both.num_rows)

    def _side_tables(self) -> list[tuple[pa.Table, str, str]]:
        """The files of users and items, with their column of ids and their paths."""
        found = []
        for (place, path), key in zip(self.side_paths.items(), (self.user, self.item), strict=True):
            if path is None:
                continue
            if key is None:
                raise UserError(f"dataset.{place}={path} needs dataset.{place[:-1]}, the column of the ids")
            table = read(path, replace(self.reading, names=(), comment=None))
            matching([key], table.schema.names, f"dataset.{place}={path}")
            found.append((table, key, path))
        return found

    def _check_ids(self, rows: pa.Table, key: str, name: str | None) -> None:
        if name is None:
            return
        matching([name], rows.schema.names, f"dataset.{key}")
        spellings, positions = categories(rows.column(name), self.reading.missing)
        absent = np.array([each is None for each in spellings])[positions]
        if absent.any():
            raise UserError(f"{where(rows, int(absent.argmax()))}: no {key} in column '{name}'")

    def _labels(self, rows: pa.Table) -> dict[str, Labels]:
        labels = {}
        for name, options in self.options.items():
            place = f"dataset.tasks.{name}" if options.columns else "dataset.tasks"
            columns = matching(options.columns or (name,), rows.schema.names, place)
            read_as = replace(options, type=READ_AS.get(str(options.type), options.type))
            labels[name] = read_labels(rows, columns, read_as, self.reading.missing)
        return labels

    # ---- how it is split ---------------------------------------------------------------------------------------------

    def _splitting(self, options: Mapping[str, Any], fold: int | None, folds: int, seed: int) -> Splitting:
        by = options.get("by", "random")
        known(by, ("random", "time", "user", "item", "column"), "dataset.split.by:")
        if by not in ("user", "item"):
            return Splitting.of(options, fold, folds, seed)
        column = self.user if by == "user" else self.item
        if options.get("column") is not None or column is None:
            raise UserError(f"dataset.split.by={by} takes dataset.{by} as its column; that is {column}")
        return Splitting.of({**options, "by": "group", "column": column}, fold, folds, seed)

    def _split_values(self, table: pa.Table) -> NDArray[Any] | None:
        if self.splitting.column is None:
            return None
        name = matching([self.splitting.column], table.schema.names, "dataset.split.column")[0]
        spellings, positions = categories(table.column(name), self.reading.missing)
        return np.array(spellings, dtype=object)[positions]

    # ---- what is learned from the training part ------------------------------------------------------------------------

    def _fit(
        self, table: pa.Table, labels: Mapping[str, Labels], parts: Mapping[str, Ints], prepared: Joined
    ) -> tuple[Joined, list[str]]:
        names, missing = table.schema.names, self.reading.missing
        ids = [name for name in (self.user, self.item) if name is not None and name not in self._ignored(names)]
        forced = [matching(self.named["numeric"], names, "dataset.numeric")]
        forced.append((*matching(self.categorical, names, "dataset.categorical"), *ids))
        chosen = self._input_columns(names, {column for task in labels.values() for column in task.columns})
        inputs = fit_inputs(table, chosen, parts["train"], missing, *forced)
        targets = {name: task.fit(parts["train"]) for name, task in labels.items()}
        own = Preparation(tuple(inputs.numbers), tuple(inputs.categories), targets, prepared.table.reading, self.stream)
        return replace(prepared, table=own, after=self.after), inputs.notes

    def _ignored(self, names: list[str]) -> tuple[str, ...]:
        return matching(self.named["ignore"], names, "dataset.ignore")

    def _input_columns(self, names: list[str], used: set[str]) -> list[str]:
        ids = {self.user, self.item}
        wanted = {*matching(self.named["inputs"], names, "dataset.inputs"), *ids} if self.named["inputs"] else set(names)
        if typed := sorted(used & wanted) if self.named["inputs"] else []:
            raise UserError(f"dataset.inputs: column '{typed[0]}' is a task's, and a task is never an input")
        apart = used | {many.name for many in self.many} | set(self._ignored(names))
        if self.splitting.by != "group" and self.splitting.column not in self.named["inputs"]:
            apart.add(str(self.splitting.column))
        return [name for name in names if name in wanted and name not in apart]

    # ---- what there is to say ------------------------------------------------------------------------------------------

    def _following(self, prepared: Joined, table: pa.Table) -> list[str]:
        """Rows with a behaviour and without one that comes before it, and rows where a task learns nothing for that reason."""
        values = prepared.table.targets(table)
        notes = []
        for name, after in self.after.items():
            never, earlier = impossible(name, values, self.after), " or ".join(before(name, self.after))
            if count := int((never & (values[name] > 0)).sum()):
                notes.append(f"task {name}: {count} rows have it without {earlier}; they count as rows without it")
            if after.otherwise is None and never.any():
                notes.append(
                    f"task {name}: {int(never.sum())} rows without {earlier} have no label (otherwise: missing), so that it "
                    f"learns from the others alone; sharing.through=product needs dataset.tasks.{name}.otherwise=negative"
                )
        return notes

    def _unseen(self, table: pa.Table, parts: Mapping[str, Ints]) -> list[str]:
        """How many rows of the other parts have a user or an item that training has not."""
        notes = []
        for key, name in (("user", self.user), ("item", self.item)):
            if name is not None:
                ids = numbered(table, name, self.reading.missing)
                shares = {part: 1 - np.isin(ids[parts[part]], ids[parts["train"]]).mean() for part in ("validation", "test")}
                told = ", ".join(f"{100 * share:.3g} % of the {part} rows" for part, share in shares.items() if share)
                notes += [f"{key}s not seen in training: {told}"] if told else []
        return notes
