"""REMEDIAL: takes rare and frequent labels of a row apart."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated

import torch
from annotated_types import Ge, Le

from mtl_runner.batch import Split, TargetSpec
from mtl_runner.imbalance.base import Resampler
from mtl_runner.imbalance.multilabel import irlbl, labels_of, mean_ir, scumble
from mtl_runner.imbalance.rows import on, repeated


class REMEDIAL(Resampler):
    """Makes two rows of one in which rare and frequent labels meet: one has the frequent labels, its copy the rare ones.

    Labels are the positive classes of the binary tasks of a stream. A label l with n_l rows has IRLbl_l = max_m n_m / n_l, a row
    with the labels l_1 … l_k SCUMBLE = 1 - (Π IRLbl)^(1/k) / mean(IRLbl): the more its labels differ in frequency, the nearer
    to 1. Of each row above the threshold the minority labels (IRLbl above MeanIR, the mean of IRLbl) are set to absent, and in
    a copy of it, added at the end, all the others. F. Charte, A. J. Rivera, M. J. del Jesus, F. Herrera, Resampling Multilabel
    Datasets by Decoupling Highly Imbalanced Labels, HAIS 2015; Dealing with difficult minority labels in imbalanced mutilabel
    data sets, Neurocomputing 326–327, 2019.

    So the same input says yes in one row and no in the other, for each of its labels: that is the method, made for learners that
    otherwise predict the frequent label alone, and it lowers the probabilities of these labels. A row above the threshold
    whose labels are all of one sort gives a copy (or leaves a row) without labels, as in the paper.

    A missing label is no label; it is missing in both rows. Multiclass tasks are not served, for no class would be left in one
    of the rows; they and all others have their labels in both rows. Without a row above the threshold nothing changes. Cost:
    O(N L), once for the training.

    Args:
        threshold: SCUMBLE above which a row is taken apart; null: the mean over all rows, as in the paper.
        tasks: count and take apart the labels of these tasks only; of all binary tasks otherwise.

    Raises:
        UserError: a task has more than one label a row.
    """

    kinds = frozenset({"binary"})
    renewed = False

    def __init__(self, *, threshold: Annotated[float, Ge(0), Le(1)] | None = None, tasks: Sequence[str] | None = None) -> None:
        super().__init__(tasks)
        self.threshold = threshold

    def __call__(self, split: Split, targets: Mapping[str, TargetSpec], generator: torch.Generator) -> Split:
        for stream in split.inputs:
            split = self._apart(split, stream, targets)
        return split

    def _apart(self, split: Split, stream: str, targets: Mapping[str, TargetSpec]) -> Split:
        labels = labels_of(split, stream, targets, "remedial")
        levels = scumble(labels)
        limit = self.threshold if self.threshold is not None else float(levels.mean()) if len(levels) else 0.0
        # rows that are all alike are not above their mean by a rounding error
        high = torch.from_numpy(levels > limit * (1 + 1e-12))
        ratios = irlbl(labels.sum(0))
        minority = iter(ratios > mean_ir(ratios))
        grown = repeated(split, stream, {"": high.nonzero().squeeze(1)}, alone=False)
        changed = dict(grown.targets)
        for name in on(split, stream):
            target = changed[name]
            if name not in targets or not (split.targets[name] == 1).any():
                continue
            copy = torch.arange(len(target)) >= len(high)
            absent = torch.cat([high, torch.zeros(int(high.sum()), dtype=torch.bool)]) if next(minority) else copy
            changed[name] = torch.where(absent & (target == 1), torch.zeros_like(target), target)
        return replace(grown, targets=changed)
