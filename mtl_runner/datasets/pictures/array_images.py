"""Images that are made and not read: how their arrays become the data of one stream."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mtl_runner.batch import Data
from mtl_runner.datasets.base import TaskOptions
from mtl_runner.datasets.pictures.augmentation import Changes
from mtl_runner.datasets.pictures.image_data import Images, Stream, as_data
from mtl_runner.datasets.pictures.image_fields import held
from mtl_runner.datasets.pictures.image_files import Look
from mtl_runner.datasets.pictures.image_preparation import ImagePreparation
from mtl_runner.datasets.rows.preparation import Preparation, Target
from mtl_runner.datasets.rows.reading import Reading
from mtl_runner.datasets.stratify import Ints

IMAGE = "image"


def of_arrays(
    pixels: NDArray[np.uint8],
    targets: Mapping[str, NDArray[Any]],
    specs: Mapping[str, Target | tuple[str, ...]],
    kinds: Mapping[str, str],
    parts: Mapping[str, Ints],
    options: Mapping[str, TaskOptions],
    only: Sequence[str] | None,
    changes: Changes,
    stream: str,
    notes: Sequence[str] = (),
) -> Data:
    """The data of images [N, C, H, W]; later rows are paths of image files, with labels in columns of the tasks' names.

    Args:
        targets: by task, [N, …], as a ``Batch`` wants them; those in ``options`` are used. None of a reconstruction.
        specs: by task: a ``Target``, or the columns of points, or the classes of boxes.
        kinds: of the tasks.
    """
    height, width = pixels.shape[2:]
    look = Look(pixels.shape[1], height, width)
    tables = {name: spec for name in options if isinstance(spec := specs.get(name, ()), Target)}
    placed = {name: spec for name in options if isinstance(spec := specs.get(name, ()), tuple)}
    prepared = ImagePreparation(
        IMAGE,
        look,
        Preparation((), (), tables, Reading(), stream),
        {name: columns for name, columns in placed.items() if kinds[name] == "keypoints"},
        {name: classes for name, classes in placed.items() if kinds[name] == "detection"},
        tuple(name for name in options if kinds[name] == "reconstruction"),
    )
    windows = torch.tensor([0.0, 0.0, width, height]).repeat(len(pixels), 1)
    digest = hashlib.blake2b(np.ascontiguousarray(pixels).tobytes(), digest_size=8).hexdigest()
    images = Images(held(pixels, "device"), windows, np.arange(len(pixels)), digest)
    values = {
        name: images.values() if kinds[name] == "reconstruction" and name not in targets else torch.from_numpy(targets[name])
        for name in options
    }
    made = Stream(images, values, parts, prepared, None, tuple(notes))
    return as_data([made], options, prepared.to_json(), changes, only)
