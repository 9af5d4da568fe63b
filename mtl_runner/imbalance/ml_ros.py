"""ML-ROS: random oversampling of the rows that have a rare label."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge
from numpy.typing import NDArray

from mtl_runner.batch import Split, TargetSpec
from mtl_runner.imbalance.base import Resampler
from mtl_runner.imbalance.multilabel import Labels, irlbl, labels_of, mean_ir
from mtl_runner.imbalance.rows import repeated


class MLROS(Resampler):
    """Repeats rows that have a minority label, until the training part has grown by P percent.

    Labels are the positive classes of the binary tasks of a stream and the classes of its multiclass ones. A label l with n_l
    rows has IRLbl_l = max_m n_m / n_l; those above MeanIR, the mean of IRLbl over the labels, are minority labels, and the rows
    that have one are its bag. In turn, each bag gives one row, drawn with replacement, whose copy is added with all its
    labels. A bag is left out once its label's IRLbl, as it is by then, is no longer above the MeanIR of the start.
    F. Charte, A. J. Rivera, M. J. del Jesus, F. Herrera, Addressing imbalance in multilabel classification: Measures and random
    resampling algorithms, Neurocomputing 163, 2015.

    Departures: the paper tests for P percent after each full turn and can go beyond it by a part of a turn, this stops at
    ⌊P N / 100⌋ copies; it stops earlier where no bag is left, where the paper's loop would not end. The paper has binary
    labels only; a class of a multiclass task is one here in the same way.

    A missing label is no label: it counts for no n_l and stays missing in copies. Labels are compared with each other, not with
    their absence: a stream with a single label is left as it is. Copies carry the labels of all tasks of the stream. The rows
    are drawn once for the training. Cost: O(L) for each copy, 0.2 s for 25,000 of them with 139 labels.

    Args:
        percentage: P, the growth.
        tasks: count the labels of these tasks only; of all binary and multiclass tasks otherwise.

    Raises:
        UserError: a task has more than one label a row.
    """

    kinds = frozenset({"binary", "multiclass"})
    renewed = False

    def __init__(self, *, percentage: Annotated[float, Ge(0)] = 25.0, tasks: Sequence[str] | None = None) -> None:
        super().__init__(tasks)
        self.percentage = percentage

    def __call__(self, split: Split, targets: Mapping[str, TargetSpec], generator: torch.Generator) -> Split:
        for stream in split.inputs:
            labels = labels_of(split, stream, targets, "ml_ros")
            copies = clones(labels, int(len(labels) * self.percentage / 100), generator)
            split = repeated(split, stream, {"": torch.from_numpy(copies)}, alone=False)
        return split


def clones(labels: Labels, wanted: int, generator: torch.Generator) -> NDArray[np.int64]:
    """The rows to repeat, at most ``wanted``, for labels [N, L]."""
    random = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    counts = labels.sum(0)
    limit = mean_ir(irlbl(counts))
    bags = {int(label): np.flatnonzero(labels[:, label]) for label in np.flatnonzero(irlbl(counts) > limit)}
    chosen: list[int] = []
    while bags and len(chosen) < wanted:
        for label in list(bags)[: wanted - len(chosen)]:
            row = int(random.choice(bags[label]))
            chosen.append(row)
            counts += labels[row]
            if counts.max() / counts[label] <= limit:
                del bags[label]
    return np.array(chosen, dtype=np.int64)
