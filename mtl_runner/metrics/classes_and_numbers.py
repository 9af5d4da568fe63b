"""The metrics of tasks with one class or some numbers per example: those that scikit-learn defines, for T tasks at once.

Shape legend: T tasks of one kind, N examples, C classes, K outputs of a regression, R rows that are ranked.
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from mtl_runner.batch import labelled
from mtl_runner.metrics.base import Metric, diverged, in_order, usable

_CLASSES = tuple(
    Metric(name, True, "classes") for name in ("balanced_accuracy", "accuracy", "g_mean", "precision", "recall", "f1", "mcc")
)
_RANKS = (Metric("roc_auc", True, "probabilities"), Metric("average_precision", True, "probabilities"))
_PREVALENCE = Metric("prevalence", None, "probabilities")
_PROBABILITIES = tuple(Metric(name, False, "probabilities") for name in ("log_loss", "brier", "calibration_error"))
NUMBERS = (Metric("r2", True, "values"), Metric("mae", False, "values", True), Metric("rmse", False, "values", True))

BINARY = (*_RANKS, _PREVALENCE, *_PROBABILITIES, *_CLASSES)
MULTICLASS = (*_CLASSES, *_RANKS, *_PROBABILITIES)
"""The primary metric first; the functions below return theirs in this order."""

_EPS = torch.finfo(torch.float64).eps
CALIBRATION_BINS = 15
"""Intervals of probability of the calibration error and of reliability curves."""
_RANKED_AT_ONCE = 2**18
"""Scores that are sorted together: their temporaries stay in the cache, and memory stays bounded with many classes."""


def binary(logits: Tensor, targets: Tensor, decided: Tensor | None = None) -> dict[str, Tensor]:
    """The metrics of T binary tasks, each [T].

    The predicted class is 1 where ``decided`` is above 0. All that is of probabilities reads ``logits``. ROC-AUC and average
    precision rank by the logit itself, which orders like the probability but has no ties where the sigmoid saturates; the
    prevalence, the share of positives, is what average precision is compared with: a random order has about that value. The log
    loss takes both classes' probabilities, σ(-logit) and σ(logit), clipped to [ε, 1 - ε] with float64's ε. The Brier score is
    the mean of (p - y)², p the probability of the positive class: 0 … 1. The calibration error compares p with the share of
    positives, see ``_calibration_error``.

    NaN: ROC-AUC and average precision where a class is missing, all of them without a label.

    Args:
        logits: [T, N].
        targets: [T, N], 0 or 1, NaN where there is no label.
        decided: [T, N], logits that the classes are decided by, where a threshold has been moved; ``logits`` otherwise.
    """
    logits, targets = usable(logits), usable(targets)
    mask, positive = labelled(targets), targets > 0.5
    loss = functional.softplus(torch.where(positive, -logits, logits).double()).clamp(_EPS, -math.log(_EPS))
    probability = logits.double().sigmoid()
    error = probability - positive.double()
    roc_auc, average_precision = _ranked(logits, positive, mask)
    values = {
        "roc_auc": roc_auc,
        "average_precision": average_precision,
        "prevalence": _mean(positive.double(), mask),
        "log_loss": _mean(loss, mask),
        "brier": _mean(error.square(), mask),
        "calibration_error": _calibration_error(probability, error, mask),
        **of_confusion(confusion((logits if decided is None else usable(decided)) > 0, targets, 2)),
    }
    return in_order(BINARY, values, diverged(logits, mask))


def multiclass(logits: Tensor, targets: Tensor, decided: Tensor | None = None) -> dict[str, Tensor]:
    """The metrics of T multiclass tasks, each [T].

    The predicted class has the largest of ``decided``. All that is of probabilities reads the softmax of ``logits`` in float64.
    ROC-AUC and average precision are one class against the rest, averaged over all C classes. Balanced accuracy and G-mean,
    the geometric mean of the recalls, are over the classes with a label; precision, recall and F1 over those with a label or a
    prediction; 0 / 0 counts as 0 in them. The Brier score is the mean of Σ_c (p_c - y_c)²: 0 … 2, and for two classes twice that
    of a binary task. The calibration error is that of the top label: its probability against how often it is right.

    NaN: ROC-AUC and average precision where any class is missing, all of them without a label.

    Args:
        logits: [T, N, C].
        targets: [T, N], 0 … C - 1, -100 where there is no label.
        decided: [T, N, C], logits that the classes are decided by, where they have been shifted; ``logits`` otherwise.
    """
    decided = None if decided is logits else decided
    logits, targets = usable(logits), usable(targets)
    mask, (tasks, examples, classes) = labelled(targets), logits.shape
    truth = targets.clamp(min=0)
    probabilities = logits.double().softmax(-1)
    given = probabilities.gather(-1, truth[..., None])[..., 0]
    top = logits.argmax(-1)
    confidence = probabilities.gather(-1, top[..., None])[..., 0]
    each = torch.arange(classes, device=targets.device)[:, None]
    roc_auc, average_precision = _ranked(
        probabilities.transpose(1, 2).reshape(tasks * classes, examples),
        (targets[:, None, :] == each).reshape(tasks * classes, examples),
        mask.repeat_interleave(classes, 0),
    )
    values = {
        **of_confusion(confusion(top if decided is None else usable(decided).argmax(-1), targets, classes)),
        "roc_auc": roc_auc.reshape(tasks, classes).mean(-1),
        "average_precision": average_precision.reshape(tasks, classes).mean(-1),
        "log_loss": _mean(-given.clamp(_EPS, 1 - _EPS).log(), mask),
        "brier": _mean((probabilities.square().sum(-1) - 2 * given + 1).clamp(min=0), mask),
        "calibration_error": _calibration_error(confidence, confidence - (top == truth).double(), mask),
    }
    return in_order(MULTICLASS, values, diverged(logits, mask[..., None]))


def regression(
    values: Tensor,
    targets: Tensor,
    scale: Tensor | None = None,
    average: Literal["uniform_average", "variance_weighted"] = "uniform_average",
) -> dict[str, Tensor]:
    """R², mean absolute error and root mean squared error of T regressions or reconstructions, each [T].

    Each output's metric takes the examples in which that output has a label; they are then averaged over the outputs
    that have one. Errors are in the user's unit, value = center + scale · x: the center cancels in all three and is not
    asked for. R² of a constant target is 1 if it is met exactly, else 0.

    NaN: R² where no output has two labels, the errors where none has one.

    Args:
        values: predictions, [T, N] or [T, N, K].
        targets: the same shape, NaN where there is no label.
        scale: one positive number per task and output, [T] or [T, K]; 1 where omitted.
        average: of R² over the outputs: equal weights, or each output's variance in the user's unit (reconstruction).
    """
    values, targets = usable(values), usable(targets)
    tasks, examples = values.shape[:2]
    values, targets = (x.reshape(tasks, examples, math.prod(x.shape[2:])) for x in (values, targets))
    unit = values.new_ones(tasks, 1).double() if scale is None else usable(scale).double().reshape(tasks, -1)
    mask, zero = labelled(targets), values.new_zeros((), dtype=torch.float64)
    count = mask.sum(1)
    error = torch.where(mask, values.double() - targets.double(), zero)
    residual = error.square().sum(1)
    mean = torch.where(mask, targets.double(), zero).sum(1) / count
    spread = torch.where(mask, targets.double() - mean[:, None], zero).square().sum(1)
    r2 = torch.where(spread > 0, 1 - residual / spread, (residual == 0).double())
    defined = (count > 1).double()
    weights = spread * unit.square() * defined if average == "variance_weighted" else defined
    results = {
        "r2": _average(r2, torch.where((weights > 0).any(-1, keepdim=True), weights, defined)),
        "mae": _average(error.abs().sum(1) / count * unit, (count > 0).double()),
        "rmse": _average((residual / count).sqrt() * unit, (count > 0).double()),
    }
    return in_order(NUMBERS, results, diverged(values, mask))


def confusion(predicted: Tensor, targets: Tensor, classes: int) -> Tensor:
    """Counts of examples by true class (rows) and predicted class (columns), [T, C, C], int64.

    Args:
        predicted: classes, [T, N].
        targets: classes, [T, N]; NaN (float) or -100 (integer) where there is no label.
        classes: C.
    """
    predicted, targets = usable(predicted), usable(targets)
    tasks = len(targets)
    offset = torch.arange(tasks, device=targets.device)[:, None] * classes
    mask = labelled(targets)
    cell = (offset + torch.where(mask, targets, 0).long()) * classes + predicted.long()
    return torch.bincount(cell[mask], minlength=tasks * classes**2).reshape(tasks, classes, classes)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """[T, N] -> [T]: the mean where ``mask`` holds; NaN where it holds nowhere."""
    return values.masked_fill(~mask, 0).sum(-1) / mask.sum(-1)


def _average(values: Tensor, weights: Tensor) -> Tensor:
    """[T, K] -> [T]: the weighted mean; values of weight 0 may be NaN; NaN where all weights are 0."""
    return (values.masked_fill(weights == 0, 0) * weights).sum(-1) / weights.sum(-1)


def of_confusion(matrix: Tensor) -> dict[str, Tensor]:
    """The metrics of decisions from their confusion matrix [T, C, C], each [T]."""
    matrix = matrix.double()
    hits, true, predicted = matrix.diagonal(dim1=-2, dim2=-1), matrix.sum(-1), matrix.sum(-2)
    total, correct = true.sum(-1), hits.sum(-1)
    met = (true + predicted > 0).double()
    covariance = correct * total - (true * predicted).sum(-1)
    product = (total**2 - (predicted**2).sum(-1)) * (total**2 - (true**2).sum(-1))
    return {
        "accuracy": correct / total,
        "balanced_accuracy": balanced_accuracy(hits, true, predicted),
        "g_mean": g_mean(hits, true, predicted),
        "precision": _average(hits / predicted.clamp(min=1), met),
        "recall": _average(hits / true.clamp(min=1), met),
        "f1": macro_f1(hits, true, predicted),
        "mcc": torch.where(product > 0, covariance / product.sqrt(), 0.0).masked_fill(total == 0, math.nan),
    }


def balanced_accuracy(hits: Tensor, true: Tensor, predicted: Tensor) -> Tensor:
    """Mean recall of the classes with a label, from counts of each class [..., C] (float64): hits, labels, predictions."""
    return _average(hits / true.clamp(min=1), (true > 0).double())


def g_mean(hits: Tensor, true: Tensor, predicted: Tensor) -> Tensor:
    """Geometric mean of the same recalls: 0 where one of them is 0."""
    return _average((hits / true.clamp(min=1)).log(), (true > 0).double()).exp()


def macro_f1(hits: Tensor, true: Tensor, predicted: Tensor) -> Tensor:
    """Mean F1 of the classes with a label or a prediction."""
    return _average(2 * hits / (true + predicted).clamp(min=1), (true + predicted > 0).double())


def _calibration_error(confidence: Tensor, error: Tensor, mask: Tensor) -> Tensor:
    """Σ_b n_b / N · |mean confidence - share that came true| over 15 bins of equal width, [T].

    Guo et al., On Calibration of Modern Neural Networks, ICML 2017. An edge belongs to the bin below it, also where rounding
    has put a confidence just above it.

    Args:
        confidence: of each example, [T, N], in [0, 1].
        error: confidence - 1 where it came true, confidence where not.
        mask: which examples count.
    """
    bins = (confidence * CALIBRATION_BINS - 1e-9).nan_to_num_().ceil_().clamp_(1, CALIBRATION_BINS).long() - 1
    sums = error.new_zeros(len(error), CALIBRATION_BINS).scatter_add_(1, bins, error.masked_fill(~mask, 0))
    return sums.abs().sum(-1) / mask.sum(-1)


def _ranked(scores: Tensor, positive: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """ROC-AUC and average precision of R rankings of N scores, each [R]; NaN where a class is missing."""
    rows = max(1, _RANKED_AT_ONCE // max(1, scores.shape[-1]))
    parts = [_ranked_rows(*part) for part in zip(*(torch.split(x, rows) for x in (scores, positive, mask)), strict=True)]
    roc_auc, average_precision = zip(*parts, strict=True)
    return torch.cat(roc_auc), torch.cat(average_precision)


def _ranked_rows(scores: Tensor, positive: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """As ``_ranked``, from the counts of true and false positives at each threshold, i.e. at the last of equal scores.

    ROC-AUC = Σ (FP - FP') (TP + TP') / 2 / (P · N), average precision = Σ (TP - TP') / P · TP / (TP + FP), over the
    thresholds, with ' the counts at the threshold before. Examples without a label come last and add to neither count.
    """
    ordered, order = scores.masked_fill(~mask, -math.inf).sort(-1, descending=True)
    threshold = functional.pad(ordered[:, 1:] != ordered[:, :-1], (0, 1), value=True)
    tp = positive.gather(-1, order).cumsum(-1)
    fp = (~positive & mask).gather(-1, order).cumsum(-1)
    tp_before, fp_before = _before(tp, threshold), _before(fp, threshold)
    area = ((fp - fp_before) * (tp + tp_before)).masked_fill(~threshold, 0).sum(-1)
    steps = ((tp - tp_before) * (tp.double() / (tp + fp))).masked_fill(~threshold, 0).sum(-1)
    positives, negatives = (positive & mask).sum(-1), (~positive & mask).sum(-1)
    undefined = (positives == 0) | (negatives == 0)
    roc_auc, average_precision = area.double() / (2 * positives * negatives), steps / positives
    return roc_auc.masked_fill(undefined, math.nan), average_precision.masked_fill(undefined, math.nan)


def _before(counts: Tensor, threshold: Tensor) -> Tensor:
    """Cumulative ``counts`` [R, N] at the last threshold before each place, 0 where there is none."""
    return functional.pad(counts.masked_fill(~threshold, 0).cummax(-1).values[:, :-1], (1, 0))
