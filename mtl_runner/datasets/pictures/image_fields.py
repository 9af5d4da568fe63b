"""Where images wait for their batch: on the device, in main memory, or in their files."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mtl_runner.datasets.pictures.image_files import BadImageError, Look, Pixels, decoded
from mtl_runner.errors import UserError
from mtl_runner.fetching import Stored

Cache = Literal["auto", "device", "host", "none"]
PLAIN = 1 << 30
"""Bytes up to which images on the device are kept as the numbers that the model reads; as a quarter of it above."""


class HeldImages(Stored):
    """[N, C, H, W], 0 … 1, from bytes in main memory or on the device."""

    def __init__(self, pixels: Tensor, on_device: bool, device: torch.device | str = "cpu") -> None:
        self.pixels, self.on_device, self.device = pixels, on_device, torch.device(device)

    @property
    def shape(self) -> torch.Size:
        return self.pixels.shape

    def __getitem__(self, rows: slice | Tensor) -> Self:
        if isinstance(rows, Tensor):
            return self._with(self.pixels.index_select(0, rows.to(self.pixels.device)))
        return self._with(self.pixels[rows])

    def _with(self, pixels: Tensor) -> Self:
        return type(self)(pixels, self.on_device, self.device)

    def to(self, device: torch.device | str) -> Self:
        return type(self)(self.pixels.to(device) if self.on_device else self.pixels, self.on_device, device)

    def same_as(self, other: object) -> bool:
        return isinstance(other, HeldImages) and torch.equal(self.pixels, other.pixels)

    def fetch(self) -> Tensor:
        return self.pixels.to(self.device).float().div_(255)


class ImageFiles(Stored):
    """[N, C, H, W], 0 … 1, decoded when a batch needs them, by worker processes that look ahead.

    Args:
        files: what is decoded, shared by all pieces.
        rows: which of its files these are.
        device: where the tensors go.
    """

    def __init__(self, files: "Files", rows: Tensor, device: torch.device | str = "cpu") -> None:
        self.files, self.rows, self.device = files, rows, torch.device(device)

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.rows), *self.files.look.shape))

    def __getitem__(self, rows: slice | Tensor) -> Self:
        chosen = self.rows.index_select(0, rows.cpu()) if isinstance(rows, Tensor) else self.rows[rows]
        return type(self)(self.files, chosen, self.device)

    def to(self, device: torch.device | str) -> Self:
        return type(self)(self.files, self.rows, device)

    def same_as(self, other: object) -> bool:
        return isinstance(other, ImageFiles) and self.files is other.files and torch.equal(self.rows, other.rows)

    def fetch(self) -> Tensor:
        return self._tensor(self.files.__getitems__(self.rows.tolist()))

    def fetch_all(self, pieces: Iterable[Self]) -> Iterator[Tensor]:
        rows = (piece.rows.tolist() for piece in pieces)
        return (self._tensor(pixels) for pixels in self.files.in_workers(rows))

    def _tensor(self, pixels: Tensor | str) -> Tensor:
        if isinstance(pixels, str):
            raise UserError(pixels)
        return pixels.to(self.device).float().div_(255)


class Files(Dataset[Any]):
    """Image files and how they are read; what worker processes are given.

    Args:
        paths: of the files.
        place: ``file, line`` of a row, for messages.
        look: what they become.
        workers: processes; 0: none, the training process decodes.
    """

    def __init__(self, paths: Sequence[str], place: Callable[[int], str], look: Look, workers: int) -> None:
        self.paths = pa.array(paths, pa.string())  # one block of memory, which forked processes go on sharing
        self.place, self.look, self.workers = place, look, workers
        self._rows = _Rows()
        self._loader: Any = None
        self._busy = False

    def __getitems__(self, rows: list[int]) -> Tensor | str:
        """The bytes [n, C, H, W] of these files, or what is wrong with one: an exception would lose its type on its way."""
        pixels = np.empty((len(rows), *self.look.shape), np.uint8)
        for place, row in enumerate(rows):
            try:
                pixels[place] = decoded(self.paths[row].as_py(), self.look)[0]
            except BadImageError as error:
                return f"{self.place(row)}: image {self.paths[row].as_py()} {error}"
        return torch.from_numpy(pixels)

    def in_workers(self, batches: Iterable[list[int]]) -> Iterator[Tensor | str]:
        """The bytes of each batch of rows, in their order. Workers are started once and wait from one call to the next."""
        if not self.workers or self._busy:
            yield from (self.__getitems__(rows) for rows in batches)
            return
        self._busy, self._rows.batches = True, batches
        try:
            yield from self._loaded()
        finally:
            self._busy = False

    def _loaded(self) -> Iterator[Tensor | str]:
        if self._loader is None:
            self._loader = DataLoader(
                self,
                batch_sampler=self._rows,
                collate_fn=_as_it_is,
                num_workers=self.workers,
                persistent_workers=True,
                generator=torch.Generator(),  # it draws a seed for its workers, which nothing here uses: not from the run's
            )
        return iter(self._loader)

    def __getstate__(self) -> dict[str, Any]:
        """Of a worker that does not share memory with this process."""
        return {**vars(self), "_loader": None, "_busy": False, "_rows": _Rows()}


class _Rows:
    """The batches of the pass that is running."""

    batches: Iterable[list[int]] = ()

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


def _as_it_is(pixels: Any) -> Any:
    return pixels


def chosen_cache(cache: Cache, count: int, look: Look) -> tuple[Cache, str]:
    """Where the images go, and a line that says so; ``auto``: the first of device, host and none that has room for them.

    They may take half of the memory that is free, of this machine and, for ``device``, of the first GPU.
    """
    values = count * int(np.prod(look.shape))
    needed = {"device": values * (5 if 4 * values <= PLAIN else 1), "host": values, "none": 0}
    size = f"{count:,} images of {look.channels} × {look.height} × {look.width} take {_readable(values)} as bytes"
    if cache != "auto":
        return cache, f"cache: {cache}; {size}"
    host = available()
    room = {"device": min(host, _gpu_memory()) / 2, "host": host / 2, "none": np.inf}
    best: Cache = next(place for place in ("device", "host", "none") if needed[place] <= room[place])
    why = "" if best == "device" else ", too much for anything faster"
    return best, f"cache: {best} (dataset.cache=auto chose it); {size}{why}"


def held(pixels: Pixels, cache: Cache) -> Tensor | HeldImages:
    """The field for images that are in memory."""
    bytes_ = torch.from_numpy(pixels)
    if cache == "device" and 4 * bytes_.numel() <= PLAIN:
        return bytes_.float().div_(255)
    return HeldImages(bytes_, cache == "device")


def _gpu_memory() -> float:
    return float(torch.cuda.mem_get_info(0)[0]) if torch.cuda.is_available() else np.inf


def available() -> float:
    """Bytes of main memory that can be had, also within the limits of a container."""
    found = [float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES") / 2] if hasattr(os, "sysconf") else [4e9]
    meminfo, limit, used = (
        Path(name) for name in ("/proc/meminfo", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current")
    )
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        found = [float(lines["MemAvailable"].split()[0]) * 1024] if "MemAvailable" in lines else found
    if limit.exists() and used.exists() and (most := limit.read_text().strip()).isdigit():
        found.append(float(most) - float(used.read_text()))
    return max(min(found), 0.0)


def _readable(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
