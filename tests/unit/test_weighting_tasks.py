"""Which tasks of a step count in a gradient-based weighting, and what is divided by where some do not."""

import pytest
import torch
from torch import Tensor

from mtl_runner.weighting.base import Objectives
from mtl_runner.weighting.gradient import Normalize
from mtl_runner.weighting.mgda import MGDA
from mtl_runner.weighting.tasks import Tasks

INF, NAN = torch.inf, torch.nan


def draw(losses: list[float], active: list[bool]) -> Objectives:
    return Objectives([torch.tensor(losses)], torch.tensor(active), [])


@pytest.mark.parametrize("broken", [INF, -INF, NAN])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_task_counts_where_loss_and_gradient_are_finite(broken: float, where: str) -> None:
    losses, squares = [1.0, broken, 3.0, NAN], [2.0, 2.0, 2.0, 0.0]
    if where == "gradient":
        losses[1], squares[1] = 1.0, abs(broken)
    tasks = Tasks.of(torch.tensor(squares), [draw(losses, [True, True, True, False])])
    assert tasks.usable.tolist() == [True, False, True, False] and tasks.broken.tolist() == [False, True, False, False]
    assert tasks.losses.tolist() == [1, 1, 3, 1] and not tasks.whole
    reported = tasks.reported(torch.ones(4))
    assert reported.isnan().tolist() == [False, True, False, False]
    only = tasks.only_usable(torch.full((4, 4), 2.0).index_fill(1, torch.tensor(1), broken))
    assert torch.equal(only, 2 * torch.outer(tasks.usable.double(), tasks.usable.double()))


def test_a_finite_step_of_all_tasks_is_whole() -> None:
    assert Tasks.of(torch.ones(2), [draw([1.0, 2.0], [True, True])]).whole
    assert not Tasks.of(torch.ones(2), [draw([1.0, 2.0], [True, False])]).whole


def test_weights_to_be_reused_are_in_the_state() -> None:
    one, other = (MGDA(["a", "b"], every=3) for _ in range(2))
    one.last.copy_(torch.tensor([0.5, 1.5]))
    one.steps = 4
    other.load_state_dict(one.state_dict())
    assert other.last.tolist() == [0.5, 1.5] and other.steps == 4 and not other.apart


@pytest.mark.parametrize("normalize", ["l2", "loss", "loss+"])
def test_normalizers_are_those_of_the_tasks_that_count(normalize: Normalize) -> None:
    """Times the mean of their divisors; 1 for one with a divisor of zero."""
    losses, norms = torch.tensor([2.0, 4.0, 0.0, 5.0, 7.0]), torch.tensor([1.0, 3.0, 0.0, 2.0, INF])
    active = torch.tensor([True, True, True, False, True])
    tasks = Tasks.of(norms**2, [Objectives([losses], active, [])])
    found = MGDA(list("abcde"), normalize=normalize).normalizer(tasks, torch.diag(norms**2))
    divisor: Tensor = {"l2": norms, "loss": losses, "loss+": losses * norms}[normalize][:2].double()
    mean = divisor.sum() / 3
    assert found is not None
    torch.testing.assert_close(found[:3], torch.cat([mean / divisor, torch.ones(1, dtype=torch.float64)]))
    assert found.isfinite().all()
