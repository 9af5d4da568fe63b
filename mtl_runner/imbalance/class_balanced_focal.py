"""Focal loss with the class weights of effective numbers."""

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge, Lt
from torch import Tensor

from mtl_runner.imbalance.base import cross_entropy, of_class
from mtl_runner.imbalance.class_weights import ClassWeights
from mtl_runner.imbalance.focal import focused


class ClassBalancedFocal(ClassWeights):
    """w_c (1 - p)^γ (-log p), with w_c ∝ (1 - β) / (1 - β^n_c) for the n_c training examples of class c.

    p is the probability given to the true class c. β = 0 is the focal loss, and with γ = 0 the cross-entropy. Cui et al.,
    Class-Balanced Loss Based on Effective Number of Samples, CVPR 2019.

    Two departures: weights average 1 over the labelled training examples, and not over the classes, so that the loss is as
    large as the focal loss (see ``class_weights``); and a multiclass task has the softmax probability of its true class, as
    its outputs are read, where the paper sums over C sigmoids.

    Size: on average that of the focal loss, thus 2^-γ of the cross-entropy where p = 1/2. Cost: as ``focal``.

    Args:
        gamma: γ, how much less the well-classified examples count.
        beta: β.
        tasks: limit it to these tasks; all binary, multiclass and segmentation tasks otherwise.
    """

    def __init__(
        self,
        *,
        gamma: Annotated[float, Ge(0)] = 2.0,
        beta: Annotated[float, Ge(0), Lt(1)] = 0.9999,
        tasks: Sequence[str] | None = None,
    ) -> None:
        super().__init__(weights="effective_number", beta=beta, tasks=tasks)
        self.gamma = gamma

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return focused(cross_entropy(outputs, targets), self.gamma, of_class(self.weights, targets))
