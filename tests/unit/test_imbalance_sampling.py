"""Rows repeated, left out and put into batches: the counts of imbalanced-learn, and what must hold for several tasks."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from imblearn.over_sampling import RandomOverSampler
from imblearn.under_sampling import RandomUnderSampler
from torch import Tensor

from mtl_runner.batch import MISSING, Split, TargetSpec, labelled
from mtl_runner.imbalance.balanced_batches import BalancedBatches
from mtl_runner.imbalance.oversample import Oversample
from mtl_runner.imbalance.rows import passes, plain_sizes, repeated, with_examples, without
from mtl_runner.imbalance.task_sampling import TaskSampling
from mtl_runner.imbalance.undersample import Undersample
from mtl_runner.loader import IndexLoader

BINARY = TargetSpec("binary", classes=("no", "yes"))
NAN = math.nan


def multiclass(classes: int) -> TargetSpec:
    return TargetSpec("multiclass", classes=tuple(map(str, range(classes))))


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labels_of(counts: Sequence[int], missing: int = 0, seed: int = 0) -> Tensor:
    """Class numbers, so many of each and so many missing, in any order."""
    labels = torch.repeat_interleave(torch.tensor([*range(len(counts)), MISSING]), torch.tensor([*counts, missing]))
    return labels[torch.randperm(len(labels), generator=draws(seed))]


def split_of(**targets: Tensor) -> Split:
    """One stream whose only input is the number of the row."""
    rows = torch.arange(len(next(iter(targets.values()))))
    return Split(
        {"input": {"numeric": rows[:, None]}},
        targets,
        dict.fromkeys(targets, "input"),
        weights={name: rows.float() for name in targets},
        context={"input": {"row": rows}},
    )


def rows_of(split: Split) -> Tensor:
    return split.inputs["input"]["numeric"][:, 0]


def examples(split: Split, task: str) -> Counter[tuple[int, float]]:
    """How often each labelled row counts for a task, with its label."""
    mask = labelled(split.targets[task])
    return Counter(zip(rows_of(split)[mask].tolist(), split.targets[task][mask].tolist(), strict=True))


def classes(split: Split, task: str) -> Counter[float]:
    return Counter(split.targets[task][labelled(split.targets[task])].tolist())


def three_tasks() -> tuple[Split, dict[str, TargetSpec]]:
    a = labels_of([50, 6], 4, seed=1).float()
    split = split_of(
        a=torch.where(a == MISSING, NAN, a), b=labels_of([40, 15, 5], seed=2), c=torch.randn(60, 2, generator=draws(3))
    )
    return split, {"a": BINARY, "b": multiclass(3)}


# ---- oversample and undersample -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0.3, 0.29, 0.7, 1.0])
@pytest.mark.parametrize("counts", [[100, 5], [17, 90], [1, 33]])
def test_with_a_ratio_the_counts_are_imbalanced_learns(counts: list[int], ratio: float) -> None:
    labels = labels_of(counts)
    split, x, y = split_of(a=labels), np.arange(len(labels))[:, None], labels.numpy()
    _, over = RandomOverSampler(sampling_strategy=ratio, random_state=0).fit_resample(x, y)
    assert classes(Oversample(ratio=ratio)(split, {"a": multiclass(2)}, draws()), "a") == Counter(over.tolist())
    _, under = RandomUnderSampler(sampling_strategy=ratio, random_state=0).fit_resample(x, y)
    assert classes(Undersample(ratio=ratio)(split, {"a": multiclass(2)}, draws()), "a") == Counter(under.tolist())


def test_a_class_that_is_frequent_enough_for_the_ratio_stays_as_it_is() -> None:
    split = split_of(a=labels_of([100, 60, 10]))
    assert classes(Oversample(ratio=0.5)(split, {"a": multiclass(3)}, draws()), "a") == {0: 100, 1: 60, 2: 50}
    assert classes(Undersample(ratio=0.15)(split, {"a": multiclass(3)}, draws()), "a") == {0: 66, 1: 60, 2: 10}


def test_repeated_rows_balance_every_task_and_leave_the_others_labels_as_they_were() -> None:
    split, specs = three_tasks()
    both = Oversample()(split, specs, draws())
    assert classes(both, "a") == {0: 50, 1: 50} and classes(both, "b") == {0: 40, 1: 40, 2: 40}
    assert examples(split, "a") <= examples(both, "a") and examples(split, "b") <= examples(both, "b")
    assert torch.equal(rows_of(both)[:60], torch.arange(60))
    torch.testing.assert_close(both.targets["c"][:60], split.targets["c"])
    assert both.targets["c"][60:].isnan().all()
    assert torch.equal(both.weights["a"], rows_of(both).float()) and torch.equal(both.context["input"]["row"], rows_of(both))
    alone = Oversample()(split, {"a": BINARY}, draws())
    assert examples(alone, "b") == examples(split, "b") and classes(alone, "a") == {0: 50, 1: 50}


def test_a_row_that_several_tasks_ask_for_is_there_as_often_as_one_of_them_wants_it() -> None:
    split = split_of(a=torch.tensor([0, 1, 1]), b=torch.tensor([0, 1, 0]), c=torch.tensor([1, 1, 1]))
    out = repeated(split, "input", {"a": torch.tensor([1, 1, 2]), "b": torch.tensor([1, 0])})
    assert Counter(rows_of(out)[3:].tolist()) == {0: 1, 1: 2, 2: 1}
    assert examples(out, "a") == {(0, 0): 1, (1, 1): 3, (2, 1): 2}
    assert examples(out, "b") == {(0, 0): 2, (1, 1): 2, (2, 0): 1}
    assert examples(out, "c") == examples(split, "c")
    wishes = repeated(split, "input", {"a": torch.tensor([1, 1, 2]), "b": torch.tensor([1, 0])}, alone=False)
    assert rows_of(wishes).tolist() == [0, 1, 2, 1, 1, 2, 1, 0] and labelled(wishes.targets["c"]).all()


def test_with_all_labels_kept_one_task_is_balanced_and_several_are_brought_nearer() -> None:
    split, specs = three_tasks()
    alone = Oversample(others="kept", ratio=0.5)(split, {"a": BINARY}, draws())
    rows = rows_of(alone)
    assert classes(alone, "a") == {0: 50, 1: 25} and len(rows) == 60 + 19
    assert all(torch.equal(alone.targets[name], split.targets[name][rows]) for name in ("b", "c"))
    both = Oversample(others="kept", ratio=0.5)(split, specs, draws())
    times = torch.bincount(rows_of(both), minlength=60)
    frequent = (split.targets["a"] == 0) & (split.targets["b"] == 0)
    rare = (split.targets["a"] == 0) & (split.targets["b"] == 2)  # 1 for a, 0.5 * 40 / 5 for b
    assert (times[frequent] == 1).all() and rare.any() and set(times[rare].tolist()) <= {2, 3}
    assert torch.equal(both.targets["c"], split.targets["c"][rows_of(both)])


def test_rows_not_drawn_lose_the_label_of_that_task_only() -> None:
    split, specs = three_tasks()
    both = Undersample()(split, specs, draws())
    assert classes(both, "a") == {0: 6, 1: 6} and classes(both, "b") == {0: 5, 1: 5, 2: 5}
    assert examples(both, "a") <= examples(split, "a") and examples(both, "b") <= examples(split, "b")
    torch.testing.assert_close(both.targets["c"], split.targets["c"])  # each row still has that of c, and so none is left out
    alone = Undersample()(split, {"a": BINARY}, draws())
    assert examples(alone, "b") == examples(split, "b")


def test_a_row_goes_with_its_last_label_and_one_that_never_had_any_stays() -> None:
    split = split_of(a=labels_of([30, 3], 7, seed=1), b=labels_of([8, 4], 28, seed=2))
    out = Undersample()(split, {"a": multiclass(2), "b": multiclass(2)}, draws())
    never = ~labelled(split.targets["a"]) & ~labelled(split.targets["b"])
    now = labelled(out.targets["a"]) | labelled(out.targets["b"])
    assert never.any() and set(rows_of(out)[~now].tolist()) == set(never.nonzero().squeeze(1).tolist())
    assert torch.equal(out.weights["b"], rows_of(out).float()) and torch.equal(out.context["input"]["row"], rows_of(out))


@pytest.mark.parametrize("strategy", [Oversample(), Undersample()])
def test_rows_are_drawn_anew_from_the_generator_alone_and_the_input_stays_as_it_was(strategy: Oversample | Undersample) -> None:
    split, specs = three_tasks()
    before = {name: target.clone() for name, target in split.targets.items()}
    one, same, other = (strategy(split, specs, draws(seed)) for seed in (0, 0, 1))
    assert torch.equal(rows_of(one), rows_of(same)) and examples(one, "b") == examples(same, "b") != examples(other, "b")
    for name, target in before.items():
        torch.testing.assert_close(split.targets[name], target, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("strategy", [Oversample(), Undersample()])
@pytest.mark.parametrize("labels", [[MISSING] * 4, [1, 1, MISSING, 1], [0, 1, 1, 0]])
def test_nothing_changes_where_there_is_nothing_to_balance(strategy: Oversample | Undersample, labels: list[int]) -> None:
    split = split_of(a=torch.tensor(labels))
    out = strategy(split, {"a": multiclass(2)}, draws())
    assert rows_of(out).tolist() == [0, 1, 2, 3] and out.targets["a"].tolist() == labels


@pytest.mark.parametrize("strategy", [Oversample(), Undersample()])
def test_each_stream_is_resampled_for_its_own_tasks(strategy: Oversample | Undersample) -> None:
    split = Split(
        {"x": {"numeric": torch.arange(12)[:, None]}, "y": {"numeric": torch.arange(20)[:, None]}},
        {"a": labels_of([9, 3]), "b": labels_of([16, 4]), "c": torch.zeros(12)},
        {"a": "x", "b": "y", "c": "x"},
    )
    specs = {"a": multiclass(2), "b": multiclass(2)}
    out = strategy(split, specs, draws())
    most = isinstance(strategy, Oversample)
    assert classes(out, "a") == ({0: 9, 1: 9} if most else {0: 3, 1: 3})
    assert classes(out, "b") == ({0: 16, 1: 16} if most else {0: 4, 1: 4})
    assert out.size("x") == (18 if most else 12) and out.size("y") == (32 if most else 8)
    assert strategy(split, {"b": specs["b"]}, draws()).size("x") == 12


def test_new_examples_have_the_labels_and_weights_given_and_no_others() -> None:
    split, _ = three_tasks()
    fields = {"numeric": torch.tensor([[7.0], [8.0]])}
    out = with_examples(split, "input", fields, {"b": torch.tensor([2, 1])}, {"b": torch.tensor([0.5, 3.0])})
    assert rows_of(out)[60:].tolist() == [7, 8] and out.context["input"]["row"][60:].tolist() == [-1, -1]
    assert out.targets["b"][60:].tolist() == [2, 1] and out.weights["b"][60:].tolist() == [0.5, 3.0]
    assert not labelled(out.targets["a"][60:]).any() and out.targets["c"][60:].isnan().all() and len(out.targets["c"]) == 62
    assert out.weights["a"][60:].tolist() == [1, 1]


def test_a_label_of_several_numbers_is_lost_as_one() -> None:
    split = split_of(a=torch.randn(3, 2, generator=draws()))
    out = without(split, "input", {"a": torch.tensor([False, True, False])})
    assert rows_of(out).tolist() == [0, 2] and torch.equal(out.targets["a"], split.targets["a"][[0, 2]])


# ---- plans --------------------------------------------------------------------------------------------------------

Plans = list[dict[str, Tensor]]


@pytest.mark.parametrize("rows", [1, 2, 5, 32, 33, 34, 64, 97])
@pytest.mark.parametrize("batch_size", [2, 16, 32])
def test_the_plain_sizes_are_those_of_the_loader(rows: int, batch_size: int) -> None:
    split = split_of(a=torch.zeros(rows))
    loader = IndexLoader(batch_size, 0, torch.device("cpu"))
    assert plain_sizes(split, batch_size) == [batch.size("input") for batch in loader.epoch(split, 1)]


def test_a_pass_takes_every_row_once_before_any_comes_again() -> None:
    rows = torch.tensor([3, 5, 8, 13])
    drawn = passes(rows, 10, draws())
    assert len(drawn) == 10 and set(drawn[:4].tolist()) == set(drawn[4:8].tolist()) == set(rows.tolist())
    assert len(set(drawn[8:].tolist())) == 2 and set(drawn.tolist()) <= set(rows.tolist())
    assert len(passes(rows[:0], 0, draws())) == 0


def near(counts: Sequence[int], apart: int = 1) -> bool:
    return max(counts) - min(counts) <= apart


@pytest.mark.parametrize("batch_size", [2, 7, 16, 30])
@pytest.mark.parametrize("counts", [[80, 8], [60, 20, 3], [90, 0, 1], [20]])
def test_for_one_task_every_batch_has_as_many_of_each_class(counts: list[int], batch_size: int) -> None:
    labels = labels_of(counts)
    split = split_of(a=labels)
    plan = BalancedBatches().plan(split, {"a": multiclass(len(counts))}, batch_size, draws())
    assert [len(batch["input"]) for batch in plan] == plain_sizes(split, batch_size)
    present = [label for label, count in enumerate(counts) if count]
    for batch in plan:
        there = Counter(labels[batch["input"]].tolist())
        assert near([there[label] for label in present])
    order = torch.cat([batch["input"] for batch in plan])
    assert near([Counter(labels[order].tolist())[label] for label in present])
    for label in present:
        times = Counter(order[labels[order] == label].tolist())
        assert near([times[row] for row in (labels == label).nonzero().squeeze(1).tolist()])


def test_several_tasks_share_a_batch_and_each_share_is_balanced() -> None:
    # with no row labelled for two tasks, each row tells which task chose it
    a, b, c = torch.full((3, 300), MISSING)
    a[:100], b[100:200], c[200:] = labels_of([95, 5]), labels_of([50, 40, 10]), labels_of([99, 1])
    split, specs = split_of(a=a, b=b, c=c), {"a": multiclass(2), "b": multiclass(3), "c": multiclass(2)}
    for batch in BalancedBatches().plan(split, specs, 32, draws()):
        rows = batch["input"]
        tasks = {name: Counter(split.targets[name][rows].tolist()) for name in specs}
        assert near([len(rows) - tasks[name][MISSING] for name in specs])
        assert all(near([tasks[name][label] for label in range(len(specs[name].classes))]) for name in specs)


def test_with_more_tasks_than_rows_in_a_batch_all_have_their_turn() -> None:
    targets = {f"t{i}": torch.where(torch.arange(90) // 9 == i, torch.arange(90) % 3, MISSING) for i in range(10)}
    split = split_of(**targets)
    plan = BalancedBatches().plan(split, dict.fromkeys(targets, multiclass(3)), 4, draws())
    order = torch.cat([batch["input"] for batch in plan])
    assert near([int(labelled(target[order]).sum()) for target in targets.values()])


def test_rows_without_a_served_label_keep_their_share_and_rows_without_any_are_left_out() -> None:
    a = torch.full((100,), MISSING)
    a[:50] = labels_of([45, 5])
    c = torch.full((100,), NAN)
    c[40:75] = 1.0
    split = split_of(a=a, c=c)
    plan = BalancedBatches().plan(split, {"a": multiclass(2)}, 15, draws())
    assert [len(batch["input"]) for batch in plan] == plain_sizes(split, 15)
    order = torch.cat([batch["input"] for batch in plan])
    assert order.max() < 75  # 50 rows of a, and 25 of 75 in all have only c
    for batch in plan:
        there = Counter(a[batch["input"]].tolist())
        assert near([there[0], there[1]]) and abs(there[MISSING] - len(batch["input"]) / 3) < 1


def test_the_share_of_rows_without_a_served_label_is_rounded_to_the_nearest() -> None:
    a, c = torch.full((10,), MISSING), torch.full((10,), NAN)
    a[:5], c[5:7] = torch.tensor([0, 0, 0, 1, 1]), 1.0  # 2 of 7 rows have c alone: 2.86 of the 10 places
    (batch,) = BalancedBatches().plan(split_of(a=a, c=c), {"a": multiclass(2)}, 16, draws())
    assert int((a[batch["input"]] == MISSING).sum()) == 3


def two_streams(x: int = 200, y: int = 40) -> Split:
    return Split(
        {"x": {"numeric": torch.zeros(x, 1)}, "y": {"numeric": torch.zeros(y, 1)}},
        {"a": labels_of([x - 10, 10]), "b": labels_of([y - 4, 4]), "c": torch.randn(y, 2, generator=draws())},
        {"a": "x", "b": "y", "c": "y"},
    )


@pytest.mark.parametrize(
    "strategy", [BalancedBatches(), TaskSampling(), TaskSampling(by="uniform"), TaskSampling(by="proportional")]
)
@pytest.mark.parametrize(("x", "y", "batch_size"), [(200, 40, 16), (33, 400, 32), (30, 4, 64), (11, 5, 2), (65, 2000, 64)])
def test_every_batch_has_rows_of_every_stream_and_the_generator_decides(
    strategy: BalancedBatches | TaskSampling, x: int, y: int, batch_size: int
) -> None:
    split = two_streams(x, y)
    specs = {"a": multiclass(2), "b": multiclass(2), "c": TargetSpec("regression")}
    served = {name: specs[name] for name in strategy.serves(specs)}
    plan, same, other = (strategy.plan(split, served, batch_size, draws(seed)) for seed in (0, 0, 1))
    assert len(plan) == len(other) == len(plain_sizes(split, batch_size))
    for batch, again in zip(plan, same, strict=True):
        for stream in split.inputs:
            assert len(batch[stream]) >= 2 and batch[stream].dtype == torch.long and batch[stream].min() >= 0
            assert batch[stream].max() < split.size(stream) and torch.equal(batch[stream], again[stream])
    assert any(not torch.equal(batch["x"], again["x"]) for batch, again in zip(plan, other, strict=True))


def test_a_stream_without_a_served_task_is_gone_through_as_without_the_strategy() -> None:
    split = two_streams()
    for strategy in (BalancedBatches(), TaskSampling()):
        plan = strategy.plan(split, {"b": multiclass(2)}, 16, draws())
        assert [len(batch["x"]) for batch in plan] == plain_sizes(split, 16)
        assert torch.cat([batch["x"] for batch in plan]).sort().values.tolist() == list(range(200))


# ---- tasks of different sizes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"by": "proportional"}, [0.9, 0.09, 0.01]),
        ({"by": "uniform"}, [1 / 3] * 3),
        ({"by": "temperature", "temperature": 1.0}, [0.9, 0.09, 0.01]),
        ({}, [math.sqrt(n) / (math.sqrt(900) + math.sqrt(90) + math.sqrt(10)) for n in (900, 90, 10)]),
        ({"limit": 90, "by": "proportional"}, [90 / 190, 90 / 190, 10 / 190]),
    ],
)
def test_shares_follow_the_formula(options: dict[str, object], expected: list[float]) -> None:
    shares = TaskSampling(**options).shares({"a": 900, "b": 90, "c": 10})  # type: ignore[arg-type]
    assert list(shares.values()) == pytest.approx(expected, rel=1e-9)


def test_a_higher_temperature_brings_shares_nearer_to_uniform() -> None:
    smallest = [TaskSampling(temperature=t).shares({"a": 5000, "b": 20})["b"] for t in (1, 2, 5, 100, 1e9)]
    assert smallest == sorted(smallest) and smallest[0] == pytest.approx(20 / 5020) and smallest[-1] == pytest.approx(0.5)


@pytest.mark.parametrize("strategy", [TaskSampling(by="proportional"), TaskSampling(by="uniform"), TaskSampling()])
def test_streams_are_drawn_by_the_shares_of_their_tasks(strategy: TaskSampling) -> None:
    split = two_streams(3000, 500)
    specs = {"a": multiclass(2), "b": multiclass(2), "c": TargetSpec("regression")}
    shares = strategy.shares({"a": 3000, "b": 500, "c": 500})
    plan = strategy.plan(split, specs, 32, draws())
    for batch in plan[:-1]:
        assert abs(len(batch["x"]) - 64 * shares["a"]) < 1 and abs(len(batch["y"]) - 64 * (1 - shares["a"])) < 1
    sums = {stream: sum(len(batch[stream]) for batch in plan) for stream in ("x", "y")}
    assert sum(sums.values()) == 6000  # both streams once through the longer one, as without the strategy
    assert abs(sums["x"] - 6000 * shares["a"]) <= 1
    times = Counter(torch.cat([batch["x"] for batch in plan]).tolist())
    assert near([times[row] for row in range(3000)])


def test_tasks_on_one_stream_are_drawn_by_their_shares() -> None:
    a, b = torch.full((2, 10000), MISSING)
    a[:9000], b[9000:9900] = 0, 1
    split = split_of(a=a, b=b)
    strategy = TaskSampling()
    order = torch.cat([batch["input"] for batch in strategy.plan(split, {"a": multiclass(2), "b": multiclass(2)}, 64, draws())])
    assert len(order) == 10000 and order.max() < 9900  # the last hundred rows have no label
    share = strategy.shares({"a": 9000, "b": 900})["b"]
    assert (order >= 9000).double().mean().item() == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / 10000))
    times = Counter(order.tolist())
    assert near([times[row] for row in range(9000, 9900)]) and near([times[row] for row in range(9000)])


def test_small_shares_still_get_two_rows() -> None:
    split = two_streams(5000, 5)
    plan = TaskSampling(by="proportional", tasks=["a", "b"]).plan(split, {"a": multiclass(2), "b": multiclass(2)}, 16, draws())
    assert all(len(batch["y"]) == 2 for batch in plan)


def test_a_batch_of_one_row_has_one_of_each_stream() -> None:
    split = two_streams(40, 4)
    plan = TaskSampling(by="proportional", tasks=["a", "b"]).plan(split, {"a": multiclass(2), "b": multiclass(2)}, 1, draws())
    assert all(len(batch["y"]) == 1 and len(batch["x"]) in (1, 2) for batch in plan)


def test_a_stream_without_a_served_task_takes_no_part_in_the_sharing_out() -> None:
    two = two_streams(300, 100)
    split = Split(two.inputs | {"z": {"numeric": torch.zeros(50, 1)}}, two.targets, two.streams)
    plan = TaskSampling(by="proportional").plan(split, {"a": multiclass(2), "b": multiclass(2)}, 30, draws())
    sums = {stream: sum(len(batch[stream]) for batch in plan) for stream in "xyz"}
    assert sums == {"x": 450, "y": 150, "z": 300}  # 300 places on each, those of x and y dealt 3 to 1


def test_tasks_without_labels_are_not_drawn_and_without_any_nothing_changes() -> None:
    split = split_of(a=labels_of([30, 10]), b=torch.full((40,), MISSING))
    for strategy in (TaskSampling(by="uniform"), TaskSampling(by="proportional")):
        plan = strategy.plan(split, {"a": multiclass(2), "b": multiclass(2)}, 8, draws())
        assert torch.cat([batch["input"] for batch in plan]).sort().values.tolist() == list(range(40))
        plan = strategy.plan(split, {"b": multiclass(2)}, 8, draws())
        assert torch.cat([batch["input"] for batch in plan]).sort().values.tolist() == list(range(40))
