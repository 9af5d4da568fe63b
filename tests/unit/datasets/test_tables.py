"""Several tables, openml's through a cache, and data of one's own function."""

import gzip
import hashlib
import json
import sys
from urllib.error import URLError

import numpy as np
import pandas as pd
import pytest
import torch
from test_table import customers

from mtl_runner.config import plug
from mtl_runner.datasets.openml import OpenML
from mtl_runner.datasets.prepared import read_preparation
from mtl_runner.datasets.python import Python
from mtl_runner.datasets.rows.reading import read
from mtl_runner.datasets.table import Table
from mtl_runner.datasets.tables import Tables
from mtl_runner.errors import UserError

TASKS = {"churn": {"table": "shop", "type": "binary"}, "wear": {"table": "machines"}, "age": {"table": "shop", "type": "count"}}


@pytest.fixture
def files(tmp_path):
    draws = np.random.default_rng(0)
    customers(80).to_csv(tmp_path / "shop.csv", index=False)
    machines = pd.DataFrame({"load": draws.normal(size=50), "kind": draws.choice(["a", "b"], 50), "wear": draws.normal(size=50)})
    machines.to_csv(tmp_path / "machines.csv", index=False)
    return {"shop": "shop.csv", "machines": {"path": "machines.csv"}}


def test_each_table_is_a_stream_that_equals_the_table_alone(files):
    data = Tables(files, TASKS, split={"by": "random", "validation": 0.2, "test": 0.2}).load()
    assert list(data.targets) == list(data.splits["test"].targets) == list(TASKS) and list(data.streams) == ["shop", "machines"]
    own = {task: {key: value for key, value in options.items() if key != "table"} for task, options in TASKS.items()}
    for name, tasks in {"shop": ["churn", "age"], "machines": ["wear"]}.items():
        split = {"by": "random", "validation": 0.2, "test": 0.2}
        alone = Table(f"{name}.csv", {task: own[task] for task in tasks}, split=split, stream=name).load()
        assert data.streams[name] == alone.streams[name]
        assert {task: data.targets[task] for task in tasks} == dict(alone.targets)
        for part, split in alone.splits.items():
            for field, value in split.inputs[name].items():
                assert torch.equal(data.splits[part].inputs[name][field], value)
            for task in tasks:
                assert torch.equal(data.splits[part].targets[task], split.targets[task])
        prepared = read_preparation(json.loads(json.dumps(data.preparation)))[name]
        rows = read(f"{name}.csv", prepared.reading)
        whole = prepared.inputs(rows)["numeric"]
        assert torch.equal(whole[data.splits["test"].context[name]["row"]], data.splits["test"].inputs[name]["numeric"])
    assert any(note.startswith("machines: task wear: taken for regression") for note in data.notes)


def test_only_leaves_out_the_streams_that_nobody_reads(files):
    data = Tables(files, TASKS, only=["wear"]).load()
    assert [*data.targets] == ["wear"] and [*data.streams] == ["machines"] == [*data.splits["train"].inputs]
    assert [*read_preparation(data.preparation)] == ["machines"]


def test_a_table_of_the_tasks_name_is_its_own(files):
    data = Tables({"wear": "machines.csv", "churn": "shop.csv"}, ["churn", "wear"]).load()
    assert {name: spec.stream for name, spec in data.targets.items()} == {"churn": "churn", "wear": "wear"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": {**TASKS, "churn": {"table": "shp"}}}, r"tasks\.churn\.table=shp \(did you mean 'shop'\?\)"),
        ({"tasks": {**TASKS, "churn": None}}, r"tasks\.churn: says not which table"),
        ({"tasks": {"wear": {"table": "machines"}}}, "no task reads shop"),
        ({"tables": {"shop": "shop.csv", "machines": {"path": "machines.csv", "separater": ";"}}}, "did you mean 'separator'"),
        ({"tables": {"shop": "shop.csv", "machines": 3}}, r"tables\.machines: the path of a file"),
        ({"tables": {"shop": "shop.csv", "machines": "machine.csv"}}, r"tables\.machines: there is no file machine\.csv"),
        (
            {"tasks": {**TASKS, "wear": {"table": "machines", "type": "count"}}},
            r"machines: machines\.csv, line \d+, column",
        ),
    ],
)
def test_what_is_typed_wrong_is_named(files, change, message):
    with pytest.raises(UserError, match=message):
        Tables(**{"tables": files, "tasks": TASKS, **change}).load()


# ---- openml -------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path):
    """What scikit-learn keeps of a data set of 60 rows: a number, a nominal column of digits, a class."""
    draws = np.random.default_rng(0)
    rows = "\n".join(f"{value:.3f},{draws.integers(1, 4)},{'yes' if value > 0 else 'no'}" for value in draws.normal(size=60))
    arff = f"@relation small\n@attribute size numeric\n@attribute sort {{1,2,3}}\n@attribute class {{no,yes}}\n@data\n{rows}\n"
    columns = [("size", "numeric"), ("sort", "nominal"), ("class", "nominal")]
    features = [
        {"index": str(i), "name": name, "data_type": kind, "is_target": str(name == "class").lower(), "is_ignore": "false",
         "is_row_identifier": "false", "number_of_missing_values": "0"}
        for i, (name, kind) in enumerate(columns)
    ]  # fmt: skip
    url = "https://www.openml.org/data/v1/download/5/small.arff"
    description = {"id": "1", "name": "small", "version": "1", "format": "ARFF", "file_id": "5", "status": "active", "url": url,
                   "description": "", "md5_checksum": hashlib.md5(arff.encode()).hexdigest()}  # fmt: skip
    found = {
        "api/v1/json/data/1": {"data_set_description": description},
        "api/v1/json/data/features/1": {"data_features": {"feature": features}},
        "api/v1/json/data/qualities/1": {"data_qualities": {"quality": [{"name": "NumberOfInstances", "value": "60"}]}},
        "api/v1/json/data/list/data_name/small/limit/2/status/active/": {"data": {"dataset": [{"did": 1, "version": 1}]}},
        "data/v1/download/5/small.arff": arff,
    }
    for path, content in found.items():
        file = tmp_path / "openml" / "openml.org" / f"{path}.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(gzip.compress((content if isinstance(content, str) else json.dumps(content)).encode()))
    return str(tmp_path)


def test_openml_by_name_and_id_from_the_cache(cache):
    by_id, by_name = OpenML(id=1, cache=cache).load(), OpenML(name="small", cache=cache).load()
    assert by_id.fingerprint == by_name.fingerprint
    assert by_id.targets["class"].classes == ("no", "yes")
    assert by_id.streams["input"].names == {"numeric": ("size",), "categorical": ("sort",)}
    other = OpenML(id=1, cache=cache, tasks={"size": {"type": "regression"}}, ignore="class", numeric="sort").load()
    assert other.streams["input"].names == {"numeric": ("sort",)} and [*other.targets] == ["size"]


def test_openml_without_a_connection_says_so(cache, monkeypatch):
    def offline(*_):
        raise URLError("no route to host")

    monkeypatch.setattr("sklearn.datasets._openml.urlopen", offline)
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(UserError, match=r"dataset\.id=2: is not in .*no route to host.*fetch it once"):
        OpenML(id=2, cache=cache).load()
    for options in ({}, {"id": 1, "name": "small"}, {"id": 1, "version": 2}):
        with pytest.raises(UserError, match=r"dataset\.(name|version)|needs dataset"):
            OpenML(**options)


# ---- a function of one's own --------------------------------------------------------------------------------------

MODULE = """
from dataclasses import replace
import torch
from mtl_runner.batch import Data, Split, StreamSpec, TargetSpec

def split(rows):
    x = torch.randn(rows, 3, generator=torch.Generator().manual_seed(rows))
    return Split({"input": {"numeric": x}}, {"size": x.sum(1)}, {"size": "input"})

def load(rows=20):
    parts = {"train": split(rows), "validation": split(10), "test": split(11)}
    return Data(parts, {"input": StreamSpec({"numeric": (3,)})}, {"size": TargetSpec("regression")}, {})

def short(): return replace(load(), splits={**load().splits, "test": replace(split(9), targets={"size": torch.zeros(8)})})
def wide(): return replace(load(), streams={"input": StreamSpec({"numeric": (4,)})})
def lost(): return replace(load(), targets={"size": TargetSpec("regression", stream="other")})
def none(): return None
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "own_data.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "own_data"
    sys.modules.pop("own_data", None)


def test_what_a_function_returns_is_the_data_set(module):
    data = Python(f"{module}:load", {"rows": 30}).load()
    assert data.splits["train"].size("input") == 30 and data.fingerprint and data.preparation == {"kind": "python"}
    for name, message in {
        "short": "test: task size has 8 targets; its stream has 9 rows",
        "wide": r"train: input\.numeric is \(20, 3\); \(20, 4\) is expected",
        "lost": "task size reads stream 'other'; there are input",
        "none": "returns NoneType",
        "lode": "no such function in it .did you mean 'load'",
    }.items():
        with pytest.raises(UserError, match=message):
            Python(f"{module}:{name}").load()


def test_a_module_is_imported_only_where_the_command_line_allows_it(module):
    node = {"_target_": "mtl_runner.datasets.python.Python", "function": f"{module}:load", "options": None, "only": None}
    with pytest.raises(UserError, match=r"dataset\.function=own_data:load: .*allow_modules=\[own_data\]"):
        plug(node, "dataset")
    for function in ("os:system", "mtl_runner.cli:main", "own_data_2:load"):
        with pytest.raises(UserError, match="would import the module"):
            plug({**node, "function": function}, "dataset", [module])
    assert module not in sys.modules
    assert plug(node, "dataset", [module])().load().targets
