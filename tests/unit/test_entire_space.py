"""Click, then purchase: probabilities as products along a graph of tasks, against losses and gradients worked out by hand."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from handmade import TASKS, made, trainer_on, training_on
from omegaconf import DictConfig
from torch import Tensor

from mtl_runner import build
from mtl_runner.batch import Data, TargetSpec
from mtl_runner.config.schema import plain
from mtl_runner.errors import NotApplicable, UserError
from mtl_runner.sharing.products import Products, both
from mtl_runner.weighting.gradients import ParameterGradients

EVENT = TargetSpec("ranking", classes=("0", "1"))
ESMM = ("sharing=task_graph", "sharing.edges={purchase:[click]}", "sharing.through=product", "encoder.hidden=[7,5]")
CHAIN = {"click": EVENT, "cart": EVENT, "purchase": EVENT, "like": EVENT, "stars": TASKS["size"]}


def funnel(tasks: dict[str, TargetSpec]) -> Data:
    """Each event happens only where the one before it has."""
    data = made(tasks)
    for split in data.splits.values():
        before = torch.ones(50)
        for name, spec in tasks.items():
            if spec.classes:
                split.targets[name].gt_(-1).mul_(before)
                before = split.targets[name]
    return data


def test_the_logit_of_a_product_and_its_gradient_are_exact_where_a_sigmoid_is_0_or_1() -> None:
    a, b, c = (torch.randn(50, dtype=torch.float64) * 4 for _ in range(3))
    torch.testing.assert_close(both(a, b, c).double(), torch.logit(a.sigmoid() * b.sigmoid() * c.sigmoid()), atol=1e-4, rtol=1e-4)
    extreme = torch.tensor([300.0, -300.0, 300.0, -300.0], requires_grad=True)
    other = torch.tensor([300.0, 300.0, -300.0, -300.0])
    torch.testing.assert_close(both(extreme, other), torch.tensor([300 - 2**-0.0 * 0.6931, -300.0, -300.0, -600.0]))
    both(extreme, other).sum().backward()
    torch.testing.assert_close(extreme.grad, torch.tensor([0.5, 1, 0, 1]))
    torch.testing.assert_close(both(a), a)


def test_labels_that_are_missing_wherever_the_event_before_did_not_happen_are_refused_and_some_that_are_not() -> None:
    products = Products([], {"purchase": ["click"]})
    click = torch.tensor([1.0, 1.0, 0.0, 0.0])
    products.check_labels({"click": click, "purchase": torch.tensor([1.0, 0.0, 0.0, torch.nan])})
    products.check_labels({"click": click, "purchase": torch.full((4,), torch.nan)})
    with pytest.raises(NotApplicable, match="none of the 2 training rows without click has a label of purchase"):
        products.check_labels({"click": click, "purchase": torch.tensor([1.0, 0.0, torch.nan, torch.nan])})


def test_losses_and_gradients_are_those_of_the_entire_space_model(make_config: Callable[..., DictConfig]) -> None:
    """dL/da of -y log p - (1 - y) log(1 - p) with p = σ(a) σ(b) is (p - y) / (1 - p) · (1 - σ(a)), and so for b."""
    data = funnel({"click": EVENT, "purchase": EVENT})
    trainer = trainer_on(data, make_config(*ESMM, "trainer.batch_size=64"))
    model, batch = trainer.model, next(trainer.loader.epoch(trainer.training_part(), 1))
    clicked, bought = (batch.targets[key][:, 0].double() for key in model.task_groups)
    heads = [group.head for group in model.task_groups.values()]

    x = model.sharing.encoder("input", batch.inputs["input"])
    maps, _ = model.sharing.own
    z = [(x @ maps.weight[t].T + maps.bias[t]).relu().detach() for t in range(2)]
    a, b = ((z[t] @ heads[t].weight[0].T + heads[t].bias[0])[:, 0].double() for t in range(2))
    p = a.sigmoid() * b.sigmoid()
    losses = [
        -(clicked * a.sigmoid().log() + (1 - clicked) * (1 - a.sigmoid()).log()).mean(),
        -(bought * p.log() + (1 - bought) * (1 - p).log()).mean(),
    ]
    torch.testing.assert_close(trainer.objectives(batch).losses.double(), torch.stack(losses), atol=1e-6, rtol=1e-5)

    per_logit = (p - bought) / (1 - p) / len(p)
    of_a = (a.sigmoid() - clicked) / len(p) + per_logit * (1 - a.sigmoid())
    of_b = per_logit * (1 - b.sigmoid())
    torch.cat(list(trainer.objectives(batch).parts)).sum().backward()
    for t, gradient in enumerate((of_a, of_b)):
        torch.testing.assert_close(heads[t].bias.grad[0].double(), gradient.sum()[None], atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(heads[t].weight.grad[0, 0].double(), gradient @ z[t].double(), atol=1e-6, rtol=1e-4)


def test_outputs_are_never_more_likely_than_what_comes_before(make_config: Callable[..., DictConfig]) -> None:
    data = funnel(CHAIN)
    node = plain(make_config("sharing=task_graph", "sharing.edges={cart:[click],purchase:[cart]}", "sharing.through=product"))
    model = build.make_model(node, data.streams, data.targets)
    outputs = model(data.splits["test"].inputs)
    assert list(outputs) == ["click", "like", "stars", "cart", "purchase"]
    assert (outputs["click"] > outputs["cart"]).all() and (outputs["cart"] > outputs["purchase"]).all()


@pytest.mark.parametrize("stages", ["1", "0.5"])
def test_each_tasks_gradient_is_autograds_and_shared_is_what_two_losses_reach(
    stages: str, make_config: Callable[..., DictConfig]
) -> None:
    edges = ("sharing=task_graph", "sharing.edges={cart:[click],purchase:[cart]}", "sharing.through=product")
    more = (f"sharing.shared_stages={stages}", "weighting=mgda", "encoder.hidden=[7,5]", "trainer.batch_size=64")
    trainer = trainer_on(funnel(CHAIN), make_config(*edges, *more))
    model, batch = trainer.model, next(trainer.loader.epoch(trainer.training_part(), 1))
    everything = [*trainer.shared, *trainer.private]
    outputs = model.outputs(batch.inputs, trainer.groups)
    whole = torch.cat([group.losses(outputs[key], batch.targets[key])[0] for key, group in trainer.groups.items()])
    expected = [_gradients(loss, everything) for loss in whole]
    reached = [sum((each != 0).int() for each in column).max() for column in zip(*expected, strict=True)]  # type: ignore[union-attr]
    assert [count > 1 for count in reached] == [True] * len(trainer.shared) + [False] * len(trainer.private)

    objectives = trainer.objectives(batch)
    torch.autograd.backward(objectives.parts, [torch.ones_like(part) for part in objectives.parts], retain_graph=True)
    found = ParameterGradients(objectives)
    found.write_private(torch.ones(len(whole)))
    for row, columns in zip(found.matrix, expected, strict=True):
        torch.testing.assert_close(
            row, torch.cat([each.flatten() for each in columns[: len(trainer.shared)]]), atol=1e-6, rtol=1e-4
        )
    for parameter, columns in zip(trainer.private, list(zip(*expected, strict=True))[len(trainer.shared) :], strict=True):
        torch.testing.assert_close(parameter.grad, sum(columns), atol=1e-6, rtol=1e-4)


def _gradients(loss: Tensor, parameters: list[torch.nn.Parameter]) -> list[Tensor]:
    return list(torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True, allow_unused=True))


@pytest.mark.parametrize("weighting", ["uncertainty", "gradnorm", "mgda", "imbalance=classifier_retraining"])
def test_it_trains(weighting: str, make_config: Callable[..., DictConfig]) -> None:
    event = replace(EVENT, kind="binary") if "=" in weighting else EVENT
    data = funnel({"click": event, "purchase": event})
    training = training_on(data, make_config(*ESMM, weighting if "=" in weighting else f"weighting={weighting}"))
    before = {name: value.clone() for name, value in training.model.named_parameters()}
    metrics = list(training.fit())[-1].metrics
    assert 0 < metrics["validation/purchase/loss"] < 2
    assert not any(torch.equal(value, before[name]) for name, value in training.model.named_parameters())


def test_only_events_have_a_probability(make_config: Callable[..., DictConfig]) -> None:
    data = funnel(CHAIN)
    node = plain(make_config("sharing=task_graph", "sharing.edges={purchase:[stars]}", "sharing.through=product"))
    with pytest.raises(UserError, match=r"product multiplies probabilities, and stars is a regression task; allowed .*ranking"):
        build.make_model(node, data.streams, data.targets)
