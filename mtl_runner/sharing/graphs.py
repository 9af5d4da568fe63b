"""Directed graphs of tasks: given, and learned."""

from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import cast

import torch
from torch import Tensor, nn

from mtl_runner.errors import UserError, choices, nearest


def levels(edges: Mapping[str, Sequence[str]], tasks: Sequence[str]) -> dict[str, int]:
    """Of each task the length of the longest way to it.

    Args:
        edges: of a task its predecessors.
        tasks: all of them.

    Raises:
        UserError: a task that does not exist, one that is named twice, or a cycle, which is shown.
    """
    for task, before in edges.items():
        for name in (task, *before):
            if name not in tasks:
                raise UserError(f"sharing.edges: there is no task {name}; the tasks are {choices(tasks)}{nearest(name, tasks)}")
        if twice := sorted({name for name in before if list(before).count(name) > 1}):
            raise UserError(f"sharing.edges.{task}: {choices(twice)} is there twice")
    try:
        order = list(TopologicalSorter({task: edges.get(task, ()) for task in tasks}).static_order())
    except CycleError as error:
        raise UserError(f"sharing.edges: the tasks go round in a cycle: {' → '.join(error.args[1])}") from error
    found: dict[str, int] = {}
    for task in order:
        found[task] = 1 + max((found[name] for name in edges.get(task, ())), default=-1)
    return found


class LearnedEdges(nn.Module):
    """x_t = z_t + Σ_p A_pt x_p with A = W ∘ max(0, φ_t - φ_p), [T, T], which has no cycle for any W and φ.

    Yu, Gao, Yin & Ji, "DAGs with no curl", ICML 2021: an edge goes from a lower to a higher potential φ, and every weighted
    acyclic graph has this form. At the start W is normal with standard
    deviation 0.1, so that edges are weak, and φ standard normal.

    Args:
        count: T.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(count, count))
        self.potential = nn.Parameter(torch.randn(count))

    def adjacency(self) -> Tensor:
        """A, [predecessor, successor]."""
        return self.weight * (self.potential - self.potential[:, None]).relu()

    def forward(self, z: Tensor) -> Tensor:
        """x from z, both [T, …]: (I - Aᵀ)⁻¹ z; the matrix is triangular in the order of φ, with ones on the diagonal."""
        with torch.autocast(z.device.type, enabled=False):
            unit = torch.eye(len(z), dtype=self.weight.dtype, device=z.device)
            ways = torch.linalg.inv(unit - self.adjacency().T)
        return cast(Tensor, ways @ z.flatten(1)).view(z.shape)
