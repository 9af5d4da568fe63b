"""MLSMOTE: synthetic rows for rare labels, with label sets of their own."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge
from numpy.typing import NDArray
from torch import Tensor

from mtl_runner.batch import Fields, Split, TargetSpec
from mtl_runner.errors import NotApplicable
from mtl_runner.imbalance.base import Resampler
from mtl_runner.imbalance.multilabel import irlbl, labels_of, mean_ir
from mtl_runner.imbalance.rows import on, with_examples

Array = NDArray[np.float64]
Strategy = Literal["intersection", "union", "ranking"]


class MLSMOTE(Resampler):
    """Adds one synthetic row for each row of each minority label, between it and one of its k nearest neighbours there.

    Labels are the positive classes of the binary tasks of a stream and the classes of its multiclass ones, taken in the order of
    the tasks. A label l with n_l rows has IRLbl_l = max_m n_m / n_l; one above MeanIR, the mean of IRLbl over the labels of the
    data as they were, is a minority label, and the rows that have it, those made for earlier labels included, are its bag. For
    each row of the bag, with its k nearest neighbours in the bag and one of them drawn as the reference neighbour:

    - a number is x + u (x_ref - x), with u from [0, 1] drawn for each feature;
    - a category is the most frequent one of the neighbours (of several, the one with the smallest number);
    - the label set comes from the k + 1 label sets of row and neighbours: the labels that more than half of them have
      (``ranking``), at least one (``union``), or all (``intersection``).

    The distance is √(Σ (x - x')² + Σ VDM(v, v')²) over numbers and categories, with the value difference metric VDM(v, v') =
    Σ_c |P(c | v) - P(c | v')|, c the presence or absence of the label l.
    F. Charte, A. J. Rivera, M. J. del Jesus, F. Herrera, MLSMOTE: Approaching imbalanced multilabel learning through synthetic
    instance generation, Knowledge-Based Systems 89, 2015.

    Departures: a bag of one row, which has no neighbour, makes none; one with fewer than k + 1 rows uses those that there are.
    A class of a multiclass task is a label in the same way; a synthetic row whose label set has not exactly one class of such
    a task has a missing label for it. Missing labels (a missing label is no label, and counts in no n_l): a synthetic row has
    one where row and neighbours all have; else those that are missing among them count as absent. Tasks that are not served
    have a missing label, and weights are 1.

    Rows are made once for the training. Cost: for a bag of B rows B² distances, in blocks of 1024 rows.

    Args:
        k: number of neighbours.
        strategy: how the labels of a synthetic row come about.
        tasks: count and make the labels of these tasks only; of all binary and multiclass tasks otherwise.

    Raises:
        NotApplicable: a task has more than one label a row.
    """

    kinds = frozenset({"binary", "multiclass"})
    needs = frozenset({"numeric", "categorical"})
    renewed = False

    def __init__(
        self, *, k: Annotated[int, Ge(1)] = 5, strategy: Strategy = "ranking", tasks: Sequence[str] | None = None
    ) -> None:
        super().__init__(tasks)
        self.k = k
        self.strategy: Strategy = strategy

    def __call__(self, split: Split, targets: Mapping[str, TargetSpec], generator: torch.Generator) -> Split:
        random = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        for stream in split.inputs:
            labels = labels_of(split, stream, targets, "mlsmote")
            if labels.any() and (unknown := set(split.inputs[stream]) - self.needs):
                raise NotApplicable(
                    f"imbalance.mlsmote: input {stream} has {', '.join(sorted(unknown))}; only numeric and categorical"
                )
            limit = mean_ir(irlbl(labels.sum(0)))
            served = {name: spec for name, spec in targets.items() if split.streams[name] == stream}
            for name, label in [(name, label) for name, spec in served.items() for label in _labels(spec)]:
                # what was made for the labels before counts: for the ratios, and as rows of the bag
                counts = labels_of(split, stream, targets, "mlsmote").sum(0)
                has = (split.targets[name] == label).numpy()
                if has.sum() > 1 and counts.max() / has.sum() > limit:
                    split = self._grown(split, stream, served, has, random)
        return split

    def _grown(
        self, split: Split, stream: str, targets: Mapping[str, TargetSpec], has: NDArray[np.bool_], random: np.random.Generator
    ) -> Split:
        """The split with a synthetic row for each row that ``has`` the label."""
        fields = split.inputs[stream]
        bag = torch.from_numpy(np.flatnonzero(has))
        near = neighbours(_coordinates(fields, has)[bag.numpy()], self.k)
        reference = near[np.arange(len(near)), random.integers(near.shape[1], size=len(near))]
        around = torch.from_numpy(np.hstack([np.arange(len(near))[:, None], near]))
        new = {}
        for name, value in fields.items():
            own = value[bag]
            if name == "numeric":
                steps = torch.from_numpy(random.random(own.shape)).to(own.dtype)
                new[name] = own + steps * (own[torch.from_numpy(reference)] - own)
            else:
                new[name] = own[around[:, 1:]].mode(1).values
        labels = {
            task: label_sets(split.targets[task][bag][around], spec, self.strategy)
            for task, spec in targets.items()
            if task in on(split, stream)
        }
        return with_examples(split, stream, new, labels)


def _labels(spec: TargetSpec) -> Sequence[int]:
    return [1] if spec.kind == "binary" else range(len(spec.classes))


def _coordinates(fields: Fields, has: NDArray[np.bool_]) -> Array:
    """Points [N, …] whose Euclidean distance is the one of ``MLSMOTE`` for the label that rows ``has``.

    VDM(v, v') = 2 |P(l | v) - P(l | v')|, for presence and absence differ alike: a category is the number 2 P(l | v).
    """
    parts = [np.zeros((len(has), 0))]
    if "numeric" in fields:
        parts.append(fields["numeric"].numpy().astype(np.float64))
    for column in fields["categorical"].numpy().T if "categorical" in fields else ():
        total, positive = np.bincount(column), np.bincount(column, has)
        parts.append((2 * positive[column] / total[column])[:, None])
    return np.hstack(parts)


def neighbours(points: Array, k: int) -> NDArray[np.int64]:
    """The numbers of the k nearest other points of each [B, min(k, B - 1)], nearest first; of equally near ones the first."""
    k = min(k, len(points) - 1)
    found = []
    for start in range(0, len(points), 1024):
        block = points[start : start + 1024]
        distances = _distances(block, points)
        distances[np.arange(len(block)), start + np.arange(len(block))] = np.inf
        found.append(np.argsort(distances, axis=1, kind="stable")[:, :k])
    return np.vstack(found)


def _distances(block: Array, points: Array) -> Array:
    from sklearn.metrics import pairwise_distances

    return np.asarray(pairwise_distances(block, points, metric="sqeuclidean"))


def label_sets(around: Tensor, spec: TargetSpec, strategy: Strategy) -> Tensor:
    """The label [B] of synthetic rows of one task, from those of a row and its neighbours [B, k + 1]."""
    votes = torch.stack([(around == label).sum(1) for label in _labels(spec)], 1)
    size = around.shape[1]
    active = {"ranking": 2 * votes > size, "union": votes > 0, "intersection": votes == size}[strategy]
    if spec.kind == "binary":
        return torch.where(around.isnan().all(1), torch.nan, active[:, 0].to(around.dtype))
    return torch.where(active.sum(1) == 1, active.int().argmax(1), -100)
