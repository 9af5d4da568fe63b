"""FAMO against TorchJD's, and the trainer's second look at a batch that it needs."""

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from handmade import checkpoint, made, same, trainer_on
from omegaconf import DictConfig
from torch import Tensor
from torchjd import scalarization

from mtl_runner.batch import MISSING, Batch, Data
from mtl_runner.trainer import Trainer
from mtl_runner.weighting.base import Objectives
from mtl_runner.weighting.famo import FAMO

Config = Callable[..., DictConfig]
NAMES = ("a", "b", "c", "d")
ALL = torch.ones(4, dtype=torch.bool)


def losses(step: int, tasks: int = 4) -> Tensor:
    return (
        torch.rand(tasks, generator=torch.Generator().manual_seed(step), dtype=torch.float64) * torch.linspace(1, 9, tasks) + 0.05
    )


def step(weighting: FAMO, before: Tensor, after: Tensor, active: Tensor = ALL) -> Tensor:
    weights = weighting.backward(Objectives([before.clone().requires_grad_()], active, []))
    weighting.after_step(lambda: after)
    return weights


def memory(weighting: FAMO) -> Any:
    return copy.deepcopy(weighting.state_dict())


# ---- the method ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("w_lr", "gamma"), [(0.025, 1e-3), (0.2, 0.01), (0.025, 0.0)])
def test_eighty_steps_are_torchjds(w_lr: float, gamma: float) -> None:
    ours = FAMO(NAMES, w_lr=w_lr, gamma=gamma, scale="paper").double()
    theirs = scalarization.FAMO(4, lr=w_lr, weight_decay=gamma).double()
    draws = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 5, generator=draws, dtype=torch.float64), torch.randn(30, 4, generator=draws, dtype=torch.float64)
    y = y * torch.tensor([1.0, 5.0, 0.1, 1.0])
    one = torch.zeros(5, 4, dtype=torch.float64, requires_grad=True)
    other = torch.zeros(5, 4, dtype=torch.float64, requires_grad=True)
    optimizers = [torch.optim.SGD([parameter], lr=0.1) for parameter in (one, other)]

    def both(parameter: Tensor) -> Tensor:
        return (x @ parameter - y).square().mean(0)

    largest = 0.0
    for _ in range(80):
        for optimizer in optimizers:
            optimizer.zero_grad()
        weights = ours.backward(Objectives(both(one).split([2, 2]), ALL, [one]))  # type: ignore[list-item]
        theirs(both(other)).backward()
        torch.testing.assert_close(one.grad, other.grad)
        for optimizer in optimizers:
            optimizer.step()
        with torch.no_grad():
            ours.after_step(lambda: both(one))
            theirs.update(both(other))
        torch.testing.assert_close(ours.state[0], theirs._w.detach())
        assert weights.sum().item() == pytest.approx(1)
        largest = max(largest, float(ours.state[0].abs().max()))
    torch.testing.assert_close(one, other)
    assert largest > 0.05


def test_the_task_that_falls_least_gets_more_weight() -> None:
    weighting, before = FAMO(NAMES), torch.ones(4)
    first = step(weighting, before, torch.tensor([0.5, 0.5, 0.5, 0.99]))
    second = step(weighting, before, before)
    assert torch.equal(first, torch.ones(4))
    assert second[3] > 1.01 and (second[:3] < 1).all() and second.sum().item() == pytest.approx(4)


def test_the_models_optimizer_gets_nothing() -> None:
    assert FAMO(NAMES).parameter_groups() == [] and list(FAMO(NAMES).parameters()) == []


def test_tasks_that_are_never_there_change_nothing() -> None:
    active = torch.tensor([True, False, True, False])
    many, few = FAMO(NAMES).double(), FAMO(("a", "c")).double()
    for index in range(20):
        before, after = losses(2 * index), losses(2 * index + 1)
        weights = step(many, before, after.where(active, torch.nan), active)
        alone = step(few, before[active], after[active], ALL[:2])
        torch.testing.assert_close(weights[active], alone)
        assert not weights[~active].any() and not many.state[0][~active].any()
        torch.testing.assert_close(many.state[0][active], few.state[0])


@pytest.mark.parametrize("gone", ["without labels", "not finite after the step"])
def test_a_task_that_is_gone_for_a_step_does_not_move_nor_forget(gone: str) -> None:
    weighting = FAMO(NAMES).double()
    for index in range(5):
        step(weighting, losses(index), losses(100 + index))
    before, after = memory(weighting), losses(7)
    active = ALL.clone()
    if gone == "without labels":
        active[1] = False
    else:
        after[1] = torch.inf
    step(weighting, losses(6), after, active)
    now = memory(weighting)
    for old, new in zip(before["state"], now["state"], strict=True):
        assert old[1] == new[1] and (old != new)[[0, 2, 3]].all() and new.isfinite().all()


@pytest.mark.parametrize("values", [(0.0, 1.0, 1.0, 1.0), (1e-30, 1e30, 1.0, 0.0), (0.0,) * 4, (1e30,) * 4])
def test_losses_of_any_size_give_finite_weights(values: tuple[float, ...]) -> None:
    weighting, extreme = FAMO(NAMES), torch.tensor(values)
    for before, after in ((extreme, torch.ones(4)), (torch.ones(4), extreme), (extreme, extreme)):
        weights = step(weighting, before, after)
        assert weights.isfinite().all() and weights.sum().item() == pytest.approx(4, rel=1e-4)
    assert weighting.state[0].isfinite().all()
    nothing = step(weighting, extreme, extreme, ~ALL)
    assert not nothing.any() and weighting.state[0].isfinite().all()


# ---- its state ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 1, 6])
def test_a_saved_state_goes_on_bit_for_bit(steps: int) -> None:
    one = FAMO(NAMES)
    for index in range(steps):
        step(one, losses(index).float(), losses(50 + index).float())
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    other = FAMO(NAMES)
    other.load_state_dict(torch.load(file, weights_only=True))  # before its first step
    assert same(one.state_dict(), other.state_dict())
    direct = FAMO(NAMES)
    direct.load_state_dict(one.state_dict())
    kept = memory(one)
    third = FAMO(NAMES)
    third.load_state_dict(kept)
    for index in range(60, 66):
        weights = [step(each, losses(index).float(), losses(index + 9).float()) for each in (one, other, direct, third)]
        assert all(torch.equal(weights[0], each) for each in weights[1:])
    assert all(same(one.state_dict(), each.state_dict()) for each in (other, direct, third))
    fresh = FAMO(NAMES)
    for index in range(steps):
        step(fresh, losses(index).float(), losses(50 + index).float())
    assert same(kept, fresh.state_dict())  # the others' steps left the saved state alone


def test_adam_follows_the_logits_to_another_type_and_a_copy() -> None:
    weighting = FAMO(NAMES)
    step(weighting, losses(0).float(), losses(1).float())
    other = copy.deepcopy(weighting).double()
    step(other, losses(2), losses(3))
    step(weighting, losses(2).float(), losses(3).float())
    torch.testing.assert_close(other.state[0].float(), weighting.state[0])
    assert other.state[3].tolist() == [2] * 4


# ---- the second look ----------------------------------------------------------------------------------------------------

NETWORKS = {
    "dropout": (made, ["encoder.dropout=0.4"]),
    "batch norm": (lambda: made(fields={"input": (1, 6, 6)}), ["encoder=cnn", "encoder.channels=[2,3]", "encoder.width=5"]),
    "both": (
        lambda: made(fields={"input": (1, 6, 6)}),
        ["encoder=cnn", "encoder.channels=[2,3]", "encoder.width=5", "encoder.dropout=0.4"],
    ),
    "dropout in networks of their own": (made, ["encoder.dropout=0.4", "sharing=soft"]),
}
each_network = pytest.mark.parametrize("network", NETWORKS)


def trainer_of(network: str, make_config: Config, *more: str) -> Trainer:
    data, overrides = NETWORKS[network]
    trainer = trainer_on(data(), make_config("weighting=famo", "trainer.batch_size=16", *overrides, *more))
    trainer.model.train()
    return trainer


def batches(trainer: Trainer, count: int) -> list[Batch]:
    several = [batch for epoch in (1, 2, 3) for batch in trainer.loader.epoch(trainer.training_part(), epoch)]
    return several[:count]


def looking(trainer: Trainer) -> list[Tensor]:
    """A list that fills with the losses of each second look."""
    seen: list[Tensor] = []
    original = trainer.weighting.after_step

    def after_step(recompute: Callable[[], Tensor]) -> None:
        seen.append(recompute())
        original(recompute)

    trainer.weighting.after_step = after_step  # type: ignore[method-assign]
    return seen


@each_network
def test_it_leaves_no_trace_in_the_model(network: str, make_config: Config) -> None:
    looks, does_not = (trainer_of(network, make_config, "weighting.w_lr=0.0") for _ in range(2))
    does_not.weighting.after_step = lambda recompute: None  # type: ignore[method-assign]
    start = copy.deepcopy(looks.model.state_dict())
    for batch in batches(looks, 5):
        one, other = looks.train_step(batch), does_not.train_step(batch)
        assert torch.equal(one.losses, other.losses)
        assert same(looks.model.state_dict(), does_not.model.state_dict())
        assert same(looks.replay.states(), does_not.replay.states())
    assert not same(start, looks.model.state_dict())


@each_network
def test_with_the_parameters_as_they_were_it_sees_the_same_losses(network: str, make_config: Config) -> None:
    trainer = trainer_of(network, make_config, "optimizer=sgd", "optimizer.lr=0.0")
    seen = looking(trainer)
    first = [trainer.train_step(batch).losses for batch in batches(trainer, 1) * 4]
    assert len(seen) == 4 and all(torch.equal(before, after) for before, after in zip(first, seen, strict=True))
    assert torch.equal(first[0], first[1]) == ("dropout" not in network and network != "both")  # masks differ between steps
    assert trainer.weighting.state[0].abs().max() == 0


@each_network
def test_it_sees_the_new_parameters_with_the_old_masks(network: str, make_config: Config) -> None:
    trainer = trainer_of(network, make_config, "optimizer=sgd", "optimizer.lr=0.05")
    seen = looking(trainer)
    for batch in batches(trainer, 3):
        twin = copy.deepcopy(trainer)
        before = trainer.train_step(batch).losses
        with torch.no_grad():
            for parameter, new in zip(twin.model.parameters(), trainer.model.parameters(), strict=True):
                parameter.copy_(new)
            expected = twin.objectives(batch).losses
        assert torch.equal(seen[-1], expected) and not torch.equal(seen[-1], before)


def test_a_step_that_is_skipped_has_none(make_config: Config) -> None:
    trainer = trainer_of("dropout", make_config)
    seen = looking(trainer)
    (batch,) = batches(trainer, 1)
    parameter = next(iter(trainer.model.parameters()))
    kept = parameter.detach().clone()
    with torch.no_grad():
        parameter.fill_(torch.nan)
    trainer.train_step(batch)
    assert trainer.progress.skipped == 1 and seen == [] and not trainer.weighting.state[0].any()
    with torch.no_grad():
        parameter.copy_(kept)
    trainer.train_step(batch)
    assert len(seen) == 1 and trainer.weighting.state[0].any()


def test_a_task_without_labels_in_a_batch_keeps_its_logit(make_config: Config) -> None:
    data: Data = made()
    data.splits["train"].targets["sort"][:] = MISSING
    trainer = trainer_on(data, make_config("weighting=famo", "encoder.dropout=0.4"))
    trainer.epoch()
    moved = dict(zip(trainer.names, (trainer.weighting.state[0] != 0).tolist(), strict=True))
    assert moved == {"yes": True, "sort": False, "size": True, "pair": True}


@pytest.mark.parametrize("network", ["dropout", "both"])
def test_a_trainer_that_goes_on_is_the_one_that_was_never_interrupted(network: str, make_config: Config) -> None:
    whole, part, rest = (trainer_of(network, make_config) for _ in range(3))
    for _ in range(4):
        whole.epoch()
    for _ in range(2):
        part.epoch()
    file = io.BytesIO()
    torch.save([part.model.state_dict(), part.state_dict()], file)
    file.seek(0)
    model, state = torch.load(file, weights_only=True)
    rest.model.load_state_dict(model)
    rest.load_state_dict(state)
    for _ in range(2):
        rest.epoch()
    assert same(whole.model.state_dict(), rest.model.state_dict())
    assert same(whole.state_dict()["now"], rest.state_dict()["now"])
    assert whole.weighting.state[0].any()


def test_a_run_that_goes_on_is_the_run_that_was_never_interrupted(train: Callable[..., Path]) -> None:
    from mtl_runner.run import resume

    common = ["weighting=famo", "encoder.dropout=0.3", "trainer.early_stopping.patience=null"]
    whole, part = train(*common, "trainer.steps=17"), train(*common, "trainer.steps=9")
    resume(part, steps=17)
    one, other = (checkpoint(folder, "last") for folder in (whole, part))
    assert same(one["model"], other["model"])
    assert same([each["now"] for each in one["trainers"]], [each["now"] for each in other["trainers"]])
