"""Conflict-averse gradient descent (CAGrad)."""

from collections.abc import Sequence
from typing import Annotated, Unpack

import torch
from annotated_types import Ge
from torch import Tensor

from mtl_runner.weighting.base import equal_share
from mtl_runner.weighting.gradient import GramianOptions, GramianWeighting
from mtl_runner.weighting.solvers import FEW, RIDGE, barrier, correlations, modulus, pivoted, restricted, splitting


class CAGrad(GramianWeighting):
    """The update near the mean gradient that does most for the task it does least for.

    max over d with ‖d - g_0‖ ≤ c ‖g_0‖ of min_t ⟨g_t, d⟩, g_0 = Σ_t g_t / T. By its dual, d = g_0 + c ‖g_0‖ / ‖g_w‖ · g_w with
    g_w = Σ_t w_t g_t and w ≥ 0, Σ_t w_t = 1, that minimises ⟨g_w, g_0⟩ + c ‖g_0‖ ‖g_w‖. Liu et al., Conflict-Averse Gradient
    Descent for Multi-task Learning, NeurIPS 2021, Algorithm 1.

    The dual is solved exactly but for a ridge of 1e-6 ‖g_t‖² on the Gramian's diagonal, where the authors' code asks a general
    optimizer; with norms that differ a thousandfold the ridge is felt. A task whose gradient is zero has no say, as no
    d would help it; the paper's weights are not defined then. Where g_w would be zero, the second part is at most
    c ‖g_0‖ long. Weights are at least 1/T; those of identical tasks sum to 1 + c. Heads take their own gradients, as
    in the authors' code. T backward passes through the trunk; T × P numbers.

    Args:
        tasks: names of the tasks.
        c: how far from the mean gradient, relative to its norm; 0 is the mean, and from 1 on a stationary point of the mean is
            no longer one of the method.
        options: those of the Gramian-based weightings.
    """

    def __init__(self, tasks: Sequence[str], *, c: Annotated[float, Ge(0)] = 0.5, **options: Unpack[GramianOptions]) -> None:
        super().__init__(tasks, **options)
        self.c = c

    def unit(self, weights: Tensor, active: Tensor) -> Tensor | float:
        """(1 + c) / n: for identical tasks g_w = g_0."""
        return (1 + self.c) * equal_share(active)

    def weights(self, gramian: Tensor, losses: Tensor, active: Tensor) -> Tensor:
        kept = active.to(gramian.dtype)
        mean = kept / kept.sum(-1, keepdim=True).clamp_min(1)
        products = (mean.unsqueeze(-2) @ gramian).squeeze(-2)
        squares = gramian.diagonal(dim1=-2, dim2=-1)
        largest = squares.amax(-1, keepdim=True)
        nothing = squares <= 1e-30 * largest
        square = torch.add(dot(products, mean), largest, alpha=-1e-14).relu_()  # 0 where rounding has the say
        if gramian.shape[-1] == 2:
            return mean + two_tasks(gramian, products, nothing, self.c**2 * square)
        matrix, inverse = correlations(gramian)
        inverse = inverse.masked_fill(nothing, 0)
        linear = products * (inverse * (square > 0))
        return mean + inverse * least_agreement(matrix, linear, inverse, square.sqrt(), self.c)


def two_tasks(gramian: Tensor, products: Tensor, nothing: Tensor, square: Tensor) -> Tensor:
    """φ w / ‖g_w‖, [..., 2], with the w that minimises Σ_t w_t b_t + φ ‖g_w‖, where b is ``products`` and φ² ``square`` [..., 1].

    With both w_t > 0, (G x)_t = μ - b_t: x_1 = (ρ (G_22 - G_12) + b_2 - b_1) / α with α = G_11 - 2 G_12 + G_22 and
    ρ² = (α φ² - (b_1 - b_2)²) / det G, so that ‖g_x‖ = φ. Where that has no solution x ≥ 0, the other task has all the weight.
    """
    squares = gramian.diagonal(dim1=-2, dim2=-1) * (1 + RIDGE)
    inner = gramian.flip(-1).diagonal(dim1=-2, dim2=-1)
    others = squares.flip(-1)
    gaps = others - inner
    alpha = gaps.sum(-1, keepdim=True)
    products = products.masked_fill(nothing, torch.inf)
    differences = products.flip(-1) - products
    area = squares * others
    area = area.addcmul(inner, inner, value=-1).maximum(area.mul_(RIDGE)).clamp_min_(torch.finfo(gramian.dtype).tiny)
    rho = (alpha * square).addcmul(differences, differences, value=-1).relu_().div_(area).sqrt_()
    both = differences.addcmul(rho, gaps).div_(alpha)
    alone = (square / squares).sqrt_()
    return torch.where(both.signbit().flip(-1), alone, both).relu_().masked_fill_(nothing, 0)


def least_agreement(matrix: Tensor, linear: Tensor, ones: Tensor, length: Tensor, c: float) -> Tensor:
    """x = φ w / √(wᵀ M w) with the w ≥ 0, eᵀ w = 1, that minimises bᵀ w + φ √(wᵀ M w), where φ is c times ``length`` [..., 1].

    b is ``linear`` and e ``ones``, [..., T]. With the entries in S free, M_SS x_S = μ e_S - b_S, where μ is the larger root of
    xᵀ M x = φ²; the minimum is μ. Without a root there is none, and x for the μ that is nearest to being one is a direction in
    which the function falls for ever.
    """
    tiny = torch.finfo(matrix.dtype).tiny
    radius, square, high = c * length, (c * length) ** 2, 2 * length
    ones = ones / ones.amax(-1, keepdim=True).clamp_min(tiny)
    right = torch.stack([ones, linear], -1)
    transposed, wall = right.mT, barrier(matrix)

    def trial(held: Tensor) -> Tensor:
        solution = restricted(matrix, wall, held, right)
        products = transposed @ solution.masked_fill(held.unsqueeze(-1), 0)
        alpha, beta, _, gamma = products.flatten(-2).split(1, -1)
        root = torch.addcmul(beta * beta, alpha, square - gamma).relu_().sqrt_()
        mu = torch.where(alpha > 0, (beta + root) / alpha, high)  # with nothing free: something has to be
        first, second = solution.unbind(-1)
        return mu * first - second

    start = ones if matrix.shape[-1] <= FEW else guess(matrix, right, radius)
    weights = pivoted(trial, start <= 0, length)
    return weights * (radius / norm(matrix, weights).clamp_min(tiny))


def guess(matrix: Tensor, right: Tensor, radius: Tensor) -> Tensor:
    """About x: steps of the modulus method for min over x ≥ 0 of ½ xᵀ M x + (b - μ e)ᵀ x, with μ what w = x / eᵀ x attains.

    e and b are the columns of ``right`` [..., T, 2].
    """
    inverse, contraction = splitting(matrix)
    upward, downward = (right.mT @ inverse).split(1, -2)
    values, radius, tiny = right[..., 0].unsqueeze(-2), radius.unsqueeze(-1), torch.finfo(matrix.dtype).tiny
    for _ in range(4):  # with more, the pivoting that follows is hardly shorter
        near = values.relu()
        total, fall = (near @ right).split(1, -1)
        square = dot(near @ matrix, near).relu_()
        value = torch.addcmul(fall, radius, square.sqrt_()) / total.clamp_min(tiny)
        values = modulus(contraction, value * upward - downward, values, 4)
    return values.squeeze(-2).relu_()


def dot(left: Tensor, right: Tensor) -> Tensor:
    """[..., 1]"""
    return (left * right).sum(-1, keepdim=True)


def norm(matrix: Tensor, values: Tensor) -> Tensor:
    """√(xᵀ M x), [..., 1]."""
    return dot((values.unsqueeze(-2) @ matrix).squeeze(-2), values).clamp_min(0).sqrt()
