"""Nash-MTL and FairGrad against their equations, convex solvers and the authors' least squares."""

import math

import cvxpy
import numpy as np
import pytest
import torch
from gramians import hostile_gramians, random_gramians
from scipy.optimize import least_squares
from torch import Tensor
from torchjd.aggregation import FairGradWeighting

from mtl_runner.weighting.fairgrad import FairGrad
from mtl_runner.weighting.nash_mtl import NashMTL
from mtl_runner.weighting.proportional import RIDGE

FULL = random_gramians()[::2]
HALF = random_gramians()[1::2]
POWERS = (0.5, 1.0, 2.0, 5.0)


def fair(gramian: Tensor, alpha: float = 1.0, active: Tensor | None = None) -> Tensor:
    shape = gramian.shape[:-1]
    active = torch.ones(shape, dtype=torch.bool) if active is None else active
    return FairGrad(["t"] * shape[-1], alpha=alpha).weights(gramian, torch.ones(shape, dtype=torch.float64), active)


def nash(gramian: Tensor, **options: object) -> Tensor:
    method = NashMTL(["t"] * len(gramian), **options)  # type: ignore[arg-type]
    return method.weights(gramian, torch.ones(len(gramian), dtype=torch.float64), torch.ones(len(gramian), dtype=torch.bool))


def ridged(gramian: Tensor) -> Tensor:
    return gramian + RIDGE * gramian.diagonal().diag()


@pytest.mark.parametrize("alpha", POWERS)
@pytest.mark.parametrize("gramians", [FULL, HALF], ids=["full rank", "half rank"])
def test_the_equation_holds(alpha: float, gramians: list[Tensor]) -> None:
    for gramian in gramians:
        weights = fair(gramian, alpha)
        assert (weights > 0).all()
        assert torch.allclose(ridged(gramian) @ weights * weights ** (1 / alpha), torch.ones(1).double(), rtol=0, atol=2e-5)


@pytest.mark.parametrize("alpha", [10.0, 20.0])
@pytest.mark.parametrize("spread", [0, 3])
def test_the_equation_holds_near_max_min_fairness(alpha: float, spread: int) -> None:
    """Newton's steps are many there, the more so for norms that differ by a factor of 10^spread."""
    for gramian in [*FULL[:30], *HALF[:30]]:
        lengths = torch.logspace(0, spread, len(gramian), dtype=torch.float64)
        scaled = lengths[:, None] * gramian / gramian.diagonal().mean() * lengths
        weights = fair(scaled, alpha)
        assert torch.allclose(ridged(scaled) @ weights * weights ** (1 / alpha), torch.ones(1).double(), rtol=0, atol=2e-5)


def test_the_ridge_does_not_show_where_gradients_are_independent() -> None:
    for gramian in FULL:
        weights = fair(gramian)
        assert torch.allclose((gramian @ weights) * weights, torch.ones(1).double(), rtol=0, atol=1e-3)
        assert ((gramian @ weights) * weights - 1).abs().median() < 1e-4


def test_nash_and_fairgrad_are_the_minimisers_that_a_convex_solver_finds() -> None:
    for gramian in [*FULL[:12], *HALF[:12]]:
        size = float(gramian.diagonal().mean())
        scaled, tasks = ridged(gramian / size).numpy(), len(gramian)
        root = np.linalg.cholesky(scaled + 1e-12 * np.eye(tasks)).T
        variable = cvxpy.Variable(tasks, pos=True)
        objective = 0.5 * cvxpy.sum_squares(root @ variable) - cvxpy.sum(cvxpy.log(variable))
        cvxpy.Problem(cvxpy.Minimize(objective)).solve(solver=cvxpy.CLARABEL)
        ours = nash(gramian / size, max_norm=0.0).numpy()
        theirs = np.asarray(variable.value)

        def value(weights: np.ndarray, matrix: np.ndarray = scaled) -> float:
            return float(0.5 * weights @ matrix @ weights - np.log(weights).sum())

        assert value(ours) <= value(theirs) + 1e-8
        if np.linalg.cond(scaled) < 1e4:
            np.testing.assert_allclose(ours, theirs, rtol=1e-3)  # theirs is the looser
        np.testing.assert_allclose(fair(gramian).numpy() * math.sqrt(size), ours, rtol=1e-6)


@pytest.mark.parametrize("alpha", POWERS)
def test_fairgrad_solves_what_the_authors_leave_to_least_squares(alpha: float) -> None:
    for gramian in [*FULL[:8], *HALF[:3]]:
        scaled = ridged(gramian / gramian.diagonal().mean())
        matrix = scaled.numpy()

        def residual(weights: np.ndarray, matrix: np.ndarray = matrix) -> np.ndarray:
            return np.asarray(matrix @ weights - weights ** (-1 / alpha))

        ours = fair(gramian / gramian.diagonal().mean(), alpha).numpy()
        theirs = least_squares(residual, np.ones(len(matrix)) / len(matrix), bounds=(0, np.inf)).x
        error = np.abs(residual(theirs)).max()
        assert np.abs(residual(ours)).max() <= max(error, 1e-4)
        if error < 1e-6 and np.linalg.cond(matrix) < 1e3:
            np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_fairgrad_agrees_with_torchjd() -> None:
    compared = 0
    for gramian in FULL[:20]:
        scaled = gramian / gramian.diagonal().mean()
        theirs = FairGradWeighting(alpha=1.0)(scaled)
        if (scaled @ theirs * theirs - 1).abs().max() < 1e-6 and torch.linalg.cond(scaled) < 1e3:
            assert torch.allclose(fair(scaled), theirs, rtol=1e-4)
            compared += 1
    assert compared >= 5


def test_two_tasks_are_weighted_by_their_inverse_norms() -> None:
    for cosine in (-0.99, -0.5, 0.0, 0.7, 1.0):
        gramian = torch.tensor([[4.0, 6 * cosine], [6 * cosine, 9.0]], dtype=torch.float64)
        expected = torch.tensor([1 / 2, 1 / 3], dtype=torch.float64) / math.sqrt(1 + cosine)
        assert torch.allclose(nash(gramian, max_norm=0.0), expected, rtol=1e-4)
        assert torch.allclose(fair(gramian), fair(gramian, 1 + 1e-9), rtol=1e-5)  # the closed form and the solver


def test_the_solver_finds_the_solution_for_orthogonal_gradients_of_any_length() -> None:
    squares = torch.logspace(-8, 8, 5, dtype=torch.float64)
    for alpha in POWERS:
        power = 1 / alpha
        assert torch.allclose(fair(squares.diag(), alpha), squares ** (-1 / (1 + power)), rtol=1e-5)


@pytest.mark.parametrize("alpha", POWERS)
def test_every_task_gains(alpha: float) -> None:
    for gramian in [*FULL[:20], *HALF[:20]]:
        gains = ridged(gramian) @ fair(gramian, alpha)
        assert (gains > 0).all()


def test_scaled_gradients_give_the_same_update_up_to_its_length() -> None:
    for gramian in [*FULL[:10], *HALF[:10]]:
        for alpha in POWERS:
            factor = (1e3**2) ** (-alpha / (1 + alpha))  # w^(1 + 1/alpha) has the unit 1 / g²
            assert torch.allclose(fair(gramian * 1e6, alpha), fair(gramian, alpha) * factor, rtol=1e-5)
    per_task = torch.logspace(-2, 2, len(FULL[0]), dtype=torch.float64)
    scaled = per_task[:, None] * FULL[0] * per_task
    assert torch.allclose(nash(scaled, max_norm=0.0) * per_task, nash(FULL[0], max_norm=0.0), rtol=1e-6)


@pytest.mark.parametrize("max_norm", [1.0, 0.3, 100.0])
def test_nash_cuts_the_norm_on_the_papers_scale_alone(max_norm: float) -> None:
    for gramian in FULL[:10]:
        uncut = nash(gramian, max_norm=0.0)
        weights = nash(gramian, max_norm=max_norm, scale="paper")
        norm = math.sqrt(float(weights @ gramian @ weights))
        assert norm == pytest.approx(min(max_norm, math.sqrt(len(gramian))), rel=1e-4)
        assert torch.allclose(weights / weights.sum(), uncut / uncut.sum())
        assert torch.equal(nash(gramian, max_norm=max_norm), uncut)


@pytest.mark.parametrize("alpha", POWERS)
def test_hostile_gramians_give_positive_finite_weights(alpha: float) -> None:
    for tasks in (2, 4, 9):
        for name, gramian in hostile_gramians(tasks).items():
            weights = fair(gramian, alpha)
            assert weights.isfinite().all() and (weights > 0).all(), name
            if name == "one task without gradient":
                others = torch.arange(tasks) != 1
                assert weights[1] == pytest.approx(float(weights[others].mean()))
                assert torch.allclose(weights[others], fair(gramian[others][:, others], alpha), rtol=1e-5)


def test_a_gramian_that_rounding_left_indefinite_gives_positive_finite_weights() -> None:
    draws = torch.Generator().manual_seed(0)
    for tasks in (4, 40):
        jacobian = torch.randn(tasks, 2, generator=draws, dtype=torch.float64)
        noise = torch.randn(tasks, tasks, generator=draws, dtype=torch.float64)
        gramian = jacobian @ jacobian.T + 1e-3 * (noise + noise.T)
        assert torch.linalg.eigvalsh(gramian)[0] < -1e-3
        for alpha in POWERS:
            weights = fair(gramian, alpha)
            assert weights.isfinite().all() and (weights > 0).all()


@pytest.mark.parametrize("alpha", POWERS)
def test_batches_are_solved_one_by_one_and_without_what_is_not_active(alpha: float) -> None:
    draws = torch.Generator().manual_seed(0)
    jacobian = torch.randn(3, 4, 6, 5, generator=draws, dtype=torch.float64)
    active = torch.rand(3, 4, 6, generator=draws) > 0.3
    jacobian = jacobian * active[..., None]
    gramian = jacobian @ jacobian.mT
    together = fair(gramian, alpha, active)
    assert (together[~active] == 0).all()
    for i in range(3):
        for j in range(4):
            on = active[i, j]
            assert torch.allclose(together[i, j], fair(gramian[i, j], alpha, on), rtol=1e-5)
            assert torch.allclose(together[i, j][on], fair(gramian[i, j][on][:, on], alpha), rtol=1e-5)
