"""Imported by a process that others are forked from: what torch sets up for its first exported program, which takes seconds."""

import io

import torch
from torch import Tensor, nn

from mtl_runner.serving.packaging import export


class _Smallest(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, inputs: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
        return {"task": self.layer(inputs["input"]["numeric"]).relu()}


with torch.random.fork_rng(devices=()):
    _program = export(_Smallest(), {"input": {"numeric": torch.zeros(2, 1)}})
torch.export.save(_program, io.BytesIO())
