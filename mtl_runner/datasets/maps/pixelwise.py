"""From the names of an image and its maps to tensors: what a run keeps of data with a value at each pixel."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from mtl_runner.batch import MISSING, StreamSpec, TargetSpec
from mtl_runner.datasets.maps import map_files
from mtl_runner.datasets.prepared import Prepared
from mtl_runner.datasets.rows.reading import Reading, Rows, folders, read_batches, where
from mtl_runner.errors import UserError, nearest

AT_ONCE = 64
"""Images that are read together for predictions, whatever the number of rows that was asked for."""
IGNORED: Mapping[str, tuple[float, ...]] = {"segmentation": (-1.0, 255.0), "depth": (), "normals": ()}
"""By kind the values of a map at pixels without a label, where the user names none."""


@dataclass(frozen=True)
class Map:
    """How a task's labels are read from a map."""

    kind: str
    column: str
    classes: tuple[str, ...] = ()
    ignore: tuple[float, ...] = ()
    factor: float = 1.0
    """Depth in the user's unit = value in the file · factor."""
    scale: float = 1.0
    """Depth in the user's unit = target · scale: the mean depth of the training part."""

    def read(self, path: Path) -> map_files.Array:
        """[H, W] or [H, W, 3], with missing labels; depths in the user's unit. Raises ``UserError`` with the file."""
        if self.kind == "segmentation":
            return map_files.class_map(path, len(self.classes) or None, [int(value) for value in self.ignore])
        if self.kind == "depth":
            return map_files.depth_map(path, self.factor, self.ignore)
        return map_files.normal_map(path)

    def blank(self, height: int, width: int) -> map_files.Array:
        """Without any label."""
        if self.kind == "segmentation":
            return np.full((height, width), MISSING, np.int16)
        return np.full((height, width, 3) if self.kind == "normals" else (height, width), np.nan, np.float32)

    def spec(self, stream: str, height: int, width: int) -> TargetSpec:
        """The description that models and metrics use."""
        scale = (self.scale,) if self.kind == "depth" else ()
        center = (0.0,) if self.kind == "depth" else ()
        shape = (height, width, 3) if self.kind == "normals" else (height, width)
        return TargetSpec(self.kind, stream, "main", self.classes, (self.column,), shape, center, scale)


@dataclass(frozen=True)
class Pixelwise(Prepared):
    """Rows name a file with an image and, for each task, one with a map; an empty cell is a map without labels."""

    kind: ClassVar[str] = "pixelwise"
    image: str
    """The column of images."""
    shape: tuple[int, int, int]
    """Channels, height and width of each image as the model sees it."""
    resize: bool = False
    """Whether files of another height and width are brought to it, or refused."""
    tasks: Mapping[str, Map] = field(default_factory=dict)
    stream: str = "input"
    max_errors: int | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.image,)

    def target_columns(self, tasks: Iterable[str] | None = None) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.tasks[name].column for name in (self.tasks if tasks is None else tasks)))

    @property
    def task_names(self) -> tuple[str, ...]:
        return tuple(self.tasks)

    @property
    def stream_spec(self) -> StreamSpec:
        """What inputs look like."""
        return StreamSpec({"image": self.shape})

    def specs(self) -> dict[str, TargetSpec]:
        """By task."""
        return {name: each.spec(self.stream, *self.shape[1:]) for name, each in self.tasks.items()}

    def batches(self, path: Path, columns: Collection[str], size: int) -> Iterator[Rows]:
        some = False
        for rows in read_batches(path, tuple(columns), min(size, AT_ONCE), Reading()):
            some = True
            yield rows
        if not some:
            yield pa.table({name: pa.nulls(0, pa.string()) for name in columns})

    def inputs(self, rows: Rows) -> dict[str, Tensor]:
        images = [self._located(rows, row, self.picture, path) for row, path in enumerate(named_files(rows, self.image))]
        return {"image": torch.from_numpy(np.stack(images)) if images else torch.zeros(0, *self.shape)}

    def targets(self, rows: Rows, tasks: Collection[str] | None = None) -> dict[str, Tensor]:
        found = {}
        for name in self.tasks if tasks is None else tasks:
            paths = named_files(rows, self.tasks[name].column)
            each = [self._located(rows, row, self.map, path, name) for row, path in enumerate(paths)]
            found[name] = torch.from_numpy(np.stack([*each, self.map(None, name)])[: len(each)])
        return found

    def unusable(self, rows: Rows) -> dict[int, UserError]:
        """Rows whose image cannot be used, or one of the maps that the rows name."""
        maps = {name: named_files(rows, each.column) for name, each in self.tasks.items() if each.column in rows.schema.names}
        found = {}
        for row, path in enumerate(named_files(rows, self.image)):
            try:
                self.picture(path)
                for name, paths in maps.items():
                    self.map(paths[row], name)
            except UserError as error:
                found[row] = UserError(f"{error}{place(rows, row)}")
        return found

    def _located(self, rows: Rows, row: int, read: Callable[..., map_files.Array], *arguments: Any) -> map_files.Array:
        try:
            return read(*arguments)
        except UserError as error:
            raise UserError(f"{error}{place(rows, row)}") from None

    def picture(self, path: Path | None) -> map_files.Array:
        """The image [C, H, W]; see ``sized_picture``."""
        return self.sized_picture(path)[0]

    def sized_picture(self, path: Path | None) -> tuple[map_files.Array, tuple[int, ...]]:
        """The image [C, H, W], and height and width of it in the file.

        Raises:
            UserError: it cannot be read, or is not like those of the training part; with the file.
        """
        if path is None:
            raise UserError("no image is named")
        values = map_files.picture(path)
        channels, height, width = self.shape
        if len(values) != channels:
            raise UserError(f"{path}: {len(values)} channels; those of the training part have {channels}")
        self._check_size(path, values.shape[1:])
        return map_files.resized(values, height, width), values.shape[1:]

    def map(self, path: Path | None, name: str, of: tuple[int, ...] | None = None) -> map_files.Array:
        """The target of the task ``name``, depths divided by their scale; ``of`` is the height and width of its image's file.

        Raises:
            UserError: it cannot be read, or has another size; with the file.
        """
        task, (height, width) = self.tasks[name], self.shape[1:]
        if path is None:
            return task.blank(height, width)
        values = task.read(path)
        if of is not None and values.shape[:2] != of:
            raise UserError(f"{path}: a map of {_by(values.shape[:2])} pixels for an image of {_by(of)}")
        self._check_size(path, values.shape[:2])
        values = map_files.nearest(values, height, width)
        return values / np.float32(task.scale) if task.kind == "depth" else values

    def _check_size(self, path: Path, size: tuple[int, ...]) -> None:
        if size != self.shape[1:] and not self.resize:
            height, width = self.shape[1:]
            brings = f"dataset.size=[{height},{width}] brings all files to one size"
            raise UserError(f"{path}: {_by(size)} pixels, where {height} × {width} are expected; {brings}")

    def blank(self, rows: int) -> pa.Table | None:
        return None

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, **asdict(self)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Pixelwise":
        tasks = {
            name: Map(**{**each, "classes": tuple(each["classes"]), "ignore": tuple(each["ignore"])})
            for name, each in stored["tasks"].items()
        }
        channels, height, width = stored["shape"]
        shape, most = (channels, height, width), stored.get("max_errors")  # the first runs have none
        return cls(stored["image"], shape, stored["resize"], tasks, stored["stream"], most)


def named_files(rows: Rows, column: str) -> list[Path | None]:
    """Of each row the file that it names, relative to the folder of the file that the row is from; None for an empty cell."""
    if column not in rows.schema.names:
        raise UserError(f"{where(rows)} has no column '{column}'{nearest(column, rows.schema.names)}")
    cells = [str(cell or "").strip() for cell in rows.column(column).to_pylist()]
    return [folder / cell if cell else None for folder, cell in zip(folders(rows), cells, strict=True)]


def place(rows: Rows, row: int) -> str:
    """Where a row is from, in brackets; nothing where it is from no file."""
    said = where(rows, row)
    return "" if said.startswith("row ") else f" ({said})"


def _by(size: tuple[int, ...]) -> str:
    return " × ".join(map(str, size))
