"""What a stage gives as one vector per example, for gates and other small things that read vectors."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

_SIDE = 4
"""Rows and columns that are left of a map."""


class Vector(nn.Module):
    """A vector [..., width] from each example [..., *shape]; there are no parameters.

    A vector (d,) stays as it is. A sequence (L, d) becomes the mean over the positions that are there, zero where there are
    none. A map (C, H, W) is averaged over a grid of at most 4 × 4 fields, as adaptive average pooling does, and flattened to
    C · min(4, H) · min(4, W) numbers. That is done with one matrix for the rows and one for the columns, whose backward pass,
    other than that of adaptive pooling on CUDA, gives the same digits at every run.

    Args:
        shape: of one example, as ``Encoder.shapes`` gives it.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.width = (
            self.shape[-1] if len(self.shape) < 3 else prod(self.shape[:-2]) * prod(min(_SIDE, n) for n in self.shape[-2:])
        )
        self.pooled = len(self.shape) > 2 and max(self.shape[-2:]) > _SIDE
        height, breadth = self.shape[-2:] if self.pooled else (0, 0)
        self.register_buffer("rows", averages(height, min(_SIDE, height)), persistent=False)
        self.register_buffer("columns", averages(breadth, min(_SIDE, breadth)), persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[..., N, width] from [..., N, *shape]; ``mask`` [N, L] says which positions of a sequence are there."""
        dimensions = len(self.shape)
        if dimensions == 1:
            return x
        if dimensions == 2:
            return _mean(x, mask)
        if self.pooled:
            x = (x.mT @ self.rows).mT @ self.columns
        return x.flatten(-dimensions)


def _mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """[..., N, d] from [..., N, L, d]."""
    if mask is None:
        return x.mean(-2)
    return x.masked_fill(~mask.unsqueeze(-1), 0).sum(-2) / mask.sum(-1, keepdim=True).clamp(min=1)


def averages(size: int, fields: int) -> Tensor:
    """[size, fields]: the share of each of ``size`` pixels in the mean of a field; field i of f has ⌊i s/f⌋ … ⌈(i+1) s/f⌉ - 1."""
    shares = torch.zeros(size, fields)
    for i in range(fields):
        first, end = i * size // fields, -(-(i + 1) * size // fields)
        shares[first:end, i] = 1 / (end - first)
    return shares
