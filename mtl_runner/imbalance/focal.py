"""Focal loss."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor

from mtl_runner.errors import UserError
from mtl_runner.imbalance.base import Criterion, cross_entropy, inverse_frequency, of_class


class Focal(Criterion):
    """FL = α_c (1 - p)^γ (-log p), where p is the probability given to the true class c.

    γ = 0 without α is the cross-entropy. Lin et al., Focal Loss for Dense Object Detection, ICCV 2017.

    Args:
        gamma: γ, how much less the well-classified examples count.
        alpha: weight of the positive class of binary tasks, 1 - alpha of the negative one; or ``inverse_frequency``,
            the weights of ``class_weights``, for binary and multiclass tasks; or none.
        tasks: limit it to these tasks; all binary and multiclass tasks otherwise.
    """

    kinds = frozenset({"binary", "multiclass"})
    weights: Tensor

    def __init__(
        self,
        *,
        gamma: Annotated[float, Ge(0)] = 2.0,
        alpha: Annotated[float, Ge(0), Le(1)] | Literal["inverse_frequency"] | None = None,
        tasks: Sequence[str] | None = None,
    ) -> None:
        super().__init__(tasks)
        self.gamma = gamma
        self.alpha = alpha
        self.register_buffer("weights", torch.ones(1, 1), persistent=False)

    def fit(self, targets: Tensor, classes: int) -> None:
        if self.alpha == "inverse_frequency":
            self.weights = inverse_frequency(targets, classes)
        elif self.alpha is None:
            self.weights = torch.ones(len(targets), classes, device=targets.device)
        elif targets.is_floating_point():
            self.weights = torch.tensor([1 - self.alpha, self.alpha], device=targets.device).expand(len(targets), 2).clone()
        else:
            raise UserError(
                f"imbalance.focal.alpha={self.alpha} is a weight of the positive class of binary tasks; "
                "with a multiclass task it can be null or inverse_frequency (or limit it: imbalance.focal.tasks=[…])"
            )

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        loss = cross_entropy(outputs, targets)
        # 1 - p; the floor keeps the derivative of x^γ finite where p rounds to 1 and γ < 1
        wrong = (-torch.expm1(-loss)).clamp_min(torch.finfo(loss.dtype).tiny)
        return of_class(self.weights, targets) * wrong**self.gamma * loss
