"""MoDo and SDMGrad, which look at several draws, and the projection onto the simplex that they rest on."""

import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from handmade import copies, made, same, trainer_on, two_streams
from omegaconf import DictConfig
from torch import Tensor, nn
from torchjd import aggregation

from mtl_runner.batch import Batch
from mtl_runner.config.schema import problems
from mtl_runner.trainer import Step, Trainer
from mtl_runner.weighting.base import Objectives
from mtl_runner.weighting.gradient import GramianWeighting
from mtl_runner.weighting.modo import MoDo
from mtl_runner.weighting.sdmgrad import SDMGrad
from mtl_runner.weighting.simplex import OnSimplex, project
from mtl_runner.weighting.tasks import Tasks

MakeConfig = Callable[..., DictConfig]
CLASSES: dict[str, Callable[..., GramianWeighting]] = {"modo": MoDo, "sdmgrad": SDMGrad}
each_option = pytest.mark.parametrize("option", CLASSES)


def make(option: str, tasks: int, **changes: object) -> GramianWeighting:
    return CLASSES[option]([f"task_{t}" for t in range(tasks)], **changes)


def products(tasks: int, steps: int = 25, seed: int = 0) -> list[Tensor]:
    """J(z₁) J(z₂)ᵀ of noisy gradients: neither symmetric nor positive semi-definite."""
    draws = torch.Generator().manual_seed(seed)
    base = torch.randn(tasks, 12, generator=draws, dtype=torch.float64)
    noisy = [(base + 0.7 * torch.randn(tasks, 12, generator=draws, dtype=torch.float64)) for _ in range(2 * steps)]
    return [one @ other.T for one, other in zip(noisy[::2], noisy[1::2], strict=True)]


def on(tasks: int) -> Tensor:
    return torch.ones(tasks, dtype=torch.bool)


def ones(tasks: int) -> Tensor:
    return torch.ones(tasks, dtype=torch.float64)


# ---- the projection -------------------------------------------------------------------------------------------------------


def nearest_by_faces(values: Tensor) -> Tensor:
    """The closest point over all faces of the simplex: the closest of each face's plane that lies in the simplex."""
    best, found = torch.inf, values
    for size in range(1, len(values) + 1):
        for face in itertools.combinations(range(len(values)), size):
            point = torch.zeros_like(values)
            chosen = values[list(face)]
            point[list(face)] = chosen - (chosen.sum() - 1) / size
            distance = float((point - values).norm())
            if (point >= 0).all() and distance < best:
                best, found = distance, point
    return found


@pytest.mark.parametrize("tasks", [1, 2, 3, 6])
def test_the_projection_is_the_closest_point(tasks: int) -> None:
    draws = torch.Generator().manual_seed(tasks)
    for scale in (0.1, 1.0, 30.0):
        values = scale * torch.randn(12, tasks, generator=draws, dtype=torch.float64)
        found = project(values, torch.ones(12, tasks, dtype=torch.bool))
        for one, expected in zip(found, values, strict=True):
            torch.testing.assert_close(one, nearest_by_faces(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [1e-20, 1.0, 1e8, 1e20, 1e300])
def test_the_projection_is_exact_at_any_size(size: float) -> None:
    values = size * torch.tensor([[3.0, 3.0, -1.0, 0.0], [-2.0, -5.0, -2.0, -9.0], [-1.0, -1.0, -1.0, -1.0]], dtype=torch.float64)
    found = project(values, torch.ones_like(values, dtype=torch.bool))
    torch.testing.assert_close(found.sum(-1), ones(3), rtol=0, atol=1e-12)
    if size >= 1:
        expected = torch.tensor([[0.5, 0.5, 0, 0], [0.5, 0, 0.5, 0], [0.25] * 4], dtype=torch.float64)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_the_projection_leaves_out_what_is_not_active() -> None:
    draws = torch.Generator().manual_seed(1)
    values, active = torch.randn(50, 6, generator=draws, dtype=torch.float64), torch.rand(50, 6, generator=draws) > 0.4
    active[0] = False
    for value, mask, found in zip(values, active, project(values, active), strict=True):
        assert (found[~mask] == 0).all()
        if mask.any():
            torch.testing.assert_close(found[mask], project(value[mask], on(int(mask.sum()))), rtol=0, atol=1e-12)


def test_who_is_absent_keeps_its_weight() -> None:
    simplex = OnSimplex(4)
    simplex.keep(torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64), on(4))
    active = torch.tensor([True, False, True, False])
    start = simplex.start(ones(4), active)
    torch.testing.assert_close(start, torch.tensor([0.25, 0, 0.75, 0], dtype=torch.float64))
    simplex.keep(torch.tensor([1.0, 0, 0, 0], dtype=torch.float64), active)
    torch.testing.assert_close(simplex.values, torch.tensor([0.4, 0.2, 0, 0.4], dtype=torch.float64))
    only = simplex.start(ones(4), torch.tensor([False, False, True, False]))
    assert only.tolist() == [0, 0, 1, 0], "one that had no weight left is alone"
    nobody = simplex.start(ones(4), ~on(4))
    assert nobody.tolist() == [0, 0, 0, 0]


# ---- trajectories -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"gamma": 0.05, "rho": 0.0}, {"gamma": 0.02, "rho": 1.0}])
@pytest.mark.parametrize("tasks", [2, 5])
def test_modo_is_that_of_torchjd(settings: dict[str, float], tasks: int) -> None:
    method = make("modo", tasks, **settings)
    theirs = aggregation.MoDoWeighting(**{"gamma": 0.001, "rho": 0.1, **settings})
    for product in products(tasks):
        expected = theirs(product)
        torch.testing.assert_close(method.weights(product, ones(tasks), on(tasks)), expected, rtol=1e-6, atol=1e-9)
    assert (expected - 1 / tasks).abs().max() > 0.01, "the weights moved"


@pytest.mark.parametrize("settings", [{}, {"lambda_": 0.0, "lr": 0.5}, {"lambda_": 2.0, "momentum": 0.0, "steps": 3, "lr": 0.1}])
@pytest.mark.parametrize("tasks", [2, 5])
def test_sdmgrad_is_that_of_torchjd(settings: dict[str, float], tasks: int) -> None:
    method = make("sdmgrad", tasks, **settings)
    theirs = aggregation.SDMGradWeighting(**{("n_iter" if key == "steps" else key): value for key, value in settings.items()})
    different = []
    for product in products(tasks):
        expected = theirs(1e6 * product)  # they add 1e-8 to s², which the default lr makes visible
        torch.testing.assert_close(method.weights(product, ones(tasks), on(tasks)), expected, rtol=1e-4, atol=1e-6)
        different.append(expected)
    assert torch.stack(different).std(0).max() > 1e-3, "the weights moved"


def test_sdmgrad_finds_the_minimum_on_a_gramian() -> None:
    """With one Gramian for all draws and small steps: the optimality conditions of min ‖Σ (w_t + λ/n) g_t‖² hold."""
    draws = torch.Generator().manual_seed(2)
    jacobian = torch.randn(5, 9, generator=draws, dtype=torch.float64)
    gramian = jacobian @ jacobian.T
    method = make("sdmgrad", 5, lr=0.1, steps=100)
    for _ in range(10):
        weights = method.weights(gramian, ones(5), on(5))
    inner = weights * 1.3 - 0.06
    slope = gramian @ (inner + 0.06)
    least = slope.min()
    assert inner.min() > -1e-9 and inner.sum().item() == pytest.approx(1)
    assert (slope[inner > 1e-6] - least).max() < 1e-4 * least.abs()


@each_option
def test_a_batch_of_problems_is_neither_remembered_nor_started_from_memory(option: str) -> None:
    method, fresh = make(option, 4), make(option, 4)
    sequence = products(4, steps=6)
    for product in sequence[:3]:
        method.weights(product, ones(4), on(4))
    state = method.state_dict()["simplex._extra_state"]["values"].clone()
    batch = torch.stack(sequence[3:])
    together = method.weights(batch, torch.ones(3, 4, dtype=torch.float64), torch.ones(3, 4, dtype=torch.bool))
    assert torch.equal(method.state_dict()["simplex._extra_state"]["values"], state)
    for product, found in zip(sequence[3:], together, strict=True):
        fresh = make(option, 4)
        torch.testing.assert_close(found, fresh.weights(product, ones(4), on(4)), rtol=1e-9, atol=1e-12)


@each_option
@pytest.mark.parametrize("size", [0.0, 1e-20, 1e20])
def test_weights_stay_on_the_simplex_at_any_size_and_sign(option: str, size: float) -> None:
    for tasks in (1, 2, 7):
        method = make(option, tasks)
        for product in products(tasks, steps=4):
            for signed in (product * size, -product * size):
                weights = method.weights(signed, ones(tasks), on(tasks))
                assert (weights >= -1e-12).all() and weights.sum().item() == pytest.approx(1)


# ---- through a trainer ------------------------------------------------------------------------------------------------------


def first_batch(trainer: Trainer) -> Batch:
    return next(trainer.loader.epoch(trainer.training_part(), 1))


def jacobian(trainer: Trainer, batch: Batch, parameters: list[nn.Parameter]) -> Tensor:
    outputs = trainer.model.outputs(batch.inputs)
    parts = [group.losses(outputs[key], batch.targets[key], batch.weights.get(key))[0] for key, group in trainer.groups.items()]
    rows = [torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True) for loss in torch.cat(parts)]
    return torch.stack(
        [
            torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, row, strict=True)])
            for row in rows
        ]
    )


def written(parameters: list[nn.Parameter]) -> Tensor:
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])


@each_option
@pytest.mark.parametrize("heads", ["own", "weighted"])
@pytest.mark.parametrize("normalize", ["none", "l2"])
@pytest.mark.parametrize("setting", ["mlp", "own stages", "two streams"])
def test_the_update_is_the_papers_on_the_draws(
    option: str, heads: str, normalize: str, setting: str, make_config: MakeConfig
) -> None:
    """With plain autograd on each draw as the oracle of the gradients, and TorchJD of the weights."""
    more = ["sharing.shared_stages=0.5"] if setting == "own stages" else []
    config = make_config(
        f"weighting={option}", f"weighting.heads={heads}", f"weighting.normalize={normalize}", "trainer.batch_size=24", *more
    )
    trainer = trainer_on(two_streams() if setting == "two streams" else made(), config)
    draws = first_batch(trainer).chunk(trainer.weighting.draws)
    assert len(draws) == {"modo": 2, "sdmgrad": 3}[option]
    shared = [jacobian(trainer, draw, trainer.shared) for draw in draws]
    private = torch.stack([jacobian(trainer, draw, trainer.private) for draw in draws]).mean(0)
    norms = ((shared[0] + shared[1]) / 2).norm(dim=1)
    unit = norms / norms.mean() if normalize == "l2" else torch.ones(4)
    theirs = aggregation.MoDoWeighting(gamma=0.001, rho=0.1) if option == "modo" else aggregation.SDMGradWeighting()
    weights = theirs(((shared[0] @ shared[1].T) / unit[:, None] / unit).double()).float() / unit
    update = weights @ ((shared[0] + shared[1]) / 2 if option == "modo" else shared[2])
    shown = trainer.weighting.backward(*[trainer.objectives(draw) for draw in draws])
    torch.testing.assert_close(shown.float(), 4 * weights, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(written(trainer.shared), update, rtol=1e-3, atol=1e-4 * float(update.abs().max()))
    each = torch.ones(4) if heads == "own" else weights
    torch.testing.assert_close(written(trainer.private), each @ private, rtol=1e-3, atol=1e-5)


@each_option
@pytest.mark.parametrize("heads", ["own", "weighted"])
def test_reused_weights_weigh_the_mean_of_the_draws(option: str, heads: str, make_config: MakeConfig) -> None:
    trainer = trainer_on(two_streams(), make_config(f"weighting={option}", "weighting.every=3", f"weighting.heads={heads}"))
    shown = []
    for step in range(4):
        trainer.learner.zero_grad()
        draws = first_batch(trainer).chunk(trainer.weighting.draws)
        shared, private = (
            torch.stack([jacobian(trainer, draw, each) for draw in draws]).mean(0) for each in (trainer.shared, trainer.private)
        )
        assert trainer.weighting.apart == (step % 3 == 0)
        shown.append(trainer.weighting.backward(*[trainer.objectives(draw) for draw in draws]).float())
        if step % 3:
            torch.testing.assert_close(written(trainer.shared), shown[-1] @ shared / 4, rtol=1e-3, atol=1e-5)
        each = torch.ones(4) if heads == "own" else shown[-1] / 4
        torch.testing.assert_close(written(trainer.private), each @ private, rtol=1e-3, atol=1e-5)
        trainer.learner.step()
    torch.testing.assert_close(shown[0], shown[1])
    torch.testing.assert_close(shown[0], shown[2])


def test_losses_are_means_over_the_draws_that_have_labels() -> None:
    values = [[1.0, torch.nan, 8.0, torch.nan], [3.0, 5.0, torch.inf, torch.nan], [8.0, 9.0, 2.0, torch.nan]]
    active = torch.tensor([[1, 0, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0]]).bool()
    draws = [
        Objectives([torch.tensor(losses[:1]), torch.tensor(losses[1:])], some, [])
        for losses, some in zip(values, active, strict=True)
    ]
    step = Step.of(draws, torch.ones(4), None)
    assert step.losses.tolist() == [4, 7, torch.inf, 0] and step.active.tolist() == [True, True, True, False]
    tasks = Tasks.of(torch.ones(4), draws)
    assert tasks.losses.tolist() == [4, 7, 1, 1]
    assert tasks.usable.tolist() == [True, True, False, False] and tasks.broken.tolist() == [False, False, True, False]


@each_option
def test_a_step_reports_the_losses_of_the_parts_that_have_labels(option: str, make_config: MakeConfig) -> None:
    trainer = trainer_on(made(), make_config(f"weighting={option}"))
    batch, count = first_batch(trainer), trainer.weighting.draws
    rows = torch.arange(batch.size("input")) % count > 0
    none_in_the_first = {key: rows.float().reshape(-1, *[1] * (value.dim() - 1)) for key, value in batch.targets.items()}
    weights = {key: value.expand(batch.targets[key].shape) for key, value in none_in_the_first.items()}
    expected = torch.stack([trainer.objectives(part).losses for part in batch.chunk(count)[1:]]).mean(0)
    step = trainer.train_step(replace(batch, weights=weights))
    assert step.active.all()
    torch.testing.assert_close(step.losses, expected)


@each_option
@pytest.mark.parametrize("heads", ["own", "weighted"])
def test_gradients_are_means_over_the_draws_that_have_labels(option: str, heads: str, make_config: MakeConfig) -> None:
    """As losses are; in a step that computes weights and in one that uses them again."""
    trainer = trainer_on(made(), make_config(f"weighting={option}", "weighting.every=2", f"weighting.heads={heads}"))
    for step in range(2):
        batch, count = first_batch(trainer), trainer.weighting.draws
        some = torch.arange(batch.size("input")) % count > 0  # no labels in the first draw for the first task of each group
        weights = {key: torch.ones_like(value, dtype=torch.float32) for key, value in batch.targets.items()}
        for value in weights.values():
            value[~some, 0] = 0
        draws = replace(batch, weights=weights).chunk(count)
        shared, private = (
            torch.stack([jacobian(trainer, draw, each) for draw in draws]).sum(0)
            / torch.stack([trainer.objectives(draw).active for draw in draws]).sum(0)[:, None]
            for each in (trainer.shared, trainer.private)
        )
        if option == "sdmgrad" and step == 0:
            shared = jacobian(trainer, draws[-1], trainer.shared)
        trainer.learner.zero_grad()
        shown = trainer.weighting.backward(*[trainer.objectives(draw) for draw in draws]).float()
        torch.testing.assert_close(written(trainer.shared), shown @ shared / 4, rtol=1e-3, atol=1e-5)
        each = torch.ones(4) if heads == "own" else shown / 4
        torch.testing.assert_close(written(trainer.private), each @ private, rtol=1e-3, atol=1e-5)


@each_option
def test_a_batch_is_divided_and_a_small_one_used_as_it_is(
    option: str, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_on(made(), make_config(f"weighting={option}", "trainer.batch_size=12"))
    sizes: list[list[int]] = []
    whole = trainer.objectives
    monkeypatch.setattr(trainer, "objectives", lambda batch: sizes[-1].append(batch.size("input")) or whole(batch))
    for epoch in (1, 2):
        for batch in trainer.loader.epoch(trainer.training_part(), epoch):
            sizes.append([])
            assert trainer.train_step(batch).weights.isfinite().all()
    divided = {"modo": [6, 6], "sdmgrad": [4, 4, 4]}[option]
    assert sizes == ([divided] * 4 + [[2] * len(divided)]) * 2
    assert trainer.progress.skipped == 0


@each_option
@pytest.mark.parametrize("count", [1, 2, 5])
def test_identical_tasks_move_the_shared_part_as_one(option: str, count: int, make_config: MakeConfig) -> None:
    """As the mean over the draws does, for MoDo; as the last draw, for SDMGrad."""
    one, many = (trainer_on(copies(n), make_config(f"weighting={w}")) for n, w in ((1, "equal"), (max(count, 2), option)))
    (group,), (single,) = many.groups.values(), one.groups.values()
    with torch.no_grad():
        for parameter, value in zip(group.head.parameters(), single.head.parameters(), strict=True):
            parameter.copy_(value.expand_as(parameter))
    plain = first_batch(one).chunk(many.weighting.draws)
    parameters = list(one.model.sharing.parameters())
    gradients = [jacobian(one, draw, parameters)[0] for draw in plain]
    expected = (gradients[0] + gradients[1]) / 2 if option == "modo" else gradients[2]
    shown = many.weighting.backward(*[many.objectives(draw) for draw in first_batch(many).chunk(many.weighting.draws)])
    torch.testing.assert_close(shown.float(), torch.ones(len(shown)))
    torch.testing.assert_close(written(many.shared), expected, rtol=1e-3, atol=1e-6)


@each_option
def test_a_trainer_that_goes_on_from_a_file_is_the_one_that_never_stopped(
    option: str, make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(f"weighting={option}", "trainer.batch_size=16", "weighting.every=2")
    one, other = trainer_on(made(), config), trainer_on(made(), config)
    one.epoch()
    torch.save({"model": one.model.state_dict(), "trainer": one.state_dict()}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert (state["trainer"]["now"]["weighting"]["simplex._extra_state"]["values"] - 0.25).abs().max() > 1e-6
    other.model.load_state_dict(state["model"])
    other.load_state_dict(state["trainer"])
    assert one.epoch() == other.epoch()
    assert same(one.model.state_dict(), other.model.state_dict()) and same(one.state_dict(), other.state_dict())


@each_option
def test_gradients_of_features_are_refused(option: str, make_config: MakeConfig) -> None:
    lines = problems(make_config(f"weighting={option}", "+weighting.gradients=features"))
    assert len(lines) == 1 and "no such key" in lines[0]


@pytest.mark.slow
@each_option
def test_a_step_takes_at_most_twice_that_of_mgda(option: str, make_config: MakeConfig) -> None:
    """Where the arithmetic counts; in the smallest networks each draw costs its own fixed overhead."""
    data = made(rows={"input": 600})
    trainers = {
        name: trainer_on(data, make_config(f"weighting={name}", "trainer.batch_size=256", "encoder.hidden=[512,512,512]"))
        for name in (option, "mgda")
    }
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for _ in range(30):
        for name, trainer in trainers.items():
            batch = first_batch(trainer)
            start = time.perf_counter()
            trainer.train_step(batch)
            seconds[name].append(time.perf_counter() - start)
    assert min(seconds[option]) < 2 * min(seconds["mgda"])
