"""Matrices that several measures need.

Shape legend: N rows, C columns, T tasks.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def pairwise(tasks: Sequence[str], of: Callable[[str, str], float]) -> Tensor:
    """[T, T] from a symmetric function of two different tasks; 1 on the diagonal."""
    matrix = torch.eye(len(tasks), dtype=torch.float64)
    for place, task in enumerate(tasks):
        for other in range(place):
            matrix[place, other] = matrix[other, place] = of(task, tasks[other])
    return matrix


def flat(values: Tensor) -> Tensor:
    """[N, C] from [N] or [N, …]."""
    return values[:, None].flatten(1)


def centred(columns: Tensor) -> Tensor:
    """[N, C], float64, with means 0."""
    columns = columns.double()
    return columns - columns.mean(0)


def ranks(columns: Tensor) -> Tensor:
    """Of each column [N, C], float64; equal values have the mean of their ranks."""
    from scipy.stats import rankdata

    return torch.from_numpy(rankdata(columns.double().numpy(), axis=0))


def orthonormal(columns: Tensor) -> Tensor:
    """[N, rank]: an orthonormal basis of what the centred columns [N, C] span."""
    left, values, _ = torch.linalg.svd(centred(columns), full_matrices=False)
    basis: Tensor = left[:, values > 1e-9 * len(columns) ** 0.5 * columns.abs().max()] if columns.numel() else left
    return basis
