"""Values at the pixels of an image from files: png and npy, and jpeg for the image itself; channels are the last axis there."""

import warnings
from collections.abc import Collection
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from mtl_runner.batch import MISSING
from mtl_runner.errors import UserError

Array = NDArray[Any]
MAPS = (".png", ".npy")
PICTURES = (*MAPS, ".jpg", ".jpeg")
_UNREADABLE = (ValueError, OSError, EOFError, SyntaxError, TokenError, RecursionError, OverflowError, MemoryError)
"""What numpy raises over the header of an npy file, which is a line of Python and may announce any size."""


def class_map(path: Path, classes: int | None, ignore: Collection[int]) -> Array:
    """Numbers of classes, int16 [H, W], -100 where a value is among ``ignore``; all others are from 0 to ``classes`` - 1.

    Raises:
        UserError: it cannot be read, has several channels or fractions, or holds a number that is no class; with the file.
    """
    values = _single(path, raw(path), "a class map holds one number for each pixel")
    if values.dtype.kind == "f":
        lost = ~np.isfinite(values)
        rounded = np.where(lost, 0, values).round()
        if (np.abs(values - rounded)[~lost] > 0).any():
            raise UserError(f"{path}: a class map holds whole numbers, and this one has fractions")
        values = np.where(lost, MISSING, rounded)
    values = values.astype(np.int64)
    missing = np.isin(values, [*ignore, MISSING])
    highest = np.iinfo(np.int16).max if classes is None else classes - 1
    wrong = values[~missing & ((values < 0) | (values > highest))]
    if len(wrong):
        raise UserError(
            f"{path}: holds the value {wrong[0]}, which is no class: there are 0 to {highest}; "
            "dataset.tasks.….ignore=[…] names values of pixels without a class"
        )
    return np.where(missing, MISSING, values).astype(np.int16)


def depth_map(path: Path, factor: float, ignore: Collection[float]) -> Array:
    """Depths, float32 [H, W]: value · ``factor``, NaN where a value is among ``ignore``, 0 or less, or not finite.

    Raises:
        UserError: it cannot be read, or has several channels; with the file.
    """
    values = _single(path, raw(path), "a map of depths holds one number for each pixel").astype(np.float32)
    known = np.isfinite(values) & (values > 0) & ~np.isin(values, np.asarray(list(ignore), np.float32))
    return np.where(known, values * np.float32(factor), np.float32(np.nan))


def normal_map(path: Path) -> Array:
    """Unit vectors, float32 [H, W, 3], NaN where a vector is 0 or not finite; of 8 bits v they are 2 v / 255 - 1.

    Raises:
        UserError: it cannot be read, or has not three channels; with the file.
    """
    values = raw(path)
    if values.ndim != 3 or values.shape[2] != 3:
        raise UserError(f"{path}: a map of normals has three channels (x, y, z), and this one is {_shape(values)}")
    coded = values.dtype == np.uint8
    vectors = values.astype(np.float32)
    missing = (vectors == 0).all(-1) | ~np.isfinite(vectors).all(-1)
    vectors = np.where(missing[..., None], np.nan, vectors * np.float32(2 / 255) - 1 if coded else vectors)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32)


def picture(path: Path) -> Array:
    """An image, float32 [C, H, W]: whole numbers of 8 bits divided by 255, so from 0 to 1; fractions as they are.

    Raises:
        UserError: it cannot be read, has more than 8 bits, or neither one nor three channels; with the file.
    """
    values = raw(path, colours=True)
    if values.dtype.kind in "iu" and values.dtype.itemsize > 1:
        raise UserError(f"{path}: an image of {8 * values.dtype.itemsize} bits for each colour; 8 are read, or npy with 0 … 1")
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[2] not in (1, 3):
        raise UserError(f"{path}: an image has one or three channels, behind height and width, and this one is {_shape(values)}")
    scaled = values.astype(np.float32) / (255 if values.dtype == np.uint8 else 1)
    if not np.isfinite(scaled).all():
        raise UserError(f"{path}: the image has values that are not finite")
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))


def raw(path: Path, colours: bool = False) -> Array:
    """What the file holds, [H, W] or [H, W, channels]: of a palette the index or, with ``colours``, its colour.

    Raises:
        UserError: it is not there, is not what its name says, or is cut short; with the file.
    """
    allowed = PICTURES if colours else MAPS
    if path.suffix.lower() not in allowed:
        raise UserError(f"{path}: an unknown extension; allowed: {', '.join(allowed)}")
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    values = _array(path) if path.suffix.lower() == ".npy" else _pixels(path, colours)
    if values.dtype.kind not in "biuf" or values.ndim not in (2, 3) or not values.size:
        raise UserError(f"{path}: not numbers for each pixel, but {_shape(values)} of {values.dtype}")
    return values


def _array(path: Path) -> Array:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except _UNREADABLE as error:
        raise UserError(f"{path}: not a whole npy file of numbers ({_first_line(error)})") from None


def _pixels(path: Path, colours: bool) -> Array:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # before the header is read, which gives it
            with Image.open(path, formats=("PNG", "JPEG") if colours else ("PNG",)) as image:
                image.load()
                if colours and image.mode in ("RGBA", "LA", "P", "1", "CMYK"):
                    image = image.convert("L" if image.mode in ("LA", "1") else "RGB")  # type: ignore[assignment]
                return np.array(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"{path}: not a whole image ({_first_line(error)})") from None


def _single(path: Path, values: Array, what: str) -> Array:
    if values.ndim == 3 and values.shape[2] == 1:
        return values[..., 0]
    if values.ndim != 2:
        raise UserError(f"{path}: {what}, and this one is {_shape(values)}")
    return values


def resized(values: Array, height: int, width: int) -> Array:
    """An image [C, H, W] by bilinear interpolation, averaged where it gets smaller."""
    if values.shape[1:] == (height, width):
        return values
    found = functional.interpolate(torch.from_numpy(values)[None], (height, width), mode="bilinear", antialias=True)
    return np.asarray(found[0].numpy())


def nearest(values: Array, height: int, width: int) -> Array:
    """A map [H, W, …] by the value at the pixel that lies under the centre of the new one: no value that was not there."""
    if values.shape[:2] == (height, width):
        return values
    rows, columns = (
        ((np.arange(after) + 0.5) * before / after).astype(np.int64)
        for before, after in zip(values.shape[:2], (height, width), strict=True)
    )
    return np.asarray(values[rows][:, columns])


def _shape(values: Array) -> str:
    return " × ".join(map(str, values.shape)) or "one number"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
