"""Digits: the images, three tasks on them, the long tail, and what every data set does alike."""

import json

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from mtl_runner.datasets.digits import Digits
from mtl_runner.datasets.rows.preparation import Preparation
from mtl_runner.datasets.rows.reading import Reading, read
from mtl_runner.errors import UserError


@pytest.fixture(scope="module")
def data():
    return Digits().load()


def digits_of(data, part):
    return data.splits[part].targets["digit"].numpy()


def test_parts_are_the_source(data):
    source = load_digits()
    rows = torch.cat([split.context["input"]["row"] for split in data.splits.values()]).numpy()
    assert sorted(rows) == list(range(1797))
    for split in data.splits.values():
        at = split.context["input"]["row"].numpy()
        image = split.inputs["input"]["image"]
        assert image.shape == (len(at), *data.streams["input"].fields["image"]) == (len(at), 1, 8, 8)
        np.testing.assert_array_equal(image[:, 0] * 16, source.images[at])
        np.testing.assert_array_equal(split.targets["digit"], source.target[at])
        np.testing.assert_array_equal(split.targets["parity"], source.target[at] % 2)
        target = data.targets["reconstruction"]
        np.testing.assert_array_equal(split.targets["reconstruction"] * torch.tensor(target.scale), source.data[at])


def test_digits_are_stratified_whatever_the_tasks(data):
    total = np.bincount(load_digits().target)
    for part, share in (("train", 0.6), ("validation", 0.2), ("test", 0.2)):
        assert np.abs(np.bincount(digits_of(data, part)) - share * total).max() <= 1
    other = Digits(tasks={"parity": {"role": "auxiliary", "metric": "mcc"}}).load()
    assert (other.targets["parity"].role, other.targets["parity"].metric) == ("auxiliary", "mcc")
    for part, split in data.splits.items():
        assert torch.equal(split.context["input"]["row"], other.splits[part].context["input"]["row"])


def test_only_and_fingerprint(data):
    alone = Digits(only=["parity"]).load()
    assert list(alone.targets) == list(alone.splits["test"].targets) == ["parity"]
    assert alone.fingerprint == data.fingerprint != Digits(split_seed=1).load().fingerprint
    assert alone.preparation == data.preparation


def test_folds_cover_every_image_once():
    rows = torch.cat([Digits(fold=fold, folds=4).load().splits["test"].context["input"]["row"] for fold in range(4)])
    assert sorted(rows.tolist()) == list(range(1797))


def test_the_long_tail_falls_exponentially_in_training_alone(data):
    tail = Digits(long_tail=100).load()
    counts = np.bincount(digits_of(tail, "train"))
    first = np.bincount(digits_of(data, "train"))[0]
    np.testing.assert_allclose(counts, first * 100 ** (-np.arange(10) / 9), atol=0.5)
    assert set(tail.splits["train"].context["input"]["row"].tolist()) <= set(
        data.splits["train"].context["input"]["row"].tolist()
    )
    for part in ("validation", "test"):
        assert torch.equal(tail.splits[part].context["input"]["row"], data.splits[part].context["input"]["row"])


def test_preparation_reads_a_file_of_pixels(data, tmp_path):
    source = load_digits(as_frame=True).frame.rename(columns={"target": "digit"}).head(20)
    source["parity"] = source["digit"] % 2
    source.to_csv(tmp_path / "digits.csv", index=False)
    preparation = Preparation.from_json(json.loads(json.dumps(data.preparation)))
    table = read(str(tmp_path / "digits.csv"), Reading())
    assert preparation.columns[9] == "pixel_1_1"
    image, targets = preparation.inputs(table)["image"], preparation.targets(table)
    for split in data.splits.values():
        for place, row in enumerate(split.context["input"]["row"].tolist()):
            if row < 20:
                assert torch.equal(split.inputs["input"]["image"][place], image[row])
                assert all(torch.equal(split.targets[name][place], targets[name][row]) for name in split.targets)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ["digits"]}, "dataset.tasks: task 'digits'.*did you mean 'digit'"),
        ({"tasks": {"digit": {"type": "binary"}}}, "option 'type'.*role, metric"),
        ({"only": ["odd"]}, "dataset.only: task 'odd'"),
        ({"only": []}, "names no task"),
        ({"long_tail": 0.5}, "above 1"),
        ({"fold": 9}, "not one of 5 folds"),
    ],
)
def test_what_is_typed_wrong_is_named(options, message):
    with pytest.raises(UserError, match=message):
        Digits(**options).load()
