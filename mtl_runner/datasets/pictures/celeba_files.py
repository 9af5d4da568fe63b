"""The text files that come with CelebA: a number of images, a line of names, and a line for each image; parts have no header."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtl_runner.errors import UserError

PARTS = ("train", "validation", "test")


def read_list(path: Path) -> tuple[list[str], list[str], NDArray[np.int64]]:
    """Names of the columns, names of the images [N], and their numbers [N, K].

    Raises:
        UserError: with the line that is not as it should be.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    if len(lines) < 3 or not lines[0].strip().isdigit():
        raise UserError(f"{path}, line 1: the number of images is expected, and names of columns in line 2")
    columns = lines[1].split()
    if columns[:1] == ["image_id"]:
        columns = columns[1:]
    images, values = _rows(path, lines[2:], 3, len(columns))
    if len(images) != int(lines[0]):
        raise UserError(f"{path} has {len(images):,} images, and its first line says {int(lines[0]):,}")
    return columns, images, values


def read_parts(path: Path) -> tuple[list[str], list[str]]:
    """Names of the images [N] and the part that each is in.

    Raises:
        UserError: with the line that is not as it should be.
    """
    images, values = _rows(path, path.read_text(encoding="utf-8").splitlines(), 1, 1)
    for row, value in enumerate(values[:, 0].tolist()):
        if not 0 <= value < len(PARTS):
            raise UserError(f"{path}, line {row + 1}: part {value}; allowed are 0 (training), 1 (validation) and 2 (test)")
    return images, [PARTS[value] for value in values[:, 0].tolist()]


def same_images(path: Path, images: list[str], expected: list[str], first: int) -> None:
    """Raises unless a file has the same images as another, in the same order; its own begin in line ``first``."""
    if images == expected:
        return
    row = next((row for row, pair in enumerate(zip(images, expected, strict=False)) if pair[0] != pair[1]), None)
    if row is None:
        raise UserError(f"{path} has {len(images):,} images and not {len(expected):,}, as the other files")
    raise UserError(f"{path}, line {row + first}: image {images[row]}, where the other files have {expected[row]}")


def _rows(path: Path, lines: list[str], first: int, count: int) -> tuple[list[str], NDArray[np.int64]]:
    images: list[str] = []
    values: list[list[int]] = []
    for number, line in enumerate(lines, start=first):
        if not line.strip():
            continue
        name, *cells = line.split()
        try:
            numbers = [int(cell) for cell in cells]
        except ValueError:
            raise UserError(f"{path}, line {number}: '{line.strip()[:60]}' holds something that is no whole number") from None
        if len(numbers) != count:
            raise UserError(f"{path}, line {number}: {len(numbers)} numbers and not {count}")
        images.append(name)
        values.append(numbers)
    return images, np.array(values, np.int64).reshape(len(values), count)
