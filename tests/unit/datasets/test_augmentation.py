"""What is changed in an image is changed in its labels."""

import pytest
import torch
from torch import Tensor

from mtl_runner.batch import Batch, TargetSpec
from mtl_runner.datasets.pictures.augmentation import Augmentation, Changes
from mtl_runner.errors import UserError

N, H, W = 24, 16, 20
POINTS = ("left_eye", "right_eye", "nose")
SPECS = {
    "points": TargetSpec("keypoints", columns=tuple(f"{point}_{axis}" for point in POINTS for axis in "xy"), shape=(3, 2)),
    "boxes": TargetSpec("detection", columns=("a", "b")),
    "map": TargetSpec("segmentation", classes=("0", "1"), shape=(H, W)),
    "depth": TargetSpec("depth", shape=(H, W)),
    "normals": TargetSpec("normals", shape=(H, W, 3)),
    "copy": TargetSpec("reconstruction", shape=(3 * H * W,)),
    "label": TargetSpec("binary"),
}


def scene() -> Batch:
    """One bright pixel for each point, each in a channel of its own, and a box around each; maps that say where pixels were."""
    generator = torch.Generator().manual_seed(0)
    image = torch.zeros(N, 3, H, W)
    x, y = torch.randint(2, W - 2, (N, 3), generator=generator), torch.randint(2, H - 2, (N, 3), generator=generator)
    for channel in range(3):
        image[torch.arange(N), channel, y[:, channel], x[:, channel]] = 1
    points = torch.stack([(x + 0.5) / W, (y + 0.5) / H], -1)
    size = torch.tensor([1.5 / W, 1.5 / H])
    boxes = torch.cat([points - size, points + size, torch.zeros(N, 3, 1)], -1)
    boxes[:, 2] = torch.tensor([0.0, 0, 0, 0, -1])
    targets = {
        "points": points,
        "boxes": boxes,
        "map": (image.sum(1) > 0).to(torch.int16),
        "depth": torch.arange(H * W).view(1, H, W).repeat(N, 1, 1).float(),
        "normals": torch.tensor([0.6, 0.0, 0.8]).repeat(N, H, W, 1),
        "copy": image.flatten(1),
        "label": torch.ones(N),
    }
    return Batch({"input": {"image": image}}, targets, dict.fromkeys(targets, "input"))


def changed(seed: int = 1, **changes: object) -> tuple[Batch, Tensor]:
    batch = Augmentation(Changes.of(changes), SPECS)(scene(), torch.Generator().manual_seed(seed))
    return batch, batch.inputs["input"]["image"]


def brightest(image: Tensor) -> Tensor:
    """Of each channel [N, C, H, W] the middle of its brightest pixel, [N, C, 2]."""
    place = image.flatten(2).argmax(-1)
    return torch.stack([(place % W + 0.5) / W, (place // W + 0.5) / H], -1)


@pytest.mark.parametrize("changes", [{"flip": True}, {"shift": 0.2}, {"flip": True, "shift": 0.3}])
def test_points_boxes_and_maps_stay_on_what_they_mark(changes: dict[str, object]) -> None:
    before, (batch, image) = scene(), changed(**changes)
    points, boxes = batch.targets["points"], batch.targets["boxes"]
    seen = brightest(image)
    mirrored = batch.targets["normals"][..., 0].nan_to_num(0).flatten(1).sum(1) < 0
    assert bool(mirrored.any()) == bool(changes.get("flip")) and (~mirrored).any()
    marks = torch.where(mirrored[:, None, None], seen[:, [1, 0, 2]], seen)  # paired points have changed places
    there = ~points.isnan().any(-1)
    assert 0.3 < there.float().mean() <= 1
    torch.testing.assert_close(points[there], marks[there])
    kept = boxes[..., 4] == 0
    middle = (boxes[..., :2] + boxes[..., 2:4]) / 2
    inside = kept[:, :2] & ((boxes[:, :2, :4] > 0) & (boxes[:, :2, :4] < 1)).all(-1)
    torch.testing.assert_close(middle[:, :2][inside], seen[:, :2][inside])
    assert (boxes[..., 2] <= 1).all() and (boxes[..., 0] >= 0).all()
    known = batch.targets["map"] >= 0
    exact = image.sum(1).round().clamp(max=1).to(torch.int16)
    inner = known.clone()
    assert torch.equal(batch.targets["map"][inner], exact[inner])
    assert torch.equal(batch.targets["depth"].isnan(), ~known)
    torch.testing.assert_close(batch.targets["copy"].view(image.shape), image)
    assert torch.equal(batch.targets["label"], before.targets["label"])


def test_a_crop_moves_everything_alike() -> None:
    batch, image = changed(crop=0.5)
    points = batch.targets["points"]
    seen = brightest(image)
    clear = ~points.isnan().any(-1) & (image.flatten(2).amax(-1) > 0.3)
    assert clear.float().mean() > 0.2
    assert (points - seen)[clear].abs().max() < 1.01 / H
    area = (batch.targets["boxes"][..., 2:4] - batch.targets["boxes"][..., :2]).prod(-1)
    assert area.max() > 1.5 * (9 / (H * W))


def test_colours_change_the_image_alone_and_stay_in_range() -> None:
    batch, image = changed(brightness=0.3, contrast=0.5)
    assert not torch.equal(image, scene().inputs["input"]["image"]) and image.min() >= 0 and image.max() <= 1
    for name, target in scene().targets.items():
        assert torch.equal(batch.targets[name], target)


def test_the_same_draws_give_the_same_batch_and_others_another() -> None:
    options = {"flip": True, "shift": 0.2, "crop": 0.7, "brightness": 0.1}
    (_, one), (_, again), (_, other) = changed(3, **options), changed(3, **options), changed(4, **options)
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_missing_labels_stay_missing() -> None:
    batch = scene()
    targets = {**batch.targets, "points": torch.full((N, 3, 2), torch.nan), "boxes": torch.full((N, 3, 5), torch.nan)}
    changes = Changes(flip=True, shift=0.2)
    moved = Augmentation(changes, SPECS)(Batch(batch.inputs, targets, batch.streams), torch.Generator().manual_seed(0)).targets
    assert moved["points"].isnan().all() and moved["boxes"].isnan().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flips": True}, "did you mean 'flip'"),
        ({"flip": 0.5}, "allowed are true and false"),
        ({"shift": 2}, "not a number from 0 to 1"),
        ({"crop": 0}, "above 0"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Changes.of(options)


def test_pairs_of_points_are_checked() -> None:
    specs = {"points": TargetSpec("keypoints", columns=SPECS["points"].columns, options={"pairs": [["left_eye", "nos"]]})}
    with pytest.raises(UserError, match="no point 'nos' \\(did you mean 'nose'"):
        Augmentation(Changes(flip=True), specs)
