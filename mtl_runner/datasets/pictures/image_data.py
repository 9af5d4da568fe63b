"""What all data sets of images share: how images are read and kept, the tasks on them, and the way to ``Data``."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypedDict

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from mtl_runner.batch import Data, Split
from mtl_runner.datasets.base import Dataset, TaskOptions, described, select
from mtl_runner.datasets.pictures.augmentation import Augmentation, Changes
from mtl_runner.datasets.pictures.image_fields import Cache, Files, HeldImages, ImageFiles, chosen_cache, held
from mtl_runner.datasets.pictures.image_files import BadImageError, Fit, Look, Window, attempts, decoded, size_of
from mtl_runner.datasets.pictures.image_preparation import ImagePreparation
from mtl_runner.datasets.skipping import OnError, Skipping
from mtl_runner.datasets.splitting import Splitting
from mtl_runner.datasets.stratify import Ints
from mtl_runner.errors import UserError

Field = Tensor | HeldImages | ImageFiles
Place = Callable[[int], str]
"""``file, line`` of a row, for messages."""
CHANNELS = (1, 3)


class ImageOptions(TypedDict, total=False):
    """Keys of every data set of images."""

    only: list[str] | None
    size: int | list[int] | None
    channels: int
    fit: Fit
    cache: Cache
    workers: Annotated[int, Ge(0)] | None
    augmentation: dict[str, Any] | None
    on_error: OnError
    max_errors: Annotated[int, Ge(0)]
    split: dict[str, Any] | None
    fold: Annotated[int, Ge(0)] | None
    folds: Annotated[int, Ge(2)]
    split_seed: int


class ImageDataset(Dataset):
    """Images in files.

    Args:
        only: train only these tasks; images and parts stay the same.
        size: height and width that images get, ``[64, 48]``, or one number for both; None: all have the size of the first.
        channels: 3 (colour) or 1 (grey).
        fit: stretch (the whole image, whatever its proportions), crop (what fits, from the middle) or pad (with black).
        cache: where images wait: device (decoded, where the model runs), host (decoded, in main memory) or none (decoded again
            each time, by worker processes that look ahead); auto: the first of them that has room.
        workers: processes that decode with ``cache=none``; 0: the training process does; None: one fewer than there are
            processors, at most 8.
        augmentation: ``{flip: true, shift: 0.1, crop: 0.8, brightness: 0.2, contrast: 0.2}`` in training; see ``Changes``.
        on_error: stop at the first image or label that cannot be used, or skip up to ``max_errors`` of them.
        split: ``by`` (random, group, time, column), ``column``, ``validation`` and ``test`` (shares).
        fold: test on this one of ``folds`` parts; ``split.test`` is not used then.
        split_seed: moves the split.
    """

    provides = frozenset({"image"})

    def __init__(
        self,
        *,
        only: list[str] | None = None,
        size: int | list[int] | None = None,
        channels: int = 3,
        fit: Fit = "stretch",
        cache: Cache = "auto",
        workers: Annotated[int, Ge(0)] | None = None,
        augmentation: dict[str, Any] | None = None,
        on_error: OnError = "stop",
        max_errors: Annotated[int, Ge(0)] = 10,
        split: dict[str, Any] | None = None,
        fold: Annotated[int, Ge(0)] | None = None,
        folds: Annotated[int, Ge(2)] = 5,
        split_seed: int = 0,
    ) -> None:
        self.only, self.size, self.channels, self.fit = only, _size(size), channels, fit
        if channels not in CHANNELS:
            raise UserError(f"dataset.channels={channels}: allowed are 1 (grey) and 3 (colour)")
        self.cache, self.workers = cache, workers
        self.changes = Changes.of(augmentation)
        self.on_error, self.max_errors = on_error, max_errors
        self.splitting = Splitting.of(split or {}, fold, folds, split_seed)

    def skipping(self) -> Skipping:
        """What is done about errors in one pass over the data."""
        return Skipping(self.on_error, self.max_errors)

    @property
    def most(self) -> int | None:
        """Errors that are passed over; None: the first one stops."""
        return self.max_errors if self.on_error == "skip" else None

    def look(self, paths: Sequence[str]) -> Look:
        """What the images become; where no size was asked for, the size of the first that can be read."""
        if self.size is not None:
            return Look(self.channels, *self.size, self.fit)
        for found in attempts(size_of, paths[:100]):
            if not isinstance(found, BadImageError):
                return Look(self.channels, found[1], found[0], self.fit)
        raise UserError(f"none of the first {len(paths[:100])} images can be read, {paths[0]} for example")

    def read(self, paths: Sequence[str], place: Place, look: Look, skipping: Skipping) -> "Images":
        """All images, where they are to wait, and which of them can be used."""
        cache, note = chosen_cache(self.cache, len(paths), look)
        header = cache == "none" and self.on_error == "stop"  # which rows can be used shows only when all are decoded
        pixels = None if cache == "none" else np.zeros((len(paths), *look.shape), np.uint8)
        windows, good = np.ones((len(paths), 4), np.float32), np.zeros(len(paths), bool)

        def seen(path: str) -> tuple[Any, Window, tuple[int, int]]:
            size = size_of(path)
            return (None, look.window(*size), size) if header else (*decoded(path, look), size)

        for row, found in enumerate(attempts(seen, paths)):
            problem = str(found) if isinstance(found, BadImageError) else self._size_problem(found[2], look)
            if problem is not None:
                skipping(UserError(f"{place(row)}: image {paths[row]} {problem}"))
            elif not isinstance(found, BadImageError):
                windows[row], good[row] = found[1], True
                if pixels is not None:
                    pixels[row] = found[0]
        if not good.any():
            raise UserError(f"none of {len(paths)} images can be used")
        workers = min(8, max(1, (os.cpu_count() or 2) - 1)) if self.workers is None else self.workers
        field: Field = (
            ImageFiles(Files(list(paths), place, look, workers), torch.arange(len(paths)))
            if pixels is None
            else held(pixels, cache)
        )
        return Images(field, torch.from_numpy(windows), np.flatnonzero(good), _digest(paths), (note,))

    def _size_problem(self, size: tuple[int, int], look: Look) -> str | None:
        if self.size is not None or size == (look.width, look.height):
            return None
        found = f"is {size[0]} × {size[1]} pixels, the first one {look.width} × {look.height}"
        return f"{found}; dataset.size=[{look.height},{look.width}] resizes all"


@dataclass(frozen=True)
class Images:
    """All images of one stream."""

    field: Field
    """[N, C, H, W]."""
    windows: Tensor
    """[N, 4]: what each shows of its file."""
    good: Ints
    """Rows that can be used."""
    digest: str
    """Of the files' names and sizes, or of the pixels."""
    notes: tuple[str, ...] = ()

    def values(self) -> Tensor:
        """[N, C · H · W], for reconstruction.

        Raises:
            UserError: the images are not where their values can be kept.
        """
        if not isinstance(self.field, Tensor):
            raise UserError(
                "reconstruction needs images that are in memory as numbers: dataset.cache=device, and up to 1 GB of them"
            )
        return self.field.flatten(1)


@dataclass(frozen=True)
class Stream:
    """The rows of one stream, ready to be divided."""

    images: Images
    targets: Mapping[str, Tensor]
    """By task, [N, …]."""
    parts: Mapping[str, Ints]
    """Rows of each part."""
    preparation: ImagePreparation
    groups: Ints | None = None
    notes: Sequence[str] = field(default_factory=tuple)

    def split(self, part: str) -> Split:
        """One part."""
        name, rows = self.preparation.stream, torch.from_numpy(np.ascontiguousarray(self.parts[part]))
        context = {"row": rows, "window": self.images.windows[rows]}
        if self.groups is not None:
            context["group"] = torch.from_numpy(self.groups)[rows]
        return Split(
            {name: {"image": self.images.field[rows]}},  # type: ignore[dict-item]
            {task: target[rows] for task, target in self.targets.items()},
            dict.fromkeys(self.targets, name),
            {},
            {name: context},
        )


def as_data(
    streams: Sequence[Stream],
    options: Mapping[str, TaskOptions],
    preparation: Mapping[str, Any],
    changes: Changes,
    only: Sequence[str] | None,
    skipped: Sequence[str] = (),
    said: Sequence[str] = (),
) -> Data:
    """The data set of one or several streams."""
    splits = {part: _merged([stream.split(part) for stream in streams]) for part in ("train", "validation", "test")}
    specs = {name: spec for stream in streams for name, spec in stream.preparation.specs().items()}
    targets = {name: described(specs[name], options[name]) for name in options}
    notes = tuple(
        dict.fromkeys(note for stream in streams for note in (*stream.images.notes, *stream.notes)) | dict.fromkeys(said)
    )
    augmentation = Augmentation(changes, targets) if changes.any else None
    stream_specs = {stream.preparation.stream: stream.preparation.stream_spec for stream in streams}
    data = Data(splits, stream_specs, targets, preparation, _fingerprint(streams, splits), notes, tuple(skipped), augmentation)
    return select(data, only)


def _merged(splits: Sequence[Split]) -> Split:
    def of(values: Callable[[Split], Mapping[str, Any]]) -> dict[str, Any]:
        return {name: value for split in splits for name, value in values(split).items()}

    inputs, targets = of(lambda split: split.inputs), of(lambda split: split.targets)
    return Split(inputs, targets, of(lambda split: split.streams), {}, of(lambda split: split.context))


def _fingerprint(streams: Sequence[Stream], splits: Mapping[str, Split]) -> str:
    """Of all labels, parts and images; wherever the images wait."""
    digest = hashlib.blake2b(digest_size=8)
    for stream in streams:
        digest.update(f"{stream.preparation.stream} {stream.images.digest} {stream.preparation.look}".encode())
    for part, split in splits.items():
        digest.update(part.encode())
        for name, tensor in (*split.targets.items(), *((name, fields["row"]) for name, fields in split.context.items())):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(np.ascontiguousarray(tensor.numpy()).tobytes())
    return digest.hexdigest()


def _digest(paths: Sequence[str]) -> str:
    """Of the files' own names and their sizes in bytes: they may lie in another folder, and not all of them are read."""
    digest = hashlib.blake2b(digest_size=8)
    for path in paths:
        size = os.stat(path).st_size if os.path.isfile(path) else -1
        digest.update(f"{os.path.basename(path)} {size}\n".encode())
    return digest.hexdigest()


def _size(size: int | list[int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    sides = [size, size] if isinstance(size, int) else list(size)
    if len(sides) != 2 or any(isinstance(side, bool) or side < 1 for side in sides):
        raise UserError(f"dataset.size={size}: a number of pixels, or two: [height,width]")
    return sides[0], sides[1]
