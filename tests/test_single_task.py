"""With ``sharing=none`` every task trains in one run exactly as in a run of its own, bit for bit on the CPU."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from handmade import checkpoint, made, same, training_on, with_part
from omegaconf import DictConfig

TASKS = ("digit", "parity", "reconstruction")
MLP = ["encoder=mlp", "encoder.hidden=[24,16]", "encoder.dropout=0.2"]
VARIANTS = {
    "dropout, cosine, clipping, l1": [*MLP, "scheduler=cosine", "trainer.clip_norm=0.5", "trainer.l1=1e-4"],
    "plateau, early stopping": [
        *MLP, "scheduler=plateau", "scheduler.patience=0", "trainer.early_stopping.patience=1", "optimizer.lr=0.03",
        "trainer.epochs=12",
    ],
    "min_delta": [*MLP, "trainer.early_stopping.patience=2", "trainer.early_stopping.min_delta=0.05", "trainer.epochs=8"],
    "an auxiliary task": [*MLP, "dataset.tasks.parity.role=auxiliary", "trainer.early_stopping.patience=1", "trainer.epochs=6"],
    "one task monitored": [*MLP, "trainer.early_stopping.patience=1", "trainer.early_stopping.monitor=digit"],
    "sgd, a weighting that is not used": [*MLP, "optimizer=sgd", "weighting=uncertainty", "trainer.clip_norm=0.1"],
    "budget in steps": [*MLP, "trainer.steps=21", "trainer.batch_size=100"],
    "resampled rows": [*MLP, "imbalance=[oversample,focal]", "dataset.long_tail=10", "scheduler=cosine", "trainer.steps=40"],
    "bf16": [*MLP, "trainer.precision=bf16"],
    "batch norm": ["encoder=cnn", "encoder.channels=[4,8]", "encoder.width=16", "encoder.dropout=0.2", "scheduler=step"],
}  # fmt: skip
LOSSES = {"class_weights": ["digit", "parity"], "focal": ["digit", "parity"]}


def lines(folder: Path, task: str) -> list[dict[str, float]]:
    """What each epoch's line says about a task."""
    texts = (folder / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(text)["metrics"].items() if f"/{task}/" in f"{name}/"} for text in texts]


def weights(folder: Path, task: str, tasks: tuple[str, ...]) -> Mapping[str, Any]:
    """Best weights of a task's network, by name inside it."""
    state, place = checkpoint(folder, "best"), tasks.index(task)
    own = {name.split(".", 3)[3]: value for name, value in state.items() if name.startswith(f"sharing.networks.{place}.")}
    heads = {name.split(".", 2)[2]: value for name, value in state.items() if name.startswith(f"groups.{place}_")}
    assert own and heads
    return own | heads


def compare(together: Path, alone: Path, task: str, tasks: tuple[str, ...] = TASKS) -> None:
    assert same(weights(together, task, tasks), weights(alone, task, (task,)))
    all_lines, own_lines = lines(together, task), lines(alone, task)
    assert own_lines and all(own_lines) and all_lines[: len(own_lines)] == own_lines
    results, own_results = (json.loads((folder / "test_metrics.json").read_text()) for folder in (together, alone))
    assert results["tasks"][task] == own_results["tasks"][task]
    assert results["best_epoch"][task] == own_results["best_epoch"][task]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_task_beside_others_trains_as_alone(variant: str, train: Callable[..., Path]) -> None:
    common = ["sharing=none", "trainer.epochs=3", *VARIANTS[variant]]
    together = train(*common)
    for task in TASKS:
        monitored = variant == "one task monitored" and task != "digit"
        more = ["trainer.early_stopping.monitor=average"] if monitored else []
        if "imbalance" in str(common) and task == "reconstruction":  # cannot be balanced, and alone that is refused
            more.append("imbalance=none")
        compare(together, train(*common, *more, f"dataset.only=[{task}]"), task)


def test_networks_stop_at_epochs_of_their_own(train: Callable[..., Path]) -> None:
    """The comparison above says something about early stopping only if it happens, and not to all at once."""
    folder = train("sharing=none", *VARIANTS["plateau, early stopping"])
    trained = {task: sum(f"train/{task}/loss" in line for line in lines(folder, task)) for task in TASKS}
    assert len(set(trained.values())) > 1 and min(trained.values()) < 12
    for task, epochs in trained.items():
        kept = lines(folder, task)[json.loads((folder / "test_metrics.json").read_text())["best_epoch"][task] - 1]
        for line in lines(folder, task)[epochs:]:  # beside those still in training it is evaluated at its best
            assert line == {name: value for name, value in kept.items() if name.startswith("validation/")}


@pytest.mark.parametrize("criterion", LOSSES)
def test_a_criterion_acts_on_a_task_as_alone(criterion: str, train: Callable[..., Path]) -> None:
    common = ["sharing=none", *MLP, f"imbalance={criterion}", "dataset.long_tail=10"]
    together = train(*common)
    for task in LOSSES[criterion]:
        compare(together, train(*common, f"dataset.only=[{task}]"), task)


@pytest.mark.parametrize("task", TASKS)
def test_one_task_trains_the_same_in_every_mode_but_for_its_start(task: str, train: Callable[..., Path]) -> None:
    """``soft`` with one task is ``none``; ``hard`` is, too, from other initial weights: they are those of the shared encoder."""
    common = [*MLP, f"dataset.only=[{task}]"]
    none, soft, hard = (train(f"sharing={mode}", *common) for mode in ("none", "soft", "hard"))
    alike = {name: value for name, value in checkpoint(none, "best").items() if name.startswith("groups")}
    heads = {name: value for name, value in checkpoint(soft, "best").items() if name.startswith("groups")}
    torch.testing.assert_close(heads, alike, atol=1e-4, rtol=1e-3)  # a stack of one network rounds otherwise
    for one, other in zip(lines(none, task), lines(soft, task), strict=True):
        assert {name: value for name, value in one.items() if not name.startswith("lr/")} == pytest.approx(other, abs=1e-2)
    renamed = {name.replace("networks.0.", "encoder."): value.shape for name, value in checkpoint(none, "best").items()}
    assert renamed == {name: value.shape for name, value in checkpoint(hard, "best").items()}
    assert lines(none, task) != lines(hard, task)


def test_a_network_that_diverges_leaves_the_others_alone(make_config: Callable[..., DictConfig]) -> None:
    """Its own steps are skipped; the others step as if it were not there."""
    data = made()
    broken = data.splits["train"].targets["size"].clone()
    broken[::20] = torch.inf
    poisoned = with_part(data, "train", targets={**data.splits["train"].targets, "size": broken})
    config = make_config("sharing=none", "trainer.batch_size=10")
    healthy, sick = training_on(data, config), training_on(poisoned, config)
    for epoch, other in zip(healthy.fit(), sick.fit(), strict=True):
        for name, value in epoch.metrics.items():
            assert "size" in name or "average" in name or other.metrics[name] == value, name
    for place, task in enumerate(data.targets):
        network, other = (training.model.sharing.networks[place].state_dict() for training in (healthy, sick))
        assert same(network, other) == (task != "size"), task
