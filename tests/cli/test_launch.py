"""``mtl-run``: what reaches training, what happens when it fails, and that Hydra's flags work as its users expect."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from standins import Command, Jobs

from mtl_runner.errors import UserError


def test_a_run_gets_its_configuration_folder_choices_and_overrides(mtl_run: Command, jobs: Jobs, folder: Path) -> None:
    assert mtl_run("sharing=soft", "seed=3", "imbalance=[oversample,focal]").code == 0
    (call,) = jobs.calls
    assert call["config"]["seed"] == 3
    assert call["config"]["sharing"]["_target_"].endswith(".Soft")
    assert "hydra" not in call["config"]
    assert list(call["config"]["imbalance"]) == ["oversample", "focal"]
    assert call["choices"]["sharing"] == "soft" and call["choices"]["imbalance"] == "oversample,focal"
    assert not any(group.startswith("hydra") for group in call["choices"])
    assert call["overrides"] == ["sharing=soft", "seed=3", "imbalance=[oversample,focal]"]
    assert call["sweep"] is None
    assert call["folder"].parents[1] == folder / "runs"
    assert yaml.safe_load((call["folder"] / ".hydra" / "overrides.yaml").read_text()) == call["overrides"]
    assert Path.cwd() == folder


def test_two_runs_have_two_folders(mtl_run: Command, jobs: Jobs) -> None:
    mtl_run()
    mtl_run()
    assert jobs.calls[0]["folder"] != jobs.calls[1]["folder"]


def test_flags_may_stand_between_the_overrides(mtl_run: Command, jobs: Jobs) -> None:
    assert mtl_run("sharing=hard", "-m", "seed=1,2").code == 0
    assert len(jobs.calls) == 2


def test_a_sweep_runs_every_combination_and_prepares_the_tracker_once(mtl_run: Command, jobs: Jobs) -> None:
    assert mtl_run("-m", "sharing=none,hard", "seed=range(0,2)").code == 0
    assert [(call["choices"]["sharing"], call["config"]["seed"]) for call in jobs.calls] == [
        (sharing, seed) for sharing in ("none", "hard") for seed in range(2)
    ]
    assert [call["folder"].name for call in jobs.calls] == list("0123")
    (sweep,) = {call["sweep"] for call in jobs.calls}
    assert {call["folder"].parent for call in jobs.calls} == {Path(sweep).absolute()}
    assert jobs.prepared == ["mtl_runner"]


def test_hydra_mode_in_a_file_makes_a_sweep(mtl_run: Command, jobs: Jobs, folder: Path) -> None:
    study = {"defaults": ["config", "_self_"], "hydra": {"mode": "MULTIRUN", "sweeper": {"params": {"seed": "1,2"}}}}
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    assert mtl_run("-cd", ".", "-cn", "study").code == 0
    assert [call["config"]["seed"] for call in jobs.calls] == [1, 2]


def test_ones_own_option_in_a_folder(mtl_run: Command, jobs: Jobs, folder: Path) -> None:
    (folder / "mine" / "sharing").mkdir(parents=True)
    (folder / "mine" / "sharing" / "half.yaml").write_text("# half\n_target_: mtl_runner.sharing.hard.Hard\nshared_stages: 0.5\n")
    assert mtl_run("--config-dir", "mine", "sharing=half").code == 0
    assert jobs.calls[0]["config"]["sharing"]["shared_stages"] == 0.5


@pytest.mark.parametrize("typed", [("--cfg", "job"), ("-c", "job", "--resolve"), ("--info",), ("--help",)])
def test_showing_trains_nothing(mtl_run: Command, jobs: Jobs, folder: Path, typed: tuple[str, ...]) -> None:
    result = mtl_run("sharing=soft", *typed)
    assert result.code == 0
    assert "sharing" in result.out
    assert not jobs.calls and not list(folder.iterdir())


def test_cfg_prints_the_configuration(mtl_run: Command) -> None:
    shown = yaml.safe_load(mtl_run("--cfg", "job", "sharing=soft", "seed=7").out)
    assert shown["seed"] == 7 and shown["sharing"]["to"] == "centroid" and "hydra" not in shown


def test_help_lists_every_group_and_resume(mtl_run: Command) -> None:
    out = mtl_run("--help").out
    for text in ("dataset: ", "sharing: adapters, cgc, ", "imbalance: ", "resume=RUN_DIR", "-m sharing="):
        assert text in out


def test_help_is_what_hydra_prints(mtl_run: Command) -> None:
    """Which is asked where an override is given, and takes three times as long."""
    assert mtl_run("--help").out == mtl_run("--help", "seed=0").out


def test_completion_knows_groups_options_and_keys(mtl_run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMP_LINE", "mtl-run sharing=")
    offered = mtl_run("-sc", "query=bash").out.split()
    assert {"sharing=hard", "sharing=none", "sharing=soft"} < set(offered) and offered == sorted(offered)
    monkeypatch.setenv("COMP_LINE", "mtl-run trainer.early_stopping.pa")
    assert mtl_run("-sc", "query=bash").out.split() == ["trainer.early_stopping.patience="]
    assert "-F hydra_bash_completion mtl-run" in mtl_run("--shell-completion", "install=bash").out


def test_a_bug_keeps_its_traceback(jobs: Jobs, mtl_run: Command) -> None:
    def act(call: dict[str, Any]) -> float:
        raise ZeroDivisionError("a bug")

    jobs.act = act
    with pytest.raises(ZeroDivisionError):
        mtl_run()
    assert "HYDRA_FULL_ERROR" not in os.environ


def test_what_the_user_did_wrong_leaves_no_folder(jobs: Jobs, mtl_run: Command, folder: Path) -> None:
    def act(call: dict[str, Any]) -> float:
        (call["folder"] / "run.log").write_text("reading\n")
        raise UserError("my.csv: there is no such file")

    jobs.act = act
    result = mtl_run()
    assert (result.code, result.err) == (2, "error: my.csv: there is no such file\n")
    assert not list(folder.iterdir())


def _wrong(call: dict[str, Any]) -> float:
    (call["folder"] / "run.log").write_text("reading\n")
    raise UserError("my.csv: there is no such file")


@pytest.mark.parametrize(
    ("existing", "typed"),
    [
        (".", ["hydra.run.dir=."]),
        ("mine/empty", ["hydra.run.dir=mine/empty"]),
        ("mine/empty", ["hydra.run.dir=mine/empty/${seed}/run"]),
        ("mine/empty", ["hydra.run.dir=mine/empty", "hydra.output_subdir=null"]),
        ("runs", []),
        (".", ["hydra.run.dir=.", "hydra.job.chdir=true"]),
    ],
)
def test_a_folder_that_was_there_stays(jobs: Jobs, mtl_run: Command, folder: Path, existing: str, typed: list[str]) -> None:
    (folder / existing).mkdir(parents=True, exist_ok=True)
    jobs.act = _wrong
    assert mtl_run(*typed).code == 2
    assert (folder / existing).is_dir() and not list((folder / existing).glob("[!m]*")), "nothing but what was there"


def test_a_file_that_was_there_stays(jobs: Jobs, mtl_run: Command, folder: Path) -> None:
    (folder / "mine.csv").touch()
    jobs.act = _wrong
    assert mtl_run("hydra.run.dir=.", "hydra.output_subdir=.").code == 2
    assert (folder / "mine.csv").exists()


def test_a_run_that_has_begun_is_kept(jobs: Jobs, mtl_run: Command) -> None:
    def act(call: dict[str, Any]) -> float:
        (call["folder"] / "metrics.jsonl").write_text("{}\n")
        raise UserError("the loss is not finite")

    jobs.act = act
    assert mtl_run().code == 2
    assert (jobs.calls[0]["folder"] / "metrics.jsonl").exists()


def test_one_failing_job_does_not_stop_a_sweep(jobs: Jobs, mtl_run: Command) -> None:
    def act(call: dict[str, Any]) -> float:
        if call["config"]["seed"] == 1:
            raise UserError("seed 1 does not work")
        return 0.5

    jobs.act = act
    result = mtl_run("-m", "seed=0,1,2")
    assert result.code == 1
    assert [call["config"]["seed"] for call in jobs.calls] == [0, 1, 2]
    assert "seed 1 does not work" in result.out and "2 done, 1 failed" in result.out and "Traceback" not in result.err
    status = json.loads((jobs.calls[1]["folder"] / "status.json").read_text())
    assert (status["state"], status["error"]) == ("failed", "seed 1 does not work")


@pytest.mark.parametrize("begun", [True, False])
def test_an_interrupted_run_says_how_to_go_on(jobs: Jobs, mtl_run: Command, begun: bool) -> None:
    def act(call: dict[str, Any]) -> float:
        if begun:
            (call["folder"] / "checkpoints").mkdir()
            (call["folder"] / "checkpoints" / "last.pt").touch()
        raise KeyboardInterrupt

    jobs.act = act
    result = mtl_run()
    assert result.code == 130 and len(result.err.splitlines()) == 1
    assert (f"mtl-run resume={jobs.calls[0]['folder']}" in result.err) == begun
    assert jobs.calls[0]["folder"].exists() == begun


def test_an_interrupted_sweep_stops(jobs: Jobs, mtl_run: Command) -> None:
    def act(call: dict[str, Any]) -> float:
        raise KeyboardInterrupt

    jobs.act = act
    result = mtl_run("-m", "seed=0,1")
    assert result.code == 130
    assert len(jobs.calls) == 1
    assert "mtl-run -m seed=0,1 skip_finished=true" in result.err


def test_hydras_own_help(mtl_run: Command) -> None:
    assert "--multirun" in mtl_run("--hydra-help").out
