"""Gradient surgery (PCGrad)."""

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor

from mtl_runner.seeding import Draws
from mtl_runner.weighting.gradient import GramianOptions, GramianWeighting


class PCGrad(GramianWeighting):
    """The sum of the tasks' gradients, each freed of its conflicts with the others.

    For each task i, and for j ≠ i in random order: where ⟨ĝ_i, g_j⟩ < 0, ĝ_i ← ĝ_i - ⟨ĝ_i, g_j⟩ / ‖g_j‖² · g_j, starting
    from ĝ_i = g_i; the update is Σ_i ĝ_i. Yu et al., Gradient Surgery for Multi-Task Learning, NeurIPS 2020, Algorithm 1.

    Every ĝ_i is a combination of the g_j, so that the Gramian tells all: the T orders run side by side in T steps. Weights
    are at least 1; heads take their own gradients, as in the paper. T backward passes through the trunk; T × P numbers.

    Args:
        tasks: names of the tasks.
        options: those of the Gramian-based weightings.
    """

    def __init__(self, tasks: Sequence[str], **options: Unpack[GramianOptions]) -> None:
        super().__init__(tasks, **options)
        self.draws_of_order = Draws()

    def unit(self, weights: Tensor, active: Tensor) -> Tensor | float:
        """1: the weights are those of a sum."""
        return 1.0

    def orders(self, gramian: Tensor) -> Tensor:
        """[..., T, T]: for each task the others in random order, and then the task itself."""
        draws = torch.rand(gramian.shape, generator=self.draws_of_order.generator(gramian.device), device=gramian.device)
        draws.diagonal(dim1=-2, dim2=-1).fill_(2)
        return draws.argsort(-1)

    def weights(self, gramian: Tensor, losses: Tensor, active: Tensor) -> Tensor:
        orders = self.orders(gramian)
        squares = gramian.diagonal(dim1=-2, dim2=-1)
        scaled = gramian / squares.masked_fill(squares <= 0, torch.inf).unsqueeze(-2)
        products = scaled.neg()  # for each i: -<g_i, g_j> / |g_j|^2, of g_i as it is by now
        changes = []
        for place in orders.split(1, -1)[:-1]:
            change = products.gather(-1, place).relu_()
            products.addcmul_(change, scaled.gather(-2, place.expand_as(orders)), value=-1)
            changes.append(change)
        return (1 + gathered(orders, changes, squares)).masked_fill(~active, 0)


def gathered(orders: Tensor, changes: Sequence[Tensor], like: Tensor) -> Tensor:
    """What all tasks together added of the gradient of each, [..., T]; ``changes`` [..., T, 1] are in the order of the task."""
    if not changes:
        return torch.zeros_like(like)
    return torch.zeros_like(like).scatter_add_(-1, orders[..., :-1].flatten(-2), torch.cat(list(changes), -1).flatten(-2))
