"""Class weights and oversampling against scikit-learn and imbalanced-learn, the focal loss against its formula."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from imblearn.over_sampling import RandomOverSampler
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor
from torch.nn import functional as F

from mtl_runner.batch import MISSING, Split, TargetSpec
from mtl_runner.errors import UserError
from mtl_runner.imbalance.base import Criterion, class_counts, cross_entropy, inverse_frequency
from mtl_runner.imbalance.class_weights import ClassWeights
from mtl_runner.imbalance.focal import Focal
from mtl_runner.imbalance.oversample import Oversample


def multiclass(classes: int, stream: str = "input") -> TargetSpec:
    return TargetSpec("multiclass", stream, classes=tuple(map(str, range(classes))))


def binary(stream: str = "input") -> TargetSpec:
    return TargetSpec("binary", stream, classes=("no", "yes"))


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labels_of(counts: Sequence[int], seed: int = 0) -> Tensor:
    """Class numbers, so many of each, in any order."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return labels[torch.randperm(len(labels), generator=draws(seed))]


def split_of(**targets: Tensor) -> Split:
    """One stream whose only input is the number of the row."""
    rows = len(next(iter(targets.values())))
    return Split(
        {"input": {"numeric": torch.arange(rows)[:, None]}},
        targets,
        dict.fromkeys(targets, "input"),
        weights={name: torch.arange(rows).float() for name in targets},
        context={"input": {"row": torch.arange(rows)}},
    )


def rows_of(split: Split) -> Tensor:
    return split.inputs["input"]["numeric"][:, 0]


# ---- class weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [[5, 5], [90, 10], [1, 200, 33, 7], [3, 0, 9]])
def test_class_weights_are_scikit_learns_balanced(counts: list[int]) -> None:
    labels = labels_of(counts)
    present = np.unique(labels.numpy())
    expected = compute_class_weight("balanced", classes=present, y=labels.numpy())
    weights = inverse_frequency(labels[None], len(counts))[0]
    np.testing.assert_allclose(weights[present].numpy(), expected, rtol=1e-6)
    assert weights.isfinite().all()
    assert weights[labels].mean() == pytest.approx(1, abs=1e-6)


def test_each_task_of_a_group_has_its_own_class_weights_and_missing_labels_do_not_count() -> None:
    targets = torch.tensor([[0.0, 0, 0, 1], [1, 1, 0, math.nan], [math.nan] * 4])
    expected = [[4 / 6, 2.0], [1.5, 0.75], [1.0, 1.0]]
    torch.testing.assert_close(inverse_frequency(targets, 2), torch.tensor(expected))
    assert class_counts(torch.tensor([[0, 2, 2, MISSING]]), 3).tolist() == [[1, 0, 2]]


def test_class_weights_multiply_the_cross_entropy_of_each_example_with_that_of_its_class() -> None:
    torch.manual_seed(0)
    targets = torch.stack([labels_of([6, 3, 1]), labels_of([1, 1, 8], 1)])
    outputs = torch.randn(2, 10, 3)
    criterion = ClassWeights()
    criterion.fit(targets, 3)
    for t in range(2):
        weights = torch.tensor(compute_class_weight("balanced", classes=np.arange(3), y=targets[t].numpy())).float()
        expected = F.cross_entropy(outputs[t], targets[t], weight=weights, reduction="none")
        torch.testing.assert_close(criterion(outputs, targets)[t], expected)


@pytest.mark.parametrize("criterion", [ClassWeights, Focal])
def test_what_a_criterion_learns_is_no_part_of_a_checkpoint(criterion: type[Criterion]) -> None:
    made = criterion()
    made.fit(labels_of([8, 2])[None], 2)
    assert not made.state_dict()  # it is learnt again from the same targets


# ---- focal loss ---------------------------------------------------------------------------------------------------


def true_probability(outputs: Tensor, targets: Tensor) -> Tensor:
    if targets.is_floating_point():
        return torch.where(targets == 1, torch.sigmoid(outputs), torch.sigmoid(-outputs))
    return outputs.softmax(-1).gather(-1, targets[..., None])[..., 0]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 3.7])
@pytest.mark.parametrize(
    ("kind", "alpha"),
    [
        ("binary", None),
        ("binary", 0.25),
        ("binary", "inverse_frequency"),
        ("multiclass", None),
        ("multiclass", "inverse_frequency"),
    ],
)
def test_focal_loss_is_its_formula(gamma: float, alpha: float | str | None, kind: str) -> None:
    torch.manual_seed(1)
    targets = torch.stack([labels_of([12, 4]), labels_of([3, 13], 1)])
    targets = targets.double() if kind == "binary" else targets
    outputs = 3 * torch.randn(2, 16, *(() if kind == "binary" else (2,)), dtype=torch.float64)
    criterion = Focal(gamma=gamma, alpha=alpha)  # type: ignore[arg-type]
    criterion.fit(targets, 2)
    p = true_probability(outputs, targets)
    factor = torch.ones_like(p)
    if alpha == 0.25:
        factor = torch.where(targets == 1, 0.25, 0.75)
    elif alpha == "inverse_frequency":
        for t in range(2):
            weights = compute_class_weight("balanced", classes=np.arange(2), y=targets[t].long().numpy())
            factor[t] = torch.tensor(weights)[targets[t].long()]
    torch.testing.assert_close(criterion(outputs, targets), factor * (1 - p) ** gamma * -p.log(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_focal_loss_with_gamma_0_is_the_cross_entropy(kind: str) -> None:
    targets = torch.stack([labels_of([5, 5])])
    outputs = 10 * torch.randn(1, 10, *(() if kind == "binary" else (2,)), generator=draws())
    criterion = Focal(gamma=0.0)
    criterion.fit(targets.float() if kind == "binary" else targets, 2)
    if kind == "binary":
        expected = F.binary_cross_entropy_with_logits(outputs, targets.float(), reduction="none")
        assert torch.equal(criterion(outputs, targets.float()), expected)
    else:
        assert torch.equal(criterion(outputs, targets)[0], F.cross_entropy(outputs[0], targets[0], reduction="none"))


@pytest.mark.parametrize("gamma", [0.01, 0.5, 1.0, 2.0])
def test_focal_gradient_is_finite_and_vanishes_where_the_example_is_certain(gamma: float) -> None:
    logits = torch.tensor([[0.0, 5, 20, 60, 87, 88, 95, 103, 110, 1000]], requires_grad=True)
    criterion = Focal(gamma=gamma)
    criterion.fit(torch.tensor([[0.0, 1]]), 2)
    loss = criterion(logits, torch.ones_like(logits))
    loss.sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all() and loss.isfinite().all()
    assert (logits.grad[0, 3:].abs() < 1e-20).all() and (logits.grad[0, :2] < 0).all()


def test_focal_gradient_is_that_of_the_formula() -> None:
    targets = torch.tensor([[0, 2, 1, 2]])
    outputs = torch.randn(1, 4, 3, dtype=torch.float64, generator=draws(), requires_grad=True)
    criterion = Focal(gamma=1.5).double()
    criterion.fit(targets, 3)
    assert torch.autograd.gradcheck(lambda x: criterion.double()(x, targets), outputs)


def test_a_number_as_alpha_is_refused_for_multiclass_tasks_and_the_message_names_the_key() -> None:
    with pytest.raises(UserError, match=r"imbalance\.focal\.alpha=0\.25 .*inverse_frequency"):
        Focal(alpha=0.25).fit(labels_of([2, 2])[None], 2)


def test_cross_entropy_of_binary_logits_is_that_of_two_classes() -> None:
    logits, labels = torch.randn(2, 7, generator=draws()), torch.stack([labels_of([3, 4]), labels_of([5, 2])])
    two = torch.stack([torch.zeros_like(logits), logits], -1)
    torch.testing.assert_close(cross_entropy(logits, labels.float()), cross_entropy(two, labels))


# ---- oversampling -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [[50, 5], [40, 9, 1], [10, 0, 3], [4, 4]])
@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_oversampling_for_one_task_gives_imbalanced_learns_class_counts(counts: list[int], kind: str) -> None:
    if kind == "binary":
        counts = counts[:2]
    labels = labels_of(counts)
    spec = binary() if kind == "binary" else multiclass(len(counts))
    split = split_of(a=labels.float() if kind == "binary" else labels)
    out = Oversample()(split, {"a": spec}, draws())
    if sum(count > 0 for count in counts) > 1:
        _, expected = RandomOverSampler(random_state=0).fit_resample(np.arange(len(labels))[:, None], labels.numpy())
    else:
        expected = labels.numpy()
    assert Counter(out.targets["a"].long().tolist()) == Counter(expected.tolist())
    assert torch.equal(rows_of(out)[: len(labels)], torch.arange(len(labels)))  # each original row, once
    assert torch.equal(out.targets["a"].long(), labels[rows_of(out)])  # a copy keeps its label
    assert torch.equal(out.weights["a"], rows_of(out).float())  # … and its weight
    assert torch.equal(out.context["input"]["row"], rows_of(out))


def test_rows_without_a_label_stay_and_are_not_repeated() -> None:
    labels = torch.cat([labels_of([20, 2]), torch.full((7,), MISSING)])
    out = Oversample()(split_of(a=labels), {"a": multiclass(2)}, draws())
    assert Counter(out.targets["a"].tolist()) == {0: 20, 1: 20, MISSING: 7}
    assert len(rows_of(out)[out.targets["a"] == MISSING].unique()) == 7


def test_the_rows_drawn_depend_on_the_generator_alone() -> None:
    split = split_of(a=labels_of([300, 30]))
    one, same, other = (rows_of(Oversample()(split, {"a": multiclass(2)}, draws(seed))) for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_with_all_labels_kept_a_row_appears_as_often_as_the_mean_of_the_tasks_ratios() -> None:
    a = torch.cat([labels_of([8, 2]), torch.tensor([MISSING, MISSING])])
    b = torch.cat([labels_of([6, 3, 1], 3), torch.tensor([2, MISSING])]).long()
    split = split_of(a=a, b=b)
    specs = {"a": multiclass(2), "b": multiclass(3)}
    sizes = {name: Counter(target[target != MISSING].tolist()) for name, target in (("a", a), ("b", b))}
    expected = torch.tensor(
        [
            sum(max(sizes[n].values()) / sizes[n][c] if c != MISSING else 1 for n, c in (("a", a_i), ("b", b_i))) / 2
            for a_i, b_i in zip(a.tolist(), b.tolist(), strict=True)
        ]
    )
    times = 200
    generator = draws()
    counts = torch.zeros(len(a))
    for _ in range(times):
        drawn = torch.bincount(rows_of(Oversample(others="kept")(split, specs, generator)), minlength=len(a))
        assert (drawn >= expected.floor()).all() and (drawn <= expected.ceil()).all()
        counts += drawn
    torch.testing.assert_close(counts / times, expected, atol=5 * 0.5 / math.sqrt(times), rtol=0)


def test_only_tasks_with_labels_count_and_without_any_nothing_changes() -> None:
    split = split_of(a=labels_of([9, 3]), b=torch.full((12,), MISSING))
    alone = Oversample()(split, {"a": multiclass(2)}, draws())
    assert torch.equal(rows_of(Oversample()(split, {"a": multiclass(2), "b": multiclass(2)}, draws())), rows_of(alone))
    assert torch.equal(rows_of(Oversample()(split, {"b": multiclass(2)}, draws())), torch.arange(12))


def test_streams_are_resampled_apart() -> None:
    split = Split(
        {"x": {"numeric": torch.arange(12)[:, None]}, "y": {"numeric": torch.arange(5)[:, None]}},
        {"a": labels_of([9, 3]), "b": torch.tensor([0.0, 0, 0, 0, 1]), "c": torch.zeros(5)},
        {"a": "x", "b": "y", "c": "y"},
    )
    out = Oversample()(split, {"b": binary("y")}, draws())
    assert out.size("x") == 12 and out.size("y") == 8 and len(out.targets["c"]) == 8


def test_a_strategy_serves_the_tasks_of_its_kinds_that_are_named() -> None:
    specs = {"a": binary(), "b": multiclass(3), "c": TargetSpec("regression")}
    assert Oversample().serves(specs) == ["a", "b"]
    assert Focal(tasks=["b", "c"]).serves(specs) == ["b"]
