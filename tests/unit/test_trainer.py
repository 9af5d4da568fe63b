"""Labels that are missing, weights, roles, stopping, skipped steps, budgets, clipping: what a step and an epoch do."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from handmade import TASKS, made, same, trainer_on, training_on, two_streams, with_part
from omegaconf import DictConfig
from torch import Tensor

from mtl_runner.batch import MISSING, Batch, Data
from mtl_runner.encoders.base import FeatureSpec
from mtl_runner.errors import UserError
from mtl_runner.learner import Stopping
from mtl_runner.plan import planned_epochs
from mtl_runner.tasks import make_tasks
from mtl_runner.tasks.group import TaskGroup, masked, pack
from mtl_runner.trainer import Trainer
from mtl_runner.training import Training

Config = Callable[..., DictConfig]
MODES = pytest.mark.parametrize("sharing", ["hard", "soft", "none"])


def unlabelled(target: Tensor) -> Tensor:
    return torch.full_like(target, torch.nan if target.is_floating_point() else MISSING)


def without_labels(data: Data, task: str, *parts: str, keep: slice = slice(0, 0)) -> Data:
    """The data with no label of ``task`` in these parts, but for the rows ``keep``."""
    for part in parts:
        split = data.splits[part]
        target = unlabelled(split.targets[task])
        target[keep] = split.targets[task][keep]
        data = with_part(data, part, targets={**split.targets, task: target})
    return data


def step(trainer: Trainer, batch: Batch | None = None) -> Any:
    trainer.model.train()
    return trainer.train_step(batch or next(trainer.loader.epoch(trainer.training_part(), 1)))


def weights(trainer: Trainer | Training) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters()}


# ---- labels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("weighting", ["equal", "dynamic", "uncertainty"])
def test_a_task_without_labels_in_a_batch_moves_nothing(task: str, weighting: str, make_config: Config) -> None:
    data = without_labels(made(), task, "train")
    trainer = trainer_on(data, make_config(f"weighting={weighting}"))
    taken = step(trainer)
    place = trainer.names.index(task)
    assert not taken.active[place] and taken.weights[place] == 0 and taken.active.sum() == len(TASKS) - 1
    heads = {name: group.head for group in trainer.model.task_groups.values() for name in group.names}
    assert all((heads[name].weight.grad != 0).any() == (name != task) for name in TASKS)


@MODES
@pytest.mark.parametrize("parts", [("train",), ("validation",), ("train", "validation", "test"), ("test",)], ids=" ".join)
def test_a_part_without_labels_is_survived(sharing: str, parts: tuple[str, ...], make_config: Config) -> None:
    training = training_on(without_labels(made(), "sort", *parts), make_config(f"sharing={sharing}"))
    last = list(training.fit())[-1].metrics
    assert ("train/sort/loss" in last) == ("weight/sort" in last) == ("train" not in parts)
    assert ("validation/sort/accuracy" in last) == ("validation/sort/loss" in last) == ("validation" not in parts)
    assert "validation/average" in last and "train/yes/loss" in last


@pytest.mark.parametrize("task", TASKS)
def test_the_loss_is_the_mean_over_what_is_labelled(task: str, make_config: Config) -> None:
    kept = slice(3, 20)
    data = without_labels(made(), task, "train", keep=kept)
    trainer = trainer_on(data, make_config("trainer.batch_size=50"))
    losses = dict(zip(trainer.names, trainer.objectives(trainer.training_part()).losses.tolist(), strict=True))
    few = trainer_on(
        with_part(made(), "train", **vars(made().splits["train"].take({"input": torch.arange(3, 20)}))), make_config()
    )
    expected = dict(zip(few.names, few.objectives(few.training_part()).losses.tolist(), strict=True))
    assert losses[task] == pytest.approx(expected[task], rel=1e-5)
    assert all(losses[other] != pytest.approx(expected[other], rel=1e-5) for other in TASKS if other != task)


def test_one_output_of_several_may_lack_its_label(make_config: Config) -> None:
    data = made()
    pair = data.splits["train"].targets["pair"].clone()
    pair[::2, 0] = torch.nan
    trainer = trainer_on(with_part(data, "train", targets={**data.splits["train"].targets, "pair": pair}), make_config())
    outputs = trainer.model(data.splits["train"].inputs)["pair"].detach()
    loss = trainer.objectives(trainer.training_part()).losses[trainer.names.index("pair")]
    assert loss.item() == pytest.approx(float(((outputs - pair) ** 2).nanmean()), rel=1e-5)


# ---- example weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("imbalance", ["none", "focal"])
@MODES
def test_weights_are_as_good_as_repeated_rows(sharing: str, imbalance: str, make_config: Config) -> None:
    data, times = made(), torch.randint(0, 4, (50,), generator=torch.Generator().manual_seed(0))
    weighted = with_part(data, "train", weights=dict.fromkeys(TASKS, times.float()))
    repeated = with_part(data, "train", **vars(data.splits["train"].take({"input": torch.arange(50).repeat_interleave(times)})))
    results = []
    for rows in (weighted, repeated):
        training = training_on(rows, make_config(f"sharing={sharing}", f"imbalance={imbalance}", "optimizer=sgd"))
        losses = [step(trainer, trainer.training_part()).losses for trainer in training.trainers]
        results.append((torch.cat(losses), weights(training)))
    assert torch.allclose(results[0][0], results[1][0], rtol=1e-5)
    assert all(torch.allclose(results[0][1][name], value, atol=1e-6) for name, value in results[1][1].items())


def test_weights_of_one_task_leave_the_others(make_config: Config) -> None:
    data = made()
    some = with_part(data, "train", weights={"yes": torch.linspace(0, 1, 50)})
    plain, weighted = (trainer_on(rows, make_config()) for rows in (data, some))
    before, after = (trainer.objectives(trainer.training_part()).losses for trainer in (plain, weighted))
    assert [name for name, a, b in zip(plain.names, before, after, strict=True) if not torch.isclose(a, b)] == ["yes"]


def test_the_weight_of_a_row_counts_for_all_its_outputs() -> None:
    split = with_part(made(), "train", weights={"pair": torch.arange(50.0)}).splits["train"]
    group = TaskGroup(make_tasks({"pair": TASKS["pair"]}), FeatureSpec((4,)), seed=0)
    ready = masked(pack(split, {"pairs": group}))
    outputs = torch.randn(1, 50, 2)
    loss, active = group.losses(outputs, ready.targets["pairs"], ready.weights["pairs"])
    values = ((outputs[0] - split.targets["pair"]) ** 2).mean(1)
    assert loss.item() == pytest.approx(float((values * torch.arange(50.0)).sum() / 1225), rel=1e-5)
    assert active.tolist() == [True]


# ---- roles, scores, early stopping ----------------------------------------------------------------------------------


def test_an_auxiliary_task_trains_but_does_not_count(make_config: Config) -> None:
    tasks = {**TASKS, "size": replace(TASKS["size"], role="auxiliary")}
    training = training_on(made(tasks), make_config())
    (trainer,) = training.trainers
    before, (epoch, *_) = weights(trainer), training.fit()
    values = epoch.metrics
    primaries = [values[f"validation/{name}/{trainer.tasks[name].primary.name}"] for name in ("yes", "sort", "pair")]
    assert values["validation/average"] == pytest.approx(sum(primaries) / 3)
    assert "validation/size/r2" in values and "train/size/loss" in values
    place = next(key for key, group in trainer.model.task_groups.items() if "size" in group.names)
    head = f"groups.{place}.head.weight"
    assert not torch.equal(before[head], weights(trainer)[head])


@pytest.mark.parametrize("role", ["main", "auxiliary"])
def test_tasks_are_all_that_counts_where_none_is_main(role: Any, make_config: Config) -> None:
    training = training_on(made({name: replace(spec, role=role) for name, spec in TASKS.items()}), make_config())
    epoch = next(training.fit())
    assert ("validation/average" in epoch.metrics) == (role == "main")
    assert training.trainers[0].learner.stopping.best is not None and training.average() is not None


def test_early_stopping_watches_the_task_that_it_is_told_to(make_config: Config) -> None:
    for monitor in ("yes", "size"):
        training = training_on(made(), make_config(f"trainer.early_stopping.monitor={monitor}", "trainer.epochs=6"))
        (trainer,) = training.trainers
        scores = [epoch.metrics[f"validation/{monitor}/{trainer.tasks[monitor].primary.name}"] for epoch in training.fit()]
        assert trainer.learner.stopping.best == max(scores)
        assert trainer.learner.stopping.best_epoch == scores.index(max(scores)) + 1
    with pytest.raises(UserError, match="did you mean 'size'"):
        trainer_on(made(), make_config("trainer.early_stopping.monitor=sise"))


@MODES
def test_best_weights_are_those_of_the_best_epoch(sharing: str, make_config: Config) -> None:
    config = make_config(f"sharing={sharing}", "optimizer.lr=0.1", "trainer.epochs=8", "trainer.early_stopping.patience=null")
    training = training_on(made(), config)
    learners = [trainer.learner for trainer in training.trainers]
    seen = [[copy.deepcopy(learner._modules.state_dict()) for learner in learners] for _ in training.fit()]
    training.restore_best()
    best = [learner.stopping.best_epoch for learner in learners]
    assert len(best) == (4 if sharing == "none" else 1) and min(best) < 8
    for place, learner in enumerate(learners):
        assert same(learner._modules.state_dict(), seen[best[place] - 1][place])


@pytest.mark.parametrize(
    ("scores", "patience", "delta", "best", "stops"),
    [
        ([1, 2, 3, 4], 1, 0.0, 4, None),
        ([1, 3, 2, 2, 5], 2, 0.0, 2, 4),
        ([1, 1, 1], 2, 0.0, 1, 3),
        ([1.0, 1.05, 1.2, 1.25], 1, 0.1, 1, 2),
        ([3, 2, 1], None, 0.0, 1, None),
        ([None, None, 0.5, None, 0.4], 2, 0.0, 3, 5),
        ([None, None, None], 1, 0.0, 3, None),
        ([0.5, None, 0.6], 2, 0.0, 3, None),
        ([-5.0, -4.0, -6.0], 1, 0.0, 2, 3),
    ],
)
def test_stopping(scores: list[float | None], patience: int | None, delta: float, best: int, stops: int | None) -> None:
    stopping, stopped = Stopping(patience, delta), None
    for epoch, score in enumerate(scores, start=1):
        kept = stopping.update(score, epoch)
        assert kept == (stopping.best_epoch == epoch)
        if stopping.done:
            stopped = epoch
            break
    assert (stopping.best_epoch, stopped) == (best, stops)


# ---- steps that are skipped -----------------------------------------------------------------------------------------


def poisoned(task: str, rows: slice, value: float = torch.inf) -> Data:
    target = made().splits["train"].targets[task].clone()
    target[rows] = value
    return with_part(made(), "train", targets={**made().splits["train"].targets, task: target})


def test_a_step_without_a_finite_loss_is_skipped_and_counted(make_config: Config) -> None:
    training = training_on(poisoned("size", slice(0, 1)), make_config("trainer.batch_size=10", "weighting=dynamic"))
    first, second = training.fit()
    assert first.metrics["skipped_steps"] == 1 and second.metrics["skipped_steps"] == 2
    assert all(torch.tensor(list(epoch.metrics.values())).isfinite().all() for epoch in (first, second))
    assert "train/size/loss" in first.metrics and "weight/size" in first.metrics
    assert all(value.isfinite().all() for value in weights(training).values())


def test_a_skipped_step_moves_nothing(make_config: Config) -> None:
    trainer = trainer_on(poisoned("size", slice(None)), make_config("weighting=uncertainty"))
    before = weights(trainer)
    taken = step(trainer)
    assert not taken.losses.isfinite().all() and same(before, weights(trainer))


@MODES
@pytest.mark.parametrize("most", [0, 3])
def test_too_many_in_a_row_end_the_run_and_name_the_task(sharing: str, most: int, make_config: Config) -> None:
    config = make_config(f"sharing={sharing}", f"trainer.max_skipped={most}", "trainer.batch_size=10")
    training = training_on(poisoned("size", slice(None)), config)
    with pytest.raises(UserError, match=rf"no finite loss or gradient of size in {most + 1} steps") as ended:
        list(training.fit())
    (diverged,) = [trainer for trainer in training.trainers if "size" in trainer.names]
    assert diverged.progress.step == most and "yes" not in str(ended.value)


def test_inputs_that_are_no_numbers_end_the_run(make_config: Config) -> None:
    data = made()
    data = with_part(data, "train", inputs={"input": {"numeric": torch.full((50, 6), torch.nan)}})
    with pytest.raises(UserError, match=r"yes, size, sort, pair|yes, sort, size, pair"):
        list(training_on(data, make_config("trainer.max_skipped=0")).fit())


# ---- penalties, clipping, precision, budgets ------------------------------------------------------------------------


@MODES
def test_l1_shrinks_what_is_not_needed(sharing: str, make_config: Config) -> None:
    sums = {}
    for strength in (0, 1e-3, 1e-1):
        config = make_config(
            f"sharing={sharing}", f"trainer.l1={strength}", "trainer.epochs=12", "optimizer=sgd", "trainer.batch_size=25"
        )
        training = training_on(made(), config)
        list(training.fit())
        sums[strength] = sum(float(value.abs().sum()) for value in weights(training).values())
    assert sums[0.1] < 0.5 * sums[0] and sums[0.1] < sums[1e-3] < sums[0]


@MODES
def test_l1_is_its_formula(sharing: str, make_config: Config) -> None:
    training = training_on(made(), make_config(f"sharing={sharing}", "trainer.l1=0.3"))
    own = training.model.sharing.penalty()
    expected = 0.3 * sum(float(value.abs().sum()) for value in weights(training).values()) + (0 if own is None else own.item())
    penalties = [penalty.item() for trainer in training.trainers if (penalty := trainer.penalty()) is not None]
    assert sum(penalties) == pytest.approx(expected, rel=1e-5) and len(penalties) == len(training.trainers)


@MODES
def test_clipping_bounds_each_network(sharing: str, make_config: Config) -> None:
    """Plain gradient descent with rate 1 moves each network by at most the norm; those below it move as without clipping."""
    moves = {}
    for clip in ("null", "0.3"):
        config = make_config(
            f"sharing={sharing}", f"trainer.clip_norm={clip}", "optimizer=sgd", "optimizer.lr=1", "optimizer.momentum=0"
        )
        moves[clip] = []
        for trainer in training_on(made(), config).trainers:
            before = [p.detach().clone() for p in trainer.learner.network.parameters()]
            step(trainer)
            moved = zip(trainer.learner.network.parameters(), before, strict=True)
            moves[clip].append(torch.cat([(p - q).detach().flatten() for p, q in moved]))
    norms = [float(move.norm()) for move in moves["null"]]
    assert max(norms) > 0.3
    for free, clipped, norm in zip(moves["null"], moves["0.3"], norms, strict=True):
        assert torch.allclose(clipped, free * min(1, 0.3 / norm), atol=1e-5)


@MODES
def test_bf16_trains_almost_as_fp32(sharing: str, make_config: Config) -> None:
    half, full = (
        training_on(made(), make_config(f"sharing={sharing}", f"trainer.precision={precision}", "trainer.epochs=5"))
        for precision in ("bf16", "fp32")
    )
    for one, other in zip(half.fit(), full.fit(), strict=True):
        assert one.metrics["train/size/loss"] == pytest.approx(other.metrics["train/size/loss"], rel=0.05)
        assert one.metrics != other.metrics
    assert all(value.dtype == torch.float32 for value in weights(half).values())


@pytest.mark.parametrize("steps", [1, 4, 5, 6, 13])
def test_a_budget_in_steps_is_kept(steps: int, make_config: Config) -> None:
    training = training_on(
        made(), make_config(f"trainer.steps={steps}", "trainer.batch_size=10", "trainer.early_stopping.patience=null")
    )
    count = 0

    def counted() -> None:
        nonlocal count
        count += 1

    epochs = list(training.fit(counted))
    assert count == training.step == epochs[-1].step == steps
    assert len(epochs) == training.plan.epochs == planned_epochs(None, steps, 5) == -(-steps // 5)


def test_each_stream_has_its_own_rows(make_config: Config) -> None:
    """An epoch passes once through the longest stream; the shorter one begins anew."""
    trainer = trainer_on(two_streams(), make_config("trainer.batch_size=32"))
    sizes = [
        {stream: batch.size(stream) for stream in batch.inputs} for batch in trainer.loader.epoch(trainer.training_part(), 1)
    ]
    assert sizes == [{"left": 32, "right": 32}] * 2 + [{"left": 6, "right": 6}]


def test_a_batch_is_augmented_by_seed_and_step_alone(make_config: Config) -> None:
    def moved(batch: Batch, generator: torch.Generator) -> Batch:
        noise = torch.rand(batch.size("input"), 1, generator=generator)
        return replace(batch, inputs={"input": {"numeric": batch.inputs["input"]["numeric"] + noise}})

    def seen(step: int, seed: int = 0) -> Tensor:
        trainer = trainer_on(replace(made(), augmentation=moved), make_config(f"seed={seed}"))
        trainer.progress.step = step
        batch = trainer.training_part().part(0, 5)
        ready = trainer.ready(batch)
        assert set(ready.targets) == set(trainer.groups)  # packed after it, as the loss takes them
        return ready.inputs["input"]["numeric"] - batch.inputs["input"]["numeric"]

    assert torch.equal(seen(3), seen(3)) and seen(3).gt(0).all()
    assert not torch.equal(seen(3), seen(4)) and not torch.equal(seen(3), seen(3, seed=1))


def test_the_norm_of_the_gradient_is_torchs(make_config: Config) -> None:
    trainer = trainer_on(made(), make_config())
    assert trainer.learner.gradient_norm() == 0
    trainer.train_step(next(iter(trainer.loader.epoch(trainer.training_part(), 1))))
    gradients = [parameter.grad for parameter in trainer.learner.network.parameters() if parameter.grad is not None]
    assert torch.equal(trainer.learner.gradient_norm(), torch.nn.utils.get_total_norm(gradients)) and len(gradients) > 4
