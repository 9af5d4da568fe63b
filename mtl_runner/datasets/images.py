"""A folder of images and a file of labels."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
import pyarrow as pa
import torch

from mtl_runner.batch import Data, labelled
from mtl_runner.datasets.base import TaskOptions, task_options, texts
from mtl_runner.datasets.pictures.boxes import Box, as_column, by_image, cells, classes_of
from mtl_runner.datasets.pictures.image_data import ImageDataset, ImageOptions, Stream, as_data
from mtl_runner.datasets.pictures.image_files import images_in
from mtl_runner.datasets.pictures.image_preparation import ImagePreparation
from mtl_runner.datasets.pictures.place_notes import place_notes
from mtl_runner.datasets.rows.columns import MISSING_TEXTS, categories
from mtl_runner.datasets.rows.inputs import matching
from mtl_runner.datasets.rows.labels import TYPES, Labels, read_labels
from mtl_runner.datasets.rows.notes import label_notes
from mtl_runner.datasets.rows.preparation import Preparation
from mtl_runner.datasets.rows.reading import Reading, as_read, file_notes, read, where
from mtl_runner.datasets.skipping import Skipping
from mtl_runner.datasets.splitting import split
from mtl_runner.datasets.stratify import Ints
from mtl_runner.datasets.table import with_times
from mtl_runner.errors import UserError, choices

TASK_KEYS = ("type", "columns", "role", "metric", "positive", "classes")
PLACED = ("keypoints", "detection", "reconstruction")
"""Types that are not read as the columns of a table are."""


class LabelledImages(ImageDataset):
    """Rows of a table, one for each image: what ``Images`` and the presets with files of labels have in common."""

    options: Mapping[str, TaskOptions]
    reading: Reading
    image: str = "image"
    relative: bool = False
    stream: str = "input"

    def assemble(
        self, table: pa.Table, folder: Path, place: Callable[[int], str], skipping: Skipping, notes: Sequence[str] = ()
    ) -> Data:
        """The data set of a table whose column ``image`` names files in ``folder``."""
        labels = self._labels(table)
        boxes = {name: self._found(table, name, place, skipping) for name in self._of_kind("detection")}
        for name, rows in boxes.items():
            table = _with_column(table, name, as_column(rows))
        paths = [os.path.join(folder, (name or "").strip()) for name in table.column(self.image).cast(pa.string()).to_pylist()]
        look = self.look(paths)
        images = self.read(paths, place, look, skipping)
        parts, groups = self._parts(table, labels, images.good)
        fitted, reading = {name: task.fit(parts["train"]) for name, task in labels.items()}, as_read(self.reading, table)
        prepared = ImagePreparation(
            self.image,
            look,
            Preparation((), (), fitted, reading, self.stream),
            {name: _coordinates(name, self._columns(table, name)) for name in self._of_kind("keypoints")},
            {name: self._classes(name, rows) for name, rows in boxes.items()},
            tuple(self._of_kind("reconstruction")),
            self.relative,
            self.most,
        )
        values = images.values() if prepared.pixels else None
        targets = prepared.labelled(table, list(self.options), images.windows, values)
        arrays = {name: targets[name].numpy() for name in labels}
        known = {name for name, target in targets.items() if labelled(target[torch.from_numpy(parts["train"])]).any()}
        if not known:
            raise UserError("no task has a label in the training part: there is nothing to learn from")
        said = [
            *file_notes(table),
            *notes,
            *skipping.note("images or boxes"),
            *place_notes(prepared, targets, parts, table, boxes),
        ]
        said += label_notes(labels, prepared.labels.tasks, arrays, parts) if known & set(labels) else []
        stream = Stream(images, targets, parts, prepared, groups, tuple(said))
        return as_data([stream], self.options, prepared.to_json(), self.changes, self.only, skipping.lines)

    def _of_kind(self, kind: str) -> list[str]:
        return [name for name, options in self.options.items() if options.type == kind]

    def _columns(self, table: pa.Table, name: str) -> tuple[str, ...]:
        options = self.options[name]
        place = f"dataset.tasks.{name}" if options.columns else "dataset.tasks"
        return matching(options.columns or (name,), table.schema.names, place)

    def _labels(self, table: pa.Table) -> dict[str, Labels]:
        """Of the tasks whose labels are columns of classes or numbers."""
        matching([self.image], table.schema.names, "dataset.image")
        names = [name for name, options in self.options.items() if options.type not in PLACED]
        return {name: read_labels(table, self._columns(table, name), self.options[name], self.reading.missing) for name in names}

    def _found(self, table: pa.Table, name: str, place: Callable[[int], str], skipping: Skipping) -> list[list[Box] | None]:
        """Boxes of a detection task, by row; without those that were passed over."""
        if name not in table.schema.names:
            raise UserError(
                f"dataset.tasks.{name}: where are its boxes? dataset.boxes names their file, or a column '{name}' holds them"
            )
        return cells(table.column(name), self.reading.missing, lambda row: f"{place(row)}, column '{name}'", skipping)

    def _classes(self, name: str, rows: Sequence[list[Box] | None]) -> tuple[str, ...]:
        """Of a detection task: those that the user names, else those that occur."""
        found = classes_of(rows)
        named = self.options[name].classes
        if named and (odd := [label for label in found if label not in named]):
            raise UserError(f"dataset.tasks.{name}.classes: there are boxes of class '{odd[0]}' too; named: {choices(named)}")
        if not found:
            raise UserError(f"dataset.tasks.{name}: no image has a box")
        return named or found

    def _parts(self, table: pa.Table, labels: Mapping[str, Labels], good: Ints) -> tuple[dict[str, Ints], Ints | None]:
        strata = [column for task in labels.values() for column in task.strata] or [np.zeros(table.num_rows, np.int64)]
        values = None
        if self.splitting.column is not None:
            name = matching([self.splitting.column], table.schema.names, "dataset.split.column")[0]
            spellings, positions = categories(table.column(name), self.reading.missing)
            values = np.array(spellings, dtype=object)[positions]
        parts = split(self.splitting, np.stack(strata, axis=1)[good], None if values is None else values[good])
        by_group = self.splitting.by == "group" and values is not None
        groups = np.unique(values.astype(str), return_inverse=True)[1].reshape(-1) if by_group else None  # type: ignore[union-attr]
        return {part: good[rows] for part, rows in parts.items()}, groups


class ImageTable(LabelledImages):
    """Images that a CSV-like or Parquet file names, with labels beside the names.

    Tasks are columns, as of ``dataset=table``. ``keypoints``: the columns of x and y, point by point (``columns: [nose_x,
    nose_y, …]``; patterns: ``["*_x", "*_y"]``). ``detection``: the boxes of the file ``boxes``, or of a column with the task's
    name. ``reconstruction``: the image itself.

    Args:
        path: the file of labels.
        tasks: by name, their options: ``type`` (guessed where not named, but for the three above), ``columns``, ``role``,
            ``metric``, ``positive``, ``classes`` and those of the type.
        folder: where the images are; None: the folder of ``path``.
        image: the column with the images' names.
        boxes: a file with a row for each box: the image's name, x1, y1, x2, y2 (or x, y, width, height) and, if there are
            several, the class.
        coordinates: of points and boxes: pixels of the file, or relative, 0 … 1 of width and height.
        separator, encoding, missing, names, comment, decimal: how the file of labels is written; see ``Reading``.
    """

    def __init__(
        self,
        path: str,
        tasks: dict[str, dict[str, Any] | None] | list[str],
        *,
        folder: str | None = None,
        image: str = "image",
        boxes: str | None = None,
        coordinates: Literal["pixels", "relative"] = "pixels",
        separator: str | None = None,
        encoding: str = "utf-8",
        missing: list[str] | None = None,
        names: list[str] | None = None,
        comment: str | None = None,
        decimal: Literal[".", ","] | None = None,
        stream: str = "input",
        **options: Unpack[ImageOptions],
    ) -> None:
        super().__init__(**options)
        self.path, self.folder, self.image, self.boxes, self.stream = path, folder, image, boxes, stream
        self.options = task_options(with_times(tasks), TASK_KEYS, tuple(dict.fromkeys((*TYPES, *PLACED))))
        self.relative = coordinates == "relative"
        if self.relative and self.fit != "stretch":
            raise UserError("dataset.coordinates=relative goes with dataset.fit=stretch: a window is in pixels")
        tokens = MISSING_TEXTS if missing is None else tuple(missing)
        self.reading = Reading(separator, encoding, tokens, texts(names), comment, decimal=decimal)

    def load(self) -> Data:
        """Read labels and images, split, fit on the training part."""
        table, skipping = read(self.path, self.reading), self.skipping()
        folder = Path(self.path).expanduser().parent if self.folder is None else Path(self.folder).expanduser()
        if not folder.is_dir():
            raise UserError(f"dataset.folder: there is no folder {folder}")
        matching([self.image], table.schema.names, "dataset.image")
        named = [(name or "").strip() for name in table.column(self.image).cast(pa.string()).to_pylist()]
        with_boxes = self._with_boxes(table, named, skipping)
        return self.assemble(with_boxes, folder, partial(where, table.select([])), skipping, _without_label(folder, named))

    def _with_boxes(self, table: pa.Table, named: Sequence[str], skipping: Skipping) -> pa.Table:
        """The table with a column of boxes for each detection task."""
        tasks = self._of_kind("detection")
        if self.boxes is None or not tasks:
            if self.boxes is not None:
                raise UserError("dataset.boxes: no task is of type detection")
            return table
        found = by_image(read(self.boxes, self.reading), self.image, named, self.reading, skipping)
        for name in tasks:
            if name in table.schema.names:
                raise UserError(f"dataset.boxes: {self.path} has a column '{name}' of its own; give the task another name")
            table = _with_column(table, name, found)
        return table


def _with_column(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    """The table with this column, new or in the place of its own; it remembers where it comes from."""
    place, metadata = table.schema.get_field_index(name), table.schema.metadata
    changed = table.append_column(name, column) if place < 0 else table.set_column(place, name, column)
    return changed.replace_schema_metadata(metadata)


def _coordinates(name: str, columns: Sequence[str]) -> tuple[str, ...]:
    """x, y, x, y …: by the endings ``_x`` and ``_y`` where all columns have them, else as they are named."""
    points = list(dict.fromkeys(column[:-2] for column in columns))
    pairs = tuple(f"{point}{ending}" for point in points for ending in ("_x", "_y"))
    if set(pairs) == set(columns):
        return pairs
    if all(column.endswith(("_x", "_y")) for column in columns):
        lost = [column for column in pairs if column not in columns]
        raise UserError(f"dataset.tasks.{name}.columns: {choices(columns)} are no whole points: without {choices(lost)}")
    if len(columns) % 2:
        raise UserError(f"dataset.tasks.{name}: {len(columns)} columns are no pairs of x and y: {choices(columns)}")
    return tuple(columns)


def _without_label(folder: Path, named: Sequence[str]) -> list[str]:
    """A line on image files that no row names, in the folders of those that one does."""
    known = {os.path.normpath(os.path.join(folder, name)) for name in named}
    folders = sorted({os.path.dirname(path) for path in known})
    others = [path for path in images_in(folders) if os.path.normpath(path) not in known]
    names = choices([os.path.basename(path) for path in others], 3)
    return [f"{len(others)} images have no label and are not used: {names}"] if others else []
