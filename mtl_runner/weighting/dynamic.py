"""Weights from the current losses, 1 / L^alpha."""

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor

from mtl_runner.weighting.base import DirectWeighting, Options


class Dynamic(DirectWeighting):
    """Σ_t w_t L_t with w_t = A · L_t^-α / Σ_s L_s^-α over the A tasks with labels in the batch.

    The losses inside the weights are detached, so their gradient is w_t ∇L_t; the weights sum to the number of tasks.
    α = 0 is equal weighting; α = 1 makes every w_t L_t the same, so that each task's gradient counts relative to its
    loss (as in geometric loss weighting); α < 0 favours the tasks with large losses. A loss of 0 counts as the
    smallest normal number.

    ``scale: paper`` takes these weights; ``comparable`` divides them by T where tasks share parameters. One backward pass; no
    memory.

    Args:
        tasks: names of the tasks.
        alpha: α.
        options: those of every weighting.
    """

    def __init__(self, tasks: Sequence[str], *, alpha: float = 1.0, **options: Unpack[Options]) -> None:
        super().__init__(tasks, **options)
        self.alpha = alpha

    def weights(self, losses: Tensor, active: Tensor) -> Tensor:
        logs = losses.clamp_min(torch.finfo(losses.dtype).tiny).log()
        scores = (-self.alpha * logs).masked_fill(~active, -torch.inf)
        # a batch without any label gives softmax(-inf …) = NaN, which must not become a weight
        return scores.softmax(-1).masked_fill(~active, 0) * active.sum(-1, keepdim=True)
