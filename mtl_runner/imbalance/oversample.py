"""Random oversampling of the rows of rare classes."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Gt, Le
from torch import Tensor

from mtl_runner.batch import Split, TargetSpec, labelled
from mtl_runner.imbalance.base import Resampler, class_counts
from mtl_runner.imbalance.rows import labelled_on, repeated


class Oversample(Resampler):
    """Repeats training rows of rare classes until each class has r · n_max of them, n_max those of the largest class.

    For one task: every row stays, and class c, of n_c rows, gets ⌊r · n_max - n_c⌋ further ones, drawn from its own with
    replacement (the counts of ``RandomOverSampler`` of imbalanced-learn). They are drawn anew in each epoch.

    Several tasks on the same rows each ask for their own further rows. A repeated row has the labels of those tasks only that
    asked for it, none of the others (``others: missing``): every task is balanced exactly, and its resampling shows the others
    not one label more or less. An epoch then has as many further rows as the tasks ask for, less where they ask for the same
    ones: with many tasks, each with its own rare rows, this can be several times the rows of the data (``ratio`` lessens it).

    With ``others: kept`` a repeated row has all its labels, which no choice of rows can balance for all tasks at once. It is a
    compromise: a row with classes c_1 … c_T then appears mean_t(max(1, r · n_max,t / n_c_t)) times on average, a task without a
    label for it counting 1 in the mean. No task's classes are sure to come out as asked for, and a task that is not served has
    its own shares disturbed. With one task served on a stream its classes come out as asked for.

    Args:
        ratio: r, the share of the largest class that every other one is brought to; 1: all classes equally frequent.
        others: the labels of the other tasks on repeated rows.
        tasks: balance these tasks only; all binary and multiclass tasks otherwise.
    """

    kinds = frozenset({"binary", "multiclass", "ranking"})

    def __init__(
        self,
        *,
        ratio: Annotated[float, Gt(0), Le(1)] = 1.0,
        others: Literal["missing", "kept"] = "missing",
        tasks: Sequence[str] | None = None,
    ) -> None:
        super().__init__(tasks)
        self.ratio = ratio
        self.others = others

    def __call__(self, split: Split, targets: Mapping[str, TargetSpec], generator: torch.Generator) -> Split:
        out = split
        for stream in split.inputs:
            served = labelled_on(split, stream, targets)
            if self.others == "kept" and len(served) > 1:
                times = torch.stack([self._times(split.targets[name], targets[name]) for name in served]).mean(0)
                rows = {name: torch.arange(out.size(name)) for name in out.inputs}
                out = out.take({**rows, stream: torch.repeat_interleave(rows[stream], _round(times, generator))})
            elif served:
                further = {name: self._further(split.targets[name], targets[name], generator) for name in served}
                out = repeated(out, stream, further, alone=self.others == "missing")
        return out

    def _further(self, target: Tensor, spec: TargetSpec, generator: torch.Generator) -> Tensor:
        counts = class_counts(target[None], len(spec.classes))[0].long().tolist()
        drawn = []
        for label, count in enumerate(counts):
            wanted = int(max(counts) * self.ratio - count)
            if count and wanted > 0:
                own = (target == label).nonzero().squeeze(1)
                drawn.append(own[torch.randint(count, (wanted,), generator=generator)])
        return torch.cat(drawn) if drawn else torch.zeros(0, dtype=torch.long)

    def _times(self, target: Tensor, spec: TargetSpec) -> Tensor:
        """r · n_max / n_c of each row's class, at least 1; 1 where it has no label."""
        counts = class_counts(target[None], len(spec.classes))[0]
        mask = labelled(target)
        times = (self.ratio * counts.max() / counts).clamp_min(1)
        return torch.where(mask, times[torch.where(mask, target, 0).long()], 1.0)


def _round(values: Tensor, generator: torch.Generator) -> Tensor:
    """Integers with these expected values; in float64, so that no sum is rounded up to the next integer."""
    return (values + torch.rand(len(values), generator=generator, dtype=torch.float64)).floor().long()
