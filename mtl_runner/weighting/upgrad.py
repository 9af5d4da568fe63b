"""Unconflicting projection of gradients (UPGrad)."""

from collections.abc import Sequence
from typing import Annotated, Unpack

import torch
from annotated_types import Gt
from torch import Tensor

from mtl_runner.weighting.gradient import GramianOptions, GramianWeighting
from mtl_runner.weighting.solvers import conflict, nonnegative_quadratic


class UPGrad(GramianWeighting):
    """The mean of the tasks' gradients, each moved as little as need be to conflict with none of them.

    Σ_i π(g_i) / T, where π(g) is the d nearest to g with ⟨g_t, d⟩ ≥ 0 for all t: π(g_i) = Σ_t v_t g_t with v = argmin of vᵀ G v
    over v ≥ e_i. Quinton & Rey, Jacobian Descent for Multi-Objective Optimization, 2024 (arXiv 2406.16232).

    As in the authors' TorchJD, G is divided by its trace and ``reg_eps`` is added to its diagonal, so that inner products may be
    as small as -``reg_eps`` v_t Σ_s ‖g_s‖²; but small gradients are scaled like others, where TorchJD takes them for zero.
    Weights are at least 1/T; those of tasks without conflicts sum to 1. Heads take their own gradients. T
    backward passes through the trunk; T × P numbers.

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
        additions = two_tasks(matrix) if matrix.shape[-1] == 2 else many_tasks(matrix, kept)
        return (kept + additions) / kept.sum(-1, keepdim=True).clamp_min(1)


def many_tasks(matrix: Tensor, kept: Tensor) -> Tensor:
    """What the projections of the gradients that are ``kept`` add to the weights."""
    return (kept.unsqueeze(-2) @ nonnegative_quadratic(matrix, matrix)).squeeze(-2)


def two_tasks(matrix: Tensor) -> Tensor:
    """The same: where they conflict, each becomes orthogonal to the other."""
    return conflict(matrix) / matrix.diagonal(dim1=-2, dim2=-1)


def regularized(gramian: Tensor, reg_eps: float) -> Tensor:
    """The Gramian with a trace of 1, and more on the diagonal."""
    trace = gramian.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    matrix = gramian / trace.clamp_min(torch.finfo(gramian.dtype).tiny)
    matrix.diagonal(dim1=-2, dim2=-1).add_(reg_eps)
    return matrix
