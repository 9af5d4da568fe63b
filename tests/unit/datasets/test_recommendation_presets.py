"""MovieLens, Census-Income and AliExpress: small files in the published formats, through the code that reads the real ones."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from omegaconf import OmegaConf

from mtl_runner.batch import Data
from mtl_runner.config import config_dir, plug
from mtl_runner.datasets.census_income import COLUMNS
from mtl_runner.datasets.movielens import GENRES
from mtl_runner.datasets.prepared import read_preparation
from mtl_runner.errors import UserError

DRAWS = np.random.default_rng(0)


def loaded(option: str, **changes: Any) -> Data:
    """With the configuration file's own values."""
    node: Any = OmegaConf.to_container(OmegaConf.load(config_dir() / "dataset" / f"{option}.yaml"), resolve=False)
    return plug(node, "dataset")(**changes).load()  # type: ignore[no-any-return]


def ratings(separator: str, count: int = 300) -> str:
    return "".join(
        separator.join(map(str, (1 + n % 20, 1 + DRAWS.integers(15), 1 + DRAWS.integers(5), 880_000_000 + n))) + "\n"
        for n in range(count)
    )


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """ml-100k: an item without a date, and a title that is not ASCII; the last film belongs to no genre."""
    (tmp_path / "u.data").write_text(ratings("\t"))
    (tmp_path / "u.user").write_text("".join(f"{user}|{20 + user}|{'MF'[user % 2]}|writer|0{user}213\n" for user in range(1, 21)))
    flags = ["|".join(str(int(place == film % 19)) for place in range(19)) for film in range(15)]
    (tmp_path / "u.item").write_bytes(
        "".join(
            f"{film}|Fée {film} ({1980 + film})|{'' if film == 3 else '01-Jan-1995'}||http://x|{flags[film - 1]}\n"
            for film in range(1, 16)
        ).encode("latin-1")
    )
    return tmp_path


def test_ml_100k(small: Path) -> None:
    data = loaded("movielens", path=str(small), layout="ml-100k")
    assert {name: spec.kind for name, spec in data.targets.items()} == {"rating": "rating", "liked": "ranking"}
    names = data.streams["input"].names
    assert names["categorical"][:2] == ("user", "item") and {"gender", "occupation"} <= set(names["categorical"])
    assert {"age", "year", *(f"genre: {genre}" for genre in GENRES[:15])} <= set(names["numeric"]) and "time" not in names[
        "numeric"
    ]
    spec = data.targets["rating"]
    for split in data.splits.values():
        stars = split.targets["rating"] * spec.scale[0] + spec.center[0]
        assert torch.equal(split.targets["liked"], (stars > 3.5).float())
    (prepared,) = read_preparation(json.loads(json.dumps(data.preparation))).values()
    new = pa.table({"user": ["1", "99"], "item": ["7", "7"]})
    assert prepared.inputs(new)["categorical"][:, 0].tolist()[1] == 0
    timely = loaded("movielens", path=str(small), split={"by": "time", "column": "time"}, features=False)
    assert timely.streams["input"].names == {"categorical": ("user", "item")}


def test_ml_1m(tmp_path: Path) -> None:
    (tmp_path / "ratings.dat").write_text(ratings("::"))
    (tmp_path / "users.dat").write_text(
        "".join(f"{user}::{'MF'[user % 2]}::{(1, 18, 25)[user % 3]}::4::4{user}\n" for user in range(1, 21))
    )
    (tmp_path / "movies.dat").write_text(
        "".join(f"{film}::Film {film} (1999)::{('Comedy', 'Drama|Comedy')[film % 2]}\n" for film in range(1, 16))
    )
    with pytest.raises(UserError, match=r"ratings.dat has .* bytes and not 24,594,131.*\n.*dataset.verify=false"):
        loaded("movielens", path=str(tmp_path), layout="ml-1m")
    data = loaded("movielens", path=str(tmp_path), layout="ml-1m", verify=False, split={"by": "item"})
    assert data.streams["input"].names["numeric"] == ("year", "genres: Comedy", "genres: Drama")
    assert set(data.streams["input"].names["categorical"]) == {"user", "item", "gender", "age", "occupation"}


def test_a_broken_line_and_missing_files_are_named(small: Path) -> None:
    (small / "u.user").write_text("1|24|M|writer\n")
    with pytest.raises(UserError, match=r"u.user, line 1: 4 values, but there are 5 columns: user, age"):
        loaded("movielens", path=str(small))
    (small / "u.item").unlink()
    (small / "u.data").unlink()
    with pytest.raises(UserError, match=r"missing: u.data, u.item\n.*grouplens.org.*licence: research use"):
        loaded("movielens", path=str(small))


def person(number: int) -> str:
    cells = dict.fromkeys(COLUMNS, "Not in universe") | {
        "age": str(number % 80),
        "migration code-change in msa": "?",
        "year": "94",
    }
    cells |= {name: str(number % 3) for name in ("industry code", "weeks worked in year", "veterans benefits", "capital gains")}
    cells |= {"marital status": ("Never married", "Divorced")[number % 2], "education": f"grade {number % 5}"}
    return ", ".join(
        [*(cells | {"instance weight": f"{17 * number}.66", "income": ("- 50000.", "50000+.")[number % 7 == 0]}).values()]
    )


def test_census_income(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "census-income.data.gz", "wt") as file:
        file.writelines(f" {person(number)}\n" for number in range(200))
    (tmp_path / "census-income.test").write_text("".join(f" {person(number)}\n" for number in range(200, 300)))
    data = loaded("census_income", path=str(tmp_path))
    rows = {part: split.context["input"]["row"] for part, split in data.splits.items()}
    assert [len(each) for each in rows.values()] == [200, 50, 50] and rows["train"].max() == 199
    for part, split in data.splits.items():
        assert torch.equal(split.targets["income"], (rows[part] % 7 == 0).float())
        assert torch.equal(split.targets["never_married"], (rows[part] % 2 == 0).float())
    names = data.streams["input"].names
    assert {"industry code", "veterans benefits", "year"} <= set(names["categorical"])
    inputs = {*names["categorical"], *names["numeric"]}
    assert "instance weight" not in inputs and "marital status" not in inputs and {"age", "weeks worked in year"} <= inputs
    other = loaded("census_income", path=str(tmp_path), protocol="training", validation=0.25)
    assert [split.size("input") for split in other.splits.values()] == [150, 50, 100]
    (tmp_path / "census-income.test").unlink()
    with pytest.raises(UserError, match=r"missing: census-income.test.gz\n.*archive.ics.uci.edu.*CC BY 4.0"):
        loaded("census_income", path=str(tmp_path))


def test_aliexpress(tmp_path: Path) -> None:
    names = [
        "search_id",
        *(f"categorical_{n}" for n in range(1, 17)),
        *(f"numerical_{n}" for n in range(1, 64)),
        "click",
        "conversion",
    ]
    for name, rows in (("train.csv", 120), ("test.csv", 40)):
        lines = [",".join(names)]
        for row in range(rows):
            click = int(DRAWS.random() < 0.4)
            cells = [str(row // 8), *map(str, DRAWS.integers(0, 4, 16)), *(f"{value:.4f}" for value in DRAWS.normal(size=63))]
            lines.append(",".join([*cells, str(click), str(int(click and DRAWS.random() < 0.5))]))
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    data = loaded("aliexpress", path=str(tmp_path))
    assert [split.size("input") for split in data.splits.values()] == [108, 12, 40]
    assert data.splits["test"].context["input"]["row"].min() == 120
    assert data.streams["input"].fields == {"numeric": (63,), "categorical": (16,)}
    assert len(data.splits["test"].context["input"]["user"].unique()) == 5
    assert loaded("aliexpress", path=str(tmp_path), rows=20).splits["test"].size("input") == 20
    (tmp_path / "test.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"test.csv: no column is called 'search_id'"):
        loaded("aliexpress", path=str(tmp_path))
