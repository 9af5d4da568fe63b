"""Metrics of points in an image.

Shape legend: T tasks, N images, K points, each (x, y); a point without a label is NaN.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from mtl_runner.metrics.base import Metric, in_order, usable

KEYPOINTS = (Metric("pck", True, "values"), Metric("nme", False, "values"))


def keypoints_summary(points: Tensor, targets: Tensor, normaliser: Tensor, threshold: float) -> dict[str, Tensor]:
    """Sums over the images, each [T]; all arguments in the same unit.

    Args:
        points: predicted, [T, N, K, 2].
        targets: the same shape; NaN where there is no label.
        normaliser: the distance of each image that counts as 1, [T, N]; one that is not a number above 0 leaves its image out.
        threshold: the share of it up to which a point is found.
    """
    points, targets, normaliser = usable(points).double(), usable(targets).double(), usable(normaliser).double()
    there = ~targets.isnan().any(-1) & (normaliser > 0).unsqueeze(-1)
    distances = (points - targets).square().sum(-1).sqrt() / normaliser.unsqueeze(-1)
    errors = torch.where(there, distances, 0)
    counts = there.sum(-1)
    return {
        "errors": (errors.sum(-1) / counts.clamp(min=1)).sum(-1),
        "images": (counts > 0).sum(-1),
        "found": (there & (distances <= threshold)).flatten(1).sum(-1),
        "points": counts.sum(-1),
        "diverged": (there & ~points.isfinite().all(-1)).flatten(1).sum(-1),
    }


def keypoints(summary: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Percentage of correct keypoints (as a share, 0 … 1) and normalised mean error, each [T].

    PCK: share of the labelled points that lie within ``threshold`` normalisers of the truth (Yang and Ramanan, "Articulated
    human detection with flexible mixtures of parts", TPAMI 2013). NME: mean over the images of the mean distance of an image's
    points, in normalisers. NaN: no labelled point.
    """
    points = summary["points"].double()
    values = {"pck": summary["found"] / points, "nme": summary["errors"] / summary["images"]}
    return in_order(KEYPOINTS, values, (summary["diverged"] > 0) | (points == 0))


def interpoint(targets: Tensor, first: int, second: int) -> Tensor:
    """Distance between two points of each image, [T, N]; NaN where one has no label (inter-ocular distance, for example)."""
    return (targets[..., first, :] - targets[..., second, :]).square().sum(-1).sqrt()


def extent(targets: Tensor) -> Tensor:
    """√(width · height) of the box around an image's labelled points, [T, N]; NaN where there are none, 0 of a single one."""
    there = ~targets.isnan()
    low = torch.where(there, targets, math.inf).amin(-2)
    high = torch.where(there, targets, -math.inf).amax(-2)
    area = (high - low).clamp(min=0).prod(-1)
    return torch.where(there.flatten(-2).any(-1), area.sqrt(), math.nan)
