"""What a run keeps of its data set may be a stranger's: each value is told that is none that this program writes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mtl_runner.batch import Data
from mtl_runner.datasets.base import Dataset
from mtl_runner.datasets.digits import Digits
from mtl_runner.datasets.shapes import Shapes
from mtl_runner.datasets.synthetic import Synthetic
from mtl_runner.datasets.table import Table
from mtl_runner.datasets.texts import Text
from mtl_runner.errors import UserError
from mtl_runner.folder import RunFolder
from mtl_runner.predict import _read_preparation

TASKS: dict[str, Any] = {"mood": {}, "size": {"type": "regression"}}


def rows(folder: Path) -> str:
    made = [{"text": f"word {n}", "age": n, "city": "ab"[n % 2], "mood": n % 2, "size": n / 7} for n in range(40)]
    lines = [",".join(made[0]), *(",".join(map(str, row.values())) for row in made)]
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    return str(folder / "rows.csv")


def table(folder: Path) -> Dataset:
    return Table(rows(folder), TASKS, ignore=["text"])


def text(folder: Path) -> Dataset:
    return Text(rows(folder), TASKS, characters=True)


def kept(data: Data, folder: Path) -> tuple[RunFolder, Any]:
    run = RunFolder(folder)
    run.write_data(data)
    return run, run.read_json("data.json")


@pytest.mark.parametrize(
    "made", [table, text, lambda _: Digits(), lambda _: Synthetic(), lambda _: Shapes()], ids=lambda made: made.__name__
)
def test_what_a_run_writes_is_read(made: Callable[[Path], Dataset], tmp_path: Path) -> None:
    run, _ = kept(made(tmp_path).load(), tmp_path)
    streams = run.read_specs()[0]
    assert set(_read_preparation(run, streams)) == set(streams)


@pytest.mark.parametrize(
    ("made", "keys", "value", "said"),
    [
        (table, ["numbers", 0, "center"], "x", r"preparation\.numbers\.0\.center=x: must be a number"),
        (table, ["categories", 0, "vocabulary"], [["a"], "b"], r"preparation\.categories\.0\.vocabulary\.0=\[\"a\"\]: must be"),
        (table, ["tasks", "mood", "labels"], {"0": [0]}, r"preparation\.tasks\.mood\.labels\.0=\[0\]: must be a whole number"),
        (table, ["tasks", "size", "scale"], [None], r"preparation\.tasks\.size\.scale\.0=null: must be a number"),
        (table, ["reading", "missing"], [1], r"preparation\.reading\.missing\.0=1: must be"),
        (table, ["stream"], {}, r"writes no such preparation"),
        (table, ["shape"], "ab", r"preparation\.shape\.0=a: must be a whole number"),
        (table, ["categories"], [], r"streams\.input\.fields=.*, and its preparation makes "),
        (table, ["categories", 0, "vocabulary"], ["a", "b", "c"], r"streams\.input\.cardinalities=\[3\], and .* makes \[4\]"),
        (text, ["reader", "length"], "long", r"preparation\.reader\.length=long: must be"),
        (text, ["reader", "vocabulary"], [1, 2], r"preparation\.reader\.words\.vocabulary\.words\.0=1: must be"),
        (text, ["texts"], 5, r"writes no such preparation \(TypeError"),
    ],
)
def test_values_deep_in_a_strangers_data_are_told_with_file_and_key(
    made: Callable[[Path], Dataset], keys: list[Any], value: object, said: str, tmp_path: Path
) -> None:
    """Of any depth; what fits its type, but not the network, too."""
    run, written = kept(made(tmp_path).load(), tmp_path)
    place = written["preparation"]
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    (tmp_path / "data.json").write_text(json.dumps(written))
    with pytest.raises(UserError, match=rf"data\.json: .*{said}"):
        _read_preparation(run, run.read_specs()[0])
