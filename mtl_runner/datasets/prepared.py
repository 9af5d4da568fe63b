"""What a run keeps of its data set, so that raw rows can be read later: one ``Prepared`` for each input stream."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

import pyarrow as pa
from torch import Tensor

from mtl_runner.batch import StreamSpec
from mtl_runner.datasets.rows.reading import Rows
from mtl_runner.errors import UserError, choices

KINDS: Mapping[str, tuple[str, str]] = {
    "recsys": ("mtl_runner.datasets.interacting.joined", "Joined"),
    "coco": ("mtl_runner.datasets.pictures.coco_preparation", "CocoPreparation"),
    "pixelwise": ("mtl_runner.datasets.maps.pixelwise", "Pixelwise"),
    "table": ("mtl_runner.datasets.rows.preparation", "Preparation"),
    "text": ("mtl_runner.datasets.words.text_preparation", "TextPreparation"),
    "conll": ("mtl_runner.datasets.words.sentences", "Sentences"),
    "images": ("mtl_runner.datasets.pictures.image_preparation", "ImagePreparation"),
}
"""Module and class by the word that a ``data.json`` has for them: a name from there is looked up here and never imported."""


class Prepared(ABC):
    """Turns raw rows of one stream into inputs and targets as training saw them. Rows are Arrow tables, whatever the data.

    Images are a column of paths, relative to the folder of the file that names them; texts a column of strings; sequences of
    words a column of lists of strings.
    """

    kind: ClassVar[str]
    stream: str
    max_errors: int | None = None
    """Rows of a file that may be passed over where they cannot be used, as in training; None: the first one stops."""

    @property
    @abstractmethod
    def stream_spec(self) -> StreamSpec:
        """What its inputs look like."""

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The columns that ``inputs`` needs."""

    @abstractmethod
    def target_columns(self, tasks: Iterable[str] | None = None) -> tuple[str, ...]:
        """The columns that ``targets`` needs for these tasks (None: all that it knows), each once."""

    @property
    @abstractmethod
    def task_names(self) -> tuple[str, ...]:
        """The tasks whose labels it can read."""

    @abstractmethod
    def batches(self, path: Path, columns: Collection[str], size: int) -> Iterator[Rows]:
        """The rows of a file in order, at most ``size`` at a time; of no rows one empty batch."""

    @abstractmethod
    def inputs(self, rows: Rows) -> dict[str, Tensor]:
        """The stream's fields.

        Raises:
            UserError: a column that is not there; with file, line and column, a cell that cannot be read.
        """

    def unusable(self, rows: Rows) -> dict[int, UserError]:
        """Rows that ``inputs`` cannot make anything of, and why; where one alone can be at fault."""
        return {}

    def context(self, rows: Rows) -> dict[str, Tensor]:
        """What metrics and predictions need beside the targets: ``user``, ``length`` …"""
        return {}

    @abstractmethod
    def targets(self, rows: Rows, tasks: Collection[str] | None = None) -> dict[str, Tensor]:
        """Labels of these tasks (None: all) as training sees them, with missing ones; raises as ``inputs``."""

    def blank(self, rows: int) -> pa.Table | None:
        """Rows of which nothing is known, which a served model is traced with; None where it cannot be asked for such data."""
        return pa.table({name: pa.nulls(rows, pa.float64()) for name in self.columns})

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, ``kind`` among them; ``from_json`` gives an equal object back."""

    @classmethod
    @abstractmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Prepared":
        """What ``to_json`` wrote."""


def together(streams: Mapping[str, Prepared]) -> dict[str, Any]:
    """Of several streams, for ``Data.preparation``."""
    return {"kind": "streams", "streams": {name: prepared.to_json() for name, prepared in streams.items()}}


def read_preparation(stored: Mapping[str, Any]) -> dict[str, Prepared]:
    """By stream, from the ``preparation`` of a ``data.json``.

    Raises:
        UserError: it is of a kind that this program does not know, or none that it wrote: a run folder may be a stranger's.
    """
    try:
        parts = stored["streams"].values() if stored.get("kind") == "streams" else [stored]
        made = [_one(part) for part in parts]
        return {prepared.stream: prepared for prepared in made}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"data.json: this program writes no such preparation ({type(error).__name__}: {error})") from None


def _one(stored: Mapping[str, Any]) -> Prepared:
    kind = stored.get("kind", "table")  # the first runs have tables alone
    if kind not in KINDS:
        raise UserError(f"this run's preparation is of a kind '{kind}'; this version of the program reads {choices(KINDS)}")
    module, name = KINDS[kind]
    return cast(type[Prepared], getattr(importlib.import_module(module), name)).from_json(stored)
