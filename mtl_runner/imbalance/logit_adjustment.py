"""Logit-adjusted loss."""

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from mtl_runner.imbalance.base import Criterion, class_counts, cross_entropy


class LogitAdjustment(Criterion):
    """Cross-entropy of the logits z_c + τ log π_c, where π_c is the share of class c among the labelled training examples.

    The model has to find what sets classes apart beside their frequency, and its own logits, without the adjustment, are those
    of equally frequent classes: it predicts for balanced accuracy, and its probabilities are those of a balanced population.
    A binary task has the two logits 0 and z, thus z + τ log(π_1 / π_0). τ = 0 or equal shares are the cross-entropy. Menon et
    al., Long-Tail Learning via Logit Adjustment, ICLR 2021.

    A class without an example counts as if it had one: log 0 would make the loss of a validation example infinite.

    Size: that of the cross-entropy, of which it is one; at the start, with all z_c alike and τ = 1, it is the entropy of the
    labels, if they are as frequent as in training. Cost: one addition per logit.

    Args:
        tau: τ.
        tasks: limit it to these tasks; all binary and multiclass tasks otherwise.
    """

    kinds = frozenset({"binary", "multiclass", "ranking"})
    shift: Tensor

    def __init__(self, *, tau: Annotated[float, Ge(0)] = 1.0, tasks: Sequence[str] | None = None) -> None:
        super().__init__(tasks)
        self.tau = tau
        self.register_buffer("shift", torch.zeros(1), persistent=False)

    def fit(self, targets: Tensor, classes: int) -> None:
        counts = class_counts(targets, classes).clamp_min(1)
        # relative to the largest class: the softmax is the same, and equal shares give a shift of exactly 0
        shift = self.tau * (counts / counts.amax(1, keepdim=True)).log()
        ones = (1,) * (targets.ndim - 1)
        if targets.is_floating_point():
            self.shift = (shift[:, 1] - shift[:, 0]).view(-1, *ones)
        else:
            self.shift = shift.view(-1, *ones, classes)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(outputs + self.shift, targets)
