"""Boxes around objects, and their classes."""

from collections.abc import Hashable, Sequence
from math import prod
from typing import Annotated

import pyarrow as pa
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_runner.batch import Fields, TargetSpec
from mtl_runner.encoders.base import FeatureSpec
from mtl_runner.geometry import boxes_to_source
from mtl_runner.heads import LinearHeads, MapHeads
from mtl_runner.metrics.detection import area, detection, detection_summary, overlap, suppressed, together
from mtl_runner.tasks.base import Summary, Task, counted, positive_option, share_option, whole_option

CLASSES = slice(5, None)
PAIRS = 1 << 22
"""Of boxes that are compared at once."""
RARE = 0.01
"""Probability of an object in a cell before anything is learned."""


class Detection(Task):
    """Objects on a grid of G × G' cells, without anchors; per cell 5 + C numbers: dx, dy, log w, log h, quality, C classes.

    The box that cell (i, j) gives has its middle at ((j + 0.5 + dx) / G', (i + 0.5 + dy) / G) and the size
    (e^(log w) / G', e^(log h) / G), all in shares of the image. In the manner of FCOS (Tian et al., ICCV 2019), with one grid:
    a true box is taught to the cells whose middle is in it and less than ``radius`` cells from its own middle along both axes,
    and to the one that its middle is in; of several boxes a cell learns the smallest. Loss = (Σ focal loss of the classes of all
    cells (Lin et al., ICCV 2017; α 0.25, γ 2) + Σ over the taught cells of 1 - generalised IoU (Rezatofighi et al., CVPR 2019)
    + cross-entropy of the quality, which is the IoU that the cell's box has) / number of taught cells, at least 1.

    A cell's score for a class is √(probability · quality). Where scores of one class overlap, the largest stays (non-maximum
    suppression). What this leaves out: several grids for objects of different size, and several objects of a cell.

    Args:
        grid: cells along each side, where the features are no map, whose height and width it has otherwise.
        radius: in cells.
        threshold: the lowest score of a box in metrics and predictions.
        overlap: above which the lower of two boxes of one class goes.
        most: boxes of an image.
    """

    kind = "detection"
    streaming = True

    def __init__(
        self,
        name: str,
        spec: TargetSpec,
        *,
        grid: Annotated[int, Ge(1)] = 8,
        radius: Annotated[float, Gt(0)] = 1.5,
        threshold: Annotated[float, Ge(0), Le(1)] = 0.05,
        overlap: Annotated[float, Ge(0), Le(1)] = 0.6,
        most: Annotated[int, Ge(1)] = 100,
    ) -> None:
        super().__init__(name, spec)
        self.classes = spec.columns
        """Their names; ``spec.classes`` is for examples of which each has one."""
        self.grid, self.most = whole_option(name, "grid", grid), whole_option(name, "most", most)
        self.radius = positive_option(name, "radius", radius)
        self.threshold = share_option(name, "threshold", threshold)
        self.overlap = share_option(name, "overlap", overlap)

    @property
    def width(self) -> int:
        """Numbers per cell."""
        return 5 + len(self.classes)

    @property
    def signature(self) -> Hashable:
        return (super().signature, len(self.classes))

    def head(self, features: FeatureSpec, names: Sequence[str], seed: int) -> nn.Module:
        """A convolution 1 × 1 of a map, else a linear layer on all features."""
        return GridHeads(features, self.width, self.grid, names, seed)

    def no_outputs(self) -> Tensor:
        return torch.zeros(0, self.grid, self.grid, self.width)

    def loss(self, outputs: Tensor, targets: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        """Outputs [T, N, G, G', 5 + C], targets [T, N, M, 5]; the weight of an image is that of its first number."""
        tasks, images = outputs.shape[:2]
        weight = None if weights is None else weights.flatten(2)[..., 0].unsqueeze(-1)  # [T, N, 1]
        cells = outputs.flatten(2, 3)
        height, breadth = outputs.shape[2:4]
        taught = assigned(targets.flatten(0, 1), height, breadth, self.radius).unflatten(0, (tasks, images))  # [T, N, P]
        positive = (taught >= 0).to(cells.dtype) * (1 if weight is None else (weight > 0))
        picked = targets.gather(2, taught.clamp(min=0).unsqueeze(-1).expand(-1, -1, -1, 5))  # [T, N, P, 5]
        labels = torch.arange(cells.shape[-1] - 5, device=cells.device) == picked[..., 4:]
        classes = focal(cells[..., CLASSES], labels * positive.unsqueeze(-1)).sum(-1)
        boxes = self.boxes(outputs).flatten(2, 3)
        shared, generalised = overlaps(boxes, picked[..., :4])
        quality = F.binary_cross_entropy_with_logits(cells[..., 4], shared.detach(), reduction="none")
        loss = classes + positive * (1 - generalised + quality)
        total = (loss if weight is None else loss * weight).flatten(1).sum(1)
        count = positive if weight is None else positive * weight
        return total / count.flatten(1).sum(1).clamp(min=1), counted(targets, weights)

    def boxes(self, outputs: Tensor) -> Tensor:
        """(x1, y1, x2, y2) of every cell, [..., G, G', 4]."""
        height, breadth = outputs.shape[-3:-1]
        y = torch.arange(height, device=outputs.device).add(0.5)[:, None]
        x = torch.arange(breadth, device=outputs.device).add(0.5)
        middle = torch.stack([(outputs[..., 0] + x) / breadth, (outputs[..., 1] + y) / height], -1)
        half = outputs[..., 2:4].clamp(max=8).exp() / (2 * outputs.new_tensor([breadth, height]))
        return torch.cat([middle - half, middle + half], -1)

    def detections(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes [B, K, 4], scores [B, K] and classes [B, K] (-1: none) of outputs [B, G, G', 5 + C], by falling score."""
        scores = (outputs[..., CLASSES].sigmoid() * outputs[..., 4:5].sigmoid()).sqrt().flatten(1, 2)  # [B, P, C]
        count = scores.shape[-1]
        best, place = scores.flatten(1).nan_to_num(0).sort(dim=1, descending=True, stable=True)
        kept = min(2 * self.most, best.shape[1])
        kept = min(kept, int((best >= self.threshold).sum(1).max())) if len(best) else 0
        best, place = best[:, :kept], place[:, :kept]
        boxes = self.boxes(outputs).flatten(1, 2).clamp(0, 1).gather(1, (place // count).unsqueeze(-1).expand(-1, -1, 4))
        classes = place % count
        at_once = max(1, PAIRS // max(1, kept**2))
        stays = best >= self.threshold
        for rows in torch.arange(len(best), device=best.device).split(at_once):
            stays[rows] = suppressed(boxes[rows], classes[rows], stays[rows], self.overlap)
        stays &= stays.cumsum(1) <= self.most
        order = (~stays).long().argsort(dim=1, stable=True)[:, : int(stays.sum(1).max()) if len(stays) else 0]
        classes = torch.where(stays, classes, -1)
        return boxes.gather(1, order.unsqueeze(-1).expand(-1, -1, 4)), best.gather(1, order), classes.gather(1, order)

    def summarise(
        self, outputs: Tensor, targets: Tensor, specs: Sequence[TargetSpec], context: Fields | None = None
    ) -> dict[str, Tensor]:
        """Overlaps do not depend on the unit; an image without annotation (NaN) does not count."""
        tasks, count = len(outputs), len(self.classes)
        boxes, scores, classes = (part.unflatten(0, (tasks, -1)) for part in self.detections(outputs.flatten(0, 1)))
        known = ~targets.isnan().flatten(2).any(-1, keepdim=True)
        true = targets.nan_to_num(-1)
        labels = torch.where(known, true[..., 4].long(), -1)
        return detection_summary(boxes, scores, torch.where(known, classes, -1), true[..., :4], labels, count)

    def merged(self, one: Summary, other: Summary) -> dict[str, Tensor]:
        return together(one, other)

    def evaluated(self, summary: Summary, specs: Sequence[TargetSpec]) -> dict[str, Tensor]:
        return detection(summary)

    def predictions(self, outputs: Tensor, context: Fields | None = None) -> dict[str, pa.Array]:
        """Lists by image, of falling score: ``<task>`` the classes, ``<task>_score``, and ``<task>_box`` in pixels."""
        boxes, scores, classes = self.detections(outputs.cpu())
        boxes = boxes_to_source(boxes, context)
        found = [row >= 0 for row in classes]
        names = [[self.classes[label] for label in row[kept].tolist()] for row, kept in zip(classes, found, strict=True)]
        values = [row[kept].tolist() for row, kept in zip(scores, found, strict=True)]
        corners = [row[kept].tolist() for row, kept in zip(boxes, found, strict=True)]
        return {
            self.name: pa.array(names, pa.list_(pa.string())),
            f"{self.name}_score": pa.array(values, pa.list_(pa.float32())),
            f"{self.name}_box": pa.array(corners, pa.list_(pa.list_(pa.float32()))),
        }


class GridHeads(nn.Module):
    """[T, N, G, G', O] from a map [N, C, G, G'], or from other features for a grid of ``grid`` × ``grid`` cells.

    Scores begin at the probability ``RARE``, as the many empty cells would otherwise make the first steps (RetinaNet).
    """

    def __init__(self, features: FeatureSpec, outputs: int, grid: int, names: Sequence[str], seed: int) -> None:
        super().__init__()
        is_map = len(features.shape) == 3
        self.height, self.breadth = features.shape[1:] if is_map else (grid, grid)
        self.outputs = outputs
        cells = self.height * self.breadth
        self.heads = (
            MapHeads(features.shape[0], outputs, names, seed)
            if is_map
            else LinearHeads(prod(features.shape), outputs * cells, names, seed)
        )
        with torch.no_grad():
            bias = self.heads.bias.view(len(names), outputs, -1)
            bias[:, CLASSES] = torch.logit(torch.tensor(RARE))

    def forward(self, features: Tensor, apart: bool = False) -> Tensor:
        raw: Tensor = self.heads(features, apart).float()
        cells: Tensor = raw.unflatten(-1, (self.outputs, self.height, self.breadth))
        return cells.movedim(2, -1)


def assigned(targets: Tensor, height: int, breadth: int, radius: float) -> Tensor:
    """Which true box each cell learns, [B, P] with P = height · breadth; -1: none. Targets [B, M, 5]; class -1: padding."""
    size = targets.new_tensor([breadth, height])
    low, high, middle = targets[..., :2] * size, targets[..., 2:4] * size, (targets[..., :2] + targets[..., 2:4]) * size / 2
    y, x = torch.meshgrid(
        torch.arange(height, device=targets.device), torch.arange(breadth, device=targets.device), indexing="ij"
    )
    cells = torch.stack([x, y], -1).flatten(0, 1)[:, None] + 0.5  # [P, 1, 2]
    low, high, middle = low.unsqueeze(1), high.unsqueeze(1), middle.unsqueeze(1)  # [B, 1, M, 2]
    inside = ((cells > low) & (cells < high) & ((cells - middle).abs() < radius)).all(-1)
    home = (cells - 0.5 == middle.floor().minimum(size - 1)).all(-1)
    fits = (inside | home) & (targets[..., 4] >= 0).unsqueeze(1)  # [B, P, M]
    smallest, which = torch.where(fits, area(targets[..., :4]).unsqueeze(1), torch.inf).min(-1)
    return torch.where(smallest.isfinite(), which, -1)


def overlaps(boxes: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU = IoU - (hull - union) / hull of pairs of boxes [..., 4]."""
    shared = overlap(boxes.unsqueeze(-2), true.unsqueeze(-2))[..., 0, 0]
    hull = (torch.maximum(boxes[..., 2:], true[..., 2:]) - torch.minimum(boxes[..., :2], true[..., :2])).clamp(min=0).prod(-1)
    union = (area(boxes) + area(true)) / (1 + shared)  # |A| + |B| = union + intersection = union (1 + IoU)
    return shared, shared - (hull - union) / hull.clamp(min=1e-9)


def focal(logits: Tensor, labels: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """-α_t (1 - p_t)^γ log p_t, element by element, with p_t the probability of the label and α_t = α or 1 - α."""
    probabilities = logits.sigmoid()
    right = torch.where(labels > 0, probabilities, 1 - probabilities)
    share = torch.where(labels > 0, alpha, 1 - alpha)
    return share * (1 - right) ** gamma * F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
