"""Classifier retraining: balanced heads on the representation that imbalanced data gave."""

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge

from mtl_runner.imbalance.base import Criterion, SecondPhase
from mtl_runner.imbalance.class_weights import ClassWeights


class ClassifierRetraining(SecondPhase):
    """cRT: when the training has ended, its best weights are frozen and the heads trained once more, with balanced classes.

    Rare classes spoil the representation less than the classifier on it. Kang et al., Decoupling representation and classifier
    for long-tailed recognition, ICLR 2020. The paper draws batches in which all classes are equally frequent; here each class's
    loss is weighed by its inverse frequency, which is the same objective in expectation, and holds for several tasks on the
    same rows at once. The paper's learning rate and schedule begin anew, and so they do here; the weighting of tasks and
    what the sharing mode does between epochs play no part, as the heads have nothing in common.

    The second phase has its own early stopping; the weights that are kept are the best of the second phase, and of the tasks
    that it leaves alone the best of the first.

    Cost: passes through the frozen network, and gradients of the heads alone.

    Args:
        epochs: budget of the second phase.
        reset: whether heads start from new initial weights, as in the paper, or from those of the first phase.
        tasks: limit it to these tasks; all binary and multiclass tasks otherwise.
    """

    kinds = frozenset({"binary", "multiclass"})

    def __init__(self, *, epochs: Annotated[int, Ge(1)] = 10, reset: bool = True, tasks: Sequence[str] | None = None) -> None:
        super().__init__(epochs, reset, tasks)

    def criterion(self) -> Criterion:
        return ClassWeights()
