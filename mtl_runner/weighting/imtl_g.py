"""Impartial multi-task learning, its gradient part (IMTL-G)."""

import torch
from torch import Tensor

from mtl_runner.weighting.gradient import GramianWeighting
from mtl_runner.weighting.proportional import cosines

RANK = 32 * torch.finfo(torch.float32).eps
"""Eigenvalues below this part of the largest count as zero: Gramians come from gradients in float32."""
LARGEST = 1e3


class IMTLG(GramianWeighting):
    """Σ_t w_t g_t with the same projection on every task's unit gradient, Σ_t w_t = 1.

    Liu et al., Towards Impartial Multi-task Learning, ICLR 2021. With norms D and cosines C of the gradients, w ∝ D⁻¹ C⁺ 1,
    which is the paper's closed form where C is regular. Where it is singular, and no such combination may exist, the
    pseudo-inverse makes the projections equal in the least squares.

    Weights may be negative. Where those of D⁻¹ C⁺ 1 sum to less than 1/1000 of their absolute values the paper's update would be
    huge, or, with a negative sum, increase every loss; the absolute values are made to sum to 1 there. A task whose
    gradient is zero weighs 0. With two tasks none of that is needed: w_t ∝ 1/‖g_t‖. Heads take their own gradients, as in the
    paper. T backward passes through the trunk; T × P numbers.
    """

    def weights(self, gramian: Tensor, losses: Tensor, active: Tensor) -> Tensor:
        if gramian.shape[-1] == 2:
            weights = inverse_norms(gramian)
            return weights / weights.sum(-1, keepdim=True).clamp_min_(torch.finfo(weights.dtype).tiny)
        weights = impartial(gramian)
        total, size = weights.sum(-1, keepdim=True), weights.abs().sum(-1, keepdim=True)
        total = torch.where(total * LARGEST < size, size, total)
        return (weights / total.masked_fill(total == 0, 1)).masked_fill(~active, 0)


def inverse_norms(gramian: Tensor) -> Tensor:
    """1 / ‖g_t‖, [..., T]; 0 for a gradient of zero."""
    squares = gramian.diagonal(dim1=-2, dim2=-1)
    return squares.masked_fill(squares <= 0, torch.inf).rsqrt_()


def impartial(gramian: Tensor) -> Tensor:
    """D⁻¹ C⁺ 1, [..., T]: weights of the combination whose projections on the unit gradients are nearest to 1."""
    matrix, norms, moving = cosines(gramian)
    values, vectors = torch.linalg.eigh(matrix)
    inverse = torch.where(values > RANK * values[..., -1:], values, torch.inf).reciprocal()
    part = vectors.mT @ moving.to(gramian.dtype).unsqueeze(-1)
    scaled: Tensor = vectors @ (inverse.unsqueeze(-1) * part)
    return scaled.squeeze(-1) / norms * moving
