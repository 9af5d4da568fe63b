"""Fast adaptive multitask optimization (FAMO)."""

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Annotated, Unpack

import torch
from annotated_types import Ge
from torch import Tensor

from mtl_runner.weighting.base import DirectWeighting, Options, equal_share, every

EPSILON = 1e-8
BETAS = (0.9, 0.999)
"""Adam's, and torch's default."""


class FAMO(DirectWeighting):
    """c Σ_t z_t log L_t with z = softmax(ξ) and c = 1 / Σ_t (z_t / L_t), over the tasks with labels in the batch.

    Its weights c z_t / L_t are constant in the step. After the step the losses L' of the same batch are looked at, and the
    logits ξ, which start at 0, take a step of Adam with the gradient Σ_s δ_s ∂z_s / ∂ξ_t where δ_s = log L_s - log L'_s:
    tasks whose loss fell less get more weight. The second look has the same dropout masks and leaves no trace in batch
    statistics.

    Liu, Feng, Stone & Liu, FAMO: Fast Adaptive Multitask Optimization, NeurIPS 2023, Algorithm 2, with the minimal losses taken
    as 0; as in the authors' code 1e-8 is added to losses. Their code has gamma 0.01 or 1e-5 by default, the paper 0.001. ξ and
    Adam's state of a task without labels, or with a second loss that is not finite, stay as they are.

    Weights sum to 1; heads get them too. One backward pass and one more forward pass; 4 T numbers.

    Args:
        tasks: names of the tasks.
        w_lr: Adam's learning rate for ξ; β in the paper.
        gamma: Adam's weight decay for ξ; γ in the paper.
        options: those of every weighting.
    """

    needs = "trajectory"
    state: Tensor
    """[4, T]: ξ, Adam's means of the slopes and of their squares, how often it moved; changed in place."""

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        w_lr: Annotated[float, Ge(0)] = 0.025,
        gamma: Annotated[float, Ge(0)] = 0.001,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(tasks, **options)
        self.w_lr = w_lr
        self.gamma = gamma
        self.register_buffer("state", torch.zeros(4, len(tasks)))
        self._active: Tensor | None = None
        self._logs: Tensor | None = None
        self._viewed: Tensor | None = None
        self._rows: list[Tensor] = []
        self._cells: list[list[Tensor]] = []

    def unit(self, weights: Tensor, active: Tensor) -> Tensor | float:
        """1 / n: the weights are those of a mean."""
        return equal_share(active)

    def weights(self, losses: Tensor, active: Tensor) -> Tensor:
        self._active, self._logs = active, logarithm(losses)
        return among(active, self.state[0] - self._logs)

    def after_step(self, recompute: Callable[[], Tensor]) -> None:
        assert self._active is not None and self._logs is not None
        change = self._logs - logarithm(recompute())
        if every(self._active) and finite(change):
            shares = self.state[0].softmax(-1)
            self.adam(shares * (change - shares @ change))
            return
        before, moving = self.state.clone(), self._active & (change.abs() < torch.inf)
        shares, change = among(moving, self.state[0]), change.masked_fill(~moving, 0)
        self.adam(shares * (change - shares @ change))
        self.state.copy_(self.state.where(moving, before))

    def adam(self, slopes: Tensor) -> None:
        """A step of Adam (Kingma & Ba 2015) with L2 decay for the logits, each of which counts its own steps.

        Its kernel alone, on views that are made once: around it torch's optimizer takes a good part of the time of the second
        look at the losses.
        """
        if self._viewed is not self.state:
            self._viewed, self._rows = self.state, list(self.state.unbind())
            self._cells = [list(row.unbind()) for row in self._rows]
        logits, means, squares, looks = self._cells
        self._rows[-1].add_(1)
        torch._fused_adam_(
            logits,
            slopes.unbind(),
            means,
            squares,
            [],
            looks,
            lr=self.w_lr,
            beta1=BETAS[0],
            beta2=BETAS[1],
            weight_decay=self.gamma,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
        )


def finite(values: Tensor) -> bool:
    """Whether all are, as far as looking is free; as ``every``."""
    return values.device.type == "cpu" and all(map(isfinite, values.tolist()))


def among(active: Tensor, scores: Tensor) -> Tensor:
    """Softmax over the active entries; 0 for the others."""
    if every(active):
        return scores.softmax(-1)
    return scores.masked_fill(~active, -torch.inf).softmax(-1).masked_fill(~active, 0)


def logarithm(losses: Tensor) -> Tensor:
    """log(L + 1e-8); a loss below 0 counts as 0."""
    return losses.relu().add_(EPSILON).log_()
