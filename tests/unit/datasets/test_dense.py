"""Images and maps from files: folders, lists and presets; what is broken is told with its file, or skipped."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mtl_runner.batch import MISSING, Data
from mtl_runner.datasets.cityscapes import Cityscapes
from mtl_runner.datasets.dense import Dense
from mtl_runner.datasets.maps import map_files
from mtl_runner.datasets.maps.scenes import CLASSES, Scene, drawn
from mtl_runner.datasets.nyuv2 import NYUv2
from mtl_runner.datasets.prepared import read_preparation
from mtl_runner.datasets.rows.reading import read_batches
from mtl_runner.datasets.shapes import Shapes
from mtl_runner.errors import UserError

TASKS: dict[str, Any] = {
    "label": {"type": "segmentation", "classes": list(CLASSES)},
    "far": {"type": "depth", "columns": "depth", "factor": 0.001},
    "way": {"type": "normals", "columns": "normal"},
}
SIZE = 12


def scenes(count: int) -> list[Scene]:
    draws = np.random.default_rng(0)
    return [drawn(draws, SIZE, 3) for _ in range(count)]


def write(folder: Path, name: str, scene: Scene) -> None:
    """As png: colours and classes of 8 bits, millimetres of 16, normals of 8; a corner without labels."""
    for kind in ("image", "label", "depth", "normal"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    label, depth = scene.classes.astype(np.uint8), (1000 * scene.depth).round().astype(np.uint16)
    label[:2], depth[:2] = 255, 0
    normal = ((scene.normals + 1) * 127.5).round().astype(np.uint8)
    normal[:2] = 0
    Image.fromarray((255 * scene.image).round().astype(np.uint8).transpose(1, 2, 0)).save(folder / "image" / f"{name}.png")
    Image.fromarray(label).save(folder / "label" / f"{name}.png")
    Image.fromarray(depth).save(folder / "depth" / f"{name}.png")
    Image.fromarray(normal).save(folder / "normal" / f"{name}.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, scene in enumerate(scenes(12)):
        write(tmp_path / "data", str(number), scene)
    return tmp_path / "data"


def rows(data: Data, part: str) -> list[int]:
    return data.splits[part].context["input"]["row"].tolist()


def test_folders_of_png_are_read_as_they_were_written(folder: Path) -> None:
    data = Dense(str(folder), TASKS).load()
    assert sorted(row for part in data.splits for row in rows(data, part)) == list(range(12))
    made, scale = scenes(12), data.targets["far"].scale[0]
    training = torch.stack([torch.from_numpy(made[row].depth)[2:] for row in rows(data, "train")])
    assert scale == pytest.approx(training.mean().item(), abs=1e-3)
    for part, split in data.splits.items():
        for place, row in enumerate(rows(data, part)):
            scene = made[row]
            label, far, way = (split.targets[name][place] for name in TASKS)
            torch.testing.assert_close(split.inputs["input"]["image"][place], torch.from_numpy(scene.image), atol=0.003, rtol=0)
            assert (label[:2] == MISSING).all() and torch.equal(label[2:], torch.from_numpy(scene.classes)[2:])
            assert far[:2].isnan().all() and way[:2].isnan().all()
            torch.testing.assert_close(far[2:] * scale, torch.from_numpy(scene.depth)[2:], atol=0.001, rtol=0)
            torch.testing.assert_close(way[2:], torch.from_numpy(scene.normals)[2:], atol=0.01, rtol=0)
    assert data.targets["label"].classes == CLASSES and data.targets["way"].shape == (SIZE, SIZE, 3)


def test_folders_of_parts_are_the_parts(tmp_path: Path) -> None:
    for number, scene in enumerate(scenes(5)):
        write(tmp_path / {3: "val", 4: "test"}.get(number, "train"), str(number), scene)
    (tmp_path / "train" / "depth" / "1.png").unlink()
    data = Dense(str(tmp_path), TASKS).load()
    assert {part: len(rows(data, part)) for part in data.splits} == {"train": 3, "validation": 1, "test": 1}
    assert data.notes == ("1 of 5 images have no map for far: they have no labels for it",)
    assert data.splits["train"].targets["far"][1].isnan().all() and not data.splits["train"].targets["far"][0].isnan().all()


def test_a_list_of_files_may_leave_maps_out_and_name_the_parts(folder: Path) -> None:
    lines = ["picture,depth,part"]
    lines += [f"image/{n}.png,{f'depth/{n}.png' if n else ''},{'train' if n < 8 else 'test'}" for n in range(12)]
    (folder / "list.csv").write_text("\n".join(lines))
    made = Dense(
        str(folder / "list.csv"),
        {"depth": {"type": "depth"}},
        image="picture",
        size=[6, 8],
        split={"by": "column", "column": "part"},
    )
    data = made.load()
    assert {part: len(rows(data, part)) for part in data.splits} == {"train": 6, "validation": 2, "test": 4}
    assert data.streams["input"].fields == {"image": (3, 6, 8)} and data.splits["test"].targets["depth"].shape == (4, 6, 8)


def test_what_is_kept_reads_raw_rows_as_training_did(folder: Path) -> None:
    lines = ["image,label,depth,normal"] + [f"image/{n}.png,label/{n}.png,depth/{n}.png,normal/{n}.png" for n in range(12)]
    (folder / "list.csv").write_text("\n".join(lines))
    data = Dense(str(folder / "list.csv"), TASKS).load()
    prepared = read_preparation(json.loads(json.dumps(data.preparation)))["input"]
    (batch,) = read_batches(folder / "list.csv")
    inputs, targets = prepared.inputs(batch), prepared.targets(batch)
    for part, split in data.splits.items():
        assert torch.equal(inputs["image"][rows(data, part)], split.inputs["input"]["image"])
        for name, target in targets.items():
            torch.testing.assert_close(target[rows(data, part)], split.targets[name], equal_nan=True)
    (folder / "image" / "3.png").unlink()
    with pytest.raises(UserError, match=r"3\.png: there is no such file \(.*list\.csv, line 5\)"):
        prepared.inputs(batch)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _saved(*shape: int, of: Any = np.uint8, value: int = 0) -> Callable[[Path], None]:
    return lambda file: Image.fromarray(np.full(shape, value, of)).save(file)


BROKEN: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a truncated image": ("image/4.png", _cut, "not a whole image"),
    "a truncated map": ("depth/4.png", _cut, "not a whole image"),
    "no image at all": ("image/4.png", lambda file: file.write_text("no image"), "not a whole image"),
    "an image of 16 bits": ("image/4.png", _saved(SIZE, SIZE, of=np.uint16), "of 16 bits for each colour; 8 are read"),
    "classes of 16 bits": (
        "label/4.png",
        _saved(SIZE, SIZE, of=np.uint16, value=700),
        "holds the value 700, which is no class",
    ),
    "a colour image for classes": ("label/4.png", _saved(SIZE, SIZE, 3), "one number for each pixel"),
    "normals of one channel": ("normal/4.png", _saved(SIZE, SIZE), "has three channels"),
    "another size than its image": (
        "label/4.png",
        _saved(9, 8),
        "a map of 9 × 8 pixels for an image of 12 × 12",
    ),
    "grey among colours": (
        "image/4.png",
        _saved(SIZE, SIZE),
        "1 channels; those of the training part have 3",
    ),
    "a map without an image": ("label/99.png", _saved(SIZE, SIZE), "a map without an image"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_told_with_its_file_or_skipped(case: str, folder: Path) -> None:
    name, breaking, said = BROKEN[case]
    breaking(folder / name)
    with pytest.raises(UserError, match=said) as refused:
        Dense(str(folder), TASKS).load()
    assert str(folder / name) in str(refused.value) and len(str(refused.value).splitlines()) <= 2
    data = Dense(str(folder), TASKS, on_error="skip").load()
    assert sum(len(rows(data, part)) for part in data.splits) == (12 if "without" in case else 11)
    assert data.skipped == (str(refused.value),) and "skipped.txt" in data.notes[0]
    with pytest.raises(UserError, match=r"more than dataset\.max_errors=0 items cannot be used"):
        Dense(str(folder), TASKS, on_error="skip", max_errors=0).load()


def test_npy_that_would_run_code_or_has_no_numbers_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    np.save(tmp_path / "b.npy", np.array([["x"]]))
    np.save(tmp_path / "c.npy", np.array([[0.5, 1]]))
    for name, said in (("a", "not a whole npy file of numbers"), ("b", "not numbers for each pixel"), ("c", "has fractions")):
        with pytest.raises(UserError, match=said):
            map_files.class_map(tmp_path / f"{name}.npy", 4, [])


@pytest.mark.parametrize("shape", ["(10**15,)", "(1000000000000000,)", "(99999999999999999999999, 2)", "(5, 5", "-" * 9000 + "1"])
def test_npy_whose_header_lies_is_refused(shape: str, tmp_path: Path) -> None:
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64))
    with pytest.raises(UserError, match="not a whole npy file of numbers"):
        map_files.raw(tmp_path / "a.npy")


def test_an_image_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(np.zeros((6, 12), np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 71)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(UserError, match=r"not a whole image \(Image size \(72 pixels\)"):
            map_files.raw(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        (["label"], r"the type of each is needed"),
        ({"label": {}}, r"dataset\.tasks\.label\.type is missing; allowed: segmentation, depth, normals"),
        ({"label": {"type": "depths"}}, r"dataset\.tasks\.label\.type 'depths' does not exist \(did you mean 'depth'\?\)"),
        ({"label": {"type": "depth", "facto": 2}}, r"option 'facto' does not exist \(did you mean 'factor'\?\)"),
        ({"label": {"type": "depth", "factor": 0}}, r"factor=0: it has to be a number above 0"),
        ({"label": {"type": "segmentation", "ignore": "x"}}, r"ignore=x: it has to be a number"),
        ({"label": {"type": "segmentation", "classes": 1}}, r"classes=1: names, or their number"),
        ({"nowhere": {"type": "segmentation"}}, r"there is no folder .*nowhere"),
    ],
)
def test_mistakes_in_tasks_are_told(tasks: Any, said: str, folder: Path) -> None:
    with pytest.raises(UserError, match=said):
        Dense(str(folder), tasks).load()


def npy_layout(path: Path, counts: dict[str, int], maps: tuple[str, ...]) -> None:
    """As the prepared files of MTAN are: channels last, classes as fractions with -1, depth [H, W, 1] with 0."""
    for part, count in counts.items():
        for number, scene in enumerate(scenes(count)):
            label, depth, normal = scene.classes.astype(np.float32), scene.depth[..., None].copy(), scene.normals.copy()
            label[0], depth[0], normal[0] = -1, 0, 0
            arrays = {"image": scene.image.transpose(1, 2, 0), "label": label, "depth": depth, "normal": normal}
            for name in ("image", *maps):
                (path / part / name).mkdir(parents=True, exist_ok=True)
                np.save(path / part / name / f"{number}.npy", arrays[name])


@pytest.mark.parametrize(("preset", "maps"), [(NYUv2, ("label", "depth", "normal")), (Cityscapes, ("label", "depth"))])
def test_presets_read_the_published_layout(preset: Any, maps: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"are missing: train/image/, train/label/.*val/depth/.*\n.*lorenmt/mtan.*licence"
    ) as refused:
        preset(path=str(tmp_path)).load()
    assert len(str(refused.value).splitlines()) == 2
    npy_layout(tmp_path, {"train": 12, "val": 3}, maps)
    with pytest.raises(UserError, match=r"has 12 scenes, and the published data .*dataset.verify=false"):
        preset(path=str(tmp_path)).load()
    data = preset(path=str(tmp_path), verify=False, validation=0.25).load()
    assert {part: len(rows(data, part)) for part in data.splits} == {"train": 9, "validation": 3, "test": 3}
    scene, split = scenes(3)[2], data.splits["test"]
    assert torch.equal(split.inputs["input"]["image"][2], torch.from_numpy(scene.image))
    assert (split.targets["segmentation"][2, 0] == MISSING).all()
    assert torch.equal(split.targets["segmentation"][2, 1:], torch.from_numpy(scene.classes)[1:])
    depth = split.targets["depth"][2] * data.targets["depth"].scale[0]
    assert depth[0].isnan().all()
    torch.testing.assert_close(depth[1:], torch.from_numpy(scene.depth)[1:])
    with pytest.raises(UserError, match=r"dataset\.tasks\.depth\.type: dataset=.* fixes it"):
        preset(path=str(tmp_path), tasks={"depth": {"type": "normals"}})


def test_scenes_are_what_their_maps_say() -> None:
    """Normals follow from depths by differences, where nothing begins or ends; the same seed draws the same."""
    size = 96
    scene = drawn(np.random.default_rng(1), size, 3)
    depth = scene.depth.astype(np.float64)
    right, up = np.gradient(depth, 2 / size, axis=1), -np.gradient(depth, 2 / size, axis=0)
    normals = np.stack([right, up, np.ones_like(right)], -1)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    close = (normals * scene.normals).sum(-1)
    assert np.quantile(close, 0.15) > 0.999 and np.allclose(np.linalg.norm(scene.normals, axis=-1), 1, atol=1e-6)
    first, again, other = (
        Shapes(rows=3, validation_rows=1, test_rows=1, size=8, missing=0.5, split_seed=seed).load() for seed in (0, 0, 1)
    )
    assert first.fingerprint == again.fingerprint != other.fingerprint
    lost = {
        name: float((t.isnan() if t.is_floating_point() else t == MISSING).float().mean())
        for name, t in first.splits["train"].targets.items()
    }
    assert all(0.3 < share < 0.7 for share in lost.values()) and not first.splits["test"].targets["depth"].isnan().any()


def test_a_run_that_skips_passes_over_images_and_maps_of_new_rows_too(folder: Path) -> None:
    """Of a file: its rows that cannot be used, in a stored preparation; one that stops says of none."""
    (folder / "rows.csv").write_text("image,label\n" + "".join(f"image/{n}.png,label/{n}.png\n" for n in range(6)))
    tasks = {"label": TASKS["label"]}
    skips, stops = (Dense(str(folder), tasks, on_error=how, max_errors=3).load().preparation for how in ("skip", "stop"))
    _cut(folder / "image" / "4.png")
    _cut(folder / "label" / "2.png")
    prepared, strict = (read_preparation(json.loads(json.dumps(stored)))["input"] for stored in (skips, stops))
    assert (prepared.max_errors, strict.max_errors) == (3, None)
    for columns, bad in ((["image"], [4]), (["image", "label"], [2, 4])):
        (rows,) = prepared.batches(folder / "rows.csv", columns, 100)
        found = prepared.unusable(rows)
        assert list(found) == bad and "4.png: " in str(found[4]) and "rows.csv, line 6" in str(found[4])
