"""Segmentation, depth and normals: losses and metrics by hand and by the definitions of the literature, and the dense heads."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mtl_runner.batch import MISSING, Batch, Decision, TargetSpec
from mtl_runner.encoders.base import FeatureSpec
from mtl_runner.errors import NotApplicable, UserError
from mtl_runner.imbalance.class_weights import ClassWeights
from mtl_runner.imbalance.dice import Dice
from mtl_runner.imbalance.focal import Focal
from mtl_runner.metrics import dense
from mtl_runner.seeding import generator
from mtl_runner.tasks import make_tasks
from mtl_runner.tasks.group import TaskGroup, masked, pack

T, N, H, W, C = 2, 5, 6, 7, 4
SPECS = {
    "segmentation": TargetSpec("segmentation", classes=tuple("abcd"), shape=(H, W)),
    "depth": TargetSpec("depth", shape=(H, W), center=(0.0,), scale=(2.5,)),
    "normals": TargetSpec("normals", shape=(H, W, 3)),
}


def task(kind: str, **options: Any) -> Any:
    (made,) = make_tasks({kind: TargetSpec(**{**vars(SPECS[kind]), "options": options})})
    return made


def some(kind: str, tasks: int = T) -> tuple[Tensor, Tensor]:
    """Outputs and targets [T, N, …], a fifth of whose pixels have no label."""
    draws = generator(0, kind)
    lost = torch.rand(tasks, N, H, W, generator=draws) < 0.2
    if kind == "segmentation":
        targets = torch.randint(0, C, (tasks, N, H, W), generator=draws, dtype=torch.int16).masked_fill(lost, MISSING)
        return torch.randn(tasks, N, H, W, C, generator=draws), targets
    if kind == "depth":
        targets = (torch.rand(tasks, N, H, W, generator=draws) + 0.2).masked_fill(lost, math.nan)
        return targets.nan_to_num(1.0) * (torch.rand(tasks, N, H, W, generator=draws) + 0.5), targets
    targets = functional.normalize(torch.randn(tasks, N, H, W, 3, generator=draws), dim=-1)
    outputs = 3 * targets + torch.randn(tasks, N, H, W, 3, generator=draws)
    return outputs, targets.masked_fill(lost[..., None], math.nan)


def as_published(kind: str, outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Of one task, from all pixels at once, term by term as LibMTL's metrics have it; outputs [N, …] in the user's unit."""
    if kind == "segmentation":
        known = targets >= 0
        counts = np.zeros((C, C))
        np.add.at(counts, (targets[known].long().numpy(), outputs.argmax(-1)[known].numpy()), 1)
        hits = np.diag(counts)
        union = counts.sum(0) + counts.sum(1) - hits
        return {
            "miou": (hits / union).mean(),
            "pixel_accuracy": hits.sum() / counts.sum(),
            "mean_accuracy": (hits / counts.sum(1)).mean(),
        }
    if kind == "depth":
        known = ~targets.isnan()
        found, true = outputs[known].double().numpy(), targets[known].double().numpy()
        ratio = np.maximum(found / true, true / found)
        errors = np.abs(found - true)
        shares = {f"delta_{k}": (ratio < 1.25**k).mean() for k in (1, 2, 3)}
        return shares | {"abs_err": errors.mean(), "rel_err": (errors / true).mean(), "rmse": np.sqrt((errors**2).mean())}
    known = ~targets.isnan().any(-1)
    cosine = (functional.normalize(outputs[known].double(), dim=-1) * targets[known].double()).sum(-1)
    angles = np.degrees(np.arccos(cosine.clamp(-1, 1).numpy()))
    within = {f"within_{name}": (angles < limit).mean() for name, limit in (("11_25", 11.25), ("22_5", 22.5), ("30", 30))}
    return within | {"mean_angle": angles.mean(), "median_angle": np.median(angles)}


@pytest.mark.parametrize("kind", SPECS)
def test_metrics_are_those_of_all_pixels_however_they_come(kind: str) -> None:
    """In one batch or in several, for both tasks at once, in the user's unit."""
    made, specs = task(kind), [SPECS[kind], TargetSpec(**{**vars(SPECS[kind]), "scale": (7.0,)})]
    outputs, targets = some(kind)
    parts = [made.summarise(outputs[:, rows], targets[:, rows], specs) for rows in (slice(0, 1), slice(1, 4), slice(4, 5))]
    together = made.merged(made.merged(parts[0], parts[1]), parts[2])
    assert all(value.shape[0] == T and value.shape == parts[0][name].shape for name, value in together.items())
    found = made.evaluated(together, specs)
    assert list(found) == [metric.name for metric in made.metrics]
    for t, spec in enumerate(specs):
        scale = spec.scale[0] if kind == "depth" else 1
        expected = as_published(kind, outputs[t] * scale, targets[t] * (scale if kind == "depth" else 1))
        for name, value in expected.items():
            rough = 0.01 if name == "median_angle" else 1e-5 if name == "mean_angle" else 1e-9
            assert found[name][t].item() == pytest.approx(value, abs=rough, rel=1e-6), name


def test_metrics_by_hand() -> None:
    confusion = torch.tensor([[[3, 1, 0], [1, 1, 0], [0, 0, 0]]])
    none = torch.zeros(1, dtype=torch.long)
    found = dense.segmentation({"confusion": confusion, "diverged": none})
    assert found["miou"].item() == pytest.approx((3 / 5 + 1 / 3) / 2), "a class that is neither there nor predicted is left out"
    assert found["pixel_accuracy"].item() == pytest.approx(4 / 6) and found["mean_accuracy"].item() == pytest.approx(
        (3 / 4 + 1 / 2) / 2
    )
    depths = torch.tensor([1.0, 2, 4, math.nan]).view(1, 1, 2, 2)
    values = torch.tensor([1.2, 3, -1, 9]).view(1, 1, 2, 2)
    found = dense.depth(dense.depth_summary(values, depths))
    assert [found[f"delta_{k}"].item() * 3 for k in (1, 2, 3)] == pytest.approx([1, 2, 2])
    assert found["abs_err"].item() == pytest.approx(6.2 / 3) and found["rel_err"].item() == pytest.approx((0.2 + 0.5 + 1.25) / 3)
    up, vectors = torch.tensor([0.0, 0, 1]), torch.tensor([[0.0, 0, 5], [0, 3, 3], [0, 2, 0], [0, 0, -1]])
    found = dense.normals(dense.normals_summary(vectors.view(1, 1, 2, 2, 3), up.expand(1, 1, 2, 2, 3)))
    assert found["mean_angle"].item() == pytest.approx((0 + 45 + 90 + 180) / 4) and found["within_30"].item() == 0.25
    assert dense.angle(torch.tensor([1e-4, 0, 1]), up).item() == pytest.approx(math.degrees(1e-4), rel=1e-4), "acos would say 0"
    assert dense.angle(torch.zeros(3), up).item() == 90


def test_a_depth_that_is_exactly_a_quarter_off_is_not_within_it() -> None:
    values, targets = torch.tensor([[4.0, 5.0, 4.1, 5.0]]), torch.tensor([[5.0, 4.0, 5.0, 4.1]])
    assert dense.depth(dense.depth_summary(values, targets))["delta_1"].item() == 0.5


@pytest.mark.parametrize("kind", SPECS)
def test_an_output_that_is_not_finite_or_no_label_makes_metrics_undefined(kind: str) -> None:
    made = task(kind)
    outputs, targets = some(kind)
    missing = MISSING if kind == "segmentation" else math.nan
    targets[1] = missing
    outputs[0][:, :3] = math.inf
    targets[0][:, :3] = missing
    found = made.evaluated(made.summarise(outputs, targets, [SPECS[kind]] * T), [SPECS[kind]] * T)
    for values in found.values():
        assert values[0].isfinite() and values[1].isnan()
    outputs[0][:, 3:] = math.nan
    found = made.evaluated(made.summarise(outputs, targets, [SPECS[kind]] * T), [SPECS[kind]] * T)
    assert all(values.isnan().all() for values in found.values())


def losses(kind: str, outputs: Tensor, targets: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Through packing and masking, as a step has them."""
    made = [task(kind, **options) for _ in range(len(outputs))]
    for number, each in enumerate(made):
        each.name = str(number)
    group = TaskGroup(made, FeatureSpec((3, H, W)), 0)
    batch = Batch({}, {str(t): target for t, target in enumerate(targets)}, {str(t): "input" for t in range(len(targets))})
    clean = masked(pack(batch, {"group": group}))
    return group.losses(outputs, clean.targets["group"], clean.weights.get("group"))


def test_losses_are_means_over_labelled_pixels() -> None:
    logits, classes = some("segmentation")
    found, active = losses("segmentation", logits, classes)
    for t in range(T):
        expected = functional.cross_entropy(logits[t].movedim(-1, 1), classes[t].long(), ignore_index=MISSING)
        torch.testing.assert_close(found[t], expected)
    assert active.all()
    outputs, depths = some("depth")
    known = ~depths[0].isnan()
    error = (outputs[0] - depths[0])[known]
    torch.testing.assert_close(losses("depth", outputs, depths)[0][0], error.abs().mean())
    torch.testing.assert_close(losses("depth", outputs, depths, loss="l2")[0][0], error.square().mean())
    vectors, normals = some("normals")
    normals[0, 0, :2, :, 1] = math.nan  # one number of three is missing: there is no direction
    known = ~normals[0].isnan().any(-1)
    cosine = functional.cosine_similarity(vectors[0][known], normals[0][known], dim=-1)
    torch.testing.assert_close(losses("normals", vectors, normals)[0][0], 1 - cosine.mean())


def test_the_scale_invariant_loss_is_that_of_each_image() -> None:
    outputs, depths = some("depth")
    depths[0, 2] = math.nan
    found, _ = losses("depth", outputs, depths, loss="silog", variance_focus=0.85)
    images = []
    for z, y in zip(outputs[0], depths[0], strict=True):
        if (known := ~y.isnan()).any():
            d = z[known] - y[known].log()
            images.append((d**2).mean() - 0.85 * d.mean() ** 2)
    torch.testing.assert_close(found[0], torch.stack(images).mean())
    whole = losses("depth", outputs, depths, loss="silog", variance_focus=1.0)[0]
    torch.testing.assert_close(losses("depth", outputs + 3, depths, loss="silog", variance_focus=1.0)[0], whole)
    made = task("depth", loss="silog")
    exact = made.evaluated(made.summarise(depths.log(), depths, [SPECS["depth"]] * T), [SPECS["depth"]] * T)
    assert exact["rel_err"].max() < 1e-6, "the predicted depth is scale · exp(z)"


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("options", [{}, {"loss": "silog"}])
def test_a_task_without_labels_has_no_loss_and_pixels_without_one_no_gradient(kind: str, options: dict[str, Any]) -> None:
    if options and kind != "depth":
        return
    outputs, targets = some(kind)
    targets[1] = MISSING if kind == "segmentation" else math.nan
    outputs = outputs.requires_grad_()
    found, active = losses(kind, outputs, targets, **options)
    found.sum().backward()
    lost = targets.isnan() if targets.is_floating_point() else targets == MISSING
    gradient = outputs.grad
    assert gradient is not None and gradient.isfinite().all() and active.tolist() == [True, False] and found[1] == 0
    spread = lost[..., None].expand_as(gradient) if kind == "segmentation" else lost
    assert (gradient[spread] == 0).all() and (gradient[~spread] != 0).any()


def test_options_of_depth_are_checked() -> None:
    with pytest.raises(UserError, match=r"dataset.tasks.depth.loss=l3: allowed are l1, l2, silog"):
        task("depth", loss="l3")
    with pytest.raises(UserError, match=r"dataset.tasks.depth.variance_focus=2: it has to be a number from 0 to 1"):
        task("depth", loss="silog", variance_focus=2)


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("size", [(H, W), (3, 4), (2, 2)])
def test_heads_give_the_targets_size_together_or_apart(kind: str, size: tuple[int, int]) -> None:
    """Each task's output is torch's interpolation of its own convolution 1 × 1, whatever the others are."""
    made = [task(kind), task(kind)]
    head: Any = made[0].head(FeatureSpec((3, *size)), ["a", "b"], 0)
    features = torch.randn(N, 3, *size, generator=generator(0))
    together = made[0].outputs(head(features, False))
    assert together.shape == some(kind)[0].shape
    torch.testing.assert_close(made[0].outputs(head(features.expand(T, *features.shape), True)), together)
    for t in range(T):
        maps = functional.conv2d(features, head.weight[t][..., None, None], head.bias[t])
        expected = functional.interpolate(maps, (H, W), mode="bilinear", align_corners=False)
        torch.testing.assert_close(head(features, False)[t], expected.movedim(1, -1))
    alone: Any = made[0].head(FeatureSpec((3, *size)), ["b"], 0)
    torch.testing.assert_close(made[0].outputs(alone(features, False))[0], together[1])
    empty = made[0].no_outputs()
    assert empty.shape == (0, *together.shape[2:])
    (column,) = made[0].predictions(together[0]).values()
    assert len(column) == N and len(column[0].as_py()) == H and len(column[0].as_py()[0]) == W


def test_features_without_places_are_not_applicable() -> None:
    for shape, what in (((8,), "a vector"), ((5, 8), "a sequence")):
        with pytest.raises(NotApplicable, match=f"the encoder gives {what}.*encoder=unet"):
            task("segmentation").head(FeatureSpec(shape), ["a"], 0)


def test_losses_for_imbalanced_classes_take_maps() -> None:
    """As of the same pixels as examples of a multiclass task; the number of classes is counted in pieces."""
    logits, classes = some("segmentation")
    flat = logits.flatten(1, 3), classes.flatten(1).long()
    for make in (Dice, Focal, lambda: Focal(alpha="inverse_frequency"), ClassWeights):
        of_maps, of_rows = make(), make()
        assert "segmentation" in of_maps.kinds
        for criterion, targets in ((of_maps, classes), (of_rows, flat[1])):
            criterion.names = ("a", "b")
            criterion.fit(targets, C)
        clean, weights = torch.where(classes == MISSING, 0, classes), (classes != MISSING).float()
        found = of_maps.loss(logits, clean, weights)
        expected = of_rows.loss(flat[0], clean.flatten(1).long(), weights.flatten(1))
        torch.testing.assert_close(found, expected)


def test_shifted_classes_of_pixels_are_measured_as_they_are_predicted() -> None:
    logits = some("segmentation")[0]
    spec = replace(SPECS["segmentation"], decision=Decision(offsets=(0.0, 2.0, -1.0, 0.5)))
    (made,) = make_tasks({"map": spec})
    shown = torch.tensor(made.predictions(logits[0])["map"].to_pylist())
    assert (shown != logits[0].argmax(-1)).any()
    assert made.evaluated(made.summarise(logits[:1], shown[None], [spec]), [spec])["miou"].tolist() == [1.0]
