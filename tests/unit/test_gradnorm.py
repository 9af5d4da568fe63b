"""GradNorm against autograd of L_grad through the graph of the gradients, on a small network."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from handmade import copies, made, same, trainer_on, two_streams
from omegaconf import DictConfig
from torch import Tensor, nn

from mtl_runner.batch import Batch
from mtl_runner.config.schema import problems
from mtl_runner.trainer import Trainer
from mtl_runner.weighting.gradnorm import GradNorm
from mtl_runner.weighting.part import last_layer

MakeConfig = Callable[..., DictConfig]


def batches(trainer: Trainer, count: int) -> list[Batch]:
    found: list[Batch] = []
    while len(found) < count:
        found += trainer.loader.epoch(trainer.training_part(), len(found) + 1)
    return found[:count]


def losses_of(trainer: Trainer, batch: Batch) -> Tensor:
    """[T], with the graph of the whole model."""
    outputs = trainer.model.outputs(batch.inputs)
    return torch.cat([group.losses(outputs[key], batch.targets[key])[0] for key, group in trainer.groups.items()])


def looked_at(trainer: Trainer, layer: str) -> list[nn.Parameter]:
    """By name, not as the method finds it: the last stage of the encoder, or all that is shared."""
    last = list(trainer.model.sharing.encoder.stages[-1].parameters())
    assert len(last) == 2 and last[0].dim() == 2
    return last if layer == "last" else trainer.shared


def by_autograd(trainer: Trainer, batch: Batch, first: Tensor, alpha: float, layer: str) -> tuple[Tensor, Tensor]:
    """d L_grad / d w of the paper, by differentiating through the norms of the gradients of w_t L_t; and the losses."""
    weights = trainer.weighting.task_weights.detach().clone().requires_grad_()
    losses = losses_of(trainer, batch)
    norms = []
    for weight, loss in zip(weights, losses, strict=True):
        gradients = torch.autograd.grad(weight * loss, looked_at(trainer, layer), create_graph=True, allow_unused=True)
        norms.append(torch.cat([gradient.flatten() for gradient in gradients if gradient is not None]).norm())
    pace = losses.detach() / first
    targets = (torch.stack(norms).mean() * (pace / pace.mean()) ** alpha).detach()
    (slopes,) = torch.autograd.grad((torch.stack(norms) - targets).abs().sum(), weights)
    return slopes, losses.detach()


@pytest.mark.parametrize("layer", ["last", "all"])
@pytest.mark.parametrize("alpha", [1.5, 0.0, 0.4])
def test_a_trajectory_is_that_of_the_papers_expression(alpha: float, layer: str, make_config: MakeConfig) -> None:
    """Slopes, update, heads and the optimizer's steps, with weights that are trained fast enough to part."""
    config = make_config(
        "weighting=gradnorm", f"weighting.alpha={alpha}", f"weighting.layer={layer}", "weighting.lr=0.02", "optimizer.lr=0.01"
    )
    trainer = trainer_on(made(), config)
    method = trainer.weighting
    reference = nn.Parameter(torch.ones(4))
    optimizer = type(trainer.learner.optimizer)([reference], lr=0.02, weight_decay=0.0)
    first = None
    for step, batch in enumerate(batches(trainer, 20)):
        first = losses_of(trainer, batch).detach() if first is None else first
        expected, losses = by_autograd(trainer, batch, first, alpha, layer)
        used = method.task_weights.detach().clone()
        everything = [*trainer.shared, *trainer.private]
        plain = torch.autograd.grad((used * losses_of(trainer, batch)).sum() / 4, everything, allow_unused=True)
        assert trainer.train_step(batch).weights.isfinite().all()
        scale = max(float(expected.abs().max()), 1e-3)
        torch.testing.assert_close(method.task_weights.grad, expected, rtol=1e-3, atol=1e-3 * scale, msg=f"step {step}")
        for parameter, gradient in zip(everything, plain, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-6)
        reference.grad = expected
        optimizer.step()
        with torch.no_grad():
            reference *= 4 / reference.sum()
        torch.testing.assert_close(method.task_weights.detach(), reference.detach(), rtol=1e-2, atol=1e-3)
    assert (method.task_weights - 1).abs().max() > 0.05, "the weights moved"
    assert losses.isfinite().all()


def test_norms_come_together_with_alpha_zero(make_config: MakeConfig) -> None:
    """The network stands still; the weights are trained until w_t ‖g_t‖ is the same for all tasks."""
    config = make_config("weighting=gradnorm", "weighting.alpha=0", "weighting.lr=0.02", "optimizer=sgd", "optimizer.lr=1e-20")
    trainer = trainer_on(made(), config)
    batch = batches(trainer, 1)[0]
    spreads = []
    for _ in range(150):
        trainer.train_step(batch)
        norms = trainer.weighting.gramian.diagonal().sqrt() * trainer.weighting.task_weights.detach()
        spreads.append(float(norms.max() / norms.min()))
    assert spreads[0] > 1.3 and spreads[-1] < 1.1
    assert trainer.weighting.task_weights.sum().item() == pytest.approx(4, rel=1e-5)


def test_a_task_that_learns_slowly_gains_weight() -> None:
    method = GradNorm(["quick", "slow"])
    gramian = torch.eye(2, dtype=torch.float64)
    both = torch.ones(2, dtype=torch.bool)
    method.weights(gramian, torch.tensor([2.0, 2.0], dtype=torch.float64), both)
    assert (method.task_weights.grad == 0).all()
    method.weights(gramian, torch.tensor([0.5, 1.9], dtype=torch.float64), both)
    assert method.task_weights.grad[0] > 0 > method.task_weights.grad[1]


def test_absent_tasks_neither_count_nor_move() -> None:
    draws = torch.Generator().manual_seed(0)
    jacobian = torch.randn(5, 8, generator=draws, dtype=torch.float64)
    losses = torch.rand(5, generator=draws, dtype=torch.float64) + 0.5
    active = torch.tensor([True, False, True, True, False])
    method, without = GradNorm([*"abcde"]), GradNorm([*"acd"])
    with torch.no_grad():
        method.task_weights.copy_(torch.tensor([0.5, 1.2, 1.5, 1.0, 0.8]))
        without.task_weights.copy_(torch.tensor([0.5, 1.5, 1.0]))
    masked = jacobian * active[:, None]
    for factor in (1.0, 0.7):
        weights = method.weights(masked @ masked.T, (factor ** torch.arange(5) * losses).where(active, 1), active)
        few = jacobian[active]
        expected = without.weights(few @ few.T, (factor ** torch.arange(5) * losses)[active], torch.ones(3, dtype=torch.bool))
        torch.testing.assert_close(weights[active], expected)
        assert (weights[~active] == 0).all() and weights.sum().item() == pytest.approx(3)
        torch.testing.assert_close(method.task_weights.grad[active], without.task_weights.grad)
        assert (method.task_weights.grad[~active] == 0).all()
    assert (method.first[~active] == 0).all() and (method.first[active] > 0).all()
    late = torch.full((5,), 9.0, dtype=torch.float64)
    method.weights(jacobian @ jacobian.T, late, torch.ones(5, dtype=torch.bool))
    assert method.first[~active].tolist() == [9, 9], "its first loss is that of the first step with its labels"
    torch.testing.assert_close(method.first[active], losses[active].float())


def test_weights_stay_positive_and_keep_their_sum() -> None:
    method = GradNorm([*"abc"])
    with torch.no_grad():
        method.task_weights.copy_(torch.tensor([-0.3, 0.5, 1.0]))
    method.after_step(lambda: torch.zeros(3))
    assert (method.task_weights > 0).all() and method.task_weights.sum().item() == pytest.approx(3)


@pytest.mark.parametrize("losses", [[0.0, 1.0], [0.0, 0.0], [1e-30, 1e30]])
def test_extreme_losses_and_gradients_stay_finite(losses: list[float]) -> None:
    for gradient in (0.0, 1e-10, 1e10):
        method = GradNorm([*"ab"])
        for _ in range(3):
            gramian = torch.eye(2, dtype=torch.float64) * gradient**2
            weights = method.weights(gramian, torch.tensor(losses, dtype=torch.float64), torch.ones(2, dtype=torch.bool))
            assert weights.isfinite().all() and method.task_weights.grad.isfinite().all()


def test_its_parameters_are_a_group_of_their_own(make_config: MakeConfig) -> None:
    for override, expected in (("null", 0.003), ("0.025", 0.025)):
        trainer = trainer_on(made(), make_config("weighting=gradnorm", f"weighting.lr={override}", "optimizer.lr=0.003"))
        model, own = trainer.learner.optimizer.param_groups
        assert model["lr"] == 0.003 and own["lr"] == expected and own["weight_decay"] == 0
        assert [id(parameter) for parameter in own["params"]] == [id(trainer.weighting.task_weights)]


def test_the_last_layer_is_the_last_matrix_and_what_follows_it() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 5), nn.LayerNorm(5))
    expected = [*network[2].parameters(), *network[3].parameters()]
    assert [id(parameter) for parameter in last_layer(list(network.parameters()))] == [id(parameter) for parameter in expected]
    assert len(last_layer(list(nn.LayerNorm(3).parameters()))) == 2


@pytest.mark.parametrize("count", [2, 5])
def test_identical_tasks_keep_equal_weights(count: int, make_config: MakeConfig) -> None:
    trainer = trainer_on(copies(count), make_config("weighting=gradnorm", "weighting.lr=0.05"))
    (group,) = trainer.groups.values()
    with torch.no_grad():
        for parameter in group.head.parameters():
            parameter.copy_(parameter[:1].expand_as(parameter))
    for batch in batches(trainer, 5):
        torch.testing.assert_close(trainer.train_step(batch).weights.float(), torch.ones(count), rtol=1e-2, atol=0)


@pytest.mark.parametrize("settings", [[], ["weighting.every=3"], ["weighting.layer=all", "weighting.lr=0.1"]])
def test_a_trainer_that_goes_on_from_a_file_is_the_one_that_never_stopped(
    settings: list[str], make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config("weighting=gradnorm", "trainer.batch_size=16", *settings)
    one, other = trainer_on(two_streams(), config), trainer_on(two_streams(), config)
    one.epoch()
    torch.save({"model": one.model.state_dict(), "trainer": one.state_dict()}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    kept = state["trainer"]["now"]["weighting"]
    assert (kept["first"] > 0).all() and (kept["task_weights"] - 1).abs().max() > 1e-5
    other.model.load_state_dict(state["model"])
    other.load_state_dict(state["trainer"])
    assert one.epoch() == other.epoch() and one.progress.skipped == 0
    assert same(one.model.state_dict(), other.model.state_dict()) and same(one.state_dict(), other.state_dict())


def test_layer_stands_in_place_of_gradients(make_config: MakeConfig) -> None:
    lines = problems(make_config("weighting=gradnorm", "+weighting.gradients=features"))
    assert len(lines) == 1 and "no such key" in lines[0]
    assert "last" in problems(make_config("weighting=gradnorm", "weighting.layer=first"))[0]
