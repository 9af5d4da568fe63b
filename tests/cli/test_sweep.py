"""``mtl-run -m``: what of a grid runs, what does not, and what a rerun does; at the end real sweeps whose jobs are killed."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import OmegaConf
from standins import Command, Jobs

from mtl_runner.commands import composed, precheck
from mtl_runner.commands.lock import only_here
from mtl_runner.commands.sweeping.claims import claim
from mtl_runner.commands.sweeping.composing import Composer


def table(folder: Path) -> list[dict[str, Any]]:
    """The jobs of the latest sweep."""
    latest = max(folder.glob("runs/*/*/sweep.json"))
    rows: list[dict[str, Any]] = json.loads(latest.read_text())["jobs"]
    return rows


def test_impossible_pairs_are_listed_and_none_runs_once(mtl_run: Command, jobs: Jobs, folder: Path) -> None:
    result = mtl_run("-m", "sharing=none,soft,hard", "weighting=nash_mtl,equal", "seed=0,1")
    assert result.code == 0, result.err
    ran = [(call["choices"]["sharing"], call["choices"]["weighting"], call["config"]["seed"]) for call in jobs.calls]
    assert ran == [
        *(("none", "equal", seed) for seed in (0, 1)),
        *(("soft", "equal", seed) for seed in (0, 1)),
        *(("hard", weighting, seed) for weighting in ("nash_mtl", "equal") for seed in (0, 1)),
    ]
    states = [row["state"] for row in table(folder)]
    assert states == [*["finished"] * 2, *["same"] * 2, *["not_applicable"] * 2, *["finished"] * 6]
    assert table(folder)[2]["reason"] == "job 0" and "sharing=soft has none" in table(folder)[4]["reason"]
    assert [call["folder"].name for call in jobs.calls] == ["0", "1", "6", "7", "8", "9", "10", "11"], "numbers of the grid"
    assert len({call["job"] for call in jobs.calls}) == 8
    assert "12 jobs: 8 done, 2 same as others, 2 not applicable" in result.out


def test_a_grid_of_impossible_pairs_is_an_error(mtl_run: Command, jobs: Jobs, folder: Path) -> None:
    result = mtl_run("-m", "sharing=soft", "weighting=nash_mtl,mgda")
    assert result.code == 2 and len(result.err.splitlines()) == 2 and "nash_mtl" in result.err
    assert not jobs.calls and not list(folder.iterdir())


def test_a_mistake_in_a_grid_with_impossible_pairs_is_an_error(mtl_run: Command, jobs: Jobs, folder: Path) -> None:
    result = mtl_run("-m", "sharing=soft,hard", "weighting=nash_mtl", "trainer.epochs=1,0")
    assert result.code == 2 and "trainer.epochs=0" in result.err
    assert not jobs.calls and not list(folder.iterdir())


def test_one_impossible_run_is_an_error(mtl_run: Command, jobs: Jobs, folder: Path) -> None:
    assert mtl_run("sharing=soft", "weighting=nash_mtl").code == 2
    assert not list(folder.iterdir())


def test_what_is_finished_is_skipped_and_what_failed_runs_anew(mtl_run: Command, jobs: Jobs, folder: Path) -> None:
    def act(call: dict[str, Any]) -> float:
        if call["config"]["seed"] == 1:
            raise ZeroDivisionError("a bug")
        return 0.5

    jobs.act = act
    assert mtl_run("-m", "seed=0,1,2").code == 1
    assert "ZeroDivisionError" in (jobs.calls[1]["folder"] / "traceback.txt").read_text()
    jobs.calls, jobs.act = [], lambda call: 0.5
    again = mtl_run("-m", "seed=0,1,2", "skip_finished=true", "name=elsewhere", "trainer.device=cpu")
    assert again.code == 0 and [(call["config"]["seed"], call["folder"].name) for call in jobs.calls] == [(1, "1")]
    assert "1 done" in again.out and "2 skipped" in again.out
    jobs.calls = []
    assert mtl_run("-m", "seed=0,1,2", "skip_finished=true").code == 0 and not jobs.calls
    assert mtl_run("-m", "seed=0,1,2", "trainer.epochs=99", "skip_finished=true").code == 0
    assert len(jobs.calls) == 3, "a larger budget is another job"


@pytest.mark.parametrize(("ends", "said"), [(True, "finished earlier"), (False, "is being trained")])
def test_what_a_sweep_beside_has_begun_meanwhile_is_passed_over(
    mtl_run: Command, jobs: Jobs, folder: Path, ends: bool, said: str
) -> None:
    """Two sweeps that have looked at the same time: the other one is at work on the second job when this one comes to it."""
    other = folder / "runs" / "day" / "noon" / "1"
    other.mkdir(parents=True)
    with ExitStack() as beside:

        def begin(call: dict[str, Any]) -> float:
            (second,) = [row["job"] for row in table(folder) if row["number"] == 1]
            beside.enter_context(only_here(other))
            assert claim(folder / "runs", second, other, True) is None
            if ends:
                (other / "status.json").write_text(json.dumps({"state": "finished", "job": second}))
                (other / "test_metrics.json").write_text(json.dumps({"validation_average": 0.25}))
                beside.close()
            return 0.5

        jobs.act = begin
        result = mtl_run("-m", "seed=0,1", "skip_finished=true", "hydra.sweep.dir=runs/day/one")
    assert result.code == 0 and [call["config"]["seed"] for call in jobs.calls] == [0], result.err
    row = json.loads((folder / "runs/day/one/sweep.json").read_text())["jobs"][1]
    assert row["state"] == "skipped" and row["folder"] == str(other) and said in row["reason"]
    assert "another sweep has this job" in result.out and "1 done, 1 skipped" in result.out
    assert not (folder / "runs/day/one/1").exists(), "nothing is left of it"


def test_the_same_sweep_folder_again_overwrites_nothing(mtl_run: Command, jobs: Jobs, folder: Path) -> None:
    for names in (["0", "1"], ["0_2", "1_2"]):
        jobs.calls = []
        assert mtl_run("-m", "seed=0,1", "hydra.sweep.dir=mine").code == 0
        assert [call["folder"].name for call in jobs.calls] == names


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["hydra.sweep.subdir=x"], "hydra.sweep.subdir=x: jobs 0 and 1 would write to this one folder"),
        (["hydra.sweeper.max_batch_size=-1"], "hydra.sweeper.max_batch_size=-1: a number from 1 on"),
    ],
)
def test_what_would_lose_jobs_is_an_error(mtl_run: Command, jobs: Jobs, folder: Path, arguments: list[str], said: str) -> None:
    result = mtl_run("-m", "seed=0,1", *arguments)
    assert result.code == 2 and said in result.err and "Traceback" not in result.err
    assert not jobs.calls and not list(folder.iterdir())


def test_odd_names_of_folders_are_kept(mtl_run: Command, jobs: Jobs, folder: Path) -> None:
    name = "it's a=b, \\"
    assert mtl_run("-m", "seed=0,1", f"hydra.sweep.dir={QuotedString(name, Quote.single).with_quotes()}").code == 0
    assert [call["folder"] for call in jobs.calls] == [folder / name / "0", folder / name / "1"]


def test_a_sweep_has_its_folder_to_itself(mtl_run: Command, jobs: Jobs, folder: Path) -> None:
    (folder / "mine").mkdir()
    with only_here(folder / "mine"):
        result = mtl_run("-m", "seed=0,1", "hydra.sweep.dir=mine")
    assert result.code == 2 and "another process is at work in this folder" in result.err and not jobs.calls


def test_the_split_stays_where_it_is_over_seeds(mtl_run: Command, jobs: Jobs) -> None:
    assert mtl_run("-m", "seed=0,1").code == 0
    assert len({call["config"]["dataset"]["split_seed"] for call in jobs.calls}) == 1


@pytest.mark.parametrize("mode", [[], ["+dataset.x=1"]])
def test_configurations_are_those_that_hydra_composes(mode: list[str]) -> None:
    args = Namespace(
        config_path=None, config_dir=None, config_name=None, multirun=True, overrides=["sharing=none,soft", "seed=0,1", *mode]
    )
    with composed.hydra_of(args) as hydra:
        master, _ = precheck._compose(hydra, args, True)
        compose = Composer(hydra, master)
        for sharing in ("none", "soft"):
            for seed in "01":
                job = [f"sharing={sharing}", f"seed={seed}", "trainer.epochs=3", "imbalance=[oversample,focal]", *mode]
                job += [f"hydra.sweep.subdir={seed}", "hydra.sweep.dir='a b'"]
                ours, theirs = compose(job), hydra.config_loader.load_sweep_config(master, job)
                assert OmegaConf.to_container(ours) == OmegaConf.to_container(theirs)
        assert len(compose.known) == (0 if mode else 2)


# ---- real sweeps -------------------------------------------------------------------------------------------------------

FIXED = [
    "dataset=synthetic", "dataset.n_tasks=2", "encoder.hidden=[8]", "trainer.device=cpu", "trainer.early_stopping.patience=null",
]  # fmt: skip
SIXTEEN = ["sharing=none,hard", "weighting=equal,dynamic", "seed=range(4)", "trainer.epochs=4"]
"""Twelve jobs that run, and four that are the same as others."""
COMMAND = [sys.executable, "-c", "from mtl_runner.cli import run_main; run_main()"]
JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
SUBMITIT = ["hydra/launcher=submitit_local", "tracker=none"]


def _start(folder: Path, *sweep: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*COMMAND, "-m", *FIXED, *sweep], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _trained(folder: Path, sweep: "subprocess.Popen[str]") -> tuple[Path, int]:
    """Folder and process of the first job that has trained an epoch."""
    while sweep.poll() is None:
        for path in folder.glob("runs/*/*/*/status.json"):
            status = json.loads(path.read_text())
            if status["state"] == "running" and status["epoch"] >= 1:
                return path.parent, status["pid"]
        time.sleep(0.005)
    raise AssertionError(sweep.communicate()[0])


def _states(folder: Path) -> dict[str, str]:
    return {str(path.parent): json.loads(path.read_text())["state"] for path in folder.glob("runs/*/*/*/status.json")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launched", "run", "same"),
    [([*JOBLIB, *SIXTEEN], 12, 4), ([*SUBMITIT, "seed=range(3)", "trainer.epochs=20"], 3, 0)],
    ids=["joblib", "submitit"],
)
def test_a_job_that_is_killed_leaves_the_others_running(folder: Path, launched: list[str], run: int, same: int) -> None:
    """MLflow and twelve jobs with joblib only: every process of submitit's imports all anew, MLflow for eight seconds."""
    sweep = _start(folder, *launched)
    victim, process = _trained(folder, sweep)
    os.kill(process, signal.SIGKILL)
    out = sweep.communicate()[0]
    states = {row["number"]: row["state"] for row in table(folder)}
    assert sweep.returncode == 1, out
    assert states.pop(int(victim.name)) == "killed", out
    assert sorted(states.values()) == ["finished"] * (run - 1) + ["same"] * same, out
    assert f"{run - 1} done" in out and "killed by SIGKILL" in out
    again = _start(folder, *launched, "skip_finished=true")
    out = again.communicate()[0]
    assert again.returncode == 0 and f"{run - 1} skipped" in out and "1 done" in out, out
    found = _states(folder)
    assert len(found) == run and found[str(victim)] == "finished", "it went on where it was"
    if "tracker=none" in launched:
        return
    with sqlite3.connect(folder / "mlflow.db") as database:
        assert database.execute("SELECT status, count(*) FROM runs GROUP BY status").fetchall() == [("FINISHED", run)]
        assert database.execute("SELECT count(DISTINCT value) FROM tags WHERE key = 'job'").fetchone() == (run,)


@pytest.mark.slow
def test_ctrl_c_leaves_checkpoints_and_a_rerun_goes_on(folder: Path) -> None:
    launched = ["seed=0,1", "tracker=none", "trainer.epochs=60"]
    sweep = _start(folder, *launched)
    stopped, _ = _trained(folder, sweep)
    sweep.send_signal(signal.SIGINT)
    out = sweep.communicate()[0]
    assert sweep.returncode == 130 and "skip_finished=true" in out, out
    assert [row["state"] for row in table(folder)] == ["interrupted", "queued"]
    epochs = len((stopped / "metrics.jsonl").read_text().splitlines())
    assert 1 <= epochs < 60
    again = _start(folder, *launched, "skip_finished=true")
    out = again.communicate()[0]
    assert again.returncode == 0 and "2 done" in out, out
    assert _states(folder)[str(stopped)] == "finished" and len(_states(folder)) == 2
    assert [json.loads(line)["epoch"] for line in (stopped / "metrics.jsonl").read_text().splitlines()] == [*range(1, 61)]
    assert "resuming after epoch" in (stopped / "run.log").read_text()
