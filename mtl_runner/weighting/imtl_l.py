"""Impartial multi-task learning on the losses (IMTL-L)."""

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from mtl_runner.weighting.base import LossWeighting, Options


class IMTLL(LossWeighting):
    """Σ_t exp(s_t) L_t - s_t with trained s_t, which start at 0.

    Liu et al., Towards Impartial Multi-task Learning, ICLR 2021, loss balance: the scaled losses exp(s_t) L_t are drawn to
    1, all of them; the paper writes a^s and takes a = e. It is ``uncertainty`` with s = -log σ², and so the same but for
    rounding. The weights exp(s_t) are not normalised: at the optimum of s_t a weight is 1 / L_t.

    Identical tasks weigh 1 each at the start; heads get the weights too. One backward pass; T numbers, trained by the
    model's optimizer without weight decay.

    Args:
        tasks: names of the tasks.
        options: those of every weighting.
    """

    def __init__(self, tasks: Sequence[str], **options: Unpack[Options]) -> None:
        super().__init__(tasks, **options)
        self.log_scale = nn.Parameter(torch.zeros(len(tasks)))

    def combine(self, losses: Tensor, active: Tensor) -> Tensor:
        return ((self.log_scale.exp() * losses - self.log_scale) * active).sum(-1)

    def differentiate(self, losses: Tensor, active: Tensor) -> tuple[Tensor, Sequence[tuple[nn.Parameter, Tensor]]]:
        """The derivatives of ``combine`` by hand: for so few numbers autograd takes several times as long."""
        weights = self.log_scale.detach().exp() * active
        return weights, [(self.log_scale, weights * losses - active.to(weights.dtype))]
