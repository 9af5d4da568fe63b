"""What every gradient-based weighting in ``conf/weighting`` promises, with plain autograd per task as the oracle."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from gramians import hostile_gramians, random_gramians
from handmade import copies, made, options, trainer_on, two_streams
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from mtl_runner.batch import Data
from mtl_runner.config import config_dir, plug
from mtl_runner.config.schema import plain
from mtl_runner.trainer import Trainer
from mtl_runner.weighting.base import Weighting
from mtl_runner.weighting.gradient import GradientWeighting, GramianWeighting

MakeConfig = Callable[..., DictConfig]


def node(option: str) -> dict[str, Any]:
    return plain(OmegaConf.load(config_dir() / "weighting" / f"{option}.yaml"))


def make(option: str, tasks: int, **changes: object) -> Weighting:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return plug({**node(option), **changes}, "weighting")([f"task_{t}" for t in range(tasks)])


def kind(option: str) -> type:
    return plug(node(option), "weighting").func  # type: ignore[return-value]


GRADIENT = [option for option in options("weighting") if issubclass(kind(option), GradientWeighting)]
GRAMIAN = [option for option in GRADIENT if issubclass(kind(option), GramianWeighting)]
RANDOM = {"pcgrad", "gradvac", "graddrop"}
"""Those that draw: permuting their tasks permutes their weights on average only."""
LOOKS_AT_LOSSES = {"gradnorm", "excess_mtl"}
OWN_SCALES = {"imtl"}
"""Those that train scales of the losses, which weigh in each step anew."""
NO_HARM = {"mgda", "upgrad", "dualproj", "nash_mtl", "fairgrad", "imtl_g", "config"}
"""Those whose update has a non-negative inner product with every task's gradient (with full rank)."""
SCALED = {"mgda", "upgrad", "dualproj", "cagrad", "imtl_g", "config", "aligned_mtl", "pcgrad", "nash_mtl", "fairgrad"}
"""Those whose direction does not depend on the unit of the gradients."""

each_option = pytest.mark.parametrize("option", GRADIENT)
each_gramian = pytest.mark.parametrize("option", GRAMIAN)


def weights(weighting: Weighting, gramian: Tensor, active: Tensor | None = None, losses: Tensor | None = None) -> Tensor:
    """On the comparable scale."""
    assert isinstance(weighting, GramianWeighting)
    shape = gramian.shape[:-1]
    active = torch.ones(shape, dtype=torch.bool) if active is None else active
    losses = torch.ones(shape, dtype=torch.float64) if losses is None else losses
    return weighting.shown(weighting.weights(gramian, losses, active), active)


# ---- from a batch to .grad ----------------------------------------------------------------------------------------------


def one_batch(trainer: Trainer) -> Any:
    return next(trainer.loader.epoch(trainer.training_part(), 1))


def jacobian(trainer: Trainer, batch: Any, parameters: list[nn.Parameter]) -> Tensor:
    """[T, P] by one backward pass through the whole model for each task."""
    pairs = [
        group.losses(trainer.model.outputs(batch.inputs, [key])[key], batch.targets[key], batch.weights.get(key))
        for key, group in trainer.groups.items()
    ]
    rows = []
    for loss in itertools.chain.from_iterable(part for part, _ in pairs):
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        rows.append(
            torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, gradients, strict=True)])
        )
    return torch.stack(rows)


def written(parameters: list[nn.Parameter]) -> Tensor:
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])


SETTINGS: Mapping[str, tuple[Callable[[], Data], list[str]]] = {
    "mlp": (made, []),
    "own stages": (made, ["sharing.shared_stages=0.5"]),
    "cnn": (lambda: made(fields={"input": (1, 6, 6)}), ["encoder=cnn", "encoder.channels=[2,3]", "encoder.width=5"]),
    "two streams": (two_streams, []),
    "two streams and own stages": (two_streams, ["sharing.shared_stages=0.5"]),
}


@each_gramian
@pytest.mark.parametrize(
    "setting", [pytest.param(name, marks=pytest.mark.slow if name in ("own stages", "two streams") else []) for name in SETTINGS]
)
@pytest.mark.parametrize("gradients", ["parameters", "features"])
def test_the_update_is_the_weighted_sum_of_the_tasks_gradients(
    option: str, setting: str, gradients: str, make_config: MakeConfig
) -> None:
    """Shared parameters get Σ w_t g_t / T with the weights that are shown, private ones their own gradients, or w_t of them."""
    if gradients == "features" and "gradients" not in node(option):
        pytest.skip("it has no gradients of features")
    data, more = SETTINGS[setting]
    chosen = [f"weighting.gradients={gradients}"] if "gradients" in node(option) else []
    trainer = trainer_on(data(), make_config(f"weighting={option}", *more, *chosen, "trainer.batch_size=24"))
    if trainer.weighting.draws > 1:
        pytest.skip("the gradients are those of several draws; a test of its own looks at it")
    batch = one_batch(trainer)
    shared, private = trainer.shared, trainer.private
    expected, own = jacobian(trainer, batch, shared), jacobian(trainer, batch, private)
    shown = trainer.weighting.backward(trainer.objectives(batch))
    count = len(shown)
    assert torch.allclose(written(shared), shown.float() @ expected / count, rtol=1e-3, atol=1e-5 * expected.abs().max())
    heads = torch.ones(count) if trainer.weighting.heads == "own" else shown.float() / count
    assert torch.allclose(written(private), heads @ own, rtol=1e-3, atol=1e-5 * own.abs().max())
    if gradients == "parameters" and node(option).get("layer") != "last":
        assert torch.allclose(
            trainer.weighting.gramian, expected @ expected.T, rtol=1e-3, atol=1e-5 * float(expected.norm()) ** 2
        )


@each_gramian
@pytest.mark.parametrize("heads", ["own", "weighted"])
def test_reused_weights_weigh_the_gradients_of_their_own_step(option: str, heads: str, make_config: MakeConfig) -> None:
    if "every" not in node(option) or option in OWN_SCALES:
        pytest.skip("it has no weights to reuse, or they change with its own scales")
    trainer = trainer_on(two_streams(), make_config(f"weighting={option}", "weighting.every=3", f"weighting.heads={heads}"))
    if trainer.weighting.draws > 1:
        pytest.skip("the gradients are those of several draws; a test of its own looks at it")
    batches = [batch for epoch in (1, 2, 3) for batch in trainer.loader.epoch(trainer.training_part(), epoch)]
    shown = []
    for step, batch in enumerate(batches[:4]):
        trainer.learner.zero_grad()
        expected, own = jacobian(trainer, batch, trainer.shared), jacobian(trainer, batch, trainer.private)
        assert trainer.weighting.apart == (step % 3 == 0)
        shown.append(trainer.weighting.backward(trainer.objectives(batch)).float())
        assert (trainer.weighting.gramian is None) == (step % 3 != 0)
        assert torch.allclose(written(trainer.shared), shown[-1] @ expected / 4, rtol=1e-3, atol=1e-5 * expected.abs().max())
        each = torch.ones(4) if heads == "own" else shown[-1] / 4
        assert torch.allclose(written(trainer.private), each @ own, rtol=1e-3, atol=1e-5 * own.abs().max())
        trainer.learner.step()
    assert torch.allclose(shown[0], shown[1]) and torch.allclose(shown[0], shown[2])


@each_option
@pytest.mark.parametrize("count", [2, 5])
def test_identical_tasks_move_the_shared_part_as_one(option: str, count: int, make_config: MakeConfig) -> None:
    """The update of ``equal``, the sum divided by T, for one step and for several."""
    one, many = (trainer_on(copies(n), make_config(f"weighting={w}")) for n, w in ((1, "equal"), (count, option)))
    (group,), (single,) = many.groups.values(), one.groups.values()
    with torch.no_grad():
        for parameter, value in zip(group.head.parameters(), single.head.parameters(), strict=True):
            parameter.copy_(value.expand_as(parameter))
    expected = one.weighting.backward(one.objectives(one_batch(one)))
    batch = one_batch(many)
    draws = [many.objectives(part) for part in batch.chunk(many.weighting.draws)]
    shown = many.weighting.backward(*draws)
    assert expected.tolist() == [1]
    assert shown.sum().item() == pytest.approx(count, rel=1e-3)
    if many.weighting.draws == 1:
        single_task = list(one.model.sharing.parameters())
        assert torch.allclose(written(many.shared), written(single_task), rtol=1e-3, atol=1e-6)


@each_option
def test_a_task_that_is_not_finite_makes_the_step_a_skipped_one(option: str, make_config: MakeConfig) -> None:
    trainer = trainer_on(made(), make_config(f"weighting={option}"))
    batch = one_batch(trainer)
    before = [parameter.clone() for parameter in trainer.model.parameters()]
    key = next(iter(trainer.groups))
    with torch.no_grad():
        trainer.groups[key].head.weight[0, 0, 0] = torch.inf
    step = trainer.train_step(batch)
    assert trainer.progress.skipped == 1
    assert not (step.losses + step.weights).isfinite()[0]
    assert (step.losses + step.weights)[1:].isfinite().all()
    with torch.no_grad():
        trainer.groups[key].head.weight.copy_(
            before[[*map(id, trainer.model.parameters())].index(id(trainer.groups[key].head.weight))]
        )
    assert all(torch.equal(one, other) for one, other in zip(before, trainer.model.parameters(), strict=True))
    assert trainer.train_step(batch).weights.isfinite().all() and trainer.progress.skipped == 1


# ---- from a Gramian to weights ------------------------------------------------------------------------------------------

ALIKE = random_gramians(12, seed=5)


PAPER = {
    "aligned_mtl": 8, "cagrad": 1.5, "config": 8, "dualproj": 1, "fairgrad": 8**0.5, "gradnorm": 8, "gradvac": 8, "imtl": 1,
    "imtl_g": 1, "mgda": 1, "modo": 1, "nash_mtl": 1, "pcgrad": 8, "sdmgrad": 1, "upgrad": 1,
}  # fmt: skip
"""The update of eight identical tasks, relative to that of one with a gradient of norm 1, on the papers' own scales."""


@each_gramian
def test_papers_disagree_about_the_scale(option: str) -> None:
    weighting = make(option, 8, scale="paper")
    assert isinstance(weighting, GramianWeighting)
    found = weights(weighting, torch.ones(8, 8, dtype=torch.float64))
    assert found.sum().item() == pytest.approx(PAPER[option], rel=1e-3)
    assert weights(make(option, 8), torch.ones(8, 8, dtype=torch.float64)).sum().item() == pytest.approx(8, rel=1e-3)


@each_gramian
def test_permuted_tasks_permute_the_weights(option: str) -> None:
    for gramian in ALIKE[:6]:
        tasks = len(gramian)
        order = torch.randperm(tasks, generator=torch.Generator().manual_seed(tasks))
        permuted = gramian[order][:, order]
        if option in RANDOM:
            if tasks > 8:
                continue
            many = gramian.expand(4000, tasks, tasks)
            first, second = weights(make(option, tasks), many)[:, order], weights(make(option, tasks), permuted.expand_as(many))
            error = (first.var(0) + second.var(0)).div(4000).sqrt()
            assert ((first.mean(0) - second.mean(0)).abs() <= 5 * error + 1e-9).all()
        else:
            first, second = weights(make(option, tasks), gramian)[order], weights(make(option, tasks), permuted)
            assert torch.allclose(first, second, rtol=1e-4, atol=1e-6 * float(first.abs().max()))


@each_gramian
def test_one_task_is_the_plain_gradient(option: str) -> None:
    for square in (1e-20, 1.0, 7.0, 1e20):
        value = weights(make(option, 1), torch.tensor([[square]], dtype=torch.float64))
        assert value.shape == (1,) and value.item() == pytest.approx(1, rel=1e-3)


@each_gramian
@pytest.mark.parametrize("name", [*hostile_gramians()])
@pytest.mark.parametrize("tasks", [2, 4, 9])
def test_weights_are_finite_on_hostile_gramians(option: str, name: str, tasks: int) -> None:
    gramian = hostile_gramians(tasks)[name]
    found = weights(make(option, tasks), gramian)
    assert found.shape == (tasks,) and found.dtype == torch.float64 and found.isfinite().all()
    if name == "identical":
        assert torch.allclose(found, torch.ones_like(found), rtol=1e-3)


@each_gramian
def test_tasks_that_are_not_active_are_not_there(option: str) -> None:
    for gramian in ALIKE:
        tasks = len(gramian)
        if tasks < 3 or (option in RANDOM and tasks > 6):
            continue
        active = torch.rand(tasks, generator=torch.Generator().manual_seed(tasks)) > 0.4
        active[0] = True
        masked = gramian * (active[:, None] & active)
        reduced = gramian[active][:, active]
        if option in RANDOM:
            many, few = masked.expand(4000, tasks, tasks), reduced.expand(4000, *reduced.shape)
            draws = weights(make(option, tasks), many, active.expand(4000, tasks)), weights(make(option, len(reduced)), few)
            error = (draws[0][:, active].var(0) + draws[1].var(0)).div(4000).sqrt()
            assert ((draws[0][:, active].mean(0) - draws[1].mean(0)).abs() <= 5 * error + 1e-9).all()
            assert (draws[0][:, ~active] == 0).all()
            continue
        found, alone = weights(make(option, tasks), masked, active), weights(make(option, len(reduced)), reduced)
        assert (found[~active] == 0).all()
        assert torch.allclose(found[active], alone, rtol=1e-4, atol=1e-6 * float(alone.abs().max()))
    nothing = weights(make(option, 3), torch.zeros(3, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.bool))
    assert (nothing == 0).all()


@each_gramian
def test_leading_dimensions_are_batches(option: str) -> None:
    if option in RANDOM:
        pytest.skip("its draws differ; the permutation test runs it in batches")
    draws = torch.Generator().manual_seed(2)
    jacobian = torch.randn(2, 3, 5, 4, generator=draws, dtype=torch.float64)
    gramians = jacobian @ jacobian.mT * torch.tensor([1e-4, 1.0, 1e4])[:, None, None]
    active = torch.rand(2, 3, 5, generator=draws) > 0.2
    gramians = gramians * (active[..., :, None] & active[..., None, :])
    together = weights(make(option, 5), gramians, active)
    assert together.shape == (2, 3, 5)
    for i, j in itertools.product(range(2), range(3)):
        alone = weights(make(option, 5), gramians[i, j], active[i, j])
        assert torch.allclose(together[i, j], alone, rtol=1e-5, atol=1e-7 * float(alone.abs().max())), (i, j)


@pytest.mark.parametrize("option", sorted(SCALED & set(GRAMIAN)))
def test_the_unit_of_the_gradients_does_not_matter(option: str) -> None:
    for gramian in ALIKE:
        first = weights(make(option, len(gramian)), gramian)
        for factor in (1e-12, 1e-3, 1e6, 1e15):
            second = weights(make(option, len(gramian)), gramian * factor)
            assert torch.allclose(first, second, rtol=1e-4, atol=1e-6 * float(first.abs().max())), factor


@pytest.mark.parametrize("option", sorted(NO_HARM & set(GRAMIAN)))
def test_no_tasks_gradient_points_against_the_update(option: str) -> None:
    for gramian in random_gramians(60, seed=8)[::2]:
        found = weights(make(option, len(gramian)), gramian)
        products = gramian @ found
        size = gramian.diagonal().sqrt() * (found @ gramian @ found).clamp_min(0).sqrt()
        assert (products >= -1e-2 * size).all() if option in ("upgrad", "dualproj") else (products >= -1e-5 * size).all()


@each_gramian
def test_state_makes_the_round_trip(option: str) -> None:
    gramians = [gramian for gramian in random_gramians(200, seed=3) if len(gramian) == 5][:4]
    assert len(gramians) == 4
    one, other = make(option, 5), make(option, 5)
    for gramian in gramians[:2]:
        weights(one, gramian)
    other.load_state_dict(one.state_dict())
    for gramian in gramians[2:]:
        assert torch.equal(weights(one, gramian), weights(other, gramian))


# ---- keys of the base ---------------------------------------------------------------------------------------------------


@each_gramian
@pytest.mark.parametrize("normalize", ["none", "l2", "loss", "loss+"])
def test_normalize_is_what_the_method_sees(option: str, normalize: str, make_config: MakeConfig) -> None:
    trainer = trainer_on(made(), make_config(f"weighting={option}", f"weighting.normalize={normalize}"))
    if trainer.weighting.draws > 1:
        pytest.skip("the gradients are those of several draws")
    seen: list[tuple[Tensor, Tensor]] = []
    original = trainer.weighting.weights
    trainer.weighting.weights = lambda gramian, losses, active: (
        seen.append((gramian, losses)) or original(gramian, losses, active)
    )
    objectives = trainer.objectives(one_batch(trainer))
    trainer.weighting.backward(objectives)
    raw, losses = trainer.weighting.gramian.double(), objectives.losses.double()
    norms = raw.diagonal().sqrt()
    divisor = {"none": torch.ones(4), "l2": norms, "loss": losses, "loss+": losses * norms}[normalize].double()
    divisor = divisor / divisor.mean()
    assert torch.allclose(seen[0][0], raw / divisor / divisor[:, None], rtol=1e-5)
    assert torch.allclose(seen[0][1], losses)


@each_option
@pytest.mark.parametrize("normalize", ["l2", "loss", "loss+"])
def test_the_update_is_that_of_the_normalized_gradients(option: str, normalize: str, make_config: MakeConfig) -> None:
    """As the same method's on a model whose tasks' losses are multiplied so that their gradients are the normalized ones."""
    if "normalize" not in node(option) or option in OWN_SCALES | LOOKS_AT_LOSSES or make(option, 2).draws > 1:
        pytest.skip("it normalizes in a way of its own, looks at the losses as well, or at several draws")
    first, second = (
        trainer_on(made(), make_config(f"weighting={option}", f"weighting.normalize={chosen}", "weighting.heads=own"))
        for chosen in (normalize, "none")
    )
    objectives, others = (each.objectives(one_batch(each)) for each in (first, second))
    norms, losses = jacobian(first, one_batch(first), first.shared).norm(dim=1), objectives.losses
    divisor = {"l2": norms, "loss": losses, "loss+": losses * norms}[normalize]
    factors = (divisor.mean() / divisor).split([len(part) for part in others.parts])
    shown = first.weighting.backward(objectives)
    scaled = replace(others, parts=[part * factor for part, factor in zip(others.parts, factors, strict=True)])
    plain_weights = second.weighting.backward(scaled)
    assert torch.allclose(written(first.shared), written(second.shared), rtol=1e-3, atol=1e-5 * float(norms.max()))
    assert torch.allclose(shown.double(), (plain_weights * torch.cat(factors)).double(), rtol=1e-3, atol=1e-4)


@each_option
def test_weights_that_were_not_found_are_not_reused(option: str, make_config: MakeConfig) -> None:
    """After a step that is skipped the weights before it hold; a task that had no labels takes the mean weight."""
    if "every" not in node(option) or make(option, 2).draws > 1 or option in OWN_SCALES:
        pytest.skip("it has no weights to reuse, or they are those of several draws, or change with its own scales")
    data = made()
    trainer = trainer_on(data, make_config(f"weighting={option}", "weighting.every=2"))
    batch = one_batch(trainer)
    key = next(key for key, group in trainer.groups.items() if "size" in group.names)
    place = trainer.names.index("size")
    without = replace(batch, weights={**batch.weights, key: torch.zeros_like(batch.targets[key])})
    first = trainer.weighting.backward(trainer.objectives(without))
    assert first[place] == 0
    known = torch.arange(len(trainer.names)) != place
    again = trainer.weighting.backward(trainer.objectives(batch))
    assert torch.allclose(again[known], first[known].float())
    assert again[place].item() == pytest.approx(first[known].mean().item(), rel=1e-5)
    broken = replace(batch, targets={**batch.targets, key: batch.targets[key] * torch.inf})
    assert trainer.weighting.backward(trainer.objectives(broken)).isnan()[place]
    reused = trainer.weighting.backward(trainer.objectives(without))
    assert torch.allclose(reused[known], again[known]) and reused[place] == 0
    nothing = replace(batch, weights={key: torch.zeros_like(value) for key, value in batch.targets.items()})
    assert not trainer.weighting.backward(trainer.objectives(nothing)).any()
    assert torch.allclose(trainer.weighting.backward(trainer.objectives(batch)), again)
