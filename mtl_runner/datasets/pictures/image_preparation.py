"""From the path of an image and its labels to tensors: what a run keeps of a data set of images."""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from mtl_runner.batch import StreamSpec, TargetSpec
from mtl_runner.datasets.pictures.boxes import as_targets, cells
from mtl_runner.datasets.pictures.image_files import BadImageError, Look, Result, attempts, decoded, size_of
from mtl_runner.datasets.prepared import Prepared
from mtl_runner.datasets.rows.preparation import Preparation, read_numbers, require
from mtl_runner.datasets.rows.reading import Rows, read_batches, where
from mtl_runner.errors import UserError
from mtl_runner.geometry import to_window

AT_ONCE = 1 << 24
"""Numbers of images that are in memory at once when a file of paths is predicted."""


@dataclass(frozen=True)
class ImagePreparation(Prepared):
    """A column of paths to images, and columns of labels: of the image, of points in it, of boxes."""

    kind: ClassVar[str] = "images"
    image: str
    look: Look
    labels: Preparation
    """Of the tasks whose labels are classes or numbers of the image."""
    points: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By task of type keypoints: its columns x, y, x, y …"""
    boxes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By task of type detection, its classes; its column has its name."""
    pixels: tuple[str, ...] = ()
    """Tasks of type reconstruction."""
    relative: bool = False
    """Whether coordinates are shares of width and height, and not pixels."""
    max_errors: int | None = None

    @property
    def stream(self) -> str:  # type: ignore[override]
        return self.labels.stream

    @property
    def stream_spec(self) -> StreamSpec:
        """Of the one field that there is."""
        return StreamSpec({"image": self.look.shape})

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.image,)

    @property
    def task_names(self) -> tuple[str, ...]:
        return (*self.labels.tasks, *self.points, *self.boxes, *self.pixels)

    def target_columns(self, tasks: Iterable[str] | None = None) -> tuple[str, ...]:
        named = self.task_names if tasks is None else tuple(tasks)
        found = list(self.labels.target_columns([name for name in named if name in self.labels.tasks]))
        found += [column for name in named for column in self.points.get(name, ())]
        found += [name for name in named if name in self.boxes]
        return tuple(dict.fromkeys(found))

    def specs(self) -> dict[str, TargetSpec]:
        """What the tasks predict."""
        stream, found = self.stream, {name: target.spec(self.labels.stream) for name, target in self.labels.tasks.items()}
        for name, columns in self.points.items():
            found[name] = TargetSpec("keypoints", stream, columns=columns, shape=(len(columns) // 2, 2))
        for name, classes in self.boxes.items():
            found[name] = TargetSpec("detection", stream, columns=classes, shape=(5,))
        channels, height, width = self.look.shape
        places = [f"{c}_{y}_{x}" for c in range(channels) for y in range(height) for x in range(width)] if self.pixels else ()
        for name in self.pixels:
            zeros, ones = (0.0,) * len(places), (1.0,) * len(places)
            found[name] = TargetSpec("reconstruction", stream, "main", (), tuple(places), (len(places),), zeros, ones)
        return found

    def batches(self, path: Path, columns: Collection[str], size: int) -> Iterator[Rows]:
        """Paths are relative to the folder of the file; few rows at once, as images are large."""
        most = max(1, min(size, AT_ONCE // int(np.prod(self.look.shape))))
        some = False
        for rows in read_batches(path, tuple(columns), most, self.labels.reading):
            some = True
            yield self.located(rows, path)
        if not some:
            yield pa.table({name: pa.nulls(0, pa.string()) for name in columns})

    def located(self, rows: Rows, file: Path) -> Rows:
        """The rows of ``file`` with the places of their images."""
        require(rows, self.columns)
        place = rows.schema.get_field_index(self.image)
        names = rows.column(place).cast(pa.string()).to_pylist()
        paths = pa.array([None if name is None else self.path_of(name.strip(), file) for name in names], pa.string())
        return rows.set_column(place, self.image, paths)

    def path_of(self, name: str, file: Path) -> str:
        """Where the image is that ``file`` names."""
        return os.path.join(file.parent, name)

    def inputs(self, rows: Rows) -> dict[str, Tensor]:
        pixels = [pixels for pixels, _ in self._each(rows, lambda path: decoded(path, self.look))]
        stacked = np.stack(pixels) if pixels else np.zeros((0, *self.look.shape), np.uint8)
        return {"image": torch.from_numpy(stacked).float().div_(255)}

    def context(self, rows: Rows) -> dict[str, Tensor]:
        """``window`` [N, 4]: of each image, what the network sees."""
        windows = [self.look.window(*size) for size in self._each(rows, size_of)]
        return {"window": torch.tensor(windows, dtype=torch.float32).view(-1, 4)}

    def unusable(self, rows: Rows) -> dict[int, UserError]:
        found = enumerate(self._attempts(rows, lambda path: len(decoded(path, self.look))))
        return {row: each for row, each in found if isinstance(each, UserError)}

    def _each(self, rows: Rows, function: Callable[[str], Result]) -> Iterator[Result]:
        for found in self._attempts(rows, function):
            if isinstance(found, UserError):
                raise found
            yield found

    def _attempts(self, rows: Rows, function: Callable[[str], Result]) -> Iterator[Result | UserError]:
        """The function of each row's image, or what is wrong with the row."""
        require(rows, self.columns)
        paths = rows.column(rows.schema.get_field_index(self.image)).cast(pa.string()).to_pylist()
        for row, found in enumerate(attempts(function, [path or "" for path in paths])):
            if not paths[row]:
                yield UserError(f"{where(rows, row)}: column '{self.image}' names no image")
            elif isinstance(found, BadImageError):
                yield UserError(f"{where(rows, row)}: image {paths[row]} {found}")
            else:
                yield found

    def targets(self, rows: Rows, tasks: Collection[str] | None = None) -> dict[str, Tensor]:
        named = self.task_names if tasks is None else list(tasks)
        placed = [name for name in named if name in self.points or name in self.boxes]
        windows = self.context(rows)["window"] if placed else torch.zeros(rows.num_rows, 4)
        image = self.inputs(rows)["image"].flatten(1) if any(name in self.pixels for name in named) else None
        return self.labelled(rows, named, windows, image)

    def labelled(self, rows: Rows, tasks: Collection[str], windows: Tensor, image: Tensor | None) -> dict[str, Tensor]:
        """The labels, for windows [N, 4] and, where a reconstruction is among them, values [N, P] of the images."""
        found = self.labels.targets(rows, [name for name in tasks if name in self.labels.tasks])
        for name in tasks:
            if name in self.points:
                found[name] = self._points(rows, self.points[name], windows)
            elif name in self.boxes:
                found[name] = self._boxes(rows, name, windows)
            elif name in self.pixels and image is not None:
                found[name] = image
        return {name: found[name] for name in tasks}

    def _points(self, rows: Rows, columns: tuple[str, ...], windows: Tensor) -> Tensor:
        require(rows, columns)
        values = np.stack([read_numbers(rows, column, self.labels.reading.missing) for column in columns], 1)
        points = torch.from_numpy(values).view(len(values), len(columns) // 2, 2)
        points = points.masked_fill(points.isnan().any(-1, keepdim=True), torch.nan)
        return self._in_window(points, windows).float()

    def _in_window(self, points: Tensor, windows: Tensor) -> Tensor:
        return points if self.relative else to_window(points, windows.double())

    def _boxes(self, rows: Rows, name: str, windows: Tensor) -> Tensor:
        require(rows, (name,))
        column = rows.column(rows.schema.get_field_index(name))
        found = cells(column, self.labels.reading.missing, lambda row: where(rows, row))
        whole = torch.tensor([0.0, 0, 1, 1]).expand(len(found), 4)
        classes = {label: place for place, label in enumerate(self.boxes[name])}
        return as_targets(found, whole if self.relative else windows, classes)

    def blank(self, rows: int) -> None:
        """A served model cannot be traced with images that are not there."""

    def to_json(self) -> dict[str, Any]:
        plain = {
            "image": self.image,
            "look": asdict(self.look),
            "labels": self.labels.to_json(),
            "points": {name: list(columns) for name, columns in self.points.items()},
            "boxes": {name: list(classes) for name, classes in self.boxes.items()},
            "pixels": list(self.pixels),
            "relative": self.relative,
            "max_errors": self.max_errors,
        }
        return {"kind": self.kind, **plain}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "ImagePreparation":
        return cls(
            stored["image"],
            Look(**stored["look"]),
            Preparation.from_json(stored["labels"]),
            {name: tuple(columns) for name, columns in stored["points"].items()},
            {name: tuple(classes) for name, classes in stored["boxes"].items()},
            tuple(stored["pixels"]),
            stored["relative"],
            stored.get("max_errors"),
        )
