"""Multiple-gradient descent (MGDA)."""

import torch
from torch import Tensor

from mtl_runner.weighting.gradient import GramianWeighting
from mtl_runner.weighting.solvers import RIDGE, correlations, nonnegative_quadratic


class MGDA(GramianWeighting):
    """The shortest convex combination of the tasks' gradients, which hurts none of them.

    w = argmin of ½ ‖Σ_t w_t g_t‖² over w ≥ 0, Σ_t w_t = 1. Désidéri, Multiple-gradient descent algorithm, Comptes Rendus
    Mathématique 2012; Sener & Koltun, Multi-Task Learning as Multi-Objective Optimization, NeurIPS 2018, with
    ``gradients: features`` for their MGDA-UB. Each ⟨g_t, Σ_s w_s g_s⟩ is at least the squared length of the combination, so that
    the update is zero where the point is Pareto-stationary, as it is if one task's gradient is zero.

    The quadratic program is solved exactly, where the authors' code takes Frank-Wolfe steps, with 1e-6 ‖g_t‖² added to the
    Gramian's diagonal, which decides between several solutions and outweighs the rounding of inner products. Weights sum to 1;
    short gradients get most. Heads take their own gradients, as in the paper. T backward passes through
    the trunk; T × P numbers.
    """

    def weights(self, gramian: Tensor, losses: Tensor, active: Tensor) -> Tensor:
        weights = two_tasks(gramian, active) if gramian.shape[-1] == 2 else many_tasks(gramian, active)
        return weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(gramian.dtype).tiny)


def many_tasks(gramian: Tensor, active: Tensor) -> Tensor:
    """y = argmin of ½ yᵀ G y - Σ y over y ≥ 0 is w / ‖Σ_t w_t g_t‖²; here for gradients of length one."""
    matrix, inverse = correlations(gramian)
    inverse = inverse * active
    inverse = inverse / inverse.amax(-1, keepdim=True).clamp_min(torch.finfo(gramian.dtype).tiny)
    return inverse * nonnegative_quadratic(matrix, -inverse.unsqueeze(-2)).squeeze(-2)


def two_tasks(gramian: Tensor, active: Tensor) -> Tensor:
    """In proportion to w: max(‖g_2‖² - ⟨g_1, g_2⟩, 0) for the first, and vice versa."""
    others = gramian.diagonal(dim1=-2, dim2=-1).flip(-1).mul_(1 + RIDGE).add_(torch.finfo(gramian.dtype).tiny)
    falls = others.sub_(gramian.flip(-1).diagonal(dim1=-2, dim2=-1)).relu_()
    return falls.masked_fill_(~active, 0)
