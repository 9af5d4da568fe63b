"""What is said of the labels before training, against counts by hand and scipy; what a tracker is told of them."""

import csv
import io
import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from mtl_runner.batch import MISSING, Data, Split, TargetSpec
from mtl_runner.label_table import as_csv, print_labels
from mtl_runner.labels import PARTS, profile, with_primary_metrics
from mtl_runner.tasks import make_tasks
from mtl_runner.tracking import record


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def data_of(targets: dict[str, TargetSpec], **parts: dict[str, Tensor]) -> Data:
    """Each task on a stream of its own; a part that is not given is the training part."""
    splits = {}
    for part in PARTS:
        labels = parts.get(part, parts["train"])
        inputs = {f"of {name}": {"numeric": torch.zeros(len(each), 1)} for name, each in labels.items()}
        splits[part] = Split(inputs, labels, {name: f"of {name}" for name in labels})
    return Data(splits, {}, targets, {})


def binary(**options: str) -> TargetSpec:
    return TargetSpec("binary", classes=("no", "yes"), **options)  # type: ignore[arg-type]


def yes(count: int, of: int, missing: int = 0) -> Tensor:
    return torch.tensor([1.0] * count + [0.0] * (of - count) + [math.nan] * missing)


def with_holes(labels: Tensor, seed: int) -> Tensor:
    hole = torch.rand(labels.shape, generator=draws(seed + 100)) < 0.3
    return labels.masked_fill(hole, math.nan if labels.is_floating_point() else MISSING)


def test_counts_shares_and_ratio_are_those_of_the_labels() -> None:
    specs = {"a": TargetSpec("multiclass", classes=tuple("wxyz")), "b": binary()}
    parts = {
        part: {
            "a": with_holes(torch.randint(3, (200 + seed,), generator=draws(seed)), seed),  # no example of z
            "b": with_holes((torch.rand(90 + seed, generator=draws(seed)) < 0.2).float(), seed),
        }
        for seed, part in enumerate(PARTS)
    }
    for each, spec in zip(profile(data_of(specs, **parts)), specs.values(), strict=True):
        for part in PARTS:
            labels = parts[part][each.name].nan_to_num(MISSING).int().tolist()
            counted = Counter(labels)
            assert each.counts[part] == tuple(counted[place] for place in range(len(spec.classes)))
            assert each.missing[part] == counted[MISSING] > 0
            assert each.labelled[part] == len(labels) - counted[MISSING]
        train = each.counts["train"]
        assert each.shares == tuple(count / sum(train) for count in train)
        assert each.rarest == min(range(len(train)), key=train.__getitem__)
    a, b = profile(data_of(specs, **parts))
    assert a.imbalance_ratio == math.inf
    assert b.imbalance_ratio == max(b.counts["train"]) / min(b.counts["train"])


def test_positions_are_counted_where_each_has_a_class() -> None:
    labels = torch.tensor([[[0, 1], [1, MISSING]], [[1, 1], [1, 1]]])
    (each,) = profile(data_of({"a": TargetSpec("multiclass", classes=("x", "y"))}, train={"a": labels}))
    assert (each.counts["train"], each.labelled["train"], each.missing["train"]) == ((1, 6), 7, 1)


@pytest.mark.parametrize("outputs", [1, 3])
def test_numbers_of_a_regression_are_in_its_unit(outputs: int) -> None:
    values = with_holes(torch.randn(300, outputs, generator=draws()).exp(), 5)
    center, scale = tuple(10.0 + i for i in range(outputs)), tuple(0.5 + i for i in range(outputs))
    columns = tuple(f"c{i}" for i in range(outputs))
    spec = TargetSpec("regression", columns=columns, shape=(outputs,) * (outputs > 1), center=center, scale=scale)
    targets = values if outputs > 1 else values[:, 0]
    (each,) = profile(data_of({"r": spec}, train={"r": targets}))
    some = values.numpy()[~values.isnan().all(1).numpy()]
    assert (each.labelled["train"], each.missing["train"]) == (len(some), 300 - len(some))
    assert [one.name for one in each.outputs] == (list(columns) if outputs > 1 else [""])
    for one, column, shift, unit in zip(each.outputs, values.double().numpy().T, center, scale, strict=True):
        real = shift + unit * column[~np.isnan(column)]
        expected = [real.mean(), real.std(), stats.skew(real), real.min(), real.max()]
        np.testing.assert_allclose([one.mean, one.sd, one.skewness, one.min, one.max], expected, rtol=1e-9)
    assert (each.counts, each.shares, each.rarest, each.imbalance_ratio) == ({}, (), None, None)


def test_tasks_without_labels_and_with_equal_ones() -> None:
    specs = {"c": binary(), "r": TargetSpec("regression"), "same": TargetSpec("regression")}
    nothing = torch.full((4,), math.nan)
    c, r, same = profile(data_of(specs, train={"c": nothing, "r": nothing, "same": torch.ones(4)}))
    assert (c.labelled["train"], c.missing["train"], c.rarest, c.imbalance_ratio) == (0, 4, None, None)
    assert all(map(math.isnan, c.shares))
    assert math.isnan(r.outputs[0].mean) and math.isnan(r.outputs[0].min)
    assert same.outputs[0].sd == 0 and math.isnan(same.outputs[0].skewness)


def rows_of(data: Data) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(as_csv(profile(data)), newline="")))


def test_the_file_has_a_row_for_each_class_and_says_what_the_profile_says() -> None:
    names = ("a, b", 'with "quotes"', "two\nlines")
    specs = {"t, 1": TargetSpec("multiclass", classes=names), "none": binary(), "r": TargetSpec("regression"),
             "image": TargetSpec("reconstruction", shape=(4,))}  # fmt: skip
    labels = {"t, 1": torch.tensor([0, 0, 0, 1, MISSING]), "none": yes(0, 0, 3), "r": torch.tensor([1.0, 3.0]),
              "image": torch.zeros(2, 4)}  # fmt: skip
    other = labels | {"t, 1": torch.tensor([2, 2, 1])}
    rows = rows_of(data_of(specs, train=labels, test=other))
    assert [(row["task"], row["class"]) for row in rows] == [
        *(("t, 1", name) for name in names), ("none", "no"), ("none", "yes"), ("r", ""), ("image", "")
    ]  # fmt: skip
    assert [[row[key] for key in ("train", "test", "share")] for row in rows[:3]] == [
        ["3", "0", "0.75"], ["1", "1", "0.25"], ["0", "2", "0"]
    ]  # fmt: skip
    assert {(row["labelled_train"], row["missing_train"], row["imbalance_ratio"]) for row in rows[:3]} == {("4", "1", "inf")}
    assert (rows[3]["share"], rows[3]["imbalance_ratio"]) == ("", "")
    assert [rows[5][key] for key in ("type", "train", "mean", "sd", "min", "max")] == ["regression", "2", "2", "1", "1", "3"]
    assert (rows[6]["labelled_train"], rows[6]["mean"]) == ("2", "")


def test_the_terminal_shows_the_most_imbalanced_of_many(capsys: pytest.CaptureFixture[str]) -> None:
    specs = {f"task_{i}": binary() for i in range(139)} | {"r[1]": TargetSpec("regression")}
    labels = {f"task_{i}": yes(1 + (i * 37) % 139, 500) for i in range(139)} | {"r[1]": torch.arange(5.0)}
    print_labels(profile(data_of(specs, train=labels)))
    said = capsys.readouterr().out
    shown = [line.split()[0] for line in said.splitlines() if line.strip().startswith("task_")]
    assert shown == sorted(specs, key=lambda name: (labels[name] == 1).sum() if name in labels and name != "r[1]" else 10**9)[:15]
    assert "… and 124 more: labels.csv" in said
    assert "1 / 1 / 1" in said and "499.0" in said
    assert "r[1]" in said and "1.414" in said


def test_the_terminal_shows_few_in_their_order(capsys: pytest.CaptureFixture[str]) -> None:
    specs = {"zero": binary(), "[red]": binary(), "mild": binary()}
    print_labels(profile(data_of(specs, train={"zero": yes(0, 9), "[red]": yes(0, 0, 9), "mild": yes(4, 9)})))
    said = capsys.readouterr().out
    assert [said.index(name) for name in specs] == sorted(said.index(name) for name in specs)
    assert "∞" in said and "more" not in said


@pytest.mark.parametrize(
    ("labels", "metric"),
    [
        (yes(19, 100), "average_precision"),
        (yes(20, 100), "roc_auc"),
        (yes(81, 100), "balanced_accuracy"),
        (yes(80, 100), "roc_auc"),
        (yes(30, 100, missing=900), "roc_auc"),
        (yes(1, 100, missing=900), "average_precision"),
        (yes(0, 0, missing=5), "roc_auc"),
    ],
)
def test_a_rare_class_changes_the_primary_metric(labels: Tensor, metric: str) -> None:
    other = {"a": yes(250, 500) if metric != "roc_auc" else yes(1, 500)}  # only the training part decides
    data = data_of({"a": binary()}, train={"a": labels}, validation=other, test=other)
    out, notes = with_primary_metrics(data)
    (task,) = make_tasks(out.targets)
    assert task.primary.name == metric
    assert len(notes) == (metric != "roc_auc")
    assert replace(out, targets=data.targets) == data


def test_what_the_user_chose_and_other_kinds_stay() -> None:
    specs = {
        "mine": binary(metric="roc_auc"),
        "many": TargetSpec("multiclass", classes=tuple("abc")),
        "number": TargetSpec("regression"),
    }
    labels = {"mine": yes(1, 100), "many": torch.tensor([0] * 98 + [1, 2]), "number": torch.arange(100.0)}
    out, notes = with_primary_metrics(data_of(specs, train=labels))
    assert (out.targets, notes) == (specs, [])
    assert [task.primary.name for task in make_tasks(out.targets)] == ["roc_auc", "balanced_accuracy", "r2"]


def test_one_line_says_so_for_any_number_of_tasks() -> None:
    specs = {name: binary() for name in ("disease", "b", "c", "d", "e", "f", "balanced")}
    labels = {name: yes(31, 1000) for name in specs} | {"balanced": yes(500, 1000)}
    _, (one,) = with_primary_metrics(data_of({"disease": binary()}, train=labels))
    assert one == "primary metric of disease is average_precision: 3.1 % of its training labels are 'yes'"
    _, (all_of_them,) = with_primary_metrics(data_of(specs, train=labels))
    assert all_of_them.startswith("primary metric of 6 tasks (disease, b, c, d, e, … (1 more)) is average_precision: ")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text("name: a\n")
    (tmp_path / "status.json").write_text("{}")
    for name in ("labels.csv", "curves.json", "figures/labels.png", "figures/reliability_a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    return tmp_path


def test_a_tracker_gets_tables_and_pictures(folder: Path) -> None:
    sent = {(path.name, parent) for path, parent in record.read(folder).artifacts()}
    assert sent >= {("labels.csv", None), ("curves.json", None), ("labels.png", "figures"), ("reliability_a.png", "figures")}


def test_a_tracker_gets_the_recall_of_classes_and_the_metrics_before_adjustment(folder: Path) -> None:
    wide = {str(place): 0.5 for place in range(21)}
    test = {
        "tasks": {"a": {"f1": 0.9, "recall": 0.6}},
        "unadjusted": {"a": {"f1": 0.7, "roc_auc": None}},
        "recall": {"a": {"no": 1.0, "yes": 0.25, "never": None}, "wide": wide, "twenty": dict(list(wide.items())[:20])},
    }
    (folder / "test_metrics.json").write_text(json.dumps(test))
    points = {point.name: point.value for point in record.read(folder).test_points()}
    twenty = {f"test/twenty/recall/{place}": 0.5 for place in range(20)}
    assert points == {
        "test/a/f1": 0.9, "test/a/recall": 0.6, "test_unadjusted/a/f1": 0.7,
        "test/a/recall/no": 1.0, "test/a/recall/yes": 0.25, **twenty,
    }  # fmt: skip


def test_one_class_in_training_is_no_rare_class() -> None:
    """No metric is made primary that is undefined, and no share of a class is told that nobody has."""
    data = data_of({"fraud": TargetSpec("binary", classes=("no", "not no"))}, train={"fraud": yes(0, 100)})
    out, (line,) = with_primary_metrics(data)
    assert out == data
    assert line.startswith("all training labels of fraud are 'no': ") and "undefined" in line and "not no" not in line
