"""How good the predicted probabilities are, and what recall costs: the curves of ``curves.json``.

Shape legend: N examples with a label, C classes.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mtl_runner.batch import TargetSpec, labelled
from mtl_runner.metrics import CALIBRATION_BINS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

KINDS = ("binary", "multiclass", "ranking")
_POINTS, _CLASSES = 200, 10
"""Points of a curve at most, and classes with a curve of their own: the rarest ones."""


def curves(
    outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor], specs: Mapping[str, TargetSpec]
) -> dict[str, dict[str, Any]]:
    """Of each task with classes, if its labels are of at least two: a reliability curve and precision-recall curves; JSON.

    ``reliability``: ``of`` whose probability it is, the positive class or the one with the highest probability; for each of 15
    intervals of equal width the mean ``predicted`` probability, the ``observed`` share (null without examples) and the
    ``count``; ``calibration_error`` = Σ count / N · abs(predicted - observed) (Guo et al., On Calibration of Modern
    Neural Networks, ICML 2017).

    ``precision_recall``: of the positive class, or of each class against the rest (the 10 rarest that occur): ``class``,
    ``prevalence`` (its share of the labels), ``average_precision`` as in scikit-learn, ``recall`` and ``precision`` at no more
    than 200 of the thresholds where recall rises, and in ``decision`` those of the predicted class (precision is null where
    nothing is predicted).

    Probabilities are those of ``spec.decision.calibrated``, predicted classes those of ``spec.decision.shifted``. A task of
    which an output is not finite has no curves.

    Args:
        outputs: logits by task, [N'] (binary) or [N', C], of any device; further axes count as examples.
        targets: classes by task, [N'], also without labels.
        specs: of the tasks; those without outputs, or without a probability for each class, are passed over.
    """
    made = {}
    for name, spec in specs.items():
        if spec.kind in KINDS and name in outputs:
            target = targets[name].to(outputs[name].device)
            mask = labelled(target)
            logits, labels = outputs[name].detach()[mask], target[mask].long().cpu().numpy()
            if (labels != labels[:1]).any() and logits.isfinite().all():
                made[name] = _curves(logits, labels, spec)
    return made


def recall_by_class(confusions: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """By task and class: the share of a class's examples that are predicted as such; None for a class without examples.

    Args:
        confusions: the content of ``confusion.json``: by task ``classes`` and the ``matrix``, rows true and columns predicted.
    """
    return {
        task: {
            str(name): row[place] / sum(row) if any(row) else None
            for place, (name, row) in enumerate(zip(confusion["classes"], confusion["matrix"], strict=True))
        }
        for task, confusion in confusions.items()
    }


def _curves(logits: Tensor, labels: Ints, spec: TargetSpec) -> dict[str, Any]:
    calibrated, shifted = spec.decision.calibrated(logits).cpu().double(), spec.decision.shifted(logits).cpu()
    if logits.ndim == 1:
        scores, predicted = calibrated.sigmoid().numpy(), (shifted > 0).long().numpy()
        shown = {1: calibrated.numpy()}  # ordered as the probabilities are, without ties where these round to 1
        reliability = {"of": spec.classes[1], **_reliability(scores, labels == 1)}
    else:
        probabilities, predicted = calibrated.softmax(-1).numpy(), shifted.argmax(-1).numpy()
        counts = np.bincount(labels, minlength=len(spec.classes))
        rarest = [place for place in counts.argsort(kind="stable").tolist() if counts[place]][:_CLASSES]
        shown = {place: probabilities[:, place] for place in sorted(rarest)}
        top = probabilities.argmax(-1)
        reliability = {"of": None, **_reliability(probabilities.max(-1), top == labels)}
    ranked = [
        {"class": spec.classes[place], **_precision_recall(score, labels == place, predicted == place)}
        for place, score in shown.items()
    ]
    return {"reliability": reliability, "precision_recall": ranked}


def _reliability(scores: Floats, right: Bools) -> dict[str, Any]:
    interval = (
        np.ceil(scores * CALIBRATION_BINS - 1e-9).clip(1, CALIBRATION_BINS).astype(np.int64) - 1
    )  # an edge is of the interval below it
    counts = np.bincount(interval, minlength=CALIBRATION_BINS)
    predicted, observed = (np.bincount(interval, values, CALIBRATION_BINS) / np.maximum(counts, 1) for values in (scores, right))
    return {
        "predicted": _rounded(predicted, counts),
        "observed": _rounded(observed, counts),
        "count": counts.tolist(),
        "calibration_error": float((counts * np.abs(predicted - observed)).sum() / len(scores)),
    }


def _rounded(values: Floats, counts: Ints) -> list[float | None]:
    return [round(value, 6) if count else None for value, count in zip(values.tolist(), counts.tolist(), strict=True)]


def _precision_recall(scores: Floats, positive: Bools, predicted: Bools) -> dict[str, Any]:
    order = np.argsort(-scores)
    threshold = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    hits = positive[order].cumsum()[threshold]
    recall, precision = hits / hits[-1], hits / (threshold + 1)
    kept = _thinned(recall, precision)
    found = (positive & predicted).sum()
    return {
        "prevalence": float(positive.mean()),
        "average_precision": float(np.diff(recall, prepend=0) @ precision),
        "recall": recall[kept].round(5).tolist(),
        "precision": precision[kept].round(5).tolist(),
        "decision": {
            "recall": float(found / hits[-1]),
            "precision": float(found / predicted.sum()) if predicted.any() else None,
        },
    }


def _thinned(recall: Floats, precision: Floats) -> Ints:
    """The points at which recall rises, which are all that average precision sums up; at most ``_POINTS`` of them.

    Of more, those at equal distances along the curve: none that is left out is further from one that is kept, in recall plus
    precision, than the curve is long / (``_POINTS`` - 1).
    """
    rising = np.flatnonzero(np.diff(recall, prepend=0) > 0)
    if len(rising) <= _POINTS:
        return rising
    length = np.append(0, (np.diff(recall[rising]) + np.abs(np.diff(precision[rising]))).cumsum())
    nearest = np.searchsorted(length, np.linspace(0, length[-1], _POINTS)).clip(max=len(rising) - 1)
    chosen: Ints = rising[np.unique(nearest)]
    return chosen
