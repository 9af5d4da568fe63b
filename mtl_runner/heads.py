"""Heads: from features to the outputs of the tasks that run as one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtl_runner.seeding import seeded


class LinearHeads(nn.Module):
    """T linear layers of the same size as one matrix: 139 heads cost about as much as two.

    Args:
        width: size of the features.
        outputs: numbers per example and task, O.
        tasks: names of the T tasks; the initial weights of a head depend on its task's name and ``seed`` alone.
        seed: of the run.
    """

    def __init__(self, width: int, outputs: int, tasks: Sequence[str], seed: int) -> None:
        super().__init__()
        layers = [_linear(width, outputs, name, seed) for name in tasks]
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))  # [T, O, width]
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers]))  # [T, O]

    def forward(self, features: Tensor, apart: bool = False) -> Tensor:
        """Outputs [T, N, O] from features [N, …] that all T tasks share, or, ``apart``, from features [T, N, …] of each."""
        if apart:
            return torch.baddbmm(self.bias[:, None], features.flatten(2), self.weight.transpose(1, 2))
        tasks, outputs, _ = self.weight.shape
        flat = nn.functional.linear(features.flatten(1), self.weight.flatten(0, 1), self.bias.flatten())
        return flat.view(-1, tasks, outputs).transpose(0, 1)


def _linear(width: int, outputs: int, name: str, seed: int) -> nn.Linear:
    with seeded(seed, "head", name):
        return nn.Linear(width, outputs)
