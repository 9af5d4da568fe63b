"""Small convex problems, batched, without waiting for the device.

Shape legend: T tasks, K problems that share a matrix, ``…`` leading dimensions that run as a batch.
"""

from collections.abc import Callable

import torch
from torch import Tensor

EXCHANGES = 8
"""Rounds in which all that is infeasible changes sides, before each round is a step of descent."""
HELD = 1e15
"""What is added to the diagonal where the solution is held at zero."""
ROUNDING = 1e-8
"""Negative numbers above minus this, relative to the largest of their kind, are taken for rounding errors."""
RIDGE = 1e-6
"""What is added to a diagonal of ones: inner products in float32 are not more exact than that."""
FEW = 4
"""So many tasks need no guess of the set."""
STEPS = 16
"""Steps that make the guess, or T where that is more."""

Trial = Callable[[Tensor], Tensor]
"""From the set that is held at zero, [..., T] boolean, to the optimum of the others, as ``restricted`` gives it."""


def settled(done: Tensor) -> bool:
    """Whether every problem of the batch is solved, where asking costs nothing: on the CPU. Elsewhere all iterations run."""
    return done.device.type == "cpu" and bool(done.all())


def at_most(values: Tensor, limit: float) -> bool:
    """The same where that means that no value exceeds the limit; this takes half as long as to compare them all."""
    return values.device.type == "cpu" and values.max().item() <= limit


def nonnegative_quadratic(matrix: Tensor, linear: Tensor) -> Tensor:
    """argmin over z ≥ 0 of ½ zᵀ M z + qᵀ z, [..., K, T]: M [..., T, T] is positive definite, q [..., K, T].

    By pivoting, from where the modulus method comes near. Most of the K are solved then; on the CPU, where looking is free, only
    the others go on.
    """
    count = linear.shape[-1]
    start = -linear
    if count > FEW:
        inverse, contraction = splitting(matrix)
        start = start @ inverse
        start = modulus(contraction, start, start, max(count, STEPS))
    matrix, right, wall = matrix.unsqueeze(-3), -linear.unsqueeze(-1), barrier(matrix)
    held, scale = start <= 0, linear.abs().amax(-1, keepdim=True)
    if linear.dim() > 2 or linear.device.type != "cpu":
        return pivoted(lambda held: restricted(matrix, wall, held, right).squeeze(-1), held, scale)
    values = restricted(matrix, wall, held, right).squeeze(-1)
    wrong, _ = infeasible(values, held, scale)
    values = values.masked_fill(held, 0).clamp_min_(0)
    if len(rows := wrong.any(-1).nonzero().squeeze(-1)):
        right, held, scale = right[rows], (held ^ wrong)[rows], scale[rows]
        values[rows] = pivoted(lambda held: restricted(matrix, wall, held, right).squeeze(-1), held, scale)
    return values


def splitting(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """(M + ρ)⁻¹ and (ρ - M) (ρ + M)⁻¹ of M [..., T, T]."""
    rho = 0.2 * matrix.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    one = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky_ex(matrix + rho * one)[0])
    return inverse, 2 * rho * inverse - one


def modulus(contraction: Tensor, offset: Tensor, values: Tensor, steps: int) -> Tensor:
    """Steps of w ← (ρ - M) (ρ + M)⁻¹ |w| - (ρ + M)⁻¹ q: with z = |w| + w and M z + q = ρ (|w| - w) at the fixed point, z solves
    min over z ≥ 0 of ½ zᵀ M z + qᵀ z (van Bokhoven 1981). Linear convergence."""
    for _ in range(steps):
        values = (values.abs() @ contraction).add_(offset)
    return values


def barrier(matrix: Tensor) -> Tensor:
    """``HELD`` on the diagonal."""
    return HELD * torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)


def restricted(matrix: Tensor, wall: Tensor, held: Tensor, right: Tensor) -> Tensor:
    """x [..., T, N] with M x = b where x is free; where it is held at zero, (b - M x) / ``HELD``: nearly zero.

    ``wall`` is ``barrier`` of M.
    """
    factor, _ = torch.linalg.cholesky_ex(torch.addcmul(matrix, wall, held.to(matrix.dtype).unsqueeze(-1)))
    return factor_solve(factor, right)


def factor_solve(factor: Tensor, right: Tensor) -> Tensor:
    """x [..., T, N] with L Lᵀ x = b; ``cholesky_solve`` takes longer."""
    half = torch.linalg.solve_triangular(factor, right, upper=False)
    whole: Tensor = torch.linalg.solve_triangular(factor.mT, half, upper=True)
    return whole


def infeasible(values: Tensor, held: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Where a free entry of x is negative, or the derivative for one that is held; and both of these as one tensor."""
    outside = held.to(values.dtype)
    signed = values.addcmul(values, outside, value=-HELD)
    limit = values.amax(-1, keepdim=True).lerp(scale, outside)
    return signed < limit.mul_(-ROUNDING), signed


def pivoted(trial: Trial, held: Tensor, scale: Tensor) -> Tensor:
    """The minimum of a convex function over x ≥ 0, [..., T], from the minima with some entries held at zero.

    Block principal pivoting (Júdice & Pires, Computers & Operations Research 1994): all infeasible indices, which are
    negative entries of x and negative derivatives where x is held, change sides. Where that has not ended after some rounds,
    ``descent`` goes on.

    Args:
        trial: makes the optimum for a set.
        held: [..., T] boolean, where x is held at zero at first.
        scale: of the derivatives, [..., 1].
    """
    for _ in range(EXCHANGES):
        values = trial(held)
        wrong, _ = infeasible(values, held, scale)
        if settled(~wrong):
            return values.masked_fill(held, 0).clamp_min_(0)
        solved, last = held, values
        held = held ^ wrong
    found = last.masked_fill(solved, 0).clamp_min_(0)
    return torch.where(wrong.any(-1, keepdim=True), descent(trial, found, scale), found)


def descent(trial: Trial, values: Tensor, scale: Tensor) -> Tensor:
    """The same by an active-set method: towards the optimum of a set until an entry meets zero, else one more entry is free.

    The function falls in each round, so that it ends; what the limit of rounds would cut off is feasible.
    """
    held = values <= 0
    for _ in range(3 * values.shape[-1]):
        goal = trial(held)
        wrong, signed = infeasible(goal, held, scale)
        goal = goal.masked_fill(held, 0)
        if settled(~wrong):
            return goal.clamp_min(0)
        falling = wrong & ~held
        reach = torch.where(falling, values / (values - goal), torch.inf)
        share = reach.amin(-1, keepdim=True)
        leaves = falling & (reach <= share)
        values = values.lerp(goal, share.clamp_max(1)).masked_fill(leaves, 0).clamp_min(0)
        enters = wrong & held & (signed <= signed.masked_fill(~held, 0).amin(-1, keepdim=True))
        held = torch.where(falling.any(-1, keepdim=True), held | leaves, held & ~enters)
    return values


def conflict(gramian: Tensor) -> Tensor:
    """For two tasks max(-⟨g_1, g_2⟩, 0), [..., 2], once for each."""
    return gramian.flip(-1).diagonal(dim1=-2, dim2=-1).neg().relu_()


def correlations(gramian: Tensor) -> tuple[Tensor, Tensor]:
    """⟨g_s, g_t⟩ / (‖g_s‖ ‖g_t‖) with a small ridge, [..., T, T], and 1 / ‖g_t‖, [..., T].

    A gradient of zero is as one of a 1e-15th of the largest norm that is orthogonal to the others.
    """
    squares = gramian.diagonal(dim1=-2, dim2=-1)
    least = squares.amax(-1, keepdim=True).mul_(1e-30).add_(torch.finfo(gramian.dtype).tiny)
    inverse = squares.maximum(least).rsqrt_()
    matrix = inverse[..., :, None] * gramian * inverse[..., None, :]
    matrix.diagonal(dim1=-2, dim2=-1).fill_(1 + RIDGE)
    return matrix, inverse
