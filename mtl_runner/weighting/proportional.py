"""Weights in proportion to what the tasks gain: (G w)_t = w_t^(-1/alpha)."""

import torch
from torch import Tensor

from mtl_runner.weighting.solvers import settled

RIDGE = 1e-6
STEPS = 30
CLOSE = 1e-3


def cosines(gramian: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The Gramian [..., T, T] of the unit gradients, the norms [..., T], and whether they are above 0, [..., T].

    Rows and columns of a gradient of zero are 0, and its norm is given as 1.
    """
    squares = gramian.diagonal(dim1=-2, dim2=-1)
    moving = squares > 0
    norms = squares.masked_fill(~moving, 1).sqrt()
    return gramian / (norms.unsqueeze(-1) * norms.unsqueeze(-2)), norms, moving


def proportional(gramian: Tensor, active: Tensor, alpha: float = 1.0) -> Tensor:
    """w > 0 [..., T] with (G w)_t = w_t^(-1/alpha), where G has ``RIDGE`` ‖g_t‖² added to its diagonal.

    Without the ridge there is no finite solution where a combination of gradients with weights ≥ 0 is zero. A task whose
    gradient is zero, to which the equation gives no finite weight, takes the mean weight of the others, or 1.

    Args:
        gramian: [..., T, T], zero in rows and columns of tasks that are not active.
        active: [..., T] boolean; the others weigh 0.
        alpha: > 0.
    """
    matrix, norms, moving = cosines(gramian)
    matrix.diagonal(dim1=-2, dim2=-1).fill_(1 + RIDGE)
    if alpha == 1 and gramian.shape[-1] <= 2:
        scaled = matrix.sum(-1).clamp_min(RIDGE).rsqrt()  # the equation is symmetric in two unit gradients
    else:
        scaled = newton(matrix, norms.unsqueeze(-1), 1 / alpha).squeeze(-1)
    weights = (scaled / norms).masked_fill(~moving, 0)
    others = weights.sum(-1, keepdim=True) / moving.sum(-1, keepdim=True)
    return torch.where(moving, weights, others.nan_to_num(1.0)).masked_fill(~active, 0)


def newton(matrix: Tensor, norms: Tensor, power: float) -> Tensor:
    """z > 0 with (C z)_t = d_t^(p - 1) z_t^(-p), which is the equation of the weights w = z / d.

    It minimises the convex ½ zᵀCz - Σ d^(p-1) z^(1-p) / (1-p), in which a logarithm stands for the last term if p = 1. Newton's
    step Δ is shortened: with ρ = max_t -Δ_t / z_t, the second derivative along it grows no faster than (1 - sρ)^(-p-1) at s Δ,
    so that (1 - (1 + pρ)^(-1/p)) / ρ of it passes neither the minimum nor zero. That is 1 / (1 + ρ) for p = 1; it tends to
    the whole step, and the convergence to quadratic. Where rounding leaves no positive definite matrix, the last z stays.

    Args:
        matrix: C [..., T, T], positive definite.
        norms: d [..., T, 1].
        power: p.
    """
    eye = torch.eye(norms.shape[-2], dtype=norms.dtype, device=norms.device)
    one = torch.ones_like(norms[..., :1, :])
    scaled = start(matrix, norms, power)
    for _ in range(STEPS):
        inverse = scaled.reciprocal()
        pull = inverse if power == 1 else (norms * inverse) ** (power - 1) * inverse
        factor, failed = torch.linalg.cholesky_ex(torch.addcmul(matrix, eye, pull * inverse, value=power))
        step = torch.cholesky_solve(pull - matrix @ scaled, factor)
        change = step * inverse
        length = allowed(one - change.amin(-2, keepdim=True), one, power)
        scaled = torch.where(failed.view(one.shape) == 0, torch.addcmul(scaled, step, length), scaled)
        if settled(change.abs() < CLOSE):
            break
    return scaled


def start(matrix: Tensor, norms: Tensor, power: float) -> Tensor:
    """The solution without inner products between tasks, times the factor at which the sum of all equations holds."""
    if power == 1:
        return matrix.sum(-1, keepdim=True).mean(-2, keepdim=True).clamp_min(RIDGE).rsqrt().expand_as(norms)
    alone = norms ** ((power - 1) / (power + 1))
    together = (alone * (matrix @ alone)).sum(-2, keepdim=True)
    return alone * (alone.square().sum(-2, keepdim=True) / together).clamp(1e-3, 1 / RIDGE) ** (1 / (1 + power))


def allowed(growth: Tensor, one: Tensor, power: float) -> Tensor:
    """The part of the step that is safe where 1 + ρ is ``growth``."""
    growth = torch.maximum(growth, one)
    if power == 1:
        return growth.reciprocal()
    decrease = (growth - one).clamp_min(1e-9)
    return (one - ((one + power * decrease) ** (-1 / power)).clamp_min(1e-3)) / decrease  # 1e-3: for rounding's sake
