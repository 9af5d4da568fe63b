"""Focal loss."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor

from mtl_runner.errors import NotApplicable
from mtl_runner.imbalance.base import Criterion, cross_entropy, inverse_frequency, of_class
from mtl_runner.imbalance.closed_form import with_slopes


class Focal(Criterion):
    """FL = α_c (1 - p)^γ (-log p), where p is the probability given to the true class c.

    γ = 0 without α is the cross-entropy. Lin et al., Focal Loss for Dense Object Detection, ICCV 2017.

    Size: never above α_c times the cross-entropy, and 2^-γ of it where p = 1/2, a quarter with γ = 2. Beside tasks with a
    cross-entropy such a task weighs that much less.

    Cost: about twelve element-wise operations per label, its derivative included, and five for α.

    Args:
        gamma: γ, how much less the well-classified examples count.
        alpha: weight of the positive class of binary tasks, 1 - alpha of the negative one; or ``inverse_frequency``,
            the weights of ``class_weights``, for tasks of any kind; or none.
        tasks: limit it to these tasks; all binary, multiclass and segmentation tasks otherwise.
    """

    kinds = frozenset({"binary", "multiclass", "ranking", "segmentation"})
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
            raise NotApplicable(
                f"imbalance.focal.alpha={self.alpha} is a weight of the positive class of binary tasks; "
                "with tasks of several classes it can be null or inverse_frequency (or limit it: imbalance.focal.tasks=[…])"
            )

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        weights = None if self.alpha is None else of_class(self.weights, targets)
        return focused(cross_entropy(outputs, targets), self.gamma, weights)


def focused(loss: Tensor, gamma: float, weights: Tensor | None = None) -> Tensor:
    """weight · (1 - p)^γ · loss, for loss = -log p."""
    if not gamma:
        return loss if weights is None else weights * loss
    values, slopes = polynomial(loss.detach(), gamma)
    return with_slopes(loss, values, slopes) if weights is None else with_slopes(loss, values * weights, slopes * weights)


def polynomial(loss: Tensor, gamma: float, epsilon: float = 0, wrong: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(1 - p)^γ (loss + ε (1 - p)) for loss = -log p, and its derivative with respect to the loss; ``wrong``: 1 - p, if known."""
    if not gamma and not epsilon:
        return loss, torch.ones_like(loss)
    wrong = torch.expm1(-loss).neg_() if wrong is None else wrong
    right = 1 - wrong
    if not gamma:
        return torch.add(loss, wrong, alpha=epsilon), right.mul_(epsilon).add_(1)
    wrong = wrong.clamp_min(torch.finfo(loss.dtype).tiny)  # for the division; the loss is as small where p is 1
    # a square of a square takes a seventh of the time of other powers
    powers = wrong.square() ** (gamma / 2) if gamma > 2 else wrong**gamma
    values, slopes = powers * loss, powers
    if epsilon:
        values.addcmul_(powers, wrong, value=epsilon)
        slopes = torch.addcmul(powers, powers, right, value=epsilon)
    return values, torch.addcdiv(slopes, right.mul_(values), wrong, value=gamma)
