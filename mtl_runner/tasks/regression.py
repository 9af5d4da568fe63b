"""One or several real numbers."""

import math
from collections.abc import Sequence
from math import prod
from typing import Literal

import pyarrow as pa
import torch
from torch import Tensor
from torch.nn import functional as F

from mtl_runner import metrics
from mtl_runner.batch import Fields, TargetSpec
from mtl_runner.metrics.correlation import correlation
from mtl_runner.metrics.gaussian import GAUSSIAN, gaussian
from mtl_runner.tasks.base import Task, chosen_option, positive_option

LOWEST = math.log(1e-4)
"""Of a predicted variance of standardised values: a standard deviation of a hundredth of that of the labels."""


class Regression(Task):
    """Standardised values z; metrics in the user's unit.

    ``loss: mse`` (z - y)², ``mae`` |z - y|, ``huber`` (z - y)² / 2 up to ``delta`` and delta (|z - y| - delta / 2) beyond, with
    delta in standard deviations of the training labels. ``loss: gaussian`` predicts mean μ and variance σ² of each value:
    (log σ² + (y - μ)² / σ²) / 2 (Nix & Weigend, ICNN 1994), plus the constant that makes 0 its least value, as methods that
    weigh tasks take logarithms and ratios of losses; σ is at least a hundredth of the labels' standard deviation.

    Targets are [T, N] or [T, N, K], outputs the same; of ``gaussian`` [T, N, 2] or [T, N, K, 2], mean and log variance. R² and
    correlations of several outputs are the means of theirs.
    """

    kind = "regression"
    average: Literal["uniform_average", "variance_weighted"] = "uniform_average"
    correlated = True

    def __init__(
        self, name: str, spec: TargetSpec, *, loss: Literal["mse", "mae", "huber", "gaussian"] = "mse", delta: float = 1.0
    ) -> None:
        super().__init__(name, spec)
        self._loss = chosen_option(name, "loss", loss, ("mse", "mae", "huber", "gaussian"))
        self._delta = positive_option(name, "delta", delta)
        if self._gaussian:
            self.metrics = (*self.metrics, *GAUSSIAN)

    @property
    def _gaussian(self) -> bool:
        return self._loss == "gaussian"

    @property
    def _values(self) -> int:
        return prod(self.spec.shape)

    @property
    def width(self) -> int:
        return self._values * (2 if self._gaussian else 1)

    def outputs(self, raw: Tensor) -> Tensor:
        if not self._gaussian:
            return raw if self.spec.shape else raw.squeeze(-1)
        mean, variance = raw[..., : self._values], LOWEST + F.softplus(raw[..., self._values :] - LOWEST)
        both = torch.stack([mean, variance], -1)
        return both if self.spec.shape else both.squeeze(-2)

    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self._loss == "mse":
            return (outputs - targets) ** 2
        if self._loss == "mae":
            return (outputs - targets).abs()
        if self._loss == "huber":
            return F.huber_loss(outputs, targets, reduction="none", delta=self._delta)
        mean, variance = outputs.unbind(-1)
        return (variance - LOWEST + (targets - mean) ** 2 * (-variance).exp()) / 2

    def evaluate(
        self, outputs: Tensor, targets: Tensor, specs: Sequence[TargetSpec], context: Fields | None = None
    ) -> dict[str, Tensor]:
        scale = torch.tensor([spec.scale or (1.0,) * self._values for spec in specs], device=outputs.device)
        means = outputs[..., 0] if self._gaussian else outputs
        values = metrics.regression(means, targets, scale, average=self.average)
        if self.correlated:
            values |= correlation(means, targets)
        return values | gaussian(outputs, targets, scale) if self._gaussian else values

    def predictions(self, outputs: Tensor, context: Fields | None = None) -> dict[str, pa.Array]:
        """The value; of ``gaussian`` also its standard deviation, in the column that ends with ``_sd``."""
        center, scale = (torch.tensor(numbers, dtype=torch.float64) for numbers in self._unit())
        plain = outputs.cpu().double().reshape(-1, *((self._values, 2) if self._gaussian else (self._values,)))
        values = (center + scale * (plain[..., 0] if self._gaussian else plain)).numpy()
        names = [f"{self.name}_{column}" for column in self.spec.columns] if self.spec.shape else [self.name]
        columns = {name: pa.array(values[:, i]) for i, name in enumerate(names)}
        if not self._gaussian:
            return columns
        spread = (scale * (plain[..., 1] / 2).exp()).numpy()
        return columns | {f"{name}_sd": pa.array(spread[:, i]) for i, name in enumerate(names)}

    def _unit(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return self.spec.center or (0.0,) * self._values, self.spec.scale or (1.0,) * self._values
