"""``mtl tune``: what is said before anything runs, and a search from its command line to its best configuration."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf
from standins import Command

import mtl_runner.run
from mtl_runner.commands.searching.plan import Plan
from mtl_runner.folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]
SPACE = "search.space={optimizer.lr:{low:1e-4,high:1e-2,log:true},sharing:{choices:[hard,soft]}}"
QUICK = ("tracker=none", "trainer.device=cpu", "trainer.progress=false", "trainer.epochs=2", "encoder.hidden=[16]")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Stands for training: the validation average is the learning rate, a task's is what is left of it."""
    calls: list[dict[str, Any]] = []

    def run(config: Any, path: Path, origin: Any, watch: Any, test: bool) -> float:
        assert not test
        lr = float(config.optimizer.lr)
        calls.append({"config": OmegaConf.to_container(config), "folder": path, "origin": origin})
        RunFolder(path).write_json(
            "validation_metrics.json",
            {"tasks": {"digit": {"f1": lr}, "parity": {"f1": -lr}}, "primary": {"digit": "f1", "parity": "f1"}, "average": lr},
        )
        return lr

    monkeypatch.setattr(mtl_runner.run, "run", run)
    return calls


def test_help_needs_neither_torch_nor_optuna() -> None:
    code = (
        "import sys, contextlib\nfrom mtl_runner.cli import app_main\nsys.argv = ['mtl', 'tune', '--help']\n"
        "with contextlib.suppress(SystemExit):\n    app_main()\n"
        "print('imported:', sorted({'torch', 'optuna', 'mlflow', 'sklearn', 'hydra'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.startswith("usage: mtl tune") and out.splitlines()[-1] == "imported: []"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], ["search.space: is missing"]),
        (["search.space={optimizer.lrr:{low:1,high:2}}"], ["optimizer.lrr=1: there is no such key; there are lr,", "mean 'lr'?"]),
        (["search.space={optimizer.lr:{low:-1.0,high:0.1}}"], ["optimizer.lr=-1.0: AdamW", "Invalid learning rate"]),
        (["search.space={trainer.epochs:{low:0,high:4}}"], ["trainer.epochs=0: must be greater than or equal to 1"]),
        (["search.space={sharing:{choices:[hard,sofft]}}"], ["search.space: sharing=sofft: there is no such option", "'soft'?"]),
        (
            ["search.space={sharing:{choices:[soft,hard]},sharing.strength:{low:0.1,high:0.2}}"],
            ["search.space: sharing.strength=0.1: there is no such key", "(at sharing=hard)"],
        ),
        (["search.space={tracker.uri:{choices:[a]}}"], ["tracker.uri: is nothing to search"]),
        ([SPACE, "search.trials=0"], ["search.trials=0: must be greater than or equal to 1"]),
        ([SPACE, "search.trails=9"], ["search.trails=9: there is no such key", "did you mean 'trials'?"]),
        ([SPACE, "search.pruner=medain"], ["search.pruner=medain: choose from none, median, hyperband (did you mean 'median'?)"]),
        ([SPACE, "search=tpee"], ["search=tpee: there is no such option; choose from random, tpe"]),
        ([SPACE, "search.name=../x"], ["search.name=../x: choose from letters"]),
        ([SPACE, "search.objectives=[digt]"], ["search.objectives: there is no task digt", "did you mean 'digit'?"]),
        (["-cn", "config"], ["-cn config: has no search"]),
    ],
)  # fmt: skip
def test_a_mistake_is_said_and_leaves_nothing(mtl: Command, folder: Path, arguments: list[str], said: list[str]) -> None:
    result = mtl("tune", *arguments)
    assert result.code == 2 and "Traceback" not in result.err
    for words in said:
        assert words in result.err, result.err
    assert not list(folder.iterdir())


def test_a_configuration_of_a_search_is_not_one_of_a_run(mtl_run: Command) -> None:
    result = mtl_run("-cn", "tune", "search.space={seed:{low:0,high:9}}")
    assert result.code == 2 and "search: this configuration is one of a search; `mtl tune` takes the same arguments" in result.err


def test_a_search_writes_its_best_as_a_configuration(
    mtl: Command, mtl_run: Command, folder: Path, trained: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "mine").mkdir()
    study = {"defaults": ["tune", "_self_"], "name": "of the tracker", "encoder": {"hidden": [8]}, "search": {"trials": 3}}
    (folder / "mine" / "lr.yaml").write_text(yaml.safe_dump(study))
    command = ("tune", "-cd", "mine", "-cn", "lr", "tracker=none", SPACE)
    result = mtl(*command)
    assert result.code == 0, result.err
    found = folder / "runs" / "tune" / "lr"
    best = max(trained, key=lambda call: call["config"]["optimizer"]["lr"])
    for number, call in enumerate(trained):
        origin = call["origin"]
        assert (
            call["folder"] == found / str(number) and (origin.study, origin.sweep) == ("lr", str(found)) and len(origin.job) == 16
        )
        assert f"optimizer.lr={call['config']['optimizer']['lr']!r}" in origin.overrides and SPACE not in origin.overrides
        assert origin.choices["sharing"] in call["config"]["sharing"]["_target_"] and "search" not in call["config"]
    shown = mtl_run("-cd", str(found), "-cn", "best", "--cfg", "job").out
    again = yaml.safe_load(shown)
    tuned = again.pop("tuned")
    assert (tuned["study"], tuned["trials"]) == ("lr", 3) and tuned["found"] == {"optimizer.lr": again["optimizer"]["lr"]}
    assert tuned["choices"].items() >= {"weighting": "equal", "encoder": "mlp"}.items() and "tracker" not in tuned["choices"]
    assert tuned["choices"]["sharing"] in ("hard", "soft") and best["config"].pop("tuned") is None
    again["tracker"] = best["config"]["tracker"] = None
    assert again == best["config"]
    assert not (found / "running").exists(), "no process claims a trial any more"
    lines = list(csv.DictReader((found / "trials.csv").read_text().splitlines()))
    assert [float(line["optimizer.lr"]) for line in lines] == [call["config"]["optimizer"]["lr"] for call in trained]
    monkeypatch.setattr("mtl_runner.tuning.study._living", lambda study, folder: 1)
    other = mtl(*command, "search.trials=5")
    assert other.code == 0 and "1 of 5 trials are still under way" in other.out and "missing" not in other.err
    assert len(trained) == 4


@pytest.mark.slow
def test_several_objectives_write_a_front(mtl: Command, folder: Path, trained: list[Any]) -> None:
    """The two go against each other: no trial beats another."""
    result = mtl("tune", "tracker=none", SPACE, "search.objectives=[digit,parity]", "search.trials=3", "search=random")
    assert result.code == 0, result.err
    found = folder / "runs" / "tune" / "tune"
    assert {path.name for path in (found / "front").iterdir()} == {f"{number}.yaml" for number in range(3)}
    assert (found / "figures" / "front.png").exists() and not (found / "best.yaml").exists()


@pytest.mark.slow
def test_combinations_that_are_impossible_are_no_failures(mtl: Command, folder: Path, trained: list[Any]) -> None:
    space = "search.space={sharing:{choices:[soft,hard]},weighting:{choices:[nash_mtl,equal]}}"
    result = mtl("tune", "tracker=none", space, "search.trials=5", "search=random")
    assert result.code == 0 and "not applicable" in result.out
    lines = list(csv.DictReader((folder / "runs/tune/tune/trials.csv").read_text().splitlines()))
    for line in lines:
        assert (line["state"] == "not applicable") == (line["sharing"] == "soft" and line["weighting"] == "nash_mtl")


def test_a_search_of_which_no_trial_has_a_value(mtl: Command, trained: list[Any]) -> None:
    result = mtl(
        "tune", "tracker=none", "weighting=nash_mtl", "search.space={sharing:{choices:[soft,low_rank]}}", "search.trials=2"
    )
    assert result.code == 2 and "none of 2 trials has a value" in result.err


def test_a_trial_is_a_run_without_a_look_at_the_test_part(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its values are those of the best epoch's weights."""
    monkeypatch.setattr("mtl_runner.outcome.measured", None)  # what reads the test part
    plan = Plan.of("tune", None, [*QUICK, SPACE, "search.objectives=[average,digit]"])
    plan.search.folder.mkdir(parents=True)
    told: list[float] = []
    values = plan.train(
        {"optimizer.lr": "0.01"}, plan.search.folder / "0", lambda epoch, metrics: told.append(metrics["validation/average"])
    )
    assert values[0] == pytest.approx(max(told)) and len(told) == 2
    run = RunFolder(plan.search.folder / "0")
    assert run.read_json("status.json")["state"] == "finished" and run.read_json("status.json")["study"] == "tune"
    assert values[1] == run.read_json("validation_metrics.json")["tasks"]["digit"]["balanced_accuracy"]
    assert not (run.path / "test_metrics.json").exists() and len((run.path / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_two_processes_search_digits(folder: Path) -> None:
    """The example, with a tiny budget, tracked in MLflow; then what it has found."""
    code = "import sys\nfrom mtl_runner.cli import {0}_main\nsys.argv = ['mtl', *{1!r}]\n{0}_main()"
    command = [
        "tune",
        "-cd",
        str(ROOT / "experiments"),
        "-cn",
        "tune_digits",
        *QUICK[1:4],
        "search.trials=4",
        "search.processes=2",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code.format("app", command)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found = folder / "runs" / "tune" / "tune_digits"
    states = [json.loads((found / str(number) / "status.json").read_text())["state"] for number in range(4)]
    assert set(states) <= {"finished", "pruned"} and "finished" in states
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("tune_digits").experiment_id])
    assert len(runs) == 4 and {run.data.tags["study"] for run in runs} == {"tune_digits"}
    assert not any(name.startswith("test/") for run in runs for name in run.data.metrics)
    command = ["-cd", str(found), "-cn", "best", "tracker=none"]
    done = subprocess.run([sys.executable, "-c", code.format("run", command)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    (status,) = [path for path in folder.glob("runs/*/*/status.json") if "tune" not in path.parts]
    tuned = json.loads(status.read_text())["tuned"]
    assert (tuned["study"], tuned["trials"]) == ("tune_digits", 4) and tuned["found"] and tuned["choices"]
