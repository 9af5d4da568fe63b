"""Weigh each example's loss by the inverse frequency of its class."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mtl_runner.imbalance.base import Criterion, cross_entropy, inverse_frequency, of_class


class ClassWeights(Criterion):
    """Cross-entropy times w_c = N / (C · n_c), the ``balanced`` weights of scikit-learn.

    N labelled training examples of the task, C classes, n_c examples of class c. The weights average 1 over the
    training part, so the size of the loss, and with it the balance between tasks, stays as it was: the loss of a
    batch is divided by the number of its labels, not by the sum of their weights.

    Args:
        tasks: limit it to these tasks; all binary and multiclass tasks otherwise.
    """

    kinds = frozenset({"binary", "multiclass"})
    weights: Tensor

    def __init__(self, *, tasks: Sequence[str] | None = None) -> None:
        super().__init__(tasks)
        self.register_buffer("weights", torch.ones(1, 1), persistent=False)

    def fit(self, targets: Tensor, classes: int) -> None:
        self.weights = inverse_frequency(targets, classes)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return of_class(self.weights, targets) * cross_entropy(outputs, targets)
