"""Metrics of predicted mean counts.

Shape legend: T tasks, N examples.
"""

import math

import torch
from torch import Tensor

from mtl_runner.batch import labelled
from mtl_runner.metrics.base import Metric, diverged, in_order, usable

COUNT = (
    Metric("d2_poisson", True, "values"),
    Metric("poisson_deviance", False, "values", True),
    Metric("mae", False, "values", True),
    Metric("rmse", False, "values", True),
)


def count(log_rates: Tensor, targets: Tensor, scale: Tensor | None = None) -> dict[str, Tensor]:
    """The metrics of T tasks that predict the mean μ of a count, each [T].

    The deviance is the mean of 2 (y log(y / μ) - y + μ), and D² is 1 - it / that of the labels' mean, as in scikit-learn
    (power 1 of the Tweedie family); both errors are of y - μ.

    NaN: D² with fewer than two labels, all of them without one. Of constant labels D² is 1 if they are met exactly, else 0.

    Args:
        log_rates: log(μ / scale), [T, N].
        targets: counts / scale, [T, N], NaN where there is no label.
        scale: one positive number per task, [T]; 1 where omitted.
    """
    log_rates, targets = usable(log_rates), usable(targets)
    unit = torch.ones(len(targets), device=targets.device).double() if scale is None else usable(scale).double()
    mask = labelled(targets)
    labels = targets.double().nan_to_num()
    known = mask.sum(1)
    rates = log_rates.double().exp()
    mean = (labels * mask).sum(1) / known
    deviance = _deviance(labels, rates, log_rates.double(), mask) / known
    constant = _deviance(labels, mean[:, None], mean.log()[:, None].clamp(min=-1e300), mask) / known
    d2 = torch.where(constant > 0, 1 - deviance / constant, (deviance == 0).double())
    error = (labels - rates).masked_fill(~mask, 0)
    values = {
        "d2_poisson": d2.masked_fill(known < 2, math.nan),
        "poisson_deviance": deviance * unit,
        "mae": error.abs().sum(1) / known * unit,
        "rmse": (error.square().sum(1) / known).sqrt() * unit,
    }
    return in_order(COUNT, values, diverged(log_rates, mask))


def _deviance(labels: Tensor, rates: Tensor, log_rates: Tensor, mask: Tensor) -> Tensor:
    """[T]: 2 Σ (y log(y / μ) - y + μ); y log y is 0 for y = 0."""
    each: Tensor = torch.special.xlogy(labels, labels) - labels * log_rates - labels + rates
    return 2 * each.masked_fill(~mask, 0).sum(1)
