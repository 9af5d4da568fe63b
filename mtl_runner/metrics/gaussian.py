"""How good predicted variances are.

Shape legend: T tasks, N examples, K outputs of each.
"""

import math

from torch import Tensor

from mtl_runner.batch import labelled
from mtl_runner.metrics.base import Metric, diverged, in_order, usable

GAUSSIAN = (Metric("nll", False, "values", True), Metric("coverage_95", None, "values"))
_BOUND = 1.959963984540054
"""95 % of a normal distribution are within so many standard deviations of its mean."""


def gaussian(outputs: Tensor, targets: Tensor, scale: Tensor) -> dict[str, Tensor]:
    """Of T regressions with a predicted variance, each [T]: the mean negative log-likelihood of a label in the user's unit,
    log(2 π σ²) / 2 + (y - μ)² / (2 σ²), and the share of labels within μ ± 1.96 σ, which should be 0.95.

    NaN: without a label.

    Args:
        outputs: mean and log variance, [T, N, 2] or [T, N, K, 2].
        targets: [T, N] or [T, N, K], NaN where there is no label.
        scale: one positive number per task and output, [T, 1] or [T, K].
    """
    outputs, targets = usable(outputs).double(), usable(targets).double()
    both = outputs.reshape(*targets.shape[:2], -1, 2)
    mean, variance = both.unbind(-1)
    targets = targets.reshape(mean.shape)
    mask = labelled(targets)
    squared = (targets - mean) ** 2 / variance.exp()
    nll = (math.log(2 * math.pi) + variance + squared) / 2 + usable(scale).double().reshape(len(targets), 1, -1).log()
    count = mask.sum((1, 2))
    values = {
        "nll": nll.masked_fill(~mask, 0).sum((1, 2)) / count,
        "coverage_95": (mask & (squared <= _BOUND**2)).sum((1, 2)) / count.double(),
    }
    return in_order(GAUSSIAN, values, diverged(both, mask[..., None]))
