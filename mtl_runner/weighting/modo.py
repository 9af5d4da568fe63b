"""Multi-objective gradient with double sampling (MoDo)."""

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from mtl_runner.weighting.base import Objectives, Scale
from mtl_runner.weighting.gradient import GramianWeighting, Heads, Normalize
from mtl_runner.weighting.simplex import OnSimplex, project
from mtl_runner.weighting.tasks import mean_gradients


class MoDo(GramianWeighting):
    """Σ_t λ_t (g_t(z₁) + g_t(z₂)) / 2 with λ ← Π_Δ(λ - γ (J(z₁) J(z₂)ᵀ + ρI) λ) in each step.

    J(z₁) and J(z₂) hold the tasks' gradients on two independent halves z₁, z₂ of the batch, so that their product is
    unbiased; Π_Δ projects onto the simplex. Chen, Fernando, Ying & Chen, Three-Way Trade-Off in Multi-Objective Learning,
    NeurIPS 2023 (Fernando et al., JMLR 2024), Algorithm 1. γ and ρ are those of the authors' code.

    The weights sum to 1. λ starts at 1/T; a task without labels keeps its λ while the others share the rest. Heads take
    their own gradients, the mean of both halves; one that has labels in one half only takes its gradients from there, and its
    products with that half's others as 0. A batch that is too small to be divided is used twice.

    Two forward passes over half of the batch, T backward passes through the trunk for each; 3 × T × P numbers.

    Args:
        tasks: names of the tasks.
        gamma: γ, the step of λ; it depends on the unit of the gradients.
        rho: ρ, the pull towards equal weights.
        every, normalize, heads, scale: those of the Gramian-based weightings; there are no ``gradients`` of features, as the
            rows of the halves differ.
    """

    draws: ClassVar[int] = 2

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        gamma: Annotated[float, Gt(0)] = 0.001,
        rho: Annotated[float, Ge(0)] = 0.1,
        every: Annotated[int, Ge(1)] = 1,
        normalize: Normalize = "none",
        heads: Heads = "own",
        scale: Scale = "comparable",
    ) -> None:
        super().__init__(tasks, every=every, normalize=normalize, heads=heads, scale=scale)
        self.gamma = gamma
        self.rho = rho
        self.simplex = OnSimplex(len(tasks))

    def statistic(self, jacobians: Sequence[Tensor], draws: Sequence[Objectives]) -> tuple[Tensor, Tensor]:
        first, second = jacobians
        return first @ second.T, mean_gradients(jacobians, draws)

    def weights(self, gramian: Tensor, losses: Tensor, active: Tensor) -> Tensor:
        """λ of this step; a batch of problems, unlike a step, starts from equal weights and is not remembered."""
        before = self.simplex.start(losses, active)
        slope = torch.einsum("...st,...t->...s", gramian, before) + self.rho * before
        weights = project(before - self.gamma * slope, active)
        self.simplex.keep(weights, active)
        return weights
