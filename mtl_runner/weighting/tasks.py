"""The tasks of a step: which of them count, and means over the draws in which they have labels.

Shape legend: T tasks, P shared parameters.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mtl_runner.weighting.base import Objectives, every, mean_losses


@dataclass(frozen=True)
class Tasks:
    """The tasks of a step."""

    losses: Tensor
    """[T] in float64, the mean over the draws; 1 where it is not usable."""
    active: Tensor
    """[T]: has labels, in one draw at least."""
    usable: Tensor
    """[T]: has labels, and losses and gradient are finite."""
    whole: bool = False
    """Whether all are known to be usable, so that nothing has to be masked. On the CPU alone: elsewhere it would take waiting."""

    @classmethod
    def of(cls, squares: Tensor, draws: Sequence[Objectives]) -> "Tasks":
        """Those of the draws' forward passes; ``squares`` [T] are the squared norms of the gradients."""
        losses, active = mean_losses(draws)
        sizes = losses + squares
        if every(active) and math.isfinite(sum(sizes.tolist())):
            return cls(wide(losses), active, active, whole=True)
        usable = active & (sizes.abs() < torch.inf)
        return cls(wide(losses.where(usable, 1)), active, usable)

    @property
    def broken(self) -> Tensor:
        """[T]: has labels, but loss or gradient are not finite."""
        return self.active > self.usable

    def only_usable(self, matrix: Tensor) -> Tensor:
        """[T, T] in float64 with zeros in the rows and columns of tasks that are not usable."""
        return wide(matrix if self.whole else matrix.where(self.usable[:, None] & self.usable, 0))

    def reported(self, weights: Tensor) -> Tensor:
        """NaN in place of the weight of a broken task."""
        return weights if self.whole else weights.masked_fill(self.broken, torch.nan)


def present(draws: Sequence[Objectives]) -> Tensor:
    """[T]: in how many of the draws each task has labels, at least 1: what a mean over them divides a sum by."""
    return torch.stack([draw.active for draw in draws]).sum(0).clamp_min_(1)


def mean_gradients(jacobians: Sequence[Tensor], draws: Sequence[Objectives]) -> Tensor:
    """[T, P]: the mean over the draws in which a task has labels, as that of its loss is."""
    return torch.stack(list(jacobians)).sum(0).div_(present(draws)[:, None])


def wide(values: Tensor) -> Tensor:
    """In float64; in float32 on devices that have no other."""
    return values.float() if values.device.type == "mps" else values.double()
