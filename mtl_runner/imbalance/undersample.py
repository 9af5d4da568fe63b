"""Random undersampling of the rows of frequent classes."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from annotated_types import Gt, Le
from torch import Tensor

from mtl_runner.batch import Split, TargetSpec
from mtl_runner.imbalance.base import Resampler, class_counts
from mtl_runner.imbalance.rows import labelled_on, without


class Undersample(Resampler):
    """Leaves at most ⌊n_min / r⌋ rows of each class, n_min those of the smallest class that has any.

    The rows that stay are drawn without replacement, anew in each epoch, so that in time all are seen (the counts of
    ``RandomUnderSampler`` of imbalanced-learn).

    Several tasks on the same rows each draw their own: a row that a task did not draw has no label of that task in this epoch,
    and keeps those of all others. Every task is balanced exactly, and its resampling leaves the labels of the others as they
    were. A row whose last label is gone is left out; one that had no label from the start stays.

    Args:
        ratio: r, the share of the others' rows that the smallest class has at least; 1: all classes equally frequent.
        tasks: balance these tasks only; all binary and multiclass tasks otherwise.
    """

    kinds = frozenset({"binary", "multiclass", "ranking"})

    def __init__(self, *, ratio: Annotated[float, Gt(0), Le(1)] = 1.0, tasks: Sequence[str] | None = None) -> None:
        super().__init__(tasks)
        self.ratio = ratio

    def __call__(self, split: Split, targets: Mapping[str, TargetSpec], generator: torch.Generator) -> Split:
        out = split
        for stream in split.inputs:
            served = labelled_on(split, stream, targets)
            if served:
                out = without(out, stream, {name: self._lost(split.targets[name], targets[name], generator) for name in served})
        return out

    def _lost(self, target: Tensor, spec: TargetSpec, generator: torch.Generator) -> Tensor:
        """Mask of the rows that the task did not draw."""
        counts = class_counts(target[None], len(spec.classes))[0].long().tolist()
        most = int(min(count for count in counts if count) / self.ratio)
        lost = torch.zeros(len(target), dtype=torch.bool)
        for label, count in enumerate(counts):
            if count > most:
                own = (target == label).nonzero().squeeze(1)
                lost[own[torch.randperm(count, generator=generator)[most:]]] = True
        return lost
