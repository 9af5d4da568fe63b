"""Images with annotations in COCO's format."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pyarrow as pa
from torch import Tensor

from mtl_runner.batch import Data
from mtl_runner.datasets.base import TaskOptions, Tasks, known, task_options
from mtl_runner.datasets.pictures.coco_files import Annotations, read_annotations
from mtl_runner.datasets.pictures.coco_preparation import IMAGE, Asked, CocoPreparation, as_table, category_column, point_columns
from mtl_runner.datasets.pictures.image_data import ImageDataset, ImageOptions, Stream, as_data
from mtl_runner.datasets.rows.labels import read_labels
from mtl_runner.datasets.rows.preparation import Preparation
from mtl_runner.datasets.splitting import split
from mtl_runner.errors import UserError, choices

KINDS = ("detection", "segmentation", "keypoints", "multilabel")


class Coco(ImageDataset):
    """Boxes, masks, key points, and what is in an image, from one annotation file (Lin et al., ECCV 2014), or one for each part.

    ``detection``: a box around each object. ``segmentation``: the category at each pixel, or ``background``; polygons and run
    lengths, of which the smaller object covers the larger. ``keypoints``: of the object with the largest area that has any.
    ``multilabel``: which categories are in the image. Crowds are no objects; their pixels have no label.

    Args:
        path: the JSON file with the lists images, annotations and categories.
        tasks: by name: ``type``, ``classes`` (categories; default: all; of keypoints the one whose points they are), ``role``,
            ``metric`` and the options of the type.
        folder: where the images are; null: the folder of ``path``.
        test_path: annotations of the test part; the split then divides the images of ``path``.
        test_folder: where its images are; null: the folder of ``test_path``.
    """

    def __init__(
        self,
        path: str,
        tasks: dict[str, dict[str, Any] | None],
        *,
        folder: str | None = None,
        test_path: str | None = None,
        test_folder: str | None = None,
        stream: str = "input",
        **options: Unpack[ImageOptions],
    ) -> None:
        super().__init__(**options)
        self.files = [(path, folder)] + ([] if test_path is None else [(test_path, test_folder)])
        self.options, self.stream = _options(tasks), stream
        if self.splitting.column is not None:
            raise UserError(f"dataset.split.by={self.splitting.by}: annotations have no columns; allowed: random")

    def load(self) -> Data:
        """Read annotations and images, split."""
        skipping = self.skipping()
        read = [read_annotations(path, skipping) for path, _ in self.files]
        for other in read[1:]:
            if other.classes != read[0].classes:
                raise UserError(f"{read[0].path} and {other.path} have different categories")
        asked = {name: (str(each.type), _about(each, read[0])) for name, each in self.options.items()}
        folders = [str(Path(folder or Path(path).parent).expanduser()) for path, folder in self.files]
        table = pa.concat_tables([as_table(each, asked, folder) for each, folder in zip(read, folders, strict=True)])
        paths = table.column(IMAGE).to_pylist()
        if not paths:
            raise UserError(f"{read[0].path} lists no images")
        place = _places(read)
        look = self.look(paths)
        images = self.read(paths, place, look, skipping)
        tested = None if len(read) == 1 else np.flatnonzero(images.good >= len(read[0].images))
        parts = split(self.splitting, np.zeros((len(images.good), 1), np.int64), None, tested)
        parts = {part: images.good[rows] for part, rows in parts.items()}
        places = {str(each.path.resolve()): str(Path(folder).resolve()) for each, folder in zip(read, folders, strict=True)}
        prepared = replace(self._prepared(table, asked, read[0], look, parts), folders=places)
        targets = prepared.labelled(table, list(self.options), images.windows, None)
        notes = [*skipping.note("images or annotations"), *_without(prepared.masks, targets)]
        stream = Stream(images, targets, parts, prepared, None, tuple(notes))
        return as_data([stream], self.options, prepared.to_json(), self.changes, self.only, skipping.lines)

    def _prepared(
        self, table: pa.Table, asked: Asked, first: Annotations, look: Any, parts: Mapping[str, Any]
    ) -> CocoPreparation:
        fitted, points, boxes = {}, {}, {}
        for name, (kind, classes) in asked.items():
            if kind == "multilabel":
                columns = tuple(category_column(name, category) for category in classes)
                options = replace(self.options[name], columns=columns, classes=(), positive=("1",))
                fitted[name] = read_labels(table, columns, options, ()).fit(parts["train"])
            elif kind == "keypoints":
                points[name] = tuple(point_columns(name, first.points(classes[0])))
            elif kind == "detection":
                boxes[name] = classes
        labels = Preparation((), (), fitted, stream=self.stream)
        return CocoPreparation(IMAGE, look, labels, points, boxes, max_errors=self.most, asked=asked)


def _options(tasks: Tasks) -> dict[str, TaskOptions]:
    if not isinstance(tasks, Mapping):
        raise UserError(f"dataset.tasks={list(tasks)}: the type of each is needed, as in {{boxes: {{type: detection}}}}")
    found = task_options(tasks, ("type", "role", "metric", "classes"), KINDS)
    for name, options in found.items():
        if options.type is None:
            raise UserError(f"dataset.tasks.{name}.type is missing; allowed: {choices(KINDS)}")
    return found


def _about(options: TaskOptions, annotations: Annotations) -> tuple[str, ...]:
    """The categories of a task, in the order of the file."""
    for category in options.classes:
        known(category, annotations.classes, f"dataset.tasks.{options.name}.classes: category")
    if options.type == "keypoints":
        if len(options.classes) > 1:
            raise UserError(f"dataset.tasks.{options.name}.classes={list(options.classes)}: key points are of one category")
        annotations.points(options.classes[0] if options.classes else None)
        having = [str(each["name"]) for each in annotations.categories.values() if each.get("keypoints")]
        return options.classes or (having[0],)
    return tuple(name for name in annotations.classes if not options.classes or name in options.classes)


def _places(read: Sequence[Annotations]) -> Callable[[int], str]:
    """Where a row is from, for messages."""

    def place(row: int) -> str:
        for each in read:
            if row < len(each.images):
                return f"{each.path}, image {each.images[row].get('id')}"
            row -= len(each.images)
        return f"row {row}"

    return place


def _without(masks: Mapping[str, Any], targets: Mapping[str, Tensor]) -> list[str]:
    empty = {name: int((targets[name] <= 0).flatten(1).all(1).sum()) for name in masks}
    return [f"task {name}: {count} images have no mask, all of them is background" for name, count in empty.items() if count]
