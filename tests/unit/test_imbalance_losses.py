"""The loss strategies against their papers' formulas, written out example by example, and what they have in common."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from scipy.ndimage import convolve1d
from scipy.signal.windows import triang
from sklearn.metrics import f1_score
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from mtl_runner.batch import MISSING, TargetSpec, labelled
from mtl_runner.config import config_dir, plug
from mtl_runner.config.values import complaints
from mtl_runner.errors import UserError
from mtl_runner.heads import LinearHeads, MapHeads
from mtl_runner.imbalance.asymmetric import Asymmetric
from mtl_runner.imbalance.balanced_softmax import BalancedSoftmax
from mtl_runner.imbalance.base import Criterion, class_counts, cross_entropy
from mtl_runner.imbalance.class_balanced_focal import ClassBalancedFocal
from mtl_runner.imbalance.class_weights import ClassWeights, effective_number
from mtl_runner.imbalance.density_weights import DensityWeights
from mtl_runner.imbalance.dice import Dice
from mtl_runner.imbalance.focal import Focal
from mtl_runner.imbalance.ldam import LDAM
from mtl_runner.imbalance.logit_adjustment import LogitAdjustment
from mtl_runner.imbalance.poly import Poly
from mtl_runner.imbalance.tversky import Tversky

KINDS = ("binary", "multiclass")
CRITERIA: Mapping[str, Callable[[], Criterion]] = {
    "class_weights": ClassWeights,
    "effective_number": partial(ClassWeights, weights="effective_number", beta=0.9),
    "given": partial(ClassWeights, values=[1.0, 3.0]),
    "focal": Focal,
    "balanced focal": partial(Focal, gamma=0.5, alpha="inverse_frequency"),
    "class_balanced_focal": partial(ClassBalancedFocal, beta=0.9),
    "asymmetric": Asymmetric,
    "asymmetric, both focused": partial(Asymmetric, gamma_pos=0.5, gamma_neg=0.5, clip=0.0),
    "ldam": LDAM,
    "ldam, weighed": partial(LDAM, start=0.0, beta=0.9),
    "balanced_softmax": BalancedSoftmax,
    "logit_adjustment": partial(LogitAdjustment, tau=1.5),
    "poly": Poly,
    "poly, focal": partial(Poly, epsilon=2.0, gamma=0.5),
    "dice": Dice,
    "tversky": Tversky,
    "focal tversky": partial(Tversky, gamma=4 / 3, smooth=0.0),
}
"""Options for classes, each in the form or forms that take another way through its code."""


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labels_of(kind: str, *counts: Sequence[int], seed: int = 0) -> Tensor:
    """[T, N] targets with so many of each class, in any order; what a row lacks is without a label."""
    size = max(map(sum, counts))
    rows = []
    for given in counts:
        known = torch.repeat_interleave(torch.arange(len(given)), torch.tensor(given))
        rows.append(torch.cat([known, torch.full((size - len(known),), MISSING)]))
    labels = torch.stack([row[torch.randperm(size, generator=draws(seed + i))] for i, row in enumerate(rows)])
    return labels if kind == "multiclass" else torch.where(labels == MISSING, torch.nan, labels.float())


def logits_of(targets: Tensor, classes: int, scale: float = 2.0, dtype: torch.dtype = torch.float64) -> Tensor:
    shape = targets.shape if targets.is_floating_point() else (*targets.shape, classes)
    return scale * torch.randn(shape, generator=draws(7), dtype=dtype)


def fitted(make: Callable[[], Criterion], targets: Tensor, classes: int) -> Criterion:
    criterion = make()
    criterion.fit(targets, classes)
    return criterion


def probabilities(outputs: Tensor) -> list[float]:
    """Of the classes of one example, by hand."""
    logits = [0.0, outputs.item()] if outputs.ndim == 0 else outputs.tolist()
    total = sum(math.exp(z) for z in logits)
    return [math.exp(z) / total for z in logits]


def by_hand(outputs: Tensor, targets: Tensor, formula: Callable[[int, int, list[float]], float]) -> Tensor:
    """formula(task, true class, probabilities) of every example."""
    rows = [
        [formula(t, int(targets[t, n]), probabilities(outputs[t, n])) for n in range(targets.shape[1])]
        for t in range(len(targets))
    ]
    return torch.tensor(rows, dtype=torch.float64)


def typed(targets: Tensor) -> Tensor:
    return targets.double() if targets.is_floating_point() else targets


# ---- what all of them have in common ------------------------------------------------------------------------------


def case(kind: str) -> tuple[Tensor, int]:
    return (labels_of(kind, [13, 3], [4, 12]), 2) if kind == "binary" else (labels_of(kind, [9, 5, 2], [1, 12, 3]), 3)


def suited(name: str, kind: str) -> Callable[[], Criterion]:
    return partial(ClassWeights, values=[1.0, 3.0, 0.5]) if name == "given" and kind == "multiclass" else CRITERIA[name]


EVERY = pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in CRITERIA for kind in KINDS])


@EVERY
def test_tasks_at_once_are_the_tasks_one_by_one(name: str, kind: str) -> None:
    targets, classes = case(kind)
    outputs, weights = logits_of(targets, classes, dtype=torch.float32), torch.rand(targets.shape, generator=draws())
    together = fitted(suited(name, kind), targets, classes)
    for t in range(2):
        alone = fitted(suited(name, kind), targets[t : t + 1], classes)
        assert torch.equal(together(outputs, targets)[t], alone(outputs[t : t + 1], targets[t : t + 1])[0])
        for shares in (None, weights):
            own = None if shares is None else shares[t : t + 1]
            torch.testing.assert_close(
                together.loss(outputs, targets, shares)[t], alone.loss(outputs[t : t + 1], targets[t : t + 1], own)[0]
            )


@EVERY
def test_gradients_are_those_of_the_formula(name: str, kind: str) -> None:
    targets, classes = case(kind)
    criterion, outputs = fitted(suited(name, kind), targets, classes), logits_of(targets, classes).requires_grad_()
    criterion.double()
    given, weights = typed(targets), torch.rand(targets.shape, generator=draws(), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: criterion(z, given), outputs)
    assert torch.autograd.gradcheck(lambda z: criterion.loss(z, given, weights), outputs)


@EVERY
def test_loss_and_gradient_are_finite_whatever_the_logits(name: str, kind: str) -> None:
    targets, classes = case(kind)
    criterion = fitted(suited(name, kind), targets, classes)
    for size in (0.0, 1.0, 20.0, 100.0, 1000.0):
        signs = torch.randn(logits_of(targets, classes).shape, generator=draws(3)).sign()
        outputs = (size * signs).requires_grad_()
        element, loss = criterion(outputs, targets), criterion.loss(outputs, targets, None)
        (gradient,) = torch.autograd.grad(element.sum() + loss.sum(), outputs)
        assert element.isfinite().all() and loss.isfinite().all() and gradient.isfinite().all()
        assert (element >= 0).all() and element.shape == targets.shape and element.dtype == torch.float32


@EVERY
def test_weight_0_is_as_if_the_example_were_not_there(name: str, kind: str) -> None:
    targets, classes = case(kind)
    criterion, outputs = fitted(suited(name, kind), targets, classes), logits_of(targets, classes, dtype=torch.float32)
    weights = torch.ones(targets.shape)
    weights[:, 5:] = 0
    torch.testing.assert_close(criterion.loss(outputs, targets, weights), criterion.loss(outputs[:, :5], targets[:, :5], None))
    torch.testing.assert_close(
        criterion.loss(outputs, targets, torch.ones(targets.shape)), criterion.loss(outputs, targets, None)
    )
    weights[0] = 0
    assert criterion.loss(outputs, targets, weights)[0] == 0
    twice = torch.tensor([[2.0] + [1.0] * 4] * 2)
    doubled = [torch.cat([x[:, :1], x[:, :5]], 1) for x in (outputs, targets)]
    torch.testing.assert_close(
        criterion.loss(outputs[:, :5], targets[:, :5], twice), criterion.loss(doubled[0], doubled[1], None)
    )


@EVERY
def test_missing_labels_are_passed_over(name: str, kind: str) -> None:
    targets, classes = case(kind)
    more = torch.cat([torch.full_like(targets[:, :2], math.nan if kind == "binary" else MISSING), targets], 1)
    outputs = logits_of(targets, classes, dtype=torch.float32)
    with_missing, without = (fitted(suited(name, kind), each, classes) for each in (more, targets))
    assert torch.equal(with_missing(outputs, targets), without(outputs, targets))


@EVERY
def test_classes_may_lack_examples_and_tasks_labels(name: str, kind: str) -> None:
    few = [[6, 0], [0, 6], [0, 0]] if kind == "binary" else [[4, 0, 2], [0, 0, 6], [0, 0, 0]]
    classes = len(few[0])
    criterion = fitted(suited(name, kind), labels_of(kind, *few), classes)
    seen = labels_of(kind, *([[3, 3]] * 3 if kind == "binary" else [[2, 2, 2]] * 3))
    outputs = logits_of(seen, classes, dtype=torch.float32).requires_grad_()
    loss = criterion.loss(outputs, seen, None)
    (gradient,) = torch.autograd.grad(loss.sum(), outputs)
    assert loss.isfinite().all() and gradient.isfinite().all()


@pytest.mark.parametrize("name", [name for name in CRITERIA if name != "given"])
def test_the_order_of_classes_does_not_matter(name: str) -> None:
    targets, classes = case("multiclass")
    outputs, order = logits_of(targets, classes), torch.tensor([2, 0, 1])  # class c becomes class order[c]
    one = fitted(CRITERIA[name], targets, classes)
    other = fitted(CRITERIA[name], order[targets], classes)
    moved = outputs[..., order.argsort()]
    torch.testing.assert_close(other(moved, order[targets]), one(outputs, targets))
    torch.testing.assert_close(other.loss(moved, order[targets], None), one.loss(outputs, targets, None))


@pytest.mark.parametrize(
    "name", [name for name in CRITERIA if name not in {"given", "asymmetric", "dice", "tversky", "focal tversky"}]
)
def test_a_symmetric_loss_is_the_same_with_both_classes_swapped_and_as_with_two_logits(name: str) -> None:
    targets, _ = case("binary")
    outputs = logits_of(targets, 2)
    one, other = fitted(CRITERIA[name], targets, 2), fitted(CRITERIA[name], 1 - targets, 2)
    torch.testing.assert_close(other(-outputs, 1 - targets.double()), one(outputs, targets.double()))
    if "asymmetric" not in name:  # whose multiclass form smooths labels
        two = fitted(CRITERIA[name], targets.long(), 2)
        halves = torch.stack([-outputs, outputs], -1) / 2
        torch.testing.assert_close(two(halves, targets.long()), one(outputs, targets.double()))


@EVERY
def test_dense_targets_are_examples_one_after_the_other(name: str, kind: str) -> None:
    targets, classes = case(kind)
    outputs, weights = logits_of(targets, classes, dtype=torch.float32), torch.rand(targets.shape, generator=draws())
    flat, dense = fitted(suited(name, kind), targets, classes), fitted(suited(name, kind), targets.view(2, 4, 2, 2), classes)
    maps = outputs.view(2, 4, 2, 2, *outputs.shape[2:])
    assert torch.equal(dense(maps, targets.view(2, 4, 2, 2)).flatten(1), flat(outputs, targets))
    torch.testing.assert_close(
        dense.loss(maps, targets.view(2, 4, 2, 2), weights.view(2, 4, 2, 2)), flat.loss(outputs, targets, weights)
    )


NEUTRAL: Mapping[str, Callable[[], Criterion]] = {
    "effective numbers with β = 0": partial(ClassWeights, weights="effective_number", beta=0.0),
    "given weights that are equal": partial(ClassWeights, values=[3.0, 3.0]),
    "focal, γ = 0": partial(Focal, gamma=0.0),
    "class-balanced focal, γ = β = 0": partial(ClassBalancedFocal, gamma=0.0, beta=0.0),
    "asymmetric, both γ = m = ε = 0": partial(Asymmetric, gamma_pos=0.0, gamma_neg=0.0, clip=0.0, smoothing=0.0),
    "ldam without margin": partial(LDAM, margin=0.0),
    "ldam without margin, weighed with β = 0": partial(LDAM, margin=0.0, start=0.0, beta=0.0),
    "logit adjustment, τ = 0": partial(LogitAdjustment, tau=0.0),
    "poly, ε = 0": partial(Poly, epsilon=0.0),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NEUTRAL)
def test_with_a_neutral_setting_it_is_the_cross_entropy(name: str, kind: str) -> None:
    targets = labels_of(kind, [13, 3], [6, 10])
    outputs = logits_of(targets, 2, 30.0, torch.float32)
    assert torch.equal(fitted(NEUTRAL[name], targets, 2)(outputs, targets), cross_entropy(outputs, targets))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["class_weights", "effective_number", "balanced_softmax", "logit_adjustment"])
def test_with_equally_frequent_classes_it_is_the_cross_entropy(name: str, kind: str) -> None:
    targets = labels_of(kind, [7, 7], [9, 9])
    seen, outputs = targets[:, :14].clone(), logits_of(targets, 2, 30.0, torch.float32)[:, :14]
    seen[~labelled(seen)] = 0
    assert torch.equal(fitted(CRITERIA[name], targets, 2)(outputs, seen), cross_entropy(outputs, seen))


OPTIONS = (
    Asymmetric,
    BalancedSoftmax,
    ClassBalancedFocal,
    ClassWeights,
    DensityWeights,
    Dice,
    Focal,
    LDAM,
    LogitAdjustment,
    Poly,
    Tversky,
)


@pytest.mark.parametrize("cls", OPTIONS)
def test_the_file_of_an_option_lists_every_key_with_its_default(cls: type[Criterion]) -> None:
    node = OmegaConf.to_container(OmegaConf.load(config_dir() / "imbalance" / f"{cls.__module__.rpartition('.')[2]}.yaml"))
    assert isinstance(node, dict)
    made = plug({str(key): value for key, value in node.items()}, "imbalance")
    assert made.func is cls
    assert made.keywords == {each.name: each.default for each in inspect.signature(cls).parameters.values()}


# ---- class weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [[90, 10], [1, 200, 33, 7], [3, 0, 9], [100_000, 10]])
@pytest.mark.parametrize("beta", [0.0, 0.9, 0.9999, 0.9999999])
def test_effective_numbers_are_those_of_the_paper_but_for_one_factor(counts: list[int], beta: float) -> None:
    weights = effective_number(labels_of("multiclass", counts), len(counts), beta)[0].double()
    present = [c for c, n in enumerate(counts) if n]
    paper = np.array([(1 - beta) / (1 - beta ** counts[c]) for c in present])
    np.testing.assert_allclose(weights[present] / weights[present].sum(), paper / paper.sum(), rtol=1e-5)
    assert (weights * torch.tensor(counts)).sum() / sum(counts) == pytest.approx(1, abs=1e-6)
    assert weights.isfinite().all()


def test_effective_numbers_go_from_equal_weights_to_inverse_frequencies() -> None:
    targets = labels_of("multiclass", [70, 20, 10])
    assert torch.equal(effective_number(targets, 3, 0.0), torch.ones(1, 3))
    expected = compute_class_weight("balanced", classes=np.arange(3), y=targets[0].numpy())
    np.testing.assert_allclose(effective_number(targets, 3, 1 - 1e-9)[0], expected, rtol=1e-5)


def test_a_class_without_an_example_has_weight_1_and_counts_as_one_where_logits_are_adjusted() -> None:
    targets = labels_of("multiclass", [6, 0, 2])
    for weights in ("inverse_frequency", "effective_number"):
        criterion = ClassWeights(weights=weights)
        criterion.fit(targets, 3)
        assert criterion.weights[0, 1] == 1
    adjusted = LogitAdjustment()
    adjusted.fit(targets, 3)
    torch.testing.assert_close(adjusted.shift.flatten(), torch.tensor([6.0, 1.0, 2.0]).div(6).log())


def test_given_weights_count_by_their_ratios_and_by_task() -> None:
    targets = labels_of("binary", [6, 2], [4, 4])
    one = ClassWeights(values=[1, 20])
    one.fit(targets, 2)
    torch.testing.assert_close(one.weights, torch.tensor([[8 / 46, 160 / 46], [8 / 84, 160 / 84]]))
    named = ClassWeights(values={"b": [1, 3]})
    named.names = ("a", "b")
    named.fit(targets, 2)
    torch.testing.assert_close(named.weights, torch.tensor([[8 / 12, 2.0], [0.5, 1.5]]))  # a has its inverse frequencies
    nothing = ClassWeights(values=[0.0, 1.0])
    nothing.fit(labels_of("binary", [5, 0]), 2)
    assert nothing.weights.tolist() == [[0, 1]]


SPECS = {
    "sick": TargetSpec("binary", classes=("no", "yes")),
    "sort": TargetSpec("multiclass", classes=("a", "b", "c")),
    "size": TargetSpec("regression"),
}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"sik": [1, 2]}, r"values\.sik: .*sick, sort \(did you mean 'sick'\?\)"),
        ({"size": [1, 2]}, r"values\.size: no such task is served"),
        ({"sort": [1, 2]}, r"values\.sort=\[1, 2\]: one weight for each class of sort .*a, b, c"),
        ([1, 2], r"values=\[1, 2\]: one weight for each class of sort .*values=\{task: "),
        ({"sick": [0, 0]}, r"values\.sick=\[0, 0\]: one of the weights has to be above 0"),
    ],
)
def test_given_weights_that_fit_no_task_are_refused(values: Mapping[str, Sequence[float]] | Sequence[float], words: str) -> None:
    served = {name: spec for name, spec in SPECS.items() if spec.kind in ClassWeights.kinds}
    with pytest.raises(UserError, match=words):
        ClassWeights(values=values).check(served)
    ClassWeights(values={"sort": [1, 2, 3]}).check(served)
    ClassWeights(values=[1, 2]).check({"sick": SPECS["sick"]})


def test_given_weights_are_checked_as_they_are_typed() -> None:
    annotation = ClassWeights.__init__.__annotations__["values"]
    for right in ({"sick": [1, 20]}, [1, 20.5], None):
        assert not complaints("values", right, annotation)
    for wrong in ({"sick": [-1, 20]}, [1, "x"], "12", 3, {"sick": 3}):
        assert complaints("values", wrong, annotation)


# ---- formulas -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("gamma", "beta"), [(2.0, 0.9), (0.5, 0.999)])
def test_class_balanced_focal_loss_is_its_formula(kind: str, gamma: float, beta: float) -> None:
    targets, classes = case(kind)
    outputs, counts = logits_of(targets, classes), class_counts(targets, classes).tolist()
    raw = [[(1 - beta) / (1 - beta**n) for n in row] for row in counts]
    factors = [sum(row) / sum(n * w for n, w in zip(row, ws, strict=True)) for row, ws in zip(counts, raw, strict=True)]
    criterion = fitted(partial(ClassBalancedFocal, gamma=gamma, beta=beta), targets, classes)
    expected = by_hand(outputs, targets, lambda t, y, p: factors[t] * raw[t][y] * (1 - p[y]) ** gamma * -math.log(p[y]))
    torch.testing.assert_close(criterion(outputs, typed(targets)), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("clip", [0.0, 0.05, 0.3])
@pytest.mark.parametrize(("positive", "negative"), [(0.0, 4.0), (1.0, 4.0), (2.5, 0.7), (0.0, 0.0)])
def test_asymmetric_loss_is_its_formula(positive: float, negative: float, clip: float) -> None:
    targets, _ = case("binary")
    outputs = logits_of(targets, 2)

    def formula(t: int, y: int, p: list[float]) -> float:
        shifted = max(p[1] - clip, 0)
        loss = (1 - p[1]) ** positive * -math.log(p[1]) if y else shifted**negative * -math.log(1 - shifted)
        return float(loss)

    make = partial(Asymmetric, gamma_pos=positive, gamma_neg=negative, clip=clip)
    assert (outputs.sigmoid()[targets == 0] < clip).any() or clip < 0.3
    torch.testing.assert_close(fitted(make, targets, 2)(outputs, typed(targets)), by_hand(outputs, targets, formula))


def test_negatives_below_the_clip_of_the_asymmetric_loss_have_no_gradient() -> None:
    targets, outputs = torch.zeros(1, 3), torch.tensor([[-4.0, -1.0, 2.0]], requires_grad=True)  # p = 0.02, 0.27, 0.88
    criterion = fitted(partial(Asymmetric, gamma_neg=0.0, clip=0.3), targets, 2)
    (gradient,) = torch.autograd.grad(criterion(outputs, targets).sum(), outputs)
    assert gradient[0, :2].tolist() == [0, 0] and gradient[0, 2] > 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize(("positive", "negative"), [(0.0, 4.0), (1.5, 0.7), (0.0, 0.0)])
def test_asymmetric_loss_of_several_classes_is_its_formula(positive: float, negative: float, smoothing: float) -> None:
    targets, classes = case("multiclass")
    outputs = logits_of(targets, classes)

    def formula(t: int, y: int, p: list[float]) -> float:
        loss = 0.0
        for c in range(classes):
            smoothed = (1 - smoothing) * (c == y) + smoothing / classes
            weight = (1 - p[c]) ** positive if c == y else p[c] ** negative
            loss -= smoothed * weight * math.log(p[c])
        return loss

    make = partial(Asymmetric, gamma_pos=positive, gamma_neg=negative, smoothing=smoothing)
    loss = fitted(make, targets, classes)(outputs, targets)
    torch.testing.assert_close(loss, by_hand(outputs, targets, formula))
    if positive == negative == 0:
        smooth = F.cross_entropy(outputs[0], targets[0], label_smoothing=smoothing, reduction="none")
        torch.testing.assert_close(loss[0], smooth)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("epsilon", "gamma"), [(1.0, 0.0), (-1.0, 0.0), (2.0, 2.0), (0.5, 0.5)])
def test_poly_loss_is_its_formula(kind: str, epsilon: float, gamma: float) -> None:
    targets, classes = case(kind)
    outputs = logits_of(targets, classes)
    expected = by_hand(
        outputs, targets, lambda t, y, p: (1 - p[y]) ** gamma * -math.log(p[y]) + epsilon * (1 - p[y]) ** (gamma + 1)
    )
    loss = fitted(partial(Poly, epsilon=epsilon, gamma=gamma), targets, classes)(outputs, typed(targets))
    torch.testing.assert_close(loss, expected)
    if gamma == 0:  # the series that gives the loss its name, with the first coefficient changed
        p = (-cross_entropy(outputs, typed(targets))).exp()
        series = sum(((1 - p) ** j / j for j in range(1, 5000)), torch.zeros_like(p)) + epsilon * (1 - p)
        torch.testing.assert_close(loss, series, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_balanced_softmax_and_logit_adjustment_are_their_formulas(kind: str) -> None:
    targets, classes = case(kind)
    outputs, counts = logits_of(targets, classes), class_counts(targets, classes).tolist()

    def balanced(t: int, y: int, p: list[float]) -> float:  # n_c e^z_c, up to a factor that cancels
        return -math.log(counts[t][y] * p[y] / sum(n * q for n, q in zip(counts[t], p, strict=True)))

    def adjusted(t: int, y: int, p: list[float]) -> float:
        logits = [math.log(q) + 2.5 * math.log(n / sum(counts[t])) for n, q in zip(counts[t], p, strict=True)]
        return math.log(sum(map(math.exp, logits))) - logits[y]

    torch.testing.assert_close(
        fitted(BalancedSoftmax, targets, classes)(outputs, typed(targets)),
        by_hand(outputs, targets, balanced),
        rtol=1e-5,
        atol=1e-6,
    )
    loss = fitted(partial(LogitAdjustment, tau=2.5), targets, classes)(outputs, typed(targets))
    torch.testing.assert_close(loss, by_hand(outputs, targets, adjusted), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_with_logit_adjustment_the_best_logits_for_noise_are_those_of_equally_frequent_classes(kind: str) -> None:
    targets = labels_of(kind, [90, 10])
    criterion = fitted(LogitAdjustment, targets, 2)
    shape = targets.shape if kind == "binary" else (*targets.shape, 2)
    shared = torch.zeros(shape[2:], requires_grad=True)
    criterion.loss(shared.expand(shape), targets, None).sum().backward()
    assert shared.grad is not None and shared.grad.abs().max() < 1e-6


# ---- ldam ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weighed", [False, True])
def test_ldam_is_its_formula(kind: str, weighed: bool) -> None:
    targets, classes = case(kind)
    counts, scale, margin = class_counts(targets, classes).tolist(), 10.0, 0.4
    criterion = fitted(partial(LDAM, scale=scale, margin=margin, start=0.5, beta=0.99), targets, classes)
    criterion.before_epoch(6 if weighed else 5, 10)
    cosines = torch.rand((2, 16, classes), generator=draws(), dtype=torch.float64) * 2 - 1
    if kind == "binary":
        cosines[..., 0] = -cosines[..., 1]
    weights = effective_number(targets, classes, 0.99).tolist()
    expected = torch.empty(2, 16, dtype=torch.float64)
    for t in range(2):
        constant = margin / max(n**-0.25 for n in counts[t])
        for n in range(16):
            y = int(targets[t, n])
            logits = [
                scale * (float(cosines[t, n, c]) - (constant * counts[t][c] ** -0.25 if c == y else 0)) for c in range(classes)
            ]
            expected[t, n] = -logits[y] + math.log(sum(map(math.exp, logits)))
            expected[t, n] *= weights[t][y] if weighed else 1
    outputs = scale * (cosines[..., 1] - cosines[..., 0] if kind == "binary" else cosines)
    torch.testing.assert_close(criterion(outputs, typed(targets)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("start", "epochs", "first"), [(0.8, 200, 161), (0.29, 100, 30), (0.7, 10, 8), (0.0, 5, 1), (0.5, 1, 1)])
def test_ldam_weighs_classes_from_its_epoch_on(start: float, epochs: int, first: int) -> None:
    criterion = LDAM(start=start)
    assert criterion.reweighted == (start == 0)
    for epoch in range(1, epochs + 1):
        criterion.before_epoch(epoch, epochs)
        assert criterion.reweighted == (epoch >= first)


def test_a_class_without_an_example_changes_no_margin_of_the_others() -> None:
    outputs, labels = torch.zeros(1, 20, 2), labels_of("multiclass", [16, 4])
    with_it = fitted(LDAM, labels_of("multiclass", [16, 4, 0]), 3)
    padded = torch.cat([outputs, torch.full((1, 20, 1), -1e9)], -1)
    torch.testing.assert_close(with_it(padded, labels), fitted(LDAM, labels, 2)(outputs, labels))


def test_ldam_never_weighs_classes_if_it_starts_at_the_end() -> None:
    criterion = LDAM(start=1.0)
    criterion.before_epoch(10, 10)
    assert not criterion.reweighted


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a @ b / (a.norm() * b.norm())).detach())


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("positions", [(), (-2, -1)])
def test_the_cosine_head_gives_the_cosines_times_the_scale(outputs: int, positions: tuple[int, ...]) -> None:
    linear = LinearHeads(4, outputs, ["a", "b"], 0, positions)
    head = LDAM(scale=10.0).head(linear)
    features = torch.randn(2, 5, 4, *[3] * len(positions), generator=draws())
    pooled = features.mean(positions) if positions else features
    apart, shared = head(features, True), head(features[0], False)
    assert apart.shape == shared.shape == (2, 5, outputs)
    factor = 20.0 if outputs == 1 else 10.0
    for t in range(2):
        for n in range(5):
            for o in range(outputs):
                expected = factor * cosine(pooled[t, n], linear.weight[t, o])
                assert apart[t, n, o].item() == pytest.approx(expected, abs=1e-4)
                assert shared[t, n, o].item() == pytest.approx(factor * cosine(pooled[0, n], linear.weight[t, o]), abs=1e-4)
    assert isinstance(head.weight, nn.Parameter) and head.weight is linear.weight and head.bias is None
    torch.testing.assert_close(head(1000 * features, True), apart)
    assert [name for name, _ in head.named_parameters()] == ["weight"]


def test_the_cosine_head_stands_features_of_length_0_and_learns() -> None:
    head = LDAM().head(LinearHeads(4, 3, ["a"], 0))
    features = torch.zeros(2, 4, requires_grad=True)
    outputs = head(features)
    outputs.sum().backward()
    assert (outputs == 0).all() and features.grad is not None and features.grad.abs().max() < 1e6
    wide = torch.randn(6, 4, generator=draws(), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(head.double(), wide)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("outputs", [1, 3])
def test_gradients_of_the_cosine_head_are_those_of_the_formula(apart: bool, outputs: int) -> None:
    head = LDAM().head(LinearHeads(4, outputs, ["a", "b"], 0)).double()
    features = torch.randn(2, 5, 4, generator=draws(), dtype=torch.float64) if apart else torch.randn(5, 4, dtype=torch.float64)
    features[..., 0, :] = 1e-6  # so short that the floor counts
    weight = head.state_dict()["weight"].clone().requires_grad_()

    def run(features: Tensor, weight: Tensor) -> Tensor:
        found: Tensor = functional_call(head, {"weight": weight}, (features, apart))
        return found

    assert torch.autograd.gradcheck(run, (features[..., 1:, :].contiguous().requires_grad_(), weight))
    assert torch.autograd.gradcheck(run, (features[..., :1, :].contiguous().requires_grad_(), weight), eps=1e-9, atol=1e-1)


def test_a_head_that_is_not_linear_is_refused() -> None:
    with pytest.raises(UserError, match=r"imbalance\.ldam: .*MapHeads"):
        LDAM().head(MapHeads(3, 2, ["a"], 0))


# ---- dice and tversky ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_dice_of_certain_predictions_is_one_minus_f1(kind: str) -> None:
    targets, classes = case(kind)
    outputs = 1e6 * logits_of(targets, classes)
    loss = fitted(partial(Dice, smooth=0.0), targets, classes).loss(outputs, typed(targets), None)
    for t in range(2):
        predicted = (outputs[t] > 0).long() if kind == "binary" else outputs[t].argmax(-1)
        f1 = f1_score(targets[t].long(), predicted, average="binary" if kind == "binary" else "macro", zero_division=0)
        assert float(loss[t]) == pytest.approx(1 - f1, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("alpha", "beta", "gamma", "smooth"), [(0.3, 0.7, 1.0, 1.0), (0.9, 0.2, 4 / 3, 0.5), (0.5, 0.5, 2.0, 0.0)]
)
def test_tversky_loss_is_its_formula(kind: str, alpha: float, beta: float, gamma: float, smooth: float) -> None:
    targets, classes = case(kind)
    outputs, weights = logits_of(targets, classes), torch.rand(targets.shape, generator=draws(), dtype=torch.float64)
    criterion = fitted(partial(Tversky, alpha=alpha, beta=beta, gamma=gamma, smooth=smooth), targets, classes)
    loss = criterion.loss(outputs, typed(targets), weights)
    for t in range(2):
        lost = []
        for c in [1] if kind == "binary" else range(classes):
            tp = fp = fn = 0.0
            for n in range(targets.shape[1]):
                p, w, true = probabilities(outputs[t, n])[c], float(weights[t, n]), int(targets[t, n]) == c
                tp, fp, fn = tp + w * p * true, fp + w * p * (not true), fn + w * (1 - p) * true
            lost.append((1 - (tp + smooth) / (tp + alpha * fp + beta * fn + smooth)) ** (1 / gamma))
        assert float(loss[t]) == pytest.approx(sum(lost) / len(lost), abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_dice_is_its_formula_and_tversky_with_equal_prices(kind: str) -> None:
    targets, classes = case(kind)
    outputs = logits_of(targets, classes)
    loss = fitted(partial(Dice, smooth=3.0), targets, classes).loss(outputs, typed(targets), None)
    halves = fitted(partial(Tversky, alpha=0.5, beta=0.5, smooth=1.5), targets, classes)
    assert torch.equal(loss, halves.loss(outputs, typed(targets), None))
    p = outputs.sigmoid()[..., None] if kind == "binary" else outputs.softmax(-1)
    t = typed(targets)[..., None] if kind == "binary" else F.one_hot(targets, classes)
    expected = 1 - ((2 * (p * t).sum(1) + 3) / (p.sum(1) + t.sum(1) + 3)).mean(-1)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [Dice, Tversky, partial(Tversky, gamma=4 / 3)])
def test_element_by_element_it_is_the_loss_of_a_batch_of_one(kind: str, make: Callable[[], Criterion]) -> None:
    targets, classes = case(kind)
    outputs, criterion = logits_of(targets, classes), fitted(make, targets, classes)
    elements = criterion(outputs, typed(targets))
    for n in range(targets.shape[1]):
        alone = criterion.loss(outputs[:, n : n + 1], typed(targets)[:, n : n + 1], None)
        torch.testing.assert_close(elements[:, n], alone)


# ---- density weights ----------------------------------------------------------------------------------------------


def values_of(*shape: int) -> Tensor:
    return torch.randn(shape, generator=draws(), dtype=torch.float64) ** 3


def oracle(labels: np.ndarray, bins: int, window: np.ndarray, power: float) -> np.ndarray:
    """Weight of each label, from numpy's histogram and scipy's convolution."""
    counts, edges = np.histogram(labels, bins)
    places = np.clip(np.digitize(labels, edges) - 1, 0, bins - 1)
    weights: np.ndarray = convolve1d(counts.astype(float), window, mode="constant")[places] ** power
    return np.asarray(weights / weights.mean())


@pytest.mark.parametrize("reweight", ["inverse", "sqrt_inverse"])
@pytest.mark.parametrize(("kernel", "ks"), [("gaussian", 5), ("triangular", 7), ("laplace", 3), ("gaussian", 1)])
def test_density_weights_are_inverse_smoothed_densities(kernel: str, ks: int, reweight: str) -> None:
    labels = values_of(3, 200)
    distance = np.abs(np.arange(ks) - ks // 2)
    window = {
        "gaussian": np.exp(-(distance**2) / (2 * 1.5**2)),
        "triangular": triang(ks),
        "laplace": np.exp(-distance / 1.5),
    }[kernel]
    make = partial(DensityWeights, bins=20, kernel=kernel, ks=ks, sigma=1.5, reweight=reweight)  # type: ignore[arg-type]
    loss = fitted(make, labels, 0)(labels + 3, labels) / 9
    for t in range(3):
        expected = oracle(labels[t].numpy(), 20, window, -1.0 if reweight == "inverse" else -0.5)
        np.testing.assert_allclose(loss[t], expected, rtol=1e-5)
    torch.testing.assert_close(loss.mean(1), torch.ones(3, dtype=torch.float64), rtol=1e-6, atol=1e-6)


def test_each_output_has_density_weights_of_its_own_and_dense_targets_share_theirs() -> None:
    labels, outputs = values_of(2, 64, 3), torch.zeros(2, 64, 3, dtype=torch.float64)
    loss = fitted(DensityWeights, labels, 0)(outputs, labels)
    for k in range(3):
        alone = fitted(DensityWeights, labels[..., k], 0)(outputs[..., k], labels[..., k])
        assert torch.equal(loss[..., k], alone)
    dense, flat = labels.view(2, 4, 4, 12), labels.reshape(2, -1)
    whole = fitted(DensityWeights, dense, 0)(torch.zeros_like(dense), dense)
    assert torch.equal(whole.flatten(1), fitted(DensityWeights, flat, 0)(torch.zeros_like(flat), flat))


def test_density_weights_of_one_bin_or_of_equal_bins_are_the_squared_error() -> None:
    labels, outputs = values_of(2, 50).float(), torch.randn(2, 50, generator=draws(1))
    assert torch.equal(fitted(partial(DensityWeights, bins=1), labels, 0)(outputs, labels), (outputs - labels) ** 2)
    even = (torch.arange(50.0) % 10 + 0.5).expand(2, 50)
    criterion = fitted(partial(DensityWeights, bins=10, ks=1, reweight="inverse"), even, 0)
    assert torch.equal(criterion(outputs, even), (outputs - even) ** 2)


def test_density_weights_pass_over_missing_labels_and_stand_what_is_odd() -> None:
    labels = values_of(2, 40).float()
    more = torch.cat([torch.full((2, 3), math.nan), labels], 1)
    one, other = fitted(DensityWeights, labels, 0), fitted(DensityWeights, more, 0)
    outputs = torch.zeros(2, 40)
    assert torch.equal(one(outputs, labels), other(outputs, labels))
    odd = torch.stack([torch.full((4,), math.nan), torch.full((4,), 2.0), torch.tensor([math.nan, 1.0, math.nan, math.nan])])
    loss = fitted(DensityWeights, odd, 0)(torch.zeros(3, 4), torch.ones(3, 4))
    assert torch.equal(loss, torch.ones(3, 4))
    beyond = torch.tensor([[-1e30, 1e30], [-1e30, 1e30]])
    ends = torch.stack([labels.amin(1), labels.amax(1)], 1)
    assert torch.equal(one(beyond + 0, beyond), torch.zeros(2, 2)) and one(ends + 1, ends).isfinite().all()
    torch.testing.assert_close(one(ends + 1, ends), one(ends - torch.tensor([5.0, -5]) + 1, ends - torch.tensor([5.0, -5])))


def test_an_empty_bin_has_the_weight_of_the_sparsest() -> None:
    labels = torch.tensor([[0.0] * 8 + [100.0] * 2])
    criterion = fitted(partial(DensityWeights, bins=100, ks=3, reweight="inverse"), labels, 0)
    at = torch.tensor([[0.0, 50.0, 100.0]])
    loss = criterion(at + 1, at)[0]
    assert loss.isfinite().all() and loss[1] >= loss[2] > loss[0] > 0


def test_gradients_of_density_weights_are_those_of_the_formula() -> None:
    labels = values_of(2, 12)
    criterion = fitted(DensityWeights, labels, 0)
    outputs = torch.randn(2, 12, generator=draws(), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: criterion(z, labels), outputs)


def test_a_kernel_without_a_middle_is_refused() -> None:
    with pytest.raises(UserError, match=r"imbalance\.density_weights\.ks=4: must be odd"):
        DensityWeights(ks=4)


@pytest.mark.parametrize("make", [*CRITERIA.values(), DensityWeights])
def test_what_a_criterion_learns_is_no_part_of_a_checkpoint(make: Callable[[], Criterion]) -> None:
    criterion = make()
    criterion.fit(values_of(1, 9) if isinstance(criterion, DensityWeights) else labels_of("binary", [6, 3]), 2)
    assert not criterion.state_dict()
