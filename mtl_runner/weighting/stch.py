"""Smooth Tchebycheff scalarization (STCH)."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Unpack

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from mtl_runner.weighting.base import DirectWeighting, Options, equal_share, mean_weight
from mtl_runner.weighting.scale_invariant import FLOOR


class STCH(DirectWeighting):
    """μ log Σ_t exp(λ_t L_t / μ), a smooth maximum of the n tasks' losses; weights λ_t softmax(λ L / μ)_t.

    Lin et al., Smooth Tchebycheff Scalarization for Multi-Objective Optimization, ICML 2024, with their preference λ_t = 1 / n
    over the tasks with labels in the batch and the ideal point z* = 0, the least that a loss can be. The smaller μ, the more
    the task with the largest loss takes all. Losses of different units are compared as they are.

    With ``warmup_epochs`` it is what the authors' code does for deep multi-task learning. First come so many epochs of
    Σ_t log L_t. The mean losses of the last of them are the nadir point N; from then on the objective is
    n μ log Σ_t exp(log(L_t / N_t) / μ), whose weights are n softmax(log(L / N) / μ)_t / L_t. The authors' defaults are mu=1 and,
    counted as here, warmup_epochs=5. A task without labels in an epoch keeps the N_t of an earlier one, else N_t = 1.

    The weights of the first form sum to 1 / n, and identical tasks weigh 1 / n² each. Those of the other have no scale of their
    own, so that ``scale: comparable`` divides by their mean. Heads get them too. One backward pass; T numbers.

    Args:
        tasks: names of the tasks.
        mu: μ.
        warmup_epochs: null for the first form.
        options: those of every weighting.
    """

    nadir: Tensor

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        mu: Annotated[float, Gt(0)] = 0.1,
        warmup_epochs: Annotated[int, Ge(1)] | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(tasks, **options)
        self.mu = mu
        self.warmup_epochs = warmup_epochs
        self.epochs = 0
        self.register_buffer("nadir", torch.ones(len(tasks)))

    def unit(self, weights: Tensor, active: Tensor) -> Tensor | float:
        if self.warmup_epochs is not None:
            return mean_weight(weights, active)
        return equal_share(active) ** 2

    def weights(self, losses: Tensor, active: Tensor) -> Tensor:
        count = active.sum(-1, keepdim=True).clamp_min(1)
        if self.warmup_epochs is None:
            return self.shares(losses / count, active) / count
        if self.epochs < self.warmup_epochs:
            return active / (losses + FLOOR)
        logs = (losses + FLOOR).log() - (self.nadir + FLOOR).log()
        return count * self.shares(logs, active) / (losses + FLOOR)

    def shares(self, values: Tensor, active: Tensor) -> Tensor:
        """softmax(values / μ) over the active tasks."""
        return (values / self.mu).masked_fill(~active, -torch.inf).softmax(-1).masked_fill(~active, 0)

    def combine(self, losses: Tensor, active: Tensor) -> Tensor:
        count = active.sum(-1)
        if self.warmup_epochs is None:
            return self.smooth_maximum(losses / count[..., None].clamp_min(1), active)
        logs = (losses + FLOOR).log()
        if self.epochs < self.warmup_epochs:
            return logs.where(active, 0).sum(-1)
        return count * self.smooth_maximum(logs - (self.nadir + FLOOR).log(), active)

    def smooth_maximum(self, values: Tensor, active: Tensor) -> Tensor:
        """μ log Σ exp(values / μ) over the active tasks; 0 where there are none."""
        maximum = self.mu * (values / self.mu).masked_fill(~active, -torch.inf).logsumexp(-1)
        return maximum.where(active.any(-1), 0)

    def after_epoch(self, losses: Tensor) -> None:
        if self.warmup_epochs is not None and self.epochs < self.warmup_epochs:
            self.nadir.copy_(torch.where(losses.isfinite(), losses, self.nadir))
        self.epochs += 1

    def get_extra_state(self) -> dict[str, int]:
        return {"epochs": self.epochs}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        self.epochs = state["epochs"]
