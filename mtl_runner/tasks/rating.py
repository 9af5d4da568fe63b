"""How a user rates an item: stars, points."""

from collections.abc import Sequence
from math import inf

import pyarrow as pa
import torch
from torch import Tensor

from mtl_runner.batch import Fields, TargetSpec
from mtl_runner.errors import UserError
from mtl_runner.metrics.ranking import rating
from mtl_runner.tasks.base import Task


class Rating(Task):
    """Squared error (z - y)² of the standardised rating; metrics in the user's unit.

    With ``bounds: [lowest, highest]`` metrics and predictions take the nearest rating that can be given; the loss does not, so
    that its gradient never vanishes.
    """

    kind = "rating"
    width = 1

    def __init__(self, name: str, spec: TargetSpec, *, bounds: Sequence[float] | None = None) -> None:
        super().__init__(name, spec)
        numbers = [-inf, inf] if bounds is None else list(bounds) if isinstance(bounds, Sequence) else [bounds]
        if len(numbers) != 2 or not all(isinstance(each, int | float) for each in numbers) or not numbers[0] < numbers[1]:
            raise UserError(f"dataset.tasks.{name}.bounds={bounds}: allowed is [lowest, highest], such as [1, 5]")
        self._bounds = numbers

    def outputs(self, raw: Tensor) -> Tensor:
        return raw.squeeze(-1)

    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets) ** 2

    def evaluate(
        self, outputs: Tensor, targets: Tensor, specs: Sequence[TargetSpec], context: Fields | None = None
    ) -> dict[str, Tensor]:
        within = torch.stack([self._within(values, spec) for values, spec in zip(outputs, specs, strict=True)])
        scale = torch.tensor([spec.scale or (1.0,) for spec in specs], device=outputs.device)
        return rating(within, targets, scale)

    def predictions(self, outputs: Tensor, context: Fields | None = None) -> dict[str, pa.Array]:
        center, scale = _unit(self.spec)
        values = center + scale * self._within(outputs.cpu().double(), self.spec)
        return {self.name: pa.array(values.clamp(*self._bounds).numpy())}

    def _within(self, outputs: Tensor, spec: TargetSpec) -> Tensor:
        """Standardised ratings inside the bounds."""
        center, scale = _unit(spec)
        lowest, highest = ((bound - center) / scale for bound in self._bounds)
        return outputs.clamp(lowest, highest)


def _unit(spec: TargetSpec) -> tuple[float, float]:
    return (spec.center or (0.0,))[0], (spec.scale or (1.0,))[0]
