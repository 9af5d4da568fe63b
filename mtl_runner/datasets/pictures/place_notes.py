"""What a person should know about the points and boxes of a data set."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from mtl_runner.datasets.pictures.boxes import Box
from mtl_runner.datasets.pictures.image_preparation import ImagePreparation
from mtl_runner.datasets.stratify import Ints


def place_notes(
    prepared: ImagePreparation,
    targets: Mapping[str, Tensor],
    parts: Mapping[str, Ints],
    table: pa.Table,
    boxes: Mapping[str, Sequence[list[Box] | None]],
) -> list[str]:
    """Points and boxes that are not in their images, and how many boxes there are of each class.

    Args:
        prepared: knows the tasks.
        targets: by task, [N, …], in shares of what is seen of the images.
        parts: rows that are used.
        table: the N rows, for the names of images.
        boxes: by detection task, those of each row as they were read.
    """
    rows = torch.from_numpy(np.sort(np.concatenate(list(parts.values()))))
    lines = []
    for name in prepared.points:
        points = targets[name][rows]
        outside = int(((points < 0) | (points > 1)).any(-1).sum())
        lines += [f"task {name}: {outside} points lie outside of their image"] if outside else []
    for name, classes in prepared.boxes.items():
        counts = torch.bincount(targets[name][rows][..., 4].nan_to_num(-1).long().flatten() + 1, minlength=len(classes) + 1)[1:]
        told = ", ".join(f"{label} {int(count)}" for label, count in zip(classes, counts, strict=True))
        lines.append(f"task {name}: boxes by class: {told}")
        given = torch.tensor([len(found or ()) for found in boxes[name]])
        lost = (given - (targets[name][..., 4] >= 0).sum(-1))[rows]
        if lost.any():
            seen = f"what fit={prepared.look.fit} shows of " if prepared.look.fit == "crop" else ""
            first = table.column(prepared.image)[int(rows[lost > 0][0])]
            lines.append(
                f"task {name}: {int(lost.sum())} boxes are not used, as less than a quarter of them lies in {seen}their image, "
                f"the first in {first}"
            )
    return lines
