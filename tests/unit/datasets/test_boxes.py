"""Boxes around objects: which are no boxes, which are not in their image, and whose they are."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mtl_runner.batch import Data
from mtl_runner.datasets.images import ImageTable
from mtl_runner.errors import UserError

COUNT, WIDTH, HEIGHT = 12, 40, 30
BROKEN = {
    "30 30 10 10 red": r"the box from \(30, 30\) to \(10, 10\) has no area",
    "30 10 10 30 red": r"the box from \(30, 10\) to \(10, 30\) has no area",
    "10 10 10 10 red": r"the box from \(10, 10\) to \(10, 10\) has no area",
    "nan 1 20 20 red": "a number of the box is missing",
    "1 1 inf 20 red": r"the box from \(1, 1\) to \(inf, 20\) has no end",
    "1 1 2": "'1 1 2' is no list of boxes",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(COUNT):
        Image.new("RGB", (WIDTH, HEIGHT), (i, 0, 0)).save(tmp_path / f"{i}.png")
    return tmp_path


def in_a_column(folder: Path, first: str, **options: Any) -> Data:
    """Of the first image these boxes, of each other one a sound one."""
    rows = [f"{i}.png,{first if i == 0 else '5 5 20 20 red'},{('train', 'val', 'test')[i % 3]}" for i in range(COUNT)]
    (folder / "labels.csv").write_text("\n".join(["image,objects,part", *rows]) + "\n")
    split = {"by": "column", "column": "part"}
    return ImageTable(str(folder / "labels.csv"), {"objects": {"type": "detection"}}, split=split, **options).load()


def in_a_file(folder: Path, *lines: str, **options: Any) -> Data:
    in_a_column(folder, "5 5 20 20 red")
    (folder / "names.csv").write_text("\n".join(["image", *(f"{i}.png" for i in range(COUNT))]) + "\n")
    (folder / "boxes.csv").write_text("\n".join(["image,x1,y1,x2,y2,class", *lines, "1.png,5,5,20,20,red"]) + "\n")
    tasks, boxes = {"objects": {"type": "detection"}}, str(folder / "boxes.csv")
    return ImageTable(str(folder / "names.csv"), tasks, boxes=boxes, **options).load()


def told(data: Data) -> str:
    return "\n".join(data.notes)


@pytest.mark.parametrize(("cell", "message"), BROKEN.items())
def test_a_broken_box_in_a_column_ends_the_run_with_its_line_or_is_passed_over(folder: Path, cell: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"labels.csv, line 2, column 'objects': {message}"):
        in_a_column(folder, cell)
    data = in_a_column(folder, f"2 2 9 9 red; {cell}", on_error="skip")
    assert len(data.skipped) == 1 and "labels.csv, line 2, column 'objects'" in data.skipped[0] and "skipped.txt" in told(data)
    first = data.splits["train"].targets["objects"][0]
    if "no list" in message:  # nobody can say what is in the image
        assert first.isnan().all()
    else:
        assert first[first[:, 4] >= 0].tolist() == [pytest.approx([2 / WIDTH, 2 / HEIGHT, 9 / WIDTH, 9 / HEIGHT, 0])]
    with pytest.raises(UserError, match=r"more than dataset.max_errors=0"):
        in_a_column(folder, cell, on_error="skip", max_errors=0)


def test_structures_are_checked_as_texts_are(folder: Path) -> None:
    boxes: list[Any] = [[{"x1": 1.0, "y1": 1.0, "x2": 9.0, "y2": 9.0, "class": "red"}] for _ in range(COUNT)]
    boxes[3] = [{"x1": 9.0, "y1": 9.0, "x2": 1.0, "y2": 1.0, "class": "red"}]
    boxes[4] = [{"x1": 1.0, "y1": 1.0, "x2": 9.0, "y2": 9.0, "class": None}]
    pq.write_table(pa.table({"image": [f"{i}.png" for i in range(COUNT)], "objects": boxes}), folder / "labels.parquet")

    def data(**options: Any) -> Data:
        return ImageTable(str(folder / "labels.parquet"), {"objects": {"type": "detection"}}, **options).load()

    with pytest.raises(UserError, match=r"labels.parquet, row 4, .*'objects': the box from \(9, 9\) to \(1, 1\) has no area"):
        data()
    found = data(on_error="skip")
    assert [line.rpartition(": ")[2] for line in found.skipped] == [
        "the box from (9, 9) to (1, 1) has no area",
        "the box has no class",
    ]
    assert found.targets["objects"].columns == ("red",)


def test_boxes_outside_of_their_image_are_counted(folder: Path) -> None:
    message = "task objects: 1 boxes are not used, as less than a quarter of them lies in their image, the first in 0.png"
    for data in (in_a_column(folder, "500 500 600 600 red; 1 1 9 9 red"), in_a_file(folder, "0.png,500,500,600,600,red")):
        assert message in told(data)
    assert "are not used" not in told(in_a_column(folder, "-5 1 9 9 red")) + told(in_a_column(folder, "?"))
    assert "in what fit=crop shows of their image" in told(in_a_column(folder, "0 1 4 9 red", size=20, fit="crop"))


def test_names_in_a_file_of_boxes_may_have_blanks_around_them(folder: Path) -> None:
    data = in_a_file(folder, " 0.png ,5,5,20,20, red")
    assert "boxes by class: red 2" in told(data)
    with pytest.raises(UserError, match=r"boxes.csv, line 2: image '' is not among those with labels"):
        in_a_file(folder, ",5,5,20,20,red")
