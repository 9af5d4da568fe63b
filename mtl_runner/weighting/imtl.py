"""Impartial multi-task learning on losses and gradients (IMTL)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Unpack

import torch
from torch import Tensor, nn

from mtl_runner.weighting.base import Objectives
from mtl_runner.weighting.gradient import GramianOptions
from mtl_runner.weighting.imtl_g import IMTLG


class IMTL(IMTLG):
    """IMTL-G on scaled losses exp(s_t) L_t, with the scales of IMTL-L: the shared update is Σ_t α_t exp(s_t) g_t.

    Liu et al., Towards Impartial Multi-task Learning, ICLR 2021, Algorithm 1 (hybrid balance). α are the weights of ``imtl_g``
    for the gradients exp(s_t) g_t of the scaled losses, and sum to 1. s_t starts at 0 and is trained by the model's
    optimizer, without weight decay, on exp(s_t) L_t - s_t, which draws the scaled losses to 1; that of a task without labels
    has no gradient. Where α is reused (``every``), the scales are still those of the step.

    As in the paper, heads take the gradients of their own scaled losses, exp(s_t) times their own gradients, without α;
    ``heads: weighted`` multiplies by α_t, too. The weights that are shown are those of the raw losses, α_t exp(s_t): identical
    tasks have equal ones, 1 on the comparable scale as long as s = 0. Cost: that of ``imtl_g``, and T numbers.

    Args:
        tasks: names of the tasks.
        options: those of the Gramian-based weightings.
    """

    def __init__(self, tasks: Sequence[str], **options: Unpack[GramianOptions]) -> None:
        super().__init__(tasks, **options)
        self.log_scale = nn.Parameter(torch.zeros(len(tasks)))

    def backward(self, objectives: Objectives, *further: Objectives) -> Tensor:
        scales = self.log_scale.detach().exp()
        share = 1 / len(self.tasks) if self.scale == "comparable" else 1.0  # as that of ``imtl_l``
        self.log_scale.grad = share * (scales * objectives.losses - 1).where(objectives.active, 0)
        weights = super().backward(*(replace(draw, factors=scales) for draw in (objectives, *further)))
        if self.gramian is not None:
            self.gramian = self.gramian / (scales[:, None] * scales)
        return weights * scales
