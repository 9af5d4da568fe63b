"""A folder for each domain, in it a folder for each class: one stream and one task per domain (Office-31, Office-Home)."""

import os
from collections.abc import Sequence
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
from mtl_runner.datasets.pictures.split_lists import ENDINGS, DomainImages, domains_of, read_lists
from mtl_runner.datasets.prepared import together
from mtl_runner.datasets.rows.preparation import Preparation, Target
from mtl_runner.datasets.rows.reading import Reading
from mtl_runner.datasets.skipping import Skipping
from mtl_runner.datasets.splitting import split
from mtl_runner.datasets.stratify import Ints
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
    each domain, stratified by class, unless ``lists`` name a published one.

    Args:
        path: the folder with a folder for each domain, in it one for each class (or ``images``, and in that one for each class).
        domains: which of them are tasks; None: all that there are.
        lists: a folder with a published split, ``DOMAIN_train.txt``, ``DOMAIN_test.txt`` and, if there is one,
            ``DOMAIN_val.txt``: lines of the path of an image in ``path`` and its label. Without the last, validation is a share
            of the first.
        tasks: options ``role`` and ``metric`` of some domains.
    """

    def __init__(
        self,
        path: str,
        *,
        domains: list[str] | None = None,
        lists: str | None = None,
        tasks: dict[str, dict[str, Any] | None] | None = None,
        **options: Unpack[ImageOptions],
    ) -> None:
        super().__init__(**options)
        self.path, self.domains, self.tasks = Path(path).expanduser(), domains, tasks or {}
        self.lists = None if lists is None else Path(lists).expanduser()
        if self.lists is not None and self.splitting.fold is not None:
            raise UserError(f"dataset.fold={self.splitting.fold}: the lists of dataset.lists are the parts")
        if self.splitting.column is not None:
            raise UserError(f"dataset.split.by={self.splitting.by}: the images have no columns; allowed: random")

    def load(self) -> Data:
        """Look at the folders, read the images."""
        folder = expect("office", self.path.parent, [Expected(self.path.name, folder=True)], WHERE, LICENCE)[self.path.name]
        files = self._listed(folder) if self.lists is not None else self._found(folder)
        domains = list(files)
        options = task_options(
            {name: self.tasks.get(name) for name in domains}, ("role", "metric"), dict.fromkeys(domains, "multiclass")
        )
        classes = tuple(sorted({label for images in files.values() for label in images.labels}))
        look, skipping = self.look(files[domains[0]].paths), self.skipping()
        streams = [self._stream(name, files[name], classes, look, skipping) for name in domains]
        preparation = together({stream.preparation.stream: stream.preparation for stream in streams})
        notes = skipping.note("images")
        return as_data(streams, options, preparation, self.changes, self.only, skipping.lines, notes)

    def _found(self, folder: Path) -> dict[str, DomainImages]:
        """All images of the folders."""
        there = [name for name in sorted(os.listdir(folder)) if (folder / name).is_dir()]
        if not there:
            raise UserError(f"{folder} has no folder for a domain")
        return {name: _in_folders(folder / name) for name in self._wanted(there)}

    def _listed(self, folder: Path) -> dict[str, DomainImages]:
        """Those of the published split."""
        assert self.lists is not None
        if not (there := domains_of(self.lists)):
            raise UserError(f"dataset.lists={self.lists}: there is no list DOMAIN{ENDINGS['train']}")
        domains = self._wanted(there)
        needed = [Expected(f"{name}{ENDINGS[part]}") for name in domains for part in ("train", "test")]
        expect("office", self.lists, needed, "where the split is published", LICENCE)
        every = {name: {part: self.lists / f"{name}{ending}" for part, ending in ENDINGS.items()} for name in domains}
        files = {name: {part: file for part, file in parts.items() if file.is_file()} for name, parts in every.items()}
        return read_lists(files, folder)

    def _wanted(self, there: Sequence[str]) -> list[str]:
        """The domains that are tasks, of those that are there."""
        wanted = list(there) if self.domains is None else list(self.domains)
        if not wanted:
            raise UserError(f"dataset.domains=[] names no domain; there are: {choices(there)}")
        for key, names, allowed in (("domains", wanted, list(there)), ("tasks", list(self.tasks), wanted)):
            if odd := [name for name in names if name not in allowed]:
                raise UserError(
                    f"dataset.{key}: there is no domain '{odd[0]}'{nearest(odd[0], allowed)}; there are: {choices(allowed)}"
                )
        return wanted

    def _stream(self, name: str, found: DomainImages, classes: tuple[str, ...], look: Look, skipping: Skipping) -> Stream:
        target = Target("multiclass", (name,), classes, {label: place for place, label in enumerate(classes)})
        prepared = ImagePreparation("image", look, Preparation((), (), {name: target}, Reading(), name), max_errors=self.most)
        images = self.read(found.paths, found.places.__getitem__, look, skipping)
        rows = self._parts(found, np.array([target.labels[label] for label in found.labels]), images.good)
        table = pa.table({"image": list(found.paths), name: list(found.labels)})
        targets = prepared.labelled(table, [name], images.windows, None)
        lost = [label for label in classes if label not in found.labels]
        return Stream(images, targets, rows, prepared, None, [f"task {name}: no image of class {choices(lost)}"] if lost else [])

    def _parts(self, found: DomainImages, codes: Ints, good: Ints) -> dict[str, Ints]:
        """Rows of each part, among those whose image can be used."""
        listed = np.array(found.parts)[good] if found.parts else None
        if listed is not None and "validation" in found.parts:
            return {part: good[listed == part] for part in ENDINGS}
        tested = None if listed is None else np.flatnonzero(listed == "test")
        return {part: good[rows] for part, rows in split(self.splitting, codes[good][:, None], None, tested).items()}


def _in_folders(folder: Path) -> DomainImages:
    """The images of a domain, class by class."""
    root = folder / INNER if (folder / INNER).is_dir() else folder
    found = {name: list(images_in([str(root / name)])) for name in sorted(os.listdir(root)) if (root / name).is_dir()}
    if not (found := {name: paths for name, paths in found.items() if paths}):
        raise UserError(f"{root} has no folder with images: one for each class is expected")
    labels = [label for label, paths in found.items() for _ in paths]
    return DomainImages([path for paths in found.values() for path in paths], labels, [f"domain {folder.name}"] * len(labels))
