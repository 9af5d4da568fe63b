"""One or several real numbers."""

from collections.abc import Sequence
from math import prod
from typing import Literal

import pyarrow as pa
import torch
from torch import Tensor

from mtl_runner import metrics
from mtl_runner.batch import TargetSpec
from mtl_runner.tasks.base import Task


class Regression(Task):
    """Squared error (z - y)² of the standardised value; metrics in the user's unit.

    R² of several outputs is the mean of theirs.
    """

    kind = "regression"
    average: Literal["uniform_average", "variance_weighted"] = "uniform_average"

    @property
    def width(self) -> int:
        return prod(self.spec.shape)

    def outputs(self, raw: Tensor) -> Tensor:
        return raw if self.spec.shape else raw.squeeze(-1)

    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets) ** 2

    def evaluate(self, outputs: Tensor, targets: Tensor, specs: Sequence[TargetSpec]) -> dict[str, Tensor]:
        scale = torch.tensor([spec.scale or (1.0,) * self.width for spec in specs], device=outputs.device)
        return metrics.regression(outputs, targets, scale, average=self.average)

    def predictions(self, outputs: Tensor) -> dict[str, pa.Array]:
        center = torch.tensor(self.spec.center or (0.0,) * self.width, dtype=torch.float64)
        scale = torch.tensor(self.spec.scale or (1.0,) * self.width, dtype=torch.float64)
        values = (center + scale * outputs.cpu().double().reshape(-1, self.width)).numpy()
        names = [f"{self.name}_{column}" for column in self.spec.columns] if self.spec.shape else [self.name]
        return {name: pa.array(values[:, i]) for i, name in enumerate(names)}
