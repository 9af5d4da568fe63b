"""CelebA: 202,599 photographs of faces with 40 attributes, five points and a box (Liu et al., ICCV 2015)."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Unpack

import pyarrow as pa

from mtl_runner.batch import Data
from mtl_runner.datasets.base import known, task_options
from mtl_runner.datasets.files import Expected, expect
from mtl_runner.datasets.images import LabelledImages
from mtl_runner.datasets.pictures.boxes import KIND
from mtl_runner.datasets.pictures.celeba_files import read_list, read_parts, same_images
from mtl_runner.datasets.pictures.image_data import ImageOptions
from mtl_runner.datasets.rows.reading import Reading
from mtl_runner.datasets.splitting import Splitting
from mtl_runner.errors import UserError

ATTRIBUTES = Expected("list_attr_celeba.txt", "75e246fa4810816ffd6ee81facbd244c")
BOXES = Expected("list_bbox_celeba.txt", "00566efa6fedff7a56946cd1c10f1c16")
PARTITION = Expected("list_eval_partition.txt", "d32c9cbf5e040fd4025c592c306e6668")
LANDMARKS = {
    "aligned": Expected("list_landmarks_align_celeba.txt", "cc24ecafdb5b50baae59b03474781f8c"),
    "wild": Expected("list_landmarks_celeba.txt", "063ee6ddb681f96bc9ca28c6febb9d1a"),
}
FOLDERS = {"aligned": Expected("img_align_celeba", folder=True), "wild": Expected("img_celeba", folder=True)}
WHERE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html (unpack the archive of images)"
LICENCE = "for research that is not commercial; the agreement is on that page"
POINTS, BOX, PART = "landmarks", "box", "partition"


class CelebA(LabelledImages):
    """Tasks: any of the 40 attributes (binary), ``landmarks`` (five keypoints), ``box`` (detection of the one face).

    The boxes belong to the photographs in the wild, not to the aligned ones (``images=wild`` has them); the parts are those of
    ``list_eval_partition.txt``.

    Args:
        path: the folder with the four lists and the folder of images.
        tasks: which, with their options; None: all attributes and the landmarks.
        images: aligned (178 × 218, eyes in the same place) or wild (the photographs as they were found).
        verify: refuse lists that are not the published ones.
    """

    def __init__(
        self,
        path: str,
        *,
        tasks: dict[str, dict[str, Any] | None] | list[str] | None = None,
        images: Literal["aligned", "wild"] = "aligned",
        verify: bool = True,
        stream: str = "input",
        **options: Unpack[ImageOptions],
    ) -> None:
        super().__init__(**options)
        self.path, self.tasks, self.images, self.verify, self.stream = Path(path).expanduser(), tasks, images, verify, stream
        if self.splitting != Splitting(seed=self.splitting.seed):
            raise UserError("dataset.split: CelebA has parts of its own; dataset=images takes any others")
        self.splitting = Splitting("column", PART)
        self.reading = Reading()

    def load(self) -> Data:
        """Read the lists, then the images."""
        boxed = self.tasks is not None and BOX in self.tasks
        if boxed and self.images == "aligned":
            raise UserError("dataset.tasks.box: the boxes belong to the photographs in the wild; dataset.images=wild has them")
        needed = [ATTRIBUTES, LANDMARKS[self.images], PARTITION, *([BOXES] if boxed else []), FOLDERS[self.images]]
        found = expect("celeba", self.path, needed, WHERE, LICENCE, self.verify)
        names, files, attributes = read_list(found[ATTRIBUTES.name])
        points, same, coordinates = read_list(found[LANDMARKS[self.images].name])
        same_images(found[LANDMARKS[self.images].name], same, files, 3)
        same, parts = read_parts(found[PARTITION.name])
        same_images(found[PARTITION.name], same, files, 1)
        kinds = dict.fromkeys(names, "binary") | {POINTS: "keypoints", BOX: "detection"}
        chosen = [*names, POINTS] if self.tasks is None else self.tasks
        options = task_options(chosen, ("role", "metric"), kinds)
        for name in options:
            known(name, kinds, "dataset.tasks: task")
        reads: dict[str, dict[str, Any]] = {name: {"columns": (name,), "positive": ("1",)} for name in names}
        reads |= {POINTS: {"columns": tuple(points)}, BOX: {}}
        self.options = {name: replace(one, type=kinds[name], **reads[name]) for name, one in options.items()}
        columns: dict[str, Any] = {"image": files, PART: parts}
        columns |= {name: (attributes[:, place] > 0).astype(int).astype(str) for place, name in enumerate(names)}
        columns |= {name: coordinates[:, place] for place, name in enumerate(points)}
        if boxed:
            columns[BOX] = self._boxes(found[BOXES.name], files)
        return self.assemble(
            pa.table(columns), found[FOLDERS[self.images].name], Line(found[ATTRIBUTES.name], 3), self.skipping()
        )

    def _boxes(self, path: Path, files: list[str]) -> pa.Array:
        """Of x, y, width and height."""
        _, same, boxes = read_list(path)
        same_images(path, same, files, 3)
        rows = boxes.tolist()
        return pa.array([[{"x1": x, "y1": y, "x2": x + w, "y2": y + h, "class": "face"}] for x, y, w, h in rows], KIND)


class Line:
    """``file, line`` of a row of a file whose first row is in line ``first``."""

    def __init__(self, path: Path, first: int) -> None:
        self.path, self.first = path, first

    def __call__(self, row: int) -> str:
        return f"{self.path}, line {self.first + row}"
