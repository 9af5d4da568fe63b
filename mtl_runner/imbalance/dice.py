"""Soft Dice loss."""

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge

from mtl_runner.imbalance.tversky import Tversky


class Dice(Tversky):
    """1 - (2 Σ w p t + s) / (Σ w p + Σ w t + s) of a class: 1 - F1, with probabilities in place of decisions.

    The sums run over all examples and positions of the batch, for the probability p of the class, t = 1 where it is the true
    one and 0 elsewhere, and the example's weight w. A binary task has the loss of its positive class, any other the mean
    over its C classes. Milletari et al., V-Net, 3DV 2016, whose denominator has p² in place of p; with p, as here, it is
    the ``tversky`` loss with α = β = 1/2, and equals 1 - F1 where probabilities are 0 or 1. Li et al., Dice Loss for
    Data-imbalanced NLP Tasks, ACL 2020, take it for classification, example by example; that is what ``forward`` gives.

    Size and cost: as ``tversky``.

    Args:
        smooth: s, in examples.
        tasks: limit it to these tasks; all binary, multiclass and segmentation tasks otherwise.
    """

    def __init__(self, *, smooth: Annotated[float, Ge(0)] = 1.0, tasks: Sequence[str] | None = None) -> None:
        super().__init__(alpha=0.5, beta=0.5, smooth=smooth / 2, tasks=tasks)
