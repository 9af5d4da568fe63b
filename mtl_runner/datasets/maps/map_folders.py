"""Folders of images and of maps, paired by the names of the files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from mtl_runner.datasets.maps import map_files
from mtl_runner.datasets.splitting import SPELLINGS
from mtl_runner.errors import UserError, choices

PART = "part"
"""The column with the name of the part that an image is in."""


@dataclass(frozen=True)
class Layout:
    """Where images and maps are: ``<path>/<part>/<folder>/<name>.png``, or the same without parts."""

    path: Path
    image: str
    """The folder of the images."""
    maps: tuple[str, ...]
    """Those of the maps."""
    parts: Mapping[str, str]
    """Folders of parts, and what part each is; empty: none, the images are to be split."""

    @classmethod
    def found(cls, path: Path, image: str, maps: Sequence[str]) -> "Layout":
        """As it is on the disk: with parts where a folder with the name of one has a folder of images in it."""
        inside = sorted(folder.name for folder in path.iterdir() if folder.is_dir())
        parts = {name: SPELLINGS[name] for name in inside if name in SPELLINGS and (path / name / image).is_dir()}
        return cls(path, image, tuple(dict.fromkeys(maps)), parts)

    def absent(self) -> list[str]:
        """Folders that are not there: of the images of each part, and of maps that no part has."""
        places = list(self.parts) or [""]
        images = [self.path / place / self.image for place in places]
        lost = [str(folder) for folder in images if not folder.is_dir()]
        without = [name for name in self.maps if not any((self.path / place / name).is_dir() for place in places)]
        return lost + [str(self.path / places[0] / name) for name in without]

    def table(self, wrong: Callable[[UserError], None]) -> pa.Table:
        """A row for each image, in the order of their names (1, 2, 10): its file, its maps (null: none), and its part.

        Args:
            wrong: is given an error for each map without an image, and for names that stand for two files.
        """
        if lost := self.absent():
            raise UserError(f"dataset.path={self.path}: there is no folder {choices(lost)}")
        rows: dict[str, list[str | None]] = {name: [] for name in (self.image, *self.maps, PART)}
        for place, part in self.parts.items() or [("", "")]:
            images = _files(self.path / place / self.image, map_files.PICTURES, wrong)
            found = {name: _files(self.path / place / name, map_files.MAPS, wrong) for name in self.maps}
            for files in found.values():
                for stem in sorted(files.keys() - images.keys()):
                    wrong(UserError(f"{files[stem]}: a map without an image ({self.path / place / self.image / stem}.…)"))
            for stem, file in images.items():
                rows[self.image].append(str(file))
                rows[PART].append(part)
                for name, files in found.items():
                    rows[name].append(str(files[stem]) if stem in files else None)
        if not rows[self.image]:
            raise UserError(f"dataset.path={self.path}: no image in {self.image}; allowed are {choices(map_files.PICTURES)}")
        return pa.table({name: pa.array(column, pa.string()) for name, column in rows.items()})


def _files(folder: Path, endings: Sequence[str], wrong: Callable[[UserError], None]) -> dict[str, Path]:
    """By their names without the ending."""
    found: dict[str, Path] = {}
    names = sorted(folder.iterdir(), key=_natural) if folder.is_dir() else []
    for file in names:
        if file.suffix.lower() in endings:
            if file.stem in found:
                wrong(UserError(f"{file}: there is {found[file.stem].name}, too, and one of them is to go"))
            found[file.stem] = file
    return found


def _natural(file: Path) -> tuple[bool, int, str]:
    return (True, len(file.stem), file.stem) if file.stem.isdigit() else (False, 0, file.stem)
