"""Stochastic direction-oriented multi-objective gradient descent (SDMGrad)."""

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from mtl_runner.weighting.base import Objectives, Scale
from mtl_runner.weighting.gradient import GramianWeighting, Heads, Normalize
from mtl_runner.weighting.gradients import TaskGradients
from mtl_runner.weighting.part import PartGradients
from mtl_runner.weighting.simplex import OnSimplex, closest, inverse_ranks
from mtl_runner.weighting.tasks import mean_gradients


class SDMGrad(GramianWeighting):
    """Σ_t (w_t + λ/n) / (1 + λ) · g_t(ζ), where w minimises ‖Σ_t (w_t + λ/n) g_t‖² over the simplex, stochastically.

    w takes ``steps`` projected steps with momentum, w ← Π_Δ(w - lr · v), v ← momentum · v + A (w + λ/n), from where it was
    after the last batch, with A = J(ξ) J(ξ')ᵀ / s² and s the mean of the square roots of its diagonal (0 where negative).
    ξ, ξ' and ζ are independent thirds of the batch. Xiao, Ban & Ji, Direction-oriented Multi-objective Learning: Simple and
    Provable Stochastic Algorithms, NeurIPS 2023, Algorithm 1; A, momentum and the defaults are those of its reimplementations.

    The weights sum to 1. w starts at 1/T; a task without labels keeps its w while the others share the rest. Heads take
    their own gradients, the mean of the thirds in which they have labels; a task without any in ζ moves its head alone. A batch
    that is too small to be divided is used three times.

    Three forward passes over a third of the batch; 2T + 1 backward passes through the trunk; 3 × T × P numbers.

    Args:
        tasks: names of the tasks.
        lambda_: λ, how close the update stays to the mean gradient; 0 is the min-norm direction.
        lr: step of w.
        momentum: of w, within a batch.
        steps: of w for each batch.
        every, normalize, heads, scale: those of the Gramian-based weightings; there are no ``gradients`` of features, as the
            rows of the thirds differ. ``normalize`` takes the norms on ξ and ξ'.
    """

    draws: ClassVar[int] = 3

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        lambda_: Annotated[float, Ge(0)] = 0.3,
        lr: Annotated[float, Gt(0)] = 10.0,
        momentum: Annotated[float, Ge(0), Lt(1)] = 0.5,
        steps: Annotated[int, Ge(1)] = 20,
        every: Annotated[int, Ge(1)] = 1,
        normalize: Normalize = "none",
        heads: Heads = "own",
        scale: Scale = "comparable",
    ) -> None:
        super().__init__(tasks, every=every, normalize=normalize, heads=heads, scale=scale)
        self.lambda_ = lambda_
        self.lr = lr
        self.momentum = momentum
        self.inner_steps = steps
        self.simplex = OnSimplex(len(tasks))

    def all_gradients(self, draws: Sequence[Objectives]) -> list[TaskGradients]:
        """Of the last draw only the weighted sum is needed."""
        *seen, last = draws
        return [*super().all_gradients(seen), PartGradients(last, ())]

    def statistic(self, jacobians: Sequence[Tensor], draws: Sequence[Objectives]) -> tuple[Tensor, Tensor]:
        first, second, _ = jacobians
        return first @ second.T, mean_gradients(jacobians[:2], draws[:2])

    def write(self, gradients: Sequence[TaskGradients], rows: Tensor, weights: Tensor) -> None:
        last = gradients[-1]
        assert isinstance(last, PartGradients)
        last.write_sum(weights)

    def weights(self, gramian: Tensor, losses: Tensor, active: Tensor) -> Tensor:
        """The paper's weights; a batch of problems, unlike a step, starts from equal weights and is not remembered."""
        count = active.sum(-1, keepdim=True).clamp_min(1).to(losses)
        scale = gramian.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt().sum(-1, keepdim=True) / count
        slopes = gramian * (self.lr / scale.masked_fill(scale == 0, 1) ** 2)[..., None]
        pull = active * (self.lambda_ / count)
        weights = self._descended(self.simplex.start(losses, active), slopes, pull, active).masked_fill(~active, 0)
        self.simplex.keep(weights, active)
        return (weights + pull) / (1 + self.lambda_)

    def _descended(self, start: Tensor, slopes: Tensor, pull: Tensor, active: Tensor) -> Tensor:
        """w after the inner steps, in few and small operations; ``slopes`` are lr · A, so that v is lr times the paper's."""
        constant = (slopes @ pull[..., None])[..., 0].masked_fill(~active, torch.finfo(start.dtype).max / 4)  # keeps them at 0
        weights, constant = (each.reshape(-1, 1, each.shape[-1]) for each in (start, constant))
        slopes = slopes.reshape(-1, *slopes.shape[-2:]).mT
        inverses, velocity = inverse_ranks(start), torch.zeros_like(weights)
        for _ in range(self.inner_steps):
            velocity = torch.baddbmm(constant, weights, slopes).add_(velocity, alpha=self.momentum)
            weights = closest(weights - velocity, inverses)
        return weights.view_as(start)
