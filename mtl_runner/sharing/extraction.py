"""One level of progressive layered extraction.

Shape legend: T tasks, N examples, m experts of each task, S shared experts.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtl_runner.encoders.stacked import Rows
from mtl_runner.sharing.experts import Chain, Experts
from mtl_runner.sharing.gates import Gates, Importance, mix
from mtl_runner.sharing.vectors import Vector


class Extraction(nn.Module):
    """What one level has for the tasks of one stream: their experts and gates, and the gate of what they share.

    Args:
        chains: the experts of the tasks, m for each, those of a task one after the other.
        tasks: how many tasks, T.
        shared_experts: S.
        vector: from what the level reads to what its gates read.
        last: whether it is the last level, where nothing is handed on but the tasks' features.
    """

    def __init__(self, chains: Sequence[Chain], tasks: int, shared_experts: int, vector: Vector, last: bool) -> None:
        super().__init__()
        self.each = len(chains) // tasks
        self.experts = Experts(chains)
        self.vector = vector
        self.gates = Gates(tasks, self.each + shared_experts, vector.width)
        self.shared_gate = None if last else Gates(1, len(chains) + shared_experts, vector.width)
        self.shared_importance = None if last else Importance(1, len(chains) + shared_experts)

    def outputs(self, x: Tensor, mask: Tensor | None, apart: bool, rows: Rows) -> Tensor:
        """Those of the tasks' experts, [T, m, N, …], from x [N, …] or, ``apart``, [T, N, …]."""
        if apart:
            x = x.unsqueeze(1).expand(-1, self.each, *x.shape[1:]).flatten(0, 1)
        experts = None if rows is None else [row * self.each + k for row in rows for k in range(self.each)]
        return self.experts(x, mask, apart, experts).unflatten(0, (-1, self.each))  # type: ignore[no-any-return]

    def extract(self, weights: Tensor, outputs: Tensor, shared: Tensor, apart: bool = False) -> Tensor:
        """What the tasks' gates select, [T, N, …], from their own experts' ``outputs`` and the shared ones'.

        ``shared`` is [S, N, …], or, ``apart``, [T, S, N, …].
        """
        weights, weights_shared = weights.tensor_split([self.each], -1)
        return mix(weights, outputs, apart=True) + mix(weights_shared, shared, apart)

    def share(self, x: Tensor, outputs: Tensor, shared: Tensor, mask: Tensor | None) -> Tensor:
        """What the shared gate selects from all experts, [N, …]."""
        assert self.shared_gate is not None and self.shared_importance is not None
        weights = self.shared_gate(self.vector(x, mask))
        self.shared_importance.add(weights)
        return mix(weights, torch.cat([outputs.flatten(0, 1), shared]))[0]
