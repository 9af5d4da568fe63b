"""PCGrad and GradVac against the papers' loops over real vectors, and TorchJD."""

import math
from collections.abc import Sequence

import pytest
import torch
from gramians import hostile_gramians, random_gramians
from torch import Tensor
from torchjd.aggregation import GradVacWeighting, PCGradWeighting

from mtl_runner.weighting.gradvac import GradVac
from mtl_runner.weighting.pcgrad import PCGrad

KINDS: tuple[type[PCGrad], ...] = (PCGrad, GradVac)
each_kind = pytest.mark.parametrize("kind", KINDS)


def weights(method: PCGrad, gramian: Tensor, active: Tensor | None = None) -> Tensor:
    shape = gramian.shape[:-1]
    active = torch.ones(shape, dtype=torch.bool) if active is None else active
    return method.weights(gramian, torch.ones(shape, dtype=torch.float64), active)


def given_orders(method: PCGrad, orders: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(method, "orders", lambda gramian: orders)


def jacobians(count: int = 12) -> list[Tensor]:
    draws = torch.Generator().manual_seed(3)
    sizes = [(2, 3), (3, 2), (5, 4), (8, 20), (8, 4), (13, 6)]
    return [torch.randn(*sizes[i % 6], generator=draws, dtype=torch.float64) * 10 ** (i % 5 - 2) for i in range(count)]


def surgery(jacobian: Tensor, orders: Sequence[Sequence[int]]) -> Tensor:
    """Yu et al., Algorithm 1."""
    update = torch.zeros_like(jacobian[0])
    for i, order in enumerate(orders):
        gradient = jacobian[i].clone()
        for j in order:
            product = gradient @ jacobian[j]
            if j != i and product < 0:
                gradient = gradient - product / (jacobian[j] @ jacobian[j]) * jacobian[j]
        update = update + gradient
    return update


def vaccine(jacobian: Tensor, orders: Sequence[Sequence[int]], wanted: Tensor, beta: float) -> Tensor:
    """Wang et al., Algorithm 1, with the averages ``wanted`` changed in place."""
    update = torch.zeros_like(jacobian[0])
    for i, order in enumerate(orders):
        gradient = jacobian[i].clone()
        for j in order:
            if j == i:
                continue
            norm, other = float(gradient.norm()), float(jacobian[j].norm())
            cosine, goal = float(gradient @ jacobian[j]) / (norm * other), float(wanted[i, j])
            if cosine < goal:
                sine, below = math.sqrt(max(0.0, 1 - cosine**2)), math.sqrt(1 - goal**2)
                gradient = gradient + norm * (goal * sine - cosine * below) / (other * below) * jacobian[j]
            wanted[i, j] = (1 - beta) * goal + beta * cosine
        update = update + gradient
    return update


def test_pcgrad_is_the_loop_of_the_paper_in_any_given_order(monkeypatch: pytest.MonkeyPatch) -> None:
    for jacobian in jacobians():
        method = PCGrad(["t"] * len(jacobian))
        orders = method.orders(jacobian @ jacobian.T)
        given_orders(method, orders, monkeypatch)
        update = weights(method, jacobian @ jacobian.T) @ jacobian
        expected = surgery(jacobian, orders.tolist())
        assert torch.allclose(update, expected, rtol=1e-9, atol=1e-9 * float(jacobian.norm()))


@pytest.mark.parametrize("beta", [0.01, 0.5, 1.0])
def test_gradvac_is_the_loop_of_the_paper_over_many_steps(beta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = torch.Generator().manual_seed(1)
    for jacobian in jacobians():
        method = GradVac(["t"] * len(jacobian), beta=beta).double()
        wanted = torch.zeros(len(jacobian), len(jacobian), dtype=torch.float64)
        changed = 0
        for _ in range(8):
            jacobian = jacobian + 0.5 * jacobian.norm(dim=1).mean() * torch.randn(jacobian.shape, generator=draws).double() / 3
            orders = method.orders(jacobian @ jacobian.T)
            with monkeypatch.context() as patch:
                given_orders(method, orders, patch)
                update = weights(method, jacobian @ jacobian.T) @ jacobian
            expected = vaccine(jacobian, orders.tolist(), wanted, beta)
            assert torch.allclose(update, expected, rtol=1e-6, atol=1e-6 * float(expected.norm()))
            assert torch.allclose(method.averages, wanted, rtol=1e-6, atol=1e-9)
            changed += not torch.allclose(expected, jacobian.sum(0))
        assert changed and (wanted != 0).any()


def test_after_the_vaccine_the_angle_is_the_wanted_one() -> None:
    jacobian = torch.tensor([[1.0, 0.0], [-3.0, 4.0]], dtype=torch.float64)
    method = GradVac(["a", "b"], beta=0.01).double()
    method.averages.fill_(0.3)
    added = weights(method, jacobian @ jacobian.T) - 1  # of b to a and of a to b
    for gradient, other in (
        (jacobian[0] + added[1] * jacobian[1], jacobian[1]),
        (jacobian[1] + added[0] * jacobian[0], jacobian[0]),
    ):
        assert float(torch.cosine_similarity(gradient, other, 0)) == pytest.approx(0.3)
    assert method.averages[0, 1].item() == pytest.approx(0.99 * 0.3 + 0.01 * -0.6)
    assert method.averages[0, 0].item() == pytest.approx(0.3)


def test_two_tasks_need_no_draw_and_agree_with_torchjd() -> None:
    for gramian in [g for g in random_gramians() if len(g) == 2][:6]:
        assert torch.allclose(weights(PCGrad(["a", "b"]), gramian), PCGradWeighting()(gramian), rtol=1e-6)
        ours, theirs = GradVac(["a", "b"], beta=0.5), GradVacWeighting(beta=0.5, eps=0.0)
        for _ in range(4):
            gramian = gramian + 0.3 * gramian.diagonal().mean() * torch.eye(2, dtype=torch.float64)
            assert torch.allclose(weights(ours, gramian), theirs(gramian), rtol=1e-5)


def test_two_tasks_in_closed_form_get_what_the_loop_finds() -> None:
    """A third task that is not active makes it three for the loop."""
    draws = torch.Generator().manual_seed(2)
    jacobian = torch.randn(50, 2, 3, generator=draws, dtype=torch.float64)
    gramians = torch.cat([jacobian @ jacobian.mT, torch.stack(list(hostile_gramians(2).values()))])
    for kept in ([True, True], [True, False], [False, False]):
        active = torch.tensor(kept).expand(len(gramians), 2)
        masked = gramians * (active[..., :, None] & active[..., None, :])
        three = torch.nn.functional.pad(masked, (0, 1, 0, 1)), torch.nn.functional.pad(active, (0, 1))
        expected = weights(PCGrad(["t"] * 3), *three)[:, :2]
        torch.testing.assert_close(weights(PCGrad(["t"] * 2), masked, active), expected)


@each_kind
def test_means_over_many_orders_are_those_of_torchjd(kind: type[PCGrad]) -> None:
    draws = torch.Generator().manual_seed(0)
    jacobian = torch.randn(5, 3, generator=draws, dtype=torch.float64)
    gramian = jacobian @ jacobian.T
    ours = weights(kind(["t"] * 5), gramian.expand(4000, 5, 5))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = PCGradWeighting() if kind is PCGrad else GradVacWeighting(beta=0.0, eps=0.0)
        samples = torch.stack([theirs(gramian) for _ in range(500)])
    error = (ours.var(0) / 4000 + samples.var(0) / 500).sqrt()
    assert error.max() > 1e-4  # the order matters
    assert ((ours.mean(0) - samples.mean(0)).abs() < 4.5 * error + 1e-9).all()


@each_kind
def test_batches_are_worked_on_one_by_one(kind: type[PCGrad], monkeypatch: pytest.MonkeyPatch) -> None:
    for tasks in (1, 2, 6):
        jacobian = torch.randn(3, 4, tasks, 4, generator=torch.Generator().manual_seed(tasks), dtype=torch.float64)
        gramians = jacobian @ jacobian.mT
        method = kind(["t"] * tasks)
        orders = method.orders(gramians)
        given_orders(method, orders, monkeypatch)
        together = weights(method, gramians)
        for i in range(3):
            for j in range(4):
                alone = kind(["t"] * tasks)
                given_orders(alone, orders[i, j], monkeypatch)
                torch.testing.assert_close(together[i, j], weights(alone, gramians[i, j]))


def test_every_order_of_the_others_is_as_likely() -> None:
    orders = PCGrad(["t"] * 4).orders(torch.zeros(6000, 4, 4, dtype=torch.float64))
    assert (orders.sort(-1).values == torch.arange(4)).all() and (orders[..., -1] == torch.arange(4)).all()
    codes, counts = (orders[:, 0] * torch.tensor([100, 10, 1, 0])).sum(-1).unique(return_counts=True)
    assert len(codes) == 6 and (counts - 1000).abs().max() < 150
    assert not torch.equal(orders[:, 0, 0] == 1, orders[:, 2, 0] == 1)


@each_kind
def test_hostile_gramians_give_finite_weights_of_at_least_one(kind: type[PCGrad]) -> None:
    for tasks in (2, 4, 9):
        for name, gramian in hostile_gramians(tasks).items():
            method = kind(["t"] * tasks)
            for _ in range(3):
                found = weights(method, gramian)
                assert found.isfinite().all() and (found >= 1).all(), name


@each_kind
def test_scaled_gradients_give_the_same_weights(kind: type[PCGrad]) -> None:
    for gramian in random_gramians(20):
        found = []
        for factor in (1.0, 1e-10, 1e10):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                method = kind(["t"] * len(gramian))
            found.append([weights(method, gramian * factor) for _ in range(2)][-1])
        assert torch.allclose(found[0], found[1], rtol=1e-6) and torch.allclose(found[0], found[2], rtol=1e-6)


def test_pairs_with_a_task_that_has_no_labels_or_no_gradient_keep_their_average() -> None:
    gramian = random_gramians(40)[6]
    tasks = len(gramian)
    assert tasks > 4
    active = torch.ones(tasks, dtype=torch.bool)
    active[1] = False
    on = active.clone()
    on[3] = False  # active, without gradient
    masked = gramian * (on[:, None] & on)
    method = GradVac(["t"] * tasks, beta=0.5)
    with torch.no_grad():
        method.averages.fill_(0.4)
    found = weights(method, masked, active)
    pairs = on[:, None] & on & ~torch.eye(tasks, dtype=torch.bool)
    assert (method.averages[~pairs] == 0.4).all() and (method.averages[pairs] != 0.4).all()
    assert found[1] == 0 and found[3] == 1 and (found[on] > 1).any()


def test_two_tasks_of_which_one_has_no_gradient_keep_their_average() -> None:
    method = GradVac(["a", "b"], beta=0.5)
    method.averages.fill_(0.4)
    found = weights(method, torch.diag(torch.tensor([4.0, 0.0], dtype=torch.float64)))
    assert (method.averages == 0.4).all() and found.tolist() == [1, 1]


def test_a_batch_reads_the_averages_and_leaves_them() -> None:
    gramian = torch.tensor([[4.0, -1.0], [-1.0, 9.0]], dtype=torch.float64)
    method = GradVac(["a", "b"])
    weights(method, gramian)
    before = method.averages.clone()
    together = weights(method, gramian.expand(3, 2, 2))
    assert torch.equal(method.averages, before) and (before != 0).any()
    assert torch.allclose(together, weights(method, gramian).expand(3, 2), rtol=1e-9)


@each_kind
def test_a_loaded_state_goes_on_in_the_same_way(kind: type[PCGrad]) -> None:
    gramian = random_gramians(40)[7]
    method, other = kind(["t"] * len(gramian)), kind(["t"] * len(gramian))
    weights(method, gramian)
    other.load_state_dict(method.state_dict())
    for _ in range(3):
        assert torch.equal(weights(other, gramian), weights(method, gramian))
