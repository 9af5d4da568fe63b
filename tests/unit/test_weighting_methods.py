"""Loss weightings against their formulas, in float64, by autograd."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtl_runner.errors import UserError
from mtl_runner.weighting.base import LossWeighting, Objectives
from mtl_runner.weighting.dynamic import Dynamic
from mtl_runner.weighting.equal import Equal
from mtl_runner.weighting.static import Static
from mtl_runner.weighting.uncertainty import Uncertainty

TASKS = ("a", "b", "c", "d")
ALL = torch.ones(4, dtype=torch.bool)
SOME = torch.tensor([True, False, True, True])
LOSSES = (0.5, 3.0, 0.02, 1.0)


def methods() -> list[LossWeighting]:
    made: list[LossWeighting] = [Equal(TASKS), Static(TASKS, weights={"a": 0.3, "c": 2.0}), Uncertainty(TASKS)]
    made += [Dynamic(TASKS, alpha=alpha) for alpha in (1.0, 0.5, 0.0, -1.0)]
    with torch.no_grad():
        for method in made:
            for parameter in method.parameters():
                parameter.copy_(torch.linspace(-1, 1, 4))
    return [method.double() for method in made]


each_method = pytest.mark.parametrize("method", methods(), ids=lambda method: f"{type(method).__name__}")


def weights_by_hand(method: LossWeighting, losses: Sequence[float], active: Sequence[bool]) -> list[float]:
    """d(objective) / d(loss) of each task, from the docstrings' formulas."""
    if isinstance(method, Static):
        weights = [{"a": 0.3, "c": 2.0}.get(name, 1.0) for name in TASKS]
    elif isinstance(method, Uncertainty):
        weights = [math.exp(-s) for s in method.log_variance.tolist()]
    elif isinstance(method, Dynamic):
        powers = [loss**-method.alpha for loss, on in zip(losses, active, strict=True) if on]
        weights = [len(powers) * loss**-method.alpha / sum(powers) for loss in losses]
    else:
        weights = [1.0] * 4
    return [weight if on else 0.0 for weight, on in zip(weights, active, strict=True)]


class Network(nn.Module):
    """A shared vector, and a head for each task: loss_t = <shared, x_t> · head_t + loss_t at the start."""

    def __init__(self) -> None:
        super().__init__()
        draws = torch.Generator().manual_seed(0)
        self.x = torch.randn(4, 6, generator=draws, dtype=torch.float64)
        self.shared = nn.Parameter(torch.randn(6, generator=draws, dtype=torch.float64))
        self.heads = nn.Parameter(torch.randn(4, generator=draws, dtype=torch.float64))

    def losses(self) -> Tensor:
        moving = (self.x @ self.shared) * self.heads
        return moving - moving.detach() + torch.tensor(LOSSES, dtype=torch.float64)


def backward(
    method: LossWeighting, active: Tensor = ALL, shared: bool = True, sizes: Sequence[int] = (4,)
) -> tuple[Network, Tensor]:
    """Gradients of a network under the method; the losses come as parts of these sizes."""
    network = Network()
    method.zero_grad()
    parts = [loss.contiguous() for loss in network.losses().split(list(sizes))]
    weights = method.backward(Objectives(parts, active, [network.shared] if shared else []))
    return network, weights


@each_method
@pytest.mark.parametrize("active", [ALL, SOME])
@pytest.mark.parametrize("shared", [True, False])
def test_weights_and_gradients_are_those_of_the_formula(method: LossWeighting, active: Tensor, shared: bool) -> None:
    network, weights = backward(method, active, shared)
    by_hand = torch.tensor(weights_by_hand(method, LOSSES, active.tolist()), dtype=torch.float64)
    torch.testing.assert_close(weights, by_hand)
    share = 0.25 if shared else 1.0  # where tasks share parameters the sum is divided by T
    reference = Network()
    (by_hand * share * reference.losses()).sum().backward()
    torch.testing.assert_close(network.shared.grad, reference.shared.grad)
    torch.testing.assert_close(network.heads.grad, reference.heads.grad)


@each_method
@pytest.mark.parametrize("active", [ALL, SOME])
def test_the_derivatives_of_combine_are_the_weights(method: LossWeighting, active: Tensor) -> None:
    losses = torch.tensor(LOSSES, dtype=torch.float64, requires_grad=True)
    (weights,) = torch.autograd.grad(method.combine(losses, active), losses)
    torch.testing.assert_close(weights, torch.tensor(weights_by_hand(method, LOSSES, active.tolist()), dtype=torch.float64))


@each_method
def test_parts_of_any_sizes_give_the_same(method: LossWeighting) -> None:
    whole, weights = backward(method)
    for sizes in ((1, 3), (1, 1, 1, 1), (2, 2)):
        network, again = backward(method, sizes=sizes)
        torch.testing.assert_close(network.shared.grad, whole.shared.grad)
        assert torch.equal(weights, again)


@each_method
def test_a_task_without_labels_neither_gets_nor_changes_anything(method: LossWeighting) -> None:
    losses = torch.tensor(LOSSES, dtype=torch.float64)
    other = torch.where(SOME, losses, 1e6)
    assert torch.equal(method.combine(losses, SOME), method.combine(other, SOME))
    network, weights = backward(method, SOME)
    assert weights[1] == 0 and network.heads.grad[1] == 0


@each_method
def test_a_batch_without_any_label_moves_nothing(method: LossWeighting) -> None:
    network, weights = backward(method, torch.zeros(4, dtype=torch.bool))
    assert not weights.any() and not network.shared.grad.any() and not network.heads.grad.any()
    assert all(not parameter.grad.any() for parameter in method.parameters())


@each_method
def test_combine_works_on_leading_dimensions(method: LossWeighting) -> None:
    losses = torch.rand(3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    active = torch.rand(3, 2, 4, generator=torch.Generator().manual_seed(1)) > 0.3
    expected = [[method.combine(losses[i, j], active[i, j]) for j in range(2)] for i in range(3)]
    torch.testing.assert_close(method.combine(losses, active), torch.stack([torch.stack(row) for row in expected]))


@pytest.mark.parametrize("alpha", [1.0, 0.3, 0.0, -2.0])
def test_dynamic_weights_sum_to_the_number_of_tasks_with_labels(alpha: float) -> None:
    for active in (ALL, SOME):
        _, weights = backward(Dynamic(TASKS, alpha=alpha).double(), active)
        assert weights.sum().item() == pytest.approx(int(active.sum()))


def test_dynamic_with_alpha_1_makes_the_weighted_losses_equal_and_with_alpha_0_it_is_equal_weighting() -> None:
    _, weights = backward(Dynamic(TASKS, alpha=1.0).double())
    torch.testing.assert_close(weights * torch.tensor(LOSSES), (weights * torch.tensor(LOSSES))[:1].expand(4))
    zero, equal = backward(Dynamic(TASKS, alpha=0.0).double())[0], backward(Equal(TASKS))[0]
    torch.testing.assert_close(zero.shared.grad, equal.shared.grad)


@pytest.mark.parametrize("alpha", [1.0, 3.0, -1.0])
@pytest.mark.parametrize("losses", [(0.0, 1.0, 1.0, 1.0), (1e-38, 1e38, 1.0, 0.0), (0.0,) * 4])
def test_dynamic_weights_are_finite_for_losses_of_any_size(losses: tuple[float, ...], alpha: float) -> None:
    part = torch.tensor(losses, requires_grad=True)
    weights = Dynamic(TASKS, alpha=alpha).backward(Objectives([part], ALL, []))
    assert weights.isfinite().all() and weights.sum().item() == pytest.approx(4, rel=1e-4)


def test_uncertainty_trains_its_own_numbers_towards_the_log_of_the_losses() -> None:
    method = Uncertainty(TASKS).double()
    assert (method.log_variance == 0).all()  # it starts as equal weighting
    backward(method)
    expected = (1 - torch.tensor(LOSSES, dtype=torch.float64)) / 4  # d/ds of (exp(-s) L + s) / T at s = 0
    torch.testing.assert_close(method.log_variance.grad, expected)

    optimizer = torch.optim.LBFGS(method.parameters(), max_iter=200, line_search_fn="strong_wolfe")
    losses = torch.tensor(LOSSES, dtype=torch.float64)

    def closure() -> Tensor:
        optimizer.zero_grad()
        objective = method.combine(losses, ALL)
        objective.backward()
        return objective

    optimizer.step(closure)
    torch.testing.assert_close(method.log_variance.detach(), losses.log(), atol=1e-4, rtol=0)


def test_uncertainty_is_twice_the_papers_objective() -> None:
    method = methods()[2]
    variance = method.log_variance.detach().exp()
    paper = sum(loss / (2 * v) + 0.5 * math.log(v) for loss, v in zip(LOSSES, variance.tolist(), strict=True))
    assert method.combine(torch.tensor(LOSSES, dtype=torch.float64), ALL).item() == pytest.approx(2 * paper)


def test_own_parameters_are_optimized_without_weight_decay_and_most_methods_have_none() -> None:
    assert Equal(TASKS).parameter_groups() == []
    (group,) = Uncertainty(TASKS).parameter_groups()
    assert group["weight_decay"] == 0 and [parameter.shape for parameter in group["params"]] == [(4,)]
    parameter = nn.Parameter(torch.ones(4))
    optimizer = torch.optim.SGD([{"params": [parameter]}, group], lr=0.1, weight_decay=0.5)
    assert [entry["weight_decay"] for entry in optimizer.param_groups] == [0.5, 0.0]


def test_t_identical_tasks_move_the_shared_part_as_one_would() -> None:
    gradients = []
    for tasks in (1, 5):
        shared = nn.Parameter(torch.tensor([2.0, -1.0]))
        losses = shared.square().sum().expand(tasks)
        Equal(["t"] * tasks).backward(Objectives([losses], torch.ones(tasks, dtype=torch.bool), [shared]))
        gradients.append(shared.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_static_weights_of_tasks_that_do_not_exist_are_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"weighting\.weights\.digits: .*digit, parity.*did you mean 'digit'"):
        Static(["digit", "parity"], weights={"digits": 1})


def test_static_weights_that_are_all_zero_are_refused() -> None:
    Static(["digit", "parity"], weights={"digit": 0})
    with pytest.raises(UserError, match=r"weighting\.weights: all tasks weigh 0"):
        Static(["digit", "parity"], weights={"digit": 0, "parity": 0.0})


def test_the_state_of_a_weighting_round_trips() -> None:
    saved: Any = methods()[2].state_dict()
    fresh = Uncertainty(TASKS).double()
    fresh.load_state_dict(saved)
    assert torch.equal(fresh.log_variance, methods()[2].log_variance)


def test_factors_are_as_if_the_losses_had_been_multiplied() -> None:
    factors, weights = torch.tensor([2.0, 0.5, 3.0, 1.0]), torch.tensor([1.0, 4.0, 0.0, 7.0])
    x = torch.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True)
    objectives = Objectives([x[:1].square(), x[1:].square()], ALL, [], factors=factors)
    torch.testing.assert_close(objectives.losses, factors * x.detach().square())
    objectives.backward(weights)
    torch.testing.assert_close(x.grad, weights * factors * 2 * x.detach())
