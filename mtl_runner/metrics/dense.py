"""Metrics of outputs at each pixel, from statistics that are added over batches: no more than one batch is in memory.

As LibMTL (Lin and Zhang, JMLR 2023) computes them for NYUv2 and Cityscapes, over all labelled pixels of all images together.

Shape legend: T tasks, N images of H × W pixels, C classes.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from mtl_runner.batch import labelled
from mtl_runner.metrics.base import Metric, in_order, usable
from mtl_runner.metrics.classes_and_numbers import confusion

SEGMENTATION = tuple(Metric(name, True, "classes") for name in ("miou", "pixel_accuracy", "mean_accuracy"))
DEPTH = (
    *(Metric(f"delta_{power}", True, "values") for power in (1, 2, 3)),
    *(Metric(name, False, "values", name != "rel_err") for name in ("abs_err", "rel_err", "rmse")),
)
NORMALS = (
    *(Metric(f"within_{limit}", True, "values") for limit in ("11_25", "22_5", "30")),
    *(Metric(name, False, "values") for name in ("mean_angle", "median_angle")),
)

Summary = Mapping[str, Tensor]
RATIO = 1.25
LIMITS = (11.25, 22.5, 30.0)
ANGLES = 18_000
"""Bins of the histogram of angles from 0 to 180 degrees, from which the median is read: 0.01 degrees each."""


def segmentation_summary(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Counts of pixels by true and predicted class, ``confusion`` [T, C, C], the class with the largest logit predicted.

    Args:
        logits: [T, N, H, W, C].
        targets: [T, N, H, W], 0 … C - 1, -100 where there is no label.
    """
    logits, targets = usable(logits), usable(targets)
    counts = confusion(logits.argmax(-1).flatten(1), targets.flatten(1), logits.shape[-1])
    return {"confusion": counts, "diverged": _diverged(logits.isfinite().all(-1), labelled(targets))}


def segmentation(summary: Summary) -> dict[str, Tensor]:
    """Mean intersection over union, pixel accuracy and mean class accuracy, each [T], in 0 … 1.

    With n_ij pixels of class i predicted as j: mIoU = mean over i of n_ii / (Σ_j n_ij + Σ_j n_ji - n_ii); pixel accuracy =
    Σ_i n_ii / Σ_ij n_ij; mean accuracy = mean over i of n_ii / Σ_j n_ij (Long, Shelhamer and Darrell, CVPR 2015). A class
    that is neither there nor predicted is left out of the first mean (LibMTL's is NaN then), one that is not there out of
    the last. NaN: no labelled pixel.
    """
    matrix = summary["confusion"].double()
    hits, true, predicted = matrix.diagonal(dim1=-2, dim2=-1), matrix.sum(-1), matrix.sum(-2)
    values = {
        "miou": (hits / (true + predicted - hits)).nanmean(-1),
        "pixel_accuracy": hits.sum(-1) / true.sum(-1),
        "mean_accuracy": (hits / true).nanmean(-1),
    }
    return in_order(SEGMENTATION, values, (summary["diverged"] > 0) | (true.sum(-1) == 0))


def depth_summary(values: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Sums over the labelled pixels, each [T].

    Args:
        values: predicted depths [T, N, H, W], in the user's unit.
        targets: the same shape and unit, above 0; NaN where there is no label.
    """
    values, targets = usable(values).flatten(1), usable(targets).flatten(1)
    mask = labelled(targets)
    truth = torch.where(mask, targets, 1)
    error = torch.where(mask, values - truth, 0).double()
    sums = {"abs": error.abs(), "rel": error.abs() / truth, "square": error.square()}
    near = {f"delta_{power}": mask & (values < truth * RATIO**power) & (values * RATIO**power > truth) for power in (1, 2, 3)}
    return {name: each.sum(-1) for name, each in (sums | near).items()} | {
        "pixels": mask.sum(-1),
        "diverged": _diverged(values.isfinite(), mask),
    }


def depth(summary: Summary) -> dict[str, Tensor]:
    """Share of pixels with max(d̂ / d, d / d̂) < 1.25^k, k = 1, 2, 3; mean |d̂ - d|, mean |d̂ - d| / d, root mean square; each [T].

    Eigen, Puhrsch and Fergus, Depth map prediction from a single image using a multi-scale deep network, NIPS 2014. A
    prediction of 0 or less is outside of every ratio. Errors are in the user's unit. NaN: no labelled pixel.
    """
    pixels = summary["pixels"].double()
    values = {f"delta_{power}": summary[f"delta_{power}"] / pixels for power in (1, 2, 3)} | {
        "abs_err": summary["abs"] / pixels,
        "rel_err": summary["rel"] / pixels,
        "rmse": (summary["square"] / pixels).sqrt(),
    }
    return in_order(DEPTH, values, (summary["diverged"] > 0) | (pixels == 0))


def normals_summary(values: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Sums, counts and the histogram [T, 18000] of the angles between predicted and true normals at the labelled pixels.

    Args:
        values: vectors [T, N, H, W, 3] of any length; the angle of a vector of length 0 is 90 degrees.
        targets: the same shape; NaN where there is no label.
    """
    values, targets = usable(values), usable(targets)
    mask = labelled(targets).all(-1).flatten(1)
    angles = angle(values, targets.nan_to_num()).flatten(1)
    bins = (angles * (ANGLES / 180)).long().clamp_(0, ANGLES - 1)
    cells = bins + torch.arange(len(bins), device=bins.device)[:, None] * ANGLES
    return {
        "sum": torch.where(mask, angles, 0).sum(-1, dtype=torch.float64),
        "within": torch.stack([(mask & (angles < limit)).sum(-1) for limit in LIMITS], -1),
        "histogram": torch.bincount(cells[mask], minlength=len(bins) * ANGLES).view(-1, ANGLES),
        "pixels": mask.sum(-1),
        "diverged": _diverged(values.isfinite().all(-1).flatten(1), mask),
    }


def normals(summary: Summary) -> dict[str, Tensor]:
    """Shares of pixels whose angle is below 11.25, 22.5 and 30 degrees, mean and median angle in degrees; each [T].

    The median is that of a histogram, linear within its bins of 0.01 degrees, by which it is wrong at most wherever
    labelled angles surround it. NaN: no labelled pixel.
    """
    pixels, counts = summary["pixels"].double(), summary["histogram"].double()
    below = counts.cumsum(-1)
    half = pixels[:, None] / 2
    place = (below < half).sum(-1, keepdim=True).clamp(max=ANGLES - 1)
    inside, upto = counts.gather(-1, place), below.gather(-1, place)
    median = (place + 1 - (upto - half) / inside)[:, 0] * (180 / ANGLES)
    shares = dict(zip((metric.name for metric in NORMALS), (summary["within"] / pixels[:, None]).unbind(-1), strict=False))
    values = shares | {"mean_angle": summary["sum"] / pixels, "median_angle": median}
    return in_order(NORMALS, values, (summary["diverged"] > 0) | (pixels == 0))


def angle(first: Tensor, second: Tensor) -> Tensor:
    """Degrees between vectors [..., 3], 0 … 180: atan2(|a × b|, a · b), which is exact for small angles too; acos is not."""
    cross = torch.linalg.cross(first, second).norm(dim=-1)
    dot = (first * second).sum(-1)
    return torch.where((cross == 0) & (dot == 0), 90.0, torch.atan2(cross, dot).rad2deg())


def _diverged(finite: Tensor, mask: Tensor) -> Tensor:
    """[T]: the number of labelled pixels whose output is not finite."""
    return (mask & ~finite).flatten(1).sum(-1)
