"""Gradient normalisation (GradNorm)."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from mtl_runner.weighting.base import Objectives, Scale
from mtl_runner.weighting.gradient import GramianWeighting, Heads, Normalize
from mtl_runner.weighting.gradients import TaskGradients
from mtl_runner.weighting.part import PartGradients

ROUNDING = 1e-5
"""A gap within so much of its target counts as none: among identical tasks the sign would be that of rounding errors."""


class GradNorm(GramianWeighting):
    """Σ_t w_t L_t with trained w_t that bring the norms w_t ‖g_t‖ to a common size, and slower tasks above it.

    The w_t descend L_grad = Σ_t | w_t ‖g_t‖ - c_t | with the constants c_t = mean_s(w_s ‖g_s‖) · r_t^α, where
    r_t = (L_t / L_t(0)) / mean_s(L_s / L_s(0)) is how slowly the task learns and L_t(0) its loss in the first step that has
    its labels. After each step they are scaled to the sum T. Chen, Badrinarayanan, Lee & Rabinovich, GradNorm: Gradient
    Normalization for Adaptive Loss Balancing in Deep Multitask Networks, ICML 2018, Algorithm 1.

    Weights start at 1 and sum to the number of tasks with labels, and weigh the heads too, as in the paper. They are trained
    by the model's optimizer, without weight decay, and kept above 0, on which the paper is silent. A loss L_t(0) of 0
    counts as 1e-8.

    The norms are those at the last shared layer: T backward passes that stop there, one through the whole trunk, and T × P
    numbers for this layer's P parameters; with ``layer: all`` T passes through the trunk and all its parameters.

    Args:
        tasks: names of the tasks.
        alpha: α, how strongly tasks are brought to a common pace; 0 makes the norms equal.
        layer: where norms are taken: ``last`` shared layer, weights and biases, or ``all`` shared parameters. The last layer is
            that of the stages or experts that two or more tasks reach, in all its copies and directions; gates, stitches, edges
            and normalisations are none. It is looked for again in each epoch, and where none is trained, all stands in its place.
        lr: learning rate of the weights; null: the model's.
        every, normalize, heads, scale: those of the Gramian-based weightings; ``layer`` stands in place of ``gradients``.
            The weights are trained in the steps that ``every`` leaves.
    """

    first: Tensor

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        alpha: Annotated[float, Ge(0)] = 1.5,
        layer: Literal["last", "all"] = "last",
        lr: Annotated[float, Gt(0)] | None = None,
        every: Annotated[int, Ge(1)] = 1,
        normalize: Normalize = "none",
        heads: Heads = "weighted",
        scale: Scale = "comparable",
    ) -> None:
        super().__init__(tasks, every=every, normalize=normalize, heads=heads, scale=scale)
        self.alpha = alpha
        self.layer = layer
        self.gramian_of = "parameters" if layer == "all" else "parameters (last layer)"
        self.lr = lr
        self.task_weights = nn.Parameter(torch.ones(len(tasks)))
        self.register_buffer("first", torch.zeros(len(tasks)))

    def unit(self, weights: Tensor, active: Tensor) -> Tensor | float:
        """1: the weights sum to the number of active tasks."""
        return 1.0

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [group if self.lr is None else group | {"lr": self.lr} for group in super().parameter_groups()]

    def task_gradients(self, objectives: Objectives) -> TaskGradients:
        if self.layer == "all":
            return super().task_gradients(objectives)
        return PartGradients(objectives, objectives.last_layer or objectives.shared)

    def write(self, gradients: Sequence[TaskGradients], rows: Tensor, weights: Tensor) -> None:
        (each,) = gradients
        if isinstance(each, PartGradients):
            each.write_sum(weights)
        else:
            super().write(gradients, rows, weights)

    def weights(self, gramian: Tensor, losses: Tensor, active: Tensor) -> Tensor:
        """The weights, whose gradient it leaves with them; a batch of problems, unlike a step, trains and remembers nothing."""
        count = active.sum(-1, keepdim=True)
        chosen = self.task_weights.detach().to(losses) * active
        weights = chosen * (count / chosen.sum(-1, keepdim=True).masked_fill(count == 0, 1))
        if active.dim() == 1:
            self.task_weights.grad = self._slopes(gramian.diagonal().sqrt(), weights, losses, active).to(self.task_weights.dtype)
        return weights

    def _slopes(self, norms: Tensor, weights: Tensor, losses: Tensor, active: Tensor) -> Tensor:
        """[T]: d L_grad / d w_t."""
        self.first.copy_(torch.where(active & (self.first == 0), losses.clamp_min(1e-8), self.first))
        count = active.sum().clamp_min(1)
        pace = (losses / self.first.to(losses)).masked_fill(~active, 0)
        rates = pace / (pace.sum() / count).clamp_min(torch.finfo(pace.dtype).tiny)
        targets = (weights * norms).sum() / count * rates**self.alpha
        gaps = weights * norms - targets
        return gaps.sign() * (gaps.abs() > ROUNDING * targets) * norms * active

    def after_step(self, recompute: Callable[[], Tensor]) -> None:
        """Scale the weights to the sum T."""
        with torch.no_grad():
            self.task_weights.clamp_(min=1e-6)
            self.task_weights.mul_(len(self.tasks) / self.task_weights.sum())
