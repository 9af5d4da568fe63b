"""Columns of a table as multilabel, ordinal, quantile, count and survival tasks."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from mtl_runner.batch import MISSING
from mtl_runner.datasets.rows.preparation import Preparation
from mtl_runner.datasets.rows.reading import read
from mtl_runner.datasets.table import Table
from mtl_runner.errors import UserError
from mtl_runner.labels import profile

ROWS = 60
TASKS = {
    "grade": {"type": "ordinal", "classes": ["poor", "fair", "good"]},
    "stars": {"type": "ordinal", "loss": "binary"},
    "visits": {"type": "count"},
    "spend": {"type": "quantile", "quantiles": [0.2, 0.8]},
    "life": {"type": "survival", "time": "days", "event": "died", "model": "discrete", "intervals": 4},
    "genre": {"type": "multilabel", "columns": "is_*"},
    "cost": {"type": "regression", "columns": "spend", "loss": "gaussian", "delta": 2.0},
}


@pytest.fixture
def frame():
    draws = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "x": draws.normal(size=ROWS).round(3),
            "grade": draws.choice(["poor", "fair", "good"], ROWS),
            "stars": draws.choice(["1", "2", "10", ""], ROWS),
            "visits": draws.poisson(3, ROWS),
            "spend": draws.normal(100, 20, ROWS).round(1),
            "days": draws.exponential(50, ROWS).round(1),
            "died": draws.choice(["yes", "no", ""], ROWS, p=[0.6, 0.3, 0.1]),
            "is_drama": draws.choice(["1", "-1"], ROWS),
            "is_comic": draws.choice(["Yes", "NO", ""], ROWS),
        }
    )


@pytest.fixture
def load(frame, tmp_path):
    def loaded(tasks=None, **options):
        frame.to_csv(tmp_path / "data.csv", index=False)
        return Table("data.csv", TASKS if tasks is None else tasks, **options).load()

    return loaded


def test_labels_are_what_the_columns_say(frame, load):
    data = load()
    specs = data.targets
    assert data.streams["input"].names == {"numeric": ("x",)}
    assert specs["stars"].classes == ("1", "2", "10") and specs["stars"].options == {"loss": "binary"}
    assert specs["genre"].columns == ("is_drama", "is_comic") and specs["genre"].shape == (2,) and not specs["genre"].classes
    assert specs["cost"].options == {"loss": "gaussian", "delta": 2.0}
    train = data.splits["train"].context["input"]["row"].numpy()
    known = frame.iloc[train]
    times = known["days"][(known["died"] == "yes") & (known["days"] > 0)]
    assert specs["life"].options["cuts"] == sorted(np.quantile(times, [0.25, 0.5, 0.75, 1], method="higher"))
    assert specs["visits"].scale == pytest.approx((known["visits"].mean(),)) and specs["visits"].center == (0.0,)
    for split in data.splits.values():
        rows = frame.iloc[split.context["input"]["row"].numpy()]
        np.testing.assert_allclose(split.targets["visits"] * specs["visits"].scale[0], rows["visits"], rtol=1e-6)
        np.testing.assert_allclose(
            split.targets["spend"] * specs["spend"].scale[0] + specs["spend"].center[0], rows["spend"], rtol=1e-5
        )
        stars = rows["stars"].map({"1": 0, "2": 1, "10": 2, "": MISSING})
        np.testing.assert_array_equal(split.targets["stars"], stars)
        np.testing.assert_array_equal(split.targets["grade"], rows["grade"].map({"poor": 0, "fair": 1, "good": 2}))
        died = rows["died"].map({"yes": 1.0, "no": 0.0, "": np.nan})
        np.testing.assert_allclose(split.targets["life"], np.stack([rows["days"].where(died.notna()), died], 1), rtol=1e-6)
        comic = rows["is_comic"].map({"Yes": 1.0, "NO": 0.0, "": np.nan})
        np.testing.assert_allclose(split.targets["genre"], np.stack([(rows["is_drama"] == "1").astype(float), comic], 1))


def test_a_preparation_reads_the_same_labels_from_the_file_again(load):
    data = load()
    prepared = Preparation.from_json(json.loads(json.dumps(data.preparation)))
    targets = prepared.targets(read("data.csv", prepared.reading))
    for split in data.splits.values():
        for name, values in split.targets.items():
            again = targets[name][split.context["input"]["row"]]
            assert torch.equal(again.nan_to_num(-9), values.nan_to_num(-9)), name


def test_what_is_known_of_the_labels(frame, load):
    data = load()
    known = {each.name: each for each in profile(data)}
    train = frame.iloc[data.splits["train"].context["input"]["row"].numpy()]
    assert known["life"].classes == ("censored", "event")
    assert known["life"].counts["train"] == ((train["died"] == "no").sum(), (train["died"] == "yes").sum())
    assert known["life"].missing["train"] == (train["died"] == "").sum()
    assert known["visits"].outputs[0].mean == pytest.approx(train["visits"].mean(), rel=1e-5)
    drama = known["genre"].outputs[0]
    assert drama.name == "is_drama" and drama.mean == pytest.approx((train["is_drama"] == "1").mean())
    assert known["stars"].counts["train"] == tuple((train["stars"] == star).sum() for star in ("1", "2", "10"))


def test_labels_that_no_row_or_every_row_has_are_said(frame, load):
    frame["is_drama"] = "0"
    frame["died"] = "x"
    notes = load({"genre": TASKS["genre"], "life": {"type": "survival", "time": "days", "event": "died", "positive": "x"}}).notes
    assert any(note.startswith("task genre: no training row has is_drama") for note in notes)
    assert "task life: every training row has died" in notes


@pytest.mark.parametrize(
    ("column", "value", "task", "message"),
    [
        ("visits", -1, "visits", r"data\.csv, line 7, column 'visits': -1; a count is a whole number from 0 on"),
        ("visits", 2.5, "visits", "line 7, column 'visits': 2.5; a count"),
        ("visits", "many", "visits", "line 7, column 'visits': 'many' is not a number"),
        ("days", -3, "life", "line 7, column 'days': -3; a time is a number from 0 on"),
        ("died", "perhaps", "life", "line 7, column 'died': 'perhaps' means neither yes nor no; dataset.tasks.life.positive="),
        ("is_drama", "2", "genre", "line 7, column 'is_drama': '2' means neither yes nor no"),
        (
            "grade",
            "god",
            "grade",
            r"line 7: column 'grade' holds 'god' too \(did you mean 'good'\?\); dataset.tasks.grade.classes",
        ),
    ],
)
def test_a_cell_that_cannot_be_is_named_by_file_line_and_column(frame, load, column, value, task, message):
    frame[column] = frame[column].astype(object)
    frame.loc[5, column] = value
    with pytest.raises(UserError, match=message):
        load({task: TASKS[task]})


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({"grade": {"type": "ordinal"}}, r"tasks\.grade\.classes: in which order are fair, good, poor\?"),
        ({"life": {"type": "survival"}}, "no column is called 'time'"),
        ({"life": {"type": "survival", "columns": ["days"]}}, "two columns, the time and the event"),
        ({"grade": {"type": "multiclass", "time": "days"}}, r"tasks\.grade: option 'time' does not exist"),
        ({"visits": {"type": "count", "columns": ["visits", "days"]}}, "a count task has one column"),
        ({"visits": {"type": "count", "positive": 1}}, "neither classes nor a positive one"),
        (
            {"genre": {"type": "multilabel", "columns": "is_*", "positive": "ja"}},
            r"genre\.positive 'ja' is in none of its columns",
        ),
        ({"visits": {"type": "cuont"}}, "did you mean 'count'"),
        ({"visits": {"type": "segmentation"}}, r"visits\.type 'segmentation' does not exist"),
        ({"life": {**TASKS["life"], "intervals": 0}}, r"life\.intervals=0: a whole number from 1 on"),
    ],
)
def test_what_is_typed_wrong_is_named(load, tasks, message):
    with pytest.raises(UserError, match=message):
        load(tasks)
