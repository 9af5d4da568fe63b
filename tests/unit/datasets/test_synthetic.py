"""Synthetic tasks: what was planted is there."""

import itertools
import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from clocks import cpu_seconds
from sklearn.linear_model import LinearRegression, LogisticRegression

from mtl_runner.batch import labelled
from mtl_runner.datasets.rows.preparation import Preparation
from mtl_runner.datasets.synthetic import Synthetic
from mtl_runner.errors import UserError


@pytest.mark.parametrize(
    ("groups", "inside", "across"), [(2, 0.9, 0.0), (3, 0.7, -0.2), ([0, 1, 0, 1, 2, 2], 0.5, 0.3), (1, 1.0, 0.0), (6, 0.0, -0.2)]
)
def test_cosines_are_exactly_as_planted(groups, inside, across):
    data = Synthetic(n_tasks=6, groups=groups, cosine_inside=inside, cosine_across=across)
    weights = data.true_weights()
    group = groups if isinstance(groups, list) else [task * groups // 6 for task in range(6)]
    for one, other in itertools.product(range(6), repeat=2):
        planted = 1.0 if one == other else inside if group[one] == group[other] else across
        assert float(weights[one] @ weights[other]) == pytest.approx(planted, abs=1e-9)


def test_labels_follow_the_weights():
    source = Synthetic(kind="regression", n_tasks=3, groups=3, rows=20_000, dimension=10, noise=0.3)
    data = source.load()
    split = data.splits["train"]
    for place, (name, target) in enumerate(data.targets.items()):
        scores = split.targets[name].numpy() * target.scale[0] + target.center[0]
        fit = LinearRegression().fit(split.inputs["input"]["numeric"], scores)
        np.testing.assert_allclose(fit.coef_, source.true_weights()[place], atol=0.02)
        assert float(np.std(scores - fit.predict(split.inputs["input"]["numeric"]))) == pytest.approx(0.3, abs=0.01)
        assert (float(split.targets[name].mean()), float(split.targets[name].std())) == pytest.approx((0, 1), abs=1e-3)


@pytest.mark.parametrize("share", [0.5, 0.02])
def test_binary_labels_have_the_share_of_positives_and_the_direction(share):
    source = Synthetic(n_tasks=2, rows=50_000, positive_share=share, dimension=8)
    split = source.load().splits["train"]
    for place, labels in enumerate(split.targets.values()):
        assert float(labels.mean()) == pytest.approx(share, rel=0.1)
        direction = torch.from_numpy(LogisticRegression().fit(split.inputs["input"]["numeric"], labels).coef_[0])
        assert torch.cosine_similarity(direction, source.true_weights()[place], dim=0) > 0.98


@pytest.mark.parametrize(
    ("options", "shares"),
    [({}, [1 / 3] * 3), ({"class_shares": [6, 3, 1]}, [0.6, 0.3, 0.1]), ({"long_tail": 100}, np.array([100, 10, 1]) / 111)],
)
def test_classes_have_their_shares(options, shares):
    data = Synthetic(kind="multiclass", classes=3, rows=50_000, **options).load()
    for labels in data.splits["train"].targets.values():
        np.testing.assert_allclose(np.bincount(labels) / 50_000, shares, atol=0.01)
    assert data.targets["task_0"].classes == ("0", "1", "2")


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_labels_are_missing_where_asked(kind):
    data = Synthetic(kind=kind, missing=[0.0, 0.5, 0.9, 1.0]).load()
    shares = [float(labelled(labels).float().mean()) for labels in data.splits["train"].targets.values()]
    assert shares == pytest.approx([1, 0.5, 0.1, 0], abs=0.03)
    assert all(labelled(labels).all() for labels in data.splits["test"].targets.values())
    everywhere = Synthetic(kind=kind, missing=0.5, missing_parts=["test"]).load()
    assert not all(labelled(labels).all() for labels in everywhere.splits["test"].targets.values())


def test_disjoint_rows_have_one_label_each():
    split = Synthetic(n_tasks=5, disjoint=True).load().splits["train"]
    count = sum(labelled(labels).int() for labels in split.targets.values())
    assert (count == 1).all()
    assert all(labelled(labels).sum() > 700 for labels in split.targets.values())


def test_any_part_can_be_disjoint():
    first = Synthetic(n_tasks=3, disjoint=True).load().splits
    both = Synthetic(n_tasks=3, disjoint=True, disjoint_parts=["train", "validation"]).load().splits
    assert all(
        torch.equal(first["train"].targets[name].isnan(), both["train"].targets[name].isnan()) for name in first["train"].targets
    )
    counts = {part: sum(labelled(labels).int() for labels in both[part].targets.values()) for part in both}
    assert (counts["validation"] == 1).all() and (counts["test"] == 3).all()


def test_one_option_leaves_the_other_draws():
    plain, more = Synthetic().load(), Synthetic(missing=0.3, validation_rows=500, positive_share=0.3).load()
    assert torch.equal(plain.splits["train"].inputs["input"]["numeric"], more.splits["train"].inputs["input"]["numeric"])
    assert torch.equal(plain.splits["test"].inputs["input"]["numeric"], more.splits["test"].inputs["input"]["numeric"])
    other = Synthetic(split_seed=1).load()
    assert not torch.equal(plain.splits["train"].inputs["input"]["numeric"], other.splits["train"].inputs["input"]["numeric"])
    assert Synthetic(only=["task_1"]).load().fingerprint == plain.fingerprint == Synthetic().load().fingerprint


def test_preparation_reads_its_columns():
    data = Synthetic(kind="regression", dimension=4, rows=50).load()
    split = data.splits["train"]
    columns = {f"x_{place}": split.inputs["input"]["numeric"][:, place].numpy() for place in range(4)}
    target = data.targets["task_0"]
    columns["task_0"] = split.targets["task_0"].double().numpy() * target.scale[0] + target.center[0]
    preparation = Preparation.from_json(json.loads(json.dumps(data.preparation)))
    assert torch.equal(preparation.inputs(pa.table(columns))["numeric"], split.inputs["input"]["numeric"])
    torch.testing.assert_close(preparation.targets(pa.table(columns), ["task_0"])["task_0"], split.targets["task_0"])


def test_a_hundred_thousand_rows_take_seconds():
    assert cpu_seconds(Synthetic(n_tasks=8, rows=100_000).load) < 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cosine_across": 1.0}, "contradict"),
        ({"n_tasks": 6, "groups": 6, "cosine_across": -0.5}, "contradict"),
        ({"dimension": 3}, "too small: these cosines need 4"),
        ({"groups": 5}, "more than dataset.n_tasks=4"),
        ({"groups": [0, 1]}, "names the group of 2 tasks"),
        ({"missing": 1.5}, "share from 0 to 1"),
        ({"missing": [0.1]}, "one for each of the 4 tasks"),
        ({"kind": "multiclass", "class_shares": [1, 1]}, "must be 4 positive numbers"),
        ({"tasks": {"task_9": {}}}, "task 'task_9' does not exist"),
    ],
)
def test_what_cannot_be_is_named(options, message):
    with pytest.raises(UserError, match=message):
        Synthetic(**options)
