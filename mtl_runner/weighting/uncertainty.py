"""Homoscedastic uncertainty weighting (UW)."""

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from mtl_runner.weighting.base import LossWeighting, Options


class Uncertainty(LossWeighting):
    """Σ_t exp(-s_t) L_t + s_t with trained s_t = log σ_t², which start at 0.

    Kendall, Gal & Cipolla, Multi-Task Learning Using Uncertainty to Weigh Losses, CVPR 2018, where a task's term is
    L_t / (2σ_t²) + log σ_t. This is twice that, with the same minimisers, and starts as equal weighting. The paper
    drops the 2 for classification, which only moves the starting point of s_t. The weights exp(-s_t) are not
    normalised: at the optimum of s_t a weight is 1 / L_t.

    ``scale: paper`` is the objective as it stands here, not the halved one; ``comparable`` divides it by T, so that the
    gradients of s_t are divided too, where tasks share parameters. One backward pass; T numbers, trained by the model's
    optimizer without weight decay.

    Args:
        tasks: names of the tasks.
        options: those of every weighting.
    """

    def __init__(self, tasks: Sequence[str], **options: Unpack[Options]) -> None:
        super().__init__(tasks, **options)
        self.log_variance = nn.Parameter(torch.zeros(len(tasks)))

    def combine(self, losses: Tensor, active: Tensor) -> Tensor:
        return ((torch.exp(-self.log_variance) * losses + self.log_variance) * active).sum(-1)

    def differentiate(self, losses: Tensor, active: Tensor) -> tuple[Tensor, Sequence[tuple[nn.Parameter, Tensor]]]:
        """The derivatives of ``combine`` by hand: for so few numbers autograd takes several times as long."""
        weights = torch.exp(-self.log_variance.detach()) * active
        return weights, [(self.log_variance, active.to(weights.dtype) - weights * losses)]
