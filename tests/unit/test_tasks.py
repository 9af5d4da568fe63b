"""Task types: losses against loops over the labelled rows, predictions in what a user reads."""

import inspect
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.metrics import confusion_matrix, mean_absolute_error, r2_score
from torch import Tensor
from torch.nn import functional as F

from mtl_runner.batch import MISSING, Split, TargetSpec
from mtl_runner.datasets.kinds import KINDS
from mtl_runner.encoders.base import FeatureSpec
from mtl_runner.errors import UserError
from mtl_runner.imbalance.class_weights import ClassWeights
from mtl_runner.metrics import METRICS
from mtl_runner.tasks import Task, make_tasks, task_class, task_kinds
from mtl_runner.tasks.group import TaskGroup, masked, pack

FEATURES = FeatureSpec((5,))
SPECS = {
    "binary": TargetSpec("binary", classes=("no", "yes")),
    "multiclass": TargetSpec("multiclass", classes=("red", "green", "blue")),
    "regression": TargetSpec("regression", center=(10.0,), scale=(2.0,), columns=("price",)),
    "several": TargetSpec("regression", shape=(3,), center=(1.0, 0.0, -5.0), scale=(2.0, 1.0, 10.0), columns=("u", "v", "w")),
    "reconstruction": TargetSpec("reconstruction", shape=(3,), columns=("u", "v", "w")),
}
each_kind = pytest.mark.parametrize("kind", SPECS)


def group_of(kind: str, tasks: int = 2, **options: Any) -> TaskGroup:
    return TaskGroup(make_tasks({f"t{i}": SPECS[kind] for i in range(tasks)}), FEATURES, 0, **options)


def targets_of(kind: str, rows: int, seed: int) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    if kind in ("binary", "multiclass"):
        labels = torch.randint(len(SPECS[kind].classes), (rows,), generator=draws)
        return labels.float() if kind == "binary" else labels
    return torch.randn(rows, *SPECS[kind].shape, generator=draws)


def hide(targets: Tensor, share: float, seed: int) -> Tensor:
    """Some labels (single values of several outputs) become missing."""
    hidden = torch.rand(targets.shape, generator=torch.Generator().manual_seed(seed)) < share
    return targets.masked_fill(hidden, torch.nan if targets.is_floating_point() else MISSING)


def split_of(kind: str, rows: int = 20, missing: float = 0.3, weighed: Sequence[int] = ()) -> Split:
    targets = {f"t{i}": hide(targets_of(kind, rows, i), missing, 10 + i) for i in range(2)}
    weights = {f"t{i}": torch.rand(rows, generator=torch.Generator().manual_seed(20 + i)) * 3 for i in weighed}
    inputs = {"input": {"numeric": torch.zeros(rows, 1)}}
    return Split(inputs, targets, dict.fromkeys(targets, "input"), weights)


def error(kind: str, output: Tensor, target: Tensor) -> float:
    """The loss of one label, by hand in float64."""
    z = output.double()
    if kind == "binary":
        p = 1 / (1 + math.exp(-z.item()))
        return -math.log(p if target == 1 else 1 - p)
    if kind == "multiclass":
        return math.log(sum(math.exp(value) for value in z.tolist())) - z[int(target)].item()
    return (z.item() - target.double().item()) ** 2


def loss_by_loops(kind: str, outputs: Tensor, targets: Tensor, weights: Tensor | None) -> float | None:
    """Weighted mean over the labels that there are; None where there is none."""
    total = share = 0.0
    for n in range(len(targets)):
        w = 1.0 if weights is None else weights[n].item()
        values = [(outputs[n], targets[n])]
        if targets.ndim == 2:
            values = list(zip(outputs[n], targets[n], strict=True))
        for output, target in values:
            if target == MISSING or target != target:
                continue
            total += w * error(kind, output, target)
            share += w
    return total / share if share else None


def losses(group: TaskGroup, outputs: Tensor, split: Split) -> tuple[Tensor, Tensor]:
    clean = masked(pack(split, {"g": group}))
    return group.losses(outputs, clean.targets["g"], clean.weights.get("g"))


def outputs_of(group: TaskGroup, rows: int) -> Tensor:
    return group(2 * torch.randn(rows, 5, generator=torch.Generator().manual_seed(5)))


# ---- losses -------------------------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("missing", [0.0, 0.3, 0.95])
@pytest.mark.parametrize("weighed", [(), (0,), (0, 1)])
def test_a_loss_is_the_weighted_mean_over_the_labels_that_there_are(kind: str, missing: float, weighed: tuple[int, ...]) -> None:
    group, split = group_of(kind), split_of(kind, missing=missing, weighed=weighed)
    outputs = outputs_of(group, 20)
    got, active = losses(group, outputs, split)
    for i, name in enumerate(("t0", "t1")):
        expected = loss_by_loops(kind, outputs[i].detach(), split.targets[name], split.weights.get(name))
        assert bool(active[i]) == (expected is not None)
        assert got[i].item() == pytest.approx(expected or 0.0, rel=1e-5)


@each_kind
def test_a_task_without_any_label_has_loss_0_and_no_gradient_and_the_other_is_as_ever(kind: str) -> None:
    group, split = group_of(kind), split_of(kind)
    split.targets["t1"].fill_(torch.nan if split.targets["t1"].is_floating_point() else MISSING)  # type: ignore[attr-defined]
    outputs = outputs_of(group, 20)
    got, active = losses(group, outputs, split)
    assert active.tolist() == [True, False] and got[1] == 0
    assert got[0].item() == pytest.approx(loss_by_loops(kind, outputs[0].detach(), split.targets["t0"], None), rel=1e-5)
    (gradient,) = torch.autograd.grad(got.sum(), group.head.weight)
    assert gradient.isfinite().all() and gradient[0].any() and not gradient[1].any()


@each_kind
def test_what_a_row_without_label_is_predicted_does_not_matter(kind: str) -> None:
    group, split = group_of(kind), split_of(kind)
    outputs = outputs_of(group, 20).detach()
    labels = torch.stack([split.targets["t0"], split.targets["t1"]])
    hidden = (labels == MISSING) | labels.isnan()
    other = torch.where(hidden if hidden.ndim == outputs.ndim else hidden[..., None], 1000.0, outputs)
    assert not torch.equal(other, outputs)
    assert torch.equal(losses(group, other, split)[0], losses(group, outputs, split)[0])


def test_labels_that_are_all_there_need_no_weights_and_equal_weights_change_nothing() -> None:
    group, split = group_of("binary"), split_of("binary", missing=0.0)
    assert not masked(pack(split, {"g": group})).weights
    weighed = Split(split.inputs, split.targets, split.streams, {"t0": torch.full((20,), 2.5)})
    outputs = outputs_of(group, 20)
    torch.testing.assert_close(losses(group, outputs, weighed)[0], losses(group, outputs, split)[0])


@each_kind
def test_tasks_that_run_as_one_lose_what_each_loses_alone(kind: str) -> None:
    together, split = group_of(kind), split_of(kind, weighed=(1,))
    features = torch.randn(20, 5, generator=torch.Generator().manual_seed(5))
    got, _ = losses(together, together(features), split)
    for i, task in enumerate(together.tasks):
        alone = TaskGroup([task], FEATURES, 0)
        own = Split(split.inputs, {task.name: split.targets[task.name]}, {task.name: "input"}, split.weights)
        torch.testing.assert_close(alone(features)[0], together(features)[i])
        torch.testing.assert_close(losses(alone, alone(features), own)[0][0], got[i])


def test_a_criterion_takes_the_place_of_the_loss_and_the_mean_is_over_labels_not_over_its_weights() -> None:
    group, split = group_of("multiclass", criterion=ClassWeights()), split_of("multiclass")
    group.fit(pack(split, {"g": group}).targets["g"])
    outputs = outputs_of(group, 20)
    got, _ = losses(group, outputs, split)
    for i, name in enumerate(("t0", "t1")):
        known = split.targets[name] != MISSING
        labels = split.targets[name][known]
        weights = len(labels) / (3 * torch.bincount(labels, minlength=3))
        expected = F.cross_entropy(outputs[i][known], labels, weight=weights, reduction="sum") / len(labels)
        torch.testing.assert_close(got[i], expected)


# ---- signatures, kinds, metrics -----------------------------------------------------------------------------------


def test_only_tasks_of_one_kind_stream_and_size_run_as_one() -> None:
    base = SPECS["multiclass"]
    others = [
        TargetSpec("multiclass", stream="other", classes=base.classes),
        TargetSpec("multiclass", classes=("a", "b")),
        TargetSpec("binary", classes=base.classes),
        SPECS["several"],
        SPECS["reconstruction"],
        SPECS["regression"],
    ]
    signatures = [task.signature for task in make_tasks({str(i): spec for i, spec in enumerate([base, *others])})]
    assert len(set(signatures)) == len(signatures)
    twin = TargetSpec("multiclass", role="auxiliary", classes=("x", "y", "z"), metric="mcc")
    assert make_tasks({"twin": twin})[0].signature == signatures[0]


def test_a_kind_that_does_not_exist_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"dataset\.tasks\.spend\.type=regresion: .*did you mean 'regression'"):
        make_tasks({"spend": TargetSpec("regresion")})
    for word in ("base", "group", "__init__"):
        with pytest.raises(UserError, match="allowed are "):
            make_tasks({"spend": TargetSpec(word)})


def test_the_names_of_options_are_the_constructors_keywords() -> None:
    """The table that data sets check a user's options by, as they import no task."""
    assert sorted(KINDS) == task_kinds() == sorted(METRICS)
    for kind, names in KINDS.items():
        parameters = inspect.signature(task_class("t", kind)).parameters.values()
        own = {each.name for each in parameters if each.kind is each.KEYWORD_ONLY}
        assert set(names) == own, kind


@each_kind
def test_the_primary_metric_comes_first_and_can_be_another_one_of_which_higher_is_better(kind: str) -> None:
    spec = SPECS[kind]
    default = make_tasks({"t": spec})[0].metrics
    assert default[0].higher_is_better
    for metric in default:
        chosen = TargetSpec(spec.kind, classes=spec.classes, shape=spec.shape, metric=metric.name)
        if metric.higher_is_better:
            task = make_tasks({"t": chosen})[0]
            assert task.primary == metric and set(task.metrics) == set(default) and len(task.metrics) == len(default)
        else:
            with pytest.raises(UserError, match=rf"dataset\.tasks\.t\.metric={metric.name}"):
                make_tasks({"t": chosen})


def test_metrics_come_by_task_primary_first_and_errors_are_in_the_users_unit() -> None:
    specs = {"a": SPECS["regression"], "b": TargetSpec("regression", center=(0.0,), scale=(100.0,), metric="r2")}
    group = TaskGroup(make_tasks(specs), FEATURES, 0)
    outputs, targets = outputs_of(group, 20).detach(), torch.stack([targets_of("regression", 20, i) for i in range(2)], 1)
    values = group.evaluate(outputs, targets)
    for i, (name, spec) in enumerate(specs.items()):
        truth = spec.center[0] + spec.scale[0] * targets[:, i].double().numpy()
        guess = spec.center[0] + spec.scale[0] * outputs[i].double().numpy()
        assert values[name]["mae"] == pytest.approx(mean_absolute_error(truth, guess))
        assert values[name]["r2"] == pytest.approx(r2_score(truth, guess))
        assert next(iter(values[name])) == group.tasks[i].primary.name


UNITS = {
    "regression": {},
    "gaussian": {"kind": "regression", "options": {"loss": "gaussian"}},
    "count": {},
    "quantile": {},
    "rating": {"options": {"bounds": [1, 5]}},
    "depth": {"shape": (2, 3)},
}


@pytest.mark.parametrize("kind", UNITS)
def test_of_tasks_that_run_as_one_each_is_measured_in_its_own_unit(kind: str) -> None:
    made = {"kind": kind, "center": (2.0,), **UNITS[kind]}
    specs = {name: TargetSpec(**made, scale=(scale,)) for name, scale in {"t0": 3.0, "t1": 0.5}.items()}
    group = TaskGroup(make_tasks(specs), FEATURES if kind != "depth" else FeatureSpec((5, 2, 3)), 0)
    shape = specs["t0"].shape
    outputs = group(torch.randn(20, 5, *shape, generator=torch.Generator().manual_seed(0))).detach()
    targets = 0.5 + torch.rand(20, 2, *shape, generator=torch.Generator().manual_seed(1))

    def measured(one: TaskGroup, outputs: Tensor, targets: Tensor) -> dict[str, dict[str, float]]:
        return one.evaluated(one.summarise(outputs, targets)) if kind == "depth" else one.evaluate(outputs, targets)

    found = measured(group, outputs, targets)
    for place, name in enumerate(specs):
        alone = TaskGroup(make_tasks({name: specs[name]}), group.features, 0)
        assert found[name] == pytest.approx(measured(alone, outputs[[place]], targets[:, [place]])[name])
    assert any(found["t0"][metric.name] != found["t1"][metric.name] for metric in group.kind.metrics if metric.in_units)


def test_priors_are_the_shares_of_each_tasks_labels() -> None:
    group = group_of("multiclass")
    group.fit(torch.tensor([[0, 2], [0, 2], [1, MISSING], [MISSING, 1]]))
    assert group.priors is not None
    torch.testing.assert_close(group.priors, torch.tensor([[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]]))


def test_reconstruction_has_one_r2_over_all_values_and_regression_the_mean_of_its_outputs() -> None:
    targets = torch.randn(30, 3) * torch.tensor([0.01, 1.0, 5.0])
    outputs = targets + torch.randn(30, 3)
    for kind, how in (("reconstruction", "variance_weighted"), ("several", "uniform_average")):
        spec = TargetSpec(SPECS[kind].kind, shape=(3,))
        group = TaskGroup(make_tasks({"t": spec}), FEATURES, 0)
        expected = r2_score(targets.numpy(), outputs.numpy(), multioutput=how)
        assert group.evaluate(outputs[None], targets[:, None])["t"]["r2"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_confusions_are_scikit_learns_over_the_labelled_rows(kind: str) -> None:
    group, split = group_of(kind), split_of(kind)
    outputs = outputs_of(group, 20)
    matrices = group.confusions(outputs, pack(split, {"g": group}).targets["g"])
    for i, name in enumerate(("t0", "t1")):
        known = (split.targets[name] != MISSING) & ~split.targets[name].isnan()
        guess = (outputs[i] > 0) if kind == "binary" else outputs[i].argmax(-1)
        labels = list(range(len(SPECS[kind].classes)))
        expected = confusion_matrix(split.targets[name][known].numpy(), guess[known].numpy(), labels=labels)
        assert matrices[name] == expected.tolist()
    assert group_of("several").confusions(torch.zeros(2, 4, 3), torch.zeros(4, 2, 3)) == {}


# ---- predictions --------------------------------------------------------------------------------------------------


def task(kind: str) -> Task:
    return make_tasks({"t": SPECS[kind]})[0]


def test_a_binary_prediction_is_the_class_by_name_and_the_probability_of_the_positive_one() -> None:
    columns = task("binary").predictions(torch.tensor([-2.0, 0.0, 1e-6, 3.0]))
    assert columns["t"].to_pylist() == ["no", "no", "yes", "yes"]
    expected = [1 / (1 + math.exp(-z)) for z in (-2, 0, 1e-6, 3)]
    assert columns["t_probability"].to_pylist() == pytest.approx(expected, rel=1e-6)


def test_a_multiclass_prediction_is_the_class_by_name_and_a_probability_for_each() -> None:
    outputs = torch.randn(6, 3)
    columns = task("multiclass").predictions(outputs)
    assert list(columns) == ["t", "t_probability_red", "t_probability_green", "t_probability_blue"]
    table = np.stack([columns[f"t_probability_{name}"].to_numpy() for name in SPECS["multiclass"].classes], 1)
    np.testing.assert_allclose(table, softmax(outputs.double().numpy(), axis=1), rtol=1e-5)
    assert columns["t"].to_pylist() == [SPECS["multiclass"].classes[i] for i in table.argmax(1)]


def test_regression_predictions_are_in_the_users_unit_a_column_for_each_output() -> None:
    outputs = torch.tensor([0.0, -1.5, 2.0])
    assert task("regression").predictions(outputs)["t"].to_pylist() == [10.0, 7.0, 14.0]
    several = task("several").predictions(torch.tensor([[0.0, 1.0, 0.5], [1.0, 0.0, -1.0]]))
    assert {name: column.to_pylist() for name, column in several.items()} == {
        "t_u": [1.0, 3.0],
        "t_v": [1.0, 0.0],
        "t_w": [0.0, -15.0],
    }


def test_a_large_value_keeps_its_digits() -> None:
    year = make_tasks({"t": TargetSpec("regression", center=(1.7e9,), scale=(3.0,))})[0]  # seconds since 1970, to the second
    assert year.predictions(torch.tensor([1.0, -1.0]))["t"].to_pylist() == [1.7e9 + 3, 1.7e9 - 3]


@each_kind
def test_outputs_have_the_shape_of_the_targets_and_classes_last(kind: str) -> None:
    outputs = outputs_of(group_of(kind, tasks=3), 4)
    last = (3,) if kind == "multiclass" else SPECS[kind].shape
    assert outputs.shape == (3, 4, *last)
