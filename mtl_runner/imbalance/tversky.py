"""Tversky loss."""

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from mtl_runner.imbalance.base import Criterion
from mtl_runner.imbalance.closed_form import with_slopes


class Tversky(Criterion):
    """1 - (TP + s) / (TP + α FP + β FN + s) of a class, with probabilities in place of decisions.

    TP = Σ w p t, FP = Σ w p (1 - t), FN = Σ w (1 - p) t over all examples and positions of the batch, for the probability p
    of the class, t = 1 where it is the true one and 0 elsewhere, and the example's weight w. A binary task has the loss of
    its positive class, any other the mean over its C classes. β > α makes a missed example dearer than a false alarm.
    Salehi et al., Tversky Loss Function for Image Segmentation Using 3D Fully Convolutional Deep Networks, MLMI 2017. With γ
    each class has that loss to the power of 1 / γ: the focal Tversky loss, Abraham & Khan, A Novel Focal Tversky Loss
    Function with Improved Attention U-Net for Lesion Segmentation, ISBI 2019 (whose α weighs FN).

    It is no mean over examples: a class's loss depends on all of the batch, and batches should hold examples of each class.
    ``forward`` gives each element the loss of a batch that has nothing else in it, the example-wise form of Li et al., ACL
    2020.

    Size: from 0 to 1, whatever the number of classes; the cross-entropy has no bound. Its gradient vanishes where
    probabilities are 0 or 1, also where they are wrong. Cost: about twelve operations per probability.

    Args:
        alpha: α, the price of a false alarm.
        beta: β, the price of a missed example.
        gamma: γ; above 1, a class with a small loss has a larger share.
        smooth: s, in examples: the loss of a class that is nowhere in the batch is small as long as α FP is.
        tasks: limit it to these tasks; all binary, multiclass and segmentation tasks otherwise.
    """

    kinds = frozenset({"binary", "multiclass", "segmentation"})

    def __init__(
        self,
        *,
        alpha: Annotated[float, Ge(0)] = 0.3,
        beta: Annotated[float, Ge(0)] = 0.7,
        gamma: Annotated[float, Gt(0)] = 1.0,
        smooth: Annotated[float, Ge(0)] = 1.0,
        tasks: Sequence[str] | None = None,
    ) -> None:
        super().__init__(tasks)
        self.alpha = alpha
        self.beta = beta
        self.gamma = gamma
        self.smooth = smooth

    def loss(self, outputs: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        shares, true = (part.flatten(2) for part in _shares(outputs, targets))  # [T, C, examples and positions]
        weights = None if weights is None else weights.flatten(1).unsqueeze(1).to(shares.dtype)
        return with_slopes(shares, *self._formula(shares.detach(), true, weights, together=True), over=(1, 2))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each element alone, [T, N, …]."""
        shares, true = _shares(outputs, targets)
        return with_slopes(shares, *self._formula(shares.detach(), true), over=(1,))

    def _formula(
        self, shares: Tensor, true: Tensor, weights: Tensor | None = None, together: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Loss and its derivative with respect to the probabilities [T, C, …]: of each element, or of all ``together``."""
        hits = shares * true
        parts = [hits, shares - hits, true - hits]
        if weights is not None:
            parts = [part.mul_(weights) for part in parts]
        hits, alarms, misses = [part.sum(2, keepdim=True) for part in parts] if together else parts
        tiny = torch.finfo(hits.dtype).tiny
        errors, kept = self.alpha * alarms + self.beta * misses, hits + self.smooth
        total = (errors + kept).clamp_min_(tiny)
        lost = errors / total
        values, scale = lost, 1 / (total * shares.shape[1])
        if self.gamma != 1:
            values = lost ** (1 / self.gamma)
            scale = torch.where(lost > tiny, values / (self.gamma * lost), 0) * scale  # the root has no derivative at 0
        of_alarm, of_hit = self.alpha * kept / total * scale, -(self.beta * kept / total + lost) * scale
        slopes = torch.addcmul(of_alarm, of_hit - of_alarm, true)
        if weights is not None:
            slopes *= weights
        return values.mean((1, 2) if together else 1), slopes


def _shares(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities [T, C, N, …] of the C classes (one for a binary task), and 1 for the true one, 0 for the others."""
    if targets.is_floating_point():
        return outputs.sigmoid().unsqueeze(1), targets.unsqueeze(1)
    shares = outputs.movedim(-1, 1).softmax(1)  # over the last axis, of few classes, it would take twice as long
    return shares, torch.zeros_like(shares).scatter_(1, targets.long().unsqueeze(1), 1)
