"""MultiMNIST: two handwritten digits over each other, one to the upper left and one to the lower right."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from mtl_runner.batch import Data
from mtl_runner.datasets.base import Dataset, known, task_options
from mtl_runner.datasets.files import Expected, expect
from mtl_runner.datasets.pictures.array_images import of_arrays
from mtl_runner.datasets.pictures.augmentation import Changes
from mtl_runner.datasets.pictures.idx import read_labelled
from mtl_runner.datasets.rows.preparation import Target
from mtl_runner.datasets.stratify import Ints, stratify
from mtl_runner.errors import UserError
from mtl_runner.seeding import derive

Pixels = NDArray[np.uint8]
NAMES = tuple(f"{part}-{what}" for part in ("train", "t10k") for what in ("images-idx3-ubyte.gz", "labels-idx1-ubyte.gz"))
MD5 = (
    "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "d53e105ee54ea40749a09fcbcd1e9432",
    "9fb629c4189551a2d022fa330f9573f3",
    "ec29112dd5afa0611ce80d1b7f02629c",
)
WHERE = "https://ossci-datasets.s3.amazonaws.com/mnist/ or http://yann.lecun.com/exdb/mnist/"
LICENCE = "CC BY-SA 3.0 (LeCun, Cortes and Burges)"
_DIGITS = tuple("0123456789")
TARGETS = {name: Target("multiclass", (name,), _DIGITS, {digit: int(digit) for digit in _DIGITS}) for name in ("left", "right")}
KINDS = {"left": "multiclass", "right": "multiclass", "reconstruction": "reconstruction"}


class MultiMNIST(Dataset):
    """Tasks: ``left`` and ``right``, the two digits (10 classes each); ``reconstruction``, the image.

    From the four idx files of MNIST, or others of that form (Fashion-MNIST, KMNIST with ``verify: false``). Each image is the
    left one of a pair, its partner a random one of the same part; where they overlap the brighter pixel counts, and the canvas
    is made as small as an image again, each pixel the nearest of the canvas (Sener and Koltun, "Multi-task learning as
    multi-objective optimization", NeurIPS 2018, whose code does it so, after Sabour et al., NIPS 2017). MNIST's test part is
    the test part, a share of its training part validation, with all classes in proportion; pairs are made after that, so that
    no digit, left or right, is in two parts.

    Args:
        path: the folder with the files, packed or not.
        tasks: which, with their options ``role`` and ``metric``.
        only: train only these; images and parts stay the same.
        shift: by so many pixels the right digit lies lower and further to the right.
        canvas: side of the canvas before it is made smaller; None: as large as it has to be.
        validation: share of the training part.
        augmentation: of training batches, as of ``dataset=images``.
        verify: refuse files that are not MNIST's.
        split_seed: moves the pairs, and what is validation.
    """

    provides = frozenset({"image"})

    def __init__(
        self,
        path: str,
        *,
        tasks: dict[str, dict[str, Any] | None] | list[str] | None = None,
        only: list[str] | None = None,
        shift: Annotated[int, Ge(0)] = 6,
        canvas: Annotated[int, Ge(1)] | None = 36,
        validation: float = 0.1,
        augmentation: dict[str, Any] | None = None,
        verify: bool = True,
        split_seed: int = 0,
        stream: str = "input",
    ) -> None:
        self.path, self.only, self.shift, self.canvas, self.stream = path, only, shift, canvas, stream
        self.options = task_options(["left", "right"] if tasks is None else tasks, ("role", "metric"), KINDS)
        for name in self.options:
            known(name, KINDS, "dataset.tasks: task")
        self.validation, self.verify, self.seed = _share(validation), verify, split_seed
        self.changes = Changes.of(augmentation)

    def load(self) -> Data:
        """Read the files and make the pairs."""
        files = [Expected(name, md5, others=(name.removesuffix(".gz"),)) for name, md5 in zip(NAMES, MD5, strict=True)]
        found = expect("multi_mnist", self.path, files, WHERE, LICENCE, self.verify)
        given, tested = (_digits([found[name] for name in NAMES[start : start + 2]]) for start in (0, 2))
        pixels, labels = np.concatenate([given[0], tested[0]]), np.concatenate([given[1], tested[1]])
        parts = self._parts(given[1]) | {"test": np.arange(len(given[1]), len(labels))}
        partner = self._partners(parts)
        images = overlaid(pixels, pixels[partner], self.shift, self.canvas)
        targets = {"left": labels, "right": labels[partner]}
        return of_arrays(images[:, None], targets, TARGETS, KINDS, parts, self.options, self.only, self.changes, self.stream)

    def _parts(self, labels: Ints) -> dict[str, Ints]:
        """Of MNIST's training part, by the labels of its digits."""
        random = np.random.default_rng(derive(self.seed, "split"))
        held_out = stratify(labels[:, None], [1 - self.validation, self.validation], random)
        return {"train": np.flatnonzero(held_out == 0), "validation": np.flatnonzero(held_out == 1)}

    def _partners(self, parts: Mapping[str, Ints]) -> Ints:
        """Of each digit the right one of its pair, [N]; of the same part, else validation would see digits of training."""
        partner = np.empty(sum(map(len, parts.values())), np.int64)
        for number, part in enumerate(("train", "validation", "test")):
            rows, random = parts[part], np.random.default_rng(derive(self.seed, "pairs", number))
            partner[rows] = rows[random.integers(0, len(rows), len(rows))]
        return partner


def _digits(files: Sequence[Path]) -> tuple[Pixels, Ints]:
    """Images [N, H, W] and labels [N]."""
    pixels, labels = read_labelled(files[0], files[1])
    if labels.size and labels.max() > 9:
        raise UserError(f"{files[1]} has the label {labels.max()}; allowed are 0 to 9")
    return pixels, labels.astype(np.int64)


def overlaid(left: Pixels, right: Pixels, shift: int, canvas: int | None) -> Pixels:
    """[N, H, W]: the right images ``shift`` pixels lower and further to the right than the left ones, made as small as one."""
    count, height, width = left.shape
    tall, wide = (height + shift, width + shift) if canvas is None else (canvas, canvas)
    if min(tall - height, wide - width) < shift:
        raise UserError(f"dataset.canvas={canvas} is too small for images of {height} × {width} and dataset.shift={shift}")
    both = np.zeros((count, tall, wide), np.uint8)
    both[:, :height, :width] = left
    lower = both[:, shift : shift + height, shift : shift + width]
    np.maximum(lower, right, out=lower)
    rows = ((np.arange(height) + 0.5) * tall / height).astype(int)
    columns = ((np.arange(width) + 0.5) * wide / width).astype(int)
    return both[:, rows[:, None], columns]


def _share(validation: float) -> float:
    if not 0 < validation < 1:
        raise UserError(f"dataset.validation={validation} is not a share between 0 and 1")
    return validation
