"""What every weighting of losses in ``conf/weighting`` promises, with autograd as the oracle of what a weight is."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from handmade import copies, options, trainer_on, training_on
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from mtl_runner.config import config_dir, plug
from mtl_runner.config.schema import plain
from mtl_runner.seeding import seeded
from mtl_runner.tasks.group import TaskGroup
from mtl_runner.weighting.base import LossWeighting, Objectives, Weighting

NAMES = ("a", "b", "c", "d", "e")
LOSSES = torch.tensor([0.3, 2.0, 1.1, 0.7, 5.0])
SETTINGS = {"static": {"weights": {"a": 2.0, "c": 0.5, "e": 0.0}}}
"""Defaults that would say little: options to set beside them."""
Make = Callable[..., Weighting]


def node(option: str) -> dict[str, Any]:
    return {**plain(OmegaConf.load(config_dir() / "weighting" / f"{option}.yaml")), **SETTINGS.get(option, {})}


OPTIONS = [option for option in options("weighting") if issubclass(plug(node(option), "weighting").func, LossWeighting)]
DRAWN = {"random"}
"""Weights that are drawn: nothing follows for a single step but their sum."""
every = pytest.mark.parametrize("option", OPTIONS)
every_certain = pytest.mark.parametrize("option", [option for option in OPTIONS if option not in DRAWN])


@pytest.fixture
def make(option: str) -> Make:
    """The option for the named tasks, its trained numbers set by the task's name."""

    def build(names: Sequence[str] = NAMES, **changes: object) -> Weighting:
        settings = {**node(option), **changes}
        if "weights" in settings:
            settings["weights"] = {name: value for name, value in settings["weights"].items() if name in names}
        with seeded(0, option):
            weighting: Weighting = plug(settings, "weighting")(list(names))
        with torch.no_grad():
            for parameter in weighting.parameters():
                parameter.copy_(torch.tensor([NAMES.index(name) / 5 - 0.3 for name in names]))
        return weighting

    return build


def backward(weighting: Weighting, losses: Tensor, active: Tensor | None = None, shared: Sequence[nn.Parameter] = ()) -> Tensor:
    """The weights for these losses; checks that they are what reaches the losses as gradient."""
    leaves = [piece.clone().requires_grad_() for piece in losses.split(2)]
    active = torch.ones(len(losses), dtype=torch.bool) if active is None else active
    weights = weighting.backward(Objectives(leaves, active, shared))
    reached = torch.cat([leaf.grad for leaf in leaves if leaf.grad is not None])
    divided = shared and weighting.scale == "comparable"
    assert torch.allclose(reached, weights / len(losses) if divided else weights, rtol=1e-6, atol=0)
    assert weights.shape == losses.shape and not weights.requires_grad
    return weights


def own_gradients(weighting: Weighting) -> list[Tensor]:
    gradients = [parameter.grad.clone() for parameter in weighting.parameters() if parameter.grad is not None]
    weighting.zero_grad()
    return gradients


@every
def test_weights_are_the_derivatives_of_the_objective(make: Make) -> None:
    active = torch.ones(5, dtype=torch.bool)
    for scale in ("comparable", "paper"):
        weighting = make(scale=scale)
        assert isinstance(weighting, LossWeighting)
        losses = LOSSES.clone().requires_grad_()
        (derivatives,) = torch.autograd.grad(weighting.combine(losses, active), losses)
        unit = weighting.unit(derivatives, active) if scale == "comparable" else 1
        assert torch.allclose(backward(make(scale=scale), LOSSES), derivatives / unit, rtol=1e-5)
        together = backward(make(scale=scale), LOSSES, shared=[nn.Parameter(torch.ones(1))])
        assert torch.allclose(together, derivatives / unit, rtol=1e-5)


@every_certain
def test_permuted_tasks_permute_the_weights(make: Make) -> None:
    order = [3, 0, 4, 2, 1]
    permuted = backward(make([NAMES[i] for i in order]), LOSSES[order])
    assert torch.allclose(permuted, backward(make(), LOSSES)[order], rtol=1e-6)


@every
@pytest.mark.parametrize("extreme", [0.0, 1e-20, 1e20])
def test_weights_are_finite_on_extreme_losses(make: Make, extreme: float) -> None:
    for losses in (torch.tensor([extreme, 0.5, 1.0, 2.0, 3.0]), torch.full((5,), extreme)):
        weighting = make()
        weights = backward(weighting, losses)
        assert weights.isfinite().all() and (weights >= 0).all()
        assert all(gradient.isfinite().all() for gradient in own_gradients(weighting))


@every
@pytest.mark.parametrize("unused", [0.0, 1e-3, 1e30])
def test_a_task_without_labels_changes_nothing_and_gets_nothing(make: Make, option: str, unused: float) -> None:
    active = torch.tensor([True, False, True, True, False])
    weighting, without = make(), make([NAMES[0], NAMES[2], NAMES[3]])
    weights = backward(weighting, torch.where(active, LOSSES, unused), active)
    alone = backward(without, LOSSES[active])
    if option in DRAWN:
        assert weights.sum().item() == pytest.approx(alone.sum().item(), rel=1e-5)
    else:
        assert torch.allclose(weights[active], alone, rtol=1e-5)
    assert (weights[~active] == 0).all()
    for own, expected in zip(own_gradients(weighting), own_gradients(without), strict=True):
        assert torch.allclose(own[active], expected, rtol=1e-6) and (own[~active] == 0).all()


@every
def test_a_batch_without_any_label_gives_nothing(make: Make) -> None:
    weighting = make()
    assert (backward(weighting, torch.zeros(5), torch.zeros(5, dtype=torch.bool)) == 0).all()
    assert all((gradient == 0).all() for gradient in own_gradients(weighting))


@every
def test_one_task_is_the_plain_gradient_times_its_weight(make: Make) -> None:
    parameter = nn.Parameter(torch.tensor([1.0, -2.0]))
    loss = (parameter**2).sum()[None]
    weights = make(["b"]).backward(Objectives([loss], torch.tensor([True]), []))
    assert torch.allclose(parameter.grad, weights * 2 * parameter.detach())
    assert weights.shape == (1,) and weights > 0


@every_certain
def test_leading_dimensions_are_batches(make: Make) -> None:
    weighting = make()
    assert isinstance(weighting, LossWeighting)
    losses = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0)) + 0.1
    active = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(1)) > 0.3
    one_by_one = [[weighting.combine(losses[i, j], active[i, j]) for j in range(4)] for i in range(3)]
    together = weighting.combine(losses, active)
    assert together.shape == (3, 4)
    assert torch.allclose(together, torch.tensor([[float(value.detach()) for value in row] for row in one_by_one]))


@every
def test_state_makes_the_round_trip(make: Make) -> None:
    weighting = make()
    backward(weighting, LOSSES)
    other = make()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(weighting.state_dict())
    assert torch.equal(backward(other, LOSSES), backward(weighting, LOSSES))


@every_certain
def test_weights_depend_on_nothing_but_losses_and_state(make: Make) -> None:
    weighting = make()
    first = backward(weighting, LOSSES)
    backward(weighting, LOSSES.flip(0))
    assert torch.equal(first, backward(weighting, LOSSES))


@every
@pytest.mark.parametrize("count", [2, 5])
def test_identical_tasks_move_the_shared_part_as_one(option: str, count: int, make_config: Callable[..., DictConfig]) -> None:
    one, many = (trainer_on(copies(n), make_config(f"weighting={option}")) for n in (1, count))
    equal_heads(many.model.task_groups, one.model.task_groups)
    for trainer in (one, many):
        objectives = trainer.objectives(next(trainer.loader.epoch(trainer.training_part(), 1)))
        weights = trainer.weighting.backward(objectives)
        assert weights.sum().item() == pytest.approx(len(weights), rel=1e-5)
        assert option in DRAWN or torch.allclose(weights, torch.ones(len(weights)), rtol=1e-5)
    for single, common in zip(one.model.sharing.parameters(), many.model.sharing.parameters(), strict=True):
        assert torch.allclose(common.grad, single.grad, rtol=1e-4, atol=1e-7)
    single_head, heads = (next(iter(trainer.model.task_groups.values())).head for trainer in (one, many))
    if option not in DRAWN:
        assert torch.allclose(heads.weight.grad, single_head.weight.grad.expand_as(heads.weight) / count, rtol=1e-4, atol=1e-7)


@every
@pytest.mark.parametrize("sharing", ["none", "soft"])
def test_where_nothing_is_shared_each_network_gets_its_own_gradient(
    option: str, sharing: str, make_config: Callable[..., DictConfig]
) -> None:
    training = training_on(copies(3), make_config(f"weighting={option}", f"sharing={sharing}"))
    networks = training.model.sharing
    batches = [(trainer, next(trainer.loader.epoch(trainer.training_part(), 1))) for trainer in training.trainers]
    weights = [trainer.weighting.backward(trainer.objectives(batch)) for trainer, batch in batches]
    reached = [parameter.grad.clone() for parameter in networks.parameters()]
    training.model.zero_grad()
    for (trainer, batch), own in zip(batches, weights, strict=True):
        parts = trainer.objectives(batch).parts
        torch.autograd.backward(parts, own.split([len(part) for part in parts]))
    alone = [parameter.grad for parameter in networks.parameters()]
    assert all(torch.allclose(one, other, rtol=1e-5, atol=1e-8) for one, other in zip(reached, alone, strict=True))
    assert any((gradient != 0).any() for gradient in alone)


@pytest.mark.parametrize("option", ["dynamic"])
def test_dynamic_weights_sum_to_the_number_of_tasks(option: str, make: Make) -> None:
    active = torch.tensor([True, False, True, True, True])
    for alpha in (-1.0, 0.5, 1.0, 3.0):
        assert backward(make(alpha=alpha), LOSSES).sum().item() == pytest.approx(5)
        weights = backward(make(alpha=alpha), LOSSES, active)
        assert weights.sum().item() == pytest.approx(4)
        by_hand = LOSSES[active].double() ** -alpha
        assert torch.allclose(weights[active].double(), 4 * by_hand / by_hand.sum(), rtol=1e-5)
    assert torch.equal(backward(make(alpha=0.0), LOSSES, active), active.float())


def equal_heads(many: dict[str, TaskGroup], one: dict[str, TaskGroup]) -> None:
    """Every task of ``many`` gets the head of the one task of ``one``."""
    (group,), (single,) = many.values(), one.values()
    with torch.no_grad():
        for parameter, value in zip(group.head.parameters(), single.head.parameters(), strict=True):
            parameter.copy_(value.expand_as(parameter))
