"""Metrics of tasks in which any number of labels may hold for an example.

Shape legend: T tasks, N examples, K labels.
"""

import torch
from torch import Tensor

from mtl_runner.batch import labelled
from mtl_runner.metrics.base import Metric, diverged, in_order, usable
from mtl_runner.metrics.classes_and_numbers import binary

MULTILABEL = (
    Metric("average_precision", True, "probabilities"),
    Metric("roc_auc", True, "probabilities"),
    Metric("log_loss", False, "probabilities"),
    Metric("f1", True, "classes"),
    Metric("micro_f1", True, "classes"),
    Metric("hamming_loss", False, "classes"),
    Metric("subset_accuracy", True, "classes"),
)


def multilabel(logits: Tensor, targets: Tensor, decided: Tensor | None = None) -> dict[str, Tensor]:
    """The metrics of T multilabel tasks, each [T].

    A label is predicted where ``decided`` is above 0. Average precision, ROC-AUC and F1 (of the label, not of its absence) are
    means over the labels: the first two over those that some examples have and others have not, F1 over those that any example
    has or is predicted to have. The micro F1 takes the counts of all labels together; the Hamming loss is the share of wrong
    ones, the subset accuracy the share of examples without a wrong one. An example of which some labels are missing counts
    with the others.

    NaN: ROC-AUC and average precision where no label is present and absent, F1 where none is present or predicted, the others
    without any label.

    Args:
        logits: [T, N, K].
        targets: [T, N, K], 0 or 1, NaN where it is not known.
        decided: [T, N, K], logits that the labels are decided by, where thresholds have been moved; ``logits`` otherwise.
    """
    logits, targets = usable(logits), usable(targets)
    decided = logits if decided is None else usable(decided)
    (tasks, examples, labels), mask = logits.shape, labelled(targets)
    flat = (tensor.transpose(1, 2).reshape(tasks * labels, examples) for tensor in (logits, targets))
    each = {name: value.reshape(tasks, labels) for name, value in binary(*flat).items()}
    truth, predicted = (targets > 0.5) & mask, (decided > 0) & mask
    hits, true, found = ((part).sum(1).double() for part in (truth & predicted, truth, predicted))
    wrong, known = (truth != predicted).sum((1, 2)), mask.sum((1, 2))
    some = mask.any(-1)
    values = {
        "average_precision": each["average_precision"].nanmean(-1),
        "roc_auc": each["roc_auc"].nanmean(-1),
        "log_loss": (each["log_loss"] * mask.sum(1)).nansum(-1) / known,
        "f1": torch.where(true + found > 0, 2 * hits / (true + found), torch.nan).nanmean(-1),
        "micro_f1": 2 * hits.sum(-1) / (true + found).sum(-1),
        "hamming_loss": wrong / known.double(),
        "subset_accuracy": ((truth == predicted).all(-1) & some).sum(-1) / some.sum(-1).double(),
    }
    return in_order(MULTILABEL, values, diverged(logits, mask))
