"""Gradient surgery (PCGrad)."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Unpack

import torch
from torch import Tensor

from mtl_runner.seeding import Draws
from mtl_runner.weighting.gradient import GramianOptions, GramianWeighting
from mtl_runner.weighting.solvers import conflict


class PCGrad(GramianWeighting):
    """The sum of the tasks' gradients, each freed of its conflicts with the others.

    For each task i, and for j ≠ i in random order: where ⟨ĝ_i, g_j⟩ < 0, ĝ_i ← ĝ_i - ⟨ĝ_i, g_j⟩ / ‖g_j‖² · g_j, starting
    from ĝ_i = g_i; the update is Σ_i ĝ_i. Yu et al., Gradient Surgery for Multi-Task Learning, NeurIPS 2020, Algorithm 1.

    Every ĝ_i is a combination of the g_j, so that the Gramian tells all: the T orders run side by side in T steps; for two
    tasks there is but one. Weights are at least 1; heads take their own gradients, as in the paper. T backward passes through
    the trunk; T × P numbers.

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
        additions = self.of_two(gramian) if gramian.shape[-1] == 2 else self.additions(gramian)
        return (1 + additions) * active

    def of_two(self, gramian: Tensor) -> Tensor:
        """``additions`` for two tasks: there is no order."""
        return conflict(gramian) / nonzero(gramian.diagonal(dim1=-2, dim2=-1))

    def additions(self, gramian: Tensor) -> Tensor:
        """What is added of each gradient, [..., T]; nothing of a gradient of zero."""
        scaled = gramian / nonzero(gramian.diagonal(dim1=-2, dim2=-1)).unsqueeze(-2)
        orders = self.orders(scaled)
        products = scaled.neg()  # for each i: -<g_i, g_j> / |g_j|^2, of g_i as it is by now
        changes = [products[..., :0]]
        for place, row in places(orders, scaled):
            change = products.gather(-1, place).relu_()
            products.addcmul_(change, row, value=-1)
            changes.append(change)
        return gathered(orders, torch.cat(changes, -1))


def nonzero(squares: Tensor) -> Tensor:
    """Not quite 0, where they are, so that nothing can be divided by them."""
    return squares.clamp_min(torch.finfo(squares.dtype).tiny)


def places(orders: Tensor, matrix: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """For each place of the orders but the last: who has it, [..., T, 1], and their rows of ``matrix``, [..., T, T]."""
    index, count = orders.mT, matrix.shape[-1]
    if matrix.dim() > 2:
        index = index + torch.arange(0, matrix[..., 0].numel(), count, device=matrix.device).view(*matrix.shape[:-2], 1, 1)
        matrix = matrix.reshape(-1, count)
    rows = torch.embedding(matrix, index)  # copies whole rows
    return itertools.islice(zip(orders.split(1, -1), rows.unbind(-3), strict=True), count - 1)


def gathered(orders: Tensor, changes: Tensor) -> Tensor:
    """What all tasks together added of the gradient of each, [..., T], from what each added of its others, [..., T, T - 1]."""
    total = torch.zeros_like(orders[..., 0], dtype=changes.dtype)
    return total.scatter_add_(-1, orders[..., :-1].flatten(-2), changes.flatten(-2))
