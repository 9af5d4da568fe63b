"""Gradient vaccine (GradVac)."""

from collections.abc import Sequence
from typing import Annotated, Unpack

import torch
from annotated_types import Ge, Le
from torch import Tensor

from mtl_runner.weighting.gradient import GramianOptions
from mtl_runner.weighting.pcgrad import PCGrad, gathered, nonzero, places
from mtl_runner.weighting.proportional import cosines


class GradVac(PCGrad):
    """The sum of the tasks' gradients, each pulled towards the others as far as is usual for the pair.

    For each task i, and for j ≠ i in random order, with φ the cosine of ĝ_i and g_j and φ̂_ij its moving average: where φ < φ̂_ij,
    ĝ_i ← ĝ_i + ‖ĝ_i‖ (φ̂_ij √(1 - φ²) - φ √(1 - φ̂_ij²)) / (‖g_j‖ √(1 - φ̂_ij²)) · g_j, after which the cosine is φ̂_ij; then
    φ̂_ij ← (1 - β) φ̂_ij + β φ. ĝ_i starts as g_i, φ̂ as 0, and the update is Σ_i ĝ_i. Wang et al., Gradient Vaccine:
    Investigating and Improving Multi-task Optimization in Massively Multilingual Models, ICLR 2021, Algorithm 1, with one
    group of parameters. With β = 0 it is PCGrad with directions in place of projections, as φ̂ stays 0.

    As in PCGrad the Gramian tells all, and the T orders run side by side. 1 - φ̂² is at least 1e-12. Pairs with a task that has
    no labels or a gradient of zero are left as they are, φ̂ too. Weights are at least 1; heads take their own gradients. T
    backward passes through the trunk; T × P numbers, and T² averages. With ``every`` the averages move when weights are computed;
    a batch of Gramians reads them only.

    Args:
        tasks: names of the tasks.
        beta: β; 1e-2 in the paper, 0.5 in LibMTL and TorchJD.
        options: those of the Gramian-based weightings.
    """

    averages: Tensor

    def __init__(
        self, tasks: Sequence[str], *, beta: Annotated[float, Ge(0), Le(1)] = 0.01, **options: Unpack[GramianOptions]
    ) -> None:
        super().__init__(tasks, **options)
        self.beta = beta
        self.register_buffer("averages", torch.zeros(len(tasks), len(tasks)))

    def of_two(self, gramian: Tensor) -> Tensor:
        """With two tasks ĝ_i is g_i when it is asked; what is added of g_j is max(√det G cot φ̂_ij - ⟨g_i, g_j⟩, 0) / ‖g_j‖²."""
        squares = gramian.diagonal(dim1=-2, dim2=-1)
        inner = gramian.flip(-1).diagonal(dim1=-2, dim2=-1)
        averages = self.averages.view(-1)[1:3]  # of the first with the second, and of the second with the first
        goals = averages.to(inner.dtype)
        products = squares * squares.flip(-1)
        root = products.addcmul(inner, inner, value=-1).relu_().sqrt_()
        changes = (root * cotangents(goals)).sub_(inner).relu_()
        if gramian.dim() == 2:
            met = torch.where(products > 0, inner / inner.hypot(root), goals)
            averages.copy_(goals.lerp(met, self.beta))
        return changes.flip(-1) / nonzero(squares)

    def additions(self, gramian: Tensor) -> Tensor:
        matrix, norms, moving = cosines(gramian)
        orders = self.orders(matrix)
        valid = moving.unsqueeze(-1) & moving.unsqueeze(-2)
        met, changes = self.vaccinate(matrix, orders, valid)
        if matrix.dim() == 2:
            latest = self.averages.scatter(-1, orders[:, :-1], met.to(self.averages.dtype))
            self.averages.lerp_(latest, self.beta * valid.to(self.averages.dtype))
        return gathered(orders, norms.unsqueeze(-1) * changes) / norms

    def vaccinate(self, matrix: Tensor, orders: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """The cosines that were met, and how much of the other was added, [..., T, T - 1] by the places of the orders.

        ``matrix`` is the Gramian of unit gradients.
        """
        goals = cotangents(self.averages.to(matrix.dtype)) * valid  # 0 lets a gradient of zero, orthogonal to all, change nothing
        products, square = matrix.clone(), torch.ones_like(matrix[..., :1])  # <ĝ_i, g_j> and |ĝ_i|^2
        met, squares, changes = ([matrix[..., :0]] for _ in range(3))
        for (place, row), goal in zip(places(orders, matrix), goals.gather(-1, orders).split(1, -1), strict=False):
            product = products.gather(-1, place)
            rest = torch.addcmul(square, product, product, value=-1).clamp_min_(1e-24)  # |ĝ_i|^2 without its part along g_j
            met.append(product)
            squares.append(square)
            wanted = rest.sqrt().mul_(goal).maximum(product)
            square = torch.addcmul(rest, wanted, wanted)
            changes.append(wanted.sub_(product))
            products.addcmul_(wanted, row)
        cosines_met = torch.cat(met, -1) * torch.cat(squares, -1).rsqrt()
        return cosines_met.clamp_(-1, 1), torch.cat(changes, -1)


def cotangents(cosines: Tensor) -> Tensor:
    """Of the angles that have these cosines."""
    return cosines * (1 - cosines * cosines).clamp_min_(1e-12).rsqrt_()
