"""COCO's annotation files: masks as its own tools decode them, and the data set that is made of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from matplotlib.path import Path as Outline
from PIL import Image

from mtl_runner import predict
from mtl_runner.batch import MISSING
from mtl_runner.datasets.coco import Coco
from mtl_runner.datasets.pictures import masks
from mtl_runner.datasets.pictures.coco_preparation import seen
from mtl_runner.datasets.prepared import read_preparation
from mtl_runner.errors import UserError
from mtl_runner.tasks import make_tasks

TASKS: dict[str, Any] = {
    "boxes": {"type": "detection"},
    "map": {"type": "segmentation"},
    "pose": {"type": "keypoints"},
    "there": {"type": "multilabel"},
}


def test_a_polygon_holds_the_pixels_whose_centre_is_inside() -> None:
    """As an independent point-in-polygon test by the same rule says, corners outside of the image included."""
    draws = np.random.default_rng(0)
    centres = np.stack(np.meshgrid(np.arange(17) + 0.5, np.arange(13) + 0.5), -1).reshape(-1, 2)
    for _ in range(40):
        corners = draws.uniform(-4, 20, (3, 2))  # of three corners no two edges cross: even-odd and nonzero are the same
        expected = Outline(np.vstack([corners, corners[:1]])).contains_points(centres).reshape(13, 17)
        assert (masks.from_polygon(corners.ravel().tolist(), 13, 17) == expected).all()
    ring = [0, 0, 6, 0, 6, 6, 0, 6, 0, 0, 2, 2, 2, 4, 4, 4, 4, 2, 2, 2]
    assert masks.from_polygon(ring, 6, 6).sum() == 36 - 4
    both = masks.decoded([[0, 0, 2, 0, 2, 2, 0, 2], [1, 1, 3, 1, 3, 3, 1, 3]], 4, 4)
    assert both.sum() == 4 + 4 - 1


def test_run_lengths_as_a_list_and_as_text() -> None:
    """The texts are what COCO's own tool wrote for these masks."""
    mask = np.zeros((4, 5), bool)
    mask[1:3, 1:4] = True
    assert (masks.from_runs({"size": [4, 5], "counts": [5, 2, 2, 2, 2, 2, 5]}, 4, 5) == mask).all()
    assert (masks.from_runs({"size": [4, 5], "counts": "5220003"}, 4, 5) == mask).all()
    large = np.zeros((40, 50), bool)
    large[3:37, 20:21] = True
    assert (masks.from_runs({"size": [40, 50], "counts": "Si0R1[T1"}, 40, 50) == large).all()


@pytest.mark.parametrize(
    ("segmentation", "said"),
    [
        ({"size": [4, 5], "counts": [5, 2]}, "add up to the 20 pixels"),
        ({"size": [4, 5], "counts": [2**62, 2**62, 2**62, 2**62, 20]}, "add up to the 20 pixels"),
        ({"size": [5, 4], "counts": [20]}, "in an image of 4 × 5"),
        ({"size": [4, 5], "counts": "5~"}, "stands for no number"),
        ({"size": [4, 5], "counts": "5P"}, "in the middle of a number"),
        ([[1, 2, 3, 4]], "three points or more"),
        ("x", "a list of polygons or a mapping"),
    ],
)
def test_masks_that_cannot_be_read(segmentation: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        masks.decoded(segmentation, 4, 5)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Ten images of 8 × 10 pixels: a cat of 4 × 3 at (2, 1) with two key points, before a mat that is a crowd in the last one."""
    images = [{"id": 7 + n, "file_name": f"{n}.png", "height": 8, "width": 10} for n in range(10)]
    for n in range(10):
        Image.fromarray(np.full((8, 10, 3), 20 * n, np.uint8)).save(tmp_path / f"{n}.png")
    annotations: list[dict[str, Any]] = []
    for n in range(10):
        runs = {"size": [8, 10], "counts": [0, 40, 40]}
        mat = {"category_id": 3, "bbox": [0, 0, 5, 8], "area": 40, "segmentation": runs, "iscrowd": int(n == 9)}
        cat = {"category_id": 1, "bbox": [2, 1, 4, 3], "area": 12, "segmentation": [[2, 1, 6, 1, 6, 4, 2, 4]], "iscrowd": 0}
        annotations.append({"image_id": 7 + n, "id": 2 * n, **cat, "keypoints": [3, 2, 2, 0, 0, 0], "num_keypoints": 1})
        if n:
            annotations.append({"image_id": 7 + n, "id": 2 * n + 1, **mat})
    categories = [{"id": 3, "name": "mat"}, {"id": 1, "name": "cat", "keypoints": ["nose", "tail"]}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return tmp_path / "instances.json"


def test_an_annotation_file_is_boxes_maps_points_and_what_is_there(file: Path) -> None:
    data = Coco(str(file), TASKS).load()
    assert data.targets["map"].classes == ("background", "cat", "mat") and data.targets["boxes"].columns == ("cat", "mat")
    for split in data.splits.values():
        for place, row in enumerate(split.context["input"]["row"].tolist()):
            boxes, regions, pose, there = (split.targets[name][place] for name in TASKS)
            expected = torch.zeros(8, 10, dtype=torch.int16)
            expected[:, :5] = 0 if not row else MISSING if row == 9 else 2
            expected[1:4, 2:6] = 1
            assert torch.equal(regions, expected)
            torch.testing.assert_close(boxes[0], torch.tensor([0.2, 1 / 8, 0.6, 4 / 8, 0]))
            assert boxes[:, 4].tolist() == ([0, -1] if row in (0, 9) else [0, 1])
            torch.testing.assert_close(pose[0], torch.tensor([0.3, 0.25]))
            assert pose[1].isnan().all() and there.tolist() == [1, 0 if row in (0, 9) else 1]
    prepared = read_preparation(json.loads(json.dumps(data.preparation)))["input"]
    (batch,) = prepared.batches(file, ("image",), 100)
    for name, target in prepared.targets(batch).items():
        whole = torch.zeros_like(target)
        for split in data.splits.values():
            whole[split.context["input"]["row"]] = split.targets[name]
        torch.testing.assert_close(target, whole, equal_nan=True)


def test_predictions_are_named_as_those_of_the_same_types_elsewhere(file: Path) -> None:
    """The task's name once, and as the columns of labels are called; points are named as their category has them."""
    data = Coco(str(file), {**TASKS, "far": {"type": "multilabel", "classes": ["mat"]}}).load()
    named = {task.name: list(task.predictions(task.no_outputs(), {})) for task in make_tasks(data.targets)}
    assert named["pose"] == ["pose_nose_x", "pose_nose_y", "pose_tail_x", "pose_tail_y"]
    assert named["there"] == ["there_cat", "there_mat", "there_probability_cat", "there_probability_mat"]
    assert named["far"] == ["far_mat", "far_probability_mat"]
    assert data.targets["there"].columns == ("cat", "mat") and data.targets["map"].columns == ("map",)
    prepared = read_preparation(json.loads(json.dumps(data.preparation)))["input"]
    assert prepared.target_columns(["pose", "there"]) == (*named["there"][:2], *named["pose"])
    Coco(str(file), {"pose": {"type": "keypoints", "normaliser": "points", "between": ["nose", "tail"]}}).load()


def test_predictions_of_a_run_are_labels_that_it_can_be_evaluated_on(train: Callable[..., Path], file: Path) -> None:
    """As a table beside the images."""
    tasks = "{pose:{type:keypoints},there:{type:multilabel}}"
    run = train("dataset=coco", f"dataset.path={file}", f"dataset.tasks={tasks}", "encoder=cnn", "trainer.epochs=1")
    found = file.with_name("found.parquet")
    predict.predict(run, file, found)
    table = pa.parquet.read_table(found)
    assert table.column_names[:4] == ["pose_nose_x", "pose_nose_y", "pose_tail_x", "pose_tail_y"]
    assert table.column_names[4:] == ["there_cat", "there_mat", "there_probability_cat", "there_probability_mat"]
    pa.parquet.write_table(table.append_column("image", pa.array([f"{n}.png" for n in range(10)])), found)
    assert predict.evaluate(run, found).metrics["pose"]["nme"] == pytest.approx(0, abs=1e-5)


def test_the_parts_may_have_files_of_their_own(file: Path) -> None:
    data = Coco(str(file), {"map": {"type": "segmentation", "classes": ["cat"]}}, test_path=str(file), size=[4, 5]).load()
    assert sorted(data.splits["test"].context["input"]["row"].tolist()) == list(range(10, 20))
    assert data.splits["test"].targets["map"].shape == (10, 4, 5) and data.targets["map"].classes == ("background", "cat")


def test_a_window_shows_a_map_as_it_shows_the_image() -> None:
    values = np.arange(24, dtype=np.int16).reshape(4, 6)
    assert (seen(values, torch.tensor([1.0, 0, 4, 4]), (4, 4)) == values[:, 1:5]).all()
    wide = seen(values, torch.tensor([0.0, -1, 6, 6]), (6, 6))
    assert (wide[1:5] == values).all() and (wide[[0, 5]] == MISSING).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_id": 99}, r"annotation 0: there is no image 99"),
        ({"category_id": 99}, r"annotation 0: there is no category 99"),
        ({"bbox": [1, 2, 0, 4]}, r"annotation 0: bbox=\[1, 2, 0, 4\] is not x, y, width, height"),
        ({"keypoints": [1, 2]}, r"annotation 0: keypoints are not x, y, v"),
        ({"image_id": [7]}, r"annotation 0: has a value of a wrong kind"),
        ({"category_id": {}}, r"annotation 0: has a value of a wrong kind"),
        ({"bbox": [1, 2, 10**30, 4]}, r"annotation 0: has a value of a wrong kind"),
        ({"area": "large"}, r"annotation 0: has a value of a wrong kind"),
    ],
)
def test_annotations_that_cannot_be_used_are_told_or_skipped(change: dict[str, Any], said: str, file: Path) -> None:
    content = json.loads(file.read_text())
    content["annotations"][0] |= change
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=said):
        Coco(str(file), TASKS).load()
    data = Coco(str(file), TASKS, on_error="skip").load()
    assert len(data.skipped) == 1 and sum(len(split.targets["map"]) for split in data.splits.values()) == 10


def test_what_a_run_passed_over_is_passed_over_in_its_file_again(
    train: Callable[..., Path], file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The image stays, without the annotation's label; a run that stops at errors stops at them later, too."""
    content = json.loads(file.read_text())
    content["annotations"][3]["image_id"] = 99
    whole = file.with_name("whole.json")
    whole.write_text(file.read_text())
    file.write_text(json.dumps(content))
    made = ("dataset=coco", "dataset.tasks={there:{type:multilabel}}", "encoder=cnn", "trainer.epochs=1")
    run = train(*made, f"dataset.path={file}", "dataset.on_error=skip", "dataset.max_errors=2")
    out = file.with_name("out.csv")
    predict.predict(run, file, out)
    assert len(out.read_text().splitlines()) == 11
    caplog.clear()
    predict.evaluate(run, file)
    assert "1 annotations cannot be used and are passed over, the first: " in caplog.text
    prepared = predict.load(run, "cpu").preparation
    (rows,) = prepared.batches(file, ("image",), 100)
    assert prepared.targets(rows)["there"].tolist()[1:3] == [[1, 1], [0, 1]]
    for place in (5, 6):
        content["annotations"][place]["image_id"] = 99
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"more than dataset.max_errors=2 items cannot be used"):
        predict.evaluate(run, file)
    strict = train(*made, f"dataset.path={whole}")
    with pytest.raises(UserError, match=r"annotation 4: there is no image 99"):
        predict.evaluate(strict, file)


def test_broken_files_and_masks_are_told(file: Path) -> None:
    content = json.loads(file.read_text())
    content["annotations"][0]["segmentation"] = {"size": [8, 10], "counts": [3]}
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"annotation 0: run lengths have to be"):
        Coco(str(file), TASKS).load()
    file.write_text(json.dumps({"images": []}))
    with pytest.raises(UserError, match=r"no annotation file in COCO's format: it has no lists images, annotations, categories"):
        Coco(str(file), TASKS).load()
    for broken in ("{", "[" * 100_000, '{"images": ' + "1" * 5000 + "}"):
        file.write_text(broken)
        with pytest.raises(UserError, match=r"is no whole JSON file"):
            Coco(str(file), TASKS).load()


@pytest.mark.parametrize("change", [{"height": 10**6, "width": 10**6}, {"width": -1}, {"height": 1e999}, {"file_name": ""}])
def test_images_that_cannot_be_are_told(change: dict[str, Any], file: Path) -> None:
    content = json.loads(file.read_text())
    content["images"][0] |= change
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="an image or a category lacks a key or has a wrong value"):
        Coco(str(file), TASKS).load()


def elsewhere(file: Path, name: str) -> Path:
    """Annotations in a folder of their own, without images."""
    (file.parent / "annotations").mkdir(exist_ok=True)
    moved = file.parent / "annotations" / name
    moved.write_text(file.read_text())
    return moved


def test_images_of_the_runs_own_files_and_of_others_are_found(file: Path) -> None:
    """Those of two parts may have the same names, so that each file of the run has its folder; others have theirs beside them."""
    shade = {"here": 10, "test": 200, "beside": 90}
    for name, grey in shade.items():
        (file.parent / name).mkdir()
        for n in range(10):
            Image.fromarray(np.full((8, 10, 3), grey, np.uint8)).save(file.parent / name / f"{n}.png")
    first, second, third = (elsewhere(file, f"{name}.json") for name in ("a", "b", "c"))
    beside = file.parent / "beside" / "d.json"
    beside.write_text(file.read_text())
    places = {"folder": str(file.parent / "here"), "test_path": str(second), "test_folder": str(file.parent / "test")}
    data = Coco(str(first), {"there": {"type": "multilabel"}}, **places).load()
    prepared = read_preparation(json.loads(json.dumps(data.preparation)))["input"]
    for path, grey in ((first, 10), (second, 200), (beside, 90)):
        (rows,) = prepared.batches(path, ("image",), 100)
        assert prepared.inputs(rows)["image"].unique().tolist() == pytest.approx([grey / 255])
    with pytest.raises(UserError, match=r"c\.json: image 0\.png is not beside it, and several folders of the run have one: "):
        list(prepared.batches(third, ("image",), 100))
    alone = Coco(str(first), {"there": {"type": "multilabel"}}, folder=places["folder"]).load()
    for path in (third, third.with_suffix(".csv")):
        if path.suffix == ".csv":
            path.write_text("image\n3.png\n")
        (rows,) = read_preparation(alone.preparation)["input"].batches(path, ("image",), 100)
        assert rows.column("image").to_pylist()[0].startswith(places["folder"])


@pytest.mark.parametrize("made", ["json", "csv"])
def test_images_that_cannot_be_read_are_passed_over_as_in_training(
    made: str, train: Callable[..., Path], file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each row keeps its line in the predictions, an empty one; metrics are those of the others."""
    tasks = "dataset.tasks={there:{type:multilabel},boxes:{type:detection}}"
    common = ("dataset=coco", tasks, f"dataset.path={file}", "encoder=cnn", "trainer.epochs=1")
    run = train(*common, "dataset.on_error=skip", "dataset.max_errors=2")
    new = file
    if made == "csv":
        new = file.with_name("new.csv")
        new.write_text("\n".join(["image,there_cat,there_mat,boxes", *(f"{n}.png,1,{n % 2}," for n in range(10))]) + "\n")
    out = {ending: file.with_name(f"out.{ending}") for ending in ("parquet", "csv")}
    predict.predict(run, new, out["parquet"])
    whole = pa.parquet.read_table(out["parquet"])
    good = json.loads(file.read_text())
    Path(file.with_name("2.png")).write_bytes(file.with_name("2.png").read_bytes()[:50])
    caplog.clear()
    for path in out.values():
        predict.predict(run, new, path)
    assert "1 rows cannot be used and are passed over, their predictions are empty; the first: " in caplog.text
    assert "2.png cannot be decoded" in caplog.text
    found = pa.parquet.read_table(out["parquet"])
    others = [0, 1, *range(3, 10)]
    assert set(found.slice(2, 1).to_pylist()[0].values()) == {None} and found.schema == whole.schema
    for name in whole.column_names[:4]:
        assert found.take(others).column(name).to_pylist() == pytest.approx(whole.take(others).column(name).to_pylist())
    lines = out["csv"].read_text().splitlines()
    assert len(lines) == 11 and set(lines[3]) == {","}
    caplog.clear()
    metrics = predict.evaluate(run, new).metrics["there"]
    assert "1 rows cannot be used and are passed over, no metric counts them; the first: " in caplog.text
    kept = file.with_name("kept.json")
    kept.write_text(
        json.dumps(
            good
            | {
                "images": [good["images"][n] for n in others],
                "annotations": [each for each in good["annotations"] if each["image_id"] != 9],
            }
        )
    )
    if made == "json":
        assert metrics == pytest.approx(predict.evaluate(run, kept).metrics["there"], nan_ok=True)
    for n in (5, 6):
        file.with_name(f"{n}.png").unlink()
    for use in (lambda: predict.predict(run, new, out["csv"]), lambda: predict.evaluate(run, new)):
        with pytest.raises(UserError, match=r"more than dataset.max_errors=2 items cannot be used"):
            use()


def test_of_a_file_with_images_to_pass_over_lines_stay_true(train: Callable[..., Path], file: Path) -> None:
    run = train(
        "dataset=coco", "dataset.tasks={pose:{type:keypoints}}", f"dataset.path={file}", "encoder=cnn", "trainer.epochs=1",
        "dataset.on_error=skip", "dataset.max_errors=9",
    )  # fmt: skip
    new, names = file.with_name("new.csv"), "image,pose_nose_x,pose_nose_y,pose_tail_x,pose_tail_y\n"
    new.write_text(names + "9.png,1,0,1,1\nlost.png,1,0,1,1\n1.png,1,0,1,1\n2.png,perhaps,0,1,1\n")
    with pytest.raises(UserError, match=r"new\.csv, line 5.*perhaps"):
        predict.evaluate(run, new)
    new.write_text(names + "lost.png,1,0,1,1\n")
    with pytest.raises(UserError, match=r"new\.csv has no rows that can be used"):
        predict.evaluate(run, new)
    predict.predict(run, new, file.with_name("out.csv"))
    assert len(file.with_name("out.csv").read_text().splitlines()) == 2
