"""ML-ROS, ML-RUS, MLSMOTE and REMEDIAL: their measures by hand, and the papers' pseudo-code written out with loops."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtl_runner.batch import MISSING, Split, TargetSpec
from mtl_runner.errors import UserError
from mtl_runner.imbalance.base import Resampler
from mtl_runner.imbalance.ml_ros import MLROS, clones
from mtl_runner.imbalance.ml_rus import MLRUS, removed
from mtl_runner.imbalance.mlsmote import MLSMOTE, label_sets, neighbours
from mtl_runner.imbalance.multilabel import irlbl, labels_of, mean_ir, scumble
from mtl_runner.imbalance.remedial import REMEDIAL

BINARY = TargetSpec("binary", classes=("no", "yes"))
NAN = math.nan
Labels = NDArray[np.bool_]


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def specs(split: Split) -> dict[str, TargetSpec]:
    return dict.fromkeys(split.targets, BINARY)


def split_of(labels: Any, numeric: Tensor | None = None, categorical: Tensor | None = None) -> Split:
    """One stream with a binary task for each column; the first input is the number of the row where none is given."""
    columns = torch.as_tensor(np.asarray(labels, dtype=np.float32)).T
    rows = torch.arange(columns.shape[1])
    inputs = {"numeric": rows[:, None].float() if numeric is None else numeric}
    if categorical is not None:
        inputs["categorical"] = categorical
    targets = {f"t{i}": column.clone() for i, column in enumerate(columns)}
    return Split(
        {"input": inputs},
        targets,
        dict.fromkeys(targets, "input"),
        weights={"t0": torch.full((len(rows),), 2.0)},
        context={"input": {"row": rows}},
    )


def matrix(split: Split) -> NDArray[np.float32]:
    return torch.stack(list(split.targets.values()), 1).numpy()


def rows_of(split: Split) -> Tensor:
    return split.context["input"]["row"]


def random_labels(seed: int, rows: int = 300, shares: Sequence[float] = (0.5, 0.3, 0.05, 0.02, 0.1)) -> Labels:
    return np.random.default_rng(seed).random((rows, len(shares))) < shares


# ---- measures -----------------------------------------------------------------------------------------------------

#            a  b  c      n = 4, 2, 1: IRLbl 1, 2, 4; MeanIR 7/3
EXAMPLE = [[1, 0, 0], [1, 1, 0], [1, 0, 1], [1, 1, 0], [0, 0, 0]]


def test_measures_by_hand() -> None:
    labels = np.array(EXAMPLE, dtype=bool)
    ratios = irlbl(labels.sum(0))
    assert ratios.tolist() == [1, 2, 4]
    assert mean_ir(ratios) == pytest.approx(7 / 3)
    two, four = 1 - math.sqrt(2) / 1.5, 1 - math.sqrt(4) / 2.5
    np.testing.assert_allclose(scumble(labels), [0, two, four, two, 0], atol=1e-12)
    same = np.ones((3, 7), dtype=bool)
    assert scumble(same).tolist() == [0, 0, 0]


def test_labels_that_no_row_has_do_not_count_and_a_missing_label_is_none() -> None:
    split = split_of([[1, 0, NAN, NAN], [0, 0, 1, NAN], [1, 0, 1, NAN]])
    assert labels_of(split, "input", specs(split), "x").tolist() == [[True, False], [False, True], [True, True]]
    assert irlbl(np.array([4, 0])).tolist() == [1, math.inf] and mean_ir(irlbl(np.array([4, 0]))) == 1


def test_each_class_of_a_multiclass_task_is_a_label() -> None:
    split = Split({"input": {"numeric": torch.zeros(4, 1)}}, {"a": torch.tensor([0, 2, MISSING, 2])}, {"a": "input"})
    labels = labels_of(split, "input", {"a": TargetSpec("multiclass", classes=("x", "y", "z"))}, "x")
    assert labels.tolist() == [[True, False], [False, True], [False, False], [False, True]]


# ---- ML-ROS -------------------------------------------------------------------------------------------------------


def ratio(rows: list[NDArray[Any]], label: int) -> float:
    counts = np.sum(rows, 0)
    return float(counts.max() / counts[label])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("wanted", [0, 7, 75, 10_000])
def test_ml_ros_clones_by_the_papers_loop(wanted: int, seed: int) -> None:
    labels = random_labels(seed)
    random = np.random.default_rng(int(torch.randint(2**62, (), generator=draws(seed))))
    data = [row.astype(int) for row in labels]
    level = np.mean([ratio(data, label) for label in range(5)])
    bags = [label for label in range(5) if ratio(data, label) > level]
    chosen: list[int] = []
    while len(chosen) < wanted and bags:
        for label in list(bags):
            if len(chosen) < wanted:
                row = random.choice([i for i in range(300) if labels[i, label]])
                chosen.append(int(row))
                data.append(labels[row].astype(int))
                if ratio(data, label) <= level:
                    bags.remove(label)
    assert clones(labels, wanted, draws(seed)).tolist() == chosen
    assert 0 < len(chosen) < 10_000 or wanted == 0


@pytest.mark.parametrize("seed", range(3))
def test_ml_ros_grows_by_p_percent_with_rows_of_minority_labels_and_mean_ir_falls(seed: int) -> None:
    labels = random_labels(seed)
    split = split_of(labels)
    out = MLROS(percentage=3)(split, specs(split), draws(seed))
    assert len(rows_of(out)) == 309 and torch.equal(rows_of(out)[:300], torch.arange(300))
    assert np.array_equal(matrix(out), labels[rows_of(out)])  # copies keep all labels
    ratios = irlbl(labels.sum(0))
    assert labels[rows_of(out)[300:]][:, ratios > mean_ir(ratios)].any(1).all()
    assert mean_ir(irlbl(matrix(out).astype(int).sum(0))) < mean_ir(ratios)


def test_ml_ros_stops_at_mean_ir() -> None:
    labels = np.zeros((8, 2), dtype=bool)
    labels[:6, 0] = labels[6:, 1] = True  # IRLbl 1, 3; MeanIR 2, which 6 / 3 is
    assert len(clones(labels, 8, draws())) == 1


def test_ml_ros_copies_rare_classes_and_what_is_missing_stays_missing() -> None:
    a = torch.tensor([0] * 40 + [1] * 30 + [2] * 4)
    b = torch.tensor([0.0, NAN] * 37)
    split = Split({"input": {"numeric": torch.arange(74)[:, None]}}, {"a": a, "b": b}, dict.fromkeys("ab", "input"))
    out = MLROS()(split, {"a": TargetSpec("multiclass", classes=("x", "y", "z")), "b": BINARY}, draws())
    rows = out.inputs["input"]["numeric"][:, 0]
    assert set(a[rows[74:]].tolist()) == {2} and torch.equal(out.targets["b"].isnan(), b.isnan()[rows])
    assert (out.targets["a"] == 2).sum() < 40  # until its IRLbl is down to MeanIR, not until balance


# ---- ML-RUS -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_minority", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_ml_rus_takes_rows_of_majority_labels_in_turn(seed: int, keep_minority: bool) -> None:
    labels = random_labels(seed)
    ratios = irlbl(labels.sum(0))
    major = ratios < mean_ir(ratios)
    gone = removed(labels, 60, keep_minority, draws(seed))
    assert len(set(gone.tolist())) == 60 and labels[gone][:, major].any(1).all()
    if keep_minority:
        assert not labels[gone][:, ~major].any()
        assert mean_ir(irlbl(labels[np.setdiff1d(np.arange(300), gone)].sum(0))) < mean_ir(ratios)
    # in turn: of the first rows, one has the first majority label, the next the second …
    order = np.flatnonzero(major)
    assert all(labels[row, order[i % len(order)]] for i, row in enumerate(gone[: 3 * len(order)]))


def test_ml_rus_stops_where_a_label_is_no_longer_above_the_others() -> None:
    labels = np.zeros((30, 3), dtype=bool)
    labels[:20, 0] = labels[20:24, 1] = labels[24:28, 2] = True  # IRLbl 1, 5, 5; MeanIR 11/3
    gone = removed(labels, 30, True, draws())
    # n_0 goes to 4 at most: below MeanIR it is as frequent as the others, its IRLbl stays 1 while it is the largest
    assert set(gone.tolist()) <= set(range(20)) and labels.sum(0)[0] - len(gone) == 1
    out = MLRUS(percentage=20)(split_of(labels), specs(split_of(labels)), draws())
    assert len(rows_of(out)) == 24 and set(rows_of(out)[-10:].tolist()) == set(range(20, 30))
    assert np.array_equal(matrix(out), labels[rows_of(out)])


def test_ml_rus_draws_each_row_of_a_bag_alike() -> None:
    labels = np.zeros((14, 3), dtype=bool)
    labels[:10, 0] = labels[10:12, 1] = labels[12:, 2] = True
    seen = Counter(int(removed(labels, 1, True, draws(seed))[0]) for seed in range(1000))
    assert set(seen) == set(range(10)) and all(abs(count - 100) < 45 for count in seen.values())


# ---- REMEDIAL -----------------------------------------------------------------------------------------------------


def test_remedial_by_hand() -> None:
    # SCUMBLE 0, 0.057, 0.2, 0.057, 0; mean 0.063: the third row alone; c above MeanIR
    split = split_of(EXAMPLE)
    out = REMEDIAL()(split, specs(split), draws())
    assert rows_of(out).tolist() == [0, 1, 2, 3, 4, 2]
    assert matrix(out).tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert matrix(split).tolist() == EXAMPLE  # the input is left as it was
    lower = REMEDIAL(threshold=0.05)(split, specs(split), draws())
    assert rows_of(lower).tolist() == [0, 1, 2, 3, 4, 1, 2, 3]
    assert matrix(lower)[5:].tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize("seed", range(3))
def test_remedial_keeps_every_label_once_and_lowers_scumble(seed: int) -> None:
    labels = random_labels(seed)
    split = split_of(labels)
    out = REMEDIAL()(split, specs(split), draws())
    found = matrix(out).astype(bool)
    assert np.array_equal(found.sum(0), labels.sum(0))
    assert scumble(found).mean() < scumble(labels).mean()
    merged = np.zeros_like(labels)
    np.logical_or.at(merged, rows_of(out).numpy(), found)
    assert np.array_equal(merged, labels)


def test_remedial_leaves_missing_labels_and_other_tasks_and_even_data() -> None:
    rows = [[1, NAN, 1]] + [[1, 1, 0]] * 5
    split = split_of(rows)
    split = Split(split.inputs, {**split.targets, "r": torch.arange(6.0)}, {**split.streams, "r": "input"})
    out = REMEDIAL()(split, dict.fromkeys(("t0", "t1", "t2"), BINARY), draws())
    assert out.targets["t1"][[0, 6]].isnan().all() and out.targets["r"][[0, 6]].tolist() == [0, 0]
    assert [out.targets[f"t{i}"][6].item() for i in (0, 2)] == [0, 1] and out.targets["t2"][0] == 0
    even = split_of([[1, 1, 1]] * 3)
    assert len(rows_of(REMEDIAL()(even, specs(even), draws()))) == 3


# ---- MLSMOTE ------------------------------------------------------------------------------------------------------


def pseudo_code(labels: NDArray[Any], numeric: NDArray[Any], categorical: NDArray[Any], k: int) -> list[dict[str, Any]]:
    """What each synthetic row may be, by the paper's loops: its label set by ranking, its categories, where it may lie."""
    data = [{"labels": y, "x": x, "v": v} for y, x, v in zip(labels, numeric, categorical, strict=True)]
    bag_label = labels.sum(0).argmin()
    bag = [row for row in data if row["labels"][bag_label]]

    def given(column: int, value: int) -> float:
        same = [row for row in data if row["v"][column] == value]
        return sum(bool(row["labels"][bag_label]) for row in same) / len(same)

    made = []
    for row in bag:

        def distance(other: dict[str, Any], row: dict[str, Any] = row) -> float:
            total = ((row["x"] - other["x"]) ** 2).sum()
            for column, (one, two) in enumerate(zip(row["v"], other["v"], strict=True)):
                p, q = given(column, one), given(column, two)
                total += (abs(p - q) + abs((1 - p) - (1 - q))) ** 2
            return math.sqrt(total)

        others = sorted((other for other in bag if other is not row), key=distance)[:k]
        counts = row["labels"].astype(int) + sum(other["labels"].astype(int) for other in others)
        votes = [Counter(other["v"][column] for other in others) for column in range(len(row["v"]))]
        made.append(
            {
                "labels": counts > (k + 1) / 2,
                "v": [min(value for value, count in vote.items() if count == max(vote.values())) for vote in votes],
                "segments": [(row["x"], other["x"]) for other in others],
            }
        )
    return made


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("k", [3, 4, 5])
def test_mlsmote_makes_what_the_papers_loops_make(k: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.random((60, 3)) < (0.6, 0.4, 0.5)
    labels[:, 1] |= labels[:, 0]
    rare = np.arange(60) < 12
    labels = np.hstack([labels, rare[:, None]])
    numeric, categorical = random.normal(size=(60, 2)).astype(np.float32), random.integers(3, size=(60, 2))
    split = split_of(labels, torch.from_numpy(numeric), torch.from_numpy(categorical))
    out = MLSMOTE(k=k)(split, specs(split), draws(seed))
    expected = pseudo_code(labels, numeric.astype(np.float64), categorical, k)
    assert len(matrix(out)) == 60 + len(expected) == 72
    assert torch.equal(out.inputs["input"]["numeric"][:60], split.inputs["input"]["numeric"])
    new = out.inputs["input"]["numeric"][60:].numpy()
    for i, row in enumerate(expected):
        assert np.array_equal(matrix(out)[60 + i].astype(bool), row["labels"])
        assert out.inputs["input"]["categorical"][60 + i].tolist() == row["v"]
        inside = [(np.minimum(a, b) - 1e-6 <= new[i]) & (new[i] <= np.maximum(a, b) + 1e-6) for a, b in row["segments"]]
        assert any(one.all() for one in inside)
    steps = [[(new[i] - a) / (b - a) for a, b in row["segments"]] for i, row in enumerate(expected)]
    assert any(all(abs(u[0] - u[1]) > 0.01 for u in row) for row in steps)  # a step for each feature, as in the paper
    assert rows_of(out)[60:].eq(-1).all() and out.weights["t0"][60:].eq(1).all()


def test_mlsmote_label_sets_by_hand() -> None:
    around = torch.tensor([[1.0, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, NAN], [NAN] * 4, [1, 1, NAN, NAN]])
    expected = {"ranking": [0, 1, 1, 0, NAN, 0], "union": [1, 1, 1, 0, NAN, 1], "intersection": [0, 0, 1, 0, NAN, 0]}
    for strategy, labels in expected.items():
        found = label_sets(around, BINARY, strategy)  # type: ignore[arg-type]
        torch.testing.assert_close(found, torch.tensor(labels), equal_nan=True)
    classes = TargetSpec("multiclass", classes=("x", "y", "z"))
    around = torch.tensor([[2, 2, 2, 0], [2, 2, 0, 0], [1, 1, 1, 1], [MISSING, MISSING, MISSING, 1]])
    assert label_sets(around, classes, "ranking").tolist() == [2, MISSING, 1, MISSING]
    assert label_sets(around, classes, "union").tolist() == [MISSING, MISSING, 1, 1]
    assert label_sets(around, classes, "intersection").tolist() == [MISSING, MISSING, 1, MISSING]


def test_mlsmote_neighbours_are_the_nearest_others_over_all_blocks() -> None:
    points = np.random.default_rng(0).normal(size=(1500, 3))
    found = neighbours(points, 4)
    for i in (0, 3, 1023, 1024, 1499):
        distances = ((points - points[i]) ** 2).sum(1)
        distances[i] = np.inf
        assert found[i].tolist() == np.argsort(distances)[:4].tolist()
    assert neighbours(np.zeros((3, 1)), 5).tolist() == [[1, 2], [0, 2], [0, 1]]  # never the row itself


def test_mlsmote_counts_what_it_made_for_earlier_labels() -> None:
    # n = 40, 4, 4 with the same rows for both rare labels: after the first 8 and 8, still above MeanIR 7
    labels = np.zeros((44, 3), dtype=bool)
    labels[:40, 0] = labels[40:, 1] = labels[40:, 2] = True
    split = split_of(labels)
    out = MLSMOTE(k=2)(split, specs(split), draws())
    assert len(matrix(out)) == 48  # 40 / 8 = 5 is no longer above 7: the second label needs none
    assert matrix(out)[44:].tolist() == [[0, 1, 1]] * 4


def test_mlsmote_asks_for_the_ratio_of_a_label_when_its_turn_comes() -> None:
    labels = np.zeros((15, 3), dtype=bool)
    labels[:10, 0] = labels[:3, 1] = labels[10:, 2] = True  # IRLbl 1, 3.3, 2; MeanIR 2.1
    split = split_of(labels)
    out = matrix(MLSMOTE(k=2)(split, specs(split), draws()))
    assert out[15:18].tolist() == [[1, 1, 0]] * 3  # now the first label has 13 rows, and 13 / 5 is above 2.1
    assert out[18:].tolist() == [[0, 0, 1]] * 5


def test_mlsmote_leaves_lone_rows_and_tasks_of_other_kinds() -> None:
    labels = np.zeros((30, 3), dtype=bool)
    labels[:20, 0] = labels[20:23, 1] = labels[29:, 2] = True  # IRLbl 1, 6.7, 20; a bag of one row
    split = split_of(labels)
    assert len(matrix(MLSMOTE()(split, specs(split), draws()))) == 30
    labels[28, 2] = True
    split = split_of(labels)
    split = Split(split.inputs, {**split.targets, "r": torch.arange(30.0)}, {**split.streams, "r": "input"}, split.weights)
    out = MLSMOTE()(split, dict.fromkeys(("t0", "t1", "t2"), BINARY), draws())
    assert len(out.targets["r"]) == 35 and out.targets["r"][30:].isnan().all() and out.targets["t2"][33:].eq(1).all()


def test_mlsmote_refuses_images() -> None:
    split = split_of(EXAMPLE)
    split = Split({"input": {"image": torch.zeros(5, 1, 2, 2)}}, split.targets, split.streams)
    with pytest.raises(UserError, match=r"mlsmote.*image"):
        MLSMOTE()(split, specs(split), draws())


# ---- all of them --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", [MLROS(), MLRUS(), MLSMOTE(k=2), REMEDIAL()], ids=lambda made: type(made).__name__)
def test_streams_are_apart_input_stays_and_the_seed_alone_decides(made: Resampler) -> None:
    labels = random_labels(2)
    targets = {f"t{i}": torch.from_numpy(column).float() for i, column in enumerate(labels.T.copy())}
    inputs = {"x": {"numeric": torch.randn(300, 2, generator=draws())}, "y": {"numeric": torch.zeros(7, 1)}}
    streams = {**dict.fromkeys(targets, "x"), "single": "y", "none": "y"}
    targets |= {"single": torch.tensor([1.0, 0, 0, 0, 0, 0, 0]), "none": torch.full((7,), NAN)}
    split = Split(inputs, targets, streams)
    before = {name: target.clone() for name, target in targets.items()}
    one, same = (made(split, specs(split), draws(3)) for _ in range(2))
    assert one.size("x") != 300 and one.size("y") == 7 and not made.renewed
    for name, target in one.targets.items():
        torch.testing.assert_close(target, same.targets[name], equal_nan=True, rtol=0, atol=0)
        torch.testing.assert_close(split.targets[name], before[name], equal_nan=True, rtol=0, atol=0)
    assert torch.equal(one.inputs["x"]["numeric"], same.inputs["x"]["numeric"])
    if not isinstance(made, REMEDIAL):
        other = made(split, specs(split), draws(4)).inputs["x"]["numeric"]
        assert other.shape != one.inputs["x"]["numeric"].shape or not torch.equal(other, one.inputs["x"]["numeric"])


@pytest.mark.parametrize("made", [MLROS(), MLRUS(), MLSMOTE(), REMEDIAL()], ids=lambda made: type(made).__name__)
def test_several_labels_a_row_are_refused(made: Resampler) -> None:
    split = Split({"input": {"numeric": torch.zeros(4, 1)}}, {"t": torch.zeros(4, 2)}, {"t": "input"})
    with pytest.raises(UserError, match=r"task t has more than one label"):
        made(split, specs(split), draws())


# ---- where a number lies on a border ------------------------------------------------------------------------------


@pytest.mark.parametrize("resampler", [MLROS(percentage=8), MLRUS(percentage=8)])
def test_the_part_of_the_rows_is_rounded_down(resampler: Resampler) -> None:
    split = split_of([*[[1, 0]] * 30, *[[0, 1]] * 3])
    assert abs(resampler(split, specs(split), draws()).size("input") - 33) == 2  # 8 % are 2.64 rows


def test_ml_rus_leaves_a_bag_out_where_its_ratio_has_come_up_to_mean_ir() -> None:
    """14, 21 and 6 rows: IRLbl 1.5, 1 and 3.5, MeanIR 2. In turn the first comes down to 8, when
    the second has 16, twice as many; then the second alone, to half of 8."""
    labels = np.repeat(np.eye(3, dtype=bool), [14, 21, 6], axis=0)
    gone = removed(labels, len(labels), True, draws())
    assert (labels.sum(0) - labels[gone].sum(0)).tolist() == [8, 4, 6]


def test_a_label_at_mean_ir_is_none_of_the_minority() -> None:
    """IRLbl 1, 2 and 3, MeanIR 2: of the row that has all three, remedial takes the third away, and its copy has that alone."""
    split = split_of([[1, 1, 1], *[[1, 0, 0]] * 5, *[[0, 1, 0]] * 2, [0, 0, 1]])
    apart = matrix(REMEDIAL()(split, specs(split), draws())).tolist()
    assert len(apart) == 10 and apart[0] == [1, 1, 0] and apart[9] == [0, 0, 1]
