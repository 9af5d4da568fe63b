"""How far the labels of two tasks depend on each other.

Shape legend: N rows, C columns, K numbers of a regression.
"""

import torch
from torch import Tensor

from mtl_runner.affinity.base import Measure
from mtl_runner.affinity.matrices import flat, orthonormal, pairwise, ranks
from mtl_runner.batch import labelled

_ROWS = 10
"""Of fewer rows for each column nothing is said: enough columns explain any labels."""


class Labels(Measure):
    """Association of the labels of the training rows that both tasks have a label of, from 0 to 1.

    A² = Σ ρ_k² / min(r_t, r_u) with ρ_k the canonical correlations of the tasks' labels, classes as indicators and numbers as
    ranks, and r the rank of these columns (Cramer & Nicewander, Some symmetric, invariant measures of multivariate association,
    Psychometrika 44, 1979). That is Cramér's V of two tasks with classes, |Spearman's ρ| of two numbers, and the correlation
    ratio of the ranks of one of each. By chance alone it is about √(max(r_t, r_u) / N).

    NaN where the tasks have too few rows in common (other rows, another input stream), where one of them has the same label in
    all of these, and where a task has a label for each of many positions.
    """

    title = "association of the labels"

    def result(self) -> Tensor:
        part, targets = self.setting.data.splits["train"], self.setting.data.targets

        def of(one: str, other: str) -> float:
            labels = part.targets[one], part.targets[other]
            if targets[one].stream != targets[other].stream:
                return torch.nan
            both = flat(labelled(labels[0])).all(1) & flat(labelled(labels[1])).all(1)
            columns = [_columns(each[both], bool(targets[task].classes)) for each, task in zip(labels, (one, other), strict=True)]
            if both.sum() < _ROWS * max(each.shape[1] for each in columns):
                return torch.nan
            return association(*columns)

        return pairwise(self.tasks, of)


def association(one: Tensor, other: Tensor) -> float:
    """A of the columns [N, C] of one task and those of another; NaN where those of one are constant."""
    bases = orthonormal(one), orthonormal(other)
    rank = min(basis.shape[1] for basis in bases)
    return float(((bases[0].T @ bases[1]).square().sum() / rank).sqrt().clamp(max=1)) if rank else torch.nan


def _columns(labels: Tensor, classes: bool) -> Tensor:
    """[N, C]: an indicator for each class that there is, or the ranks of each of the K numbers."""
    if not classes:
        return ranks(flat(labels))
    indicators = flat(labels)[:, :, None] == labels.unique()
    columns: Tensor = indicators.flatten(1).double()
    return columns
