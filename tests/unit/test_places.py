"""Tasks whose outputs are places in an image: keypoints and detection."""

import math
from typing import get_args

import pytest
import torch

from mtl_runner.batch import TargetSpec
from mtl_runner.datasets.pictures.image_files import Fit, Look
from mtl_runner.encoders.base import FeatureSpec
from mtl_runner.errors import NotApplicable, UserError
from mtl_runner.geometry import swapped
from mtl_runner.metrics.keypoints import keypoints, keypoints_summary
from mtl_runner.tasks.detection import Detection, assigned, focal, overlaps
from mtl_runner.tasks.keypoints import HeatMaps, Keypoints

POINTS = TargetSpec("keypoints", columns=("left_x", "left_y", "right_x", "right_y"), shape=(2, 2))
BOXES = TargetSpec("detection", columns=("face", "ball"), shape=(5,))
NAN = float("nan")


def test_errors_of_points_worked_by_hand() -> None:
    targets = torch.tensor([[[0.0, 0.0], [3.0, 4.0]], [[0.0, 0.0], [NAN, NAN]], [[NAN, NAN], [NAN, NAN]]])[None]
    points = torch.tensor([[[0.0, 1.0], [3.0, 4.0]], [[3.0, 4.0], [9.0, 9.0]], [[0.0, 0.0], [0.0, 0.0]]])[None]
    values = keypoints(keypoints_summary(points, targets, torch.tensor([[2.0, 10.0, 1.0]]), 0.25))
    # normalised distances 0.5 and 0 in the first image, 0.5 in the second
    assert values["nme"].tolist() == [pytest.approx((0.25 + 0.5) / 2)]
    assert values["pck"].tolist() == [pytest.approx(1 / 3)]
    assert keypoints(keypoints_summary(points[:, 2:], targets[:, 2:], torch.ones(1, 1), 0.25))["nme"].isnan().all()


def test_a_point_as_far_away_as_the_threshold_is_found() -> None:
    points = torch.tensor([[[[0.0, 0.5], [0.0, 0.75]]]])
    assert keypoints(keypoints_summary(points, torch.zeros(1, 1, 2, 2), torch.ones(1, 1), 0.5))["pck"].item() == 0.5


def test_left_and_right_change_places_in_the_mirror_and_a_point_without_its_like_stays() -> None:
    points = ["left_eye", "nose", "right_eye", "left_ear"]
    assert swapped("face", points, None) == [2, 1, 0, 3]
    assert swapped("face", points, [["nose", "left_ear"]]) == [0, 3, 2, 1]


def test_the_normaliser_is_in_pixels_of_the_image_that_was_read() -> None:
    window = {"window": torch.tensor([[10.0, 20.0, 300.0, 400.0]])}  # the middle of an image of 320 × 440 pixels
    targets = torch.tensor([[[[0.2, 0.5], [0.6, 0.5]]]])
    outputs = targets + torch.tensor([0.1, 0.0])  # 30 pixels to the right
    expected = {"image": 30 / (320**2 + 440**2) ** 0.5, "points": 30 / 120, "box": NAN}
    for normaliser, value in expected.items():
        between = ["left", "right"] if normaliser == "points" else None
        task = Keypoints("face", POINTS, normaliser=normaliser, between=between)
        found = task.evaluated(task.summarise(outputs, targets, [POINTS], window), [POINTS])["nme"]
        assert found.tolist() == [pytest.approx(value, nan_ok=True)], normaliser
    columns = task.predictions(outputs[0], window)
    assert columns["face_left_x"].to_pylist() == [pytest.approx(10 + 0.3 * 300)]
    assert columns["face_left_y"].to_pylist() == [pytest.approx(20 + 0.5 * 400)]


@pytest.mark.parametrize("fit", get_args(Fit))
def test_errors_are_shares_of_the_diagonal_of_the_file_whatever_is_seen_of_it(fit: Fit) -> None:
    sizes = [(37, 53), (64, 31), (1001, 7)]
    windows = torch.tensor([Look(3, 32, 24, fit).window(*size) for size in sizes])
    targets = torch.full((1, 3, 2, 2), 0.5)
    outputs = targets + (5 / windows[:, 2:])[:, None]  # 5 pixels of the file to the right, and 5 down
    task = Keypoints("face", POINTS)
    for each, size in enumerate(sizes):
        context = {"window": windows[each : each + 1]}
        found = task.evaluated(task.summarise(outputs[:, [each]], targets[:, [each]], [POINTS], context), [POINTS])
        assert found["nme"].item() == pytest.approx(math.hypot(5, 5) / math.hypot(*size), rel=1e-4)
    shares = task.evaluated(task.summarise(targets + 0.1, targets, [POINTS]), [POINTS])
    assert shares["nme"].item() == pytest.approx(0.1)


def test_the_wing_loss_is_continuous_and_linear_far_away() -> None:
    task = Keypoints("face", POINTS, loss="wing")
    error = torch.tensor([0.1 - 1e-6, 0.1 + 1e-6, 0.5, 0.6])
    loss = task.criterion(error, torch.zeros(4))
    torch.testing.assert_close(loss[0], loss[1], rtol=0, atol=1e-5)
    torch.testing.assert_close(loss[3] - loss[2], torch.tensor(0.1))


def test_heat_maps_point_to_the_middle_of_their_brightest_cell() -> None:
    head = HeatMaps(FeatureSpec((2, 4, 5)), 2, ["a", "b"], 0)
    with torch.no_grad():
        head.maps.weight.copy_(200 * torch.eye(2).expand(2, 2, 2))
    features = torch.zeros(3, 2, 4, 5)
    features[:, 0, 1, 3] = features[:, 1, 3, 0] = 1
    points = Keypoints("a", POINTS).outputs(head(features))
    assert points.shape == (2, 3, 2, 2)
    torch.testing.assert_close(points[1, 2], torch.tensor([[3.5 / 5, 1.5 / 4], [0.5 / 5, 3.5 / 4]]))
    torch.testing.assert_close(head(features.expand(2, 3, 2, 4, 5), True), head(features))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normaliser": "points"}, "goes with between"),
        ({"between": ["left", "right"]}, "goes with between"),
        ({"normaliser": "points", "between": ["left", "rigth"]}, r"no point 'rigth' \(did you mean 'right'"),
        ({"normaliser": "points", "between": ["left", "left"]}, "does not name two points"),
        ({"normaliser": "points", "between": 5}, "between=5 does not name two points"),
        ({"pairs": [["left"]]}, "not a pair"),
        ({"pairs": 3}, "3 is not a pair"),
        ({"pairs": [3]}, "3 is not a pair"),
        ({"normaliser": "eyes"}, "normaliser=eyes: allowed are image, box, points"),
        ({"form": "map"}, "form=map: allowed are auto, coordinates, heatmap"),
        ({"loss": "l1"}, "loss=l1: allowed are mae, mse, wing"),
        ({"threshold": 0}, "threshold=0: a number above 0"),
    ],
)
def test_options_of_points_that_do_not_fit(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Keypoints("face", POINTS, **options)  # type: ignore[arg-type]
    with pytest.raises(NotApplicable, match=r"encoder.features=map"):
        Keypoints("face", POINTS, form="heatmap").head(FeatureSpec((8,)), ["face"], 0)


@pytest.mark.parametrize(
    "options",
    [{"grid": 2.5}, {"grid": "8"}, {"most": 0}, {"radius": -1}, {"threshold": "low"}, {"threshold": 5}, {"overlap": None}],
)
def test_options_of_boxes_that_cannot_be(options: dict[str, object]) -> None:
    with pytest.raises(UserError, match=rf"dataset\.tasks\.thing\.{next(iter(options))}=.* is expected"):
        Detection("thing", BOXES, **options)  # type: ignore[arg-type]


def test_cells_learn_the_smallest_box_that_their_middle_is_in() -> None:
    large, small, tiny = [0.0, 0.0, 1.0, 1.0, 0], [0.0, 0.0, 0.5, 0.5, 1], [0.76, 0.76, 0.77, 0.77, 1]
    targets = torch.tensor([[large, small, tiny, [0, 0, 0, 0, -1]]])
    found = assigned(targets, 4, 4, 9.0).view(4, 4).tolist()
    assert found == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 2]]
    near = assigned(targets[:, :1], 4, 4, 1.0).view(4, 4).tolist()
    assert near == [[-1, -1, -1, -1], [-1, 0, 0, -1], [-1, 0, 0, -1], [-1, -1, -1, -1]]


def test_generalised_overlap_and_focal_loss_worked_by_hand() -> None:
    shared, generalised = overlaps(torch.tensor([[0.0, 0, 2, 2], [0, 0, 1, 1]]), torch.tensor([[1.0, 1, 3, 3], [2, 0, 3, 1]]))
    torch.testing.assert_close(shared, torch.tensor([1 / 7, 0.0]))
    torch.testing.assert_close(generalised, torch.tensor([1 / 7 - 2 / 9, -1 / 3]))
    loss = focal(torch.zeros(2), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(loss, torch.tensor([0.25, 0.75]) * 0.25 * torch.log(torch.tensor(2.0)))


def outputs_for(targets: torch.Tensor, grid: int, classes: int) -> torch.Tensor:
    """What a perfect network would give: sure of the boxes in the cells of their middles, and of nothing elsewhere."""
    outputs = torch.full((len(targets), grid, grid, 5 + classes), -9.0)
    outputs[..., :4] = 0
    for image, boxes in enumerate(targets):
        for x1, y1, x2, y2, label in boxes.tolist():
            if label >= 0:
                x, y = (x1 + x2) / 2 * grid, (y1 + y2) / 2 * grid
                cell = outputs[image, int(y), int(x)]
                size = torch.tensor([x2 - x1, y2 - y1]) * grid
                cell[:4] = torch.cat([torch.tensor([x - int(x) - 0.5, y - int(y) - 0.5]), size.log()])
                cell[4] = cell[5 + int(label)] = 9.0
    return outputs


def test_a_perfect_network_has_no_error_and_the_others_one_that_falls() -> None:
    task = Detection("objects", BOXES)
    targets = torch.tensor([[[0.1, 0.1, 0.4, 0.5, 0], [0.6, 0.5, 0.9, 0.8, 1]], [[0.3, 0.2, 0.8, 0.9, 1], [0, 0, 0, 0, -1]]])
    unknown = torch.full((1, 2, 5), NAN)
    both = torch.cat([targets, unknown])
    outputs = outputs_for(both, 8, 2)
    outputs[2] = torch.randn(8, 8, 7)
    values = task.evaluated(task.summarise(outputs[None], both[None], [BOXES]), [BOXES])
    assert values["ap"].tolist() == [1.0] and values["ap50"].tolist() == [1.0]
    boxes, scores, classes = task.detections(outputs[:2])
    torch.testing.assert_close(boxes[0][classes[0].argsort()], targets[0, :, :4])
    assert classes.tolist()[1] == [1, -1] and (scores[:, 0] > 0.9).all()
    columns = task.predictions(outputs[:2], {"window": torch.tensor([[0.0, 0, 100, 200]] * 2)})
    assert columns["objects"].to_pylist()[1] == ["ball"]
    assert columns["objects_box"].to_pylist()[1] == [pytest.approx([30, 40, 80, 180])]
    weights = torch.ones(1, 3, 2, 5)
    weights[:, 2] = 0
    clean = torch.where(both.isnan(), 0, both)[None]
    loss, active = task.loss(outputs[None], clean, weights)
    changed = outputs.clone()
    changed[2] += 3
    assert torch.equal(loss, task.loss(changed[None], clean, weights)[0]) and active.all()
    assert not task.loss(outputs[None, 2:], clean[:, 2:], weights[:, 2:])[1].any()
    raw = torch.randn(1, 2, 8, 8, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
    seen = []
    for step in range(80):
        loss = task.loss(raw, targets[None], None)[0].sum()
        (gradient,) = torch.autograd.grad(loss, raw)
        raw = (raw - 0.15 * 0.98**step * gradient.sign()).detach().requires_grad_()
        seen.append(loss.item())
    assert seen[-1] < 0.15 * seen[0]
    assert task.evaluated(task.summarise(raw.detach(), targets[None], [BOXES]), [BOXES])["ap50"].tolist() == [1.0]
