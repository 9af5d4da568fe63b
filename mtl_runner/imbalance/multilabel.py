"""Measures of imbalance between the labels of multilabel data, of Charte, Rivera, del Jesus and Herrera.

Shape legend: N rows, L labels. Counts are taken from a matrix [N, L], true where a row has a label; a missing label is none.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from mtl_runner.batch import Split, TargetSpec
from mtl_runner.errors import NotApplicable
from mtl_runner.imbalance.rows import on

Labels = NDArray[np.bool_]
Array = NDArray[np.float64]


def labels_of(split: Split, stream: str, targets: Mapping[str, TargetSpec], option: str) -> Labels:
    """The labels [N, L] that rows of ``stream`` have: the positive class of each binary task, each class of a multiclass one.

    Labels that no row has are left out. ``option`` is the name that an error mentions.
    """
    columns = [np.zeros((split.size(stream), 0), dtype=np.bool_)]
    for name in on(split, stream):
        if name not in targets:
            continue
        target = split.targets[name]
        if target.ndim > 1:
            raise NotApplicable(f"imbalance.{option}: task {name} has more than one label a row; leave it out with tasks=[…]")
        classes = [1] if targets[name].kind == "binary" else range(len(targets[name].classes))
        columns.append(torch.stack([target == label for label in classes], 1).numpy())
    labels = np.hstack(columns)
    return labels[:, labels.any(0)]


def irlbl(counts: NDArray[np.int64]) -> Array:
    """IRLbl_l = max_m n_m / n_l [L]: by how much the most frequent label is more frequent; infinite where n_l = 0."""
    with np.errstate(divide="ignore"):
        ratios: Array = np.divide(counts.max(initial=0), counts, dtype=np.float64)
    return ratios


def mean_ir(ratios: Array) -> float:
    """MeanIR, the mean of IRLbl over the labels that occur; 1 without any. Labels above it are the minority ones."""
    finite = ratios[np.isfinite(ratios)]
    return float(finite.mean()) if finite.size else 1.0


def scumble(labels: Labels) -> Array:
    """SCUMBLE of each row [N]: 1 - geometric mean / mean of IRLbl over the k labels that it has, Atkinson's index; 0 for k = 0.

    In [0, 1): 0 where they are equally frequent, near 1 where a very rare label meets a very frequent one. The paper writes
    both means over all L labels, with 0 for those that the row has not, which would make the product 0; like the authors'
    package mldr this takes those that it has.
    """
    ratios = np.where(labels, irlbl(labels.sum(0)), 0)
    sizes = labels.sum(1)
    logs = np.log(np.where(labels, ratios, 1)).sum(1)
    some = np.maximum(sizes, 1)
    means = np.where(sizes > 0, ratios.sum(1) / some, 1)
    # equal ratios must give 0, not a rounding error that would exceed a mean of 0
    spread = np.where(labels, ratios, 0).max(1, initial=0) > np.where(labels, ratios, np.inf).min(1, initial=np.inf)
    return np.where((sizes > 0) & spread, 1 - np.exp(logs / some) / means, 0.0)
