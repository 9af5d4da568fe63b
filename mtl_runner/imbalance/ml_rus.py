"""ML-RUS: random undersampling of the rows that have frequent labels."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Le
from numpy.typing import NDArray

from mtl_runner.batch import Split, TargetSpec
from mtl_runner.imbalance.base import Resampler
from mtl_runner.imbalance.multilabel import Labels, irlbl, labels_of, mean_ir


class MLRUS(Resampler):
    """Takes away rows that have a majority label, until the training part has shrunk by P percent.

    Labels are the positive classes of the binary tasks of a stream and the classes of its multiclass ones. A label l with n_l
    rows has IRLbl_l = max_m n_m / n_l; those below MeanIR, the mean of IRLbl over the labels, are majority labels, and the rows
    that have one are its bag. In turn, each bag loses one of its rows, drawn at random, from all bags. A bag is left out once
    its label's IRLbl, as it is by then, has come up to the MeanIR of the start, or when it is empty.
    F. Charte, A. J. Rivera, M. J. del Jesus, F. Herrera, Addressing imbalance in multilabel classification: Measures and random
    resampling algorithms, Neurocomputing 163, 2015.

    Implementations differ on whether a row that has a minority label as well may go: not in the R package mldr.resampling, of
    which F. Charte is an author, but in Mulan. ``keep_minority`` decides; it is on, for taking such rows away makes rare labels
    rarer still. Like ``ml_ros`` this stops at ⌊P N / 100⌋ rows, or earlier where no bag is left, and takes the classes of
    multiclass tasks for labels, both unlike the paper.

    A missing label is no label, and counts for no n_l. Rows without any label are never taken away. Labels are compared with
    each other, not with their absence: a stream with a single label is left as it is. A row that goes is lost to all tasks of
    the stream. The rows are drawn once for the training. Cost: O(L) for each row, and one look at each bag's rows.

    Args:
        percentage: P, by how much the training part shrinks.
        keep_minority: never take away a row that has a minority label.
        tasks: count the labels of these tasks only; of all binary and multiclass tasks otherwise.

    Raises:
        UserError: a task has more than one label a row.
    """

    kinds = frozenset({"binary", "multiclass"})
    renewed = False

    def __init__(
        self,
        *,
        percentage: Annotated[float, Ge(0), Le(100)] = 25.0,
        keep_minority: bool = True,
        tasks: Sequence[str] | None = None,
    ) -> None:
        super().__init__(tasks)
        self.percentage = percentage
        self.keep_minority = keep_minority

    def __call__(self, split: Split, targets: Mapping[str, TargetSpec], generator: torch.Generator) -> Split:
        kept = {}
        for stream in split.inputs:
            labels = labels_of(split, stream, targets, "ml_rus")
            gone = removed(labels, int(len(labels) * self.percentage / 100), self.keep_minority, generator)
            kept[stream] = torch.from_numpy(np.delete(np.arange(len(labels)), gone))
        return split.take(kept)


def removed(labels: Labels, wanted: int, keep_minority: bool, generator: torch.Generator) -> NDArray[np.int64]:
    """The rows to take away, at most ``wanted``, for labels [N, L]."""
    random = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    counts = labels.sum(0)
    ratios = irlbl(counts)
    limit = mean_ir(ratios)
    open_to = ~labels[:, ratios > limit].any(1) if keep_minority else np.ones(len(labels), dtype=np.bool_)
    # in random order, so that a bag's next row is a random one of those that are left
    bags = {
        int(label): iter(random.permutation(np.flatnonzero(labels[:, label] & open_to)).tolist())
        for label in np.flatnonzero(ratios < limit)
    }
    chosen: dict[int, None] = {}
    while bags and len(chosen) < wanted:
        for label in list(bags):
            row = next((row for row in bags[label] if row not in chosen), None)
            if row is not None and len(chosen) < wanted:
                chosen[row] = None
                counts -= labels[row]
            if row is None or counts.max() >= limit * counts[label]:
                del bags[label]
    return np.array(list(chosen), dtype=np.int64)
