"""The metrics equal scikit-learn's to 1e-6, whatever is missing, tied or constant, however many tasks run as one."""

import itertools
import math
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from imblearn.metrics import geometric_mean_score
from sklearn import metrics as sk
from torch import Tensor

from mtl_runner import metrics
from mtl_runner.metrics import METRICS, binary, confusion, multiclass, regression
from mtl_runner.metrics.correlation import correlation

SEEDS = range(40)
KINDS = ("binary", "multiclass", "regression", "reconstruction")
RANKING = ("roc_auc", "average_precision")


@pytest.fixture(autouse=True)
def _scikit_learn_may_warn() -> Iterator[None]:
    """The oracle warns where a class is missing or a prediction has no label: exactly the cases that are drawn here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="sklearn")
        warnings.filterwarnings("ignore", message="y_pred contains classes not in y_true")
        warnings.filterwarnings("ignore", message="A single label was found")
        yield


def decisions(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    macro = {"average": "macro", "zero_division": 0}
    return {
        "accuracy": sk.accuracy_score(truth, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, predicted),
        "precision": sk.precision_score(truth, predicted, **macro),
        "recall": sk.recall_score(truth, predicted, **macro),
        "f1": sk.f1_score(truth, predicted, **macro),
        "mcc": sk.matthews_corrcoef(truth, predicted),
        "g_mean": geometric_mean_score(truth, predicted, labels=np.unique(truth), correction=0),
    }


def calibration_error(confidence: np.ndarray, came_true: np.ndarray) -> float:
    """By loops over 15 bins, each without its lower edge; 0 is in the first."""
    total = 0.0
    for b in range(15):
        inside = (confidence > b / 15 + 1e-9) & (confidence <= (b + 1) / 15 + 1e-9) | (confidence <= 1e-9) & (b == 0)
        if inside.any():
            total += inside.mean() * abs(confidence[inside].mean() - came_true[inside].mean())
    return total


def ranking(positive: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    if positive.all() or not positive.any():
        return math.nan, math.nan
    return sk.roc_auc_score(positive, scores), sk.average_precision_score(positive, scores)


def binary_oracle(logits: Tensor, targets: Tensor) -> dict[str, float]:
    logits, truth = logits[~targets.isnan()].double(), targets[~targets.isnan()].numpy().astype(int)
    if not len(truth):
        return dict.fromkeys((metric.name for metric in METRICS["binary"]), math.nan)
    probability = torch.stack([torch.sigmoid(-logits), torch.sigmoid(logits)], -1).numpy()
    roc_auc, average_precision = ranking(truth == 1, probability[:, 1])
    return {
        "roc_auc": roc_auc,
        "average_precision": average_precision,
        "prevalence": truth.mean(),
        **decisions(truth, (logits > 0).numpy().astype(int)),
        "log_loss": sk.log_loss(truth, probability, labels=[0, 1]),
        "brier": sk.brier_score_loss(truth, probability[:, 1], pos_label=1),
        "calibration_error": calibration_error(probability[:, 1], truth),
    }


def multiclass_oracle(logits: Tensor, targets: Tensor) -> dict[str, float]:
    classes, kept = range(logits.shape[-1]), targets != -100
    probability, truth = logits.double().softmax(-1)[kept].numpy(), targets[kept].numpy()
    if not len(truth):
        return dict.fromkeys((metric.name for metric in METRICS["multiclass"]), math.nan)
    values = {
        **decisions(truth, logits[kept].argmax(-1).numpy()),
        "log_loss": sk.log_loss(truth, probability, labels=list(classes)),
        "brier": sum(sk.brier_score_loss(truth == c, probability[:, c], pos_label=True) for c in classes),
        "calibration_error": calibration_error(probability.max(1), truth == logits[kept].argmax(-1).numpy()),
    }
    each = [ranking(truth == c, probability[:, c]) for c in classes]
    values["roc_auc"], values["average_precision"] = (float(np.mean(column)) for column in zip(*each, strict=True))
    if len(classes) > 2 and not math.isnan(values["roc_auc"]):
        whole = sk.roc_auc_score(truth, probability, multi_class="ovr", labels=list(classes))
        assert values["roc_auc"] == pytest.approx(whole, abs=1e-9)
    return values


def regression_oracle(values: Tensor, targets: Tensor, center: Tensor, scale: Tensor, average: str) -> dict[str, float]:
    """One task, [N, K], in the user's unit: each output from its own labelled examples, then averaged."""
    columns: dict[str, list[float]] = {"r2": [], "mae": [], "rmse": [], "weight": []}
    for k in range(values.shape[1]):
        kept = ~targets[:, k].isnan()
        truth, guess = ((center[k] + scale[k] * x[kept, k].double()).numpy() for x in (targets, values))
        columns["r2"].append(sk.r2_score(truth, guess) if len(truth) > 1 else math.nan)
        columns["mae"].append(sk.mean_absolute_error(truth, guess) if len(truth) else math.nan)
        columns["rmse"].append(sk.root_mean_squared_error(truth, guess) if len(truth) else math.nan)
        columns["weight"].append(truth.var() * len(truth) if len(truth) > 1 and average == "variance_weighted" else 0.0)
    result = {name: float(np.nanmean(column)) if not np.isnan(column).all() else math.nan for name, column in columns.items()}
    weight = np.array(columns.pop("weight"))
    if weight.any():
        result["r2"] = float(np.nansum(weight * np.nan_to_num(columns["r2"])) / weight.sum())
    return {name: result[name] for name in ("r2", "mae", "rmse")}


def assert_equal(found: dict[str, Tensor], expected: list[dict[str, float]]) -> None:
    for name, values in found.items():
        assert values.shape == (len(expected),) and values.dtype == torch.float64
        np.testing.assert_allclose(values.numpy(), [row[name] for row in expected], rtol=1e-6, atol=1e-6, err_msg=name)


def draw(seed: int) -> tuple[torch.Generator, int, int]:
    """A generator, a number of tasks and one of examples: small ones as well, where classes and labels are missing."""
    generator = torch.Generator().manual_seed(seed)
    return generator, 1 + seed % 5, [1, 2, 3, 7, 20, 60, 300, 1000][seed % 8]


def binary_case(seed: int) -> tuple[Tensor, Tensor]:
    generator, tasks, examples = draw(seed)
    logits = 3 * torch.randn(tasks, examples, generator=generator)
    if seed % 3:
        logits = logits.round() / 2  # ties, zeros among them
    rates = torch.tensor([0.5, 0.1, 0.9, 0.0, 1.0])[torch.randperm(5, generator=generator)[:tasks], None]
    targets = (torch.rand(tasks, examples, generator=generator) < rates).float()
    missing = torch.tensor([0.0, 0.3, 0.7, 1.0])[torch.randint(0, 4, (tasks, 1), generator=generator)]
    return logits, targets.masked_fill(torch.rand(tasks, examples, generator=generator) < missing, math.nan)


def multiclass_case(seed: int) -> tuple[Tensor, Tensor]:
    generator, tasks, examples = draw(seed)
    classes = 2 + seed % 6
    logits = 2 * torch.randn(tasks, examples, classes, generator=generator)
    if seed % 3:
        logits = logits.round()
    present = torch.randint(1, classes + 1, (tasks, 1), generator=generator) if seed % 2 else torch.tensor(classes)
    targets = torch.randint(0, 10**6, (tasks, examples), generator=generator) % present
    missing = torch.tensor([0.0, 0.3, 0.7, 1.0])[torch.randint(0, 4, (tasks, 1), generator=generator)]
    return logits, targets.masked_fill(torch.rand(tasks, examples, generator=generator) < missing, -100)


def regression_case(seed: int, outputs: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator, tasks, examples = draw(seed)
    targets = torch.randn(tasks, examples, outputs, generator=generator)
    values = targets + torch.randn(tasks, examples, outputs, generator=generator)
    for task, k in itertools.product(range(tasks), range(outputs)):
        if (task + k + seed) % 4 == 0:
            targets[task, :, k] = 0.1 * (seed % 3)  # constant, missed or met
        if (task + k + seed) % 8 == 0:
            values[task, :, k] = targets[task, :, k]
    missing = torch.tensor([0.0, 0.3, 0.7, 1.0])[torch.randint(0, 4, (tasks, 1, outputs), generator=generator)]
    targets = targets.masked_fill(torch.rand(targets.shape, generator=generator) < missing, math.nan)
    # Powers of two, and no center where a target is constant: the oracle's own rounding would make it vary in the user's unit.
    scale = 2.0 ** torch.randint(-3, 4, (tasks, outputs), generator=generator)
    return values, targets, torch.zeros(tasks, outputs), scale


def random_call(kind: str, seed: int) -> tuple[Callable[..., dict[str, Tensor]], list[Tensor]]:
    """A function and its outputs and targets, [T, N, …] each."""
    if kind == "binary":
        return binary, list(binary_case(seed))
    if kind == "multiclass":
        return multiclass, list(multiclass_case(seed))
    case = list(regression_case(seed, 1 + seed % 3)[:2])
    if kind == "regression":
        return lambda values, targets: regression(values, targets) | correlation(values, targets), case
    return lambda values, targets: regression(values, targets, average="variance_weighted"), case


@pytest.mark.parametrize("seed", SEEDS)
def test_binary_equals_scikit_learn(seed: int) -> None:
    logits, targets = binary_case(seed)
    assert_equal(binary(logits, targets), [binary_oracle(*task) for task in zip(logits, targets, strict=True)])


@pytest.mark.parametrize("seed", SEEDS)
def test_multiclass_equals_scikit_learn(seed: int) -> None:
    logits, targets = multiclass_case(seed)
    assert_equal(multiclass(logits, targets), [multiclass_oracle(*task) for task in zip(logits, targets, strict=True)])


@pytest.mark.parametrize("average", ["uniform_average", "variance_weighted"])
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("seed", SEEDS)
def test_regression_equals_scikit_learn(seed: int, outputs: int, average: str) -> None:
    values, targets, center, scale = regression_case(seed, outputs)
    expected = [regression_oracle(*task, average) for task in zip(values, targets, center, scale, strict=True)]
    assert_equal(regression(values, targets, scale, average), expected)
    if outputs == 1:
        assert_equal(regression(values[..., 0], targets[..., 0], scale[:, 0], average), expected)


@pytest.mark.parametrize("average", ["uniform_average", "variance_weighted"])
@pytest.mark.parametrize("seed", SEEDS)
def test_regression_in_the_users_unit_equals_scikit_learn_on_all_outputs_at_once(seed: int, average: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    targets, noise = torch.randn(2, 50, 4, generator=generator), torch.randn(2, 50, 4, generator=generator)
    center, scale = 100 * torch.randn(2, 4, generator=generator), torch.rand(2, 4, generator=generator) + 0.01
    found = regression(targets + noise, targets, scale, average)
    for task in range(2):
        truth, guess = (center[task] + scale[task] * x[task].double() for x in (targets, targets + noise))
        assert found["r2"][task].item() == pytest.approx(sk.r2_score(truth, guess, multioutput=average), abs=1e-6)
        assert found["mae"][task].item() == pytest.approx(sk.mean_absolute_error(truth, guess), abs=1e-6)
        assert found["rmse"][task].item() == pytest.approx(sk.root_mean_squared_error(truth, guess), abs=1e-6)


def test_constant_targets_score_one_if_met_and_zero_if_missed() -> None:
    targets = torch.full((2, 999), 0.1)
    values = torch.stack([targets[0], targets[0] + 1])
    for average in ("uniform_average", "variance_weighted"):
        assert regression(values, targets, average=average)["r2"].tolist() == [1.0, 0.0]


def test_an_output_without_labels_is_left_out_of_the_average() -> None:
    values, targets, _, scale = regression_case(6, 3)
    targets[..., 1] = math.nan
    for average in ("uniform_average", "variance_weighted"):
        others = [x[..., [0, 2]] for x in (values, targets, scale)]
        assert_same(regression(values, targets, scale, average), regression(*others, average))


def test_roc_auc_is_the_share_of_pairs_in_order() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(-3, 4, (3, 80), generator=generator).float()
    targets = (torch.rand(3, 80, generator=generator) < 0.3).float()
    for found, x, y in zip(binary(logits, targets)["roc_auc"], logits, targets, strict=True):
        pairs = [(a > b) + 0.5 * (a == b) for a in x[y == 1].tolist() for b in x[y == 0].tolist()]
        assert found.item() == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)


@pytest.mark.parametrize("shift", [-64.0, 64.0])
@pytest.mark.parametrize("seed", range(8))
def test_the_ranking_metrics_stay_when_all_logits_move_together(seed: int, shift: float) -> None:
    logits, targets = binary_case(seed)
    logits = (8 * logits).round() / 8  # so that adding the shift is exact
    moved, found = binary(logits + shift, targets), binary(logits, targets)
    assert_same({name: moved[name] for name in RANKING}, {name: found[name] for name in RANKING})


def test_logits_that_saturate_the_sigmoid_are_still_ranked() -> None:
    logits, targets = torch.tensor([[-900.0, -800.0, 40.0, 50.0, 60.0]]), torch.tensor([[0.0, 1.0, 0.0, 0.0, 1.0]])
    assert binary(logits, targets)["roc_auc"].item() == pytest.approx(sk.roc_auc_score(targets[0], logits[0]))
    assert binary(logits, targets)["log_loss"].item() == pytest.approx(binary_oracle(logits[0], targets[0])["log_loss"], abs=1e-6)


def test_multiclass_log_loss_is_clipped_as_scikit_learn_clips_it() -> None:
    logits, targets = torch.tensor([[[900.0, 0.0, -900.0], [5.0, 80.0, 0.0], [0.0, 0.0, 0.0]]]), torch.tensor([[2, 0, 1]])
    assert_equal(multiclass(logits, targets), [multiclass_oracle(logits[0], targets[0])])


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, values in found.items():
        torch.testing.assert_close(values, expected[name], rtol=0, atol=1e-12, equal_nan=True, msg=name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(8))
def test_the_order_of_the_examples_does_not_matter(kind: str, seed: int) -> None:
    function, case = random_call(kind, seed)
    order = torch.randperm(case[0].shape[1], generator=torch.Generator().manual_seed(seed))
    assert_same(function(*(x[:, order] for x in case)), function(*case))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(8))
def test_tasks_together_are_as_alone_whatever_is_ranked_at_once(kind: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    function, case = random_call(kind, seed)
    alone = [function(*(x[task : task + 1] for x in case)) for task in range(len(case[0]))]
    expected = {name: torch.cat([task[name] for task in alone]) for name in alone[0]}
    for most in (1, 2 * case[0].shape[1], 10**9):
        monkeypatch.setattr(metrics.classes_and_numbers, "_RANKED_AT_ONCE", most)
        assert_same(function(*case), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_task_that_diverged_is_nan_and_the_others_are_untouched(kind: str, broken: float) -> None:
    function, (outputs, targets) = random_call(kind, 38)  # four tasks, 300 examples
    targets = targets.clone()
    targets[:, :3] = 0  # labelled
    expected = function(outputs, targets)
    outputs = outputs.clone()
    outputs[1].view(-1)[0] = broken
    found = function(outputs, targets)
    for name, values in found.items():
        assert values[1].isnan(), name
    others = [0, 2, 3]
    assert_same({name: x[others] for name, x in found.items()}, {name: x[others] for name, x in expected.items()})
    assert not torch.cat([x[others] for x in found.values()]).isnan().all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30, 0.0])
def test_outputs_of_unlabelled_examples_count_nowhere(kind: str, value: float) -> None:
    for seed in range(8):
        function, (outputs, targets) = random_call(kind, seed)
        unlabelled = targets == -100 if kind == "multiclass" else targets.isnan()
        changed = outputs.masked_fill(unlabelled[..., None] if kind == "multiclass" else unlabelled, value)
        assert_same(function(changed, targets), function(outputs, targets))


@pytest.mark.parametrize("kind", KINDS)
def test_without_examples_all_are_nan(kind: str) -> None:
    function, case = random_call(kind, 7)
    found = function(*(x[:, :0] for x in case))
    assert all(x.shape == (len(case[0]),) and x.isnan().all() for x in found.values())


@pytest.mark.parametrize("kind", KINDS)
def test_names_are_those_of_the_kind_and_the_primary_one_is_first(kind: str) -> None:
    function, case = random_call(kind, 7)
    assert list(function(*case)) == [metric.name for metric in METRICS[kind]]
    primary = {"binary": "roc_auc", "multiclass": "balanced_accuracy", "regression": "r2", "reconstruction": "r2"}
    assert METRICS[kind][0].name == primary[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_of_a_perfect_and_a_reversed_model_the_perfect_one_is_better_in_every_orientation(kind: str) -> None:
    signs = torch.tensor([[-1.0, 1.0, -2.0, 2.0]])
    good, targets = {
        "binary": (signs, (signs > 0).float()),
        "multiclass": (torch.stack([-signs, signs], -1), (signs > 0).long()),
    }.get(kind, (signs, signs))
    function, _ = random_call(kind, 0)
    perfect, reversed_ = function(good, targets), function(-good, targets)
    for metric in METRICS[kind]:
        if metric.higher_is_better is None:
            assert perfect[metric.name] == reversed_[metric.name] == 0.5, "a figure of the data"
            continue
        better = perfect[metric.name] > reversed_[metric.name]
        assert bool(better) == metric.higher_is_better, metric
        assert (perfect[metric.name] == 1) == metric.higher_is_better


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_outputs_of_any_precision_are_taken_and_need_no_gradient(kind: str, dtype: torch.dtype) -> None:
    function, (outputs, targets) = random_call(kind, 30)
    low = outputs.to(dtype).requires_grad_()
    found = function(low, targets)
    assert_same(found, function(low.detach().double(), targets))
    assert not any(x.requires_grad for x in found.values())


@pytest.mark.parametrize("seed", SEEDS)
def test_confusion_equals_scikit_learn(seed: int) -> None:
    logits, targets = multiclass_case(seed)
    predicted, classes = logits.argmax(-1), logits.shape[-1]
    found = confusion(predicted, targets, classes)
    assert found.dtype == torch.int64
    for matrix, guess, truth in zip(found, predicted, targets, strict=True):
        kept = truth != -100
        expected = np.zeros((classes, classes))
        if kept.any():
            expected = sk.confusion_matrix(truth[kept], guess[kept], labels=list(range(classes)))
        np.testing.assert_array_equal(matrix, expected)
    floats = targets.float().masked_fill(targets == -100, math.nan)
    assert torch.equal(confusion(predicted, floats, classes), found)


# ---- decisions apart from probabilities ---------------------------------------------------------------------------

OF_CLASSES = {metric.name for metric in METRICS["binary"] if metric.of == "classes"}


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
@pytest.mark.parametrize("seed", range(8))
def test_shifted_logits_decide_the_classes_and_probabilities_are_of_the_others(kind: str, seed: int) -> None:
    function, (logits, targets) = random_call(kind, seed)
    draws = torch.Generator().manual_seed(seed)
    decided = logits + torch.randn(logits.shape, generator=draws)
    found, plain, moved = function(logits, targets, decided), function(logits, targets), function(decided, targets)
    assert_same({n: x for n, x in found.items() if n in OF_CLASSES}, {n: x for n, x in moved.items() if n in OF_CLASSES})
    others = [name for name in found if name not in OF_CLASSES]
    assert_same({n: found[n] for n in others}, {n: plain[n] for n in others})
    assert {"roc_auc", "average_precision", "log_loss", "brier", "calibration_error"} <= {*others}
    assert_same(function(logits, targets, logits), plain)


def test_the_calibration_error_of_a_binary_task_is_of_the_positive_class_and_of_several_classes_of_the_top_one() -> None:
    """Ten examples of p = 0.2 of which three are positive: 0.1; as two classes, of 0.8 seven come true."""
    logits, targets = torch.full((1, 10), math.log(0.2 / 0.8)), torch.tensor([[1.0] * 3 + [0.0] * 7])
    assert binary(logits, targets)["calibration_error"].item() == pytest.approx(0.1, abs=1e-6)
    two = torch.stack([torch.zeros_like(logits), logits], -1)
    assert multiclass(two, targets.long())["calibration_error"].item() == pytest.approx(0.1, abs=1e-6)
    # one bin of positives at 0.9 and one of negatives at 0.1: 0.1 in each, where the top label is sure by 0.9 and always right
    sure = torch.tensor([[math.log(9.0)] * 5 + [-math.log(9.0)] * 5])
    assert binary(sure, (sure > 0).float())["calibration_error"].item() == pytest.approx(0.1, abs=1e-6)
    # two sorts of errors that cancel in the top label's bin, and not in those of the positive class
    targets = torch.tensor([[1.0] * 5 + [0.0] * 3 + [1.0] * 2])
    assert binary(sure, targets)["calibration_error"].item() == pytest.approx((0.1 + 0.3) / 2, abs=1e-6)
    two = torch.stack([torch.zeros_like(sure), sure], -1)
    assert multiclass(two, targets.long())["calibration_error"].item() == pytest.approx(0.1, abs=1e-6)


@pytest.mark.parametrize("classes", [2, 3, 5, 6, 7, 15])
def test_a_confidence_on_an_edge_of_two_bins_is_in_the_lower_one_whatever_rounding_made_of_it(classes: int) -> None:
    edge = 1 / 15 * round(15 / classes)
    below, above = (torch.tensor([[math.log(p / (1 - p))] * 2], dtype=torch.float64) for p in (edge - 1e-12, edge + 1e-12))
    lower = torch.full((1, 2), math.log((edge - 0.03) / (1.03 - edge)), dtype=torch.float64)
    targets = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    values = [binary(torch.cat([x, lower], 1), targets)["calibration_error"].item() for x in (below, above)]
    assert values[0] == pytest.approx(values[1], abs=1e-9)
    assert values[0] == pytest.approx(abs(edge - 0.015 - 0.5), abs=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_numbering_of_the_classes_does_not_matter(seed: int) -> None:
    logits, targets = multiclass_case(seed)
    logits = logits + 0.01 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed))  # no ties
    order = torch.randperm(logits.shape[-1], generator=torch.Generator().manual_seed(seed))
    renumbered = torch.where(targets < 0, targets, order.argsort()[targets.clamp(min=0)])
    assert_same(multiclass(logits[..., order], renumbered), multiclass(logits, targets))


def test_two_classes_are_a_binary_task_but_for_averages_over_both_and_the_scale_of_brier() -> None:
    logits, targets = binary_case(11)
    two = multiclass(torch.stack([torch.zeros_like(logits), logits], -1), targets.nan_to_num(-100).long())
    one = binary(logits, targets)
    for name in (*OF_CLASSES, "log_loss"):
        torch.testing.assert_close(two[name], one[name], equal_nan=True, rtol=0, atol=1e-9)
    torch.testing.assert_close(two["brier"], 2 * one["brier"], equal_nan=True)
