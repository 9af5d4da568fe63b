"""The loss and the boxes of detection, written out image by image and cell by cell."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mtl_runner.batch import TargetSpec
from mtl_runner.encoders.base import FeatureSpec
from mtl_runner.heads import LinearHeads
from mtl_runner.tasks.detection import Detection, GridHeads, assigned

BOXES = TargetSpec("detection", columns=("face", "ball", "dog"), shape=(5,))
PADDING = [0.0, 0.0, 0.0, 0.0, -1.0]


def box_of(cell: Tensor, i: int, j: int, height: int, breadth: int) -> Tensor:
    """(x1, y1, x2, y2) of cell (i, j), by the formula of the docstring."""
    x, y = (j + 0.5 + cell[0]) / breadth, (i + 0.5 + cell[1]) / height
    w, h = cell[2].exp() / breadth, cell[3].exp() / height
    return torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2])


def overlaps_of(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU of two boxes."""
    area = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    width, height = ((torch.minimum(one[k + 2], other[k + 2]) - torch.maximum(one[k], other[k])).clamp(min=0) for k in (0, 1))
    across, down = (torch.maximum(one[k + 2], other[k + 2]) - torch.minimum(one[k], other[k]) for k in (0, 1))
    union, hull = area[0] + area[1] - width * height, across * down
    iou = width * height / union if union else union  # two boxes without area do not overlap
    return iou, iou - (hull - union) / hull


def loss_of(outputs: Tensor, targets: Tensor, weights: list[float], radius: float) -> Tensor:
    """Of one task: outputs [N, G, G', 5 + C], targets [N, M, 5]."""
    height, breadth = outputs.shape[1:3]
    total, count = outputs.new_zeros(()), 0.0
    for image, boxes, weight in zip(outputs, targets, weights, strict=True):
        for i in range(height):
            for j in range(breadth):
                fitting = []
                for *corners, label in boxes.tolist():
                    x, y = (corners[0] + corners[2]) / 2 * breadth, (corners[1] + corners[3]) / 2 * height
                    within = corners[0] * breadth < j + 0.5 < corners[2] * breadth
                    within = within and corners[1] * height < i + 0.5 < corners[3] * height
                    near = abs(j + 0.5 - x) < radius and abs(i + 0.5 - y) < radius
                    if label >= 0 and ((within and near) or (int(x), int(y)) == (j, i)):
                        fitting.append(((corners[2] - corners[0]) * (corners[3] - corners[1]), corners, int(label)))
                cell, label = image[i, j], -1
                if fitting and weight:
                    _, corners, label = min(fitting)
                    iou, generalised = overlaps_of(box_of(cell, i, j, height, breadth), torch.tensor(corners).to(cell))
                    quality = functional.binary_cross_entropy_with_logits(cell[4], iou.detach())
                    total, count = total + weight * (1 - generalised + quality), count + weight
                for place, logit in enumerate(cell[5:]):
                    share, alpha = (logit.sigmoid(), 0.25) if place == label else ((-logit).sigmoid(), 0.75)
                    total = total - weight * alpha * (1 - share) ** 2 * share.log()
    return total / max(count, 1)


def some(images: int = 3) -> tuple[Tensor, Tensor]:
    """Outputs [N, 3, 4, 8] and up to three boxes an image."""
    draws = torch.Generator().manual_seed(3)
    corner = torch.rand(images, 3, 2, generator=draws, dtype=torch.float64) * 0.6
    size = 0.05 + 0.35 * torch.rand(images, 3, 2, generator=draws, dtype=torch.float64)
    labels = torch.tensor([0, 2, 1]).expand(images, 3)[..., None].double()
    targets = torch.cat([corner, corner + size, labels], -1)
    targets[1, 2] = torch.tensor(PADDING)
    return torch.randn(images, 3, 4, 8, generator=draws, dtype=torch.float64), targets


@pytest.mark.parametrize("weights", [None, [1.0, 0.0, 2.0]])
@pytest.mark.parametrize("radius", [0.8, 1.5])
def test_the_loss_is_its_formula_and_so_is_its_gradient(radius: float, weights: list[float] | None) -> None:
    outputs, targets = some()
    outputs.requires_grad_()
    task = Detection("things", BOXES, radius=radius)
    given = None if weights is None else torch.tensor(weights).double()[None, :, None, None].expand(1, *targets.shape)
    loss, counted = task.loss(outputs[None], targets[None], given)
    expected = loss_of(outputs, targets, weights or [1.0] * 3, radius)
    torch.testing.assert_close(loss[0], expected)
    assert counted.all()
    (found,), (wanted,) = (torch.autograd.grad(value, outputs) for value in (loss.sum(), expected))
    torch.testing.assert_close(found, wanted)


def test_one_taught_cell_counts_once_and_an_image_without_boxes_as_one() -> None:
    outputs, targets = some()
    task = Detection("things", BOXES, radius=0.1)
    for boxes in ([[0.3, 0.4, 0.35, 0.45, 1.0], PADDING], [PADDING, PADDING]):
        targets = torch.tensor([boxes], dtype=torch.float64)
        torch.testing.assert_close(
            task.loss(outputs[None, :1], targets[None], None)[0][0], loss_of(outputs[:1], targets, [1.0], 0.1)
        )


def test_a_box_at_the_very_edge_is_taught_to_the_last_cell() -> None:
    flat = [1.0, 0.2, 1.0, 0.4, 0.0]  # what clipping leaves of a box that ends outside
    assert assigned(torch.tensor([[flat, PADDING]]), 4, 4, 1.5).view(4, 4).nonzero().tolist() == [
        [i, j] for i in range(4) for j in range(4) if (i, j) != (1, 3)
    ]


def test_loss_and_gradient_are_finite_whatever_the_outputs() -> None:
    _, targets = some()
    for size in (30.0, 300.0):
        outputs = torch.full((1, 3, 3, 4, 8), size).requires_grad_()
        loss = Detection("things", BOXES).loss(outputs, targets[None].float(), None)[0].sum()
        (gradient,) = torch.autograd.grad(loss, outputs)
        assert loss.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize(("most", "threshold", "overlap"), [(3, 0.5, 0.3), (2, 0.0, 0.0), (1, 0.3, 1.0), (50, 0.45, 0.6)])
def test_boxes_are_the_best_scores_that_no_better_one_of_their_class_covers(most: int, threshold: float, overlap: float) -> None:
    outputs = some()[0]
    outputs[0, 0, 0, 4:] = torch.tensor([0.0, 0.0, -9.0, -9.0])  # a score of 0.5
    task = Detection("things", BOXES, most=most, threshold=threshold, overlap=overlap)
    boxes, scores, classes = task.detections(outputs)
    for image in range(len(outputs)):
        found = []
        for i in range(3):
            for j in range(4):
                cell = outputs[image, i, j]
                for label, logit in enumerate(cell[5:]):
                    score = math.sqrt(logit.sigmoid() * cell[4].sigmoid())
                    found.append((score, label, box_of(cell, i, j, 3, 4).clamp(0, 1)))
        found = [each for each in sorted(found, key=lambda each: -each[0]) if each[0] >= threshold][: 2 * most]
        kept: list[tuple[float, int, Tensor]] = []
        for each in found:
            if all(each[1] != other[1] or overlaps_of(each[2], other[2])[0] <= overlap for other in kept):
                kept.append(each)
        kept = kept[:most]
        assert classes[image].tolist() == [each[1] for each in kept] + [-1] * (classes.shape[1] - len(kept))
        for place, (score, _, box) in enumerate(kept):
            assert scores[image, place].item() == pytest.approx(score)
            torch.testing.assert_close(boxes[image, place], box)


def test_a_score_at_the_threshold_stays_and_the_best_box_is_followed_by_one_that_it_does_not_cover() -> None:
    outputs = torch.full((1, 1, 3, 6), -9.0)
    outputs[..., :4] = 0
    outputs[0, 0, :, 4:] = torch.tensor([[2.0, 2.0], [1.0, 1.0], [0.0, 0.0]])  # the last with a score of 1/2
    one = TargetSpec("detection", columns=("face",), shape=(5,))
    assert Detection("a", one, threshold=0.5).detections(outputs)[1].tolist() == [pytest.approx([0.8808, 0.7311, 0.5], abs=1e-4)]
    outputs[0, 0, 1, :2] = torch.tensor([-1.0, 0.0])  # the second is where the first is
    assert Detection("a", one, most=2).detections(outputs)[1].tolist() == [pytest.approx([0.8808, 0.5], abs=1e-4)]


def test_what_is_found_in_an_image_without_annotation_is_no_mistake() -> None:
    targets = torch.tensor([[[0.1, 0.1, 0.4, 0.5, 0.0]], [[math.nan] * 5]])
    outputs = torch.full((1, 2, 4, 4, 8), -9.0)
    outputs[..., :4] = 0
    outputs[0, 0, 1, 1, :6] = torch.tensor([-0.5, -0.3, math.log(1.2), math.log(1.6), 2.0, 2.0])
    outputs[0, 1, 2, 2, 4:6] = 9.0  # surer than the box that is there
    task = Detection("things", BOXES)
    assert task.evaluated(task.summarise(outputs, targets[None], [BOXES]), [BOXES])["ap"].tolist() == [1.0]


@pytest.mark.parametrize("shape", [(6,), (2, 5, 3)])
def test_classes_start_rare_and_all_else_as_in_other_heads(shape: tuple[int, ...]) -> None:
    head = GridHeads(FeatureSpec(shape), 8, 4, ["a", "b"], 0)
    cells = head(torch.zeros(1, *shape))
    torch.testing.assert_close(cells[..., 5:].sigmoid(), torch.full_like(cells[..., 5:], 0.01))
    if len(shape) == 1:
        plain = LinearHeads(6, 8 * 16, ["a", "b"], 0)(torch.zeros(1, 6))
        torch.testing.assert_close(cells[..., :5], plain.unflatten(-1, (8, 4, 4)).movedim(2, -1)[..., :5])


def test_tasks_of_other_classes_do_not_run_as_one_and_shares_may_be_0_and_1() -> None:
    two = TargetSpec("detection", columns=("face", "ball"), shape=(5,))
    assert Detection("a", BOXES).signature != Detection("a", two).signature
    assert Detection("a", BOXES).signature == Detection("b", BOXES).signature
    for share in (0, 1):
        assert Detection("a", BOXES, threshold=share, overlap=share).threshold == share
