"""IMTL-G, ConFIG and Aligned-MTL against TorchJD and the properties that define them."""

import pytest
import torch
from gramians import hostile_gramians, random_gramians
from torch import Tensor
from torchjd.aggregation import AlignedMTLWeighting, IMTLGWeighting
from torchjd.aggregation import ConFIG as TheirConFIG

from mtl_runner.weighting.aligned_mtl import AlignedMTL, ScaleMode
from mtl_runner.weighting.config import ConFIG
from mtl_runner.weighting.gradient import GramianWeighting
from mtl_runner.weighting.imtl_g import IMTLG

FULL = random_gramians()[::2]
HALF = random_gramians()[1::2]
CLASSES: tuple[type[GramianWeighting], ...] = (IMTLG, ConFIG, AlignedMTL)
MODES: tuple[ScaleMode, ...] = ("min", "median", "rmse")
each_class = pytest.mark.parametrize("kind", CLASSES)


def weights(kind: type[GramianWeighting], gramian: Tensor, active: Tensor | None = None, **options: object) -> Tensor:
    shape = gramian.shape[:-1]
    active = torch.ones(shape, dtype=torch.bool) if active is None else active
    method = kind(["t"] * shape[-1], **options)  # type: ignore[arg-type]
    return method.weights(gramian, torch.ones(shape, dtype=torch.float64), active)


def root(gramian: Tensor) -> Tensor:
    """A Jacobian that has this Gramian."""
    values, vectors = torch.linalg.eigh(gramian)
    return vectors * values.clamp_min(0).sqrt()


def close_updates(gramian: Tensor, ours: Tensor, theirs: Tensor) -> bool:
    jacobian = root(gramian)
    return torch.allclose(ours @ jacobian, theirs @ jacobian, rtol=1e-4, atol=1e-4 * float((theirs @ jacobian).norm()))


def test_imtl_g_agrees_with_torchjd_where_gradients_are_independent() -> None:
    for gramian in FULL:
        ours, theirs = weights(IMTLG, gramian), IMTLGWeighting()(gramian)
        assert ours.sum().item() == pytest.approx(1)
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize("kind", [IMTLG, ConFIG])
def test_projections_on_the_unit_gradients_are_equal(kind: type[GramianWeighting]) -> None:
    for gramian in FULL:
        projections = gramian @ weights(kind, gramian) / gramian.diagonal().sqrt()
        assert (projections > 0).all()
        assert torch.allclose(projections, projections.mean(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", [IMTLG, ConFIG])
def test_dependent_gradients_get_the_direction_of_least_squares(kind: type[GramianWeighting]) -> None:
    for gramian in HALF:
        jacobian = root(gramian)
        unit = jacobian / jacobian.norm(dim=1, keepdim=True)
        nearest = torch.linalg.pinv(unit, rtol=1e-6).sum(1)
        update = weights(kind, gramian) @ jacobian
        if nearest.norm() < 1e-6:  # as many unit gradients one way as the other
            assert update.norm() < 1e-6 * jacobian.norm()
        else:
            assert torch.allclose(update / update.norm(), nearest / nearest.norm(), rtol=0, atol=1e-5)


def test_imtl_g_is_the_closed_form_of_the_paper() -> None:
    draws = torch.Generator().manual_seed(0)
    jacobian = torch.randn(5, 9, generator=draws, dtype=torch.float64) + 0.4
    unit = jacobian / jacobian.norm(dim=1, keepdim=True)
    differences, units = jacobian[0] - jacobian[1:], unit[0] - unit[1:]
    others = jacobian[0] @ units.T @ torch.linalg.inv(differences @ units.T)
    expected = torch.cat([1 - others.sum(0, keepdim=True), others])
    assert torch.allclose(weights(IMTLG, jacobian @ jacobian.T), expected, rtol=1e-6)


def test_imtl_g_never_turns_against_all_tasks() -> None:
    """Two long gradients around a short one that the others together go against: the paper's weights sum to less than 0."""
    jacobian = torch.tensor([[100.0, 20.0], [100.0, -20.0], [1.0, 0.0]], dtype=torch.float64)
    jacobian = torch.cat([jacobian, torch.tensor([[0.1], [0.1], [-0.01]], dtype=torch.float64)], 1)
    plain = torch.linalg.solve(jacobian @ jacobian.T, jacobian.norm(dim=1))
    cut = jacobian.clone()
    cut[plain < 0] *= 0.01
    cut[plain > 0] *= 10
    gramian = cut @ cut.T
    assert torch.linalg.solve(gramian, cut.norm(dim=1)).sum() < 0
    found = weights(IMTLG, gramian)
    assert found.abs().sum().item() == pytest.approx(1)
    projections = gramian @ found / cut.norm(dim=1)
    assert (projections > 0).all() and torch.allclose(projections, projections.mean(), rtol=1e-5)


@pytest.mark.parametrize("tilt", [1e-2, 1e-4, -1e-4, -1e-2])
def test_imtl_g_stays_small_where_its_weights_nearly_cancel(tilt: float) -> None:
    """Projections of 1 on three unit gradients need weights of both signs; a length makes their sum ``tilt`` of one of them."""
    unit = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.9, 0.3, 0.1]], dtype=torch.float64)
    unit = unit / unit.norm(dim=1, keepdim=True)
    plain = torch.linalg.solve(unit @ unit.T, torch.ones(3, dtype=torch.float64))
    odd = int((plain < 0).nonzero()[0]) if (plain < 0).sum() == 1 else int((plain > 0).nonzero()[0])
    lengths = torch.ones(3, dtype=torch.float64)
    others = plain.sum() - plain[odd]
    lengths[odd] = -plain[odd] / (others * (1 - tilt * others.sign()))
    jacobian = lengths[:, None] * unit
    found = weights(IMTLG, jacobian @ jacobian.T)
    projections = unit @ (found @ jacobian)
    assert (projections > 0).all() and torch.allclose(projections, projections.mean(), rtol=1e-6)
    assert found.abs().sum() < 1e3
    assert found.sum().item() == pytest.approx(1) if tilt == 1e-2 else found.abs().sum().item() == pytest.approx(1)


def test_config_agrees_with_torchjd() -> None:
    for gramian in [*FULL, *HALF]:
        jacobian = root(gramian)
        rank = int(torch.linalg.matrix_rank(gramian, rtol=1e-6))
        jacobian = jacobian[:, -rank:]
        theirs = TheirConFIG()(jacobian)
        ours = weights(ConFIG, gramian) @ jacobian
        if theirs.norm() < 1e-6 * jacobian.norm():
            assert ours.norm() < 1e-6 * jacobian.norm()
            continue
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.norm()))


def test_config_is_as_long_as_the_sum_of_the_projections_and_nothing_for_opposed_gradients() -> None:
    for gramian in FULL:
        jacobian = root(gramian)
        update = weights(ConFIG, gramian) @ jacobian
        assert update.norm().item() == pytest.approx(float((jacobian @ update).sum() / update.norm()), rel=1e-5)
    opposed = torch.tensor([[4.0, -6.0], [-6.0, 9.0]], dtype=torch.float64)
    assert (weights(ConFIG, opposed) == 0).all()


@pytest.mark.parametrize("mode", MODES)
def test_aligned_mtl_agrees_with_torchjd(mode: ScaleMode) -> None:
    for gramian in FULL:
        theirs = len(gramian) * AlignedMTLWeighting(scale_mode=mode)(gramian)  # they take the mean
        assert torch.allclose(weights(AlignedMTL, gramian, scale_mode=mode), theirs, rtol=1e-4, atol=1e-4 * float(theirs.norm()))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("gramians", [FULL, HALF], ids=["full rank", "half rank"])
def test_aligned_gradients_are_orthogonal_and_equally_long(mode: ScaleMode, gramians: list[Tensor]) -> None:
    for gramian in gramians:
        left, singular, right = torch.linalg.svd(root(gramian), full_matrices=False)
        rank = int((singular > 2e-3 * singular[0]).sum())
        kept = singular[:rank].square()
        square = {"min": kept[-1], "median": kept.median(), "rmse": kept.mean()}[mode]
        aligned = square.sqrt() * left[:, :rank] @ right[:rank]  # the nearest with singular values of one size, row by row
        update = weights(AlignedMTL, gramian, scale_mode=mode) @ root(gramian)
        expected = aligned.sum(0)
        assert torch.allclose(update, expected, rtol=1e-4, atol=1e-4 * float(expected.norm()))


@each_class
def test_scaled_gradients_give_the_scaled_update(kind: type[GramianWeighting]) -> None:
    for gramian in [*FULL[:10], *HALF[:10]]:
        for factor in (1e-12, 1e12):
            assert close_updates(gramian, weights(kind, gramian * factor), weights(kind, gramian))


@each_class
def test_hostile_gramians_give_finite_weights(kind: type[GramianWeighting]) -> None:
    for tasks in (2, 4, 9):
        for name, gramian in hostile_gramians(tasks).items():
            found = weights(kind, gramian)
            assert found.isfinite().all(), name
            if name == "one task without gradient":
                others = torch.arange(tasks) != 1
                assert found[1] == 0 and torch.allclose(found[others], weights(kind, gramian[others][:, others]), rtol=1e-6)


@each_class
def test_float32_gramians_of_dependent_gradients_are_seen_as_such(kind: type[GramianWeighting]) -> None:
    draws = torch.Generator().manual_seed(0)
    for tasks in (4, 10, 40):
        jacobian = torch.randn(tasks, tasks // 2, generator=draws) @ torch.randn(tasks // 2, 3000, generator=draws)
        exact, rounded = jacobian.double() @ jacobian.double().T, (jacobian @ jacobian.T).double()
        assert torch.linalg.eigvalsh(rounded)[: tasks // 2].abs().max() > 1e-9 * rounded.diagonal().max()
        assert close_updates(exact, weights(kind, rounded), weights(kind, exact))


@each_class
def test_batches_are_solved_one_by_one_and_without_what_is_not_active(kind: type[GramianWeighting]) -> None:
    draws = torch.Generator().manual_seed(0)
    jacobian = torch.randn(3, 4, 6, 9, generator=draws, dtype=torch.float64)
    active = torch.rand(3, 4, 6, generator=draws) > 0.3
    jacobian = jacobian * active[..., None]
    gramian = jacobian @ jacobian.mT
    together = weights(kind, gramian, active)
    assert (together[~active] == 0).all()
    for i in range(3):
        for j in range(4):
            on = active[i, j]
            assert torch.allclose(together[i, j], weights(kind, gramian[i, j], on), rtol=1e-8)
            assert torch.allclose(together[i, j][on], weights(kind, gramian[i, j][on][:, on]), rtol=1e-8)
