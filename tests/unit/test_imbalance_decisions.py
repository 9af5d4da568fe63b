"""Decisions chosen after training, against brute force, scikit-learn, scipy and the papers' formulas."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from imblearn.metrics import geometric_mean_score
from scipy.optimize import minimize_scalar
from sklearn import metrics as sk
from torch import Tensor
from torch.nn import functional as F

from mtl_runner import metrics
from mtl_runner.batch import MISSING, Decision, TargetSpec
from mtl_runner.encoders.base import FeatureSpec
from mtl_runner.errors import UserError
from mtl_runner.imbalance.base import Adjuster
from mtl_runner.imbalance.logit_adjustment_posthoc import LogitAdjustmentPosthoc
from mtl_runner.imbalance.temperature import HIGHEST, LOWEST, TemperatureScaling
from mtl_runner.imbalance.threshold import Threshold
from mtl_runner.predictions import columns
from mtl_runner.tasks import make_tasks
from mtl_runner.tasks.group import TaskGroup

OBJECTIVES = ("f1", "balanced_accuracy", "g_mean", "cost")
COSTS: dict[int, Any] = {
    2: [[0, 1], [5, 0]],
    3: [[0, 1, 2], [7, 0, 1.5], [3, 9, 0.25]],
    4: [[0, 1, 1, 4], [2, 0, 1, 1], [9, 3, 0, 1], [1, 1, 5, 0]],
}
SEEDS = range(12)
SIZES = (2, 3, 6, 15, 40, 200)
each_objective = pytest.mark.parametrize("objective", OBJECTIVES)


def figure(objective: str, truth: Tensor, predicted: Tensor, costs: Any = None) -> float:
    """What is to be high, by NumPy."""
    y, guess = truth.numpy().astype(int), predicted.numpy().astype(int)
    if objective == "cost":
        return -float(np.mean(np.array(costs, dtype=float)[y, guess]))
    size = max(y.max(), guess.max()) + 1
    hits, true, said = (np.bincount(each, minlength=size) for each in (y[y == guess], y, guess))
    if objective == "f1":
        return float(np.mean((2 * hits)[true + said > 0] / (true + said)[true + said > 0]))
    recall = hits[true > 0] / true[true > 0]
    return float(recall.prod() ** (1 / len(recall)) if objective == "g_mean" else recall.mean())


def test_the_figures_are_those_of_the_libraries() -> None:
    for seed in range(10):
        logits, labels = multiclass_case(seed, 4)
        y, guess = labels.numpy(), logits.argmax(1).numpy()
        expected = {
            "f1": sk.f1_score(y, guess, average="macro", zero_division=0),
            "g_mean": geometric_mean_score(y, guess, labels=np.unique(y), correction=0),
            "balanced_accuracy": np.mean(sk.recall_score(y, guess, labels=np.unique(y), average=None)),
        }
        assert {name: figure(name, labels, logits.argmax(1)) for name in expected} == pytest.approx(expected)


def binary_case(seed: int) -> tuple[Tensor, Tensor]:
    """Logits and labels 0/1, few or many, with ties, both classes there."""
    draws = torch.Generator().manual_seed(seed)
    rows = SIZES[seed % len(SIZES)]
    labels = (torch.rand(rows, generator=draws) < (0.5, 0.1, 0.9)[seed % 3]).float()
    labels[:2] = torch.tensor([0.0, 1.0])
    logits = (2 * torch.randn(rows, generator=draws) + labels - 1) * (1, 1, 30, 0.01)[seed % 4]
    return (logits.round() if seed % 3 == 1 else logits), labels


def multiclass_case(seed: int, classes: int) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    rows = SIZES[1 + seed % (len(SIZES) - 1)]
    labels = torch.multinomial(torch.rand(classes, generator=draws) ** 3 + 0.01, rows, True, generator=draws)
    labels[:2] = torch.tensor([0, classes - 1])
    logits = torch.randn(rows, classes, generator=draws) + F.one_hot(labels, classes) - torch.arange(classes) * (seed % 3)
    return (logits.round() if seed % 4 == 1 else logits), labels


def uniform(classes: int) -> Tensor:
    return torch.full((classes,), 1 / classes)


def tuned(objective: str, logits: Tensor, labels: Tensor, classes: int = 2) -> Decision:
    costs = COSTS[classes] if objective == "cost" else None
    return Threshold(objective=objective, costs=costs).fit("t", logits, labels, uniform(classes))  # type: ignore[arg-type]


def decide(decision: Decision, logits: Tensor) -> Tensor:
    shifted = decision.shifted(logits)
    return shifted.argmax(-1) if logits.ndim > 1 else (shifted > 0).long()


# ---- thresholds ---------------------------------------------------------------------------------------------------


@each_objective
@pytest.mark.parametrize("seed", SEEDS)
def test_a_threshold_is_the_best_of_all(objective: str, seed: int) -> None:
    logits, labels = binary_case(seed)
    found = figure(objective, labels, decide(tuned(objective, logits, labels), logits), COSTS[2])
    every = [figure(objective, labels, logits > cut, COSTS[2]) for cut in [-math.inf, *logits.tolist()]]
    assert found == pytest.approx(max(every), abs=1e-9)


@each_objective
@pytest.mark.parametrize("seed", SEEDS)
def test_the_default_is_kept_where_nothing_is_better_and_ties_go_to_the_threshold_next_to_it(objective: str, seed: int) -> None:
    logits, labels = binary_case(seed)
    decision = tuned(objective, logits, labels)
    default = figure(objective, labels, logits > 0, COSTS[2])
    if decision == Decision():
        every = [figure(objective, labels, logits > cut, COSTS[2]) for cut in [-math.inf, *logits.tolist()]]
        assert default == pytest.approx(max(every), abs=1e-9)
        return
    assert decision.temperature == 1 and len(decision.offsets) == 1
    best = figure(objective, labels, decide(decision, logits), COSTS[2])
    assert best > default
    edges = [logits.min().item() - 2, *logits.unique().tolist(), logits.max().item() + 2]
    for middle in [(a + b) / 2 for a, b in itertools.pairwise(edges)]:
        if figure(objective, labels, logits > middle, COSTS[2]) > best - 1e-9:
            assert abs(decision.offsets[0]) <= abs(middle) * (1 + 1e-5) + 1e-5


@each_objective
@pytest.mark.parametrize("classes", [3, 4])
@pytest.mark.parametrize("seed", SEEDS)
def test_offsets_of_several_classes_never_lower_the_figure_that_they_were_tuned_for(
    objective: str, classes: int, seed: int
) -> None:
    logits, labels = multiclass_case(seed, classes)
    decision = tuned(objective, logits, labels, classes)
    found, default = (figure(objective, labels, decide(each, logits), COSTS[classes]) for each in (decision, Decision()))
    assert found > default if decision != Decision() else found == default


@each_objective
@pytest.mark.parametrize("seed", SEEDS)
def test_no_offset_of_a_single_class_is_better_still(objective: str, seed: int) -> None:
    """A coordinate-wise optimum: brute force over every margin of every class."""
    logits, labels = multiclass_case(seed, 3)
    decision = tuned(objective, logits, labels, 3)
    best = figure(objective, labels, decide(decision, logits), COSTS[3])
    offsets = torch.tensor(decision.offsets or (0.0,) * 3, dtype=torch.float64)
    if objective == "g_mean" and best == 0:
        return  # a class that is never hit, whatever single class is moved
    for label in labels.unique().tolist():
        others = (logits.double() + offsets).index_fill(1, torch.tensor([label]), -math.inf).amax(1)
        edges = (others - logits[:, label].double()).unique()
        for offset in [edges[0] - 1, *((edges[1:] + edges[:-1]) / 2), edges[-1] + 1]:
            tried = offsets.index_fill(0, torch.tensor([label]), float(offset))
            assert figure(objective, labels, (logits.double() + tried).argmax(1), COSTS[3]) <= best + 1e-6


@pytest.mark.parametrize("objective", ["f1", *(pytest.param(each, marks=pytest.mark.slow) for each in OBJECTIVES[1:3])])
def test_offsets_come_near_the_best_on_a_grid(objective: str) -> None:
    """Most of what there is to win, on average, is won."""
    won = most = 0.0
    for seed in range(24):
        logits, labels = multiclass_case(seed, 3)
        default, found = (figure(objective, labels, decide(x, logits)) for x in (Decision(), tuned(objective, logits, labels, 3)))
        grid = torch.linspace(-8, 8, 33).tolist()
        every = [
            figure(objective, labels, (logits + torch.tensor([0.0, a, b])).argmax(1)) for a, b in itertools.product(grid, grid)
        ]
        won, most = won + found - default, most + max(*every, default) - default
    assert won >= 0.9 * most > 1


def test_g_mean_finds_its_way_out_of_0_where_two_classes_are_never_hit() -> None:
    logits = torch.tensor([[9.0, 0, 0], [9, 0, 0], [9, 1, 0], [9, 1, 0], [9, 0, 1], [9, 0, 1.5]])
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    assert figure("g_mean", labels, logits.argmax(1)) == 0
    assert figure("g_mean", labels, decide(tuned("g_mean", logits, labels, 3), logits)) == 1
    nothing = torch.zeros(6, 3)  # and where that leads nowhere, nothing changes
    assert tuned("g_mean", nothing, labels, 3) == Decision()


@pytest.mark.parametrize("objective", ["f1", "balanced_accuracy", "g_mean"])
def test_the_numbering_of_equally_frequent_classes_does_not_matter(objective: str) -> None:
    labels, order = torch.arange(3).repeat(8), torch.tensor([2, 0, 1])
    for seed in range(10):
        noise = torch.randn(24, 3, generator=torch.Generator().manual_seed(seed))
        logits = noise + torch.eye(3)[labels] + torch.tensor([0.0, 1.0, 2.0])
        one = Threshold(objective=objective).fit("t", logits, labels, uniform(3))
        other = Threshold(objective=objective).fit("t", logits[:, order], order.argsort()[labels], uniform(3))
        assert torch.equal(order[decide(other, logits[:, order])], decide(one, logits))


@each_objective
@pytest.mark.parametrize("classes", [2, 3])
def test_the_numbering_of_the_classes_does_not_matter(objective: str, classes: int) -> None:
    for seed in range(24):
        if seed % 4 == 1:
            continue  # tied logits: which class wins a tie is a matter of the numbering
        logits, labels = multiclass_case(seed, classes)
        order = torch.randperm(classes, generator=torch.Generator().manual_seed(seed))
        renumbered = order.argsort()[labels]
        costs = torch.tensor(COSTS[classes], dtype=torch.float64)
        kinds: dict[str, Any] = {"objective": objective}
        if objective == "cost":
            kinds["costs"] = costs.tolist()
        one = Threshold(**kinds).fit("t", logits, labels, uniform(classes))
        if objective == "cost":
            kinds["costs"] = costs[order][:, order].tolist()
        other = Threshold(**kinds).fit("t", logits[:, order], renumbered, uniform(classes))
        assert torch.equal(order[decide(other, logits[:, order])], decide(one, logits))


@each_objective
def test_a_binary_task_is_tuned_as_well_as_the_two_classes_that_it_is(objective: str) -> None:
    for seed in SEEDS:
        logits, labels = binary_case(seed)
        two = torch.stack([torch.zeros_like(logits), logits], 1)
        one = figure(objective, labels, decide(tuned(objective, logits, labels), logits), COSTS[2])
        assert figure(objective, labels, decide(tuned(objective, two, labels.long()), two), COSTS[2]) == pytest.approx(one)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e8])
def test_neighbouring_numbers_can_be_told_apart(scale: float) -> None:
    """Where the middle of two logits is a number that rounds to one of them."""
    low = torch.tensor(1.0)
    high = torch.nextafter(low, torch.tensor(2.0))
    for a, b in ((low, high), (high, torch.nextafter(high, torch.tensor(2.0))), (-high, -low)):
        logits, labels = scale * torch.stack([a, a, b, b]), torch.tensor([0.0, 0, 1, 1])
        assert len(logits.unique()) == 2
        assert torch.equal(decide(tuned("f1", logits, labels), logits), labels.long())
        assert torch.equal(decide(tuned("cost", -logits, 1 - labels), -logits), 1 - labels.long())


@each_objective
@pytest.mark.parametrize("classes", [2, 3])
def test_without_examples_of_two_classes_or_with_outputs_that_are_not_finite_nothing_changes(
    objective: str, classes: int
) -> None:
    for rows, label in ((0, 0), (5, 1), (5, 0)):
        for logits in (torch.randn(rows), torch.randn(rows, classes)):
            assert tuned(objective, logits, torch.full((rows,), label), classes if logits.ndim > 1 else 2) == Decision()
    logits, labels = multiclass_case(5, classes)
    logits[-1, 1] = math.nan
    assert tuned(objective, logits, labels, classes) == Decision()


def test_a_class_without_a_validation_example_keeps_its_logit() -> None:
    logits, labels = multiclass_case(4, 4)
    labels[labels == 2] = 3
    decision = tuned("balanced_accuracy", logits, labels, 4)
    assert decision.offsets[2] == 0 and any(decision.offsets)


def test_costs_decide_as_bayes_does_with_calibrated_probabilities() -> None:
    """Positive where p > c_fp / (c_fp + c_fn): Elkan, The Foundations of Cost-Sensitive Learning, IJCAI 2001."""
    draws = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(200_000, generator=draws)
    labels = (torch.rand(200_000, generator=draws) < logits.sigmoid()).float()
    decision = tuned("cost", logits, labels)
    assert torch.sigmoid(torch.tensor(-decision.offsets[0])) == pytest.approx(1 / 6, abs=0.02)


def specs(**classes: int) -> dict[str, TargetSpec]:
    return {
        name: TargetSpec("multiclass" if number > 2 else "binary", classes=tuple(map(str, range(number))))
        for name, number in classes.items()
    }


@pytest.mark.parametrize(
    ("costs", "said"),
    [
        ([[0, 1], [1, 0]], r"costs: task b has 3 classes and needs 3 rows of 3 numbers, not 2 of 2"),
        ({"a": [[0, 1], [1, 0]]}, r"costs: no matrix for task b; .*imbalance\.threshold\.tasks"),
        ({"a": [[0, 1], [1]], "b": COSTS[3]}, r"costs\.a: task a has 2 classes and needs 2 rows of 2 numbers, not 2 of 1 and 2"),
        ({"a": [], "b": COSTS[3]}, r"costs\.a: task a .* not 0 of no"),
        ({"a": [[0, 1], [-2, 0]], "b": COSTS[3]}, r"costs\.a: a cost of task a is -2; allowed are numbers from 0 on"),
        ({"a": [[0, math.inf], [2, 0]], "b": COSTS[3]}, r"costs\.a: a cost of task a is inf"),
        ({"a": [[0, math.nan], [2, 0]], "b": COSTS[3]}, r"costs\.a: a cost of task a is nan"),
        ({"a": COSTS[2], "b": COSTS[3], "bb": COSTS[3]}, r"costs\.bb: no such task is served; .*did you mean 'b'"),
    ],
)
def test_costs_that_do_not_fit_are_refused_before_training_with_key_and_task(costs: Any, said: str) -> None:
    with pytest.raises(UserError, match=rf"imbalance\.threshold\.{said}"):
        Threshold(objective="cost", costs=costs).check(specs(a=2, b=3))


def test_costs_are_looked_up_by_task_and_need_their_objective() -> None:
    strategy = Threshold(objective="cost", costs={"a": COSTS[2], "b": COSTS[3]})
    assert strategy.serves(specs(a=2, b=3)) == ["a", "b"] and strategy.serves(specs(b=3)) == ["b"]
    logits, labels = binary_case(3)
    assert strategy.fit("a", logits, labels, uniform(2)) == tuned("cost", logits, labels)
    assert Threshold(objective="cost", costs=COSTS[3], tasks=["b"]).serves(specs(a=2, b=3)) == ["b"]
    with pytest.raises(UserError, match=r"objective=cost needs imbalance\.threshold\.costs"):
        Threshold(objective="cost")
    with pytest.raises(UserError, match=r"costs: imbalance\.threshold\.objective=f1 reads none"):
        Threshold(costs=COSTS[2])
    assert Threshold(objective="cost", costs=[[0, 0], [0, 0]]).fit("a", logits, labels, uniform(2)) == Decision()


# ---- logit adjustment ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("prior", [[0.9, 0.1], [0.2, 0.5, 0.3], [0.97, 0.01, 0.02]])
def test_logit_adjustment_is_its_formula(tau: float, prior: list[float]) -> None:
    draws = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(500, len(prior), generator=draws, dtype=torch.float64)
    decision = LogitAdjustmentPosthoc(tau=tau).fit("t", logits, torch.zeros(500), torch.tensor(prior))
    expected = (logits - tau * torch.tensor(prior, dtype=torch.float64).log()).argmax(1)
    assert torch.equal(decide(decision, logits), expected) and not torch.equal(expected, logits.argmax(1))
    assert torch.equal(decision.calibrated(logits), logits)
    if len(prior) == 2:
        binary = logits[:, 1] - logits[:, 0]
        alone = LogitAdjustmentPosthoc(tau=tau).fit("t", binary, torch.zeros(500), torch.tensor(prior))
        assert torch.equal(decide(alone, binary), expected)
        assert alone.offsets == pytest.approx((-tau * (math.log(prior[1]) - math.log(prior[0])),), rel=1e-6)


@pytest.mark.parametrize("shape", [(4,), (4, 2), (4, 3), (4, 7)])
def test_logit_adjustment_with_equal_shares_or_tau_0_changes_nothing(shape: tuple[int, ...]) -> None:
    classes = 2 if len(shape) == 1 else shape[1]
    logits, labels = torch.randn(shape), torch.zeros(4)
    for count in (1, 3, 7, 49):
        counts = torch.full((classes,), float(count))
        assert LogitAdjustmentPosthoc().fit("t", logits, labels, counts / counts.sum()) == Decision()
    skewed = torch.arange(1.0, classes + 1) / torch.arange(1.0, classes + 1).sum()
    assert LogitAdjustmentPosthoc(tau=0.0).fit("t", logits, labels, skewed) == Decision()
    assert LogitAdjustmentPosthoc().fit("t", logits, labels, skewed) != Decision()


def test_a_class_without_a_training_example_is_not_favoured() -> None:
    logits = torch.zeros(1, 3)
    found = LogitAdjustmentPosthoc().fit("t", logits, torch.zeros(1), torch.tensor([0.8, 0.0, 0.2]))
    assert found.offsets == pytest.approx((0.0, 0.0, math.log(4)), rel=1e-6)
    for prior in ([1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [math.nan, math.nan]):
        assert LogitAdjustmentPosthoc().fit("t", logits[:, 0], torch.zeros(1), torch.tensor(prior)) == Decision()


def test_logit_adjustment_of_true_probabilities_has_the_best_balanced_accuracy() -> None:
    """Bayes' rule for three Gaussians of shares 0.9, 0.07, 0.03."""
    draws = torch.Generator().manual_seed(0)
    prior = torch.tensor([0.9, 0.07, 0.03])
    labels = torch.multinomial(prior, 30_000, True, generator=draws)
    centers = torch.tensor([[0.0, 0.0], [1.5, 0.0], [0.0, 1.5]])
    points = centers[labels] + torch.randn(30_000, 2, generator=draws)
    logits = prior.log() - (points[:, None] - centers).square().sum(-1) / 2
    decision = LogitAdjustmentPosthoc().fit("t", logits, labels, prior)
    adjusted, plain = (figure("balanced_accuracy", labels, decide(each, logits)) for each in (decision, Decision()))
    every = [
        figure("balanced_accuracy", labels, (logits + torch.tensor([0.0, a, b])).argmax(1))
        for a, b in itertools.product(torch.linspace(0, 6, 13).tolist(), repeat=2)
    ]
    assert adjusted > plain + 0.2 and adjusted > max(every) - 0.01


# ---- temperature --------------------------------------------------------------------------------------------------


def log_loss(logits: Tensor, labels: Tensor) -> float:
    if logits.ndim == 1:
        return float(F.binary_cross_entropy_with_logits(logits.double(), labels.double()))
    return float(F.cross_entropy(logits.double(), labels.long()))


def case(seed: int, classes: int) -> tuple[Tensor, Tensor]:
    return binary_case(seed) if classes == 1 else multiclass_case(seed, classes)


@pytest.mark.parametrize("classes", [1, 3, 4])
@pytest.mark.parametrize("seed", range(30))
def test_a_temperature_has_the_lowest_log_loss_of_all(seed: int, classes: int) -> None:
    logits, labels = case(seed, classes)
    decision = TemperatureScaling().fit("t", logits, labels, uniform(max(2, classes)))
    right = (logits > 0) == labels.bool() if classes == 1 else logits.gather(1, labels[:, None])[:, 0] == logits.amax(1)
    if bool(right.all()):
        assert decision == Decision()
        return
    oracle = minimize_scalar(
        lambda u: log_loss(logits.double() / math.exp(u), labels),
        bounds=(math.log(LOWEST), math.log(HIGHEST)),
        method="bounded",
        options={"xatol": 1e-9},
    )
    found = log_loss(logits.double() / decision.temperature, labels)
    assert found <= oracle.fun + 1e-6
    assert found <= log_loss(logits, labels)
    assert LOWEST * (1 - 1e-9) <= decision.temperature <= HIGHEST * (1 + 1e-9) and not decision.offsets
    assert torch.equal(decide(decision, logits), decide(Decision(), logits))
    reported = (metrics.binary if classes == 1 else metrics.multiclass)(
        torch.stack([decision.calibrated(logits), logits]), torch.stack([labels, labels])
    )["log_loss"]
    assert reported[0] <= reported[1]


@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("true", [0.3, 1.0, 2.5, 6.0])
def test_the_temperature_that_logits_were_multiplied_by_is_found(classes: int, true: float) -> None:
    draws = torch.Generator().manual_seed(0)
    logits = 1.5 * torch.randn(30_000, *(() if classes == 1 else (classes,)), generator=draws)
    shares = logits.sigmoid()[:, None] if classes == 1 else logits.softmax(1)
    labels = (torch.rand(30_000, 1, generator=draws) > shares.cumsum(1)).sum(1).clamp(max=max(1, classes - 1))
    labels = 1.0 - labels if classes == 1 else labels
    decision = TemperatureScaling().fit("t", true * logits, labels, uniform(max(2, classes)))
    assert decision.temperature == pytest.approx(true, rel=0.05)
    function: Callable[..., dict[str, Tensor]] = metrics.binary if classes == 1 else metrics.multiclass
    error = function(decision.calibrated(true * logits)[None], labels[None])["calibration_error"]
    assert error < 0.02


def test_a_temperature_stays_within_bounds_and_is_1_where_there_is_nothing_to_learn_from() -> None:
    fit = TemperatureScaling().fit
    logits = torch.tensor([-3.0, -1.0, 2.0, 5.0])
    labels = torch.tensor([0.0, 0.0, 1.0, 1.0])
    assert fit(
        "t", 1e-4 * torch.cat([logits, logits[:1]]), torch.cat([labels, labels[2:3]]), uniform(2)
    ).temperature == pytest.approx(LOWEST)
    assert fit("t", -logits, labels, uniform(2)).temperature == pytest.approx(HIGHEST)  # worse than knowing nothing
    for outputs, truth in (
        (logits, labels),  # all are right: the lower the better, without end
        (torch.zeros(0), torch.zeros(0)),
        (torch.zeros(0, 3), torch.zeros(0).long()),
        (-logits, torch.ones(4)),
        (torch.randn(4, 3), torch.ones(4).long()),
        (torch.tensor([1.0, math.nan, 2.0, -1.0]), labels),
        (torch.zeros(4), labels),
    ):
        assert fit("t", outputs, truth, uniform(2)) == Decision()


# ---- how a decision is read ---------------------------------------------------------------------------------------


DECISIONS = {
    "binary": [Decision(), Decision(offsets=(1.3,)), Decision(2.5), Decision(0.4, (-0.7,))],
    "multiclass": [Decision(), Decision(offsets=(1.3, 0.0, -2.0)), Decision(2.5), Decision(0.4, (0.0, 1.5, -0.7))],
}


def group_and_data(kind: str, decisions: Sequence[Decision]) -> tuple[TaskGroup, Tensor, Tensor]:
    classes = ("no", "yes") if kind == "binary" else ("red", "green", "blue")
    made = {f"t{i}": TargetSpec(kind, classes=classes, decision=each) for i, each in enumerate(decisions)}
    draws = torch.Generator().manual_seed(3)
    outputs = 2 * torch.randn(len(made), 200, *(() if kind == "binary" else (3,)), generator=draws)
    labels = torch.randint(0, len(classes), (200, len(made)), generator=draws)
    hidden = torch.rand(200, len(made), generator=draws) < 0.2
    targets = labels.float().masked_fill(hidden, math.nan) if kind == "binary" else labels.masked_fill(hidden, MISSING)
    return TaskGroup(make_tasks(made), FeatureSpec((5,)), 0), outputs, targets


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_tasks_together_are_read_as_each_alone_and_classes_by_shifted_logits_alone(kind: str) -> None:
    group, outputs, targets = group_and_data(kind, DECISIONS[kind])
    together, matrices = group.evaluate(outputs, targets), group.confusions(outputs, targets)
    table = columns({task.name: outputs[i] for i, task in enumerate(group.tasks)}, {task.name: task.spec for task in group.tasks})
    for i, task in enumerate(group.tasks):
        alone = TaskGroup([task], FeatureSpec((5,)), 0)
        own = slice(i, i + 1)
        assert alone.evaluate(outputs[own], targets[:, own])[task.name] == pytest.approx(together[task.name], nan_ok=True)
        assert alone.confusions(outputs[own], targets[:, own])[task.name] == matrices[task.name]
        decision = task.spec.decision
        predicted = decide(decision, outputs[i])
        assert table[task.name].to_pylist() == [task.spec.classes[label] for label in predicted.tolist()]
        known = ~targets[:, i].isnan() if kind == "binary" else targets[:, i] != MISSING
        truth = targets[known, i].long().numpy()
        assert matrices[task.name] == sk.confusion_matrix(truth, predicted[known].numpy()).tolist()
        assert together[task.name]["f1"] == pytest.approx(sk.f1_score(truth, predicted[known].numpy(), average="macro"))
        logits = outputs[i].double() / decision.temperature
        if kind == "binary":
            shares = torch.stack([(-logits).sigmoid(), logits.sigmoid()], 1)
            np.testing.assert_allclose(table[f"{task.name}_probability"].to_numpy(), shares[:, 1], rtol=1e-5)
        else:
            shares = logits.softmax(1)
            for c, name in enumerate(task.spec.classes):
                np.testing.assert_allclose(table[f"{task.name}_probability_{name}"].to_numpy(), shares[:, c], rtol=1e-5)
        expected = sk.log_loss(truth, shares[known].numpy(), labels=list(range(shares.shape[1])))
        assert together[task.name]["log_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_a_decision_is_read_from_the_moment_that_a_task_has_it(kind: str) -> None:
    """A run changes ``task.spec`` at its end; what a shift leaves alone stays bit for bit."""
    group, outputs, targets = group_and_data(kind, [Decision()] * 2)
    before = group.evaluate(outputs, targets)
    group.tasks[1].spec = replace(group.tasks[1].spec, decision=DECISIONS[kind][1])
    after = group.evaluate(outputs, targets)
    assert after["t0"] == before["t0"]
    moved = {name for name, value in after["t1"].items() if value != before["t1"][name]}
    assert moved and moved <= {metric.name for metric in metrics.METRICS[kind] if metric.of == "classes"}
    group.tasks[1].spec = replace(group.tasks[1].spec, decision=Decision(2.0))
    warmer = group.evaluate(outputs, targets)
    moved = {name for name, value in warmer["t1"].items() if value != pytest.approx(before["t1"][name], rel=1e-9)}
    assert {"log_loss", "brier", "calibration_error"} <= moved
    assert not moved & {"roc_auc", "prevalence", *(metric.name for metric in metrics.METRICS[kind] if metric.of == "classes")} - (
        {"roc_auc"} if kind == "multiclass" else set()
    )


@pytest.mark.parametrize("strategy", [Threshold, LogitAdjustmentPosthoc, TemperatureScaling])
def test_adjusters_are_for_tasks_with_classes_and_act_on_the_decision(strategy: type[Adjuster]) -> None:
    made = strategy()
    assert made.place == "decision"
    assert made.serves({**specs(a=2, b=3), "c": TargetSpec("regression")}) == ["a", "b"]
    assert strategy(tasks=["b"]).serves(specs(a=2, b=3)) == ["b"]
