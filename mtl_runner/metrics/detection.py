"""Boxes: overlap, non-maximum suppression, and average precision by the definition of COCO.

Lin et al., "Microsoft COCO: common objects in context", ECCV 2014, and the evaluation code that goes with it; without crowds,
difficult objects and ranges of area, which no data set here has. A box is (x1, y1, x2, y2) with x1 ≤ x2 and y1 ≤ y2.

Shape legend: T tasks, B images, K detections and M true boxes of an image (padded), R thresholds of overlap, C classes,
D detections of all images.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from mtl_runner.metrics.base import Metric, in_order, usable

DETECTION = (Metric("ap", True, "probabilities"), Metric("ap50", True, "probabilities"))
OVERLAPS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
RECALLS = 101
"""Recalls 0, 0.01 … 1 at which precision is read."""


def overlap(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union [..., K, M] of boxes [..., K, 4] and [..., M, 4]; 0 where both are empty."""
    one, other = first.unsqueeze(-2), second.unsqueeze(-3)
    sides = (torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(one[..., :2], other[..., :2])).clamp(min=0)
    both = sides.prod(-1)
    union = area(one) + area(other) - both
    return torch.where(union > 0, both / union, 0)


def area(boxes: Tensor) -> Tensor:
    """[...] of boxes [..., 4]."""
    return (boxes[..., 2:4] - boxes[..., :2]).clamp(min=0).prod(-1)


def suppressed(boxes: Tensor, classes: Tensor, there: Tensor, most: float) -> Tensor:
    """Greedy non-maximum suppression: which boxes stay, boolean [B, K].

    From the first to the last box of an image, one stays unless a box before it that stays, of its class, overlaps it by more
    than ``most``. K steps, each for all images at once.

    Args:
        boxes: [B, K, 4], of falling score.
        classes: [B, K].
        there: [B, K], false for padding, which never stays.
    """
    close = (overlap(boxes, boxes) > most) & (classes.unsqueeze(-1) == classes.unsqueeze(-2))
    stays = there.clone()
    for place in range(boxes.shape[-2]):
        later = close[..., place, place + 1 :] & stays[..., place : place + 1]
        stays[..., place + 1 :] &= ~later
    return stays


def matched(boxes: Tensor, classes: Tensor, true: Tensor, true_classes: Tensor) -> Tensor:
    """Which detections hit a true box, boolean [R, B, K].

    From the first to the last detection of an image, each takes the true box of its class that it overlaps most, of those
    that no other has taken, where the overlap is at least the threshold.

    Args:
        boxes: [B, K, 4], of falling score.
        classes: [B, K]; -1: padding, which hits nothing.
        true: [B, M, 4].
        true_classes: [B, M]; -1: padding, which nothing hits.
    """
    fits = (classes.unsqueeze(-1) == true_classes.unsqueeze(-2)) & (true_classes >= 0).unsqueeze(-2)
    overlaps = torch.where(fits, overlap(boxes, true), -1.0)
    thresholds = overlaps.new_tensor(OVERLAPS)[:, None]
    hits = torch.zeros(len(OVERLAPS), *classes.shape, dtype=torch.bool, device=boxes.device)
    taken = torch.zeros(len(OVERLAPS), *true_classes.shape, dtype=torch.bool, device=boxes.device)
    for place in range(boxes.shape[-2]):
        best, where = torch.where(taken, -1.0, overlaps[:, place]).max(-1)  # [R, B]
        hits[..., place] = best >= thresholds
        taken.scatter_(-1, where.unsqueeze(-1), hits[..., place : place + 1] | taken.gather(-1, where.unsqueeze(-1)))
    return hits


def detection_summary(
    boxes: Tensor, scores: Tensor, classes: Tensor, true: Tensor, true_classes: Tensor, count: int
) -> dict[str, Tensor]:
    """What average precision needs of some images: detections without their boxes, [T, D], and the numbers of true boxes [T, C].

    ``code`` is class · 2^R + the thresholds at which a detection is a hit, one bit each; -1 for padding.

    Args:
        boxes: detections [T, B, K, 4], of falling score within an image.
        scores: [T, B, K].
        classes: [T, B, K]; -1: padding.
        true: [T, B, M, 4]; ``true_classes`` [T, B, M]; -1: padding.
        count: C.
    """
    true, true_classes = usable(true).double(), usable(true_classes)
    boxes, scores, classes = usable(boxes).double(), usable(scores), usable(classes)
    hits = torch.stack([matched(*case) for case in zip(boxes, classes, true, true_classes, strict=True)])  # [T, R, B, K]
    bits = (hits.long() << torch.arange(len(OVERLAPS), device=hits.device)[:, None, None]).sum(1)
    code = torch.where(classes >= 0, classes * 2 ** len(OVERLAPS) + bits, -1)
    per_class = (true_classes.flatten(1).unsqueeze(-1) == torch.arange(count, device=true.device)).sum(1)
    return compact({"code": code.flatten(1).cpu(), "score": scores.flatten(1).double().cpu(), "true": per_class.cpu()})


def compact(summary: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same detections with as little padding as T tasks of different numbers of them allow."""
    order = (summary["code"] < 0).long().argsort(dim=1, stable=True)
    kept = int((summary["code"] >= 0).sum(1).max()) if summary["code"].numel() else 0
    moved = {name: summary[name].gather(1, order)[:, :kept] for name in ("code", "score")}
    return {**summary, **moved}


def together(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The summary of two sets of images."""
    joined = {name: torch.cat([one[name], other[name]], 1) for name in ("code", "score")}
    return compact({**joined, "true": one["true"] + other["true"]})


def detection(summary: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Average precision, mean over the classes that have true boxes: over the overlaps 0.50, 0.55 … 0.95, and at 0.50; each [T].

    Of the detections of a class in falling score, precision = hits / detections so far, and recall = hits so far / true boxes;
    average precision = mean over the recalls 0, 0.01 … 1 of the largest precision at that recall or more (0 beyond the last).
    NaN: no true box.
    """
    values = torch.stack([_of_task(*case) for case in zip(summary["code"], summary["score"], summary["true"], strict=True)])
    means = {"ap": values.nanmean(-1), "ap50": values[:, 0]}  # NaN for all thresholds or for none
    return in_order(DETECTION, means, summary["true"].sum(-1) == 0)


def _of_task(code: Tensor, score: Tensor, true: Tensor) -> Tensor:
    """[R]: mean over the classes."""
    bits = 2 ** len(OVERLAPS)
    precisions = []
    for label in true.nonzero().flatten().tolist():
        mine = (code >= label * bits) & (code < (label + 1) * bits)
        order = score[mine].argsort(descending=True, stable=True)
        hits = (code[mine][order].unsqueeze(0) >> torch.arange(len(OVERLAPS))[:, None]) & 1  # [R, D]
        precisions.append(average_precision(hits, int(true[label])))
    return torch.stack(precisions).mean(0) if precisions else torch.full((len(OVERLAPS),), math.nan, dtype=torch.float64)


def average_precision(hits: Tensor, true: int) -> Tensor:
    """[R], from hits [R, D] (0 or 1) in falling score and the number of true boxes, at least 1."""
    found = hits.double().cumsum(-1)
    precision = found / torch.arange(1, hits.shape[-1] + 1, dtype=torch.float64)
    best = precision.flip(-1).cummax(-1).values.flip(-1) if hits.shape[-1] else precision
    recalls = torch.from_numpy(np.linspace(0, 1, RECALLS))  # torch's differ in the last digit, and so would an exact recall
    wanted = recalls.expand(len(hits), -1).contiguous()
    place = torch.searchsorted((found / true).contiguous(), wanted)
    padded = torch.cat([best, best.new_zeros(len(hits), 1)], -1)
    return padded.gather(-1, place).mean(-1)
