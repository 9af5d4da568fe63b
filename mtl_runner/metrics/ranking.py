"""Metrics of recommendation: how clicks and purchases are ordered, over all rows and for each user, and ratings.

Shape legend: T tasks, N rows (a user saw an item), U users.
"""

import math

import torch
from torch import Tensor

from mtl_runner.batch import labelled
from mtl_runner.metrics.base import Metric, diverged, in_order, usable
from mtl_runner.metrics.classes_and_numbers import BINARY, NUMBERS, binary, regression

_KEPT = ("roc_auc", "average_precision", "prevalence", "log_loss", "calibration_error")
_BINARY = {metric.name: metric for metric in BINARY if metric.name in _KEPT}
RANKING = (_BINARY["roc_auc"], Metric("gauc", True, "probabilities"), *(_BINARY[name] for name in _KEPT[1:]))
"""The primary metric first, as everywhere."""
RATING = tuple(sorted(NUMBERS, key=lambda metric: ("r2", "rmse", "mae").index(metric.name)))


def ranking(logits: Tensor, targets: Tensor, users: Tensor | None = None) -> dict[str, Tensor]:
    """The metrics of T ranking tasks, each [T]: those of ``binary`` that are no decisions, and ``gauc``.

    Args:
        logits: [T, N].
        targets: [T, N], 0 or 1, NaN where there is no label.
        users: [N], any integer that is the same for all rows of a user; without it GAUC is NaN.
    """
    values = binary(logits, targets)
    values["gauc"] = torch.full_like(values["roc_auc"], math.nan) if users is None else gauc(logits, targets, users)
    return in_order(RANKING, values, diverged(usable(logits), labelled(usable(targets))))


def gauc(logits: Tensor, targets: Tensor, users: Tensor) -> Tensor:
    """Σ_u n_u AUC_u / Σ_u n_u over the users u with rows of both kinds, n_u the number of u's labelled rows, [T].

    The area under the curve of each user's own list, so that it does not help to know who clicks much: Zhu et al., "Optimized
    cost per click in Taobao display advertising", KDD 2017; Zhou et al., "Deep interest network", KDD 2018, Eq. 7. Users all of
    whose rows are of one kind have no order, and are left out. Equal scores count half. NaN where no user is left.

    Cost: one sort, O(N log N), whatever the number of users.

    Args:
        logits: [T, N].
        targets: [T, N], 0 or 1, NaN where there is no label.
        users: [N], integers.
    """
    logits, targets, users = usable(logits), usable(targets), usable(users).unique(return_inverse=True)[1].to(logits.device)
    return torch.stack([_gauc(scores, labels, users) for scores, labels in zip(logits, targets, strict=True)])


def _gauc(scores: Tensor, labels: Tensor, users: Tensor) -> Tensor:
    there = labelled(labels)
    scores, positive, users = scores[there], labels[there] > 0.5, users[there]
    by_score = scores.argsort()
    order = by_score[users[by_score].argsort(stable=True)]
    scores, positive, users = scores[order], positive[order].double(), users[order]
    size = int(users[-1]) + 1 if len(users) else 0
    rows, hits, above = (users.new_zeros(size, dtype=torch.float64) for _ in range(3))
    rows.index_add_(0, users, torch.ones_like(positive))
    hits.index_add_(0, users, positive)
    above.index_add_(0, users, positive * (_ranks(scores, users) - (rows.cumsum(0) - rows)[users]))
    pairs = hits * (rows - hits)
    areas = (above - hits * (hits + 1) / 2) / pairs
    counted = pairs > 0
    return (rows * areas)[counted].sum() / rows[counted].sum()


def _ranks(scores: Tensor, users: Tensor) -> Tensor:
    """Positions from 1 on of rows in the order of users and then scores; equal scores of a user take their mean position."""
    starts = torch.ones(len(scores), dtype=torch.bool, device=scores.device)
    starts[1:] = (scores[1:] != scores[:-1]) | (users[1:] != users[:-1])
    ties = starts.cumsum(0) - 1
    sizes = torch.bincount(ties).double()
    return (sizes.cumsum(0) - (sizes - 1) / 2)[ties]


def rating(outputs: Tensor, targets: Tensor, scale: Tensor) -> dict[str, Tensor]:
    """R², root mean squared and mean absolute error of T rating tasks, each [T]; arguments as of ``regression``."""
    values = regression(outputs, targets, scale)
    return {metric.name: values[metric.name] for metric in RATING}
