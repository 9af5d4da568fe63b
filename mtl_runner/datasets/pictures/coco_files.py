"""COCO's annotation files: a table with a row for each image, and what is in it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mtl_runner.batch import MISSING
from mtl_runner.datasets.pictures import masks
from mtl_runner.datasets.skipping import Skipping
from mtl_runner.errors import UserError, choices

BACKGROUND = "background"
LARGEST = 1 << 28
"""Pixels that an image can have."""
_LISTS = ("images", "annotations", "categories")


@dataclass(frozen=True)
class Annotations:
    """One file: https://cocodataset.org/#format-data. Annotations that cannot be used are left out."""

    path: Path
    images: tuple[Mapping[str, Any], ...]
    """In the order of the file."""
    of_image: Mapping[int, tuple[Mapping[str, Any], ...]]
    """Annotations by the image's id; those of a crowd, which mark a region and not one object, too."""
    categories: Mapping[int, Mapping[str, Any]]
    """By id, in the order of ids."""

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the categories."""
        return tuple(str(each["name"]) for each in self.categories.values())

    def points(self, category: str | None) -> tuple[str, ...]:
        """The key points of a category; None: of the only one that has any.

        Raises:
            UserError: none or several have, or the named one has not.
        """
        having = {str(each["name"]): each["keypoints"] for each in self.categories.values() if each.get("keypoints")}
        if category is None and len(having) == 1:
            category = next(iter(having))
        if category not in having:
            there = f"those with key points: {choices(having)}" if having else "no category has key points"
            raise UserError(f"{self.path}: {there}; one is to be named by classes")
        return tuple(map(str, having[category]))

    def objects(self, image: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """The annotations of an image without those of crowds."""
        return [each for each in self.of_image.get(image["id"], ()) if not each.get("iscrowd")]

    def name(self, annotation: Mapping[str, Any]) -> str:
        """Of its category."""
        return str(self.categories[annotation["category_id"]]["name"])

    def boxes(self, image: Mapping[str, Any], classes: Sequence[str]) -> list[dict[str, Any]]:
        """Corners in pixels, and the class."""
        found = []
        for each in self.objects(image):
            if self.name(each) in classes:
                x, y, width, height = map(float, each["bbox"])
                found.append({"x1": x, "y1": y, "x2": x + width, "y2": y + height, "class": self.name(each)})
        return found

    def person(self, image: Mapping[str, Any], category: str | None, count: int) -> list[float | None]:
        """x, y, x, y … of the largest annotation with visible key points; None where a point is not labelled (v = 0)."""
        known = [each for each in self.objects(image) if each.get("num_keypoints", 1) and each.get("keypoints")]
        known = [each for each in known if category is None or self.name(each) == category]
        if not known:
            return [None] * (2 * count)
        points = max(known, key=lambda each: float(each.get("area", 0)))["keypoints"]
        return [
            value if points[3 * place + 2] > 0 else None for place in range(count) for value in points[3 * place : 3 * place + 2]
        ]

    def masks(self, image: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
        """Of a class map in which later masks cover earlier ones: height, width, and (class, mask).

        Class 0 is background. Crowds come first and have no label; then the larger of two objects before the smaller.
        """
        known = [each for each in self.of_image.get(image["id"], ()) if self.name(each) in classes and each.get("segmentation")]
        found = [
            (MISSING if each.get("iscrowd") else 1 + classes.index(self.name(each)), each["segmentation"])
            for each in sorted(known, key=lambda each: (not each.get("iscrowd"), -float(each.get("area", 0))))
        ]
        return {"height": image["height"], "width": image["width"], "masks": found}


def read_annotations(path: str | Path, skipping: Skipping) -> Annotations:
    """The file, with references checked.

    Raises:
        UserError: it is not there, or is not such a file; an annotation without its image or category, unless skipped.
    """
    found = Path(path).expanduser()
    if not found.is_file():
        raise UserError(f"there is no file {found}")
    try:
        content = json.loads(found.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits
        raise UserError(f"{found} is no whole JSON file: {error}") from None
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in _LISTS):
        raise UserError(f"{found} is no annotation file in COCO's format: it has no lists {choices(_LISTS)}")
    try:
        categories = {int(each["id"]): each for each in sorted(content["categories"], key=lambda each: int(each["id"]))}
        images = tuple(content["images"])
        of_image: dict[int, list[Mapping[str, Any]]] = {int(each["id"]): [] for each in images}
        sizes = {int(each["id"]): _size(each) for each in images}
        names = [str(each["name"]) for each in categories.values()]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{found}: an image or a category lacks a key or has a wrong value: {error}") from None
    if len(set(names)) < len(names):
        raise UserError(
            f"{found}: two categories have the same name: {choices(sorted({n for n in names if names.count(n) > 1}))}"
        )
    for each in content["annotations"]:
        try:
            problem = _problem(each, sizes, categories)
        except (TypeError, ValueError, OverflowError) as error:  # a list where a number should be, and whatever else
            problem = f"has a value of a wrong kind: {error}"
        if problem:
            skipping(UserError(f"{found}, annotation {each.get('id') if isinstance(each, dict) else each!r}: {problem}"))
        else:
            of_image[each["image_id"]].append(each)
    return Annotations(found, images, {key: tuple(value) for key, value in of_image.items()}, categories)


def _size(image: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width; masks are made as large."""
    height, width = int(image["height"]), int(image["width"])
    if not image["file_name"] or not (height > 0 and width > 0 and height * width <= LARGEST):
        raise ValueError(f"file_name={image['file_name']!r}, {height} × {width} pixels")
    return height, width


def _problem(each: Any, images: Mapping[int, tuple[int, int]], categories: Mapping[int, Mapping[str, Any]]) -> str | None:
    if not isinstance(each, dict):
        return "is no mapping"
    if each.get("image_id") not in images:
        return f"there is no image {each.get('image_id')}"
    if each.get("category_id") not in categories:
        return f"there is no category {each.get('category_id')}"
    box, points = each.get("bbox"), each.get("keypoints")
    if box is None or not _numbers(box, 4) or box[2] <= 0 or box[3] <= 0:
        return f"bbox={box} is not x, y, width, height with an area"
    if points is not None and not _numbers(points, 3 * len(categories[each["category_id"]].get("keypoints") or ())):
        return "keypoints are not x, y, v for each point of its category"
    float(each.get("area", 0))
    if each.get("segmentation"):
        try:
            masks.check(each["segmentation"], *images[each["image_id"]])
        except ValueError as error:
            return str(error)
    return None


def _numbers(values: Any, count: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value) for value in values)
    )
