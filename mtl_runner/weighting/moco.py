"""Multi-objective gradient correction (MoCo)."""

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from mtl_runner.weighting.base import Scale
from mtl_runner.weighting.gradient import Heads, JacobianWeighting, Normalize
from mtl_runner.weighting.memory import Memory
from mtl_runner.weighting.simplex import OnSimplex, project
from mtl_runner.weighting.tasks import wide


class MoCo(JacobianWeighting):
    """Σ_t λ_t y_t with tracked gradients y_t ← y_t - β_k (y_t - g_t) and λ ← Π_Δ(λ - γ_k (Y Yᵀ + ρI) λ), Y the rows y_t.

    In step k, β_k = β / k^``beta_sigma`` and γ_k = γ / k^``gamma_sigma``; Π_Δ projects onto the simplex. Fernando, Shen, Liu,
    Chaudhury, Murugesan & Chen, Mitigating Gradient Bias in Multi-Objective Learning, ICLR 2023, Algorithm 1; the defaults
    are those of the authors' code.

    Here y_t starts at the task's first gradient, not at 0, so that the first steps are not short. The authors' code tracks
    L_t g_t / ‖g_t‖ and has a softmax in place of the projection; both are left out, as in the paper.

    The weights sum to 1 and start at 1/T. A task without labels keeps y_t and λ_t but takes no part in the step: the others
    share the rest of the simplex. Heads take their own gradients. T backward passes through the trunk; 2 × T × P numbers, of
    which T × P are kept from step to step and in the checkpoint.

    Args:
        tasks: names of the tasks.
        beta: β, how far y_t follows the gradient.
        beta_sigma: how fast β decays; k counts the steps in which the task has labels.
        gamma: γ, the step of λ; it depends on the unit of the gradients.
        gamma_sigma: how fast γ decays.
        rho: ρ, the pull towards equal weights.
        normalize, heads, scale: those of the gradient-based weightings; there are no ``gradients`` of features, as the rows
            of the next batch are others.
    """

    taken: Tensor

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        beta: Annotated[float, Gt(0), Le(1)] = 0.5,
        beta_sigma: Annotated[float, Ge(0)] = 0.5,
        gamma: Annotated[float, Gt(0)] = 0.1,
        gamma_sigma: Annotated[float, Ge(0)] = 0.5,
        rho: Annotated[float, Ge(0)] = 0.0,
        normalize: Normalize = "none",
        heads: Heads = "own",
        scale: Scale = "comparable",
    ) -> None:
        super().__init__(tasks, normalize=normalize, heads=heads, scale=scale)
        self.beta, self.beta_sigma = beta, beta_sigma
        self.gamma, self.gamma_sigma = gamma, gamma_sigma
        self.rho = rho
        self.memory = Memory(len(tasks))
        self.simplex = OnSimplex(len(tasks))
        self.register_buffer("taken", torch.zeros((), dtype=torch.long))

    def regroup(self, grouping: tuple[str, ...]) -> None:
        self.memory.regroup(grouping)

    def aggregate(self, jacobian: Tensor, losses: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        steps = self.memory.begin(jacobian, active)[1].clamp_min(1)
        rows = self.memory.average(jacobian, active, self.beta / steps**self.beta_sigma)
        self.taken += 1
        before = self.simplex.start(losses, active)
        slope = wide(rows @ (rows.T @ before.to(rows.dtype))) + self.rho * before
        weights = project(before - self.gamma / self.taken**self.gamma_sigma * slope, active)
        self.simplex.keep(weights, active)
        return weights.to(rows.dtype) @ rows, weights
