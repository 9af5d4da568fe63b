"""A search with a made objective: what it finds, that it goes on, and that nothing is lost or done twice."""

import csv
import multiprocessing
import os
import re
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from mtl_runner.errors import UserError
from mtl_runner.run import Watch
from mtl_runner.tuning import report
from mtl_runner.tuning.base import Search
from mtl_runner.tuning.random import Random
from mtl_runner.tuning.study import MOST_KILLS, _claim, _living, counted, failure, open_study, quiet, sampler
from mtl_runner.tuning.tpe import TPE
from mtl_runner.tuning.trust import usable
from mtl_runner.tuning.work import work

SPACE = {
    "x": {"low": -5.0, "high": 5.0},
    "kind": {"choices": ["good", "bad"]},
    "n": {"low": 1, "high": 9, "when": {"kind": "good"}},
}


def value(drawn: Mapping[str, str]) -> float:
    """Largest, 0, at x = 2, kind = good, n = 5."""
    return -((float(drawn["x"]) - 2) ** 2) - (0.1 * (int(drawn["n"]) - 5) ** 2 if drawn["kind"] == "good" else 10)


def objective(drawn: Mapping[str, str], folder: Path, watch: Watch) -> list[float]:
    return [value(drawn)]


def searched(
    search: Search, objective: Callable[..., Sequence[float]] = objective, begun: Mapping[str, Any] | None = None
) -> Any:
    study = open_study(search, begun or {}, epochs=9)
    work(search, study, objective, lambda trial: None)
    return study


def in_memory(search: Search, objective: Callable[..., Sequence[float]] = objective) -> Any:
    """The same without a database, which takes most of the time."""
    search.folder.mkdir(exist_ok=True)
    with quiet():
        study = optuna.create_study(
            sampler=sampler(search), pruner=search.pruner(9), directions=["maximize"] * len(search.objectives)
        )
    work(search, study, objective, lambda trial: None)
    return study


def drawn(study: Any) -> list[dict[str, Any]]:
    return [trial.params for trial in study.get_trials(deepcopy=False)]


def test_tpe_finds_better_than_random_and_random_better_than_one_draw(tmp_path: Path) -> None:
    best = {}
    for made in (TPE, Random):
        values = [
            in_memory(made(space=SPACE, trials=40, seed=seed, folder=str(tmp_path / f"{made.__name__}{seed}"))).best_value
            for seed in range(3)
        ]
        best[made] = sum(values) / len(values)
    one_draw = -(7**3 + 3**3) / 3 / 10 - 0.5 * 10  # the mean loss by x, and by every second kind
    assert best[TPE] > best[Random] > one_draw and best[TPE] > -0.1


@pytest.mark.parametrize("made", [TPE, pytest.param(Random, marks=pytest.mark.slow)])
def test_a_search_that_was_interrupted_draws_what_it_would_have_drawn(tmp_path: Path, made: type[Search]) -> None:
    whole = searched(made(space=SPACE, trials=13, seed=3, name="s", folder=str(tmp_path / "whole")))
    for trials in (5, 13):
        parts = searched(made(space=SPACE, trials=trials, seed=3, name="s", folder=str(tmp_path / "parts")))
        assert len(counted(parts)) == trials
    assert drawn(parts) == drawn(whole)
    other = in_memory(made(space=SPACE, trials=13, seed=4, name="s", folder=str(tmp_path / "other")))
    assert drawn(other) != drawn(whole)


def test_a_trial_that_was_broken_off_moves_no_other(tmp_path: Path) -> None:
    """It is tried again with the next number; what comes after draws as if nothing had happened."""
    whole = searched(TPE(space=SPACE, trials=9, seed=3, name="s", folder=str(tmp_path / "whole")))
    broken: list[str] = []

    def once(drawn: Mapping[str, str], folder: Path, watch: Watch) -> list[float]:
        if folder.name == "3" and not broken:
            broken.append(folder.name)
            raise KeyboardInterrupt
        return [value(drawn)]

    search = TPE(space=SPACE, trials=9, seed=3, name="s", folder=str(tmp_path / "parts"))
    with pytest.raises(KeyboardInterrupt):
        searched(search, once)
    parts = searched(search, once)
    assert broken and len(drawn(parts)) == 10
    assert [trial.params for trial in counted(parts)] == drawn(whole)


def test_what_does_not_go_together_is_told_and_what_fails_is_kept(tmp_path: Path) -> None:
    def act(drawn: Mapping[str, str], folder: Path, watch: Watch) -> list[float]:
        if drawn["kind"] == "bad":
            raise UserError("kind=bad goes with nothing")
        if int(drawn["n"]) < 4:
            raise RuntimeError("out of luck")
        return [float("nan") if int(drawn["n"]) > 7 else value(drawn)]

    search = Random(space=SPACE, trials=30, folder=str(tmp_path))
    study = in_memory(search, act)
    trials = study.get_trials(deepcopy=False)
    assert len(trials) == len(counted(study)) == 30
    states = {report.state(study, trial) for trial in trials}
    assert states == {"finished", "not applicable", "failed"}
    for trial in trials:
        if trial.params["kind"] == "bad":
            assert trial.state == TrialState.PRUNED and trial.user_attrs["not_applicable"] == "kind=bad goes with nothing"
        elif trial.params["n"] < 4:
            assert failure(study, trial) == "RuntimeError: out of luck"
            assert "out of luck" in (tmp_path / str(trial.number) / "traceback.txt").read_text()
        elif trial.params["n"] > 7:
            assert failure(study, trial) == "an objective has no value on the validation part"
    report.write(search, study)
    lines = list(csv.DictReader((tmp_path / "trials.csv").read_text().splitlines()))
    assert [line["state"] for line in lines] == [report.state(study, trial) for trial in trials]
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"history.png", "importances.png"}


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_bad_trials_are_pruned_after_the_warm_up(tmp_path: Path, pruner: Any) -> None:
    ends: dict[int, int] = {}

    def act(drawn: Mapping[str, str], folder: Path, watch: Watch) -> list[float]:
        for epoch in range(1, 10):
            ends[int(folder.name)] = epoch
            watch(epoch, {"validation/average": float(drawn["x"]) * epoch, "train/a/loss": 1.0})
        return [float(drawn["x"]) * 9]

    search = Random(space={"x": SPACE["x"]}, trials=24, pruner=pruner, warmup_epochs=3, warmup_trials=4, folder=str(tmp_path))
    study = in_memory(search, act)
    pruned = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.PRUNED]
    assert pruned and all(ends[trial.number] >= 3 for trial in pruned)
    assert study.best_trial.params["x"] == max(trial.params["x"] for trial in study.get_trials(deepcopy=False))
    if pruner == "median":
        values = [trial.params["x"] for trial in study.get_trials(deepcopy=False)]
        assert min(trial.number for trial in pruned) >= 4
        assert max(trial.params["x"] for trial in pruned) < sorted(values)[-6]


def test_several_objectives_leave_what_no_trial_beats(tmp_path: Path) -> None:
    """Against brute force."""

    def act(drawn: Mapping[str, str], folder: Path, watch: Watch) -> list[float]:
        x = float(drawn["x"])
        watch(1, {"validation/average": x})
        return [-(x**2), -((x - 2) ** 2), -abs(x + 1)]

    search = TPE(space={"x": SPACE["x"]}, trials=25, objectives=("a", "b", "c"), folder=str(tmp_path))
    study = in_memory(search, act)
    trials = study.get_trials(deepcopy=False)

    def beaten(one: Any) -> bool:
        better = [
            [b >= a for a, b in zip(one.values, other.values, strict=True)] for other in trials if other.values != one.values
        ]
        return any(all(each) for each in better)

    assert {trial.number for trial in report.best(study)} == {trial.number for trial in trials if not beaten(trial)}
    report.write(search, study)
    assert (tmp_path / "figures" / "front.png").stat().st_size > 10_000


def test_ctrl_c_marks_a_trial_as_failed_and_its_values_come_again(tmp_path: Path) -> None:
    def act(drawn: Mapping[str, str], folder: Path, watch: Watch) -> list[float]:
        if int(folder.name) == 4:
            raise KeyboardInterrupt
        return objective(drawn, folder, watch)

    search = Random(space=SPACE, trials=6, folder=str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        searched(search, act)
    study = searched(search)
    trials = study.get_trials(deepcopy=False)
    assert trials[4].state == TrialState.FAIL and report.state(study, trials[4]) == "interrupted"
    assert trials[5].params == trials[4].params and trials[5].state == TrialState.COMPLETE
    assert len(counted(study)) == 6 and len(trials) == 7


def _slow(drawn: Mapping[str, str], folder: Path, watch: Watch) -> list[float]:
    folder.mkdir()
    (folder / "pid").write_text(str(os.getpid()))
    time.sleep(0.4 if int(folder.name) < 2 else 0.02)
    return [value(drawn)]


def _process(folder: Path, trials: int) -> None:
    searched(TPE(space=SPACE, trials=trials, folder=str(folder)), _slow)


def test_processes_share_a_study_and_a_killed_ones_trial_is_repeated(tmp_path: Path) -> None:
    """Exactly as many trials as were asked for, of which none runs twice but the one that was killed."""
    open_study(TPE(space=SPACE, folder=str(tmp_path)), {})
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_process, args=(tmp_path, 8)) for _ in range(2)]
    for worker in workers:
        worker.start()
    killed = tmp_path / "1" / "pid"
    while not (killed.exists() and killed.read_text()):
        time.sleep(0.005)
    os.kill(int(killed.read_text()), signal.SIGKILL)
    for worker in workers:
        worker.join(60)
    assert sorted(worker.exitcode for worker in workers) == [-signal.SIGKILL, 0]
    study = searched(TPE(space=SPACE, trials=8, folder=str(tmp_path)), _slow)
    trials = study.get_trials(deepcopy=False)
    assert [trial.state for trial in trials].count(TrialState.COMPLETE) == 8 == len(trials) - 1
    assert trials[1].state == TrialState.FAIL
    assert sum(trial.params == trials[1].params for trial in trials) == 2
    assert not list((tmp_path / "running").iterdir())


def test_a_trial_that_ends_while_one_looks_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process has it as running, and comes to its lock when that is free again."""
    study = open_study(Random(space=SPACE, folder=str(tmp_path)), {})
    trial = study.ask()
    claim = _claim(tmp_path, trial.number)
    with claim:
        before = study.get_trials()
    study.tell(trial, 1.0)
    everything = type(study).get_trials
    monkeypatch.setattr(type(study), "get_trials", lambda self, states=None, **how: before if states else everything(self, **how))
    assert _living(study, tmp_path) == 0
    assert [each.state for each in everything(study)] == [TrialState.COMPLETE]


@pytest.mark.slow
def test_a_trial_that_kills_its_process_is_given_up(tmp_path: Path) -> None:
    search = Random(space=SPACE, trials=1, folder=str(tmp_path))
    open_study(search, {})
    context = multiprocessing.get_context("fork")
    for _ in range(MOST_KILLS):
        worker = context.Process(target=searched, args=(search, lambda *_: os.kill(os.getpid(), signal.SIGKILL)))
        worker.start()
        worker.join(60)
    study = searched(search)
    (last,) = counted(study)
    assert report.state(study, last) == "failed" and "killed" in str(failure(study, last))


def test_a_study_goes_on_with_what_it_was_begun_with(tmp_path: Path) -> None:
    configuration = {"optimizer": {"lr": 0.1}}

    def opened(**changes: Any) -> Any:
        options = {"space": SPACE, "name": "s", "folder": str(tmp_path)} | changes
        return open_study(TPE(**options), configuration)

    opened()
    opened(trials=99, processes=4, pruner="median", seed=5)
    for changes, key in (
        ({"space": {**SPACE, "x": {"low": 0.0, "high": 1.0}}}, "search.space.x.low=0.0"),
        ({"objectives": ("a", "b")}, 'search.objectives=["a", "b"]'),
    ):
        with pytest.raises(UserError, match=re.escape(key)) as error:
            opened(**changes)
        assert str(tmp_path) in str(error.value)
    configuration["optimizer"]["lr"] = 0.2
    with pytest.raises(UserError, match=r"optimizer.lr=0\.2: is not what the study s was begun with"):
        opened()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"objectives": ()}, "search.objectives=[]"),
        ({"objectives": ("a", "a")}, "each once"),
        ({"objectives": ("a", "b"), "pruner": "median"}, "Optuna prunes no search with several objectives"),
        ({"storage": "journal.log"}, "is no database of a search"),
        ({"storage": "redis://host"}, "is no database of a search"),
        ({"folder": "50%"}, "no % or ? in the path"),
    ],
)
def test_what_cannot_be_searched_is_said(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        TPE(space=SPACE, **options)
    assert said in str(error.value)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_text("not a database, and long enough to have a header of one")
    with pytest.raises(UserError, match=r"study\.db: cannot be used"):
        open_study(TPE(space=SPACE, folder=str(tmp_path)), {})


def test_nothing_in_the_database_is_a_pickle(tmp_path: Path) -> None:
    """Numbers, texts and times alone: no blob that something could be read from."""
    searched(TPE(space=SPACE, trials=3, folder=str(tmp_path), pruner="hyperband"))
    with sqlite3.connect(tmp_path / "study.db") as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        kinds = {type(cell) for table in tables for row in database.execute(f"SELECT * FROM {table}") for cell in row}
    assert kinds <= {int, float, str, type(None)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("update trial_values set value='high'", "values=['high']: 1 numbers are expected"),
        ("delete from trial_values", "trial 0: values=None"),
        ("update trial_values set value_type='ODD'", "'ODD'"),
        ("insert into trial_values (trial_id, objective, value, value_type) values (1, 1, 0.5, 'FINITE')", "1 numbers"),
        ("update trial_params set param_value='abc'", "cannot be used"),
        ("update trial_params set param_value=1e9 where param_name='x'", "trial 0: x=1000000000.0: is not in the search's space"),
        ("update trial_params set param_name='hydra.run.dir' where param_name='kind'", "hydra.run.dir: is not in the search's"),
        (
            "update trial_params set distribution_json="
            """replace(replace(distribution_json, '"good"', '"a,b"'), '"bad"', '"a,b"')""",
            "kind='a,b': is not in the search's space",
        ),
        ("update trial_params set distribution_json='{}'", "cannot be used"),
        ("update trials set state='ODD'", "'ODD'"),
        ("update trials set number=number + 5", "trial 0: its number is"),
        ("update trials set datetime_start='yesterday'", "'yesterday'"),
        ("update study_directions set direction='MINIMIZE'", "1 objectives to maximise"),
        ("insert into study_directions (direction, study_id, objective) values ('MAXIMIZE', 1, 1)", "1 objectives to maximise"),
        ("update study_user_attributes set value_json='{'", "cannot be used"),
        ("update study_user_attributes set value_json='[1]'", "begun with"),
        ("update alembic_version set version_num='v9.9.9'", "no longer compatible"),
        (
            "insert into trial_system_attributes (trial_id, key, value_json) values (1, 'fixed_params', '{\"x\": \"y\"}')",
            "x='y': is not in the search's space",
        ),
    ],
)
def test_a_database_that_somebody_has_changed(study_folder: Path, tmp_path: Path, change: str, said: str) -> None:
    """Optuna would fail on most of these with an error of its own, some of them trials later."""
    shutil.copytree(study_folder, tmp_path / "copy")
    with sqlite3.connect(tmp_path / "copy" / "study.db") as database:
        database.execute(change)
    database.close()
    search = Random(space=SPACE, name="s", trials=2, folder=str(tmp_path / "copy"))
    with pytest.raises(UserError) as error:
        open_study(search, {})
    assert said in str(error.value) and len(str(error.value).splitlines()) == 1


@pytest.fixture(scope="module")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two finished trials."""
    folder = tmp_path_factory.mktemp("study")
    searched(Random(space=SPACE, name="s", trials=2, folder=str(folder)))
    return folder


def test_a_database_that_fails_later_is_said(study_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(study_folder, tmp_path / "copy")
    with sqlite3.connect(tmp_path / "copy" / "study.db") as database:
        database.execute("create trigger t before insert on trials begin select raise(abort, 'no more'); end")
    database.close()
    search = Random(space=SPACE, name="s", trials=3, folder=str(tmp_path / "copy"))
    with pytest.raises(UserError, match=r"cannot be used \(.*no more"), usable(search):
        searched(search)
