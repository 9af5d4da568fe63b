"""MultiMNIST: no digit is in two parts."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from test_image_files import idx

from mtl_runner.batch import Data
from mtl_runner.datasets.multi_mnist import MultiMNIST

TRAIN, TEST, SIDE = 200, 50, 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Digits that are one grey value each, by which they are known again: 1 to 200, and 201 to 250 of the test part."""
    for part, first, count in (("train", 1, TRAIN), ("t10k", 1 + TRAIN, TEST)):
        pixels = np.broadcast_to(np.arange(first, first + count)[:, None, None], (count, SIDE, SIDE))
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels)))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.arange(count) % 10)))
    return tmp_path


def loaded(folder: Path, seed: int = 0, validation: float = 0.1) -> Data:
    """Left digits above, right ones below them, beside each other."""
    return MultiMNIST(str(folder), shift=SIDE, canvas=None, verify=False, split_seed=seed, validation=validation).load()


def digits(data: Data, part: str) -> tuple[list[int], list[int]]:
    """Grey values of the left and the right digits."""
    image = (data.splits[part].inputs["input"]["image"] * 255).round().long()
    return image[:, 0, 0, 0].tolist(), image[:, 0, -1, -1].tolist()


def test_the_digits_of_a_part_are_in_no_other_one(folder: Path) -> None:
    data = loaded(folder, validation=0.2)
    left, right = ({part: digits(data, part)[side] for part in data.splits} for side in (0, 1))
    assert [len(left[part]) for part in ("train", "validation", "test")] == [160, 40, 50]
    for part, split in data.splits.items():
        assert len(set(left[part])) == len(left[part]) and set(right[part]) <= set(left[part])
        for side, name in ((left, "left"), (right, "right")):  # value 1 is a 0, as is 201
            assert split.targets[name].tolist() == [(value - 1) % 10 for value in side[part]]
    assert sorted(left["train"] + left["validation"]) == list(range(1, TRAIN + 1))
    counts = data.splits["validation"].targets["left"].bincount(minlength=10)
    assert counts.tolist() == [4] * 10


def test_pairs_and_parts_are_those_of_the_seed(folder: Path) -> None:
    first, again, other = loaded(folder), loaded(folder), loaded(folder, seed=1)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert digits(first, "validation")[0] != digits(other, "validation")[0]
    assert digits(first, "test")[1] != digits(other, "test")[1]
    assert digits(first, "test") == digits(loaded(folder, validation=0.3), "test")
    assert digits(first, "test")[1][:5] == [227, 248, 246, 243, 213]  # as when training partners were drawn before the split
