"""The experiments on images beat linear models of the same pixels; runs do not depend on where the images wait."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pytest
import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import r2_score, roc_auc_score

from mtl_runner import run
from mtl_runner.config import plug
from mtl_runner.datasets.faces import ATTRIBUTES, CLASSES, POINTS, drawn
from mtl_runner.metrics.detection import detection, detection_summary
from mtl_runner.metrics.keypoints import keypoints, keypoints_summary
from mtl_runner.predict import evaluate, predict
from mtl_runner.trainer import Trainer

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"
Train = Callable[..., Path]
COUNT, SIDE = 60, 16


def typed(name: str) -> list[str]:
    """An experiment's values as they would be typed."""
    values = yaml.safe_load((EXPERIMENTS / f"{name}.yaml").read_text())
    chosen = [f"{key.split()[1]}={value}" for line in values.pop("defaults")[1:-1] for key, value in line.items()]
    return chosen + list(flat({group: keys for group, keys in values.items() if group != "name"}))


def flat(values: Any, place: str = "") -> Any:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{place}{key}.")
        else:
            yield (
                f"++{place}{key}={json.dumps(value)}".replace('"', "")
                if place.count(".") > 1
                else f"{place}{key}={json.dumps(value)}"
            )


def results(folder: Path) -> Any:
    return json.loads((folder / "test_metrics.json").read_text())["tasks"]


def data_of(config: DictConfig) -> Any:
    node: Any = OmegaConf.to_container(config.dataset)
    return plug(node, "dataset")().load()


@pytest.mark.slow
def test_faces_beat_linear_models_of_the_pixels(make_config: Callable[..., DictConfig], train: Train) -> None:
    found = results(train(*typed("faces")))
    data = data_of(make_config(*typed("faces")))
    training, test = data.splits["train"], data.splits["test"]
    x, new = (split.inputs["input"]["image"].flatten(1).numpy() for split in (training, test))
    for task in ATTRIBUTES:
        linear = LogisticRegression(C=0.01, max_iter=200).fit(x, training.targets[task].numpy()).decision_function(new)
        assert found[task]["roc_auc"] > roc_auc_score(test.targets[task].numpy(), linear) + 0.15
    points = torch.from_numpy(Ridge(100.0).fit(x, training.targets["points"].flatten(1).numpy()).predict(new)).view(1, -1, 5, 2)
    whole = torch.full(points.shape[:2], 2**0.5)
    ridge = keypoints(keypoints_summary(points, test.targets["points"][None], whole, 0.05))
    assert found["points"]["pck"] > ridge["pck"].item() + 0.2 and found["points"]["nme"] < 0.7 * ridge["nme"].item()
    corners = (
        Ridge(100.0).fit(x, training.targets["objects"][:, 0, :4].numpy()).predict(new)
    )  # of the face, which is always there
    true = test.targets["objects"][None]
    guess = torch.from_numpy(corners)[None, :, None]
    one = torch.ones(1, len(new), 1)
    linear = detection(detection_summary(guess, one, torch.zeros_like(one).long(), true[..., :4], true[..., 4].long(), 2))
    assert found["objects"]["ap"] > linear["ap"].item() + 0.1 and found["objects"]["ap50"] > linear["ap50"].item() + 0.2


@pytest.mark.slow
def test_half_hidden_digits_beat_linear_models_with_twenty_times_their_examples(
    make_config: Callable[..., DictConfig], train: Train
) -> None:
    found = results(train(*typed("half_hidden_digits")))
    data = data_of(make_config(*typed("half_hidden_digits")))
    training, test, draws = data.splits["train"], data.splits["test"], torch.Generator().manual_seed(0)
    x = torch.cat([data.augmentation(training, draws).inputs["input"]["image"] for _ in range(20)]).flatten(1).numpy()
    new = test.inputs["input"]["image"].flatten(1).numpy()
    assert (new == 0)[:, 20].mean() > 0.45 and 0.4 < (new[:, 36] == 0).mean() < 0.95
    linear = LogisticRegression(C=0.1, max_iter=100).fit(x, np.tile(training.targets["digit"].numpy(), 20)).predict(new)
    assert found["digit"]["accuracy"] > (linear == test.targets["digit"].numpy()).mean() + 0.03
    ridge = Ridge(1.0).fit(x, np.tile(training.targets["reconstruction"].numpy(), (20, 1))).predict(new)
    expected = r2_score(test.targets["reconstruction"].numpy(), ridge, multioutput="variance_weighted")
    assert found["reconstruction"]["r2"] > expected + 0.02


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some faces as files with labels.csv, the boxes in a column."""
    folder = tmp_path_factory.mktemp("faces")
    pixels, targets = drawn(COUNT, SIDE, 0.05, 3)
    lines = [",".join(["image", "smiling", *(f"{point}_{axis}" for point in POINTS for axis in "xy"), "objects"])]
    for i, image in enumerate(pixels):
        Image.fromarray(image.transpose(1, 2, 0)).resize((24, 32)).save(folder / f"{i}.png")
        scale = np.array([24, 32])
        boxes = [(*(box[:4] * [*scale, *scale]), CLASSES[int(box[4])]) for box in targets["objects"][i] if box[4] >= 0]
        cell = "; ".join(" ".join(map(str, box)) for box in boxes)
        points = (targets["points"][i] * scale).flatten().tolist()
        lines.append(",".join(map(str, [f"{i}.png", int(targets["smiling"][i]), *points, cell])))
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder / "labels.csv"


def small(labels: Path, *more: str) -> list[str]:
    tasks = "{smiling:{type:binary},points:{type:keypoints,columns:['*_x','*_y']},objects:{type:detection}}"
    data = [f"dataset.path={labels}", f"dataset.tasks={tasks}", "dataset.size=16", "dataset.split.validation=0.2"]
    rest = ["encoder.channels=[4]", "encoder.features=map", "trainer.batch_size=16", "trainer.eval_batch_size=16"]
    return [
        "dataset=images",
        "encoder=cnn",
        *data,
        *rest,
        "dataset.augmentation.flip=true",
        "dataset.augmentation.shift=0.2",
        *more,
    ]


def test_a_run_is_the_same_wherever_its_images_wait_and_predicts_from_paths(labels: Path, train: Train, tmp_path: Path) -> None:
    folders = [
        train(*small(labels, f"dataset.cache={cache}", f"dataset.workers={workers}"))
        for cache, workers in (("device", 0), ("host", 0), ("none", 2))
    ]
    first, *others = ((folder / "test_metrics.json").read_text() for folder in folders)
    assert all(other == first for other in others)
    predict(folders[0], labels, tmp_path / "found.csv", batch_size=7)
    table = pyarrow.csv.read_csv(tmp_path / "found.csv")
    assert table.num_rows == COUNT
    assert {"smiling_probability", "points_nose_x", "objects", "objects_score", "objects_box"} <= set(table.column_names)
    x = table.column("points_nose_x").to_numpy()
    assert 4 < x.mean() < 20  # pixels of the file, not of what the network sees
    assert evaluate(folders[0], labels).metrics["points"]["nme"] < 1


def test_an_augmented_run_that_goes_on_ends_as_one_that_never_stopped(
    labels: Path, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = small(labels, "trainer.epochs=3", "dataset.augmentation.crop=0.8", "dataset.augmentation.brightness=0.2")
    taken, finite = 0, Trainer.finite

    def breaking(self: Trainer, *arguments: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == 5:
            raise KeyboardInterrupt
        return finite(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "finite", breaking)
        with pytest.raises(KeyboardInterrupt):
            train(*options, folder=tmp_path / "stopped")
    run.resume(tmp_path / "stopped")
    whole = train(*options)
    for name in ("test_metrics.json", "weights.safetensors"):
        assert (whole / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()
