"""Quantiles of a number."""

from collections.abc import Sequence
from itertools import pairwise

import pyarrow as pa
import torch
from torch import Tensor
from torch.nn import functional as F

from mtl_runner.batch import Fields, TargetSpec
from mtl_runner.errors import UserError
from mtl_runner.metrics.quantile import quantile
from mtl_runner.tasks.base import Task


class Quantile(Task):
    """Several quantiles of a standardised value y: the mean over the levels τ of max(τ e, (τ - 1) e), e = y - q_τ (Koenker &
    Bassett, Regression Quantiles, Econometrica 1978).

    The middle one is an output of the head, the others are that and sums of softplus of the other outputs: they cannot cross.

    Targets are [T, N], outputs [T, N, Q]. ``quantiles`` are the levels, rising, between 0 and 1.
    """

    kind = "quantile"

    def __init__(self, name: str, spec: TargetSpec, *, quantiles: Sequence[float] = (0.1, 0.5, 0.9)) -> None:
        super().__init__(name, spec)
        self._levels = _levels(name, quantiles)

    @property
    def width(self) -> int:
        return len(self._levels)

    def outputs(self, raw: Tensor) -> Tensor:
        middle = self.width // 2
        steps = F.softplus(raw)
        under = steps[..., :middle].flip(-1).cumsum(-1).flip(-1)
        above = steps[..., middle + 1 :].cumsum(-1)
        center = raw[..., middle : middle + 1]
        return torch.cat([center - under, center, center + above], -1)

    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        levels = outputs.new_tensor(self._levels)
        error = targets[..., None] - outputs
        return torch.maximum(levels * error, (levels - 1) * error).mean(-1)

    def evaluate(
        self, outputs: Tensor, targets: Tensor, specs: Sequence[TargetSpec], context: Fields | None = None
    ) -> dict[str, Tensor]:
        scale = torch.tensor([(spec.scale or (1.0,))[0] for spec in specs], device=outputs.device)
        return quantile(outputs, targets, torch.tensor(self._levels), scale)

    def predictions(self, outputs: Tensor, context: Fields | None = None) -> dict[str, pa.Array]:
        """A column for each level: ``NAME_0.1``."""
        center, scale = (self.spec.center or (0.0,))[0], (self.spec.scale or (1.0,))[0]
        values = (center + scale * outputs.cpu().double()).numpy()
        return {f"{self.name}_{level:g}": pa.array(values[:, i]) for i, level in enumerate(self._levels)}


def _levels(name: str, quantiles: object) -> tuple[float, ...]:
    place = f"dataset.tasks.{name}.quantiles={quantiles}"
    listed = list(quantiles) if isinstance(quantiles, Sequence) and not isinstance(quantiles, str) else []
    if not listed or any(isinstance(level, bool) or not isinstance(level, int | float) for level in listed):
        raise UserError(f"{place}: a list of numbers between 0 and 1 is expected, such as [0.1,0.5,0.9]")
    if not all(0 < level < 1 for level in listed) or any(one >= other for one, other in pairwise(listed)):
        raise UserError(f"{place}: must rise, and lie between 0 and 1")
    return tuple(float(level) for level in listed)
