"""Weights in proportion to what the tasks gain: (G w)_t = w_t^(-1/alpha)."""

import torch
from torch import Tensor

from mtl_runner.weighting.solvers import at_most, factor_solve, settled

RIDGE = 1e-6
STEPS = 30
"""At most, or 6 α: of 120 random Gramians of 2 to 10 tasks the worst took 12 for α ≤ 1, 27 for 5, 81 for 20."""
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
    if alpha == 1 and gramian.shape[-1] == 2:
        return two_tasks(gramian) * active
    matrix, norms, moving = cosines(gramian)
    matrix.diagonal(dim1=-2, dim2=-1).fill_(1 + RIDGE)
    weights = newton(matrix, norms.unsqueeze(-1), 1 / alpha) / norms
    if settled(moving):
        return weights
    weights = weights.masked_fill(~moving, 0)
    others = weights.sum(-1, keepdim=True) / moving.sum(-1, keepdim=True)
    return torch.where(moving, weights, others.nan_to_num(1.0)).masked_fill(~active, 0)


def two_tasks(gramian: Tensor) -> Tensor:
    """The same for alpha = 1, where the equation is symmetric in two unit gradients: w_t = ((1 + C_12) ‖g_t‖²)^(-1/2)."""
    squares = gramian.diagonal(dim1=-2, dim2=-1)
    norms = torch.where(squares > 0, squares, squares.flip(-1)).sqrt_()
    others = norms.flip(-1)
    products = norms * others
    gains = gramian.flip(-1).diagonal(dim1=-2, dim2=-1).add(products, alpha=1 + RIDGE).maximum(RIDGE * products)
    return others.div(gains.mul_(norms)).sqrt_().nan_to_num_(1.0)


def newton(matrix: Tensor, norms: Tensor, power: float) -> Tensor:
    """z > 0, [..., T], with (C z)_t = d_t^(p - 1) z_t^(-p), which is the equation of the weights w = z / d.

    It minimises the convex ½ zᵀCz - Σ d^(p-1) z^(1-p) / (1-p), in which a logarithm stands for the last term if p = 1, in turns
    along z itself, where the minimum has a closed form, and along Newton's step Δ. With ρ = max_t -Δ_t / z_t, the second
    derivative at s Δ is at most (1 - sρ)^(-p-1) times that at 0. So the function falls with the whole step if ρ ≤ ½ and pρ ≤ ½,
    and else with (1 - (1 + pρ)^(-1/p)) / ρ of it, where that bound is lowest, and which is 1 / (1 + ρ) for p = 1; there
    1 / (½ + ρ) does as well. In the end convergence is quadratic. Where rounding leaves no positive definite matrix, there is
    no step.

    z appears only in the sides of the equation times z: K 1 = m with K_st = z_s C_st z_t and m_t = d_t^(p-1) z_t^(1-p).

    Args:
        matrix: C [..., T, T], positive definite, with a diagonal of 1 + ``RIDGE``.
        norms: d [..., T, 1].
        power: p.
    """
    first = start(matrix, norms, power)
    left, right = first * matrix * first.mT, (norms / first) ** (power - 1)
    one, eye = torch.ones_like(norms[..., :1, :]), torch.eye(norms.shape[-2], dtype=norms.dtype, device=norms.device)
    total = right.sum(-2, keepdim=True)
    for _ in range(max(STEPS, round(6 / power))):
        sums = left.sum(-1, keepdim=True)
        ratio = (total / sums.sum(-2, keepdim=True).abs_()).clamp_max_(1 / RIDGE)
        if power != 1:
            right.mul_(ratio ** ((1 - power) / (1 + power)))
            ratio **= 2 / (1 + power)
        factor, failed = torch.linalg.cholesky_ex(torch.addcmul(left.mul_(ratio), eye, right, value=power))
        change = factor_solve(factor, torch.addcmul(right, sums, ratio, value=-1))
        if not at_most(failed, 0):
            change.masked_fill_(failed.view(one.shape).bool(), 0)
        growth = torch.addcmul(one, change, allowed(change.amin(-2, keepdim=True), one, power))
        left.mul_(growth).mul_(growth.mT)
        if power != 1:
            right.mul_(growth ** (1 - power))
            total = right.sum(-2, keepdim=True)
        if at_most(change.abs_(), CLOSE):
            break
    return left.diagonal(dim1=-2, dim2=-1).div(1 + RIDGE).sqrt_()


def start(matrix: Tensor, norms: Tensor, power: float) -> Tensor:
    """Near the solution as long as inner products between tasks are small: two steps of z ← z (m / K 1)^(1/(1+p)).

    For 40 tasks they take the place of one of Newton's, which costs ten times as much.
    """
    values = norms ** ((power - 1) / (power + 1))
    for _ in range(2):
        gains = (matrix @ values).mul_(values)
        if power != 1:
            gains.div_((norms / values) ** (power - 1))
        values = values * gains.clamp_min_(0.5).pow_(-1 / (power + 1))
    return values


def allowed(least: Tensor, one: Tensor, power: float) -> Tensor:
    """The part of the step that is safe where -ρ is ``least``."""
    if power == 1:
        return least.sub_(0.5).clamp_max_(-1).reciprocal_().neg_()
    decrease = least.neg().clamp_min_(1e-9)
    part = (one - ((one + power * decrease) ** (-1 / power)).clamp_min(1e-3)) / decrease  # 1e-3: for rounding's sake
    return torch.where(decrease <= 0.5 / max(power, 1), one, part)
