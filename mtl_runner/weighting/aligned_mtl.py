"""Independent component alignment (Aligned-MTL)."""

from collections.abc import Sequence
from typing import Literal, Unpack

import torch
from torch import Tensor

from mtl_runner.weighting.gradient import GramianOptions, GramianWeighting
from mtl_runner.weighting.imtl_g import RANK

ScaleMode = Literal["min", "median", "rmse"]


class AlignedMTL(GramianWeighting):
    """The sum of the gradients after their principal components were made equally long.

    With the eigenvalues λ_r and eigenvectors v_r of the Gramian, w = σ Σ_r v_r v_rᵀ 1 / √λ_r. The matrix Σ_r σ v_r v_rᵀ / √λ_r
    is the one nearest to the gradients' that has orthogonal rows of length σ. Senushkin et al., Independent Component
    Alignment for Multi-Task Learning, CVPR 2023, Algorithm 1, with equal preferences.

    Eigenvalues below 4e-6 of the largest count as zero, since gradients are in float32; so gradients five hundred times
    shorter than the others' lose their weight. The weights are those of a sum, as in the authors' code, and may be
    negative; a task whose gradient is zero weighs 0. Heads take their own gradients, its default as well. T backward passes
    through the trunk; T × P numbers.

    Args:
        tasks: names of the tasks.
        scale_mode: σ² is the smallest of the eigenvalues that are not zero (min, the paper's), their median, the lower of two,
            or their mean (rmse).
        options: those of the Gramian-based weightings.
    """

    def __init__(self, tasks: Sequence[str], *, scale_mode: ScaleMode = "min", **options: Unpack[GramianOptions]) -> None:
        super().__init__(tasks, **options)
        self.scale_mode = scale_mode

    def unit(self, weights: Tensor, active: Tensor) -> Tensor | float:
        """1: the weights are those of a sum."""
        return 1.0

    def weights(self, gramian: Tensor, losses: Tensor, active: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(gramian)
        kept = (values > RANK * values[..., -1:]) & (values[..., -1:] > 0)
        moving = gramian.diagonal(dim1=-2, dim2=-1) > 0
        part = vectors.mT @ moving.to(gramian.dtype).unsqueeze(-1)
        scaled = (self.square(values, kept) / values.masked_fill(~kept, torch.inf)).sqrt()
        weights: Tensor = vectors @ (scaled.unsqueeze(-1) * part)
        return weights.squeeze(-1).masked_fill(~moving, 0)

    def square(self, values: Tensor, kept: Tensor) -> Tensor:
        """σ², [..., 1]; ``values`` ascend."""
        rank = kept.sum(-1, keepdim=True)
        if self.scale_mode == "rmse":
            return (values * kept).sum(-1, keepdim=True) / rank.clamp_min(1)
        place = values.shape[-1] - rank
        if self.scale_mode == "median":
            place = place + (rank - 1).clamp_min(0) // 2
        return values.gather(-1, place.clamp_max(values.shape[-1] - 1)).clamp_min(0)
