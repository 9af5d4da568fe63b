"""Weigh each example's loss by a weight of its class."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Lt
from torch import Tensor

from mtl_runner.batch import TargetSpec
from mtl_runner.errors import UserError, choices, nearest
from mtl_runner.imbalance.base import Criterion, class_counts, cross_entropy, inverse_frequency, of_class


class ClassWeights(Criterion):
    """Cross-entropy times the weight w_c of the example's class c.

    With N labelled training examples of the task, n_c of them of class c, and C classes:

    - ``inverse_frequency``: w_c = N / (C · n_c), the ``balanced`` weights of scikit-learn;
    - ``effective_number``: w_c ∝ (1 - β) / (1 - β^n_c). β = 0 weighs all classes the same, β → 1 is ``inverse_frequency``.
      Cui et al., Class-Balanced Loss Based on Effective Number of Samples, CVPR 2019;
    - ``values``: w_c ∝ the value given; only their ratios matter.

    All of them average 1 over the labelled training examples, Σ n_c w_c = N, so that the size of the loss, and with it the
    balance between tasks, stays that of the cross-entropy. The paper has Σ w_c = C instead, which differs by one factor for
    the whole task: at 100 to 1 and β → 1 its loss would be a 25th as large. For the same reason the loss of a batch is
    divided by the number of its labels, not by the sum of their weights.

    Cost: one look-up and one product per label.

    Args:
        weights: how they follow from the training targets.
        beta: β of ``effective_number``.
        values: given weights, by task and in the order of its classes (``{disease: [1, 20]}``; the other tasks have those of
            ``weights``), or one list for all tasks served (``[1, 20]``).
        tasks: limit it to these tasks; all binary, multiclass and segmentation tasks otherwise.
    """

    kinds = frozenset({"binary", "multiclass", "ranking", "segmentation"})
    weights: Tensor

    def __init__(
        self,
        *,
        weights: Literal["inverse_frequency", "effective_number"] = "inverse_frequency",
        beta: Annotated[float, Ge(0), Lt(1)] = 0.9999,
        values: Mapping[str, Sequence[Annotated[float, Ge(0)]]] | Sequence[Annotated[float, Ge(0)]] | None = None,
        tasks: Sequence[str] | None = None,
    ) -> None:
        super().__init__(tasks)
        self.rule = weights
        self.beta = beta
        self.values = values
        self.register_buffer("weights", torch.ones(1, 1), persistent=False)

    def check(self, targets: Mapping[str, TargetSpec]) -> None:
        by_task = isinstance(self.values, Mapping)
        for name in self.values if isinstance(self.values, Mapping) else ():
            if name not in targets:
                allowed = f"{choices(targets)}{nearest(name, targets)}"
                raise UserError(f"imbalance.class_weights.values.{name}: no such task is served; those served are {allowed}")
        for name, spec in targets.items():
            given, key = self._given(name), f"imbalance.class_weights.values{f'.{name}' if by_task else ''}"
            if given is not None and len(given) != len(spec.classes):
                hint = "" if by_task else "; values={task: […]} has them by task"
                needed = f"one weight for each class of {name} is needed, in the order {choices(spec.classes)}"
                raise UserError(f"{key}={list(given)}: {needed}{hint}")
            if given is not None and not any(given):
                raise UserError(f"{key}={list(given)}: one of the weights has to be above 0")

    def fit(self, targets: Tensor, classes: int) -> None:
        if self.rule == "inverse_frequency":
            self.weights = inverse_frequency(targets, classes)
        else:
            self.weights = effective_number(targets, classes, self.beta)
        counts = class_counts(targets, classes)
        for task in range(len(targets)):
            given = self._given(self.names[task] if self.names else None)
            if given is not None:
                self.weights[task] = averaging_1(torch.tensor(given, dtype=torch.float64, device=counts.device), counts[task])

    def _given(self, name: str | None) -> Sequence[float] | None:
        if not isinstance(self.values, Mapping):
            return self.values
        return None if name is None else self.values.get(name)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return of_class(self.weights, targets) * cross_entropy(outputs, targets)


def effective_number(targets: Tensor, classes: int, beta: float) -> Tensor:
    """Class weights ∝ (1 - β) / (1 - β^n_c) [T, C], n_c examples of class c, that average 1 over the labelled examples.

    A class without an example gets weight 1 (it is never looked up in training).
    """
    counts = class_counts(targets, classes)
    numbers = -torch.expm1(counts.double() * torch.tensor(beta, dtype=torch.float64, device=counts.device).log())
    present = counts > 0
    return torch.where(present, averaging_1(torch.where(present, (1 - beta) / numbers, 0), counts), 1)


def averaging_1(weights: Tensor, counts: Tensor) -> Tensor:
    """Weights [..., C] in float32, times what makes Σ n_c w_c = Σ n_c; as they are where no example has a weight."""
    total = (weights * counts).sum(-1, keepdim=True)
    return (weights * torch.where(total > 0, counts.double().sum(-1, keepdim=True) / total, 1)).float()
