"""What a run keeps of a data set in COCO's format."""

import json
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtl_runner.batch import MISSING, TargetSpec
from mtl_runner.datasets.pictures import boxes, masks
from mtl_runner.datasets.pictures.coco_files import BACKGROUND, Annotations, read_annotations
from mtl_runner.datasets.pictures.image_preparation import AT_ONCE, ImagePreparation
from mtl_runner.datasets.rows.preparation import require
from mtl_runner.datasets.rows.reading import Rows
from mtl_runner.datasets.skipping import Skipping
from mtl_runner.errors import UserError, choices

log = logging.getLogger(__name__)
IMAGE = "image"
Asked = Mapping[str, tuple[str, tuple[str, ...]]]
"""Of each task its type, and the categories that it is about; of keypoints, the one whose points it has."""


@dataclass(frozen=True)
class CocoPreparation(ImagePreparation):
    """Rows as ``as_table`` makes them of an annotation file; for predictions a file that names images is enough."""

    kind: ClassVar[str] = "coco"
    asked: Asked = field(default_factory=dict)
    folders: Mapping[str, str] = field(default_factory=dict)
    """Of the annotation files of the run, where their images are."""

    @property
    def masks(self) -> dict[str, tuple[str, ...]]:
        """Tasks of type segmentation, and their categories."""
        return {name: classes for name, (kind, classes) in self.asked.items() if kind == "segmentation"}

    @property
    def task_names(self) -> tuple[str, ...]:
        return (*super().task_names, *self.masks)

    def target_columns(self, tasks: Iterable[str] | None = None) -> tuple[str, ...]:
        named = self.task_names if tasks is None else tuple(tasks)
        return (*super().target_columns(name for name in named if name not in self.masks), *(n for n in named if n in self.masks))

    def specs(self) -> dict[str, TargetSpec]:
        size = (self.look.height, self.look.width)
        made = {
            name: TargetSpec("segmentation", self.stream, classes=(BACKGROUND, *classes), columns=(name,), shape=size)
            for name, classes in self.masks.items()
        }
        specs = super().specs()
        for name, (kind, _) in self.asked.items():
            if kind in ("keypoints", "multilabel"):  # columns of ``as_table`` begin with the task's name, as predictions do
                plain = tuple(column.removeprefix(f"{name}_") for column in specs[name].columns)
                specs[name] = replace(specs[name], columns=plain)
        return specs | made

    def batches(self, path: Path, columns: Collection[str], size: int) -> Iterator[Rows]:
        if path.suffix.lower() != ".json":
            yield from super().batches(path, columns, size)
            return
        table = self.located(as_table(self._read(path), self.asked, ""), path)
        most = max(1, min(size, AT_ONCE // int(np.prod(self.look.shape))))
        for start in range(0, max(table.num_rows, 1), most):
            yield table.slice(start, most)

    def path_of(self, name: str, file: Path) -> str:
        """The image of a file of the run in its folder, of another file beside it, or in the one folder of the run that has it.

        Raises:
            UserError: several have it.
        """
        if (known := self.folders.get(str(file.resolve()))) is not None:
            return os.path.join(known, name)
        own = super().path_of(name, file)
        if os.path.isfile(own):
            return own
        there = [folder for folder in dict.fromkeys(self.folders.values()) if os.path.isfile(os.path.join(folder, name))]
        if len(there) > 1:
            raise UserError(f"{file}: image {name} is not beside it, and several folders of the run have one: {choices(there)}")
        return os.path.join(there[0], name) if there else own

    def _read(self, path: Path) -> Annotations:
        skipping = Skipping("stop" if self.max_errors is None else "skip", self.max_errors or 0)
        found = read_annotations(path, skipping)
        if lines := skipping.lines:
            log.warning("%d annotations cannot be used and are passed over, the first: %s", len(lines), lines[0])
        return found

    def targets(self, rows: Rows, tasks: Collection[str] | None = None) -> dict[str, Tensor]:
        return self.labelled(rows, self.task_names if tasks is None else tasks, self.context(rows)["window"], None)

    def labelled(self, rows: Rows, tasks: Collection[str], windows: Tensor, image: Tensor | None) -> dict[str, Tensor]:
        found = super().labelled(rows, [name for name in tasks if name not in self.masks], windows, image)
        for name in tasks:
            if name in self.masks:
                found[name] = self._class_maps(rows, name, windows)
        return {name: found[name] for name in tasks}

    def _class_maps(self, rows: Rows, name: str, windows: Tensor) -> Tensor:
        require(rows, (name,))
        maps = np.full((rows.num_rows, self.look.height, self.look.width), MISSING, np.int16)
        for row, cell in enumerate(rows.column(rows.schema.get_field_index(name)).to_pylist()):
            if cell is not None:
                maps[row] = seen(_class_map(json.loads(cell)), windows[row], maps.shape[1:])
        return torch.from_numpy(maps)

    def to_json(self) -> dict[str, Any]:
        asked = {name: [kind, list(classes)] for name, (kind, classes) in self.asked.items()}
        return super().to_json() | {"asked": asked, "folders": dict(self.folders)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "CocoPreparation":
        made = super().from_json(stored)
        assert isinstance(made, CocoPreparation)
        asked = {name: (kind, tuple(classes)) for name, (kind, classes) in stored["asked"].items()}
        return replace(made, asked=asked, folders=dict(stored.get("folders") or {}))


def as_table(annotations: Annotations, asked: Asked, folder: str) -> pa.Table:
    """A row for each image: its file, boxes, coordinates of points, categories that are in it (0/1), masks as JSON."""
    images = annotations.images
    columns: dict[str, pa.Array] = {
        IMAGE: pa.array([os.path.join(folder, str(each["file_name"])) for each in images], pa.string())
    }
    for name, (kind, classes) in asked.items():
        if kind == "detection":
            columns[name] = pa.array([annotations.boxes(image, classes) for image in images], boxes.KIND)
        elif kind == "segmentation":
            columns[name] = pa.array([json.dumps(annotations.masks(image, classes)) for image in images], pa.string())
        elif kind == "keypoints":
            points = annotations.points(classes[0])
            rows = [annotations.person(image, classes[0], len(points)) for image in images]
            for place, column in enumerate(point_columns(name, points)):
                columns[column] = pa.array([row[place] for row in rows], pa.float64())
        else:
            there = [{annotations.name(each) for each in annotations.objects(image)} for image in images]
            for category in classes:
                columns[category_column(name, category)] = pa.array([str(int(category in found)) for found in there], pa.string())
    return pa.table(columns)


def point_columns(task: str, points: Sequence[str]) -> list[str]:
    """x and y of each point."""
    return [f"{task}_{point}_{axis}" for point in points for axis in "xy"]


def category_column(task: str, category: str) -> str:
    """Whether it is in the image."""
    return f"{task}_{category}"


def _class_map(stored: Mapping[str, Any]) -> NDArray[np.int16]:
    found = np.zeros((int(stored["height"]), int(stored["width"])), np.int16)
    for number, segmentation in stored["masks"]:
        found[masks.decoded(segmentation, *found.shape)] = number
    return found


def seen(values: NDArray[np.int16], window: Tensor, size: tuple[int, ...]) -> NDArray[np.int16]:
    """A class map [H, W] of a file as a window (left, top, width, height) of it shows it; no label beyond the edge."""
    left, top, width, height = window.double().tolist()
    columns = np.floor(left + (np.arange(size[1]) + 0.5) * width / size[1]).astype(np.int64)
    rows = np.floor(top + (np.arange(size[0]) + 0.5) * height / size[0]).astype(np.int64)
    inside = ((rows >= 0) & (rows < values.shape[0]))[:, None] & ((columns >= 0) & (columns < values.shape[1]))
    found = values[rows.clip(0, values.shape[0] - 1)][:, columns.clip(0, values.shape[1] - 1)]
    return np.where(inside, found, np.int16(MISSING))
