"""How far predicted numbers rise with the labels, whatever their unit.

Shape legend: T tasks, N examples, K outputs of each.
"""

import math

import torch
from torch import Tensor

from mtl_runner.batch import labelled
from mtl_runner.metrics.base import Metric, diverged, in_order, usable

CORRELATIONS = (Metric("pearson", True, "values"), Metric("spearman", True, "values"))


def correlation(values: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Pearson's r = Σ (z - z̄)(y - ȳ) / √(Σ (z - z̄)² Σ (y - ȳ)²) and Spearman's ρ, the r of ranks, of T regressions, each [T].

    Equal numbers share their mean rank. Each output takes the examples in which it has a label; the mean is over the outputs
    whose labels vary. Both are 1 of an order that is met, 0 without a relation, -1 of the opposite.

    NaN: where no output's labels vary, or one's do and its predictions are constant.

    Args:
        values: predictions, [T, N] or [T, N, K].
        targets: the same shape, NaN where there is no label.
    """
    values, targets = (
        usable(x).double().reshape(*x.shape[:2], math.prod(x.shape[2:])).transpose(1, 2) for x in (values, targets)
    )
    mask = labelled(targets)
    found = {
        "pearson": _pearson(values, targets, mask),
        "spearman": _pearson(_ranks(values, mask), _ranks(targets, mask), mask),
    }
    return in_order(CORRELATIONS, found, diverged(values, mask))


def _pearson(values: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """[T, K, N] -> [T], over the outputs whose targets vary."""
    z, y = (_centered(x, mask) for x in (values, targets))
    spread = y.square().sum(-1)
    varies = spread > 0
    r = ((z * y).sum(-1) / (z.square().sum(-1) * spread).sqrt()).clamp(-1, 1)
    return torch.where(varies, r, 0).sum(-1) / varies.sum(-1)


def _centered(x: Tensor, mask: Tensor) -> Tensor:
    """0 for what is constant, exactly: single precision's numbers have an exact sum in double precision."""
    mean = x.masked_fill(~mask, 0).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True)
    return (x - mean).masked_fill(~mask, 0)


def _ranks(x: Tensor, mask: Tensor) -> Tensor:
    """How many numbers of the last axis are smaller, and half of how many are equal; what is masked counts as the largest."""
    x = x.masked_fill(~mask, math.inf).contiguous()
    ordered = x.sort(-1).values
    return (torch.searchsorted(ordered, x) + torch.searchsorted(ordered, x, right=True)).double() / 2
