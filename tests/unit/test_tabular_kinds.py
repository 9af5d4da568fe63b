"""Multilabel, ordinal, quantile, count, survival and Gaussian tasks: losses and metrics against scikit-learn and scipy."""

import inspect
import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as sk
from torch.nn import functional as F

from mtl_runner.batch import MISSING, Batch, TargetSpec
from mtl_runner.datasets.kinds import KINDS
from mtl_runner.encoders.base import FeatureSpec
from mtl_runner.errors import UserError
from mtl_runner.metrics.multilabel import multilabel
from mtl_runner.metrics.survival import survival
from mtl_runner.tasks import make_tasks, task_class
from mtl_runner.tasks.group import TaskGroup, masked, pack
from mtl_runner.tasks.survival import hazard_loss, partial_likelihood

LEVELS = [0.1, 0.25, 0.5, 0.9]
SPECS = {
    "multilabel": TargetSpec("multilabel", columns=("a", "b", "c"), shape=(3,)),
    "ordinal": TargetSpec("ordinal", classes=("low", "mid", "high", "top")),
    "ordinal_binary": TargetSpec("ordinal", classes=("low", "mid", "high", "top"), options={"loss": "binary"}),
    "gaussian": TargetSpec("regression", center=(10.0,), scale=(2.0,), options={"loss": "gaussian"}),
    "gaussians": TargetSpec("regression", columns=("u", "v"), shape=(2,), options={"loss": "gaussian"}),
    "huber": TargetSpec("regression", options={"loss": "huber", "delta": 0.5}),
    "mae": TargetSpec("regression", options={"loss": "mae"}),
    "quantile": TargetSpec("quantile", center=(5.0,), scale=(3.0,), options={"quantiles": LEVELS}),
    "count": TargetSpec("count", center=(0.0,), scale=(4.0,)),
    "cox": TargetSpec("survival", shape=(2,)),
    "discrete": TargetSpec("survival", shape=(2,), options={"model": "discrete", "cuts": [1.0, 2.0, 4.0]}),
}
N = 60


def task(name):
    return make_tasks({"t": SPECS[name]})[0]


def targets_of(name, seed=0, missing=True):
    """Labels of one task, a tenth of them missing."""
    draws = np.random.default_rng(seed)
    spec = SPECS[name]
    absent = draws.random(N) < (0.1 if missing else 0)
    if spec.kind == "ordinal":
        return torch.from_numpy(np.where(absent, MISSING, draws.integers(0, 4, N)))
    if spec.kind == "count":
        values = draws.poisson(4, N) / 4.0
    elif spec.kind == "survival":
        values = np.stack([draws.integers(1, 9, N) / 2, draws.random(N) < 0.6], 1).astype(float)
        absent = absent[:, None]
    elif spec.kind == "multilabel":
        values = (draws.random((N, 3)) < [0.2, 0.5, 0.8]).astype(float)
        absent = draws.random((N, 3)) < (0.1 if missing else 0)
    else:
        values = draws.standard_normal((N, *spec.shape))
        absent = absent.reshape(N, *(1 for _ in spec.shape))
    return torch.from_numpy(np.where(absent, np.nan, values)).float()


def group_of(name, count=2):
    return TaskGroup(make_tasks({f"t{i}": SPECS[name] for i in range(count)}), FeatureSpec((5,)), 0)


def losses(group, outputs, targets):
    """Through what a step does: packed, masked."""
    names = group.names
    inputs = {"input": {"numeric": torch.zeros(len(targets[0]), 1)}}
    split = Batch(inputs, dict(zip(names, targets, strict=True)), dict.fromkeys(names, "input"))
    clean = masked(pack(split, {"g": group}))
    return group.losses(outputs, clean.targets["g"], clean.weights.get("g"))


@pytest.mark.parametrize("name", SPECS)
def test_tasks_side_by_side_learn_and_are_measured_as_alone_and_missing_labels_count_nowhere(name):
    group, features = group_of(name), torch.randn(N, 5, generator=torch.Generator().manual_seed(1))
    outputs = group(features)
    targets = [targets_of(name, seed) for seed in (0, 1)]
    loss, active = losses(group, outputs, targets)
    assert loss.shape == (2,) and (loss >= 0).all() and active.all()
    loss.sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in group.parameters())
    values = group.evaluate(outputs, torch.stack(targets, 1))
    for place, target in enumerate(targets):
        known = ~target.isnan() if target.is_floating_point() else target != MISSING
        rows = known.reshape(N, -1).all(1) if name != "multilabel" else torch.ones(N, dtype=torch.bool)
        single = group_of(name, 1)
        alone, _ = losses(single, outputs[place : place + 1][:, rows], [target[rows]])
        torch.testing.assert_close(alone[0], loss[place])
        one = single.evaluate(outputs[place : place + 1][:, rows], target[rows][:, None])["t0"]
        assert one == pytest.approx(values[f"t{place}"], nan_ok=True)
    nothing = torch.full_like(targets[0], MISSING if targets[0].dtype == torch.long else math.nan)
    loss, active = losses(group, outputs.detach(), [targets[0], nothing])
    assert loss[1] == 0 and active.tolist() == [True, False]
    assert all(math.isnan(value) for value in group.evaluate(outputs, torch.stack([targets[0], nothing], 1))["t1"].values())


@pytest.mark.parametrize("name", SPECS)
def test_nobody_and_everybody_get_the_same_columns_and_primary_metrics_are_1_at_best(name):
    kind = task(name)
    assert kind.primary.higher_is_better
    outputs = group_of(name, 1)(torch.randn(4, 5))[0].detach()
    columns = kind.predictions(outputs)
    assert {len(column) for column in columns.values()} == {4}
    assert kind.no_outputs().shape == (0, *outputs.shape[1:]) and [*kind.predictions(kind.no_outputs())] == [*columns]


def test_the_options_of_each_type_are_those_that_a_user_may_name():
    for kind in {spec.kind for spec in SPECS.values()}:
        named = inspect.signature(task_class("t", kind).__init__).parameters.values()
        assert tuple(each.name for each in named if each.kind is each.KEYWORD_ONLY) == KINDS[kind]


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("regression", {"loss": "hubr"}, r"dataset\.tasks\.t\.loss=hubr: allowed are mse, .*did you mean 'huber'"),
        ("regression", {"loss": "huber", "delta": 0}, r"dataset\.tasks\.t\.delta=0: a number above 0"),
        ("ordinal", {"loss": "x"}, r"dataset\.tasks\.t\.loss=x"),
        ("quantile", {"quantiles": [0.5, 0.1]}, r"dataset\.tasks\.t\.quantiles=\[0\.5, 0\.1\]: must rise"),
        ("quantile", {"quantiles": 0.5}, "a list of numbers"),
        ("survival", {"model": "discrete"}, r"dataset\.tasks\.t\.cuts"),
        ("survival", {"model": "discrete", "cuts": [3, 2]}, "times above 0 that rise"),
        ("survival", {"ties": "exact"}, r"ties=exact: allowed are efron, breslow"),
    ],
)
def test_an_option_that_cannot_be_is_named(kind, options, message):
    with pytest.raises(UserError, match=message):
        make_tasks({"t": TargetSpec(kind, shape=(2,) if kind == "survival" else (), classes=("a", "b"), options=options)})


# ---- multilabel ---------------------------------------------------------------------------------------------------


def test_multilabel_metrics_are_scikit_learns():
    logits, targets = torch.randn(2, N, 4), (torch.rand(2, N, 4) < 0.3).float()
    values = multilabel(logits, targets)
    for i in range(2):
        truth, scores, guess = targets[i].numpy().astype(int), logits[i].numpy(), (logits[i] > 0).numpy().astype(int)
        chance = logits[i].double().sigmoid().numpy()
        expected = {
            "average_precision": sk.average_precision_score(truth, scores, average="macro"),
            "roc_auc": sk.roc_auc_score(truth, scores, average="macro"),
            "log_loss": np.mean([sk.log_loss(truth[:, k], chance[:, k]) for k in range(4)]),
            "f1": sk.f1_score(truth, guess, average="macro"),
            "micro_f1": sk.f1_score(truth, guess, average="micro"),
            "hamming_loss": sk.hamming_loss(truth, guess),
            "subset_accuracy": sk.accuracy_score(truth, guess),
        }
        assert {name: value[i].item() for name, value in values.items()} == pytest.approx(expected)


def test_multilabel_metrics_pass_over_single_labels_that_are_missing():
    draws = torch.Generator().manual_seed(2)
    logits, targets = torch.randn(1, N, 3, generator=draws), (torch.rand(1, N, 3, generator=draws) < 0.4).float()
    targets[torch.rand(1, N, 3, generator=draws) < torch.tensor([0.05, 0.3, 0.7])] = math.nan
    targets[0, :3] = math.nan
    truth, guess, known = targets[0].numpy(), (logits[0] > 0).numpy(), ~targets[0].isnan().numpy()
    right, some = np.where(known, truth == guess, True), known.any(1)
    expected = {
        "log_loss": sk.log_loss(truth[known], logits[0].double().sigmoid().numpy()[known]),
        "f1": np.mean([sk.f1_score(truth[known[:, k], k], guess[known[:, k], k]) for k in range(3)]),
        "micro_f1": sk.f1_score(truth[known], guess[known]),
        "hamming_loss": sk.hamming_loss(truth[known], guess[known]),
        "subset_accuracy": right[some].all(1).mean(),
    }
    found = {name: value.item() for name, value in multilabel(logits, targets).items()}
    assert {name: found[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize("name", ["multilabel", "ordinal"])
def test_a_logit_of_0_is_predicted_as_it_is_measured(name):
    kind = task(name)
    outputs = torch.tensor([[[0.0, 0.0, -1.0], [0.0, -1.0, -2.0]]])
    if name == "multilabel":
        shown = torch.tensor([kind.predictions(outputs[0])[f"t_{label}"].to_pylist() for label in "abc"]).T.float()
    else:
        shown = kind.decide(outputs, [kind.spec])[0]
    measured = kind.evaluate(outputs, shown[None], [kind.spec])
    assert measured["subset_accuracy" if name == "multilabel" else "accuracy"].item() == 1


def test_the_ordinal_likelihood_of_a_class_between_close_thresholds_is_exact():
    logits = torch.tensor([0.3, 0.299, -0.5], dtype=torch.float64)
    share = stats.logistic.cdf(0.3) - stats.logistic.cdf(0.299)
    found = task("ordinal").criterion(logits[None, None], torch.tensor([[1]]))
    assert found.item() == pytest.approx(-math.log(share), rel=1e-9)


# ---- ordinal ------------------------------------------------------------------------------------------------------


def test_ordinal_likelihood_and_metrics():
    group, target = group_of("ordinal", 1), targets_of("ordinal", missing=False)
    outputs = 3 * group(torch.randn(N, 5)).detach()
    assert (outputs.diff(dim=-1) < 0).all()
    above = np.column_stack([np.ones(N), outputs[0].double().sigmoid().numpy(), np.zeros(N)])
    shares, truth = above[:, :-1] - above[:, 1:], target.numpy()
    loss, _ = losses(group, outputs, [target])
    assert loss.item() == pytest.approx(sk.log_loss(truth, shares, labels=range(4)), rel=1e-5)
    far = torch.tensor([[[60.0, -60.0, -60.0 - 1e-9]]])
    assert group.kind.criterion(far, torch.tensor([[1]])).item() == pytest.approx(0, abs=1e-6)
    assert group.kind.criterion(far, torch.tensor([[3]])).item() == pytest.approx(60, rel=1e-3)
    guess = (outputs[0] > 0).sum(-1).numpy()
    values = group.evaluate(outputs, target[:, None])["t0"]
    off = np.abs(truth - guess)
    assert values == pytest.approx(
        {
            "quadratic_kappa": sk.cohen_kappa_score(truth, guess, weights="quadratic", labels=range(4)),
            "accuracy": sk.accuracy_score(truth, guess),
            "balanced_accuracy": sk.balanced_accuracy_score(truth, guess),
            "class_mae": off.mean(),
            "balanced_class_mae": np.mean([off[truth == label].mean() for label in range(4)]),
            "log_loss": sk.log_loss(truth, shares, labels=range(4)),
            "ranked_probability": np.mean((shares.cumsum(1)[:, :-1] - (truth[:, None] <= np.arange(3))) ** 2),
        }
    )
    medians = (shares.cumsum(1) < 0.5).sum(1)
    assert (guess == medians).all()


def test_an_ordinal_head_starts_with_equal_shares_and_coral_is_the_mean_cross_entropy_over_the_thresholds():
    head = group_of("ordinal", 1).head
    torch.nn.init.zeros_(head.scores.weight)
    torch.nn.init.zeros_(head.scores.bias)
    torch.testing.assert_close(head(torch.randn(2, 5)).sigmoid(), torch.tensor([0.75, 0.5, 0.25]).expand(1, 2, 3))
    outputs, target = torch.randn(1, N, 3), targets_of("ordinal", missing=False)
    expected = F.binary_cross_entropy_with_logits(outputs[0], (target[:, None] > torch.arange(3)).float())
    torch.testing.assert_close(task("ordinal_binary").criterion(outputs, target[None]).mean(), expected)


# ---- numbers ------------------------------------------------------------------------------------------------------


def test_the_losses_of_a_regression():
    outputs, target = torch.randn(1, N), torch.randn(1, N)
    torch.testing.assert_close(task("mae").criterion(outputs, target), (outputs - target).abs())
    error = (outputs - target).abs()
    huber = torch.where(error <= 0.5, error**2 / 2, 0.5 * (error - 0.25))
    torch.testing.assert_close(task("huber").criterion(outputs, target), huber)


def test_a_gaussians_likelihood_is_scipys_in_the_users_unit():
    kind, target = task("gaussian"), torch.randn(N)
    outputs = kind.outputs(torch.randn(1, N, 2))
    first, second = outputs[0].double().numpy().T
    mean, spread = 10 + 2 * first, 2 * np.exp(second / 2)
    truth = 10 + 2 * target.double().numpy()
    values = kind.evaluate(outputs, target[None], [kind.spec])
    assert values["nll"].item() == pytest.approx(-stats.norm.logpdf(truth, mean, spread).mean())
    assert values["coverage_95"].item() == pytest.approx(np.mean(np.abs(truth - mean) <= stats.norm.ppf(0.975) * spread))
    assert values["mae"].item() == pytest.approx(np.abs(truth - mean).mean())
    shown = kind.predictions(outputs[0])
    np.testing.assert_allclose(shown["t"], mean)
    np.testing.assert_allclose(shown["t_sd"], spread)
    constant = 0.5 * math.log(2 * math.pi) + math.log(2) + 0.5 * math.log(1e-4)
    assert kind.criterion(outputs, target[None]).mean().item() + constant == pytest.approx(values["nll"].item(), rel=1e-5)


def test_quantiles_do_not_cross_and_their_loss_is_scikit_learns_in_the_users_unit():
    kind, target = task("quantile"), torch.randn(N)
    outputs = kind.outputs(torch.randn(1, N, 4))
    assert (outputs.diff(dim=-1) > 0).all()
    values, truth = (5 + 3 * each.double().numpy() for each in (outputs[0], target))
    each = [sk.mean_pinball_loss(truth, values[:, i], alpha=level) for i, level in enumerate(LEVELS)]
    best = [sk.mean_pinball_loss(truth, np.full(N, np.quantile(truth, level)), alpha=level) for level in LEVELS]
    got = {name: value.item() for name, value in kind.evaluate(outputs, target[None], [kind.spec]).items()}
    assert got == pytest.approx(
        {
            "d2_pinball": 1 - sum(each) / sum(best),
            "pinball": np.mean(each),
            "coverage_error": np.mean(np.abs((truth[:, None] <= values).mean(0) - LEVELS)),
            "coverage": np.mean((values[:, 0] <= truth) & (truth <= values[:, -1])),
        }
    )
    assert 3 * kind.criterion(outputs, target[None]).mean().item() == pytest.approx(got["pinball"], rel=1e-5)
    assert [*kind.predictions(outputs[0])] == ["t_0.1", "t_0.25", "t_0.5", "t_0.9"]


def test_counts_have_scikit_learns_deviance_and_the_gradient_of_poissons_likelihood():
    kind, counts = task("count"), torch.from_numpy(np.random.default_rng(0).poisson(4, N)).float()
    outputs = (0.3 * torch.randn(1, N)).requires_grad_()
    rates = 4 * outputs[0].detach().double().exp().numpy()
    got = {name: value.item() for name, value in kind.evaluate(outputs, counts[None] / 4, [kind.spec]).items()}
    assert got == pytest.approx(
        {
            "d2_poisson": sk.d2_tweedie_score(counts, rates, power=1),
            "poisson_deviance": sk.mean_poisson_deviance(counts, rates),
            "mae": sk.mean_absolute_error(counts, rates),
            "rmse": sk.root_mean_squared_error(counts, rates),
        },
        rel=1e-5,
    )
    loss = kind.criterion(outputs, counts[None] / 4).mean()
    assert 8 * loss.item() == pytest.approx(got["poisson_deviance"], rel=1e-5)
    (ours,) = torch.autograd.grad(loss, outputs)
    (poisson,) = torch.autograd.grad(F.poisson_nll_loss(outputs + math.log(4), counts[None]), outputs)
    torch.testing.assert_close(4 * ours, poisson)
    np.testing.assert_allclose(kind.predictions(outputs[0].detach())["t"], rates)


def test_ties_with_a_quantile_lie_within_it():
    values = torch.tensor([[[0.0, 1.0, 2.0, 3.0]] * 4])
    target = torch.tensor([[0.0, 1.0, 3.0, 4.0]])
    found = task("quantile").evaluate(values, target, [SPECS["quantile"]])
    assert found["coverage"].item() == 0.75
    below = np.array([0.25, 0.5, 0.5, 0.75])
    assert found["coverage_error"].item() == pytest.approx(np.abs(below - LEVELS).mean())


def test_explained_deviance_of_one_count_and_of_equal_ones():
    kind = task("count")
    outputs = torch.tensor([[0.0, 0.0], [0.0, 0.5], [0.0, 0.0]])
    found = kind.evaluate(outputs, torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, math.nan]]), [kind.spec] * 3)["d2_poisson"]
    assert found.tolist() == [1, 0, pytest.approx(math.nan, nan_ok=True)]
    assert kind.evaluate(outputs[1:2], torch.zeros(1, 2), [kind.spec])["d2_poisson"].item() == 0


# ---- survival -----------------------------------------------------------------------------------------------------


def concordance(time, event, risk):
    pairs = score = 0.0
    for i, j in itertools.permutations(range(len(time)), 2):
        if event[i] and (time[i] < time[j] or (time[i] == time[j] and not event[j])):
            pairs += 1
            score += 1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
    return score / pairs if pairs else math.nan


@pytest.mark.parametrize("size", [1, 2, 3, 7, 40])
def test_concordance_equals_all_pairs_one_by_one(size):
    draws = np.random.default_rng(size)
    time, event = draws.integers(1, 2 + size // 2, (6, size)).astype(float), draws.random((6, size)) < 0.6
    risk = np.round(draws.standard_normal((6, size)), 1)
    targets = np.stack([time, event], -1)
    targets[draws.random((6, size)) < 0.1] = np.nan
    got = survival(torch.from_numpy(risk), torch.from_numpy(targets))["concordance"].tolist()
    rows = [~np.isnan(each).any(1) for each in targets]
    assert got == pytest.approx([concordance(time[i, r], event[i, r], risk[i, r]) for i, r in enumerate(rows)], nan_ok=True)


@pytest.mark.parametrize("name", ["cox", "discrete"])
def test_a_time_or_an_event_that_is_missing_alone_leaves_the_example_out(name):
    group, target = group_of(name, 1), targets_of(name, missing=False)
    outputs = group(torch.randn(N, 5, generator=torch.Generator().manual_seed(1))).detach()
    target[:5, 0], target[5:20, 1] = math.nan, math.nan
    loss, _ = losses(group, outputs, [target])
    torch.testing.assert_close(loss, losses(group, outputs[:, 20:], [target[20:]])[0])


def cox(h, time, event, weight, efron):
    """Therneau & Grambsch, Modeling Survival Data, section 3.3, one time after the other."""
    total = 0.0
    for t in np.unique(time[event]):
        at, dead = time >= t, (time == t) & event
        everyone, ties, d = (weight * np.exp(h))[at].sum(), (weight * np.exp(h))[dead].sum(), dead.sum()
        total -= (weight * h)[dead].sum()
        for step in range(d):
            total += weight[dead].mean() * np.log(everyone - (step / d * ties if efron else 0))
    return total / weight[event].sum()


@pytest.mark.parametrize("efron", [True, False])
def test_the_partial_likelihood_equals_the_textbooks_sums(efron):
    draws = np.random.default_rng(0)
    h, weight = draws.standard_normal((3, 30)) * 3, draws.random((3, 30)) + 0.5
    weight[:, :4] = 0
    time, event = draws.integers(1, 9, (3, 30)).astype(float), draws.random((3, 30)) < 0.5
    got, active = partial_likelihood(*map(torch.from_numpy, (h, time, event * weight, weight)), efron)
    expected = [cox(*(each[i][4:] for each in (h, time, event, weight)), efron) for i in range(3)]
    assert got.tolist() == pytest.approx(expected) and active.all()


def test_a_partial_likelihood_by_hand():
    """Times 1, 1, 2 with events, 3 censored, hazards 1, 2, 3, 4: Breslow 1/10 · 2/10 · 3/7, Efron 1/10 · 2/(10 - 1.5) · 3/7."""
    h, time, event = torch.tensor([[1.0, 2, 3, 4]]).log(), torch.tensor([[1.0, 1, 2, 3]]), torch.tensor([[1.0, 1, 1, 0]])
    for efron, likelihood in ((False, 0.1 * 0.2 * 3 / 7), (True, 0.1 * 2 / 8.5 * 3 / 7)):
        loss, _ = partial_likelihood(h, time, event, torch.ones_like(h), efron)
        assert 3 * loss.item() == pytest.approx(-math.log(likelihood))


def test_discrete_hazards_are_the_probabilities_of_each_interval():
    """Cuts 1, 2, 4: the event at 2 is in the second interval, one censored at 2 has survived it, at 1.9 only the first."""
    chance = torch.tensor([0.1, 0.2, 0.4])
    time, event = torch.tensor([[2.0, 2.0, 1.9, 0.5, 5.0, 5.0, 4.0]]), torch.tensor([[1.0, 0, 0, 1, 1, 0, 1]])
    loss = hazard_loss(torch.logit(chance).expand(1, 7, 3), time, event, torch.tensor([1.0, 2, 4]))
    likelihood = [0.9 * 0.2, 0.9 * 0.8, 0.9, 0.1, 0.9 * 0.8 * 0.6, 0.9 * 0.8 * 0.6, 0.9 * 0.8 * 0.4]
    assert loss[0].exp().reciprocal().tolist() == pytest.approx(likelihood)
    shown = task("discrete").predictions(torch.logit(chance)[None])
    assert shown["t_survival_4"][0].as_py() == pytest.approx(0.9 * 0.8 * 0.6)
    assert shown["t"][0].as_py() == pytest.approx(0.95 + (0.9 + 0.72) / 2 + (0.72 + 0.432))
