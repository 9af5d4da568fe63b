"""Which rows train, validate and test."""

import numpy as np
import pytest

from mtl_runner.datasets.splitting import PARTS, Splitting, split
from mtl_runner.errors import UserError

LABELS = np.random.default_rng(0).integers(0, 3, (300, 1))


def parted(how, values=None, labels=LABELS, tested=None):
    parts = split(how, labels, values, tested)
    assert tuple(parts) == PARTS
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(labels)))
    return parts


def test_shares_and_seed():
    first, again, other = (parted(Splitting(validation=0.2, test=0.1, seed=seed)) for seed in (0, 0, 1))
    assert [len(rows) for rows in first.values()] == [210, 60, 30]
    assert all((first[part] == again[part]).all() for part in PARTS)
    assert (first["test"] != other["test"]).any()


def test_folds_cover_every_row_once():
    tests = [parted(Splitting(fold=fold, folds=7))["test"] for fold in range(7)]
    assert sorted(np.concatenate(tests)) == list(range(300))
    assert len(parted(Splitting(fold=0, folds=3))["validation"]) == 45


@pytest.mark.parametrize("fold", [None, 2])
def test_groups_are_never_torn(fold):
    groups = np.array([f"g{row % 25}" for row in range(300)], dtype=object)
    parts = parted(Splitting("group", "who", fold=fold), groups)
    members = [set(groups[rows]) for rows in parts.values()]
    assert all(members)
    assert not members[0] & members[1] | members[0] & members[2] | members[1] & members[2]


@pytest.mark.parametrize("form", [str, lambda row: f"2024-01-{1 + row // 10:02}", lambda row: f"2024-03-01T{row // 20:02}:30:00"])
def test_the_latest_rows_test(form):
    order = np.random.default_rng(0).permutation(300)
    times = np.array([form(int(row)) for row in order], dtype=object)
    parts = parted(Splitting("time", "when"), times)
    bounds = [(order[rows].min(), order[rows].max()) for rows in parts.values()]
    assert bounds[0][1] < bounds[1][0] <= bounds[1][1] < bounds[2][0]
    assert not set(times[parts["train"]]) & set(times[parts["validation"]])
    assert abs(len(parts["test"]) - 45) <= 20


def test_parts_by_name():
    names = np.array(["Training", "dev", "test"] * 100, dtype=object)
    parts = parted(Splitting("column", "part"), names)
    assert all((rows % 3 == place).all() for place, rows in enumerate(parts.values()))
    unnamed = parted(Splitting("column", "part"), np.array(["train", "train", "test"] * 100, dtype=object))
    assert [len(rows) for rows in unnamed.values()] == [155, 45, 100]


def test_a_test_file_is_the_test_part():
    tested = np.arange(250, 300)
    parts = parted(Splitting(validation=0.2), tested=tested)
    assert (parts["test"] == tested).all()
    assert len(parts["validation"]) == 50


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "groups"}, "'groups' does not exist.*did you mean 'group'"),
        ({"by": "group"}, "needs dataset.split.column"),
        ({"column": "x"}, "takes no column"),
        ({"validation": 0.5, "test": 0.5}, "sum below 1"),
        ({"validation": 0}, "above 0"),
        ({"validation": "half"}, "is not a number"),
        ({"tests": 0.1}, "option 'tests'.*did you mean 'test'"),
        ({"fold": 5}, "dataset.fold=5 is not one of 5 folds; allowed: 0 to 4"),
        ({"fold": -1}, "allowed: 0 to 4"),
        ({"fold": 0, "by": "time", "column": "t"}, "does not go with dataset.split.by=time"),
        ({"fold": 0, "validation": 0.8, "test": 0.1}, "leaves nothing to train on"),
    ],
)
def test_wrong_options(options, message):
    fold = options.pop("fold", None)
    with pytest.raises(UserError, match=message):
        Splitting.of(options, fold, 5, 0)


@pytest.mark.parametrize(
    ("how", "values", "message"),
    [
        (Splitting("group", "g"), ["a", "b"] * 150, "has 2 different values; 3 parts need at least 3"),
        (Splitting("group", "g"), ["a", "b", None] * 100, "100 rows have no value"),
        (Splitting("column", "c"), ["train", "test", "tset"] * 100, "holds 'tset'.*did you mean 'test'"),
        (Splitting("column", "c"), ["train"] * 300, "must name rows of train and test"),
        (Splitting("time", "t"), ["soon"] * 300, "neither numbers nor dates"),
        (Splitting("time", "t"), ["1"] * 300, "too few different times"),
    ],
)
def test_columns_that_do_not_split(how, values, message):
    with pytest.raises(UserError, match=message):
        split(how, LABELS, np.array(values, dtype=object))


def test_too_few_rows():
    with pytest.raises(UserError, match="2 rows are too few"):
        split(Splitting(), LABELS[:2], None)
