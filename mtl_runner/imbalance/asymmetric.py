"""Asymmetric loss."""

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Ge, Lt
from torch import Tensor
from torch.nn import functional as F

from mtl_runner.imbalance.base import Criterion, cross_entropy
from mtl_runner.imbalance.closed_form import with_slopes
from mtl_runner.imbalance.focal import focused, polynomial


class Asymmetric(Criterion):
    """Focal loss with another γ for positives than for negatives, and without the easiest negatives.

    Binary, for the probability p of the positive class: (1 - p)^γ₊ (-log p) for positives, p_m^γ₋ (-log(1 - p_m)) for negatives,
    with p_m = max(p - m, 0). γ₊ = γ₋ = m = 0 is the cross-entropy. Ridnik et al., Asymmetric Loss For Multi-Label
    Classification, ICCV 2021.

    Multiclass: the single-label form of the authors' code, Σ_c t_c w_c (-log p_c) with w_c = (1 - p_c)^γ₊ for the true class and
    p_c^γ₋ for the others, and smoothed labels t_c = (1 - ε) [c is the true class] + ε / C. m plays no part in it; with ε = 0 only
    the true class is left, a focal loss with γ₊.

    Size: that of the cross-entropy for positives where γ₊ = 0; with the defaults a negative with p = 1/2 has 3.5 % of it, one
    with p ≤ m nothing. Where negatives are many a task thus weighs much less than with a cross-entropy. A negative's loss is at
    most -log m.

    Cost: about 25 element-wise operations per label, its derivative included.

    Args:
        gamma_pos: γ₊ of the positive, or the true, class.
        gamma_neg: γ₋ of the negative, or the other, classes.
        clip: m; for binary tasks.
        smoothing: ε; for multiclass tasks.
        tasks: limit it to these tasks; all binary and multiclass tasks otherwise.
    """

    kinds = frozenset({"binary", "multiclass", "ranking"})

    def __init__(
        self,
        *,
        gamma_pos: Annotated[float, Ge(0)] = 0.0,
        gamma_neg: Annotated[float, Ge(0)] = 4.0,
        clip: Annotated[float, Ge(0), Lt(1)] = 0.05,
        smoothing: Annotated[float, Ge(0), Lt(1)] = 0.1,
        tasks: Sequence[str] | None = None,
    ) -> None:
        super().__init__(tasks)
        self.gamma_pos = gamma_pos
        self.gamma_neg = gamma_neg
        self.clip = clip
        self.smoothing = smoothing

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if targets.is_floating_point():
            return with_slopes(outputs, *self._binary(outputs.detach(), targets))
        if not self.smoothing:
            return focused(cross_entropy(outputs, targets), self.gamma_pos)
        logs = F.log_softmax(outputs.movedim(-1, 1), 1)  # the last axis, of few classes, would take twice as long
        return with_slopes(logs, *self._multiclass(logs.detach(), targets.unsqueeze(1)), over=(1,))

    def _binary(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and its derivative with respect to the logits."""
        shares, negative = outputs.sigmoid(), 1 - targets
        if self.clip:
            loss = F.softplus(-outputs)
            shifted = (shares - self.clip).clamp_(0, 1 - torch.finfo(loss.dtype).eps)
            steps = (1 - shares).mul_(shares).mul_(shifted.sign()).div_(1 - shifted)
            others, their_slopes = polynomial(torch.log1p(-shifted).neg_(), self.gamma_neg, wrong=shifted)  # of -log(1 - p_m)
        else:
            loss, steps = cross_entropy(outputs, targets), shares
            others, their_slopes = polynomial(loss, self.gamma_neg)
        values, slopes = polynomial(loss, self.gamma_pos)
        slopes = (shares - 1).mul_(slopes).mul_(targets).addcmul_(their_slopes.mul_(steps), negative)
        return (values * targets).addcmul_(others, negative), slopes

    def _multiclass(self, logs: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and its derivative with respect to the logarithms [T, C, N, …] of the probabilities."""
        share = self.smoothing / logs.shape[1]
        exponents = self.gamma_neg * logs
        powers = exponents.exp().mul_(-share)  # -t_c p_c^γ₋
        values, slopes = polynomial(-logs.gather(1, true), self.gamma_pos)
        weight = 1 - self.smoothing + share
        terms = (powers * logs).scatter_(1, true, values.mul_(weight))
        return terms.sum(1), exponents.add_(1).mul_(powers).scatter_(1, true, slopes.mul_(-weight))
