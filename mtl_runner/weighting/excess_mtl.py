"""Weights by excess risks (ExcessMTL)."""

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from mtl_runner.weighting.base import Scale
from mtl_runner.weighting.gradient import Heads, JacobianWeighting, Normalize
from mtl_runner.weighting.memory import Memory

EPSILON = 1e-7
LARGEST = 1e6
"""Of the ratios: a task whose first gradients are 0 has no initial excess risk."""


class ExcessMTL(JacobianWeighting):
    """Σ_t α_t g_t with α_t ∝ α_t exp(η E_t / E_t(0)): weight goes to the tasks that are farthest from their optimum.

    The excess risk, how far L_t is above its minimum, is estimated as E_t = g_tᵀ H_t⁻¹ g_t with the diagonal
    H_t = (Σ g_t² + 1e-7)^½ over all steps so far (Adagrad's), and E_t(0) is its mean over the task's first ``warmup`` steps,
    in which the ratio counts as 1. He, Zhou, Zhang, Yun, Xu, Zeng, Chilimbi & Zhao, Robust Multi-Task Learning with Excess
    Risks, ICML 2024, Algorithm 1. The paper warms up for 3 epochs; the authors' code, whose η is the default, for one step.

    The weights sum to 1 and start at 1/T; they weigh the heads too, as in the paper. A task without labels keeps its α_t while
    the others share the rest, and its H_t stays. T backward passes through the trunk; 3 × T × P numbers, of which T × P are
    kept from step to step and in the checkpoint.

    Args:
        tasks: names of the tasks.
        eta: η, the step of the weights.
        warmup: steps in which a task's E_t(0) is found.
        normalize, heads, scale: those of the gradient-based weightings; there are no ``gradients`` of features, as the rows
            of the next batch are others.
    """

    logs: Tensor
    initial: Tensor

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        eta: Annotated[float, Gt(0)] = 0.01,
        warmup: Annotated[int, Ge(1)] = 1,
        normalize: Normalize = "none",
        heads: Heads = "weighted",
        scale: Scale = "comparable",
    ) -> None:
        super().__init__(tasks, normalize=normalize, heads=heads, scale=scale)
        self.eta = eta
        self.warmup = warmup
        self.memory = Memory(len(tasks))
        self.register_buffer("logs", torch.zeros(len(tasks)))
        self.register_buffer("initial", torch.zeros(len(tasks)))

    def regroup(self, grouping: tuple[str, ...]) -> None:
        self.memory.regroup(grouping)

    def aggregate(self, jacobian: Tensor, losses: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        squares = jacobian.square()
        sums, steps = self.memory.begin(jacobian, active)
        sums += squares
        excess = (squares / (sums + EPSILON).sqrt()).sum(1).to(self.initial)
        warming = active & (steps <= self.warmup)
        self.initial.masked_fill_(active & (steps == 1), 0)  # also where the memory has started anew
        self.initial += (excess / self.warmup).masked_fill(~warming, 0)
        ratios = (excess / (self.initial + EPSILON)).clamp_max(LARGEST).masked_fill(warming, 1)
        self._move(self.eta * ratios, active)
        weights = self.logs.masked_fill(~active, -torch.inf).softmax(-1).masked_fill(~active, 0)
        return weights.to(jacobian) @ jacobian, weights.to(losses)

    def _move(self, grown: Tensor, active: Tensor) -> None:
        """Add to log α_t; what the active tasks have in all stays theirs."""
        moved = self.logs + grown
        total = [logs.masked_fill(~active, -torch.inf).logsumexp(-1) for logs in (self.logs, moved)]
        self.logs.copy_(torch.where(active, moved + (total[0] - total[1]), self.logs))
