"""Images with a class, a depth or a normal at each pixel, from files."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import torch
from annotated_types import Ge
from torch import Tensor

from mtl_runner.batch import Data, Split
from mtl_runner.datasets.base import Dataset, TaskOptions, described, fingerprint, select
from mtl_runner.datasets.maps import map_files
from mtl_runner.datasets.maps.map_folders import PART, Layout
from mtl_runner.datasets.maps.map_tasks import map_tasks
from mtl_runner.datasets.maps.pixelwise import Map, Pixelwise, named_files, place
from mtl_runner.datasets.pictures.augmentation import Augmentation, Changes
from mtl_runner.datasets.rows.reading import Reading, Rows, read
from mtl_runner.datasets.skipping import OnError, Skipping
from mtl_runner.datasets.splitting import Splitting, split
from mtl_runner.datasets.stratify import Ints
from mtl_runner.errors import UserError, choices, nearest


class Dense(Dataset):
    """Pairs of an image and one map for each task.

    In folders: ``path/image/NAME.png`` and ``path/TASK/NAME.npy``, or the same inside of ``train``, ``validation`` and ``test``,
    which are the parts then. In a CSV or Parquet file: a column of image files and one of maps for each task, relative to the
    file's folder. An image without a map of a task has no labels for it; a map without an image is an error.

    Images: png, jpeg or npy ([H, W] or [H, W, channels]; 8 bits are divided by 255). Maps: png of 8 or 16 bits, or npy.

    Args:
        path: the folder, or the file that lists the files.
        tasks: by name: ``type`` (segmentation, depth, normals), ``columns`` (the folder or column; default: the name),
            ``classes`` (names or their number; default: as many as the maps have), ``ignore`` (values at pixels without a
            label; segmentation: -1 and 255), ``factor`` (depth = value · factor: 0.001 for millimetres), ``role``, ``metric``.
        image: the folder or column of the images.
        size: [height, width] that all are brought to: images by interpolation, maps by their nearest pixel. null: they have
            one size.
        only: train only these tasks.
        split: ``by`` (random; of a file also group, time, column), ``column``, ``validation`` and ``test`` (shares).
        fold: test on this one of ``folds`` parts; ``split.test`` is not used then.
        split_seed: moves the split.
        augmentation: random changes in training, ``{flip: true, shift: 0.1, crop: 0.8, brightness: 0.2, contrast: 0.2}``; see
            ``Changes``.
        on_error: stop at the first image or map that cannot be used, or skip the image.
        max_errors: how many may be skipped.
    """

    provides = frozenset({"image"})

    def __init__(
        self,
        path: str,
        tasks: dict[str, dict[str, Any] | None] | list[str],
        image: str = "image",
        size: Sequence[Annotated[int, Ge(1)]] | None = None,
        only: list[str] | None = None,
        split: dict[str, Any] | None = None,
        fold: Annotated[int, Ge(0)] | None = None,
        folds: Annotated[int, Ge(2)] = 5,
        split_seed: int = 0,
        augmentation: dict[str, Any] | None = None,
        on_error: OnError = "stop",
        max_errors: Annotated[int, Ge(0)] = 10,
        stream: str = "input",
    ) -> None:
        self.path, self.image, self.only, self.stream = Path(path).expanduser(), image, only, stream
        self.tasks = map_tasks(tasks)
        if size is not None and len(size) != 2:
            raise UserError(f"dataset.size={list(size)}: it has to be [height, width]")
        self.size = None if size is None else (size[0], size[1])
        self.splitting = Splitting.of(split or {}, fold, folds, split_seed)
        self.changes = Changes.of(augmentation)
        self.on_error, self.max_errors = on_error, max_errors

    def load(self) -> Data:
        """Read all files, split, and divide depths by their mean in the training part."""
        skipping = Skipping(self.on_error, self.max_errors)
        rows = self._rows(skipping)
        columns = {name: task.map.column for name, task in self.tasks.items()}
        for column in (self.image, *columns.values()):
            named_files(rows, column)
        most = self.max_errors if self.on_error == "skip" else None
        prepared = Pixelwise(self.image, self._shape(rows), self.size is not None, self._maps(), self.stream, most)
        images, targets, kept = _read(rows, prepared, skipping)
        parts = split(self._splitting(rows), np.zeros((len(kept), 1), np.int64), self._split_values(rows, kept))
        prepared = fitted(prepared, targets, parts["train"])
        notes = [*skipping.note("images"), *self._missing_maps(rows, kept)]
        options = {name: task.options for name, task in self.tasks.items()}
        data = pixelwise_data(prepared, images, targets, parts, options, self.only, notes, skipping.lines, kept)
        return replace(data, augmentation=Augmentation(self.changes, data.targets) if self.changes.any else None)

    def _maps(self) -> dict[str, Map]:
        return {name: task.map for name, task in self.tasks.items()}

    def _rows(self, skipping: Skipping) -> pa.Table:
        if self.path.is_dir():
            return self._layout().table(skipping)
        if not self.path.exists():
            beside = [each.name for each in self.path.parent.iterdir()] if self.path.parent.is_dir() else []
            raise UserError(f"dataset.path={self.path}: there is no such folder or file{nearest(self.path.name, beside)}")
        return read(str(self.path), Reading())

    def _layout(self) -> Layout:
        return Layout.found(self.path, self.image, [task.map.column for task in self.tasks.values()])

    def _shape(self, rows: Rows) -> tuple[int, int, int]:
        """Of the first image that can be read, at the size asked for."""
        problem = UserError(f"dataset.path={self.path}: no image is named in {self.image}")
        for path in filter(None, named_files(rows, self.image)):
            try:
                channels, height, width = map_files.picture(path).shape
            except UserError as error:
                problem = error
                if self.on_error == "stop":
                    break
            else:
                return (channels, *(self.size or (height, width)))
        raise problem

    def _splitting(self, rows: pa.Table) -> Splitting:
        """Folders of parts say which part an image is in, whatever else is asked for."""
        if self.path.is_dir() and any(rows.column(PART).to_pylist()):
            return replace(self.splitting, by="column", column=PART, fold=None)
        if self.path.is_dir() and self.splitting.column is not None:
            raise UserError(f"dataset.split.by={self.splitting.by} needs a column, and dataset.path={self.path} is a folder")
        return self.splitting

    def _split_values(self, rows: pa.Table, kept: Sequence[int]) -> list[str | None] | None:
        column = self._splitting(rows).column
        if column is None:
            return None
        if column not in rows.schema.names:
            allowed = f"{choices(rows.schema.names)}{nearest(column, rows.schema.names)}"
            raise UserError(f"dataset.split.column={column}: there is no such column; there are {allowed}")
        cells = rows.column(column).to_pylist()
        return [None if cells[row] is None else str(cells[row]) for row in kept]

    def _missing_maps(self, rows: pa.Table, kept: Sequence[int]) -> list[str]:
        notes = []
        for name, task in self.tasks.items():
            paths = named_files(rows, task.map.column)
            lost = sum(paths[row] is None for row in kept)
            if lost == len(kept):
                raise UserError(f"dataset.tasks.{name}: no image has a map in {task.map.column}")
            if lost:
                notes.append(f"{lost} of {len(kept)} images have no map for {name}: they have no labels for it")
        return notes


def _read(rows: Rows, prepared: Pixelwise, skipping: Skipping) -> tuple[Tensor, dict[str, Tensor], list[int]]:
    """Images [N, C, H, W], the targets of each task [N, H, W, …], and the rows that could be used; no depth is scaled yet."""
    images = torch.empty(rows.num_rows, *prepared.shape)
    targets = {
        name: torch.from_numpy(each.blank(*prepared.shape[1:]))
        .expand(rows.num_rows, *[-1] * (2 + (each.kind == "normals")))
        .clone()
        for name, each in prepared.tasks.items()
    }
    files = named_files(rows, prepared.image)
    beside = {name: named_files(rows, each.column) for name, each in prepared.tasks.items()}
    kept: list[int] = []
    for row, path in enumerate(files):
        try:
            image, size = prepared.sized_picture(path)
            found = {name: prepared.map(paths[row], name, size) for name, paths in beside.items() if paths[row] is not None}
        except UserError as error:
            skipping(UserError(f"{error}{place(rows, row)}"))
            continue
        images[len(kept)] = torch.from_numpy(image)
        for name, values in targets.items():
            values[len(kept)] = torch.from_numpy(found.get(name, prepared.tasks[name].blank(*prepared.shape[1:])))
        kept.append(row)
    if not kept:
        raise UserError(f"no image could be used: {skipping.lines[0]}")
    return images[: len(kept)], {name: values[: len(kept)] for name, values in targets.items()}, kept


def fitted(prepared: Pixelwise, targets: Mapping[str, Tensor], training: Ints) -> Pixelwise:
    """With the classes that there are, where nobody named them; depths are divided by their mean, in place."""
    tasks = dict(prepared.tasks)
    for name, task in prepared.tasks.items():
        if task.kind == "segmentation" and not task.classes:
            count = max(2, int(targets[name].max()) + 1)
            tasks[name] = replace(task, classes=tuple(map(str, range(count))))
        if task.kind == "depth":
            scale = _mean(targets[name], training)
            targets[name].div_(scale)
            tasks[name] = replace(task, scale=scale)
    return replace(prepared, tasks=tasks)


def _mean(depths: Tensor, training: Ints) -> float:
    """Over the labelled pixels of the training part, without a second copy of them; 1 without any."""
    rows = [depths[row] for row in training]
    count = sum(int((~row.isnan()).sum()) for row in rows)
    return sum(float(row.nansum(dtype=torch.float64)) for row in rows) / count if count else 1.0


def pixelwise_data(
    prepared: Pixelwise,
    images: Tensor,
    targets: Mapping[str, Tensor],
    parts: Mapping[str, Ints],
    options: Mapping[str, TaskOptions],
    only: Sequence[str] | None,
    notes: Sequence[str] = (),
    skipped: Sequence[str] = (),
    rows: Sequence[int] | None = None,
) -> Data:
    """The data set of all images [N, C, H, W] and targets [N, H, W, …]; ``rows`` are their positions in the source."""
    positions = torch.arange(len(images)) if rows is None else torch.tensor(rows)
    splits = {}
    for part, chosen in parts.items():
        index = torch.from_numpy(chosen)
        inputs = {prepared.stream: {"image": images[index]}}
        labels = {name: values[index] for name, values in targets.items()}
        context = {prepared.stream: {"row": positions[index]}}
        splits[part] = Split(inputs, labels, dict.fromkeys(labels, prepared.stream), {}, context)
    specs = {name: described(spec, options[name]) for name, spec in prepared.specs().items()}
    streams = {prepared.stream: prepared.stream_spec}
    data = Data(splits, streams, specs, prepared.to_json(), fingerprint(splits), tuple(notes), tuple(skipped))
    return select(data, only)
