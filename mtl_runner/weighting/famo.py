"""Fast adaptive multitask optimization (FAMO)."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Unpack

import torch
from annotated_types import Ge
from torch import Tensor

from mtl_runner.weighting.base import DirectWeighting, Objectives, Options, equal_share

EPSILON = 1e-8


class FAMO(DirectWeighting):
    """c Σ_t z_t log L_t with z = softmax(ξ) and c = 1 / Σ_t (z_t / L_t), over the tasks with labels in the batch.

    Its weights c z_t / L_t are constant in the step. After the step the losses L' of the same batch are looked at, and the
    logits ξ, which start at 0, take a step of Adam with the gradient Σ_s δ_s ∂z_s / ∂ξ_t where δ_s = log L_s - log L'_s:
    tasks whose loss fell less get more weight. The second look has the same dropout masks and leaves no trace in batch
    statistics.

    Liu, Feng, Stone & Liu, FAMO: Fast Adaptive Multitask Optimization, NeurIPS 2023, Algorithm 2, with the minimal losses taken
    as 0; as in the authors' code 1e-8 is added to losses. Their code has gamma 0.01 or 1e-5 by default, the paper 0.001. ξ and
    Adam's moments of a task without labels, or with a second loss that is not finite, stay as they are.

    Weights sum to 1; heads get them too. One backward pass and one more forward pass; 3 T numbers.

    Args:
        tasks: names of the tasks.
        w_lr: Adam's learning rate for ξ; β in the paper.
        gamma: Adam's weight decay for ξ; γ in the paper.
        options: those of every weighting.
    """

    needs = "trajectory"
    logits: Tensor

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
        self.register_buffer("logits", torch.zeros(len(tasks)))
        self._optimizer: torch.optim.Adam | None = None
        self._state: dict[str, Any] | None = None
        self._before: tuple[Tensor, Tensor] | None = None

    def unit(self, weights: Tensor, active: Tensor) -> Tensor | float:
        """1 / n: the weights are those of a mean."""
        return equal_share(active)

    def weights(self, losses: Tensor, active: Tensor) -> Tensor:
        scores = self.logits - logarithm(losses)
        return scores.masked_fill(~active, -torch.inf).softmax(-1).masked_fill(~active, 0)

    def backward(self, objectives: Objectives, *further: Objectives) -> Tensor:
        self._before = objectives.losses, objectives.active
        return super().backward(objectives, *further)

    def after_step(self, recompute: Callable[[], Tensor]) -> None:
        assert self._before is not None
        (before, active), after = self._before, recompute()
        moving = active & after.isfinite()
        change = (logarithm(before) - logarithm(after)).where(moving, 0)
        shares = self.logits.masked_fill(~moving, -torch.inf).softmax(-1).where(moving, 0)
        optimizer = self.optimizer()
        moments = [value for key, value in optimizer.state[self.logits].items() if key != "step"]
        kept = [(value, value.clone()) for value in (self.logits, *moments)]
        self.logits.grad = shares * (change - (shares * change).sum())
        optimizer.step()
        self.logits.grad = None
        for value, old in kept:
            value.copy_(torch.where(moving, value, old))
        self._before = None

    def optimizer(self) -> torch.optim.Adam:
        """Adam over ξ; made on first use, when the device is known."""
        if self._optimizer is None or self._optimizer.param_groups[0]["params"][0] is not self.logits:
            state = self.get_extra_state()["optimizer"]
            self._optimizer = torch.optim.Adam([self.logits], lr=self.w_lr, weight_decay=self.gamma)
            if state is not None:
                self._optimizer.load_state_dict(state)
        return self._optimizer

    def get_extra_state(self) -> dict[str, Any]:
        return {"optimizer": self._state if self._optimizer is None else self._optimizer.state_dict()}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        self._optimizer, self._state = None, copy.deepcopy(state["optimizer"])


def logarithm(losses: Tensor) -> Tensor:
    """log(L + 1e-8); a loss below 0 counts as 0."""
    return (losses.clamp_min(0) + EPSILON).log()
