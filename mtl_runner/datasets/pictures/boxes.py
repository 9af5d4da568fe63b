"""Boxes around objects, by image: from a file with a line for each box, or from a cell that holds all of an image.

A cell is a list of structures (x1, y1, x2, y2, class), or the text ``x1 y1 x2 y2 class; x1 y1 x2 y2 class``; an empty text or
list means an image without objects, a missing one an image of which nobody said what is in it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from mtl_runner.datasets.rows.columns import categories
from mtl_runner.datasets.rows.preparation import read_numbers
from mtl_runner.datasets.rows.reading import Reading, where
from mtl_runner.datasets.skipping import Skipping
from mtl_runner.errors import UserError, choices, nearest

CORNERS = (("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"), ("left", "top", "right", "bottom"))
SIZES = (("x", "y", "width", "height"), ("x_1", "y_1", "width", "height"), ("x", "y", "w", "h"))
CLASS = ("class", "label", "category")
ONLY = "object"
"""Class of boxes that have none."""
FIELDS = (*CORNERS[0], "class")
KIND = pa.list_(pa.struct([(name, pa.float64()) for name in CORNERS[0]] + [("class", pa.string())]))
FORM = "'x1 y1 x2 y2 class; x1 y1 x2 y2 class'"

Box = tuple[float, float, float, float, str]


@dataclass(frozen=True)
class BoxColumns:
    """Where a file of boxes has what."""

    image: str
    numbers: tuple[str, str, str, str]
    sized: bool
    """Whether the last two numbers are width and height, and not the other corner."""
    label: str | None

    @classmethod
    def of(cls, table: pa.Table, image: str) -> "BoxColumns":
        """By their names.

        Raises:
            UserError: with the names that were looked for.
        """
        names = table.schema.names
        if image not in names:
            said = f"{where(table)} has no column '{image}' with the images{nearest(image, names)}"
            raise UserError(f"{said}; it has: {choices(names)}")
        for numbers in (*CORNERS, *SIZES):
            if set(numbers) <= set(names):
                label = next((name for name in CLASS if name in names), None)
                return cls(image, numbers, numbers in SIZES, label)
        wanted = " or ".join("(" + ", ".join(numbers) + ")" for numbers in (CORNERS[0], SIZES[0]))
        raise UserError(f"{where(table)} has no columns {wanted} for boxes; it has: {choices(names)}")


def by_image(table: pa.Table, image: str, images: Sequence[str], reading: Reading, skipping: Skipping) -> pa.Array:
    """The boxes of each of ``images``, as cells; those of a box file."""
    columns = BoxColumns.of(table, image)
    numbers = np.stack([read_numbers(table, name, reading.missing) for name in columns.numbers], 1)
    if columns.sized:
        numbers[:, 2:] += numbers[:, :2]
    names = [(name or "").strip() for name in table.column(image).cast(pa.string()).to_pylist()]
    labels: Sequence[str | None] = [ONLY] * len(names)
    if columns.label is not None:
        spellings, rows = categories(table.column(columns.label), reading.missing)
        labels = [spellings[row] for row in rows]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in images}
    for row, (name, box, label) in enumerate(zip(names, numbers.tolist(), labels, strict=True)):
        problem = _problem(box, label) or (None if name in found else f"image {name!r} is not among those with labels")
        if problem:
            skipping(UserError(f"{where(table, row)}: {problem}"))
        else:
            found[name].append(dict(zip(FIELDS, (*box, label), strict=True)))
    return pa.array([found[name] for name in images], KIND)


def _problem(box: Sequence[float], label: str | None) -> str | None:
    if any(map(math.isnan, box)):
        return "a number of the box is missing"
    if not all(map(math.isfinite, box)):
        return f"the box from ({box[0]:g}, {box[1]:g}) to ({box[2]:g}, {box[3]:g}) has no end"
    if not (box[2] > box[0] and box[3] > box[1]):
        return f"the box from ({box[0]:g}, {box[1]:g}) to ({box[2]:g}, {box[3]:g}) has no area"
    return None if label is not None else "the box has no class"


def cells(
    column: pa.ChunkedArray | pa.Array, missing: Sequence[str], place: Callable[[int], str], skipping: Skipping | None = None
) -> list[list[Box] | None]:
    """The boxes of each row; None where nobody said.

    Args:
        column: of cells.
        missing: texts that mean that nobody said.
        place: of a row, for messages.
        skipping: what is done about a box that is none, and about a text that is no list of boxes: the row is one of which
            nobody said what is in it. None: both raise ``UserError``.
    """
    skip = skipping or Skipping("stop", 0)
    found: list[list[Box] | None] = []
    for row, cell in enumerate(column.to_pylist()):
        boxes, problems = _sound(cell, missing)
        for problem in problems:
            skip(UserError(f"{place(row)}: {problem}"))
        found.append(boxes)
    return found


def as_column(rows: Sequence[list[Box] | None]) -> pa.Array:
    """The cells that ``cells`` reads as these boxes."""
    found = [None if boxes is None else [dict(zip(FIELDS, box, strict=True)) for box in boxes] for boxes in rows]
    return pa.array(found, KIND)


def _sound(cell: Any, missing: Sequence[str]) -> tuple[list[Box] | None, list[str]]:
    """The boxes of a cell that can be used, and what is wrong with each of the others."""
    try:
        read = _parsed(cell, missing)
    except (ValueError, TypeError, KeyError):
        return None, [f"{str(cell)[:60]!r} is no list of boxes, as in {FORM}"]
    if read is None:
        return None, []
    boxes: list[Box] = []
    problems: list[str] = []
    for x1, y1, x2, y2, label in read:
        problem = _problem((x1, y1, x2, y2), label)
        if problem is None and label is not None:
            boxes.append((x1, y1, x2, y2, label))
        else:
            problems.append(str(problem))
    return boxes, problems


def _parsed(cell: Any, missing: Sequence[str]) -> list[tuple[float, float, float, float, str | None]] | None:
    if cell is None or (isinstance(cell, str) and cell.strip() and cell.strip() in missing):
        return None
    boxes: list[tuple[float, float, float, float, str | None]] = []
    if not isinstance(cell, str):
        for box in cell:
            x1, y1, x2, y2 = (float(math.nan if box[name] is None else box[name]) for name in CORNERS[0])
            boxes.append((x1, y1, x2, y2, None if box["class"] is None else str(box["class"])))
        return boxes
    for text in cell.split(";"):
        if text.strip():
            *numbers, label = text.split(maxsplit=4) if len(text.split()) > 4 else [*text.split(), ONLY]
            x1, y1, x2, y2 = (float(number) for number in numbers)
            boxes.append((x1, y1, x2, y2, label.strip()))
    return boxes


def classes_of(rows: Sequence[list[Box] | None]) -> tuple[str, ...]:
    """The classes that occur, by name."""
    return tuple(sorted({box[4] for boxes in rows for box in boxes or ()}))


def as_targets(rows: Sequence[list[Box] | None], windows: Tensor, classes: Mapping[str, int]) -> Tensor:
    """Boxes in shares of the windows [N, 4], cut at their edges, and classes: [N, M, 5] float32.

    A box of which less than a quarter is in the window goes, as does one of an unknown class; class -1 is padding, an
    image of which nobody said what is in it NaN throughout.
    """
    most = max([1, *(len(boxes or ()) for boxes in rows)])
    targets = torch.zeros(len(rows), most, 5)
    targets[..., 4] = -1
    for place, (boxes, window) in enumerate(zip(rows, windows.double().tolist(), strict=True)):
        if boxes is None:
            targets[place] = torch.nan
            continue
        left, top, width, height = window
        for number, (x1, y1, x2, y2, label) in enumerate(box for box in boxes if box[4] in classes):
            x1, x2 = ((x - left) / width for x in (x1, x2))
            y1, y2 = ((y - top) / height for y in (y1, y2))
            cut = [min(max(value, 0.0), 1.0) for value in (x1, y1, x2, y2)]
            if (cut[2] - cut[0]) * (cut[3] - cut[1]) >= 0.25 * (x2 - x1) * (y2 - y1):
                targets[place, number] = torch.tensor([*cut, float(classes[label])])
    return targets
