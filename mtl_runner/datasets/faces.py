"""Drawn faces with attributes, points and boxes: a small stand-in for photographs that need no download."""

from math import cos, pi, sin
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mtl_runner.batch import Data
from mtl_runner.datasets.base import Dataset, known, task_options
from mtl_runner.datasets.pictures.array_images import of_arrays
from mtl_runner.datasets.pictures.augmentation import Changes
from mtl_runner.datasets.rows.preparation import Target
from mtl_runner.datasets.splitting import Splitting, split
from mtl_runner.seeding import derive

Random = np.random.Generator
Colour = tuple[int, int, int]
ATTRIBUTES = ("smiling", "glasses", "hat")
POINTS = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
CLASSES = ("face", "ball")
_YES = {"no": 0, "yes": 1, "0": 0, "1": 1}
TARGETS: dict[str, Target | tuple[str, ...]] = {
    **{name: Target("binary", (name,), ("no", "yes"), _YES) for name in ATTRIBUTES},
    "points": tuple(f"{point}_{axis}" for point in POINTS for axis in "xy"),
    "objects": CLASSES,
}
KINDS = dict.fromkeys(ATTRIBUTES, "binary") | {"points": "keypoints", "objects": "detection"}
MOST_BALLS = 2
FINE = 4
"""Images are drawn so many times larger, and then made smaller: edges are smooth."""


class Faces(Dataset):
    """A face somewhere in each image, tilted, of any size and colour, and up to two balls; noise over all of it.

    Tasks: ``smiling``, ``glasses`` and ``hat`` (binary); ``points``, five keypoints as CelebA has them (left is left in the
    image); ``objects``, boxes of the classes face and ball. Split 60/20/20.

    Args:
        tasks: which of them, with their options.
        only: train only these; images and parts stay the same.
        count: number of images.
        side: height and width in pixels.
        noise: standard deviation of what is added to each pixel, as a share of white.
        augmentation: of training batches, as of ``dataset=images``.
        fold: test on this one of ``folds`` parts.
        split_seed: moves the split and the faces.
    """

    provides = frozenset({"image"})

    def __init__(
        self,
        *,
        tasks: dict[str, dict[str, Any] | None] | list[str] | None = None,
        only: list[str] | None = None,
        count: Annotated[int, Ge(20)] = 1000,
        side: Annotated[int, Ge(16)] = 32,
        noise: Annotated[float, Ge(0), Le(1)] = 0.05,
        augmentation: dict[str, Any] | None = None,
        fold: Annotated[int, Ge(0)] | None = None,
        folds: Annotated[int, Ge(2)] = 5,
        split_seed: int = 0,
        stream: str = "input",
    ) -> None:
        self.options = task_options(list(KINDS) if tasks is None else tasks, ("role", "metric"), KINDS)
        for name in self.options:
            known(name, KINDS, "dataset.tasks: task")
        self.only, self.count, self.side, self.noise, self.stream = only, count, side, noise, stream
        self.changes = Changes.of(augmentation)
        self.splitting = Splitting(validation=0.2, test=0.2, fold=fold, folds=folds, seed=split_seed)

    def load(self) -> Data:
        """Draw all images."""
        pixels, targets = drawn(self.count, self.side, self.noise, derive(self.splitting.seed, "faces"))
        parts = split(self.splitting, np.stack([targets[name].astype(np.int64) for name in ATTRIBUTES], 1), None)
        return of_arrays(pixels, targets, TARGETS, KINDS, parts, self.options, self.only, self.changes, self.stream)


def drawn(count: int, side: int, noise: float, seed: int) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.float32]]]:
    """Images [N, 3, side, side] and the targets of all tasks."""
    random = np.random.default_rng(seed)
    pixels = np.empty((count, 3, side, side), np.uint8)
    points = np.empty((count, len(POINTS), 2), np.float32)
    boxes = np.zeros((count, 1 + MOST_BALLS, 5), np.float32)
    boxes[..., 4] = -1
    has = random.random((count, len(ATTRIBUTES))) < 0.5
    for i in range(count):
        image, points[i], found = _scene(random, side * FINE, dict(zip(ATTRIBUTES, has[i].tolist(), strict=True)))
        boxes[i, : len(found)] = found
        small = np.asarray(image.resize((side, side), Image.Resampling.BOX), np.float64)
        noisy = small + random.normal(0, 255 * noise, small.shape)
        pixels[i] = np.clip(np.round(noisy), 0, 255).astype(np.uint8).transpose(2, 0, 1)
    targets = {name: has[:, place].astype(np.float32) for place, name in enumerate(ATTRIBUTES)}
    return pixels, {
        **targets,
        "points": (points / (side * FINE)).astype(np.float32),
        "objects": np.where(boxes < 0, boxes, _shares(boxes, side * FINE)),
    }


def _shares(boxes: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Corners as shares of the side; classes as they are."""
    return np.asarray(boxes / np.array([side, side, side, side, 1]), np.float32)


def _scene(random: Random, side: int, has: dict[str, bool]) -> tuple[Image.Image, NDArray[np.float64], list[list[float]]]:
    """One image, its points and its boxes (x1, y1, x2, y2, class), in its pixels."""
    patches = random.integers(30, 200, (3, 3, 3)).astype(np.uint8)
    image = Image.fromarray(patches).resize((side, side), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    radius = float(random.uniform(0.2, 0.32) * side)
    middle = random.uniform(1.35 * radius, side - 1.35 * radius, 2)
    balls: list[tuple[float, float, float]] = []
    for _ in range(int(random.integers(0, MOST_BALLS + 1))):
        size = float(random.uniform(0.06, 0.1) * side)
        x, y = random.uniform(size, side - size, 2).tolist()
        apart = [np.hypot(x - a, y - b) > size + other for a, b, other in [(*middle, 1.35 * radius), *balls]]
        if all(apart):
            pen.ellipse(
                [x - size, y - size, x + size, y + size], fill=_colour(random, 150, 255), outline=(20, 20, 20), width=FINE
            )
            balls.append((x, y, size))
    points, box = _face(pen, random, middle, radius, has)
    return image, points, [[*box, 0.0], *([x - size, y - size, x + size, y + size, 1.0] for x, y, size in balls)]


def _face(
    pen: ImageDraw.ImageDraw, random: Random, middle: NDArray[np.float64], radius: float, has: dict[str, bool]
) -> tuple[NDArray[np.float64], list[float]]:
    """Points and box (without the hat) of a face."""
    tilt, (left, top) = float(random.uniform(-0.35, 0.35)), middle.tolist()
    across, down = radius * cos(tilt), radius * sin(tilt)

    def at(x: float, y: float) -> tuple[float, float]:
        return left + across * x - down * y, top + down * x + across * y

    dark, line = _colour(random, 0, 70), max(1, round(radius * 0.1))
    shade = float(random.uniform(0.4, 1))
    skin = (int(235 * shade), int(190 * shade), int(150 * shade))
    outline = [at(0.85 * cos(2 * pi * t / 32), sin(2 * pi * t / 32)) for t in range(32)]
    pen.polygon(outline, fill=skin)
    if has["hat"]:
        pen.polygon([at(-1, -0.65), at(1, -0.65), at(0.7, -1.3), at(-0.7, -1.3)], fill=_colour(random, 20, 230))
    gap, height = float(random.uniform(0.3, 0.42)), float(random.uniform(-0.3, -0.15))
    eyes = [at(-gap, height), at(gap, height)]
    for x, y in eyes:
        size = 0.1 * radius
        pen.ellipse([x - size, y - size, x + size, y + size], fill=dark)
        if has["glasses"]:
            rim = 0.25 * radius
            pen.ellipse([x - rim, y - rim, x + rim, y + rim], outline=dark, width=line)
    if has["glasses"]:
        pen.line([at(-gap + 0.2, height), at(gap - 0.2, height)], fill=dark, width=line)
    nose = at(float(random.uniform(-0.06, 0.06)), float(random.uniform(0.12, 0.22)))
    pen.line([at(0, -0.05), nose], fill=dark, width=line)
    width, low = float(random.uniform(0.3, 0.45)), float(random.uniform(0.45, 0.55))
    bend = 0.22 if has["smiling"] else -0.12
    mouth = [at(width * t, low + bend * (1 - t * t)) for t in (place / 5 - 1 for place in range(11))]
    pen.line(mouth, fill=(160, 30, 30), width=line + 1)
    corners = np.array(outline)
    return np.array([*eyes, nose, mouth[0], mouth[-1]]), [*corners.min(0).tolist(), *corners.max(0).tolist()]


def _colour(random: Random, low: int, high: int) -> Colour:
    red, green, blue = random.integers(low, high, 3).tolist()
    return red, green, blue
