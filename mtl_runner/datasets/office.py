"""A folder for each domain, in it a folder for each class: one stream and one task per domain (Office-31, Office-Home)."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pyarrow as pa

from mtl_runner.batch import Data
from mtl_runner.datasets.base import task_options
from mtl_runner.datasets.files import Expected, expect
from mtl_runner.datasets.pictures.image_data import ImageDataset, ImageOptions, Stream, as_data
from mtl_runner.datasets.pictures.image_files import Look, images_in
from mtl_runner.datasets.pictures.image_preparation import ImagePreparation
from mtl_runner.datasets.prepared import together
from mtl_runner.datasets.rows.preparation import Preparation, Target
from mtl_runner.datasets.rows.reading import Reading
from mtl_runner.datasets.skipping import Skipping
from mtl_runner.datasets.splitting import split
from mtl_runner.errors import UserError, choices, nearest

PAGES = (
    "https://faculty.cc.gatech.edu/~judy/domainadapt/ (Office-31)",
    "https://www.hemanthdv.org/officeHomeDataset.html (Office-Home)",
)
WHERE = " or ".join(PAGES)
LICENCE = "for research that is not commercial"
INNER = "images"


class Office(ImageDataset):
    """Tasks: one for each domain, the class of its images; all have the same classes, and share the network.

    Office-31 (Saenko et al., ECCV 2010): amazon, dslr and webcam, 31 classes, 4,110 images; Office-Home (Venkateswara et al.,
    CVPR 2017): Art, Clipart, Product and Real World, 65 classes. Any folders of that form will do. The split is drawn within
    each domain, stratified by class; LibMTL's has the same shares.

    Args:
        path: the folder with a folder for each domain, in it one for each class (or ``images``, and in that one for each class).
        domains: which of them are tasks; None: all that there are.
        tasks: options ``role`` and ``metric`` of some domains.
    """

    def __init__(
        self,
        path: str,
        *,
        domains: list[str] | None = None,
        tasks: dict[str, dict[str, Any] | None] | None = None,
        **options: Unpack[ImageOptions],
    ) -> None:
        super().__init__(**options)
        self.path, self.domains, self.tasks = Path(path).expanduser(), domains, tasks or {}
        if self.splitting.column is not None:
            raise UserError(f"dataset.split.by={self.splitting.by}: the images have no columns; allowed: random")

    def load(self) -> Data:
        """Look at the folders, read the images."""
        folder = expect("office", self.path.parent, [Expected(self.path.name, folder=True)], WHERE, LICENCE)[self.path.name]
        domains = self._domains(folder)
        options = task_options(
            {name: self.tasks.get(name) for name in domains}, ("role", "metric"), dict.fromkeys(domains, "multiclass")
        )
        files = {name: _by_class(folder / name) for name in domains}
        classes = tuple(sorted({label for by_class in files.values() for label in by_class}))
        look, skipping = self.look([path for paths in files[domains[0]].values() for path in paths]), self.skipping()
        streams = [self._stream(name, files[name], classes, look, skipping) for name in domains]
        preparation = together({stream.preparation.stream: stream.preparation for stream in streams})
        notes = skipping.note("images")
        return as_data(streams, options, preparation, self.changes, self.only, skipping.lines, notes)

    def _domains(self, folder: Path) -> list[str]:
        there = [name for name in sorted(os.listdir(folder)) if (folder / name).is_dir()]
        wanted = there if self.domains is None else list(self.domains)
        if not wanted:
            raise UserError(f"{folder} has no folder for a domain")
        for key, names, allowed in (("domains", wanted, there), ("tasks", list(self.tasks), wanted)):
            if odd := [name for name in names if name not in allowed]:
                raise UserError(
                    f"dataset.{key}: there is no domain '{odd[0]}'{nearest(odd[0], allowed)}; there are: {choices(allowed)}"
                )
        return wanted

    def _stream(
        self, name: str, files: Mapping[str, Sequence[str]], classes: tuple[str, ...], look: Look, skipping: Skipping
    ) -> Stream:
        paths = [path for label in classes for path in files.get(label, ())]
        labels = [label for label in classes for _ in files.get(label, ())]
        target = Target("multiclass", (name,), classes, {label: place for place, label in enumerate(classes)})
        prepared = ImagePreparation("image", look, Preparation((), (), {name: target}, Reading(), name))
        images = self.read(paths, partial(_in_domain, name), look, skipping)
        codes = np.array([target.labels[label] for label in labels])
        parts = split(self.splitting, codes[images.good][:, None], None)
        rows = {part: images.good[places] for part, places in parts.items()}
        targets = prepared.labelled(pa.table({"image": paths, name: labels}), [name], images.windows, None)
        lost = [label for label in classes if label not in files]
        return Stream(images, targets, rows, prepared, None, [f"task {name}: no image of class {choices(lost)}"] if lost else [])


def _in_domain(name: str, row: int) -> str:
    return f"domain {name}"


def _by_class(folder: Path) -> dict[str, list[str]]:
    """Paths of the images of each class."""
    root = folder / INNER if (folder / INNER).is_dir() else folder
    found = {name: list(images_in([str(root / name)])) for name in sorted(os.listdir(root)) if (root / name).is_dir()}
    if not (found := {name: paths for name, paths in found.items() if paths}):
        raise UserError(f"{root} has no folder with images: one for each class is expected")
    return found
