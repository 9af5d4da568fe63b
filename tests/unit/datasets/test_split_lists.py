"""Published splits of Office's domains: lists of paths and labels."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mtl_runner.datasets.office import Office
from mtl_runner.errors import UserError

CLASSES = ("bike", "lap top", "mug")


@pytest.fixture
def office(tmp_path: Path) -> Path:
    """Two domains of 18 images; of amazon the lists have three parts, of dslr two, and each leaves three images out."""
    (tmp_path / "lists").mkdir()
    for domain in ("amazon", "dslr"):
        lines = []
        for code, label in enumerate(CLASSES):
            (place := tmp_path / "office-31" / domain / "images" / label).mkdir(parents=True)
            for number in range(6):
                Image.fromarray(np.full((4, 4, 3), 40 * number + code, np.uint8)).save(place / f"{number}.png")
                lines.append(f"{domain}/images/{label}/{number}.png {code}")
        chosen = {"train": lines[0::3], "test": lines[1::3][:-1], "val": lines[2::3][:-2]}
        for part, rows in chosen.items():
            if domain == "amazon" or part != "val":
                (tmp_path / "lists" / f"{domain}_{part}.txt").write_text("\n".join(rows) + "\n\n")
    return tmp_path / "office-31"


def test_the_parts_are_those_of_the_lists(office: Path) -> None:
    lists = office.parent / "lists"
    data = Office(str(office), lists=str(lists), cache="device", size=4, split={"validation": 0.4, "test": 0.2}).load()
    assert list(data.targets) == ["amazon", "dslr"] and data.targets["dslr"].classes == CLASSES
    sizes = {part: [split.size(name) for name in data.targets] for part, split in data.splits.items()}
    assert sizes == {"train": [6, 3], "validation": [4, 3], "test": [5, 5]}
    for domain in data.targets:
        for part, ending in (("train", "train"), ("test", "test")):
            split, lines = data.splits[part], (lists / f"{domain}_{ending}.txt").read_text().split("\n")
            shades = {round(255 * image.mean().item()) for image in split.inputs[domain]["image"]}
            listed = {40 * int(line.rsplit("/", 1)[1][0]) + int(line[-1]) for line in lines if line}
            assert shades == listed if len(shades) == len(listed) else shades < listed  # of dslr's some are validation
            assert {shade % 40 for shade in shades} == {*split.targets[domain].tolist()}
    alone = Office(str(office), lists=str(lists), domains=["dslr"], size=4, split={"validation": 0.4, "test": 0.2}).load()
    assert list(alone.targets) == ["dslr"]


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        (
            "amazon_train.txt",
            "amazon/images/mug/1.png\n",
            r"amazon_train\.txt, line 1: 'amazon/images/mug/1\.png' is not the path",
        ),
        ("amazon_train.txt", "\n", r"amazon_train\.txt lists no image"),
        (
            "amazon_val.txt",
            "amazon/images/bike/0.png 0\n",
            r"amazon_val\.txt, line 1: .*bike/0\.png is listed twice, also at .*train",
        ),
        (
            "dslr_test.txt",
            "dslr/images/mug/1.png 0\n",
            r"dslr_test\.txt, line 1: label 0 has the folder 'mug', and 'bike' at .*amazon_",
        ),
        ("dslr_test.txt", "dslr/images/mug/1.png 7\n", r"dslr_test\.txt, line 1: folder mug has the label '7', and '2' at "),
        ("dslr_test.txt", "\ndslr/images/mug/99.png 2\n", r"dslr_test\.txt, line 2: image .*mug/99\.png is not there"),
        ("dslr_test.txt", None, r"in .*lists is missing: dslr_test\.txt"),
        ("dslr_train.txt", None, r"dataset\.domains: there is no domain 'dslr'.*there are: amazon"),
    ],
)
def test_what_is_wrong_with_lists_is_told(file: str, text: str | None, said: str, office: Path) -> None:
    path = office.parent / "lists" / file
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(UserError, match=said):
        Office(str(office), lists=str(path.parent), domains=["amazon", "dslr"], size=4).load()


def test_lists_exclude_folds_and_have_to_be_there(office: Path) -> None:
    with pytest.raises(UserError, match=r"dataset\.fold=1: the lists of dataset\.lists are the parts"):
        Office(str(office), lists=str(office), fold=1)
    with pytest.raises(UserError, match=r"dataset\.lists=.*office-31: there is no list DOMAIN_train\.txt"):
        Office(str(office), lists=str(office), size=4).load()
    with pytest.raises(UserError, match=r"dataset\.domains=\[\] names no domain; there are: amazon, dslr"):
        Office(str(office), domains=[], size=4).load()
