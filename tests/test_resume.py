"""A run that is interrupted and resumed ends as one that never was, bit for bit on the CPU."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from handmade import checkpoint, options, same
from omegaconf import DictConfig, OmegaConf

from mtl_runner import checkpoint as checkpoints
from mtl_runner import run
from mtl_runner.build import job_hash
from mtl_runner.config import config_dir
from mtl_runner.errors import UserError
from mtl_runner.folder import Origin
from mtl_runner.trainer import Trainer

SMALL = ["encoder.hidden=[16,8]", "encoder.dropout=0.2", "trainer.batch_size=200", "trainer.epochs=4"]
BATCHES = 6
"""Steps an epoch of digits (1,077 training rows) in batches of 200; more where rows are repeated."""
CASES = {
    "plain": (),
    "cosine, clipping, l1": ("scheduler=cosine", "trainer.clip_norm=0.5", "trainer.l1=1e-4"),
    "the first epoch is the best": ("trainer.early_stopping.min_delta=10", "optimizer=adam"),
    "plateau": ("scheduler=plateau", "scheduler.patience=0", "optimizer=sgd"),
    "step, budget in steps": ("scheduler=step", "scheduler.step_size=1", "trainer.steps=21"),
    "early stopping": ("trainer.early_stopping.patience=1", "optimizer.lr=0.05", "trainer.epochs=8"),
    "oversample, focal": ("imbalance=[oversample,focal]", "dataset.long_tail=10"),
    "oversample, class weights, steps": ("imbalance=[oversample,class_weights]", "dataset.long_tail=5", "trainer.steps=30"),
    "mixup": ("imbalance=mixup",),
    "in the second phase": ("imbalance=classifier_retraining", "imbalance.classifier_retraining.epochs=3", "trainer.epochs=2"),
    "batch norm": ("encoder=cnn", "encoder.channels=[3,4]", "encoder.width=8"),
}
Train = Callable[..., Path]


def either(quick: bool, *values: Any) -> Any:
    """Parameters of a test that is quick or, where others say much the same, slow."""
    return pytest.param(*values, marks=[] if quick else [pytest.mark.slow])


MODES = ("none", "hard", "soft")
"""Tried in all cases; the others, whose resume tests/contracts/test_sharings.py has too, in those that differ most."""
PAIRS = [either((i + j) % len(MODES) == 0, mode, case) for i, mode in enumerate(MODES) for j, case in enumerate(CASES)]
PAIRS += [
    either(False, mode, case)
    for mode in options("sharing")
    if mode not in MODES
    for case in ("cosine, clipping, l1", "step, budget in steps")
]
STEPS = [either(step > BATCHES, name, step) for name in options("weighting") for step in (1, BATCHES, BATCHES + 1)]


@pytest.fixture
def killed(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """``killed(k, …)``: starts a run and stops it in step k, between forward pass and update; returns its folder."""

    def start(step: int, *overrides: str) -> Path:
        folder, taken, whole = tmp_path / "killed", 0, Trainer.finite

        def breaking(self: Trainer, *arguments: Any) -> Any:
            nonlocal taken
            taken += 1
            if taken == step:
                raise KeyboardInterrupt
            return whole(self, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "finite", breaking)
            with pytest.raises(KeyboardInterrupt):
                train(*overrides, folder=folder)
        assert status(folder)["state"] == "interrupted"
        return folder

    return start


def status(folder: Path) -> dict[str, Any]:
    known: dict[str, Any] = json.loads((folder / "status.json").read_text())
    return known


def history(folder: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl`` without their time and what they took."""
    lines = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("time", "seconds")} for line in lines]


def assert_same_end(resumed: Path, whole: Path) -> None:
    assert status(resumed)["state"] == status(whole)["state"] == "finished"
    assert history(resumed) == history(whole)
    for name in ("best", "last"):
        assert same(checkpoint(resumed, name), checkpoint(whole, name)), name
    for name in ("test_metrics.json", "confusion.json", "weights.safetensors", "data.json"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes(), name
    gradients = [folder / "gradients.json" for folder in (resumed, whole) if (folder / "gradients.json").exists()]
    assert len({path.read_bytes() for path in gradients}) == len(gradients) // 2
    assert not [path.name for path in resumed.rglob(".*")]


@pytest.mark.parametrize(("sharing", "case"), PAIRS)
def test_interrupted_and_resumed_is_uninterrupted(sharing: str, case: str, train: Train, killed: Callable[..., Path]) -> None:
    overrides = [*SMALL[2 if "encoder=cnn" in CASES[case] else 0 :], f"sharing={sharing}", *CASES[case]]
    folder = killed(2 * BATCHES + 3, *overrides)
    run.resume(folder)
    assert_same_end(folder, train(*overrides))


@pytest.mark.parametrize(("weighting", "step"), STEPS)
def test_every_weighting_resumes_from_any_step(weighting: str, step: int, train: Train, killed: Callable[..., Path]) -> None:
    overrides = [*SMALL, f"weighting={weighting}", "trainer.epochs=2"]
    if "every:" in (config_dir() / "weighting" / f"{weighting}.yaml").read_text():
        overrides.append("weighting.every=2")
    folder = killed(step, *overrides)
    run.resume(folder)
    assert_same_end(folder, train(*overrides))


def test_twice_interrupted(train: Train, killed: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = [*SMALL, "sharing=none", "weighting=uncertainty"]
    folder = killed(BATCHES + 2, *overrides)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "validate", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            run.resume(folder)
    run.resume(folder)
    assert_same_end(folder, train(*overrides))


@pytest.mark.parametrize(
    ("where", "budget"),
    [
        ("mtl_runner.outcome.measured", "trainer.epochs=2"),
        ("mtl_runner.outcome.save_file", "trainer.steps=8"),
        ("mtl_runner.figures.draw", f"trainer.steps={2 * BATCHES}"),
    ],
)
def test_interrupted_at_the_end(where: str, budget: str, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the last epoch, while results are written."""
    folder = tmp_path / "late"
    with monkeypatch.context() as patch:
        patch.setattr(where, _interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(*SMALL, budget, folder=folder)
    run.resume(folder)
    assert_same_end(folder, train(*SMALL, budget))


@pytest.mark.parametrize(
    ("small", "large", "overrides"),
    [
        (2, 4, ("sharing=hard", "weighting=uncertainty", "trainer.epochs={}")),
        (3, 5, ("sharing=none", "scheduler=plateau", "scheduler.patience=0", "trainer.epochs={}")),
        (2, 3, ("sharing=soft", "scheduler=step", "imbalance=[oversample,focal]", "trainer.epochs={}")),
        (9, 20, ("sharing=hard", "weighting=dynamic", "trainer.steps={}")),
        (12, 13, ("sharing=none", "weighting=dynamic", "trainer.steps={}")),
    ],
)
def test_a_larger_budget_is_as_if_it_had_been_so_from_the_start(
    small: int, large: int, overrides: tuple[str, ...], train: Train
) -> None:
    """Not with ``cosine``: its first epochs follow the curve of the budget that was planned then."""
    unit = "steps" if "steps" in overrides[-1] else "epochs"
    folder, whole = (train(*SMALL, *(o.format(budget) for o in overrides)) for budget in (small, large))
    run.resume(folder, **{unit: large})
    assert_same_end(folder, whole)
    assert OmegaConf.load(folder / "config.yaml").trainer[unit] == large


def test_with_a_larger_budget_it_is_another_job(make_config: Callable[..., DictConfig], tmp_path: Path) -> None:
    config = make_config("trainer.epochs=1")
    run.run(config, tmp_path, Origin({}, [], job=job_hash(config)))
    run.resume(tmp_path, epochs=3)
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["job"] == job_hash(make_config("trainer.epochs=3")) != job_hash(config)


def test_cosine_goes_on_along_the_longer_curve(train: Train) -> None:
    folder = train(*SMALL, "scheduler=cosine", "trainer.epochs=2", "optimizer.lr=1.0e-2")
    run.resume(folder, epochs=4)
    rates = [line["metrics"]["lr"] for line in history(folder)]
    assert rates == pytest.approx([1e-2, 0.5e-2, 0.5e-2, 0.5e-2 * (1 - 0.5**0.5)])


def test_what_can_not_be_resumed(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = train(*SMALL, "trainer.epochs=2", "trainer.early_stopping.patience=20")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "run.log"}
    for budget, message in (
        ({}, "this run is finished"),
        ({"epochs": 2}, "this run is finished"),
        ({"epochs": 1}, "a larger one"),
        ({"steps": 100}, "a larger one"),
    ):
        with pytest.raises(UserError, match=message):
            run.resume(folder, **budget)
    with pytest.raises(UserError, match="no run folder"):
        run.resume(folder / "checkpoints")
    with monkeypatch.context() as patch:
        patch.setattr("mtl_runner.datasets.digits.BRIGHTEST", 15.0)
        with pytest.raises(UserError, match="the data are not those"):
            run.resume(folder, epochs=3)
    assert {path: path.read_bytes() for path in before} == before


def test_a_budget_that_does_not_count_is_refused(train: Train) -> None:
    folder = train(*SMALL, "trainer.steps=5")
    with pytest.raises(UserError, match=r"trainer\.epochs=50"):
        run.resume(folder, epochs=50)


def test_a_run_that_stopped_early_has_nothing_to_go_on_with(train: Train) -> None:
    folder = train(*SMALL, "trainer.early_stopping.patience=1", "trainer.early_stopping.min_delta=1", "trainer.epochs=9")
    assert len(history(folder)) == 2
    with pytest.raises(UserError, match="stopped early"):
        run.resume(folder, epochs=20)
    assert len(history(folder)) == 2


def test_an_unfinished_line_is_cut(train: Train, killed: Callable[..., Path], tmp_path: Path) -> None:
    begun, whole = killed(2 * BATCHES + 1, *SMALL), train(*SMALL)
    for i, rest in enumerate(('{"epoch": 3, "ste', '{"epoch": 3, "step": 18, "time": 0, "metrics": {}}', "\x00\x00", "\n")):
        folder = Path(shutil.copytree(begun, tmp_path / f"copy_{i}"))
        with (folder / "metrics.jsonl").open("a") as file:
            file.write(rest)
        run.resume(folder)
        assert_same_end(folder, whole)


def test_a_save_that_fails_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "last.pt"
    checkpoints.save({"value": torch.ones(3)}, path)

    def full(state: Any, file: Any) -> None:
        file.write(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space"):
        checkpoints.save({"value": torch.zeros(3)}, path)
    assert torch.equal(checkpoints.load(path)["value"], torch.ones(3))


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    path = tmp_path / "evil.pt"
    torch.save({"value": Path("/")}, path)
    for bad, message in ((path, "not a readable checkpoint"), (tmp_path / "none.pt", "no such checkpoint")):
        with pytest.raises(UserError, match=message):
            checkpoints.load(bad)


@pytest.mark.slow
def test_a_killed_process_is_resumed(train: Train, tmp_path: Path) -> None:
    """SIGKILL at some moment after the second epoch."""
    overrides = [*SMALL, "tracker=none", "trainer.epochs=60", "trainer.device=cpu", "trainer.progress=false", "sharing=soft"]
    folder = tmp_path / "process"
    command = [sys.executable, "-c", "from mtl_runner.cli import run_main; run_main()"]
    process = subprocess.Popen([*command, *overrides, f"hydra.run.dir={folder}"], env={**os.environ, "OMP_NUM_THREADS": "1"})
    lines = folder / "metrics.jsonl"
    while process.poll() is None and not (lines.exists() and lines.read_text().count("\n") > 1):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert status(folder)["state"] == "running"
    run.resume(folder)
    for leftover in folder.rglob(".*"):  # the kill may have come in the middle of a write
        assert leftover.name.rpartition(".")[2] == str(process.pid) or leftover.name in (".hydra", ".lock")
        if leftover.is_file():
            leftover.unlink()
    whole = train(*overrides)
    assert history(folder) == history(whole)
    assert same(checkpoint(folder, "last"), checkpoint(whole, "last"))


def _interrupt(*arguments: Any, **options: Any) -> Any:
    raise KeyboardInterrupt


UNEVEN = [*SMALL, "sharing=none", "imbalance=oversample", "dataset.long_tail=20", "trainer.early_stopping.patience=null"]
"""Each network has its own number of steps in an epoch, and uses up a budget in steps at an epoch of its own."""


@pytest.mark.parametrize("step", [40, 65])
def test_networks_of_uneven_epochs_resume(step: int, train: Train, killed: Callable[..., Path]) -> None:
    folder = killed(step, *UNEVEN, "trainer.steps=25")
    assert max(each["now"]["progress"]["epoch"] for each in checkpoint(folder, "last")["trainers"]) >= 2, "all of them are kept"
    run.resume(folder)
    assert_same_end(folder, train(*UNEVEN, "trainer.steps=25"))


def test_networks_of_uneven_epochs_take_a_larger_budget(train: Train) -> None:
    folder, whole = train(*UNEVEN, "trainer.steps=25"), train(*UNEVEN, "trainer.steps=40")
    assert len({each["now"]["progress"]["epoch"] for each in checkpoint(folder, "last")["trainers"]}) > 1
    run.resume(folder, steps=40)
    assert same(checkpoint(folder, "best"), checkpoint(whole, "best"))


def test_a_run_that_started_from_another_does_not_need_it_again(
    train: Train, killed: Callable[..., Path], tmp_path: Path
) -> None:
    first = train(*SMALL, folder=tmp_path / "first")
    overrides = [*SMALL, f"init_from={{run: {first}, frozen: true}}", "seed=1"]
    whole = train(*overrides)
    folder = killed(BATCHES + 2, *overrides)
    shutil.rmtree(first)
    run.resume(folder)
    assert_same_end(folder, whole)


def test_data_of_another_shape_are_refused_as_well(train: Train, tmp_path: Path) -> None:
    """One more category, and no weight would fit: the message is about the data."""
    table = tmp_path / "table.csv"
    rows = [f"{number},{'abc'[number % 3]},{number % 2}" for number in range(60)]
    table.write_text("\n".join(["number,letter,odd", *rows, ""]))
    folder = train("dataset=table", f"dataset.path={table}", "dataset.tasks={odd: {type: binary}}")
    table.write_text("\n".join(["number,letter,odd", *(row.replace("a", f"a{n % 4}") for n, row in enumerate(rows)), ""]))
    with pytest.raises(UserError, match="the data are not those"):
        run.resume(folder, epochs=5)
