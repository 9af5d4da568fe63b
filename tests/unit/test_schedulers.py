"""The cosine schedule against its formula and against torch's."""

import math

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR

from mtl_runner.schedulers import Cosine


def optimizer(*rates: float) -> SGD:
    return SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates])


def epochs(schedule: Cosine | CosineAnnealingLR, number: int) -> list[list[float]]:
    """The rates in force during each of so many epochs."""
    rates = []
    for _ in range(number):
        rates.append([group["lr"] for group in schedule.optimizer.param_groups])
        schedule.optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("min_lr", [0.0, 0.01])
@pytest.mark.parametrize("budget", [1, 2, 7, 30])
def test_rates_are_those_of_torch_and_of_the_formula(budget: int, min_lr: float) -> None:
    rates = epochs(Cosine(optimizer(0.1, 0.5), budget, min_lr=min_lr), budget)
    torchs = epochs(CosineAnnealingLR(optimizer(0.1, 0.5), budget, eta_min=min_lr), budget)
    for e, (row, other) in enumerate(zip(rates, torchs, strict=True)):
        assert row == pytest.approx(other, rel=1e-9)
        formula = [min_lr + 0.5 * (initial - min_lr) * (1 + math.cos(math.pi * e / budget)) for initial in (0.1, 0.5)]
        assert row == pytest.approx(formula, rel=1e-12)


def test_after_the_last_epoch_the_rate_stays_at_its_end() -> None:
    schedule = Cosine(optimizer(0.1), 3, min_lr=0.02)
    assert [row[0] for row in epochs(schedule, 8)[3:]] == pytest.approx([0.02] * 5)


@pytest.mark.parametrize("longer", [6, 20])
@pytest.mark.parametrize("done", [3, 6])
def test_a_resumed_schedule_goes_on_along_the_curve_of_its_budget_from_the_first_epoch_on(done: int, longer: int) -> None:
    first = Cosine(optimizer(0.1, 0.5), 6)
    epochs(first, done)
    state, moments = first.state_dict(), first.optimizer.state_dict()

    again = optimizer(0.1, 0.5)
    schedule = Cosine(again, longer)
    again.load_state_dict(moments)  # brings back the rate of the shorter curve
    schedule.load_state_dict(state)
    assert epochs(schedule, 5) == epochs(Cosine(optimizer(0.1, 0.5), longer), done + 5)[done:]
    assert schedule.epochs == longer
