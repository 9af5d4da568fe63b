"""Drawn scenes of solids on a plane: class, depth and normal at each pixel, known exactly."""

from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Lt

from mtl_runner.batch import MISSING, Data
from mtl_runner.datasets.base import Dataset, known, task_options
from mtl_runner.datasets.dense import fitted, pixelwise_data
from mtl_runner.datasets.maps.pixelwise import Map, Pixelwise
from mtl_runner.datasets.maps.scenes import CLASSES, drawn
from mtl_runner.seeding import derive

TASKS = {
    "segmentation": Map("segmentation", "segmentation", CLASSES),
    "depth": Map("depth", "depth"),
    "normals": Map("normals", "normals"),
}


class Shapes(Dataset):
    """Images [3, S, S] of spheres, plates and cones before a tilted plane (``datasets/maps/scenes.py``), and three tasks on them.

    ``segmentation`` (ground, sphere, plate, cone), ``depth`` (metres) and ``normals`` (x right, y up, z to the camera).
    Colours say nothing of a class: a network has to look at outlines and shading.

    Args:
        rows, validation_rows, test_rows: number of images of each part.
        size: S.
        most: of solids in an image, one at least.
        missing: share of pixels of the training part without a label, drawn for each task.
        tasks: which tasks, with their options ``role``, ``metric`` and those of their type.
        only: train only these.
        split_seed: moves all of the data.
    """

    provides = frozenset({"image"})

    def __init__(
        self,
        *,
        rows: Annotated[int, Ge(1)] = 400,
        validation_rows: Annotated[int, Ge(1)] = 100,
        test_rows: Annotated[int, Ge(1)] = 100,
        size: Annotated[int, Ge(4)] = 32,
        most: Annotated[int, Ge(1)] = 3,
        missing: Annotated[float, Ge(0), Lt(1)] = 0.0,
        tasks: dict[str, dict[str, Any] | None] | list[str] | None = None,
        only: list[str] | None = None,
        split_seed: int = 0,
        stream: str = "input",
    ) -> None:
        named = list(TASKS) if tasks is None else tasks
        for name in named:
            known(name, TASKS, "dataset.tasks: task")
        self.options = task_options(named, ("role", "metric"), {name: each.kind for name, each in TASKS.items()})
        self.rows = {"train": rows, "validation": validation_rows, "test": test_rows}
        self.size, self.most, self.missing = size, most, missing
        self.only, self.seed, self.stream = only, split_seed, stream

    def load(self) -> Data:
        """Draw everything; each part has a random stream of its own."""
        scenes, parts, start = [], {}, 0
        for part, count in self.rows.items():
            draws = np.random.default_rng(derive(self.seed, "scenes", part))
            scenes += [drawn(draws, self.size, self.most) for _ in range(count)]
            parts[part] = np.arange(start, start := start + count)
        targets = {
            "segmentation": torch.from_numpy(np.stack([scene.classes for scene in scenes])),
            "depth": torch.from_numpy(np.stack([scene.depth for scene in scenes])),
            "normals": torch.from_numpy(np.stack([scene.normals for scene in scenes])),
        }
        for name, values in targets.items():
            draws = np.random.default_rng(derive(self.seed, "missing", name))
            lost = torch.from_numpy(draws.random((self.rows["train"], self.size, self.size)) < self.missing)
            values[: self.rows["train"]][lost] = MISSING if name == "segmentation" else torch.nan
        targets = {name: targets[name] for name in self.options}
        tasks = {name: TASKS[name] for name in self.options}
        shape = (3, self.size, self.size)
        prepared = fitted(Pixelwise("image", shape, tasks=tasks, stream=self.stream), targets, parts["train"])
        images = torch.from_numpy(np.stack([scene.image for scene in scenes]))
        return pixelwise_data(prepared, images, targets, parts, self.options, self.only)
