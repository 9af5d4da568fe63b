"""Conflict-averse gradient descent (CAGrad)."""

from collections.abc import Sequence
from typing import Annotated, Unpack

import torch
from annotated_types import Ge
from torch import Tensor

from mtl_runner.weighting.base import equal_share
from mtl_runner.weighting.gradient import GramianOptions, GramianWeighting
from mtl_runner.weighting.solvers import FEW, STEPS, correlations, modulus, pivoted, restricted, splitting


class CAGrad(GramianWeighting):
    """The update near the mean gradient that does most for the task it does least for.

    max over d with ‖d - g_0‖ ≤ c ‖g_0‖ of min_t ⟨g_t, d⟩, g_0 = Σ_t g_t / T. By its dual, d = g_0 + c ‖g_0‖ / ‖g_w‖ · g_w with
    g_w = Σ_t w_t g_t and w ≥ 0, Σ_t w_t = 1, that minimises ⟨g_w, g_0⟩ + c ‖g_0‖ ‖g_w‖. Liu et al., Conflict-Averse Gradient
    Descent for Multi-task Learning, NeurIPS 2021, Algorithm 1.

    The dual is solved exactly, where the authors' code asks a general optimizer. A task whose gradient is zero has no say, as no
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
        matrix, inverse = correlations(gramian)
        kept = active.to(gramian.dtype)
        mean = kept / kept.sum(-1, keepdim=True).clamp_min(1)
        norms = gramian.diagonal(dim1=-2, dim2=-1).sqrt()
        inverse = inverse.masked_fill(norms * inverse < 0.5, 0)
        products = (mean.unsqueeze(-2) @ gramian).squeeze(-2)
        length = dot(products, mean).clamp_min_(0).sqrt_()
        length = length.masked_fill(length <= 1e-7 * norms.amax(-1, keepdim=True), 0)
        products = products * (length > 0)
        return mean + inverse * least_agreement(matrix, products * inverse, inverse, length, self.c)


def least_agreement(matrix: Tensor, linear: Tensor, ones: Tensor, length: Tensor, c: float) -> Tensor:
    """x = φ w / √(wᵀ M w) with the w ≥ 0, eᵀ w = 1, that minimises bᵀ w + φ √(wᵀ M w), where φ is c times ``length`` [..., 1].

    b is ``linear`` and e ``ones``, [..., T]. With the entries in S free, M_SS x_S = μ e_S - b_S, where μ is the larger root of
    xᵀ M x = φ²; the minimum is μ. Without a root there is none, and x for the μ that is nearest to being one is a direction in
    which the function falls for ever.
    """
    tiny = torch.finfo(matrix.dtype).tiny
    radius = c * length
    ones = ones / ones.amax(-1, keepdim=True).clamp_min(tiny)
    right = torch.stack([ones, linear], -1)

    def trial(held: Tensor) -> Tensor:
        solution = restricted(matrix, held, right)
        products = right.mT @ solution.masked_fill(held.unsqueeze(-1), 0)
        alpha, beta, _, gamma = products.flatten(-2).split(1, -1)
        root = (beta * beta - alpha * (gamma - radius * radius)).clamp_min_(0).sqrt_()
        mu = torch.where(alpha > 0, (beta + root) / alpha, 2 * length)  # with nothing free: something has to be
        return mu * solution[..., 0] - solution[..., 1]

    start = ones if matrix.shape[-1] <= FEW else guess(matrix, linear, ones, radius)
    weights = pivoted(trial, start, length)
    return weights * (radius / norm(matrix, weights).clamp_min(tiny))


def guess(matrix: Tensor, linear: Tensor, ones: Tensor, radius: Tensor) -> Tensor:
    """About x: steps of the modulus method for min over x ≥ 0 of ½ xᵀ M x + (b - μ e)ᵀ x, with μ what w = x / eᵀ x attains."""
    inverse, contraction = splitting(matrix)
    upward, downward = (torch.stack([ones, linear], -2) @ inverse).unbind(-2)
    values = ones
    for _ in range(max(matrix.shape[-1], STEPS) // 8):
        near = values.clamp_min(0)
        total = dot(near, ones).clamp_min(torch.finfo(matrix.dtype).tiny)
        value = (dot(near, linear) + radius * norm(matrix, near)) / total
        offset = (value * upward - downward).unsqueeze(-2)
        values = modulus(contraction, offset, values.unsqueeze(-2), 8).squeeze(-2)
    return values.clamp_min(0)


def dot(left: Tensor, right: Tensor) -> Tensor:
    """[..., 1]"""
    return (left * right).sum(-1, keepdim=True)


def norm(matrix: Tensor, values: Tensor) -> Tensor:
    """√(xᵀ M x), [..., 1]."""
    return dot((values.unsqueeze(-2) @ matrix).squeeze(-2), values).clamp_min(0).sqrt()
