"""Overlap, suppression and average precision against the definitions, written out box by box."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from mtl_runner.metrics.detection import detection, detection_summary, overlap, suppressed, together

Box = Sequence[float]


def iou(one: Box, other: Box) -> float:
    width = max(min(one[2], other[2]) - max(one[0], other[0]), 0)
    height = max(min(one[3], other[3]) - max(one[1], other[1]), 0)
    union = (one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1]) - width * height
    return width * height / union if union else 0.0


def quadratic(boxes: Sequence[Box], classes: Sequence[int], most: float) -> list[bool]:
    """Each box in turn, against all that were kept before."""
    kept: list[int] = []
    for i in range(len(boxes)):
        if all(classes[i] != classes[j] or iou(boxes[i], boxes[j]) <= most for j in kept):
            kept.append(i)
    return [i in kept for i in range(len(boxes))]


def brute(images: list[dict[str, list[list[float]]]], classes: int, threshold: float) -> float:
    """Average precision as it is defined, one class, image and detection after the other; -1 as class: padding."""
    values = []
    for label in range(classes):
        hits, total = [], 0
        for image in images:
            true = [box for box in image["true"] if box[4] == label]
            total += len(true)
            free = list(range(len(true)))
            for *box, score, _ in sorted((row for row in image["found"] if row[5] == label), key=lambda row: -row[4]):
                best = max(free, key=lambda k: iou(box, true[k]), default=None)
                hit = best is not None and iou(box, true[best]) >= threshold
                if hit:
                    free.remove(best)
                hits.append((score, hit))
        if not total:
            continue
        hits.sort(key=lambda pair: -pair[0])
        points = []
        for count in range(1, len(hits) + 1):
            right = sum(hit for _, hit in hits[:count])
            points.append((right / total, right / count))
        values.append(sum(max((p for r, p in points if r >= step / 100), default=0.0) for step in range(101)) / 101)
    return sum(values) / len(values) if values else math.nan


def boxes_of(generator: torch.Generator, *shape: int) -> Tensor:
    corner = torch.rand(*shape, 2, generator=generator, dtype=torch.float64) * 0.7
    return torch.cat([corner, corner + 0.1 + 0.2 * torch.rand(*shape, 2, generator=generator, dtype=torch.float64)], -1)


def near(true: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    boxes = true + noise * torch.randn(true.shape, generator=generator, dtype=true.dtype)
    return torch.cat([boxes[..., :2].minimum(boxes[..., 2:]), boxes[..., :2].maximum(boxes[..., 2:])], -1)


def test_overlap_of_boxes_worked_by_hand() -> None:
    one = torch.tensor([[0.0, 0, 2, 2], [0, 0, 0, 0]])
    other = torch.tensor([[1.0, 1, 3, 3], [0, 0, 2, 2], [5, 5, 6, 6], [0, 0, 0, 0]])
    torch.testing.assert_close(overlap(one, other), torch.tensor([[1 / 7, 1, 0, 0], [0, 0, 0, 0]]))


@pytest.mark.parametrize("most", [0.0, 0.3, 0.6, 1.0])
def test_suppression_is_the_quadratic_one(most: float) -> None:
    generator = torch.Generator().manual_seed(1)
    boxes = boxes_of(generator, 20, 15)
    classes = torch.randint(2, (20, 15), generator=generator)
    there = torch.arange(15).expand(20, 15) < torch.randint(16, (20, 1), generator=generator)
    stays = suppressed(boxes, classes, there, most)
    for image in range(20):
        count = int(there[image].sum())
        expected = quadratic(boxes[image, :count].tolist(), classes[image, :count].tolist(), most)
        assert stays[image].tolist() == expected + [False] * (15 - count)


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_that_of_the_definition_however_the_images_come(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tasks, images, true_count, count, classes = 2, 9, 4, 7, 3
    true = boxes_of(generator, tasks, images, true_count)
    true_classes = torch.randint(-1, classes - (seed == 3), (tasks, images, true_count), generator=generator)
    found = torch.cat([near(true, 0.03, generator), boxes_of(generator, tasks, images, count - true_count)], 2)
    found_classes = torch.cat([true_classes, torch.randint(-1, classes, (tasks, images, 3), generator=generator)], 2)
    scores = torch.rand(tasks, images, count, generator=generator, dtype=torch.float64).sort(-1, descending=True).values
    shuffled = torch.rand(scores.shape, generator=generator).argsort(-1)
    found = found.gather(2, shuffled.unsqueeze(-1).expand(-1, -1, -1, 4))
    found_classes = found_classes.gather(2, shuffled)
    case = (found, scores, found_classes, true, true_classes)
    pieces = [detection_summary(*(part[:, rows] for part in case), classes) for rows in (slice(0, 4), slice(4, 5), slice(5, 9))]
    values = detection(together(together(pieces[0], pieces[1]), pieces[2]))
    for task in range(tasks):
        listed = [
            {
                "true": torch.cat([true[task, i], true_classes[task, i, :, None]], -1).tolist(),
                "found": torch.cat([found[task, i], scores[task, i, :, None], found_classes[task, i, :, None]], -1).tolist(),
            }
            for i in range(images)
        ]
        expected = [brute(listed, classes, 0.5 + 0.05 * step) for step in range(10)]
        assert float(values["ap50"][task]) == pytest.approx(expected[0], abs=1e-12)
        assert float(values["ap"][task]) == pytest.approx(sum(expected) / 10, abs=1e-12)


def test_average_precision_without_true_boxes_is_undefined_and_without_detections_zero() -> None:
    nothing = torch.zeros(1, 2, 0, 4), torch.zeros(1, 2, 0), torch.zeros(1, 2, 0, dtype=torch.long)
    true = torch.tensor([[[[0.0, 0, 1, 1]], [[0, 0, 0, 0]]]])
    assert detection(detection_summary(*nothing, true, torch.tensor([[[0], [-1]]]), 2))["ap"].tolist() == [0.0]
    assert detection(detection_summary(*nothing, true, torch.full((1, 2, 1), -1), 2))["ap50"].isnan().all()


def test_an_overlap_as_large_as_the_threshold_is_a_hit() -> None:
    """As in COCO; here 1/2, where the box found is the upper half of the true one."""
    found, true = torch.tensor([[[[0.0, 0.0, 1.0, 0.5]]]]), torch.tensor([[[[0.0, 0.0, 1.0, 1.0]]]])
    label = torch.zeros(1, 1, 1, dtype=torch.long)
    values = detection(detection_summary(found, torch.ones(1, 1, 1), label, true, label, 1))
    assert values["ap50"].item() == 1 and values["ap"].item() == pytest.approx(0.1)
