"""Metrics of classes in an order: being two classes off is worse than one.

Shape legend: T tasks, N examples, C classes.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from mtl_runner.batch import labelled
from mtl_runner.metrics.base import Metric, diverged, in_order, usable
from mtl_runner.metrics.classes_and_numbers import balanced_accuracy, confusion

ORDINAL = (
    Metric("quadratic_kappa", True, "classes"),
    Metric("accuracy", True, "classes"),
    Metric("balanced_accuracy", True, "classes"),
    Metric("class_mae", False, "classes"),
    Metric("balanced_class_mae", False, "classes"),
    Metric("log_loss", False, "probabilities"),
    Metric("ranked_probability", False, "probabilities"),
)
_EPS = torch.finfo(torch.float64).eps


def ordinal(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """The metrics of T ordinal tasks, each [T].

    The predicted class is the median of the predicted distribution: the number of thresholds that the example is likelier to be
    above than not. Kappa has quadratic weights, 1 - Σ (i - j)² observed_ij / Σ (i - j)² expected_ij (Cohen, Psychological
    Bulletin 1968). The class MAE is the mean number of classes that a prediction is off, balanced: the mean of the classes'
    own (Baccianella et al., Evaluation Measures for Ordinal Regression, ISDA 2009). The ranked probability score is the mean of
    Σ_c (P(y ≤ c) - [y ≤ c])² / (C - 1) over the C - 1 thresholds: 0 … 1 (Epstein, Journal of Applied Meteorology 1969).

    NaN: kappa where labels and predictions are one and the same class, all of them without a label.

    Args:
        logits: of P(y > c) for c = 0 … C - 2, falling, [T, N, C - 1].
        targets: [T, N], 0 … C - 1, -100 where there is no label.
    """
    logits, targets = usable(logits), usable(targets)
    mask, classes = labelled(targets), logits.shape[-1] + 1
    matrix = confusion((logits > 0).sum(-1), targets, classes).double()
    true, predicted, hits = matrix.sum(-1), matrix.sum(-2), matrix.diagonal(dim1=-2, dim2=-1)
    total = true.sum(-1)
    place = torch.arange(classes, device=logits.device, dtype=torch.float64)
    distance = (place[:, None] - place).abs()
    expected = true[:, :, None] * predicted[:, None] / total[:, None, None]
    off = (matrix * distance).sum(-1)
    met = (true > 0).double()
    truth = targets.clamp(min=0)
    likelihood = probabilities(logits.double()).gather(-1, truth[..., None])[..., 0]
    above = truth[..., None] > place[:-1]
    ranked = (logits.double().sigmoid() - above.double()).square().mean(-1)
    values = {
        "quadratic_kappa": 1 - (matrix * distance**2).sum((-2, -1)) / (expected * distance**2).sum((-2, -1)),
        "accuracy": hits.sum(-1) / total,
        "balanced_accuracy": balanced_accuracy(hits, true, predicted),
        "class_mae": off.sum(-1) / total,
        "balanced_class_mae": (off / true.clamp(min=1)).sum(-1) / met.sum(-1),
        "log_loss": _mean(-likelihood.clamp(_EPS, 1 - _EPS).log(), mask),
        "ranked_probability": _mean(ranked, mask),
    }
    values["quadratic_kappa"] = values["quadratic_kappa"].masked_fill(~values["quadratic_kappa"].isfinite(), math.nan)
    return in_order(ORDINAL, values, diverged(logits, mask[..., None]))


def probabilities(logits: Tensor) -> Tensor:
    """P(y = c) [..., C] from the logits of P(y > c), [..., C - 1]."""
    above = F.pad(logits.sigmoid(), (1, 0), value=1.0)
    return above - F.pad(above[..., 1:], (0, 1))


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """[T, N] -> [T]: the mean where ``mask`` holds; NaN where it holds nowhere."""
    return values.masked_fill(~mask, 0).sum(-1) / mask.sum(-1)
