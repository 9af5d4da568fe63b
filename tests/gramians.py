"""Gramians that the gradient-based weightings are tested on."""

import torch
from torch import Tensor


def random_gramians(count: int = 200, seed: int = 0) -> list[Tensor]:
    """J Jᵀ of random J, in float64: 2 to 40 tasks, every other one of half rank, a common shift, scales 1e-6 to 1e6."""
    draws = torch.Generator().manual_seed(seed)
    gramians = []
    for index in range(count):
        tasks = int(torch.randint(2, 41, (), generator=draws))
        rank = tasks + 5 if index % 2 == 0 else max(1, tasks // 2)
        jacobian = torch.randn(tasks, rank, generator=draws, dtype=torch.float64)
        jacobian += (index % 3) * torch.rand((), generator=draws, dtype=torch.float64)  # none, or some agreement of the tasks
        scale = 10 ** (12 * torch.rand((), generator=draws, dtype=torch.float64) - 6)
        gramians.append(scale * jacobian @ jacobian.T)
    return gramians


def hostile_gramians(tasks: int = 4) -> dict[str, Tensor]:
    """Gramians on which naive solvers fail."""
    draws = torch.Generator().manual_seed(1)
    jacobian = torch.randn(tasks, 7, generator=draws, dtype=torch.float64)
    plain = jacobian @ jacobian.T
    with_zero = jacobian.clone()
    with_zero[1] = 0
    opposed = torch.stack([jacobian[0], -jacobian[0], *jacobian[2:]])
    unequal = jacobian * torch.logspace(-6, 6, tasks, dtype=torch.float64)[:, None]
    return {
        "zero": torch.zeros(tasks, tasks, dtype=torch.float64),
        "huge": plain * 1e20,
        "tiny": plain * 1e-20,
        "one task without gradient": with_zero @ with_zero.T,
        "identical": torch.ones(tasks, tasks, dtype=torch.float64) * 3,
        "opposed": opposed @ opposed.T,
        "all but one opposed to the first": _signs(tasks),
        "very unequal": unequal @ unequal.T,
    }


def _signs(tasks: int) -> Tensor:
    row = torch.ones(tasks, dtype=torch.float64)
    row[1:] = -1
    return row[:, None] * row
