"""The jobs of a sweep: which are the same, which are left out, what earlier runs have done, and how a process ends."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from mtl_runner.build import job_hash
from mtl_runner.build.identity import paced
from mtl_runner.commands.lock import Busy, alive, held, only_here
from mtl_runner.commands.sweeping import orders, overlap
from mtl_runner.commands.sweeping.apart import Surroundings, apart
from mtl_runner.commands.sweeping.board import Board
from mtl_runner.commands.sweeping.claims import claim
from mtl_runner.commands.sweeping.desk import desk
from mtl_runner.commands.sweeping.earlier import skip_finished
from mtl_runner.commands.sweeping.grid import NOT_APPLICABLE, QUEUED, SAME, SKIPPED, GridJob, alone, free, label, run_once, swept
from mtl_runner.commands.sweeping.launchers import check_commands, keep_output_apart, way
from mtl_runner.commands.sweeping.work import Work, settle, train
from mtl_runner.errors import UserError
from mtl_runner.folder import RunFolder
from mtl_runner.tuning.base import CLAIMS

Make = Callable[..., DictConfig]


def grid_job(number: int, *overrides: str, folder: Path = Path("none"), job: str = "", state: str = QUEUED) -> GridJob:
    return GridJob(number, list(overrides), list(overrides), folder, folder, job, state)


def run_folder(folder: Path, state: str, job: str, checkpoint: bool = True, **more: Any) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    if checkpoint:
        (folder / "checkpoints" / "last.pt").touch()
    if state == "finished":
        (folder / "test_metrics.json").write_text('{"validation_average": 0.5}')
    (folder / "status.json").write_text(json.dumps({"state": state, "job": job, "started": "2026", **more}))
    return folder


# ---- what makes two jobs the same ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "typed",
    [
        ["tracker=mlflow"],
        ["name=other", "data_dir=elsewhere", "runs_dir=there", "skip_finished=true", "print_config=true"],
        ["trainer.progress=true", "trainer.threads=3", "trainer.device=cuda", "trainer.eval_batch_size=7"],
        ["tuned={study: a, trials: 3}"],
        ["sharing=hard", "seed=0"],
    ],
)
def test_what_changes_no_figure_is_not_in_the_hash(make_config: Make, typed: list[str]) -> None:
    assert job_hash(make_config(*typed)) == job_hash(make_config())


@pytest.mark.parametrize(
    "typed", ["seed=1", "trainer.epochs=3", "sharing=soft", "weighting=dynamic", "dataset.split_seed=1", "optimizer.lr=0.5"]
)
def test_what_changes_a_figure_is_in_the_hash(make_config: Make, typed: str) -> None:
    assert job_hash(make_config(typed)) != job_hash(make_config())


def test_the_hash_is_one_of_values_not_of_their_order(make_config: Make) -> None:
    plain = OmegaConf.to_container(make_config(), resolve=True)
    assert isinstance(plain, dict)
    backwards = dict(reversed(plain.items()))
    assert job_hash(backwards) == job_hash(plain) and len(job_hash(plain)) == 16  # type: ignore[arg-type]
    assert int(job_hash(plain), 16) >= 0  # type: ignore[arg-type]


def test_weighting_is_in_the_hash_only_where_tasks_are_coupled(make_config: Make) -> None:
    pairs = [
        [job_hash(make_config(f"sharing={mode}", f"weighting={each}")) for each in ("equal", "nash_mtl")]
        for mode in ("none", "hard")
    ]
    assert pairs[0][0] == pairs[0][1] and pairs[1][0] != pairs[1][1]


def test_of_equal_jobs_the_first_runs() -> None:
    jobs = [grid_job(0, job="a", state=NOT_APPLICABLE), grid_job(1, job="a"), grid_job(2, job="b"), grid_job(3, job="a")]
    run_once(jobs)
    assert [job.state for job in jobs] == [NOT_APPLICABLE, QUEUED, QUEUED, SAME]
    assert jobs[3].reason == "job 1"


def test_alone_takes_the_weighting_and_its_keys_out() -> None:
    typed = ["sharing=none", "weighting=nash_mtl", "+weighting.x=1", "weighting.every=2", "seed=1", "weightings=3"]
    assert alone(typed) == ["sharing=none", "seed=1", "weightings=3", "weighting=equal"]


def test_only_what_varies_is_shown() -> None:
    jobs = [grid_job(0, "sharing=hard", "seed=0", "name=x"), grid_job(1, "sharing=hard", "seed=1", "name=x")]
    assert swept(jobs) == ["seed"] and label(jobs[1], swept(jobs)) == "seed=1"


# ---- what earlier runs have done ----------------------------------------------------------------------------------------


def test_finished_ones_are_skipped_interrupted_ones_go_on_and_failed_ones_run_anew(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    run_folder(runs / "day" / "noon" / "0", "failed", "a")
    done = run_folder(runs / "day" / "noon" / "1", "finished", "a")
    killed = run_folder(runs / "day" / "noon" / "2", "killed", "b")
    gone = run_folder(runs / "day" / "single", "running", "c", pid=2**22 + 1)
    run_folder(runs / "day" / "noon" / "4", "failed", "d")
    run_folder(runs / "day" / "noon" / "5", "killed", "e", checkpoint=False)
    (run_folder(runs / "day" / "noon" / "6", "finished", "f") / "test_metrics.json").unlink()
    jobs = [grid_job(number, job=job) for number, job in enumerate("abcdefg")]
    skip_finished(jobs, [runs, tmp_path / "nowhere"])
    assert [job.state for job in jobs] == [SKIPPED] + [QUEUED] * 6
    assert jobs[0].folder == done and "runs/day/noon/1" in jobs[0].reason
    assert [(job.resume, job.folder) for job in jobs[1:3]] == [(True, killed), (True, gone)]
    assert not any(job.resume for job in jobs[3:])


@pytest.mark.parametrize(
    ("typed", "by_budget"),
    [
        ([], False),
        (["scheduler=step"], False),
        (["scheduler=cosine"], True),
        (["imbalance=focal"], False),
        (["imbalance=ldam"], True),
    ],
)
def test_what_a_run_with_a_larger_budget_is_not(make_config: Make, typed: list[str], by_budget: bool) -> None:
    assert paced(OmegaConf.to_container(make_config(*typed), resolve=True)) == by_budget  # type: ignore[arg-type]


def test_a_run_whose_schedule_began_with_a_smaller_budget_does_not_count(tmp_path: Path) -> None:
    """Resumed with 100 epochs, it has the hash of a run of 100; with those that were planned it is as any other."""
    for name, planned in (("a", 30), ("b", 100)):
        folder = run_folder(tmp_path / "runs" / "day" / name, "finished", name, planned={"epochs": planned, "steps": None})
        (folder / "config.yaml").write_text("trainer: {epochs: 100, steps: null}\n")
        assert claim(tmp_path / "runs", name, folder, True) is None
    jobs = [grid_job(number, job=job) for number, job in enumerate("ab")]
    skip_finished(jobs, [tmp_path / "runs"])
    assert [job.state for job in jobs] == [QUEUED, SKIPPED]
    assert claim(tmp_path / "runs", "a", tmp_path, True) is None
    assert claim(tmp_path / "runs", "b", tmp_path, True) is not None
    (folder / "status.json").write_text(json.dumps({"state": "finished", "job": "other"}))
    assert claim(tmp_path / "runs", "b", tmp_path, True) is None, "a larger budget has made another job of it"


def test_one_that_is_being_trained_is_left_alone(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "runs" / "day" / "0", "running", "a", pid=os.getpid())
    (job,) = jobs = [grid_job(0, job="a")]
    skip_finished(jobs, [tmp_path / "runs"])
    assert job.state == SKIPPED and "is being trained" in job.reason and job.folder == folder


def test_a_job_belongs_to_the_run_that_is_at_work_on_it(tmp_path: Path) -> None:
    runs, mine, other = (tmp_path / name for name in ("runs", "mine", "other"))
    other.mkdir()
    with only_here(other):
        assert claim(runs, "a", other, True) is None and claim(runs, "b", mine, True) is None
        kept = claim(runs, "a", mine, True)
        assert kept is not None and kept.folder == other and kept.busy, "before it says that it runs"
        assert claim(runs, "a", other, True) is None, "its own"
        assert claim(runs, "a", mine, False) is None, "where all is to run"
        assert claim(runs, "a", other, False) is None
    assert claim(runs, "a", mine, True) is None, "its process is gone"
    run_folder(tmp_path / "done", "finished", "a")
    assert claim(runs, "a", tmp_path / "done", False) is None
    kept = claim(runs, "a", mine, True)
    assert kept is not None and kept.finished


def test_of_two_sweeps_one_trains_a_job(tmp_path: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []
    monkeypatch.setattr("mtl_runner.run.run", lambda config, folder, origin, trained: calls.append(folder))
    every = OmegaConf.to_container(make_config(f"runs_dir={tmp_path / 'runs'}"), resolve=True)
    assert isinstance(every, dict)
    missing, first, second = {**every, "skip_finished": True}, tmp_path / "0", tmp_path / "1"
    for folder in (first, second):
        folder.mkdir()
    with only_here(first):
        assert claim(tmp_path / "runs", job_hash(missing), first, True) is None
        train(Work(second, missing, {"choices": {}}))
        assert not calls
        train(Work(second, every, {"choices": {}}))  # type: ignore[arg-type]
    assert calls == [second]


def test_trials_of_a_search_are_no_runs_of_a_sweep(tmp_path: Path) -> None:
    """They would go on inside the search, and never see the test part."""
    run_folder(tmp_path / "runs" / "tune" / "mine" / "0", "interrupted", "a")
    (tmp_path / "runs" / "tune" / "mine" / CLAIMS).mkdir()
    run_folder(tmp_path / "runs" / "day" / "0", "finished", ["no", "text"])  # type: ignore[arg-type]
    jobs = [grid_job(0, job="a")]
    skip_finished(jobs, [tmp_path / "runs"])
    assert jobs[0].state == QUEUED and not jobs[0].resume


def test_an_earlier_run_keeps_its_folder(tmp_path: Path) -> None:
    assert free(tmp_path / "3") == tmp_path / "3"
    run_folder(tmp_path / "3", "finished", "a")
    run_folder(tmp_path / "3_2", "failed", "a")
    assert free(tmp_path / "3") == tmp_path / "3_3"
    (tmp_path / "4").mkdir()
    with only_here(tmp_path / "4"):
        assert free(tmp_path / "4") == tmp_path / "4_2", "one that has not said yet that it runs"


# ---- one process, one run ----------------------------------------------------------------------------------------------


def test_a_folder_is_locked_while_something_trains_in_it(tmp_path: Path) -> None:
    status = {"state": "running", "pid": 1}
    assert not held(tmp_path)
    with only_here(tmp_path):
        assert held(tmp_path) and alive(tmp_path, status)
        with pytest.raises(Busy, match="another process"), only_here(tmp_path):
            pass
    assert not held(tmp_path) and not alive(tmp_path, status), "whoever has the number of that process now"
    assert alive(tmp_path, {**status, "host": "another machine"}), "which cannot be asked"


def test_a_job_that_is_done_is_not_done_again(tmp_path: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []
    monkeypatch.setattr("mtl_runner.run.run", lambda config, folder, origin, trained: calls.append(folder))
    monkeypatch.setattr("mtl_runner.run.resume", lambda folder, allowed, trained: calls.append(folder))
    node = OmegaConf.to_container(make_config(), resolve=True)
    fresh, done = tmp_path / "fresh", run_folder(tmp_path / "done", "finished", "a")
    fresh.mkdir()
    for folder in (fresh, done):
        train(Work(folder, node, {"choices": {}}))  # type: ignore[arg-type]
    train(Work(done, node, {"choices": {}}, resume=True))  # type: ignore[arg-type]
    assert calls == [fresh]


@pytest.mark.parametrize(
    ("code", "state", "error"), [(-9, "killed", "killed by SIGKILL"), (130, "interrupted", None), (3, "failed", "code 3")]
)
def test_the_end_of_a_process_is_written_down(tmp_path: Path, code: int, state: str, error: str | None) -> None:
    settle(Work(run_folder(tmp_path / "a", "running", "a"), {}, {}), code)
    status = json.loads((tmp_path / "a" / "status.json").read_text())
    assert status["state"] == state and (error or "") in (status["error"] or "") and status["ended"]
    settle(Work(run_folder(tmp_path / "b", "finished", "a"), {}, {}), code)
    assert json.loads((tmp_path / "b" / "status.json").read_text())["state"] == "finished"


@pytest.mark.slow
def test_a_function_apart_ends_as_it_ends(tmp_path: Path) -> None:
    assert apart(_leave, tmp_path / "mark", 0) == 0 and (tmp_path / "mark").exists()
    assert apart(_leave, tmp_path / "mark", -signal.SIGKILL) == -signal.SIGKILL
    assert apart(_leave, tmp_path / "mark", 7) == 7


def _leave(mark: Path, code: int) -> None:
    mark.touch()
    if code < 0:
        os.kill(os.getpid(), -code)
        time.sleep(60)
    raise SystemExit(code)


@pytest.mark.slow
def test_workers_get_their_processes_from_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtl_runner.commands.sweeping.desk.apart", lambda function, *args, log: 99)
    log = tmp_path / "run.log"
    with desk() as place:
        assert place is not None
        assert [place.apart(_leave, tmp_path / "a", code, log=log) for code in (0, 7, -signal.SIGKILL)] == [0, 7, -signal.SIGKILL]
        assert replace(place, key=b"a guess").apart(_leave, tmp_path / "b", 0, log=log) == 99, "who does not know the key"
        assert place.apart(_leave, tmp_path / "a", 0, log=log) == 0, "and others are served after that"
        with Client(place.address, authkey=place.key) as worker:
            worker.send((_wait_for, (tmp_path / "c", 60.0), log, Surroundings()))
            _wait_for(tmp_path / "c" / "begun", 60)
        _wait_for(tmp_path / "c" / "interrupted", 60)
    assert place.apart(_leave, tmp_path / "b", 0, log=log) == 99, "nobody is there any more"
    assert not (tmp_path / "b").exists()


def _wait_for(path: Path, seconds: float) -> None:
    """For a file; in a process of its own, one to be interrupted, for something that never comes."""
    end = time.monotonic() + seconds
    if multiprocessing.parent_process() is not None:
        path.mkdir()
        (path / "begun").touch()
    try:
        while not path.is_file():
            assert time.monotonic() < end, path
            time.sleep(0.01)
    except KeyboardInterrupt:
        (path / "interrupted").touch()


@pytest.mark.slow
def test_the_next_job_begins_while_the_last_one_is_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "train", _write_down)
    works = [Work(tmp_path / name, {}, {}) for name in "abc"]
    jobs = overlap.Overlap()
    for work, ended in zip(works, ([], ["a"], ["a", "b"]), strict=True):
        work.folder.mkdir()
        jobs.run(work)
        assert json.loads((work.folder / "status.json").read_text())["state"] == "running"
        assert [path.parent.name for path in sorted(tmp_path.glob("*/beside"))] == ended, "at most two at a time"
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "status.json").touch()
    jobs.end()
    states = [json.loads((tmp_path / name / "status.json").read_text()) for name in "abc"]
    assert [status["state"] for status in states] == ["finished", "killed", "finished"]
    assert "SIGKILL" in states[1]["error"]


def _write_down(work: Work, trained: Callable[[], None]) -> None:
    """Ends when it sees that the next one has begun; ``b`` does so badly."""
    folder = RunFolder(work.folder)
    folder.status(state="running", pid=os.getpid())
    trained()
    while not work.folder.with_name(chr(ord(work.folder.name) + 1)).joinpath("status.json").exists():
        time.sleep(0.01)
    (work.folder / "beside").touch()
    if work.folder.name == "b":
        os.kill(os.getpid(), signal.SIGKILL)
    folder.status(state="finished")


# ---- what is shown -----------------------------------------------------------------------------------------------------


def test_the_board_follows_the_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = run_folder(tmp_path / "2", "killed", "c")
    jobs: Sequence[GridJob] = [
        grid_job(0, "seed=0", folder=tmp_path / "0", job="a"),
        grid_job(1, "seed=1", state=NOT_APPLICABLE),
        grid_job(2, "seed=2", folder=old, job="c"),
    ]
    board = Board(tmp_path, jobs)
    with board:
        board.expect([jobs[0], jobs[2]])
        run_folder(tmp_path / "0", "finished", "a", train_seconds=2.0)
    assert [job.state for job in jobs] == ["finished", NOT_APPLICABLE, QUEUED], "what was there before is of an earlier time"
    rows = json.loads((tmp_path / "sweep.json").read_text())["jobs"]
    assert [(row["number"], row["state"]) for row in rows] == [(0, "finished"), (1, NOT_APPLICABLE), (2, QUEUED)]
    board.show()
    out = capsys.readouterr().out
    assert "0.5000" in out and "2.0" in out and "3 jobs: 1 done, 1 not applicable, 1 not run" in out


# ---- how many at once --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("launcher", "together", "at_once"),
    [
        ({"_target_": "a.BasicLauncher"}, 1, 12),
        ({"_target_": "a.JoblibLauncher", "n_jobs": 3}, 3, 12),
        ({"_target_": "a.JoblibLauncher", "n_jobs": -1}, 8, 12),
        ({"_target_": "a.JoblibLauncher", "n_jobs": -2}, 7, 12),
        ({"_target_": "a.LocalLauncher"}, 8, 8),
        ({"_target_": "a.SlurmLauncher"}, 1, 12),
    ],
)
def test_how_many_jobs_run_at_once(
    monkeypatch: pytest.MonkeyPatch, launcher: dict[str, Any], together: int, at_once: int
) -> None:
    monkeypatch.setattr("mtl_runner.commands.sweeping.launchers.cores", lambda: 8)
    how = way(OmegaConf.create({"hydra": {"launcher": launcher, "sweeper": {"max_batch_size": None}}}), 12)
    assert (how.together, how.at_once) == (together, at_once)


def test_only_the_last_launch_counts(tmp_path: Path) -> None:
    """Also where a sweep was stopped, and another one is in its folder now."""
    first, second = (orders.Orders(tmp_path, 4, 1, {}) for _ in range(2))
    with only_here(tmp_path):
        first.announce()
        assert first.count() and not second.count()
        orders.stop(tmp_path)
        assert not first.count()
        second.announce()
        assert second.count() and not first.count()
    assert not second.count(), "the sweep was killed, and a worker has outlived it"
    assert replace(second, host="another machine").count(), "which cannot be asked"


@pytest.mark.parametrize(
    ("launcher", "typed", "said"),
    [
        ({"setup": ["touch x"]}, [], "hydra.launcher.setup: counts only when typed"),
        ({"setup": ["module load x"]}, ["hydra.launcher.setup=[module load x]"], None),
        ({"additional_parameters": {"qos": "a", "prolog": "b"}}, ["+hydra.launcher.additional_parameters.qos=a"], "typed"),
        ({"additional_parameters": {"qos": "a"}}, ["+hydra.launcher.additional_parameters.qos=a"], None),
        ({"ray": {"init": {"address": "elsewhere"}}}, [], "hydra.launcher.ray.init.address"),
        ({"comment": "x\ntouch x #"}, ["hydra.launcher.comment=x"], "more than one line"),
        ({"partition": "gpu", "setup": None, "timeout_min": 3, "gres": ""}, [], None),
    ],
)
def test_a_file_has_no_commands_for_a_launcher(launcher: dict[str, Any], typed: list[str], said: str | None) -> None:
    node = OmegaConf.create(launcher)
    with pytest.raises(UserError, match=said) if said else nullcontext():
        check_commands(node, typed)


@pytest.mark.parametrize(("typed", "kept"), [({}, False), ({"log_to_driver": True}, True)])
def test_ray_prints_what_jobs_write_only_when_asked(typed: dict[str, bool], kept: bool) -> None:
    node = OmegaConf.create({"ray": {"init": {"address": None, **typed}}, "other": 1})
    OmegaConf.set_struct(node, True)
    OmegaConf.set_readonly(node, True)
    keep_output_apart(node)
    assert node == {"ray": {"init": {"address": None, "log_to_driver": kept}}, "other": 1}
    keep_output_apart(OmegaConf.create({"n_jobs": 3}))


def test_jobs_divide_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "cores", lambda: 8)
    assert [orders.threads(together) for together in (1, 2, 3, 16)] == [None, 4, 2, 1]
