"""Weights given by the user."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Unpack

import torch
from annotated_types import Ge
from torch import Tensor

from mtl_runner.errors import UserError, choices, nearest
from mtl_runner.weighting.base import DirectWeighting, Options


class Static(DirectWeighting):
    """Σ_t w_t L_t with fixed w_t, taken as they are: they are not normalised.

    ``scale: paper`` is this sum; ``comparable`` divides it by T, the number of tasks, where tasks share parameters.
    One backward pass; no memory.

    Args:
        tasks: names of the tasks.
        weights: weight of a task by its name; 1 for those not named.
        options: those of every weighting.
    """

    given: Tensor

    def __init__(
        self, tasks: Sequence[str], *, weights: Mapping[str, Annotated[float, Ge(0)]] | None = None, **options: Unpack[Options]
    ) -> None:
        super().__init__(tasks, **options)
        weights = weights or {}
        for name in weights:
            if name not in tasks:
                raise UserError(
                    f"weighting.weights.{name}: there is no such task; the tasks are {choices(tasks)}{nearest(name, tasks)}"
                )
        if not any(weights.get(name, 1.0) for name in tasks):
            raise UserError("weighting.weights: all tasks weigh 0, so that nothing would be trained; give one of them more")
        self.register_buffer("given", torch.tensor([float(weights.get(name, 1.0)) for name in tasks]))

    def weights(self, losses: Tensor, active: Tensor) -> Tensor:
        return self.given * active
