"""Rows of numbers and categories as one table: what imbalanced-learn takes and gives.

Shape legend: N rows, M new ones, D numbers, K categories. A table has D + K columns, the numbers first and then the categories,
as numbers.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtl_runner.batch import Fields

Table = NDArray[np.float32]
Labels = NDArray[np.int64]
Mask = NDArray[np.bool_]


def as_table(fields: Fields) -> Table:
    """A stream's rows, [N, D + K]."""
    return np.concatenate([fields[name].numpy().astype(np.float32) for name in ("numeric", "categorical") if name in fields], 1)


def as_fields(table: Table, like: Fields) -> dict[str, Tensor]:
    """A table as the fields of the stream ``like``."""
    numbers = like["numeric"].shape[1] if "numeric" in like else 0
    parts = {"numeric": table[:, :numbers], "categorical": table[:, numbers:]}
    return {name: torch.from_numpy(parts[name].copy()).to(value.dtype) for name, value in like.items()}


def snapped(new: Table, table: Table, numbers: int) -> Table:
    """New rows in which columns of numbers with two values in ``table`` have the nearer of the two."""
    low, high = table[:, :numbers].min(0), table[:, :numbers].max(0)
    two = ((table[:, :numbers] == low) | (table[:, :numbers] == high)).all(0)
    part = new[:, :numbers]
    nearer = np.where(part - low > high - part, high, low)
    return np.concatenate([np.where(two, nearer, part), new[:, numbers:]], 1)


def space(table: Table, numbers: int, known: int) -> Any:
    """Points whose Euclidean distances count: the numbers as they are, and for categories that differ the median of the
    numbers' standard deviations among the ``known`` first rows, as in SMOTE-NC. Sparse where there are categories.
    """
    if numbers == table.shape[1]:
        return table
    from scipy import sparse
    from sklearn.preprocessing import OneHotEncoder

    unit = float(np.median(table[:known, :numbers].std(0))) if numbers else 1.0
    different = OneHotEncoder().fit_transform(table[:, numbers:]) * ((unit or 1.0) / np.sqrt(2))  # a difference has two entries
    return sparse.hstack([table[:, :numbers], different], format="csr")


def nearest(points: Any, known: Labels, new: Labels) -> Labels:
    """Which of the first rows of ``points``, of the classes ``known`` [n], is nearest to each of the others, of the classes
    ``new`` [M], among those of the same class; [M]."""
    from sklearn.neighbors import NearestNeighbors

    places = np.zeros(len(new), np.int64)
    for label in np.unique(new):
        theirs, mine = np.flatnonzero(known == label), np.flatnonzero(new == label)
        neighbours = NearestNeighbors(n_neighbors=1).fit(points[theirs])
        places[mine] = theirs[neighbours.kneighbors(points[len(known) + mine], return_distance=False)[:, 0]]
    return places
