"""Projection of the mean gradient onto the dual cone (DualProj)."""

from collections.abc import Sequence
from typing import Annotated, Unpack

from annotated_types import Gt
from torch import Tensor

from mtl_runner.weighting.gradient import GramianOptions, GramianWeighting
from mtl_runner.weighting.solvers import nonnegative_quadratic
from mtl_runner.weighting.upgrad import regularized


class DualProj(GramianWeighting):
    """The mean of the tasks' gradients, moved as little as need be to conflict with none of them.

    π(Σ_t g_t / T), where π(g) is the d nearest to g with ⟨g_t, d⟩ ≥ 0 for all t; its weights are argmin of vᵀ G v over
    v ≥ 1/T. Named in Quinton & Rey, Jacobian Descent for Multi-Objective Optimization, 2024; the projection is that of
    Lopez-Paz & Ranzato, Gradient Episodic Memory for Continual Learning, NeurIPS 2017, with tasks in place of memories.

    ``reg_eps``, scale, heads and cost are those of UPGrad: weights are at least 1/T, and sum to 1 without conflicts; heads take
    their own gradients; T backward passes through the trunk; T × P numbers.

    Args:
        tasks: names of the tasks.
        reg_eps: what is added to the diagonal of the Gramian that has a trace of 1.
        options: those of the Gramian-based weightings.
    """

    def __init__(
        self, tasks: Sequence[str], *, reg_eps: Annotated[float, Gt(0)] = 1e-4, **options: Unpack[GramianOptions]
    ) -> None:
        super().__init__(tasks, **options)
        self.reg_eps = reg_eps

    def weights(self, gramian: Tensor, losses: Tensor, active: Tensor) -> Tensor:
        matrix = regularized(gramian, self.reg_eps)
        kept = active.to(gramian.dtype)
        mean = (kept / kept.sum(-1, keepdim=True).clamp_min(1)).unsqueeze(-2)
        products = mean @ matrix
        additions = two_tasks(matrix, products) if matrix.shape[-1] == 2 else nonnegative_quadratic(matrix, products)
        return (mean + additions).squeeze(-2)


def two_tasks(matrix: Tensor, products: Tensor) -> Tensor:
    """The mean conflicts with one of two tasks at most, and becomes orthogonal to that."""
    return products.neg().relu_() / matrix.diagonal(dim1=-2, dim2=-1).unsqueeze(-2)
