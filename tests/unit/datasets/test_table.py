"""Tables: what becomes an input, what becomes a target, and what happens to bad data."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from mtl_runner.batch import MISSING, labelled
from mtl_runner.datasets.rows.preparation import Preparation
from mtl_runner.datasets.rows.reading import read
from mtl_runner.datasets.table import Table
from mtl_runner.errors import UserError

ROWS = 200
TASKS = {"churn": {"type": "binary"}, "spend": {"type": "regression"}, "plan": {"type": "multiclass"}}


def customers(rows=ROWS):
    generator = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "age": generator.integers(18, 90, rows),
            "income": np.where(generator.random(rows) < 0.2, np.nan, generator.normal(3e4, 1e4, rows).round(2)),
            "town": generator.choice(["Bonn", "Köln", "Trier"], rows),
            "code": generator.choice([1, 2, 10], rows),
            "name": [f"customer {row}" for row in range(rows)],
            "day": pd.date_range("2024-01-01", periods=rows).strftime("%Y-%m-%d"),
            "shop": generator.integers(0, 30, rows),
            "weight": generator.random(rows),
            "churn": generator.choice(["yes", "no"], rows, p=[0.1, 0.9]),
            "spend": generator.normal(100, 20, rows).round(1),
            "plan": generator.choice(["gold", "basic", "silver"], rows, p=[0.1, 0.6, 0.3]),
        }
    )


@pytest.fixture
def save(tmp_path):
    def saved(frame, name="data.csv"):
        path = tmp_path / name
        if name.endswith("parquet"):
            frame.to_parquet(path, index=False)
        else:
            frame.to_csv(path, index=False)
        return str(path)

    return saved


def load(path, tasks=None, **options):
    return Table(path, TASKS if tasks is None else tasks, **options).load()


def rows_of(data, part):
    return data.splits[part].context["input"]["row"].numpy()


def refused(message, path, tasks=None, **options):
    with pytest.raises(UserError, match=message) as caught:
        load(path, tasks, **options)
    assert str(caught.value).count("\n") <= 1


def test_every_row_is_in_one_part(save):
    data = load(save(customers()))
    rows = np.concatenate([rows_of(data, part) for part in ("train", "validation", "test")])
    assert sorted(rows) == list(range(ROWS))
    assert [len(rows_of(data, part)) for part in data.splits] == [140, 30, 30]


def test_inputs_are_fitted_on_the_training_part_alone(save):
    frame = customers()
    data = load(save(frame), categorical=["code"])
    names = data.streams["input"].names
    assert names["numeric"] == ("age", "income", "shop", "weight", "income is missing")
    assert names["categorical"] == ("town", "code")
    assert data.streams["input"].cardinalities == (4, 4)
    train = rows_of(data, "train")
    scaler = StandardScaler().fit(frame[["age", "income", "shop", "weight"]].iloc[train])
    median = frame["income"].iloc[train].median()
    for part, split in data.splits.items():
        rows = frame.iloc[rows_of(data, part)]
        expected = scaler.transform(rows[["age", "income", "shop", "weight"]].fillna({"income": median}))
        numeric = split.inputs["input"]["numeric"]
        np.testing.assert_allclose(numeric[:, :4], expected, atol=1e-5)
        np.testing.assert_array_equal(numeric[:, 4], rows["income"].isna())
        towns = {"Bonn": 1, "Köln": 2, "Trier": 3}
        np.testing.assert_array_equal(split.inputs["input"]["categorical"][:, 0], rows["town"].map(towns))
        np.testing.assert_array_equal(split.inputs["input"]["categorical"][:, 1], rows["code"].map({1: 1, 2: 2, 10: 3}))
    assert any("name, day" in note and "hardly repeats" in note for note in data.notes)


def test_targets_are_in_the_users_terms(save):
    frame = customers()
    data = load(save(frame))
    assert data.targets["churn"].classes == ("no", "yes")
    assert data.targets["plan"].classes == ("basic", "gold", "silver")
    spend = data.targets["spend"]
    train = frame["spend"].iloc[rows_of(data, "train")]
    assert (spend.center[0], spend.scale[0]) == pytest.approx((train.mean(), train.std(ddof=0)))
    for part, split in data.splits.items():
        rows = frame.iloc[rows_of(data, part)]
        np.testing.assert_allclose(split.targets["spend"] * spend.scale[0] + spend.center[0], rows["spend"], rtol=1e-5)
        np.testing.assert_array_equal(split.targets["churn"], rows["churn"] == "yes")
        assert [data.targets["plan"].classes[label] for label in split.targets["plan"]] == rows["plan"].tolist()
        assert split.targets["churn"].dtype == split.targets["spend"].dtype == torch.float32


def test_csv_and_parquet_give_the_same_tensors(save):
    frame = customers()
    text, typed = load(save(frame)), load(save(frame, "data.parquet"))
    assert text.fingerprint == typed.fingerprint
    assert text.targets == typed.targets
    assert text.preparation == typed.preparation


def test_preparation_gives_training_tensors_again(save):
    path = save(customers())
    data = load(path)
    preparation = Preparation.from_json(json.loads(json.dumps(data.preparation)))
    assert preparation.to_json() == data.preparation == json.loads(json.dumps(data.preparation))
    table = read(path, preparation.reading)
    inputs, targets = preparation.inputs(table), preparation.targets(table, ["plan", "churn"])
    assert list(targets) == ["plan", "churn"]
    for part, split in data.splits.items():
        rows = rows_of(data, part)
        for name, tensor in inputs.items():
            assert torch.equal(tensor[rows], split.inputs["input"][name])
        for name, tensor in targets.items():
            assert torch.equal(tensor[rows], split.targets[name])


def test_new_rows_missing_unseen_and_wrong_columns(save):
    data = load(save(customers()))
    preparation = Preparation.from_json(data.preparation)
    median = next(column.fill for column in preparation.numbers if column.name == "income")
    new = pd.DataFrame(
        {"town": ["Bonn", "Paris", None], "age": [20, None, 30], "income": [None, median, 1e4], "shop": 1, "weight": 1}
    )
    new["code"] = 1
    fields = preparation.inputs(pa.Table.from_pandas(new))
    assert fields["categorical"][:, 0].tolist() == [1, 0, 0]
    assert fields["numeric"][0, 1] == fields["numeric"][1, 1]
    names = data.streams["input"].names["numeric"]
    assert fields["numeric"][:, names.index("income is missing")].tolist() == [1, 0, 0]
    assert fields["numeric"].isfinite().all()
    with pytest.raises(UserError, match=r"no column 'town' .did you mean 'twon'"):
        preparation.inputs(pa.Table.from_pandas(new.rename(columns={"town": "twon"})))
    with pytest.raises(UserError, match="row 2, column 'age': 'old' is not a number"):
        preparation.inputs(pa.Table.from_pandas(new.assign(age=["1", "old", "2"])))


def test_missing_categories_have_an_index_if_training_had_them(save):
    frame = customers()
    frame.loc[::3, "town"] = None
    data = load(save(frame))
    assert data.streams["input"].cardinalities[0] == 5
    split = data.splits["test"]
    absent = frame["town"].iloc[rows_of(data, "test")].isna().to_numpy()
    np.testing.assert_array_equal(split.inputs["input"]["categorical"][:, 0].numpy() == 1, absent)


def test_what_only_the_test_part_shows_is_not_learnt(save):
    frame = customers().assign(part=lambda rows: np.where(rows.index < 150, "train", "test"))
    frame.loc[160, ["town", "shop"]] = ["Paris", np.nan]
    frame.loc[161, "town"] = None
    data = load(save(frame), split={"by": "column", "column": "part"})
    assert data.streams["input"].cardinalities == (4,)
    assert "shop is missing" not in data.streams["input"].names["numeric"]
    assert data.splits["test"].inputs["input"]["categorical"][10:12, 0].tolist() == [0, 0]
    assert data.splits["test"].inputs["input"]["categorical"].count_nonzero() == 48
    assert data.splits["test"].inputs["input"]["numeric"].isfinite().all()


def test_only_leaves_everything_but_the_tasks_as_it_is(save):
    path = save(customers())
    whole, alone = load(path), load(path, only=["spend"])
    assert list(alone.targets) == ["spend"]
    assert alone.preparation == whole.preparation
    assert alone.fingerprint == whole.fingerprint
    for part in whole.splits:
        assert list(alone.splits[part].targets) == list(alone.splits[part].streams) == ["spend"]
        assert torch.equal(alone.splits[part].inputs["input"]["numeric"], whole.splits[part].inputs["input"]["numeric"])
        assert torch.equal(alone.splits[part].targets["spend"], whole.splits[part].targets["spend"])
    refused("dataset.only: task 'spent'.*did you mean 'spend'", path, only=["spent"])


def test_types_are_guessed_and_said(save):
    frame = customers().assign(grade=lambda rows: rows["age"] % 4)
    data = load(save(frame), tasks=["churn", "spend", "plan", "grade"])
    kinds = {name: target.kind for name, target in data.targets.items()}
    assert kinds == {"churn": "binary", "spend": "regression", "plan": "multiclass", "grade": "multiclass"}
    assert data.targets["grade"].classes == ("0", "1", "2", "3")
    assert sum("taken for" in note for note in data.notes) == 4
    assert not any("taken for" in note for note in load(save(frame)).notes)
    refused("holds 200 different texts.*name its type", save(frame), tasks=["name"])


def test_positive_values_and_class_names(save):
    path = save(customers())
    data = load(
        path, {"paid": {"columns": "plan", "positive": ["gold", "silver"], "classes": ["free", "paid"], "role": "auxiliary"}}
    )
    target = data.targets["paid"]
    assert (target.kind, target.classes, target.role) == ("binary", ("free", "paid"), "auxiliary")
    refused("positive 'golden' is no value.*did you mean 'gold'", path, {"plan": {"positive": "golden"}})
    refused("holds 3 values, basic, gold, silver; say which", path, {"plan": {"type": "binary"}})
    refused(
        "line 3: column 'plan' holds 'silver' too.*classes: gold, basic",
        path,
        {"plan": {"type": "multiclass", "classes": ["gold", "basic"]}},
    )
    ordered = load(path, {"plan": {"type": "multiclass", "classes": ["basic", "silver", "gold", "platinum"]}})
    assert ordered.targets["plan"].classes == ("basic", "silver", "gold", "platinum")


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (["1", "0"], ("0", "1")),
        (["True", "False"], ("false", "true")),
        (["+", "-"], ("-", "+")),
        (["b", "a"], ("a", "b")),
        (["N", "Y"], ("N", "Y")),
        (["2", "10"], ("2", "10")),
        (["present", "absent"], ("absent", "present")),
        (["-1", "1"], ("-1", "1")),
    ],
)
def test_the_positive_class_is_the_one_that_means_yes(save, values, classes):
    frame = customers().assign(churn=np.resize(values, ROWS))
    assert load(save(frame), {"churn": {"type": "binary"}}).targets["churn"].classes == classes


def test_several_columns_one_task(save):
    frame = customers()
    frame.loc[0, "spend"] = np.nan
    data = load(save(frame), {"both": {"type": "regression", "columns": ["spend", "in*"]}})
    assert data.targets["both"].shape == (2,)
    assert data.targets["both"].columns == ("spend", "income")
    values = torch.cat([split.targets["both"] for split in data.splits.values()])
    assert values.shape == (ROWS, 2)
    assert int((~labelled(values))[:, 0].sum()) == 1
    assert "income" not in data.streams["input"].names["numeric"]


def test_reconstruction_columns_stay_inputs(save):
    data = load(save(customers()), {"again": {"type": "reconstruction", "columns": ["age", "shop"]}, "churn": None})
    assert {"age", "shop"} <= set(data.streams["input"].names["numeric"])
    torch.testing.assert_close(data.splits["test"].targets["again"][:, 0], data.splits["test"].inputs["input"]["numeric"][:, 0])


def test_inputs_and_ignore(save):
    path = save(customers())
    data = load(path, inputs=["a*", "town", "churn*", "*e"], ignore=["nam*"])
    names = data.streams["input"].names
    assert names == {"numeric": ("age", "income", "code", "income is missing"), "categorical": ("town",)}
    refused("dataset.ignore: no column is called 'ages'.*did you mean 'age'", path, ignore="ages")
    refused("'churn' is a task's", path, inputs=["age", "churn"])
    refused("no input column left", path, inputs=["name"])


def test_weights(save):
    frame = customers()
    data = load(save(frame), weights="weight")
    split = data.splits["train"]
    assert set(split.weights) == set(TASKS)
    np.testing.assert_allclose(split.weights["plan"], frame["weight"].iloc[rows_of(data, "train")], rtol=1e-6)
    assert "weight" not in data.streams["input"].names["numeric"]
    frame.loc[7, "weight"] = -1
    refused("line 9, column 'weight': weight -1, which is negative", save(frame), weights="weight")
    frame.loc[7, "weight"] = np.nan
    refused("line 9, column 'weight': no weight", save(frame), weights="weight")
    refused("all weights .* are 0", save(frame.assign(weight=0)), weights="weight")
    refused("dataset.weights: no column is called 'wait'", save(frame), weights="wait")


def test_a_bracket_in_a_column_name_is_no_pattern(save):
    data = load(save(customers().rename(columns={"age": "age [a]"})), inputs=["age [a]"])
    assert data.streams["input"].names["numeric"] == ("age [a]",)


def test_missing_labels_are_masked_and_said(save):
    frame = customers()
    frame.loc[::2, "churn"] = None
    frame.loc[:49, "plan"] = "?"
    frame.loc[[3, 5], "spend"] = np.nan
    data = load(save(frame))
    total = {name: sum(int(labelled(split.targets[name]).sum()) for split in data.splits.values()) for name in TASKS}
    assert total == {"churn": 100, "spend": 198, "plan": 150}
    assert all(split.targets["plan"].min() == MISSING for split in data.splits.values())
    assert sum("rows have a label" in note for note in data.notes) == 3


def test_a_task_without_any_label_is_said_and_no_label_at_all_is_refused(save):
    frame = customers().assign(churn=None)
    data = load(save(frame))
    assert not any("churn" in note and "label" in note for note in data.notes), "the run says it, for every data set"
    assert data.splits["train"].targets["churn"].isnan().all()
    refused("nothing to learn from", save(frame.assign(spend=None, plan=None)))


def test_a_task_without_a_label_in_training_is_said(save):
    frame = customers().assign(part=lambda rows: np.where(rows.index < 150, "train", "test"))
    frame.loc[:149, "spend"] = np.nan
    data = load(save(frame), split={"by": "column", "column": "part"})
    assert data.splits["test"].targets["spend"].isfinite().all()


def test_constant_targets_and_single_rows_are_said(save):
    frame = customers().assign(churn="no", spend=5.0)
    frame.loc[3, "plan"] = "platinum"
    data = load(save(frame))
    assert data.targets["churn"].classes == ("no", "not no")
    assert data.splits["train"].targets["spend"].abs().max() == 0
    text = "\n".join(data.notes)
    assert "churn: is constant in the training part: always no" in text
    assert "column 'spend' is constant in the training part: always 5" in text
    assert "one row only of class platinum" in text
    assert 3 in rows_of(data, "train")


def test_a_class_that_training_lacks_counts_as_unlabelled(save):
    frame = customers().assign(part=lambda rows: np.where(rows.index < 150, "train", "test"))
    frame.loc[160, "plan"] = "platinum"
    data = load(save(frame), split={"by": "column", "column": "part"})
    assert data.targets["plan"].classes == ("basic", "gold", "silver")
    assert (data.splits["test"].targets["plan"] == MISSING).sum() == 1
    assert any("platinum is not in the training part" in note for note in data.notes)


def test_inputs_that_are_no_use_are_left_out_and_said(save):
    frame = customers().assign(empty=None, constant=1, shoe=np.where(np.arange(ROWS) == 5, 40, np.nan))
    data = load(save(frame))
    assert any("empty in the training part: empty" in note for note in data.notes)
    constant = data.streams["input"].names["numeric"].index("constant")
    assert data.splits["train"].inputs["input"]["numeric"][:, constant].abs().max() == 0


def test_lists_in_parquet_are_left_out(tmp_path):
    table = pa.Table.from_pandas(customers()).append_column("tags", pa.array([["a"]] * ROWS))
    parquet.write_table(table, tmp_path / "data.parquet")
    data = load(str(tmp_path / "data.parquet"))
    assert any("tags" in note for note in data.notes)
    refused("column 'tags' cannot be an input", str(tmp_path / "data.parquet"), categorical="tags")


def test_text_in_a_column_of_numbers_is_named_with_its_line(save):
    frame = customers().astype({"age": object, "spend": object})
    frame.loc[1, "name"] = "two\nlines"
    frame.loc[9, "age"] = "old"
    refused("line 12, column 'age': 'old' is not a number, but most of the column is", save(frame))
    refused("line 12, column 'age': 'old' is not a number", save(frame), numeric=["age"])
    assert "age" in load(save(frame), categorical=["age"]).streams["input"].names["categorical"]
    assert "age" in load(save(frame), missing=["old", ""]).streams["input"].names["numeric"]
    refused("line 12, column 'spend': 'much' is not a number", save(customers().astype({"spend": object}).assign(
        name=frame["name"], spend=lambda rows: rows["spend"].where(rows.index != 9, "much"))))  # fmt: skip
    refused("line 4, column 'spend': inf is not a finite number", save(customers().assign(
        spend=lambda rows: rows["spend"].where(rows.index != 2, np.inf))))  # fmt: skip


@pytest.mark.parametrize(
    ("tasks", "options", "message"),
    [
        ({"chrun": None}, {}, "no column is called 'chrun'.*did you mean 'churn'"),
        ({}, {}, "names no task"),
        ({"churn": {"typ": "binary"}}, {}, "dataset.tasks.churn: option 'typ'.*did you mean 'type'"),
        ({"churn": {"type": "binry"}}, {}, "dataset.tasks.churn.type 'binry'.*did you mean 'binary'"),
        ({"churn": {"role": "side"}}, {}, "dataset.tasks.churn.role 'side'.*main, auxiliary"),
        ({"churn": "binary"}, {}, "is not a mapping"),
        ({"churn": {"type": "binary", "columns": ["churn", "plan"]}}, {}, "has one column, not 2"),
        ({"spend": {"type": "regression", "positive": 1}}, {}, "neither classes nor a positive one"),
        (None, {"separator": ",,"}, "not a single character"),
        (None, {"weights": "w"}, "dataset.weights"),
        (None, {"numeric": "age", "categorical": "a*"}, "'age' is named in dataset.numeric and in"),
    ],
)
def test_what_is_typed_wrong_is_named(save, tasks, options, message):
    refused(message, save(customers()), tasks, **options)


def test_very_large_numbers_do_not_overflow(save):
    frame = customers()
    frame["age"] = frame["age"] * 1e300
    numeric = load(save(frame)).splits["train"].inputs["input"]["numeric"]
    assert numeric.isfinite().all()
    assert float(numeric[:, 0].std(correction=0)) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ({"churn": None}, "(dataset.tasks.churn.type says otherwise)"),
        (["churn"], "('dataset.tasks={churn:{type:…}}' in place of the list says otherwise)"),
        ({"a.b": {"columns": "churn"}}, "('dataset.tasks={NAME:{columns:\"churn\",type:…}}' says otherwise)"),
        (['Ποσό, "net" 1'], '(\'dataset.tasks={NAME:{columns:"Ποσό, \\"net\\" 1",type:…}}\' says otherwise)'),
    ],
)
def test_a_guess_says_what_can_be_typed(save, tasks, said):
    frame = customers().assign(**{'Ποσό, "net" 1': lambda rows: rows["spend"]})
    (line,) = (note for note in load(save(frame), tasks).notes if "taken for" in note)
    assert line.endswith(said)


def test_the_one_value_of_a_target_is_said_and_no_other(save):
    notes = load(save(customers().assign(churn="no")), ["churn"]).notes
    assert any("taken for binary, of one value: no (" in note for note in notes)
    assert not any("not no" in note for note in notes)


def test_a_reserved_name_is_refused_before_anything_is_read():
    for tasks in (["average"], {"average": {"columns": "churn"}}):
        with pytest.raises(UserError, match=r"dataset\.tasks: average is what the mean over the tasks is called"):
            Table("nowhere.csv", tasks)


def test_only_a_column_that_is_not_wanted_itself_is_meant(save):
    preparation = Preparation.from_json(load(save(customers().rename(columns={"age": "score", "income": "scored"}))).preparation)
    rows = pa.Table.from_pandas(customers().rename(columns={"age": "score"}).drop(columns="income"))
    with pytest.raises(UserError, match=r"no column 'scored' .did you mean 'spend'"):
        preparation.inputs(rows)
