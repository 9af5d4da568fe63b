"""Conflict-free inverse gradients (ConFIG)."""

import torch
from torch import Tensor

from mtl_runner.weighting.gradient import GramianWeighting
from mtl_runner.weighting.imtl_g import RANK, impartial, inverse_norms


class ConFIG(GramianWeighting):
    """Along the direction u that makes the same angle with every task's gradient, as far as these reach: Σ_t ⟨g_t, u⟩ u.

    Liu, Chu & Thuerey, ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks, ICLR 2025, equation 2,
    with equal weights of the directions. With J the gradients, D their norms and C their cosines, u ∝ Jᵀ D⁻¹ C⁺ 1: the paper's
    pseudo-inverse of the unit gradients, from inner products alone. Where C is singular the angles may differ, and are nearest
    to equal in the least squares. Where no direction is left, as between two opposed gradients, the update is zero.

    The weights are those of a sum; they may be negative. A task whose gradient is zero weighs 0. Heads take their own
    gradients, as in the authors' code. T backward passes through the trunk; T × P numbers.
    """

    def unit(self, weights: Tensor, active: Tensor) -> Tensor | float:
        """1: the weights are those of a sum."""
        return 1.0

    def weights(self, gramian: Tensor, losses: Tensor, active: Tensor) -> Tensor:
        if gramian.shape[-1] == 2:
            return two_tasks(gramian)
        direction = impartial(gramian)
        products = (gramian @ direction.unsqueeze(-1)).squeeze(-1)
        square = (products * direction).sum(-1, keepdim=True)
        lengths = products.sum(-1, keepdim=True) / torch.where(square > 1e-12, square, torch.inf)
        return (direction * lengths).masked_fill(~active, 0)


def two_tasks(gramian: Tensor) -> Tensor:
    """The mean of both norms over each, as u is along the sum of the unit gradients; 0 where these are opposed."""
    inverse = inverse_norms(gramian)
    inner = gramian.flip(-1).diagonal(dim1=-2, dim2=-1)
    norms = gramian.diagonal(dim1=-2, dim2=-1).sqrt()
    products = norms * norms.flip(-1)
    total = norms.sum(-1, keepdim=True) / (inverse > 0).sum(-1, keepdim=True).clamp_min(1)
    return inverse * total * (products + inner >= RANK * (products - inner))
