"""Loss weightings against TorchJD's scalarizers, scipy's distributions and closed forms."""

from collections.abc import Callable, Iterator
from math import isnan
from typing import Any

import pytest
import torch
from handmade import made, trainer_on
from scipy import stats
from torch import Tensor, nn
from torchjd import aggregation, scalarization

from mtl_runner.batch import Data
from mtl_runner.trainer import Trainer
from mtl_runner.weighting.base import LossWeighting, Objectives
from mtl_runner.weighting.dwa import DWA
from mtl_runner.weighting.dynamic import Dynamic
from mtl_runner.weighting.geometric import GLS
from mtl_runner.weighting.imtl_l import IMTLL
from mtl_runner.weighting.random import RLW
from mtl_runner.weighting.scale_invariant import ScaleInvariant
from mtl_runner.weighting.stch import STCH
from mtl_runner.weighting.uncertainty import Uncertainty

NAMES = ("a", "b", "c", "d")
ALL = torch.ones(4, dtype=torch.bool)
SOME = torch.tensor([True, False, True, True])
LOSSES = torch.tensor([0.5, 3.0, 0.02, 1.0], dtype=torch.float64)


class Toy(nn.Module):
    """Four regressions on a shared layer, of very different scales, in batches of an endless stream."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.trunk, self.heads = nn.Linear(6, 5).double(), nn.Linear(5, 4).double()
        self.batches = self.stream()

    def stream(self) -> Iterator[tuple[Tensor, Tensor]]:
        draws = torch.Generator().manual_seed(4)
        truth = torch.randn(6, 4, generator=draws, dtype=torch.float64)
        scales = torch.tensor([1.0, 5.0, 0.2, 1.0], dtype=torch.float64)
        while True:
            x = torch.randn(16, 6, generator=draws, dtype=torch.float64)
            yield x, scales * ((x @ truth).tanh() + 0.1)

    def losses(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.heads(self.trunk(x).tanh()) - y).square().mean(0)

    def objectives(self, x: Tensor, y: Tensor, active: Tensor = ALL) -> Objectives:
        return Objectives(self.losses(x, y).split([1, 3]), active, list(self.trunk.parameters()))

    def flat(self) -> Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in self.parameters()])


def gradients_of(weighting: LossWeighting, losses: Tensor, active: Tensor = ALL) -> Tensor:
    """What reaches the losses on the weighting's scale, where nothing is shared."""
    weighting.zero_grad()
    leaf = losses.clone().requires_grad_()
    weighting.backward(Objectives([leaf], active, []))
    assert leaf.grad is not None
    return leaf.grad


# ---- TorchJD ------------------------------------------------------------------------------------------------------------

OWN = torch.tensor([0.4, -0.7, 1.3, 0.0], dtype=torch.float64)
PAIRS: dict[str, tuple[Callable[[], LossWeighting], Callable[[], Any], float]] = {
    "geometric": (lambda: GLS(NAMES, scale="paper"), scalarization.GeometricMean, 1),
    "imtl_l": (lambda: IMTLL(NAMES, scale="paper"), lambda: scalarization.IMTLL(4), 1),
    "uncertainty": (lambda: Uncertainty(NAMES, scale="paper"), lambda: scalarization.UW(4), 2),
    **{
        f"stch {mu}": (lambda mu=mu: STCH(NAMES, mu=mu, scale="paper"), lambda mu=mu: scalarization.STCH(mu), 1)
        for mu in (0.01, 0.1, 1.0)
    },
}
"""Ours, theirs, and ours in units of theirs."""
each_pair = pytest.mark.parametrize("pair", PAIRS)


@each_pair
def test_objective_weights_and_own_gradients_are_torchjds(pair: str) -> None:
    make, make_other, ratio = PAIRS[pair]
    draws = torch.Generator().manual_seed(0)
    for _ in range(20):
        ours, theirs = make().double(), make_other().double()
        with torch.no_grad():
            for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
                one.copy_(OWN)
                other.copy_(OWN)
        losses = torch.rand(4, generator=draws, dtype=torch.float64) * 3 + 0.01
        leaf = losses.clone().requires_grad_()
        objective = theirs(leaf)
        objective.backward()
        torch.testing.assert_close(ours.combine(losses, ALL), ratio * objective)
        torch.testing.assert_close(gradients_of(ours, losses), ratio * leaf.grad)
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(one.grad, ratio * other.grad)


@each_pair
def test_sixty_steps_are_torchjds(pair: str) -> None:
    make, make_other, ratio = PAIRS[pair]
    ours, theirs, one, other = make().double(), make_other().double(), Toy(), Toy()
    (own,) = ours.parameter_groups() or [{"params": []}]
    optimizer = torch.optim.SGD([*one.parameters(), *own["params"]], lr=0.05 / ratio)
    other_optimizer = torch.optim.SGD([*other.parameters(), *theirs.parameters()], lr=0.05)
    start = one.flat()
    for _ in range(60):
        optimizer.zero_grad()
        ours.backward(one.objectives(*next(one.batches)))
        optimizer.step()
        other_optimizer.zero_grad()
        theirs(other.losses(*next(other.batches))).backward()
        other_optimizer.step()
        torch.testing.assert_close(one.flat(), other.flat())
    assert (one.flat() - start).norm() > 0.1


def test_six_epochs_of_dwa_are_torchjds() -> None:
    ours, theirs, one, other = DWA(NAMES, temperature=0.7, scale="paper").double(), scalarization.DWA(0.7), Toy(), Toy()
    optimizers = [torch.optim.SGD(toy.parameters(), lr=0.03) for toy in (one, other)]
    shown = []
    for _ in range(6):
        seen = []
        for _ in range(10):
            for optimizer in optimizers:
                optimizer.zero_grad()
            objectives = one.objectives(*next(one.batches))
            seen.append(objectives.losses)
            weights = ours.backward(objectives)
            theirs(other.losses(*next(other.batches))).backward()
            for optimizer in optimizers:
                optimizer.step()
            torch.testing.assert_close(one.flat(), other.flat())
        shown.append(weights)
        ours.after_epoch(torch.stack(seen).mean(0))
        theirs.step()
    assert torch.equal(shown[0], torch.ones(4, dtype=torch.float64)) and torch.equal(shown[1], shown[0])
    assert all((weights - 1).abs().max() > 0.02 and weights.sum().item() == pytest.approx(4) for weights in shown[2:])


# ---- random -------------------------------------------------------------------------------------------------------------


def drawn(distribution: str, tasks: int, count: int = 20000, active: Tensor | None = None) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        weighting = RLW([f"task_{t}" for t in range(tasks)], distribution=distribution, scale="paper")  # type: ignore[arg-type]
    active = torch.ones(tasks, dtype=torch.bool) if active is None else active
    losses = torch.ones(count, tasks, dtype=torch.float64)
    return weighting.weights(losses, active.expand_as(losses))


@pytest.mark.parametrize("tasks", [2, 5])
def test_dirichlet_weights_have_scipys_moments_and_margins(tasks: int) -> None:
    weights, exact = drawn("dirichlet", tasks), stats.dirichlet([1.0] * tasks)
    error = 5 * (torch.from_numpy(exact.var()) / len(weights)).sqrt()
    assert ((weights.mean(0) - torch.from_numpy(exact.mean())).abs() < error).all()
    assert torch.allclose(weights.T.cov(), torch.from_numpy(exact.cov()), atol=0.003)
    assert all(stats.kstest(weights[:, t].numpy(), stats.beta(1, tasks - 1).cdf).pvalue > 1e-3 for t in range(tasks))


@pytest.mark.parametrize("tasks", [2, 5])
def test_normal_weights_are_a_softmax_of_independent_normals(tasks: int) -> None:
    weights = drawn("normal", tasks)
    assert torch.allclose(weights.sum(-1), torch.ones(len(weights), dtype=torch.float64))
    logs = weights.log()
    for t in range(tasks - 1):  # differences of standard normals
        assert stats.kstest(((logs[:, t] - logs[:, t + 1]) / 2**0.5).numpy(), "norm").pvalue > 1e-3
    differences = logs[:, :-1] - logs[:, -1:]
    assert torch.allclose(differences.T.cov(), torch.ones(tasks - 1, tasks - 1).double() + torch.eye(tasks - 1), atol=0.1)
    assert (weights.mean(0) - 1 / tasks).abs().max() < 0.01


@pytest.mark.parametrize("distribution", ["normal", "dirichlet"])
def test_random_weights_of_the_active_are_those_of_fewer_tasks(distribution: str) -> None:
    weights, fewer = drawn(distribution, 4, active=SOME), drawn(distribution, 3)
    assert not weights[:, 1].any()
    torch.testing.assert_close(weights.sum(-1), torch.ones(len(weights), dtype=torch.float64))
    for t, other in zip((0, 2, 3), range(3), strict=True):
        assert stats.ks_2samp(weights[:, t].numpy(), fewer[:, other].numpy()).pvalue > 1e-3


@pytest.mark.parametrize("distribution", ["normal", "dirichlet"])
def test_random_weights_are_new_in_each_step_and_leave_torchs_generator_alone(distribution: Any) -> None:
    weighting = RLW(NAMES, distribution=distribution, scale="paper")
    state = torch.get_rng_state()
    first, second = (gradients_of(weighting, LOSSES) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert (first != second).all() and first.sum().item() == pytest.approx(1)
    comparable = RLW(NAMES)
    assert gradients_of(comparable, LOSSES, SOME).sum().item() == pytest.approx(3)


# ---- dwa ----------------------------------------------------------------------------------------------------------------


def test_dwa_by_hand_and_where_a_task_has_epochs_without_labels() -> None:
    weighting = DWA(NAMES, scale="paper").double()
    nan = torch.nan
    for losses in ([1, 4, 1, nan], [2, nan, 1, nan], [nan, 1, 0.5, 7]):
        weighting.after_epoch(torch.tensor(losses, dtype=torch.float64))
    rates = torch.tensor([2, 0.25, 0.5, 1], dtype=torch.float64)  # d has one epoch only
    torch.testing.assert_close(gradients_of(weighting, LOSSES), 4 * (rates / 2).softmax(0))
    expected = torch.zeros(4, dtype=torch.float64)
    expected[SOME] = 3 * (rates[SOME] / 2).softmax(0)
    torch.testing.assert_close(gradients_of(weighting, LOSSES, SOME), expected)


@pytest.mark.parametrize("temperature", [1e-3, 2.0, 1e6])
@pytest.mark.parametrize(
    "history", [([0.0, 1, 1, 1], [1.0, 1, 1, 1]), ([0.0, 1, 2, 3], [0.0] * 4), ([1e-38] * 4, [1e38, 1, 1, 1])]
)
def test_dwa_is_finite_for_any_history(history: tuple[list[float], list[float]], temperature: float) -> None:
    weighting = DWA(NAMES, temperature=temperature)
    for losses in history:
        weighting.after_epoch(torch.tensor(losses))
    weights = gradients_of(weighting, LOSSES.float())
    assert weights.isfinite().all() and weights.sum().item() == pytest.approx(4, rel=1e-4)


def test_the_history_of_dwa_is_in_its_state() -> None:
    one, other = DWA(NAMES), DWA(NAMES)
    for factor in (1.0, 0.5):
        one.after_epoch(factor * torch.tensor([1.0, factor, 2.0, 0.3]))
    other.load_state_dict(one.state_dict())
    assert torch.equal(gradients_of(one, LOSSES.float()), gradients_of(other, LOSSES.float()))
    assert not torch.equal(gradients_of(one, LOSSES.float()), torch.ones(4))


def test_the_trainer_tells_dwa_the_mean_losses_of_its_epochs(make_config: Callable[..., Any]) -> None:
    data: Data = made()
    data.splits["train"].targets["size"][:] = torch.nan
    trainer = trainer_on(data, make_config("weighting=dwa", "trainer.batch_size=16"))
    seen = [trainer.epoch() for _ in range(3)]
    names = [name for name in trainer.names if name != "size"]
    for buffer, metrics in ((trainer.weighting.last, seen[2]), (trainer.weighting.before, seen[1])):
        values = dict(zip(trainer.names, buffer.tolist(), strict=True))
        assert isnan(values["size"]) and all(values[name] == pytest.approx(metrics[f"train/{name}/loss"]) for name in names)
    rates = torch.tensor([seen[1][f"train/{n}/loss"] / seen[0][f"train/{n}/loss"] for n in names])
    shown = torch.tensor([seen[2][f"weight/{n}"] for n in names])
    torch.testing.assert_close(shown, 3 * (rates / 2).softmax(0))
    assert all(seen[0][f"weight/{n}"] == seen[1][f"weight/{n}"] == 1 for n in names)


# ---- geometric, scale-invariant -----------------------------------------------------------------------------------------


def test_scale_invariant_weights_are_reciprocal_and_on_the_comparable_scale_those_of_dynamic() -> None:
    torch.testing.assert_close(gradients_of(ScaleInvariant(NAMES, scale="paper"), LOSSES, SOME), SOME / LOSSES)
    for active in (ALL, SOME):
        torch.testing.assert_close(
            gradients_of(ScaleInvariant(NAMES), LOSSES, active), gradients_of(Dynamic(NAMES), LOSSES, active)
        )


@pytest.mark.parametrize("make", [ScaleInvariant, GLS])
def test_the_unit_of_a_loss_does_not_matter(make: Callable[..., LossWeighting]) -> None:
    factors = torch.tensor([1.0, 100.0, 3.0, 1e-3], dtype=torch.float64)
    plain = gradients_of(make(NAMES, scale="paper"), LOSSES) * LOSSES
    scaled = gradients_of(make(NAMES, scale="paper"), LOSSES * factors) * LOSSES * factors
    torch.testing.assert_close(scaled / scaled.sum(), plain / plain.sum())


def test_geometric_points_where_the_sum_of_logarithms_does_and_is_of_the_size_of_the_losses() -> None:
    weights = gradients_of(GLS(NAMES, scale="paper"), LOSSES, SOME)
    torch.testing.assert_close(weights * LOSSES, SOME.double() * stats.gmean(LOSSES[SOME].numpy()) / 3)


@pytest.mark.parametrize("make", [ScaleInvariant, GLS, STCH, lambda names: STCH(names, warmup_epochs=1), DWA, RLW, IMTLL])
@pytest.mark.parametrize(
    "losses", [(0.0, 1.0, 1.0, 1.0), (1e-38, 1e30, 1.0, 0.0), (0.0,) * 4, (1e30,) * 4, (0.0, 1e37, 1e37, 1e37)]
)
def test_weights_are_finite_for_losses_of_any_size(losses: tuple[float, ...], make: Callable[..., LossWeighting]) -> None:
    weighting = make(NAMES)
    for _ in range(2):
        weights = gradients_of(weighting, torch.tensor(losses))
        assert weights.isfinite().all() and (weights >= 0).all()
        weighting.after_epoch(torch.tensor(losses))


# ---- smooth Tchebycheff -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tasks", [1, 2, 5])
def test_identical_tasks_weigh_one_over_n_squared_in_the_paper_and_one_here(tasks: int) -> None:
    names, losses, active = list(range(tasks)), torch.full((tasks,), 0.7), torch.ones(tasks, dtype=torch.bool)
    paper = gradients_of(STCH(names, scale="paper"), losses, active)  # type: ignore[arg-type]
    torch.testing.assert_close(paper, torch.full((tasks,), 1 / tasks**2))
    for warmup in (None, 1):
        weighting = STCH(names, warmup_epochs=warmup)  # type: ignore[arg-type]
        for _ in range(2):
            torch.testing.assert_close(gradients_of(weighting, losses, active), torch.ones(tasks))
            weighting.after_epoch(torch.full((tasks,), 1.4))


def test_stch_is_the_maximum_for_small_mu_and_equal_weighting_for_large() -> None:
    torch.testing.assert_close(gradients_of(STCH(NAMES, mu=1e-3, scale="paper"), LOSSES), torch.tensor([0, 0.25, 0, 0]).double())
    torch.testing.assert_close(gradients_of(STCH(NAMES, mu=1e6), LOSSES), torch.ones(4).double(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("mu", [0.2, 1.0])
def test_stch_with_warm_up_is_the_authors_for_deep_networks(mu: float) -> None:
    weighting = STCH(NAMES, mu=mu, warmup_epochs=2, scale="paper").double()
    nadir = torch.tensor([2.0, 0.5, 1.0, 4.0], dtype=torch.float64)
    for epoch in (nadir * 9, nadir.where(SOME, torch.nan)):  # b has no labels in the second
        torch.testing.assert_close(gradients_of(weighting, LOSSES), 1 / LOSSES)
        weighting.after_epoch(epoch)
    nadir[1] *= 9
    restored = STCH(NAMES, mu=mu, warmup_epochs=2, scale="paper").double()
    for active in (ALL, SOME):
        leaf = LOSSES.clone().requires_grad_()
        relative = (leaf / nadir)[active]
        objective = int(active.sum()) * mu * (relative ** (1 / mu)).sum().log()
        objective.backward()
        torch.testing.assert_close(weighting.combine(LOSSES, active), objective)
        torch.testing.assert_close(gradients_of(weighting, LOSSES, active), leaf.grad)
    weighting.after_epoch(nadir.flip(0))  # later epochs do not move the nadir point
    restored.load_state_dict(weighting.state_dict())
    torch.testing.assert_close(gradients_of(weighting, LOSSES, SOME), leaf.grad)
    torch.testing.assert_close(gradients_of(restored, LOSSES, SOME), leaf.grad)
    comparable = STCH(NAMES, mu=mu, warmup_epochs=2).double()
    comparable.load_state_dict(weighting.state_dict())
    torch.testing.assert_close(gradients_of(comparable, LOSSES, SOME), 3 * leaf.grad / leaf.grad.sum())


# ---- trained scales -----------------------------------------------------------------------------------------------------


def test_imtl_l_draws_the_scaled_losses_to_one() -> None:
    weighting = IMTLL(NAMES).double()
    optimizer = torch.optim.SGD(weighting.parameter_groups(), lr=0.9)
    for _ in range(800):
        gradients_of(weighting, LOSSES)
        optimizer.step()
    torch.testing.assert_close(weighting.log_scale.exp() * LOSSES, torch.ones(4, dtype=torch.float64))
    assert weighting.parameter_groups()[0]["weight_decay"] == 0


# ---- impartial losses and gradients -------------------------------------------------------------------------------------


def jacobian(trainer: Trainer, batch: Any, parameters: list[nn.Parameter]) -> tuple[Tensor, Tensor]:
    """The losses [T], and their gradients [T, P] one by one."""
    losses = torch.cat(list(trainer.objectives(batch).parts))
    rows = [torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True) for loss in losses]
    return losses.detach(), torch.stack([torch.cat([gradient.flatten() for gradient in row]) for row in rows])


def written(parameters: list[nn.Parameter]) -> Tensor:
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])


@pytest.mark.parametrize("heads", ["own", "weighted"])
@pytest.mark.parametrize("sharing", ["sharing=hard", "sharing.shared_stages=0.5"])
def test_imtl_is_torchjds_imtl_g_on_scaled_losses(heads: str, sharing: str, make_config: Callable[..., Any]) -> None:
    plain = trainer_on(made(), make_config("weighting=equal", sharing))
    trainer = trainer_on(made(), make_config("weighting=imtl", "weighting.scale=paper", f"weighting.heads={heads}", sharing))
    batch = next(trainer.loader.epoch(trainer.training_part(), 1))
    with torch.no_grad():
        trainer.weighting.log_scale.copy_(OWN)
    scales = OWN.float().exp()
    losses, shared = jacobian(plain, batch, plain.shared)
    _, private = jacobian(plain, batch, plain.private)
    scaled = (scales[:, None] * shared).double()
    shown = trainer.weighting.backward(trainer.objectives(batch))
    update = aggregation.IMTLG()(scaled)
    assert torch.allclose(written(trainer.shared).double(), update, rtol=1e-3, atol=1e-5 * float(update.abs().max()))
    assert torch.allclose(shown @ shared.double(), update, rtol=1e-3, atol=1e-5 * float(update.abs().max()))
    assert (shown / scales).sum().item() == pytest.approx(1, rel=1e-4)
    expected = (scales if heads == "own" else shown.float()) @ private
    assert torch.allclose(written(trainer.private), expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))
    torch.testing.assert_close(trainer.weighting.log_scale.grad, scales * losses - 1)
    torch.testing.assert_close(trainer.weighting.gramian, shared @ shared.T, rtol=1e-3, atol=1e-6)


def test_imtl_trains_its_scales_in_every_step_and_uses_them_with_reused_weights(make_config: Callable[..., Any]) -> None:
    data = made()
    data.splits["train"].targets["size"][:] = torch.nan
    trainer = trainer_on(data, make_config("weighting=imtl", "weighting.every=3", "trainer.batch_size=16", "optimizer.lr=0.01"))
    place, rest, alphas = trainer.names.index("size"), [n for n, name in enumerate(trainer.names) if name != "size"], []
    for step, batch in enumerate([batch for epoch in (1, 2) for batch in trainer.loader.epoch(trainer.training_part(), epoch)]):
        scales = trainer.weighting.log_scale.detach().exp()
        taken = trainer.train_step(batch)
        expected = (scales * taken.losses - 1).where(taken.active, 0) / 4
        torch.testing.assert_close(trainer.weighting.log_scale.grad, expected)
        assert (trainer.weighting.log_scale.detach().exp() != scales)[rest].all() and trainer.weighting.log_scale[place] == 0
        assert taken.weights[place] == 0 and (trainer.weighting.gramian is None) == (step % 3 != 0)
        alphas.append((taken.weights / scales).float())
        assert alphas[-1].sum().item() == pytest.approx(3, rel=1e-4)
    torch.testing.assert_close(alphas[1], alphas[0])
    torch.testing.assert_close(alphas[2], alphas[0])
    assert not torch.allclose(alphas[3], alphas[0])
    (group,) = trainer.weighting.parameter_groups()
    assert group["weight_decay"] == 0 and group["params"] == [trainer.weighting.log_scale]
