"""Metrics of predicted quantiles.

Shape legend: T tasks, N examples, Q quantiles.
"""

import torch
from torch import Tensor

from mtl_runner.batch import labelled
from mtl_runner.metrics.base import Metric, diverged, in_order, usable

QUANTILE = (
    Metric("d2_pinball", True, "values"),
    Metric("pinball", False, "values", True),
    Metric("coverage_error", False, "values"),
    Metric("coverage", None, "values"),
)


def quantile(values: Tensor, targets: Tensor, levels: Tensor, scale: Tensor | None = None) -> dict[str, Tensor]:
    """The metrics of T tasks that predict Q quantiles each, [T].

    The pinball loss is the mean over examples and quantiles τ of max(τ e, (τ - 1) e), e = y - q_τ, in the user's unit. D² is
    1 - it / that of the labels' own quantiles, which are the best constants (Koenker & Machado, JASA 1999). The coverage is
    the share of labels from the lowest to the highest quantile, which should be the difference of their levels. The coverage
    error is the mean over the quantiles of abs(share of labels up to q_τ - τ).

    NaN: D² with fewer than two labels, all of them without one. Of constant labels D² is 1 if they are met exactly, else 0.

    Args:
        values: [T, N, Q], rising.
        targets: [T, N], NaN where there is no label.
        levels: τ, rising, [Q].
        scale: one positive number per task, [T]: the unit of the loss; 1 where omitted.
    """
    values, targets, levels = usable(values), usable(targets), usable(levels).double()
    mask, labels = labelled(targets), targets.double()
    count = mask.sum(1)
    loss = _pinball(values.double(), labels, levels, mask) / count
    constant = labels.nanquantile(levels, dim=1).T if labels.shape[1] else labels.new_full((len(labels), len(levels)), torch.nan)
    best = _pinball(constant[:, None], labels, levels, mask) / count
    d2 = torch.where(best > 0, 1 - loss / best, (loss == 0).double())
    below = ((labels[..., None] <= values) & mask[..., None]).sum(1) / count[:, None].double()
    inside = (labels >= values[..., 0]) & (labels <= values[..., -1])
    results = {
        "d2_pinball": d2.masked_fill(count < 2, torch.nan),
        "pinball": loss if scale is None else loss * usable(scale).double(),
        "coverage_error": (below - levels).abs().mean(-1),
        "coverage": (inside & mask).sum(1) / count.double(),
    }
    return in_order(QUANTILE, results, diverged(values, mask[..., None]))


def _pinball(values: Tensor, labels: Tensor, levels: Tensor, mask: Tensor) -> Tensor:
    """[T]: sum over the examples of the mean over the quantiles."""
    error = labels[..., None] - values
    loss = torch.maximum(levels * error, (levels - 1) * error).mean(-1)
    return loss.masked_fill(~mask, 0).sum(1)
