"""GradDrop, MoCo, DB-MTL and ExcessMTL on long trajectories, against TorchJD or the papers' loops on plain vectors."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from handmade import made, same, trainer_on
from omegaconf import DictConfig
from torch import Tensor
from torchjd import aggregation

from mtl_runner.config.schema import problems
from mtl_runner.weighting.db_mtl import DBMTL
from mtl_runner.weighting.excess_mtl import ExcessMTL
from mtl_runner.weighting.graddrop import GradDrop
from mtl_runner.weighting.gradient import JacobianWeighting
from mtl_runner.weighting.memory import Memory
from mtl_runner.weighting.moco import MoCo

MEMORY = ("moco", "db_mtl", "excess_mtl")
CLASSES: dict[str, Callable[..., JacobianWeighting]] = {
    "moco": MoCo,
    "db_mtl": DBMTL,
    "excess_mtl": ExcessMTL,
    "graddrop": GradDrop,
}
Step = tuple[Tensor, Tensor]

each_memory = pytest.mark.parametrize("option", MEMORY)
each_method = pytest.mark.parametrize("option", CLASSES)


def names(count: int) -> list[str]:
    return [f"task_{t}" for t in range(count)]


def make(option: str, count: int, **changes: object) -> JacobianWeighting:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return CLASSES[option](names(count), **changes)


def trajectory(tasks: int, entries: int = 30, steps: int = 25, seed: int = 0) -> Iterator[Step]:
    """Noisy gradients that shrink and turn, and losses that fall at different paces."""
    draws = torch.Generator().manual_seed(seed)
    base = torch.randn(tasks, entries, generator=draws) * torch.logspace(-0.5, 0.5, tasks)[:, None]
    for step in range(steps):
        noise = torch.randn(tasks, entries, generator=draws)
        losses = torch.linspace(0.5, 3, tasks, dtype=torch.float64) * 0.97 ** (step * torch.arange(1, tasks + 1))
        yield (base + 0.4 * noise) * 0.96**step, losses


def on(tasks: int) -> Tensor:
    return torch.ones(tasks, dtype=torch.bool)


def projected(values: Tensor) -> Tensor:
    """The closest point of the simplex, by bisection for the threshold."""
    low, high = values.min() - 1, values.max()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (values - middle).clamp_min(0).sum() > 1 else (low, middle)
    return (values - (low + high) / 2).clamp_min(0)


# ---- GradDrop -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leak", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("tasks", [2, 7])
def test_graddrop_is_that_of_torchjd(leak: float, tasks: int) -> None:
    method = make("graddrop", tasks, leak=leak)
    theirs = aggregation.GradDrop(leak=torch.full((tasks,), leak))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(method.draws_of_sign._seed)
        for jacobian, losses in trajectory(tasks):
            update, _ = method.aggregate(jacobian, losses, on(tasks))
            torch.testing.assert_close(update, theirs(jacobian))


def test_graddrop_passes_a_sign_as_often_as_its_purity_says() -> None:
    jacobian = torch.tensor([[3.0], [-1.0], [0.5], [0.0]]).expand(4, 40_000)
    update, shares = make("graddrop", 4).aggregate(jacobian, torch.ones(4), on(4))
    assert set(update.tolist()) == {3.5, -1.0}
    positive = (update > 0).float().mean().item()
    assert positive == pytest.approx(3.5 / 4.5, abs=0.01)
    torch.testing.assert_close(shares, torch.tensor([positive, 1 - positive, positive, 1.0]), rtol=1e-3, atol=0)


def test_graddrop_drops_nothing_where_tasks_agree_and_all_of_the_lesser_without_a_chance() -> None:
    jacobian = torch.rand(3, 5000, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 7.0, 0.1])[:, None]
    for signed in (jacobian, -jacobian):
        update, shares = make("graddrop", 3).aggregate(signed, torch.ones(3), on(3))
        assert torch.equal(update, signed.sum(0)) and torch.allclose(shares, torch.ones(3))


# ---- MoCo -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"gamma": 1.0, "rho": 0.2, "beta": 0.9, "beta_sigma": 0.1, "gamma_sigma": 0.0}])
@pytest.mark.parametrize("tasks", [2, 5])
def test_moco_is_the_papers_loop(settings: dict[str, float], tasks: int) -> None:
    method = make("moco", tasks, **settings)
    beta, beta_sigma = settings.get("beta", 0.5), settings.get("beta_sigma", 0.5)
    gamma, gamma_sigma, rho = settings.get("gamma", 0.1), settings.get("gamma_sigma", 0.5), settings.get("rho", 0.0)
    tracked, weights = [], torch.full((tasks,), 1 / tasks, dtype=torch.float64)
    seen = []
    for k, (raw, losses) in enumerate(trajectory(tasks), start=1):
        jacobian = raw / 6
        gradients = list(jacobian.double())
        tracked = gradients if k == 1 else [y - beta / k**beta_sigma * (y - g) for y, g in zip(tracked, gradients, strict=True)]
        products = torch.tensor([[float(one @ other) for other in tracked] for one in tracked], dtype=torch.float64)
        slope = (products + rho * torch.eye(tasks)) @ weights
        weights = projected(weights - gamma / k**gamma_sigma * slope)
        expected = sum(float(w) * y for w, y in zip(weights, tracked, strict=True))
        update, found = method.aggregate(jacobian, losses, on(tasks))
        torch.testing.assert_close(found, weights, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(update.double(), expected, rtol=1e-3, atol=1e-5)
        seen.append(weights)
    assert (seen[0] - seen[-1]).abs().max() > 0.05, "the weights moved"


def test_every_step_counts_for_the_step_of_mocos_weights() -> None:
    """γ decays with the steps, also with those in which a task is absent."""
    method = make("moco", 3, gamma=0.5)
    for k, (jacobian, losses) in enumerate(trajectory(3, steps=6), start=1):
        active = torch.arange(3) != k % 3
        before = method.simplex.start(losses, active)[active]
        _, weights = method.aggregate(jacobian.masked_fill(~active[:, None], 0) / 6, losses, active)
        rows = next(module for module in method.modules() if isinstance(module, Memory)).rows[active].double()
        torch.testing.assert_close(
            weights[active], projected(before - 0.5 / k**0.5 * (rows @ rows.T @ before)), rtol=1e-4, atol=1e-5
        )


def test_moco_comes_to_the_min_norm_weights_of_constant_gradients() -> None:
    draws = torch.Generator().manual_seed(4)
    jacobian = torch.randn(4, 12, generator=draws) + 0.3
    method = make("moco", 4, gamma_sigma=0.0, gamma=0.03)
    for _ in range(600):
        _, weights = method.aggregate(jacobian, torch.ones(4, dtype=torch.float64), on(4))
    products = jacobian.double() @ (jacobian.double().T @ weights)
    least = products @ weights
    assert (products > 0.99 * least).all() and ((products < 1.01 * least) | (weights < 1e-3)).all(), "the optimality conditions"


# ---- DB-MTL ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"beta": 0.5, "beta_sigma": 0.5}, {"beta": 0.0}])
def test_db_mtl_is_the_papers_loop(settings: dict[str, float]) -> None:
    tasks = 4
    method = make("db_mtl", tasks, **settings)
    beta, sigma = settings.get("beta", 0.9), settings.get("beta_sigma", 0.0)
    averages: list[Tensor] = []
    for k, (jacobian, losses) in enumerate(trajectory(tasks), start=1):
        gradients = [g / (loss + 1e-8) for g, loss in zip(jacobian.double(), losses, strict=True)]
        share = beta / k**sigma
        averages = gradients if k == 1 else [share * a + (1 - share) * g for a, g in zip(averages, gradients, strict=True)]
        largest = max(float(a.norm()) for a in averages)
        expected = sum(largest * a / a.norm() for a in averages)
        update, weights = method.aggregate(jacobian, losses, on(tasks))
        torch.testing.assert_close(update.double(), expected, rtol=1e-4, atol=1e-5)
        by_hand = torch.stack([largest / a.norm() for a in averages]) / losses
        torch.testing.assert_close(weights, by_hand, rtol=1e-4, atol=0)


def test_log_losses_are_what_db_mtl_descends(make_config: Callable[..., DictConfig]) -> None:
    """With autograd of the logarithms as the oracle: shared part and heads, on the paper's scale and on the comparable one."""
    for scale in ("paper", "comparable"):
        trainer = trainer_on(made(), make_config("weighting=db_mtl", "weighting.beta=0", f"weighting.scale={scale}"))
        batch = next(trainer.loader.epoch(trainer.training_part(), 1))
        plain = {
            key: group.losses(trainer.model.outputs(batch.inputs)[key], batch.targets[key])[0]
            for key, group in trainer.groups.items()
        }
        losses = torch.cat(list(plain.values()))
        rows = []
        for loss in losses:
            found = torch.autograd.grad(loss.log(), trainer.shared, retain_graph=True, allow_unused=True)
            rows.append(
                torch.cat(
                    [(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(trainer.shared, found, strict=True)]
                )
            )
        norms = torch.stack(rows).norm(dim=1)
        weights = norms.max() / norms / losses.detach()
        update = (norms.max() / norms) @ torch.stack(rows)
        heads = torch.autograd.grad(losses.log().sum(), trainer.private, allow_unused=True)
        unit, head_unit = (1.0, 1.0) if scale == "paper" else (4 * weights.mean(), (1 / losses.detach()).mean())
        shown = trainer.weighting.backward(trainer.objectives(batch))
        written = torch.cat([parameter.grad.flatten() for parameter in trainer.shared])
        torch.testing.assert_close(written, update / unit, rtol=1e-3, atol=1e-5)
        for parameter, expected in zip(trainer.private, heads, strict=True):
            torch.testing.assert_close(parameter.grad, expected / head_unit, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(shown.float(), weights if scale == "paper" else weights / weights.mean(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("losses", [[0.0, 1.0, 2.0], [1e-20, 1e20, 1.0], [-1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
def test_db_mtl_is_finite_on_extreme_losses(losses: list[float]) -> None:
    method = make("db_mtl", 3)
    jacobian = torch.randn(3, 10, generator=torch.Generator().manual_seed(0))
    update, weights = method.aggregate(jacobian, torch.tensor(losses, dtype=torch.float64), on(3))
    assert update.isfinite().all() and weights.isfinite().all() and (weights >= 0).all()


# ---- ExcessMTL ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("eta", "warmup"), [(0.01, 1), (0.5, 1), (0.1, 4)])
@pytest.mark.parametrize("tasks", [2, 6])
def test_excess_mtl_is_that_of_torchjd(eta: float, warmup: int, tasks: int) -> None:
    method = make("excess_mtl", tasks, eta=eta, warmup=warmup)
    theirs = aggregation.ExcessMTLWeighting(robust_step_size=eta, n_warmup_steps=warmup)
    for jacobian, losses in trajectory(tasks):
        expected = theirs(jacobian)
        update, weights = method.aggregate(jacobian, losses, on(tasks))
        torch.testing.assert_close(weights.float(), expected, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(update, expected @ jacobian, rtol=1e-3, atol=1e-5)
    assert expected.max() > 1.001 * expected.min(), "the weights moved"


def test_excess_mtl_survives_a_task_that_starts_with_no_gradient() -> None:
    method = make("excess_mtl", 3, eta=1.0)
    for step in range(30):
        jacobian = torch.ones(3, 5)
        jacobian[0] *= step > 3
        update, weights = method.aggregate(jacobian, torch.ones(3, dtype=torch.float64), on(3))
        assert update.isfinite().all() and weights.isfinite().all()
        assert weights.sum().item() == pytest.approx(1, rel=1e-5)


# ---- all that remember ----------------------------------------------------------------------------------------------------


@each_method
def test_tasks_without_labels_are_not_there_and_lose_nothing(option: str) -> None:
    """The others' steps are those of a run without them; their own memory is as it was."""
    absent = torch.tensor([False, True, False, False, True])
    method, without = make(option, 5), make(option, 3)
    for jacobian, losses in trajectory(5, steps=20):
        update, weights = method.aggregate(jacobian.masked_fill(absent[:, None], 0), losses.where(~absent, 1), ~absent)
        expected, others = without.aggregate(jacobian[~absent], losses[~absent], on(3))
        torch.testing.assert_close(update, expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(weights[~absent], others, rtol=1e-4, atol=1e-6)
        shown = method.shown(weights, ~absent)
        torch.testing.assert_close(shown[~absent], without.shown(others, on(3)), rtol=1e-4, atol=1e-6)
        heads = method.private(weights, losses.where(~absent, 1), ~absent)
        torch.testing.assert_close(heads[~absent], without.private(others, losses[~absent], on(3)), rtol=1e-4, atol=1e-6)
        assert (weights[absent] == 0).all()
    for memory in (module for module in method.modules() if isinstance(module, Memory)):
        assert (memory.rows[absent] == 0).all() and (memory.steps == torch.where(absent, 0, 20)).all()


@each_memory
def test_what_is_remembered_of_a_task_outlasts_steps_without_it(option: str) -> None:
    method = make(option, 3)
    steps = list(trajectory(3, steps=12))
    active = torch.tensor([True, True, False])
    for jacobian, losses in steps[:5]:
        method.aggregate(jacobian, losses, on(3))
    rows = next(module for module in method.modules() if isinstance(module, Memory))
    kept = rows.rows[2].clone()
    share = method.simplex.values[2].item() if option == "moco" else None
    mass = method.logs.exp()[2].item() if option == "excess_mtl" else None
    for jacobian, losses in steps[5:8]:
        _, weights = method.aggregate(jacobian.masked_fill(~active[:, None], 0), losses.where(active, 1), active)
        assert weights[2] == 0
    assert torch.equal(rows.rows[2], kept) and rows.steps.tolist() == [8, 8, 5]
    if share is not None:
        assert method.simplex.values[2].item() == share and method.simplex.values.sum().item() == pytest.approx(1)
    if mass is not None:
        assert method.logs.exp()[2].item() == mass and method.logs.exp().sum().item() == pytest.approx(3, rel=1e-5)


@each_memory
def test_what_is_shared_changes_and_memory_starts_anew(option: str) -> None:
    """For each task in its first step with labels after that."""
    changed, fresh = (make(option, 3, **({"warmup": 2} if option == "excess_mtl" else {})) for _ in range(2))
    for jacobian, losses in trajectory(3, entries=30, steps=5):
        changed.aggregate(jacobian, losses, on(3))
    for step, (jacobian, losses) in enumerate(trajectory(3, entries=12, steps=8, seed=1)):
        active = torch.tensor([True, step > 0, step != 3])
        for method in (changed, fresh):
            method.aggregate(jacobian.masked_fill(~active[:, None], 0), losses.where(active, 1), active)
        memories = [next(module for module in method.modules() if isinstance(module, Memory)) for method in (changed, fresh)]
        assert same(memories[0].state_dict(), memories[1].state_dict())
        if option == "excess_mtl" and step:
            assert torch.equal(changed.initial, fresh.initial)


@each_method
def test_a_batch_without_any_label_moves_nothing(option: str) -> None:
    method = make(option, 3)
    steps = list(trajectory(3, steps=4))
    method.aggregate(*steps[0], on(3))
    before = copy.deepcopy({key: value for key, value in method.state_dict().items() if "draws" not in key and key != "taken"})
    update, weights = method.aggregate(torch.zeros(3, 30), torch.ones(3, dtype=torch.float64), ~on(3))
    assert not update.any() and not weights.any()
    after = method.state_dict()
    assert all(same(value, after[key]) for key, value in before.items())


@each_method
@pytest.mark.parametrize("at", [0, 1, 7])
def test_state_makes_the_round_trip_through_a_file(option: str, at: int, tmp_path: Path) -> None:
    one, steps = make(option, 4), list(trajectory(4, steps=12))
    for step in steps[:at]:
        one.aggregate(*step, on(4))
    torch.save(one.state_dict(), tmp_path / "state.pt")
    with torch.random.fork_rng(devices=[]):
        other = CLASSES[option](names(4))
    if at == 0 and option == "graddrop":
        other.draws_of_sign._seed = one.draws_of_sign._seed
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    other.load_state_dict(loaded)
    for step in steps[at:]:
        for found, expected in zip(other.aggregate(*step, on(4)), one.aggregate(*step, on(4)), strict=True):
            assert torch.equal(found, expected)
    again = torch.load(tmp_path / "state.pt", weights_only=True)
    assert all(same(value, again[key]) for key, value in loaded.items() if "memory" in key), "the loaded state is not written to"


@each_method
@pytest.mark.parametrize("tasks", [1, 3])
def test_extreme_gradients_stay_finite(option: str, tasks: int) -> None:
    for size in (0.0, 1e-15, 1e15):
        method = make(option, tasks)
        for jacobian, losses in trajectory(tasks, steps=5):
            jacobian = jacobian * size
            jacobian[0] *= 0 if tasks > 1 else 1
            update, weights = method.aggregate(jacobian, losses, on(tasks))
            assert update.isfinite().all() and weights.isfinite().all() and (weights >= -1e-9).all()


@each_memory
def test_identical_tasks_move_as_one_in_every_step(option: str) -> None:
    """In the first step as the gradient; afterwards as the method does with one task."""
    many, one = make(option, 5), make(option, 1)
    for k, (jacobian, losses) in enumerate(trajectory(1, steps=20)):
        results = [method.aggregate(jacobian.expand(n, -1), losses.expand(n), on(n)) for method, n in ((many, 5), (one, 1))]
        updates = [
            update * method.factor(weights, on(len(weights)))
            for method, (update, weights) in zip((many, one), results, strict=True)
        ]
        torch.testing.assert_close(updates[0].float(), updates[1].float(), rtol=1e-4, atol=1e-6)
        if k == 0:
            torch.testing.assert_close(updates[1].float(), jacobian[0], rtol=1e-4, atol=1e-6)


@each_memory
def test_gradients_of_features_are_refused(option: str, make_config: Callable[..., DictConfig]) -> None:
    lines = problems(make_config(f"weighting={option}", "+weighting.gradients=features"))
    assert len(lines) == 1 and "no such key" in lines[0]


@each_memory
def test_a_trainer_that_goes_on_from_a_file_is_the_one_that_never_stopped(
    option: str, make_config: Callable[..., DictConfig], tmp_path: Path
) -> None:
    """With a last batch of two rows."""
    config = make_config(f"weighting={option}", "trainer.batch_size=16")
    one, other = trainer_on(made(), config), trainer_on(made(), config)
    one.epoch()
    torch.save({"model": one.model.state_dict(), "trainer": one.state_dict()}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    kept = state["trainer"]["now"]["weighting"]
    assert kept["memory._extra_state"]["rows"].any() and kept["memory.steps"].min() > 0
    other.model.load_state_dict(state["model"])
    other.load_state_dict(state["trainer"])
    assert one.epoch() == other.epoch()
    assert one.progress.skipped == 0
    assert same(one.model.state_dict(), other.model.state_dict()) and same(one.state_dict(), other.state_dict())


@each_memory
def test_memory_starts_anew_where_tasks_are_grouped_in_another_way(option: str, make_config: Callable[..., DictConfig]) -> None:
    """Other clusters over the same encoders: as many parameters, under the same names."""
    groups = "sharing.groups=[[yes,sort],[size,pair]]"
    trainer = trainer_on(made(), make_config(f"weighting={option}", "sharing=clustered", groups, "trainer.batch_size=16"))
    memory = next(module for module in trainer.weighting.modules() if isinstance(module, Memory))
    for epoch in (1, 2):
        trainer.epoch()
        assert memory.steps.tolist() == [4 * epoch] * 4
    sizes = [parameter.numel() for parameter in trainer.shared]
    trainer.model.sharing._assign([0, 1, 0, 1])
    trainer.epoch()
    assert [parameter.numel() for parameter in trainer.shared] == sizes and memory.steps.tolist() == [4] * 4
    first, second = memory.rows.split(sum(sizes) // 2, dim=1)
    assert first.any(1).tolist() == [True, False, True, False] and second.any(1).tolist() == [False, True, False, True]
    trainer.epoch()
    assert memory.steps.tolist() == [8] * 4


@each_memory
def test_memory_starts_anew_where_a_tree_is_found(option: str, make_config: Callable[..., DictConfig]) -> None:
    """With one stage, all copies of which are one stacked module, what is shared has the same names before and after."""
    given = ("sharing=ltb", "sharing.copies=2", "sharing.search_epochs=1", "encoder.hidden=[6]", "trainer.batch_size=16")
    trainer = trainer_on(made(), make_config(f"weighting={option}", *given))
    memory = next(module for module in trainer.weighting.modules() if isinstance(module, Memory))
    with torch.no_grad():
        trainer.model.sharing.task_theta[:2, 0] = trainer.model.sharing.task_theta[2:, 1] = 9
    for steps in (4, 4, 8):
        trainer.epoch()
        assert memory.steps.tolist() == [steps] * 4


def test_memory_starts_anew_where_other_parameters_are_shared(make_config: Callable[..., DictConfig]) -> None:
    """As many, in a mode that keeps no assignment."""
    trainer = trainer_on(made(), make_config("weighting=moco", "encoder.hidden=[6,6]"))
    sharing, memory = trainer.model.sharing, trainer.weighting.memory
    for stage, anew in ((0, True), (0, False), (1, True), (1, False)):
        sharing.shared = lambda stage=stage: list(sharing.encoder.stages[stage].parameters())
        trainer.look_at_what_is_shared()
        assert (memory.rows is None) == anew
        memory.begin(torch.ones(4, sum(parameter.numel() for parameter in trainer.shared)), on(4))


@each_memory
@pytest.mark.parametrize("stop", [1, 2])
def test_a_run_that_goes_on_remembers_the_grouping(
    option: str, stop: int, make_config: Callable[..., DictConfig], tmp_path: Path
) -> None:
    """Whether it stopped before the tasks changed clusters or after."""
    config = make_config(f"weighting={option}", "sharing=clustered", "sharing.groups=[[yes,sort],[size,pair]]")
    one, other = trainer_on(made(), config), trainer_on(made(), config)
    for trainer in (one, other):
        sharing = trainer.model.sharing
        sharing.before_epoch = lambda epoch, sharing=sharing: sharing._assign([0, 1, 1, 1] if epoch == 2 else sharing.labels)
    for _ in range(stop):
        one.epoch()
    torch.save({"model": one.model.state_dict(), "trainer": one.state_dict()}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    other.model.load_state_dict(state["model"])
    other.load_state_dict(state["trainer"])
    for _ in range(2):
        assert one.epoch() == other.epoch()
    assert same(one.state_dict(), other.state_dict())


def test_a_checkpoint_that_knows_no_grouping_keeps_what_it_remembers() -> None:
    memory = Memory(2)
    memory.begin(torch.ones(2, 3), on(2))[0].fill_(1)
    state = memory.state_dict()
    del state["_extra_state"]["grouping"]
    other = Memory(2)
    other.regroup(("first",))
    other.load_state_dict(state)
    other.regroup(("second",))
    assert torch.equal(other.begin(torch.ones(2, 3), on(2))[0], torch.ones(2, 3)) and other.steps.tolist() == [2, 2]
    other.regroup(("second",))
    assert other.begin(torch.ones(2, 3), on(2))[0].all()
    again = Memory(2)
    again.load_state_dict(other.state_dict())
    for each in (other, again):
        each.regroup(("third",))
        assert each.rows is None
    assert not other.begin(torch.ones(2, 3), on(2))[0].any() and other.steps.tolist() == [1, 1]
