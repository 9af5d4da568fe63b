"""Masks as COCO writes them: polygons, and run lengths as a list or as text."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def decoded(segmentation: Any, height: int, width: int) -> Mask:
    """The mask [height, width] of an annotation's ``segmentation``: polygons, of which it is the union, or run lengths.

    Raises:
        ValueError: it is neither, or does not fit the image; the text says how.
    """
    if isinstance(segmentation, Mapping):
        return from_runs(segmentation, height, width)
    mask = np.zeros((height, width), bool)
    for polygon in _polygons(segmentation):
        mask |= from_polygon(polygon, height, width)
    return mask


def check(segmentation: Any, height: int, width: int) -> None:
    """Raises what ``decoded`` would, for a small part of its cost."""
    if isinstance(segmentation, Mapping):
        _lengths(segmentation, height, width)
    else:
        for polygon in _polygons(segmentation):
            _corners(polygon)


def _polygons(segmentation: Any) -> Sequence[Any]:
    if not isinstance(segmentation, Sequence) or isinstance(segmentation, str):
        kind = type(segmentation).__name__
        raise ValueError(f"a segmentation is a list of polygons or a mapping with counts and size, not {kind}")
    return segmentation


def from_polygon(polygon: Sequence[float], height: int, width: int) -> Mask:
    """The pixels whose centre (column + 1/2, row + 1/2) is inside of the polygon [x_1, y_1, x_2, y_2, …] by the even-odd rule.

    In each column of pixels, an edge turns over all rows whose centre is on or below the point where it crosses the line
    through the column's centres. COCO's own tools round corners to a fifth of a pixel first, and agree but for pixels whose
    centre is that near to an edge.
    """
    x, y = _corners(polygon)
    turned = np.zeros((height + 1, width), bool)
    for x0, y0, x1, y1 in zip(x, y, np.roll(x, -1), np.roll(y, -1), strict=True):
        first, last = sorted((x0, x1))
        columns = np.arange(max(0, np.ceil(first - 0.5)), min(width, np.ceil(last - 0.5)), dtype=np.int64)
        if len(columns):
            crossing = y0 + (columns + 0.5 - x0) * (y1 - y0) / (x1 - x0)
            turned[np.clip(np.ceil(crossing - 0.5), 0, height).astype(np.int64), columns] ^= True
    return np.asarray(np.logical_xor.accumulate(turned[:-1], axis=0))


def from_runs(runs: Mapping[str, Any], height: int, width: int) -> Mask:
    """From ``counts``: how many pixels in turn are outside and inside, down the columns, the left one first; and ``size``."""
    lengths = _lengths(runs, height, width)
    inside = np.arange(len(lengths)) % 2 == 1
    return np.repeat(inside, lengths).reshape(width, height).T


def _corners(polygon: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    try:
        points = np.asarray(polygon, np.float64)
    except (TypeError, ValueError):
        points = np.zeros(0)
    if points.ndim != 1 or len(points) < 6 or len(points) % 2 or not np.isfinite(points).all():
        raise ValueError("a polygon is a list of x, y, x, y, … with three points or more")
    return points[0::2], points[1::2]


def _lengths(runs: Mapping[str, Any], height: int, width: int) -> NDArray[np.int64]:
    size, counts = runs.get("size"), runs.get("counts")
    if size != [height, width]:
        raise ValueError(f"run lengths of size {size} in an image of {height} × {width}")
    try:
        lengths = np.asarray(_counts(counts) if isinstance(counts, str | bytes) else counts, np.int64)
    except (TypeError, OverflowError):
        lengths = np.zeros(0, np.int64)
    if lengths.ndim != 1 or (lengths < 0).any() or (lengths > height * width).any() or lengths.sum() != height * width:
        raise ValueError(f"run lengths have to be whole numbers that add up to the {height * width} pixels of the image")
    return lengths


def _counts(text: str | bytes) -> list[int]:
    """Run lengths from COCO's text.

    Characters from '0' (48) on stand for six bits: five of the number, the lowest first, and one that says whether more follow;
    the highest bit of the last five is the sign. From the fourth number on they are differences to the number two before.
    """
    found: list[int] = []
    value = shift = 0
    for code in text.encode("ascii", "replace") if isinstance(text, str) else text:
        bits = code - 48
        if not 0 <= bits < 64:
            raise ValueError(f"run lengths hold the character {chr(code)!r}, which stands for no number")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) << (shift - 4)
            found.append(value + (found[-2] if len(found) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("run lengths end in the middle of a number")
    return found
