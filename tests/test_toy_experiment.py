"""``experiments/two_objectives``: the problem is the papers', every option runs on it, and what it shows is true."""

import csv
import importlib
import itertools
from math import log, tanh
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from handmade import options
from matplotlib.figure import Figure
from torch import Tensor

from mtl_runner.weighting.gradnorm import GradNorm

FOLDER = Path(__file__).resolve().parents[1] / "experiments" / "two_objectives"


@pytest.fixture(scope="module")
def toy() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield importlib.import_module("two_objectives")


@pytest.fixture(scope="module")
def front(toy: ModuleType) -> Tensor:
    return toy.pareto_front()


def as_published(x: float, y: float) -> tuple[float, float]:
    """The objectives with the first in the unit of CAGrad's paper, term by term as its authors wrote them."""
    first_valley = log(max(abs(0.5 * (-x - 7) - tanh(-y)), 0.000005)) + 6
    second_valley = log(max(abs(0.5 * (-x + 3) + tanh(-y) + 2), 0.000005)) + 6
    first_bowl = ((-x + 7) ** 2 + 0.1 * (-y - 8) ** 2) / 10 - 20
    second_bowl = ((-x - 7) ** 2 + 0.1 * (-y - 8) ** 2) / 10 - 20
    above, below = max(tanh(0.5 * y), 0), max(tanh(-0.5 * y), 0)
    return first_valley * above + first_bowl * below, second_valley * above + second_bowl * below


def some_points(count: int) -> Tensor:
    return torch.empty(count, 2, dtype=torch.float64).uniform_(-11, 11, generator=torch.Generator().manual_seed(0))


def test_the_objectives_are_those_of_the_paper(toy: ModuleType) -> None:
    points = some_points(200)
    expected = torch.tensor([as_published(x, y) for x, y in points.tolist()], dtype=torch.float64)
    assert torch.allclose(toy.at(points, torch.ones(2)), expected)
    assert torch.allclose(toy.at(points), expected * torch.tensor([0.1, 1.0]))


def test_losses_are_positive_everywhere(toy: ModuleType) -> None:
    points = some_points(100_000)
    assert (toy.at(points) > toy.LOWEST * toy.UNITS).all() and toy.at(points, torch.ones(2)).min() < -19


@pytest.mark.parametrize("apart", [True, False])
def test_the_weighting_sees_the_gradients_of_the_objectives(toy: ModuleType, apart: bool) -> None:
    problem = toy.Problem((3.0, 2.0))
    objectives = problem.objectives(apart)
    theta = torch.tensor([3.0, 2.0], requires_grad=True)
    values = toy.at(theta)
    expected = torch.stack([torch.autograd.grad(value, theta, retain_graph=True)[0] for value in values])
    assert torch.allclose(objectives.losses, values + 21 * torch.tensor([0.1, 1.0]))
    assert torch.equal(problem.losses_again(), objectives.losses)
    objectives.parts[0].sum().backward()
    if apart:
        assert torch.allclose(objectives.copies[0][0].grad, expected) and problem.theta.grad is None
    else:
        assert torch.allclose(problem.theta.grad, expected.sum(0))


def test_gradnorm_takes_the_norms_of_all_where_there_are_no_layers(toy: ModuleType) -> None:
    problem, weighting = toy.Problem((3.0, 2.0)), GradNorm(["first", "second"])
    weighting.backward(problem.objectives(True))
    gradients = torch.stack([torch.autograd.grad(toy.at(problem.theta)[t], problem.theta)[0] for t in range(2)])
    assert weighting.gramian is not None
    torch.testing.assert_close(weighting.gramian, gradients @ gradients.T, rtol=1e-4, atol=1e-6)


def test_the_front_is_that_of_the_paper(toy: ModuleType, front: Tensor) -> None:
    """It joins the two minima, (±7, …), and crosses x = 0 at y = -8.3552; no point is better in both objectives."""
    assert front[[0, -1], 0].tolist() == pytest.approx([-7, 7], abs=0.02) and front.diff(dim=0).norm(dim=-1).max() < 0.05
    assert front[front[:, 0].abs().argmin(), 1] == pytest.approx(-8.3552, abs=0.02)
    on_it, elsewhere = toy.at(front[::20]), toy.at(some_points(100_000))
    assert not (elsewhere[None] < on_it[:, None] - 1e-3).all(-1).any()
    for aside in (-0.5, 0.5):
        middle = front[front[:, 0].abs() < 5]
        assert (toy.at(middle) < toy.at(middle + torch.tensor([0, aside], dtype=torch.float64))).all(), "above and below is worse"


def end(toy: ModuleType, option: str) -> Tensor:
    """Where a weighting comes to from (9, 9): first it meets the steep valley of the second objective."""
    return toy.descend(toy.Problem((9.0, 9.0)), toy.make(option), 950, 0.04)[-1].double()


def test_equal_weights_get_stuck_in_the_valley(toy: ModuleType, front: Tensor) -> None:
    x, y = stuck = end(toy, "equal")
    assert torch.cdist(stuck[None], front).min() > 5
    assert abs(0.5 * (-x + 3) + torch.tanh(-y) + 2) < 0.3, "it is in the valley"


@pytest.mark.parametrize(
    "option", ["mgda", *(pytest.param(option, marks=pytest.mark.slow) for option in ("cagrad", "nash_mtl", "upgrad"))]
)
def test_gradient_based_weightings_come_to_the_front(toy: ModuleType, front: Tensor, option: str) -> None:
    assert torch.cdist(end(toy, option)[None], front).min() < toy.NEAR


def test_every_option_is_on_the_figure(toy: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    figures: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: (figures.append(figure), save(figure, path, dpi=30)))
    monkeypatch.setattr("sys.argv", ["two_objectives.py", "--steps", "2", "--output", str(tmp_path / "new")])
    toy.main()
    assert sorted(axes.get_title(loc="left") for axes in figures[0].axes) == options("weighting")
    assert (tmp_path / "new" / "trajectories.png").stat().st_size > 10_000
    with (tmp_path / "new" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["weighting"], (float(row["start_x"]), float(row["start_y"]))) for row in rows] == list(
        itertools.product(options("weighting"), toy.STARTS)
    )


def test_some_options_are_enough(toy: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.argv", ["x", "--methods", "pcgrad", "equal", "--steps", "5", "--output", str(tmp_path)])
    toy.main()
    with (tmp_path / "results.csv").open() as file:
        assert {row["weighting"] for row in csv.DictReader(file)} == {"equal", "pcgrad"}
