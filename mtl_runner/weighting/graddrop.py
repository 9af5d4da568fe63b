"""Gradient sign dropout (GradDrop)."""

from collections.abc import Sequence
from typing import Annotated, Unpack

import torch
from annotated_types import Ge, Le
from torch import Tensor

from mtl_runner.seeding import Draws
from mtl_runner.weighting.gradient import GradientOptions, JacobianWeighting


class GradDrop(JacobianWeighting):
    """Σ_t (ℓ + (1 - ℓ) m_t) ∘ g_t, where each entry of the gradient takes one sign and masks those of the other.

    The sign purity P = ½ (1 + Σ_t g_t / Σ_t |g_t|) of an entry is the chance that the positive ones pass, m_t = 1 [g_t > 0],
    otherwise the negative; ℓ is the part of the others that leaks through. Chen, Ngiam, Huang, Luong, Kretzschmar, Chai &
    Anguelov, Just Pick a Sign: Optimizing Deep Multitask Models with Gradient Sign Dropout, NeurIPS 2020, Algorithm 1.

    The paper's layer sits on the shared features and sums each unit's gradients, times the unit's sign, over the batch
    before it draws. Here entries are those of the parameters' gradient, or with ``gradients: features`` each unit of
    each row on its own.

    An update of a sum; in place of weights, which it has none, ⟨passed_t, g_t⟩ / ‖g_t‖² is reported: the share of the
    task's gradient that passes, 1 where tasks agree. Heads take their own gradients. T backward passes through the trunk;
    2 × T × P numbers.

    Args:
        tasks: names of the tasks.
        leak: ℓ.
        options: those of the gradient-based weightings.
    """

    def __init__(
        self, tasks: Sequence[str], *, leak: Annotated[float, Ge(0), Le(1)] = 0.0, **options: Unpack[GradientOptions]
    ) -> None:
        super().__init__(tasks, **options)
        self.leak = leak
        self.draws_of_sign = Draws()

    def unit(self, weights: Tensor, active: Tensor) -> Tensor | float:
        """1: the update is a sum."""
        return 1.0

    def aggregate(self, jacobian: Tensor, losses: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        size = jacobian.abs().sum(0)
        purity = (jacobian.sum(0) / size.masked_fill(size == 0, 1) + 1) / 2
        chance = torch.rand(size.shape, generator=self.draws_of_sign.generator(size.device), device=size.device)
        opposed = (jacobian > 0) != (purity > chance)
        passed = torch.where(opposed, self.leak * jacobian, jacobian)
        squares = jacobian.square().sum(1)
        shares = torch.where(squares > 0, (passed * jacobian).sum(1) / squares, 1.0)
        return passed.sum(0), shares.masked_fill(~active, 0)
