"""Made rows are those of imbalanced-learn on one task; for several, each has its own and none learns from another's."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from imblearn import combine, over_sampling
from imblearn.under_sampling import TomekLinks
from scipy.spatial.distance import cdist
from torch import Tensor

from mtl_runner.batch import MISSING, Split, TargetSpec, labelled
from mtl_runner.errors import UserError
from mtl_runner.imbalance.adasyn import ADASYN
from mtl_runner.imbalance.borderline_smote import BorderlineSMOTE
from mtl_runner.imbalance.smote import SMOTE
from mtl_runner.imbalance.smote_tomek import SMOTETomek
from mtl_runner.imbalance.synthetic import Synthetic
from mtl_runner.imbalance.tables import as_table, space

OPTIONS: list[type[Any]] = [SMOTE, BorderlineSMOTE, ADASYN, SMOTETomek]
BINARY = TargetSpec("binary", classes=("no", "yes"))


def multiclass(classes: int) -> TargetSpec:
    return TargetSpec("multiclass", classes=tuple(map(str, range(classes))))


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def seed_of(seed: int = 0) -> int:
    """What the first task's rows are made with."""
    return int(torch.randint(2**32, (), generator=draws(seed)))


def classes_of(counts: Sequence[int], seed: int = 0) -> Tensor:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return labels[torch.randperm(len(labels), generator=draws(seed))]


def numbers_of(labels: Tensor, columns: int = 4, apart: float = 1.0) -> Tensor:
    """Rows around a point for each class; those of neighbouring classes overlap."""
    around = torch.randn(len(labels), columns, generator=draws(7))
    around[:, 0] += apart * labels
    return around


def split_of(fields: dict[str, Tensor], **targets: Tensor) -> Split:
    rows = torch.arange(len(next(iter(fields.values()))))
    return Split({"input": fields}, targets, dict.fromkeys(targets, "input"), context={"input": {"row": rows}})


def new_rows(out: Split) -> Tensor:
    """Mask of the rows that were made."""
    return out.context["input"]["row"] == -1


# ---- one task: imbalanced-learn -----------------------------------------------------------------------------------


def theirs(option: type[Any], **given: Any) -> Any:
    module = combine if option is SMOTETomek else over_sampling
    return getattr(module, option.__name__)(**given)


STRATEGIES: list[Any] = ["auto", "not majority", "minority"]
CASES = [
    *itertools.product([*STRATEGIES, 0.8], [[90, 20]], ["binary", "multiclass"]),
    *itertools.product(STRATEGIES, [[70, 30, 12], [9, 60, 33, 14]], ["multiclass"]),
]


@pytest.mark.parametrize(("strategy", "counts", "kind"), CASES)
@pytest.mark.parametrize("option", OPTIONS)
def test_rows_of_one_task_are_imbalanced_learns(option: type[Any], strategy: Any, counts: list[int], kind: str) -> None:
    labels = classes_of(counts)
    x = numbers_of(labels)
    split = split_of({"numeric": x}, a=labels.float() if kind == "binary" else labels)
    spec = BINARY if kind == "binary" else multiclass(len(counts))
    out = option(sampling_strategy=strategy)(split, {"a": spec}, draws())
    expected = theirs(option, sampling_strategy=strategy, random_state=seed_of()).fit_resample(x.numpy(), labels.numpy())
    np.testing.assert_array_equal(out.inputs["input"]["numeric"].numpy(), expected[0])
    np.testing.assert_array_equal(out.targets["a"].numpy(), expected[1])
    known = out.context["input"]["row"][~new_rows(out)]
    assert torch.equal(x[known], out.inputs["input"]["numeric"][~new_rows(out)])
    assert new_rows(out).sum() > 0 and out.targets["a"].dtype == split.targets["a"].dtype


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        (SMOTE(k_neighbors=2), over_sampling.SMOTE(k_neighbors=2)),
        (ADASYN(n_neighbors=3), over_sampling.ADASYN(n_neighbors=3)),
        (BorderlineSMOTE(kind="borderline-2"), over_sampling.BorderlineSMOTE(kind="borderline-2")),
        (BorderlineSMOTE(k_neighbors=3, m_neighbors=4), over_sampling.BorderlineSMOTE(k_neighbors=3, m_neighbors=4)),
        (SMOTETomek(k_neighbors=1), combine.SMOTETomek(smote=over_sampling.SMOTE(k_neighbors=1))),
    ],
)
def test_parameters_mean_what_they_mean_there(ours: Synthetic, expected: Any) -> None:
    labels = classes_of([80, 25, 15])
    x = numbers_of(labels)
    expected.set_params(random_state=seed_of(3))
    if isinstance(expected, combine.SMOTETomek):
        expected.smote.set_params(random_state=seed_of(3))
    table, classes = expected.fit_resample(x.numpy(), labels.numpy())
    out = ours(split_of({"numeric": x}, a=labels), {"a": multiclass(3)}, draws(3))
    np.testing.assert_array_equal(out.inputs["input"]["numeric"].numpy(), table)
    np.testing.assert_array_equal(out.targets["a"].numpy(), classes)


def mixed(labels: Tensor, numeric: bool = True) -> dict[str, Tensor]:
    columns = [torch.randint(1, 2 + k, (len(labels),), generator=draws(k)) for k in (1, 2, 5)]
    fields = {"categorical": torch.stack([columns[0], (columns[1] + labels) % 4, columns[2]], 1)}
    return {"numeric": numbers_of(labels), **fields} if numeric else fields


@pytest.mark.parametrize("counts", [[80, 20], [60, 25, 9]])
@pytest.mark.parametrize("numeric", [True, False])
def test_categories_go_through_smotenc_and_without_numbers_through_smoten(numeric: bool, counts: list[int]) -> None:
    labels = classes_of(counts)
    split = split_of(mixed(labels, numeric), a=labels)
    sampler = over_sampling.SMOTENC([4, 5, 6]) if numeric else over_sampling.SMOTEN()
    sampler.set_params(random_state=seed_of())
    table, classes = sampler.fit_resample(as_table(split.inputs["input"]), labels.numpy())
    out = SMOTE()(split, {"a": multiclass(len(counts))}, draws())
    np.testing.assert_array_equal(as_table(out.inputs["input"]), table)
    np.testing.assert_array_equal(out.targets["a"].numpy(), classes)
    assert out.inputs["input"]["categorical"].dtype == torch.long
    for before, after in zip(split.inputs["input"]["categorical"].T, out.inputs["input"]["categorical"].T, strict=True):
        assert set(after.tolist()) <= set(before.tolist())


@pytest.mark.parametrize("seed", [0, 1])
def test_tomek_links_are_looked_for_where_all_categories_are_equally_far(seed: int) -> None:
    """As far as the spread of the original rows says, without those that were made."""
    labels = classes_of([50, 20], seed)
    split = split_of(mixed(labels), a=labels)
    made = SMOTE()(split, {"a": multiclass(2)}, draws())
    out = SMOTETomek()(split, {"a": multiclass(2)}, draws())
    x, codes, y = made.inputs["input"]["numeric"].double().numpy(), made.inputs["input"]["categorical"].numpy(), made.targets["a"]
    unit = np.median(split.inputs["input"]["numeric"].double().numpy().std(0))
    far = cdist(x, x) ** 2 + unit**2 * (codes[:, None] != codes[None]).sum(-1)
    np.fill_diagonal(far, np.inf)
    nearest = far.argmin(1)
    links = [i for i, j in enumerate(nearest) if nearest[j] == i and y[i] != y[j]]
    keep = np.setdiff1d(np.arange(len(y)), links)
    assert links and len(set(keep) & set(range(70))) < 70
    np.testing.assert_array_equal(as_table(out.inputs["input"]), as_table(made.inputs["input"])[keep])


def test_the_space_of_numbers_and_categories_has_the_distances_of_smote_nc() -> None:
    table = as_table(mixed(classes_of([30, 5])))
    points = space(table, 4, len(table)).toarray()
    unit = np.median(table[:, :4].std(0))
    expected = np.sqrt(cdist(table[:, :4], table[:, :4]) ** 2 + unit**2 * (table[:, None, 4:] != table[None, :, 4:]).sum(-1))
    np.testing.assert_allclose(cdist(points, points), expected, rtol=1e-5, atol=1e-6)
    again = space(np.concatenate([table, 9 * table]), 4, len(table)).toarray()  # further rows do not move the unit
    np.testing.assert_allclose(cdist(again[:35], again[:35]), expected, rtol=1e-5, atol=1e-6)
    constant = np.concatenate([np.zeros((35, 2), np.float32), table[:, 4:]], 1)
    assert cdist(space(constant, 2, 35).toarray(), space(constant, 2, 35).toarray()).max() == pytest.approx(math.sqrt(3))


# ---- few examples -------------------------------------------------------------------------------------------------


FIELDS = [
    *((option, "numeric") for option in OPTIONS),
    *((option, fields) for option in (SMOTE, SMOTETomek) for fields in ("mixed", "categorical")),
]


@pytest.mark.parametrize(("option", "fields"), FIELDS)
@pytest.mark.parametrize("few", [1, 2, 3, 5])
def test_a_class_with_few_examples_is_no_reason_to_stop(option: type[Any], few: int, fields: str) -> None:
    labels = classes_of([30, few, 0, 12])
    inputs = {"numeric": numbers_of(labels, apart=0)} if fields == "numeric" else mixed(labels, fields == "mixed")
    out = option()(split_of(inputs, a=labels), {"a": multiclass(4)}, draws())
    counts = Counter(out.targets["a"].tolist())
    assert set(counts) <= {0, 1, 3, MISSING} and counts[1] >= (1 if option is SMOTETomek else few)
    if option is SMOTE:
        assert counts == {0: 30, 1: 30, 3: 30}
    if few == 1 and option is not SMOTETomek:
        own = as_table(inputs)[(labels == 1).numpy()]
        assert counts[1] == 30 and (as_table(out.inputs["input"])[(out.targets["a"] == 1).numpy()] == own).all()


def test_a_class_of_few_examples_has_as_many_neighbours_as_it_can_and_the_others_keep_theirs() -> None:
    labels = classes_of([40, 3, 15])
    x = numbers_of(labels)
    out = SMOTE()(split_of({"numeric": x}, a=labels), {"a": multiclass(3)}, draws())
    made, classes = out.inputs["input"]["numeric"].numpy(), out.targets["a"].numpy()
    for label, neighbours in ((1, 2), (2, 5)):
        sampler = over_sampling.SMOTE(sampling_strategy={label: 40}, k_neighbors=neighbours, random_state=seed_of())
        expected = sampler.fit_resample(x.numpy(), labels.numpy())[0][58:]
        np.testing.assert_array_equal(made[58:][classes[58:] == label], expected)


def test_borderline_2_takes_neighbours_of_any_class_so_a_class_may_be_smaller_than_their_number() -> None:
    labels = classes_of([40, 4])
    x = numbers_of(labels)
    out = BorderlineSMOTE(kind="borderline-2")(split_of({"numeric": x}, a=labels), {"a": multiclass(2)}, draws())
    sampler = over_sampling.BorderlineSMOTE(kind="borderline-2", random_state=seed_of())
    np.testing.assert_array_equal(out.inputs["input"]["numeric"].numpy(), sampler.fit_resample(x.numpy(), labels.numpy())[0])
    assert new_rows(out).sum() == 36


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("labels", [[MISSING] * 6, [2] * 6, [MISSING, 1, 1, MISSING, 0, 0], [1] * 3 + [0] * 3])
def test_nothing_changes_where_there_is_nothing_to_balance(option: type[Any], labels: list[int]) -> None:
    target = torch.tensor(labels)
    x = numbers_of(target.clamp_min(0), apart=50)  # far apart, so that there are no links either
    out = option()(split_of({"numeric": x}, a=target), {"a": multiclass(3)}, draws())
    assert torch.equal(out.targets["a"], target) and torch.equal(out.inputs["input"]["numeric"], x)


def test_a_class_away_from_all_others_gets_nothing_from_adasyn_and_the_others_their_part() -> None:
    labels = classes_of([40, 10, 8])
    x = numbers_of(labels, apart=0)
    x[labels == 2] += 100
    out = ADASYN()(split_of({"numeric": x}, a=labels), {"a": multiclass(3)}, draws())
    counts = Counter(out.targets["a"].tolist())
    assert counts[2] == 8 and counts[1] > 30
    few = classes_of([21, 20])  # one row wanted: its shares of the difficulty all round to none
    assert ADASYN()(split_of({"numeric": numbers_of(few, apart=0)}, a=few), {"a": multiclass(2)}, draws()).size("input") == 41


# ---- several tasks ------------------------------------------------------------------------------------------------


def several() -> tuple[Split, dict[str, TargetSpec]]:
    """Tasks a and b with labels on other rows each, c a regression on some, weights for a and c."""
    b = classes_of([60, 25, 35], seed=1)
    x = numbers_of(b)
    a = (torch.arange(120) % 5 == 0).float()
    a[100:] = torch.nan
    b[:10] = MISSING
    c = torch.randn(120, 2, generator=draws(5))
    c[::3] = torch.nan
    split = split_of({"numeric": x}, a=a, b=b, c=c)
    weights = {"a": torch.rand(120, generator=draws(6)) + 0.5, "c": torch.arange(120.0)}
    return replace(split, weights=weights), {"a": BINARY, "b": multiclass(3)}


@pytest.mark.parametrize("option", OPTIONS)
def test_the_rows_of_a_task_are_made_of_the_original_rows_labelled_for_it(option: type[Any]) -> None:
    split, specs = several()
    out = option()(split, specs, draws())
    generator = draws()
    for name in specs:
        seed = int(torch.randint(2**32, (), generator=generator))
        mask = labelled(split.targets[name])
        x, y = split.inputs["input"]["numeric"][mask].numpy(), split.targets[name][mask].long().numpy()
        table, classes = theirs(option, random_state=seed).fit_resample(x, y)
        there = labelled(out.targets[name])
        np.testing.assert_array_equal(out.inputs["input"]["numeric"][there].numpy(), table)
        np.testing.assert_array_equal(out.targets[name][there].numpy(), classes)
    new = new_rows(out)
    assert (labelled(out.targets["a"])[new].int() + labelled(out.targets["b"])[new].int() == 1).all()
    assert out.targets["c"][new].isnan().all() and (out.weights["c"][new] == 1).all()
    rows = out.context["input"]["row"][~new]
    torch.testing.assert_close(out.targets["c"][~new], split.targets["c"][rows], equal_nan=True)
    never = {name: int((~labelled(split.targets[name])).sum()) for name in specs}
    assert all((~labelled(out.targets[name][~new])).sum() >= count - (120 - len(rows)) for name, count in never.items())


@pytest.mark.parametrize("option", [SMOTE, SMOTETomek])
def test_a_new_row_weighs_as_much_as_its_class_and_has_the_labels_of_the_nearest_row_if_wanted(option: type[Any]) -> None:
    split, specs = several()
    out = option(others="nearest")(split, {"a": specs["a"]}, draws())
    alone = option()(split, {"a": specs["a"]}, draws())
    assert torch.equal(out.inputs["input"]["numeric"], alone.inputs["input"]["numeric"])
    new, x = new_rows(out), split.inputs["input"]["numeric"]
    assert (out.targets["a"][new] == 1).all()
    positive = (split.targets["a"] == 1).nonzero().squeeze(1)
    torch.testing.assert_close(out.weights["a"][new], split.weights["a"][positive].mean().expand(int(new.sum())))
    nearest = positive[torch.from_numpy(cdist(out.inputs["input"]["numeric"][new].numpy(), x[positive].numpy()).argmin(1))]
    assert torch.equal(out.targets["b"][new], split.targets["b"][nearest])
    torch.testing.assert_close(out.targets["c"][new], split.targets["c"][nearest], equal_nan=True)
    assert torch.equal(out.weights["c"][new], split.weights["c"][nearest])


def test_of_several_tasks_each_gives_its_rows_the_labels_of_the_nearest_ones() -> None:
    split, specs = several()
    out = SMOTE(others="nearest")(split, specs, draws())
    alone = SMOTE()(split, specs, draws())
    assert torch.equal(out.inputs["input"]["numeric"], alone.inputs["input"]["numeric"])
    mine = labelled(alone.targets["b"]) & new_rows(alone)
    assert torch.equal(out.targets["b"][mine], alone.targets["b"][mine])
    for row in mine.nonzero().squeeze(1).tolist():
        same = (split.targets["b"] == out.targets["b"][row]).nonzero().squeeze(1)
        x = out.inputs["input"]["numeric"][row]
        nearest = same[(split.inputs["input"]["numeric"][same] - x).norm(dim=1).argmin()]
        torch.testing.assert_close(out.targets["a"][row], split.targets["a"][nearest], equal_nan=True)


def test_a_tomek_link_takes_the_label_of_that_task_only_and_the_row_if_it_was_the_last() -> None:
    x = torch.tensor([[0.0], [0.1], [5.0], [6.0], [9.0], [8.0]])
    a = torch.tensor([0, 1, 0, 0, 1, 1])  # rows 0 and 1 are a link of a
    b = torch.tensor([1, MISSING, 0, 1, MISSING, MISSING])
    split = split_of({"numeric": x}, a=a, b=b)
    assert TomekLinks(sampling_strategy="all").fit(x.numpy(), a.numpy())
    out = SMOTETomek()(split, {"a": multiclass(2)}, draws())
    assert out.context["input"]["row"].tolist() == [0, 2, 3, 4, 5]
    assert out.targets["a"].tolist() == [MISSING, 0, 0, 1, 1] and out.targets["b"].tolist() == [1, 0, 1, MISSING, MISSING]


def test_a_class_keeps_its_rows_where_a_tomek_link_would_take_the_last_of_them() -> None:
    labels = torch.tensor([0, 1])
    out = SMOTETomek()(split_of({"numeric": torch.tensor([[0.0], [1.0]])}, a=labels), {"a": multiclass(2)}, draws())
    assert out.targets["a"].tolist() == [0, 1]


def test_streams_have_rows_of_their_own() -> None:
    labels = {"a": classes_of([30, 6]), "b": classes_of([20, 9])}
    split = Split(
        {"x": {"numeric": numbers_of(labels["a"])}, "y": mixed(labels["b"]), "z": {"image": torch.zeros(4, 1, 2, 2)}},
        {**labels, "c": torch.zeros(29), "d": torch.zeros(4)},
        {"a": "x", "b": "y", "c": "y", "d": "z"},
    )
    specs = {"a": multiclass(2), "b": multiclass(2)}
    out = SMOTE()(split, specs, draws())
    assert (out.size("x"), out.size("y"), out.size("z")) == (60, 40, 4) and len(out.targets["c"]) == 40
    only = SMOTE()(split, {"b": specs["b"]}, draws())
    assert (only.size("x"), only.size("y")) == (36, 40)


# ---- what they all keep -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", OPTIONS)
def test_the_generator_decides_and_the_input_stays_as_it_was(option: type[Any]) -> None:
    split, specs = several()
    before = {name: target.clone() for name, target in split.targets.items()}
    one, same, other = (option()(split, specs, draws(seed)) for seed in (0, 0, 1))
    x = [out.inputs["input"]["numeric"] for out in (one, same, other)]
    assert torch.equal(x[0], x[1]) and not (x[0].shape == x[2].shape and torch.equal(x[0], x[2]))
    for name, target in before.items():
        torch.testing.assert_close(split.targets[name], target, equal_nan=True, rtol=0, atol=0)
    assert split.size("input") == 120 and option.renewed is False


@pytest.mark.parametrize("option", OPTIONS)
def test_a_column_with_two_values_has_one_of_them_in_new_rows(option: type[Any]) -> None:
    labels = classes_of([80, 20])
    x = numbers_of(labels)
    x[:, 1] = torch.where(x[:, 1] > 0, 0.25, -0.5)
    x[:, 2] = 0.25
    out = option()(split_of({"numeric": x}, a=labels), {"a": multiclass(2)}, draws())
    raw = theirs(option, random_state=seed_of()).fit_resample(x.numpy(), labels.numpy())[0]
    made = out.inputs["input"]["numeric"].numpy()
    assert set(np.unique(made[:, 1])) == {-0.5, 0.25} and (made[:, 2] == 0.25).all()
    if option is not SMOTETomek:  # where links are looked for after it
        np.testing.assert_array_equal(made[:, [0, 3]], raw[:, [0, 3]])
        np.testing.assert_array_equal(made[:, 1], np.where(np.abs(raw[:, 1] - 0.25) < np.abs(raw[:, 1] + 0.5), 0.25, -0.5))
        assert len(np.unique(raw[:, 1])) > 2


@pytest.mark.parametrize("option", OPTIONS)
def test_a_number_as_sampling_strategy_is_for_two_classes(option: type[Any]) -> None:
    labels = classes_of([20, 10, 5])
    split = split_of({"numeric": numbers_of(labels)}, t=labels)
    with pytest.raises(UserError, match=rf"imbalance\.{option.option}\.sampling_strategy=0\.5: .*two classes, and t has 3"):
        option(sampling_strategy=0.5)(split, {"t": multiclass(3)}, draws())
    two = split_of({"numeric": numbers_of(labels)}, t=(labels > 0).long())
    assert SMOTE(sampling_strategy=0.5)(two, {"t": multiclass(2)}, draws()).size("input") == 35  # has more than half already


@pytest.mark.parametrize("option", [BorderlineSMOTE, ADASYN])
def test_categories_are_refused_where_the_method_has_no_rule_for_them(option: type[Any]) -> None:
    labels = classes_of([20, 10])
    with pytest.raises(UserError, match=rf"imbalance\.{option.option}: task t reads categorical columns.*imbalance=smote"):
        option()(split_of(mixed(labels), t=labels), {"t": multiclass(2)}, draws())


def test_the_order_of_classes_plays_no_part_for_their_sizes() -> None:
    for counts in itertools.permutations([30, 12, 7]):
        labels = classes_of(list(counts))
        out = SMOTE()(split_of({"numeric": numbers_of(labels)}, a=labels), {"a": multiclass(3)}, draws())
        assert Counter(out.targets["a"].tolist()) == {0: 30, 1: 30, 2: 30}


@pytest.mark.parametrize("option", [SMOTE, ADASYN, BorderlineSMOTE])
def test_a_ratio_that_is_no_whole_number_of_rows_is_rounded_down(option: type[Any]) -> None:
    labels = classes_of([71, 20])
    split = split_of({"numeric": numbers_of(labels)}, a=labels.float())
    out = option(sampling_strategy=0.5)(split, {"a": BINARY}, draws())
    expected = theirs(option, sampling_strategy=0.5, random_state=seed_of()).fit_resample(numbers_of(labels).numpy(), labels)[1]
    assert int(new_rows(out).sum()) == len(expected) - 91
