"""The split: every label keeps its share, rare labels are in every part, and nothing depends on more than the seed."""

import numpy as np
import pytest
from clocks import cpu_seconds
from sklearn.model_selection import StratifiedKFold

from mtl_runner.datasets.stratify import bins, stratify

SHARES = (0.7, 0.15, 0.15)


def counted(labels, parts, count):
    """Rows by (label of the task, part), counted the slow way."""
    table = {}
    for row, part in zip(labels.tolist(), parts.tolist(), strict=True):
        for task, label in enumerate(row):
            if label >= 0:
                table.setdefault((task, label), [0] * count)[part] += 1
    return table


def off(labels, parts, shares):
    """How many rows the label that is furthest off its share is off."""
    return max(
        abs(have - sum(row) * share)
        for row in counted(labels, parts, len(shares)).values()
        for have, share in zip(row, shares, strict=True)
    )


def drawn(kind, rows, generator):
    if kind == "two tasks":
        return np.stack([generator.integers(0, 3, rows), generator.integers(0, 10, rows)], axis=1)
    if kind == "rare positives":
        return (generator.random((rows, 6)) < np.geomspace(20 / rows, 0.5, 6)).astype(int)
    if kind == "numbers":
        return np.stack([bins(generator.normal(size=rows)) for _ in range(4)], axis=1)
    return np.where(generator.random((rows, 5)) < 0.5, -1, generator.integers(0, 3, (rows, 5)))


@pytest.mark.parametrize("kind", ["two tasks", "rare positives", "numbers", "half unlabelled"])
@pytest.mark.parametrize("shares", [SHARES, (1.0,) * 5])
def test_each_label_keeps_its_share_far_better_than_at_random(kind, shares):
    labels = drawn(kind, 2000, np.random.default_rng(1))
    parts = stratify(labels, shares, np.random.default_rng(2))
    share = np.array(shares) / sum(shares)
    at_random = np.random.default_rng(3).choice(len(shares), len(labels), p=share)
    assert off(labels, parts, share) <= 2
    assert off(labels, at_random, share) > 6
    sizes = np.bincount(parts, minlength=len(shares))
    assert np.abs(sizes - share * len(labels)).max() <= 2


def test_one_task_is_split_as_scikit_learn_does():
    labels = np.random.default_rng(0).choice(4, 203, p=[0.6, 0.3, 0.07, 0.03])
    ours = stratify(labels[:, None], [1] * 5, np.random.default_rng(0))
    theirs = np.empty(203, int)
    for fold, (_, rows) in enumerate(StratifiedKFold(5).split(labels, labels)):
        theirs[rows] = fold
    for label in range(4):
        assert sorted(np.bincount(ours[labels == label], minlength=5)) == sorted(
            np.bincount(theirs[labels == label], minlength=5)
        )


@pytest.mark.parametrize("seed", range(20))
def test_a_label_with_as_many_rows_as_parts_is_in_each(seed):
    generator = np.random.default_rng(seed)
    labels = (generator.random((60, 5)) < [0.05, 0.06, 0.08, 0.1, 0.5]).astype(int)
    parts = stratify(labels, SHARES, generator)
    for row in counted(labels, parts, 3).values():
        assert sum(row) < 3 or min(row) > 0


def test_a_single_row_of_a_class_trains():
    labels = np.array([[0]] * 50 + [[1]])
    for seed in range(10):
        assert stratify(labels, SHARES, np.random.default_rng(seed))[-1] == 0


@pytest.mark.parametrize("rows", [3, 4, 7])
def test_no_part_is_empty(rows):
    labels = np.arange(rows)[:, None]
    assert np.bincount(stratify(labels, SHARES, np.random.default_rng(0)), minlength=3).min() > 0


def test_rows_without_any_label_are_split_too():
    parts = stratify(np.full((100, 2), -1), SHARES, np.random.default_rng(0))
    assert np.bincount(parts).tolist() == [70, 15, 15]


def test_groups_stay_together_and_labels_keep_their_shares():
    generator = np.random.default_rng(0)
    groups = generator.integers(0, 150, 3000) * 7 + 3
    labels = np.stack([(groups % 5 == 0) * 1, generator.integers(0, 3, 3000)], axis=1)
    parts = stratify(labels, SHARES, generator, groups)
    assert all(len(set(parts[groups == group])) == 1 for group in np.unique(groups))
    for row in counted(labels, parts, 3).values():
        assert np.abs(np.array(row) / sum(row) - SHARES).max() < 0.05


def test_a_rare_label_of_a_few_groups_is_in_each_part():
    groups = np.repeat(np.arange(40), 25)
    labels = ((groups < 4) & (np.arange(1000) % 5 == 0)).astype(int)[:, None]  # 20 positives in 4 groups
    for seed in range(10):
        parts = stratify(labels, SHARES, np.random.default_rng(seed), groups)
        assert set(parts[labels[:, 0] == 1]) == {0, 1, 2}


def test_the_generator_alone_decides():
    labels = drawn("two tasks", 500, np.random.default_rng(0))
    first, again, other = (stratify(labels, SHARES, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert (first == again).all()
    assert (first != other).any()


def test_many_rows_with_many_patterns_take_seconds():
    generator = np.random.default_rng(0)
    labels = np.stack([bins(generator.normal(size=200_000)) for _ in range(8)] + [(generator.random(200_000) < 1e-4) * 1], axis=1)
    parts = []
    assert cpu_seconds(lambda: parts.append(stratify(labels, SHARES, generator))) < 20
    assert off(labels, parts[0], SHARES) < 20  # at random: about 200


def test_bins_are_fifths():
    values = np.random.default_rng(0).normal(size=1000)
    values[:100] = np.nan
    assert np.bincount(bins(values) + 1).tolist() == [100, 180, 180, 180, 180, 180]
    assert bins(np.array([2.0, 2.0, np.nan])).tolist() == [1, 1, -1]
    assert bins(np.full(3, np.nan)).tolist() == [-1, -1, -1]
