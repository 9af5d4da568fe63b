"""Images from files: what is read, where it waits, what is broken, and the presets in the layouts of their publishers."""

import csv
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_image_files import idx

from mtl_runner.batch import Data
from mtl_runner.datasets.celeba import CelebA
from mtl_runner.datasets.faces import CLASSES, POINTS, Faces, drawn
from mtl_runner.datasets.images import ImageTable
from mtl_runner.datasets.multi_mnist import MultiMNIST, overlaid
from mtl_runner.datasets.office import Office
from mtl_runner.datasets.pictures.image_fields import HeldImages, ImageFiles, chosen_cache
from mtl_runner.datasets.pictures.image_files import Look
from mtl_runner.datasets.pictures.image_preparation import ImagePreparation
from mtl_runner.errors import UserError
from mtl_runner.fetching import at_once, fetched
from mtl_runner.imbalance.rows import same_rows

COUNT, SIDE = 24, 16
TASKS: dict[str, Any] = {
    "smiling": {"type": "binary"},
    "points": {"type": "keypoints", "columns": ["*_x", "*_y"]},
    "objects": {"type": "detection", "classes": list(CLASSES)},
}


@pytest.fixture(scope="module")
def drawings() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    return drawn(COUNT, SIDE, 0.05, 7)


@pytest.fixture
def folder(tmp_path: Path, drawings: tuple[np.ndarray, dict[str, np.ndarray]]) -> Path:
    """The drawings as files: png images, labels.csv and boxes.csv, in pixels."""
    pixels, targets = drawings
    (tmp_path / "img").mkdir()
    rows, boxes = [], []
    for i, image in enumerate(pixels):
        name = f"img/{i:03}.png"
        Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / name)
        places = {
            f"{point}_{axis}": targets["points"][i, k, a] * SIDE for k, point in enumerate(POINTS) for a, axis in enumerate("xy")
        }
        rows.append({"image": name, "smiling": int(targets["smiling"][i]), **places, "part": ["train", "val", "test"][i % 3]})
        for *corners, label in targets["objects"][i].tolist():
            if label >= 0:
                box = dict(zip(("x1", "y1", "x2", "y2"), (corner * SIDE for corner in corners), strict=True))
                boxes.append({"image": name, **box, "class": CLASSES[int(label)]})
    written(tmp_path / "labels.csv", rows)
    written(tmp_path / "boxes.csv", boxes)
    return tmp_path


def written(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def loaded(folder: Path, **options: Any) -> Data:
    split = {"by": "column", "column": "part"}
    given = {"tasks": TASKS, "boxes": str(folder / "boxes.csv"), "split": split, "workers": 0} | options
    return ImageTable(str(folder / "labels.csv"), **given).load()


def test_images_and_their_labels_are_those_of_the_files_wherever_they_wait(
    folder: Path, drawings: tuple[np.ndarray, dict[str, np.ndarray]]
) -> None:
    pixels, targets = drawings
    seen = {cache: loaded(folder, cache=cache) for cache in ("auto", "device", "host", "none")}
    kinds = {cache: type(data.splits["train"].inputs["input"]["image"]) for cache, data in seen.items()}
    assert kinds == {"auto": torch.Tensor, "device": torch.Tensor, "host": HeldImages, "none": ImageFiles}
    assert len({data.fingerprint for data in seen.values()}) == 1
    assert any("dataset.cache=auto chose it" in note for note in seen["auto"].notes)
    for data in seen.values():
        for place, part in enumerate(("train", "validation", "test")):
            split = data.splits[part]
            rows = split.context["input"]["row"]
            assert rows.tolist() == list(range(place, COUNT, 3))
            batches = list(fetched(split, (split.part(start, start + 3) for start in range(0, len(rows), 3))))
            images = torch.cat([batch.inputs["input"]["image"] for batch in batches])
            torch.testing.assert_close(images, torch.from_numpy(pixels[rows]).float() / 255)
            torch.testing.assert_close(split.targets["smiling"], torch.from_numpy(targets["smiling"][rows]))
            torch.testing.assert_close(split.targets["points"], torch.from_numpy(targets["points"][rows]))
            boxes = split.targets["objects"]
            torch.testing.assert_close(boxes, torch.from_numpy(targets["objects"][rows])[:, : boxes.shape[1]])


def test_workers_decode_what_the_training_process_would_and_are_used_again(folder: Path) -> None:
    alone, helped = (loaded(folder, cache="none", workers=workers).splits["train"] for workers in (0, 2))
    kept = loaded(folder, cache="device").splits["validation"]
    chosen = {"input": torch.tensor([5, 1, 6])}
    found = at_once(loaded(folder, cache="none").splits["validation"].take(chosen))
    assert torch.equal(found.inputs["input"]["image"], kept.take(chosen).inputs["input"]["image"])
    for order in (torch.arange(8), torch.randperm(8)):
        one, other = (
            [batch.inputs["input"]["image"] for batch in fetched(split, (split.take({"input": rows}) for rows in order.split(3)))]
            for split in (alone, helped)
        )
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    unfinished = fetched(helped, (helped.take({"input": rows}) for rows in torch.arange(8).split(2)))
    next(unfinished)
    inside = next(fetched(helped, [helped.part(0, 4)]))  # while the other pass is not at its end
    assert len(inside.inputs["input"]["image"]) == 4
    unfinished.close()
    assert torch.equal(next(fetched(helped, [helped.part(0, 3)])).inputs["input"]["image"], one_part(alone))


def one_part(split: Any) -> torch.Tensor:
    return split.part(0, 3).inputs["input"]["image"].fetch()


def test_the_preparation_reads_the_same_rows_from_a_file_of_paths(folder: Path) -> None:
    data = loaded(folder, boxes=None, tasks={name: TASKS[name] for name in ("smiling", "points")})
    prepared = ImagePreparation.from_json(data.preparation)
    assert prepared.to_json() == data.preparation
    (rows,) = prepared.batches(folder / "labels.csv", [*prepared.columns, *prepared.target_columns()], 1000)
    split = data.splits["train"]
    torch.testing.assert_close(prepared.inputs(rows)["image"][::3], split.inputs["input"]["image"])
    for name, target in prepared.targets(rows).items():
        torch.testing.assert_close(target[::3], split.targets[name])


def test_reconstruction_is_of_the_image(folder: Path) -> None:
    split = loaded(folder, boxes=None, tasks={"copy": {"type": "reconstruction"}}, size=8, channels=1).splits["test"]
    assert torch.equal(split.targets["copy"], split.inputs["input"]["image"].flatten(1))
    with pytest.raises(UserError, match=r"dataset.cache=device"):
        loaded(folder, boxes=None, tasks={"copy": {"type": "reconstruction"}}, cache="none")


def test_the_fastest_place_with_room_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    look = Look(3, 100, 100)
    for free, expected in ((1e9, "device"), (1e8, "host"), (1e6, "none")):
        monkeypatch.setattr("mtl_runner.datasets.pictures.image_fields.available", lambda free=free: free)
        monkeypatch.setattr("mtl_runner.datasets.pictures.image_fields._gpu_memory", lambda: float("inf"))
        assert chosen_cache("auto", 1000, look)[0] == expected


def broken(folder: Path) -> None:
    """Line 4 cut off, line 7 without a file."""
    cut = folder / "img" / "002.png"
    cut.write_bytes(cut.read_bytes()[:300])
    (folder / "img" / "005.png").unlink()


def all_of(folder: Path, cache: str) -> list[Any]:
    split = loaded(folder, cache=cache).splits["test"]
    return list(fetched(split, [split]))


def test_the_first_bad_image_is_named_with_its_line(folder: Path) -> None:
    broken(folder)
    for cache in ("device", "none"):
        with pytest.raises(UserError, match=r"labels.csv, line (4|7): image .*(002|005).png (cannot be decoded|is not there)"):
            all_of(folder, cache)


@pytest.mark.parametrize("cache", ["device", "none"])
def test_bad_images_can_be_passed_over_up_to_a_number(folder: Path, cache: str) -> None:
    broken(folder)
    data = loaded(folder, cache=cache, on_error="skip", max_errors=2)
    assert data.splits["test"].context["input"]["row"].tolist() == [8, 11, 14, 17, 20, 23]
    assert len(data.skipped) == 2 and "line 4: image" in data.skipped[0] and any("skipped.txt" in note for note in data.notes)
    with pytest.raises(UserError, match=r"more than dataset.max_errors=1"):
        loaded(folder, on_error="skip", max_errors=1)


def test_what_does_not_fit_together_is_said(folder: Path) -> None:
    Image.new("RGB", (5, 7)).save(folder / "img" / "extra.png")
    assert any("1 images have no label and are not used: extra.png" in note for note in loaded(folder).notes)
    Image.new("RGB", (5, 7)).save(folder / "img" / "003.png")
    with pytest.raises(
        UserError, match=r"line 5: image .*003.png is 5 × 7 pixels, the first one 16 × 16; dataset.size=\[16,16\]"
    ):
        loaded(folder)
    assert loaded(folder, size=[16, 16])
    lines = (folder / "boxes.csv").read_text().splitlines()
    (folder / "boxes.csv").write_text("\n".join([*lines, "img/nobody.png,1,1,4,4,face"]))
    with pytest.raises(UserError, match=rf"boxes.csv, line {len(lines) + 1}: image 'img/nobody.png' is not among"):
        loaded(folder, size=16)
    (folder / "boxes.csv").write_text("\n".join([lines[0], "img/000.png,4,1,4,4,face", *lines[1:]]))
    with pytest.raises(UserError, match=r"boxes.csv, line 2: the box from \(4, 1\) to \(4, 4\) has no area"):
        loaded(folder, size=16)
    with pytest.raises(UserError, match="where are its boxes"):
        loaded(folder, boxes=None, size=16)


def test_tasks_on_images_are_of_types_that_they_can_have(folder: Path) -> None:
    def data(**task: Any) -> Data:
        return ImageTable(str(folder / "labels.csv"), {"task": task}).load()

    with pytest.raises(UserError, match=r"type 'segmentation' does not exist .*keypoints, detection"):
        data(type="segmentation", columns="smiling")
    with pytest.raises(UserError, match=r"are no whole points: without .*_y"):
        data(type="keypoints", columns="*_x")
    found = data(type="survival", time="nose_x", event="smiling")
    assert found.targets["task"].columns == ("nose_x", "smiling")


def test_boxes_may_stand_in_a_column_of_the_labels(folder: Path) -> None:
    rows = [{"image": f"img/{i:03}.png", "objects": "2 4 10 12 red ball; 0 0 4 4" if i else ""} for i in range(COUNT)]
    rows[1]["objects"] = "?"
    written(folder / "labels.csv", rows)
    data = ImageTable(str(folder / "labels.csv"), {"objects": {"type": "detection"}}).load()
    assert data.targets["objects"].columns == ("object", "red ball")
    found = {
        int(row): box
        for split in data.splits.values()
        for row, box in zip(split.context["input"]["row"], split.targets["objects"], strict=True)
    }
    expected = torch.tensor([[2 / 16, 4 / 16, 10 / 16, 12 / 16, 1], [0, 0, 0.25, 0.25, 0]])
    torch.testing.assert_close(found[5], expected)
    assert found[1].isnan().all() and (found[0][:, 4] == -1).all()


def test_celeba_in_its_own_layout(tmp_path: Path) -> None:
    names = [f"{i + 1:06}.jpg" for i in range(6)]
    (tmp_path / "img_align_celeba").mkdir()
    for name in names:
        Image.new("RGB", (178, 218), (200, 0, 0)).save(tmp_path / "img_align_celeba" / name)
    with pytest.raises(UserError) as caught:
        CelebA(str(tmp_path)).load()
    assert all(text in str(caught.value) for text in ("list_attr", "list_landmarks_align", "list_eval", "mmlab", "research"))
    points = "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y rightmouth_x rightmouth_y"
    signs = [f"{name} {1 if i % 2 else -1:2d}  {-1 if i % 3 else 1}" for i, name in enumerate(names)]
    (tmp_path / "list_attr_celeba.txt").write_text("\n".join(["6", "Smiling Male ", *signs]) + "\n")
    marks = [f"{name} 69 109 106 113 77 142 73 152 108 154" for name in names]
    (tmp_path / "list_landmarks_align_celeba.txt").write_text("\n".join(["6", points, *marks]) + "\n")
    (tmp_path / "list_eval_partition.txt").write_text("".join(f"{name} {i // 2}\n" for i, name in enumerate(names)))
    with pytest.raises(UserError, match=r"not the published files: .*list_attr_celeba.txt has the MD5 checksum"):
        CelebA(str(tmp_path)).load()
    data = CelebA(str(tmp_path), size=[64, 48], verify=False).load()
    assert list(data.targets) == ["Smiling", "Male", "landmarks"]
    assert data.splits["test"].targets["Smiling"].tolist() == [0, 1] and data.splits["test"].targets["Male"].tolist() == [0, 0]
    assert data.streams["input"].fields["image"] == (3, 64, 48)
    torch.testing.assert_close(data.splits["train"].targets["landmarks"][0, 0], torch.tensor([69 / 178, 109 / 218]))
    with pytest.raises(UserError, match="in the wild"):
        CelebA(str(tmp_path), tasks=["box"], verify=False).load()
    (tmp_path / "img_celeba").mkdir()
    for name in names:
        Image.new("RGB", (400, 300)).save(tmp_path / "img_celeba" / name)
    (tmp_path / "list_landmarks_celeba.txt").write_text((tmp_path / "list_landmarks_align_celeba.txt").read_text())
    boxes = [f"{name} 95 71 226 213" for name in names]
    (tmp_path / "list_bbox_celeba.txt").write_text("\n".join(["6", "image_id x_1 y_1 width height", *boxes]) + "\n")
    data = CelebA(str(tmp_path), tasks=["box", "Male"], images="wild", size=32, verify=False).load()
    torch.testing.assert_close(
        data.splits["train"].targets["box"][0, 0], torch.tensor([95 / 400, 71 / 300, 321 / 400, 284 / 300, 0])
    )
    (tmp_path / "list_attr_celeba.txt").write_text("\n".join(["6", "Smiling Male", *signs[:3], "000004.jpg 1", *signs[4:]]))
    with pytest.raises(UserError, match=r"list_attr_celeba.txt, line 6: 1 numbers and not 2"):
        CelebA(str(tmp_path), verify=False).load()


def test_multi_mnist_puts_two_digits_over_each_other(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for part, count in (("train", 40), ("t10k", 10)):
        pixels, labels = random.integers(0, 255, (count, 28, 28)), np.arange(count) % 10
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels)))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    data = MultiMNIST(str(tmp_path), tasks=["left", "right", "reconstruction"], verify=False).load()
    sizes = {part: split.size("input") for part, split in data.splits.items()}
    assert sizes["train"] + sizes["validation"] == 40 and sizes["validation"] >= 4 and sizes["test"] == 10
    assert data.splits["test"].targets["left"].tolist() == list(range(10))
    assert data.splits["test"].inputs["input"]["image"].shape == (10, 1, 28, 28)
    with pytest.raises(UserError, match="MD5"):
        MultiMNIST(str(tmp_path)).load()
    left, right = np.full((1, 4, 4), 100, np.uint8), np.full((1, 4, 4), 200, np.uint8)
    together = overlaid(left, right, 2, None)[0]  # a canvas of 6 × 6, of which the pixels 0, 2, 3 and 5 are kept
    np.testing.assert_array_equal(together, [[100, 100, 100, 0], [100, 200, 200, 200], [100, 200, 200, 200], [0, 200, 200, 200]])
    with pytest.raises(UserError, match="too small"):
        overlaid(left, right, 2, 5)


def test_office_has_a_stream_and_a_task_for_each_domain(tmp_path: Path) -> None:
    for domain, inner in (("amazon", "images"), ("dslr", "")):
        for label in ("bike", "mug", "pen")[: 3 if inner else 2]:
            place = tmp_path / "office-31" / domain / inner / label
            place.mkdir(parents=True)
            for i in range(10):
                Image.new("RGB", (9 + i, 12), (25 * i, 0, 0)).save(place / f"{i}.jpg")
    data = Office(str(tmp_path / "office-31"), size=8, split={"validation": 0.2, "test": 0.2}).load()
    assert {name: (spec.stream, spec.classes) for name, spec in data.targets.items()} == {
        "amazon": ("amazon", ("bike", "mug", "pen")),
        "dslr": ("dslr", ("bike", "mug", "pen")),
    }
    assert data.splits["train"].size("amazon") == 18 and data.splits["train"].size("dslr") == 12
    assert data.splits["train"].targets["dslr"].bincount(minlength=3).tolist() == [6, 6, 0]
    assert any("task dslr: no image of class pen" in note for note in data.notes)
    with pytest.raises(UserError, match=r"no domain 'amazom' \(did you mean 'amazon'"):
        Office(str(tmp_path / "office-31"), domains=["amazom"]).load()
    with pytest.raises(UserError, match=r"missing: office-home/\nget it from .*non|not commercial"):
        Office(str(tmp_path / "office-home")).load()


def test_drawn_faces_have_what_their_labels_say() -> None:
    data = Faces(count=60, noise=0).load()
    split = data.splits["train"]
    points, boxes = split.targets["points"], split.targets["objects"]
    assert (boxes[:, 0, 4] == 0).all() and ((boxes[..., 4] == -1) | (boxes[..., 2:4] > boxes[..., :2]).all(-1)).all()
    inside = (points > boxes[:, :1, :2]) & (points < boxes[:, :1, 2:4])
    assert inside.all()
    assert torch.equal(split.targets["smiling"], Faces(count=60, noise=0).load().splits["train"].targets["smiling"])


def test_what_reads_the_examples_themselves_gets_tensors(folder: Path) -> None:
    split = loaded(folder, cache="host").splits["train"]
    assert isinstance(at_once(split).inputs["input"]["image"], torch.Tensor)
    every = split.take({"input": torch.arange(8)})
    assert same_rows(split, every) and not same_rows(split, split.take({"input": torch.arange(7, -1, -1)}))
    files = loaded(folder, cache="none").splits["train"]
    assert same_rows(files, files.part(0, 8)) and not same_rows(files, files.take({"input": torch.arange(7, -1, -1)}))
