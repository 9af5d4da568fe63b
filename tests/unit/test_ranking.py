"""Clicks, purchases and ratings: metrics against brute force and scikit-learn, and the two types of task."""

import math

import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor

from mtl_runner.batch import Decision, TargetSpec
from mtl_runner.errors import UserError
from mtl_runner.metrics.ranking import RANKING, RATING, gauc, ranking
from mtl_runner.tasks import make_tasks

DRAWS = torch.Generator().manual_seed(0)
SCORES = torch.randint(0, 12, (2, 300), generator=DRAWS).float()  # with ties
LABELS = (torch.rand(2, 300, generator=DRAWS) < 0.2).float().where(torch.rand(2, 300, generator=DRAWS) < 0.9, torch.nan)
USERS = torch.randint(0, 25, (300,), generator=DRAWS) * 10**15 - 7


def one_by_one(scores: Tensor, labels: Tensor, users: Tensor) -> float:
    """Every user's pairs of a row with and one without, counted; weighted by the user's labelled rows."""
    total = weight = 0.0
    for user in users.unique():
        own = (users == user) & ~labels.isnan()
        positive, negative = scores[own & (labels == 1)], scores[own & (labels == 0)]
        if len(positive) and len(negative):
            difference = positive[:, None] - negative
            area = ((difference > 0).double() + (difference == 0).double() / 2).mean()
            total, weight = total + int(own.sum()) * float(area), weight + int(own.sum())
    return total / weight


def test_gauc_is_the_mean_of_each_users_auc_weighted_by_rows() -> None:
    found = gauc(SCORES, LABELS, USERS)
    for task in range(2):
        assert found[task].item() == pytest.approx(one_by_one(SCORES[task], LABELS[task], USERS), abs=1e-12)
    one_user = gauc(SCORES, LABELS, torch.zeros(300, dtype=torch.long))
    torch.testing.assert_close(one_user, ranking(SCORES, LABELS)["roc_auc"])


def test_gauc_by_hand_and_where_there_is_none() -> None:
    """User 1: pairs (3 > 1), (3 > 2), so 1 with three rows; user 2: a tie, ½ with two; user 3 clicks everything."""
    scores, labels = torch.tensor([[1.0, 2, 3, 5, 5, 9]]), torch.tensor([[0.0, 0, 1, 1, 0, 1]])
    assert gauc(scores, labels, torch.tensor([1, 1, 1, 2, 2, 3])).item() == pytest.approx((3 * 1 + 2 * 0.5) / 5)
    for empty in (labels * 0, labels * torch.nan):
        assert gauc(scores, empty, torch.tensor([1, 1, 1, 2, 2, 3])).isnan().all()
    assert math.isnan(ranking(scores, labels)["gauc"].item())
    broken = ranking(torch.tensor([[torch.nan, 2, 3, 5, 5, 9]]), labels, torch.tensor([1, 1, 1, 2, 2, 3]))
    assert all(value.isnan().all() for value in broken.values())


def test_equal_scores_of_two_users_are_no_tie() -> None:
    scores, labels = torch.tensor([[1.0, 2, 2, 3]]), torch.tensor([[0.0, 1, 0, 1]])
    assert gauc(scores, labels, torch.tensor([1, 1, 2, 2])).item() == 1


def test_the_others_are_scikit_learns() -> None:
    values = ranking(SCORES / 4, LABELS, USERS)
    assert tuple(values) == tuple(metric.name for metric in RANKING)
    there = ~LABELS[0].isnan()
    truth, probabilities = LABELS[0][there].numpy(), (SCORES[0][there] / 4).sigmoid().numpy()
    assert values["roc_auc"][0].item() == pytest.approx(sk.roc_auc_score(truth, probabilities))
    assert values["log_loss"][0].item() == pytest.approx(sk.log_loss(truth, probabilities), rel=1e-5)


def test_ranking_gives_probabilities_and_no_classes() -> None:
    (task,) = make_tasks({"click": TargetSpec("ranking", classes=("0", "1"))})
    assert task.decide(torch.zeros(1, 3), [task.spec]) is None
    assert task.predictions(torch.tensor([0.0, 2.0]))["click_probability"].to_pylist() == pytest.approx([0.5, 0.8808], abs=1e-4)
    values = task.evaluate(SCORES[:1], LABELS[:1], [task.spec], {"user": USERS})
    torch.testing.assert_close(values["gauc"], gauc(SCORES[:1], LABELS[:1], USERS))


def test_a_ranking_with_a_temperature_is_measured_by_the_probabilities_that_it_shows() -> None:
    spec = TargetSpec("ranking", classes=("0", "1"), decision=Decision(temperature=4.0))
    (task,) = make_tasks({"click": spec})
    there = ~LABELS[0].isnan()
    shown = task.predictions(SCORES[0])["click_probability"].to_numpy()[there.numpy()]
    found = task.evaluate(SCORES[:1], LABELS[:1], [spec])["log_loss"].item()
    assert found == pytest.approx(sk.log_loss(LABELS[0][there].numpy(), shown), rel=1e-5)
    assert found != pytest.approx(ranking(SCORES[:1], LABELS[:1])["log_loss"].item(), rel=1e-3)


def test_a_rating_stays_within_its_bounds_in_metrics_and_predictions_and_not_in_the_loss() -> None:
    spec = TargetSpec("rating", center=(3.0,), scale=(2.0,), options={"bounds": [1, 5]})
    free = TargetSpec("rating", center=(3.0,), scale=(2.0,))
    bounded, plain = make_tasks({"stars": spec, "points": free})
    outputs, targets = torch.tensor([[-3.0, 0.0, 2.0]]), torch.tensor([[-1.0, 0.5, torch.nan]])
    assert bounded.predictions(outputs[0])["stars"].to_pylist() == [1, 3, 5]
    assert plain.predictions(outputs[0])["points"].to_pylist() == [-3, 3, 7]
    values = bounded.evaluate(outputs, targets, [spec])
    assert tuple(values) == tuple(metric.name for metric in RATING) == ("r2", "rmse", "mae")
    assert values["rmse"].item() == pytest.approx(math.sqrt(1 / 2)) and values["mae"].item() == pytest.approx(0.5)
    assert plain.evaluate(outputs, targets, [free])["mae"].item() == pytest.approx(2.5)
    assert bounded.criterion(outputs, targets)[0, 0] == 4
    assert bounded.signature != plain.signature


@pytest.mark.parametrize("bounds", [[5, 1], [1], 3, ["a", "b"]])
def test_bounds_are_two_numbers(bounds: object) -> None:
    with pytest.raises(UserError, match=r"dataset\.tasks\.stars\.bounds=.*allowed is \[lowest, highest\]"):
        make_tasks({"stars": TargetSpec("rating", options={"bounds": bounds})})
