"""Dynamic weight average (DWA)."""

from collections.abc import Sequence
from typing import Annotated, Unpack

import torch
from annotated_types import Gt
from torch import Tensor

from mtl_runner.weighting.base import DirectWeighting, Options


class DWA(DirectWeighting):
    """Σ_t w_t L_t with w = n · softmax(r / temperature) and r_t = L_t(e-1) / L_t(e-2), from the mean losses of past epochs.

    Liu, Johns & Davison, End-to-End Multi-Task Learning with Attention, CVPR 2019: a task whose loss falls slowly weighs
    more; the higher the temperature, the more alike the weights. In the first two epochs r = 1. n counts the tasks
    with labels in the batch. An epoch without labels of a task is none for it: r_t looks at its last two epochs that
    had some, and is 1 until there are two.

    Weights sum to n; heads get them too. One backward pass; 2 T numbers.

    Args:
        tasks: names of the tasks.
        temperature: T in the paper.
        options: those of every weighting.
    """

    last: Tensor
    before: Tensor

    def __init__(self, tasks: Sequence[str], *, temperature: Annotated[float, Gt(0)] = 2.0, **options: Unpack[Options]) -> None:
        super().__init__(tasks, **options)
        self.temperature = temperature
        self.register_buffer("last", torch.full((len(tasks),), torch.nan))
        self.register_buffer("before", torch.full((len(tasks),), torch.nan))

    def weights(self, losses: Tensor, active: Tensor) -> Tensor:
        rates = (self.last / self.before).nan_to_num(nan=1.0)
        scores = (rates / self.temperature).clamp_max(1e30).expand_as(losses).masked_fill(~active, -torch.inf)
        return scores.softmax(-1).masked_fill(~active, 0) * active.sum(-1, keepdim=True)

    def after_epoch(self, losses: Tensor) -> None:
        seen = losses.isfinite()
        self.before.copy_(torch.where(seen, self.last, self.before))
        self.last.copy_(torch.where(seen, losses, self.last))
