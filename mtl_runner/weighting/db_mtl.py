"""Dual-balancing (DB-MTL)."""

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge, Lt
from torch import Tensor

from mtl_runner.weighting.base import Objectives, Scale, mean_weight
from mtl_runner.weighting.gradient import Heads, JacobianWeighting
from mtl_runner.weighting.memory import Memory

TINY = 1e-8


class DBMTL(JacobianWeighting):
    """Σ_t α_t ĝ_t with α_t = max_s ‖ĝ_s‖ / ‖ĝ_t‖: gradients of log losses, averaged over steps, all at the largest norm.

    ĝ_t ← β_k ĝ_t + (1 - β_k) g_t / (L_t + 1e-8), as ∇ log L = g / L, with β_k = β / k^``beta_sigma`` in step k. Lin, Jiang,
    Ye, Zhang, Chen, Chen, Liu & Kwok, Dual-Balancing for Multi-Task Learning, 2023, Algorithm 1; the defaults are those of
    the authors' code.

    Here ĝ_t starts at the task's first gradient, not at 0. A task without labels keeps ĝ_t but takes no part in the step. A
    task whose ĝ_t is 0 has no say.

    Reported weights are α_t / L_t: g_t's, where ĝ_t is the gradient of one step. They have the unit of 1 / L, so that the
    comparable scale divides by their mean. Heads take the gradients of the log losses, as in the paper: their own divided
    by L_t, on the comparable scale over the mean of 1 / L. T backward passes through the trunk; 3 × T × P numbers, of which
    T × P are kept from step to step and in the checkpoint.

    Args:
        tasks: names of the tasks.
        beta: β, how slowly ĝ_t follows.
        beta_sigma: how fast β decays; k counts the steps in which the task has labels.
        heads, scale: those of the gradient-based weightings. The logarithm stands in place of ``normalize``; there are no
            ``gradients`` of features, as the rows of the next batch are others.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        beta: Annotated[float, Ge(0), Lt(1)] = 0.9,
        beta_sigma: Annotated[float, Ge(0)] = 0.0,
        heads: Heads = "own",
        scale: Scale = "comparable",
    ) -> None:
        super().__init__(tasks, heads=heads, scale=scale)
        self.beta, self.beta_sigma = beta, beta_sigma
        self.memory = Memory(len(tasks))

    def unit(self, weights: Tensor, active: Tensor) -> Tensor | float:
        """The mean weight of this step: it is 1 / L."""
        return mean_weight(weights, active)

    def regroup(self, grouping: tuple[str, ...]) -> None:
        self.memory.regroup(grouping)

    def aggregate(self, jacobian: Tensor, losses: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        slopes = reciprocal(losses)
        steps = self.memory.begin(jacobian, active)[1].clamp_min(1)
        rows = self.memory.average(slopes.to(jacobian)[:, None] * jacobian, active, 1 - self.beta / steps**self.beta_sigma)
        norms = rows.norm(dim=1).masked_fill(~active, 0)
        balance = (norms.max() / norms.masked_fill(norms == 0, 1)).masked_fill(norms == 0, 0)
        return balance @ rows, (balance.to(slopes) * slopes).masked_fill(~active, 0)

    def at_once(self, draws: Sequence[Objectives]) -> bool:
        """No: private parameters take the gradients of log losses."""
        return False

    def private(self, weights: Tensor, losses: Tensor, active: Tensor) -> Tensor:
        if self.heads == "weighted":
            return weights
        slopes = reciprocal(losses).masked_fill(~active, 0)
        return slopes if self.scale == "paper" else slopes / mean_weight(slopes, active)


def reciprocal(losses: Tensor) -> Tensor:
    """d log(L) / dL, finite."""
    return 1 / (losses.clamp_min(0) + TINY)
