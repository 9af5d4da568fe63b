"""The weightings that solve a convex quadratic problem, against TorchJD's solvers, closed forms and optimality conditions."""

import math
from collections.abc import Callable

import pytest
import torch
from gramians import hostile_gramians, random_gramians
from torch import Tensor
from torchjd.aggregation import CAGradWeighting, DualProjWeighting, MGDAWeighting, UPGradWeighting

from mtl_runner.weighting import solvers
from mtl_runner.weighting.cagrad import CAGrad
from mtl_runner.weighting.dualproj import DualProj
from mtl_runner.weighting.gradient import GramianWeighting
from mtl_runner.weighting.mgda import MGDA
from mtl_runner.weighting.upgrad import UPGrad

METHODS = (MGDA, UPGrad, DualProj, CAGrad)
GRAMIANS = random_gramians()
each_method = pytest.mark.parametrize("method", METHODS)


def weights(method: type[GramianWeighting], gramian: Tensor, active: Tensor | None = None, **options: float) -> Tensor:
    shape = gramian.shape[:-1]
    weighting = method([f"task_{t}" for t in range(shape[-1])], **options)  # type: ignore[arg-type]
    active = torch.ones(shape, dtype=torch.bool) if active is None else active
    return weighting.weights(gramian, torch.ones(shape, dtype=torch.float64), active)


def two(first: float, inner: float, second: float) -> Tensor:
    return torch.tensor([[first, inner], [inner, second]], dtype=torch.float64)


def awkward_gramians(count: int, tasks: int, seed: int = 0) -> dict[str, Tensor]:
    """[count, T, T] of each kind: unequal norms, half rank, duplicates, opposed pairs, inner products in float32."""
    draws = torch.Generator().manual_seed(seed)
    plain = torch.randn(count, tasks, tasks + 3, generator=draws, dtype=torch.float64)
    half = torch.randn(count, tasks, tasks // 2, generator=draws, dtype=torch.float64)
    norms = 10 ** (12 * torch.rand(count, tasks, 1, generator=draws, dtype=torch.float64) - 6)
    first = plain[:, : (tasks + 1) // 2]
    sides = torch.randint(0, 2, (count, tasks, 1), generator=draws) * 2 - 1
    jacobians = {
        "unequal": plain * norms,
        "half rank": half,
        "half rank, unequal": half * norms,
        "duplicates": torch.cat([first, first], 1)[:, :tasks],
        "opposed": torch.cat([first, -first], 1)[:, :tasks],
        "two camps": plain + 3 * sides * plain[:, :1],
        "one direction": half[..., :1],
        "nearly alike": plain[:, :1] + 1e-3 * plain,
    }
    gramians = {name: jacobian @ jacobian.mT for name, jacobian in jacobians.items()}
    return gramians | {"float32": (half.float() @ half.float().mT).double()}


# ---- MGDA ---------------------------------------------------------------------------------------------------------------


def mgda_violation(gramian: Tensor, found: Tensor) -> Tensor:
    """By how much ⟨g_t, d⟩ ≥ ‖d‖² fails, relative to ‖g_t‖ and to what d would be without any conflict."""
    norms = gramian.diagonal(dim1=-2, dim2=-1).sqrt()
    products = (gramian @ found[..., None])[..., 0]
    square = (products * found).sum(-1, keepdim=True)
    return ((square - products) / (norms * (norms * found).sum(-1, keepdim=True))).amax(-1)


def test_mgda_is_optimal_and_never_longer_than_what_frank_wolfe_finds() -> None:
    oracle = MGDAWeighting()
    for gramian in GRAMIANS:
        found, theirs = weights(MGDA, gramian), oracle(gramian)
        assert (found >= 0).all() and found.sum().item() == pytest.approx(1)
        assert found @ gramian @ found <= theirs @ gramian @ theirs + 1e-9 * gramian.diagonal().max()
        assert mgda_violation(gramian, found) <= 1e-6


@pytest.mark.parametrize(
    ("gramian", "first"),
    [(two(1, 0, 1), 1 / 2), (two(1, 0, 4), 4 / 5), (two(1, 2, 9), 1.0), (two(2, -1, 1), 2 / 5), (two(1, -3, 9), 3 / 4)],
)
def test_mgda_of_two_tasks(gramian: Tensor, first: float) -> None:
    """w_1 = ⟨g_2 - g_1, g_2⟩ / ‖g_1 - g_2‖², between 0 and 1."""
    found = weights(MGDA, gramian)
    assert found.tolist() == pytest.approx([first, 1 - first], abs=1e-5)


def test_mgda_gives_all_weight_to_a_gradient_of_zero() -> None:
    found = weights(MGDA, torch.diag(torch.tensor([2.0, 0.0, 1.0], dtype=torch.float64)))
    assert found.tolist() == pytest.approx([0, 1, 0], abs=1e-12)


@pytest.mark.parametrize("scale", [1e-12, 3.0, 1e15])
def test_mgda_does_not_depend_on_the_unit(scale: float) -> None:
    for gramian in GRAMIANS[:20]:
        torch.testing.assert_close(weights(MGDA, scale * gramian), weights(MGDA, gramian), rtol=1e-6, atol=1e-9)


# ---- UPGrad and DualProj ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "oracle"), [(UPGrad, UPGradWeighting()), (DualProj, DualProjWeighting())])
def test_projections_are_those_of_quadprog(method: type[GramianWeighting], oracle: Callable[[Tensor], Tensor]) -> None:
    for gramian in GRAMIANS:
        theirs = oracle(gramian / gramian.trace())  # TorchJD takes a trace below 1e-4 for zero
        torch.testing.assert_close(weights(method, gramian), theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", [UPGrad, DualProj])
def test_projections_without_regularization_conflict_with_no_task(method: type[GramianWeighting]) -> None:
    for gramian in GRAMIANS[::2]:  # of full rank
        found = weights(method, gramian, reg_eps=1e-9)
        size = gramian.diagonal().sqrt() * (found @ gramian @ found).sqrt()
        assert (gramian @ found >= -1e-6 * size).all()


def test_projections_of_two_conflicting_tasks() -> None:
    """UPGrad makes each orthogonal to the other; DualProj the mean, where it conflicts with one."""
    gramian = two(1, -1, 4)
    torch.testing.assert_close(
        weights(UPGrad, gramian, reg_eps=1e-12), torch.tensor([(1 + 1) / 2, (1 + 1 / 4) / 2], dtype=torch.float64)
    )
    mild = torch.full((2,), 0.5, dtype=torch.float64)
    torch.testing.assert_close(weights(DualProj, gramian, reg_eps=1e-12), mild)
    strong = two(1, -1.5, 4)  # the mean's inner product with the first is -1/4
    torch.testing.assert_close(
        weights(DualProj, strong, reg_eps=1e-12), torch.tensor([0.75, 0.5], dtype=torch.float64), rtol=1e-6, atol=0
    )


# ---- CAGrad -------------------------------------------------------------------------------------------------------------


def dual(gramian: Tensor, simplex: Tensor, c: float) -> Tensor:
    mean = torch.full_like(simplex, 1 / len(simplex))
    return simplex @ gramian @ mean + c * ((mean @ gramian @ mean) * (simplex @ gramian @ simplex)).clamp_min(0).sqrt()


@pytest.mark.parametrize("c", [pytest.param(0.1, marks=pytest.mark.slow), 0.5, pytest.param(0.9, marks=pytest.mark.slow)])
def test_cagrad_is_optimal_and_never_worse_than_what_clarabel_finds(c: float) -> None:
    oracle = CAGradWeighting(c)
    compared = 0
    for index, gramian in enumerate(GRAMIANS):
        gramian, mean = gramian / gramian.trace(), torch.full_like(gramian[0], 1 / len(gramian))
        length = (mean @ gramian @ mean).sqrt()
        extra = weights(CAGrad, gramian, c=c) - mean
        assert (extra >= 0).all()
        # by duality: the update is in the ball, and its worst inner product is what the dual promises
        assert (extra @ gramian @ extra).sqrt() <= c * length * (1 + 1e-5)
        worst, promised = (gramian @ (mean + extra)).min(), dual(gramian, extra / extra.sum(), c)
        assert worst >= promised - 5e-5 * length * gramian.diagonal().max().sqrt()
        if index % 4 < 2 and (theirs := oracle(gramian) - mean).min() >= -1e-9:
            better = dual(gramian, theirs.clamp_min(0) / theirs.clamp_min(0).sum(), c)
            assert promised <= better + 1e-7 * length * gramian.diagonal().max().sqrt()
            compared += 1
    assert compared > 60


@pytest.mark.parametrize("c", [0.0, 0.3, 0.5, 2.0])
def test_cagrad_of_two_tasks(c: float) -> None:
    """Against the smallest dual value on a grid."""
    grid = torch.linspace(0, 1, 100001, dtype=torch.float64)
    for gramian in (two(1, 0, 1), two(1, -0.5, 4), two(1, 0.5, 0.3), two(3, 1, 9), two(1, 2, 9), two(1, -0.9, 1.1)):
        length = math.sqrt(gramian.mean())
        squares = gramian[0, 0] * grid**2 + 2 * gramian[0, 1] * grid * (1 - grid) + gramian[1, 1] * (1 - grid) ** 2
        first, second = gramian.mean(1)
        place = (first * grid + second * (1 - grid) + c * length * squares.sqrt()).argmin()
        simplex = torch.stack([grid[place], 1 - grid[place]])
        expected = 0.5 + c * length / squares[place].sqrt() * simplex
        torch.testing.assert_close(weights(CAGrad, gramian, c=c), expected, rtol=1e-4, atol=1e-4)


def test_cagrad_leaves_out_a_gradient_of_zero_and_keeps_the_others() -> None:
    gramian = torch.tensor([[2.0, 0, -1], [0, 0, 0], [-1, 0, 1]], dtype=torch.float64)
    found = weights(CAGrad, gramian)
    assert found[1] == 1 / 3
    kept = torch.tensor([0, 2])
    length, mean = (gramian.mean()).sqrt(), torch.full((3,), 1 / 3, dtype=torch.float64)
    extra = found - mean
    assert (extra @ gramian @ extra).sqrt().item() == pytest.approx(0.5 * length.item(), rel=1e-5)
    assert (gramian @ found)[kept].max() <= (gramian @ found)[kept].min() + 1e-6


# ---- all ----------------------------------------------------------------------------------------------------------------


@each_method
@pytest.mark.parametrize("tasks", [1, 2, 5, 12])
def test_hostile_gramians_give_finite_weights_that_are_not_negative(method: type[GramianWeighting], tasks: int) -> None:
    for name, gramian in (hostile_gramians(tasks) if tasks > 1 else {"one": torch.ones(1, 1, dtype=torch.float64)}).items():
        found = weights(method, gramian)
        assert found.isfinite().all() and (found >= 0).all(), name
        if name in ("identical", "one"):
            torch.testing.assert_close(found, found.mean().expand(tasks), rtol=1e-6, atol=0)


@each_method
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_two_tasks_in_closed_form_get_what_the_solver_finds(method: type[GramianWeighting], scale: float) -> None:
    """A third task that is not active makes it three for the solver."""
    awkward = torch.cat([*awkward_gramians(200, 2).values(), *(each[None] for each in hostile_gramians(2).values())])
    gramians = scale * torch.cat([awkward, two(1, -1 + 1e-9, 1)[None], two(1, 1 - 1e-9, 1)[None], two(0, 0, 1)[None]])
    for kept in ([True, True], [True, False], [False, True], [False, False]):
        active = torch.tensor(kept).expand(len(gramians), 2)
        masked = gramians * (active[..., :, None] & active[..., None, :])
        three = torch.nn.functional.pad(masked, (0, 1, 0, 1)), torch.nn.functional.pad(active, (0, 1))
        found, expected = weights(method, masked, active), weights(method, *three)[:, :2]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("c", [0.0, 0.3, 1.0, 2.0])
def test_cagrad_of_two_tasks_in_closed_form_gets_what_the_solver_finds(c: float) -> None:
    gramians = awkward_gramians(200, 2)["unequal"]
    three = torch.nn.functional.pad(gramians, (0, 1, 0, 1)), torch.tensor([True, True, False]).expand(200, 3)
    torch.testing.assert_close(weights(CAGrad, gramians, c=c), weights(CAGrad, *three, c=c)[:, :2], rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("tasks", [3, 4, 7, 15])
def test_awkward_gramians_are_solved_before_the_limit(tasks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    finished: list[bool] = []
    settled = solvers.settled
    monkeypatch.setattr(solvers, "settled", lambda done: finished.append(settled(done)) or finished[-1])
    for name, gramians in awkward_gramians(40, tasks).items():
        assert (mgda_violation(gramians, weights(MGDA, gramians)) <= 2e-6).all(), name
        assert finished[-1], name
        for method in (UPGrad, DualProj, CAGrad):
            found = weights(method, gramians)
            assert finished[-1] and found.isfinite().all() and (found >= 0).all(), (name, method)
        trace = gramians.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None]
        found = weights(DualProj, gramians)
        slack = (gramians @ found[..., None])[..., 0] / trace + 1e-4 * found
        assert (slack >= -1e-7).all() and ((found - 1 / tasks) * slack).abs().amax() <= 1e-7 * found.amax() ** 2, name


@each_method
def test_batches_masks_and_single_problems_agree(method: type[GramianWeighting]) -> None:
    active = torch.rand(2, 30, 9, generator=torch.Generator().manual_seed(2)) > 0.3
    active[0, 0] = False
    half = awkward_gramians(30, 9)
    gramians = torch.stack([half["half rank"], half["two camps"]]) * (active[..., :, None] & active[..., None, :])
    together = weights(method, gramians, active)
    assert together.shape == (2, 30, 9) and (together[~active] == 0).all()
    for i in range(2):
        for j in range(30):
            on = active[i, j]
            alone = weights(method, gramians[i, j], on)
            torch.testing.assert_close(together[i, j], alone, rtol=1e-6, atol=1e-9)
            if on.any():
                reduced = weights(method, gramians[i, j][on][:, on])
                torch.testing.assert_close(together[i, j][on], reduced, rtol=1e-4, atol=1e-6 * float(reduced.max()))


def test_the_active_set_method_alone_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    gramians = awkward_gramians(30, 9)
    expected = {(name, method): weights(method, each) for name, each in gramians.items() for method in METHODS}
    monkeypatch.setattr(solvers, "EXCHANGES", 1)
    for (name, method), values in expected.items():
        size = values.amax(-1, keepdim=True)
        torch.testing.assert_close(weights(method, gramians[name]) / size, values / size, rtol=0, atol=1e-4)


def test_what_the_limit_cuts_off_is_feasible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solvers, "EXCHANGES", 1)
    monkeypatch.setattr(solvers, "STEPS", 0)
    monkeypatch.setattr(solvers, "descent", lambda trial, values, scale: values)
    for gramian in awkward_gramians(30, 9).values():
        found = weights(MGDA, gramian)
        assert found.isfinite().all() and (found >= 0).all()
