"""Which runs a comparison is of."""

import json
import shutil
from pathlib import Path

import pytest
from made_runs import made_run

from mtl_runner.analysis import mlflow_page
from mtl_runner.analysis.mlflow_search import Wanted
from mtl_runner.analysis.selection import newest_sweep, select
from mtl_runner.errors import UserError
from mtl_runner.tracking import journal, sync
from mtl_runner.tuning.base import LOCK

SCORES = {"a": {"roc_auc": 0.8}}
SWEEP = "runs/2026-11-21/08-00-00"


def seeds(names: Wanted) -> list[int]:
    return [run.seed for run in select(names).runs]


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve jobs of which one failed, and the folder of an older sweep."""
    monkeypatch.chdir(tmp_path)
    for seed in range(12):
        job = {"job": f"{seed:016x}", "state": "failed" if seed == 5 else "finished"}
        made_run(Path(SWEEP) / str(seed), SCORES, seed=seed, status=job)
    made_run(Path("runs/2026-11-20/09-00-00/0"), SCORES, seed=77)
    return Path(SWEEP)


def test_folders_are_read_without_mlflow(sweep: Path) -> None:
    assert seeds(Wanted((SWEEP,))) == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11], "numbered jobs in order, the failed one left out"
    assert seeds(Wanted((f"{SWEEP}/3", f"{SWEEP}/4", f"{SWEEP}/3"))) == [3, 4], "once each"
    assert seeds(Wanted(("2026-11-21/08-00-00",))) == seeds(Wanted(()))
    assert select(Wanted((SWEEP,))).notes == ("1 of 12 runs are left out: 1 failed.",)
    assert newest_sweep(Path("runs")) == sweep and not list(Path().glob("*.db"))


def test_a_sweep_brings_the_runs_that_made_its_jobs_needless(sweep: Path) -> None:
    """Of which ``sweep.json`` says where they are; a job that did not run has no folder."""
    folders = [str(sweep / "3"), None, "runs/2026-11-20/09-00-00/0"]
    (sweep / "sweep.json").write_text(json.dumps({"jobs": [{"folder": folder} for folder in folders]}))
    assert seeds(Wanted((SWEEP,))) == [3, 77]


def test_a_run_folder_is_one_run_whatever_is_in_it(sweep: Path) -> None:
    made_run(sweep / "3" / "kept", SCORES, seed=99)
    assert seeds(Wanted((f"{SWEEP}/3",))) == [3]


def test_the_newest_run_of_a_job_counts(sweep: Path) -> None:
    for seed, ended in ((5, "2026-11-21T09:00:00+00:00"), (6, "2026-11-21T09:00:00+00:00"), (7, "2026-11-21T07:00:00+00:00")):
        again = {"job": f"{seed:016x}", "ended": ended}
        made_run(Path("runs/2026-11-21/09-00-00") / str(seed), SCORES, seed=seed, status=again)
    chosen = select(Wanted(("runs/2026-11-21",)))
    assert sorted(run.seed for run in chosen.runs) == list(range(12))
    kept = {run.seed: run.folder.parent.name for run in chosen.runs}
    assert (kept[5], kept[6], kept[7]) == ("09-00-00", "09-00-00", "08-00-00")
    assert chosen.notes == ("2 runs of jobs that ran again later: only the newest of each job counts.",), "no failure is left"


@pytest.mark.parametrize("broken", ["[1", '{"state": 3}', "[]", '{"state": "finished", "started": null}'])
def test_a_folder_that_is_not_a_runs_is_counted(sweep: Path, broken: str) -> None:
    (sweep / "0" / "status.json").write_text(broken)
    (sweep / "1" / "test_metrics.json").write_text('{"tasks": {"a": {"roc_auc": "high"}}, "primary": {}, "average": {}}')
    assert len(seeds(Wanted((SWEEP,)))) in (9, 10)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (Wanted(("nothing",)), "nothing: there is no such folder, and there is no MLflow database"),
        (Wanted(experiment="e"), "no run can be searched, and there is no MLflow database"),
        (Wanted(("empty",)), "empty: has no run folder in it"),
        (Wanted(("failed",)), "failed: none of its runs is finished (1 failed)"),
        (Wanted(), "there is no sweep in"),
        (Wanted(uri="ftp://x", experiment="e"), "is no place for MLflow runs"),
    ],
)
def test_what_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: Wanted, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    Path("empty").mkdir()
    made_run(Path("failed"), SCORES, status={"state": "failed"})
    with pytest.raises(UserError) as error:
        select(names)
    assert words in str(error.value) and not list(tmp_path.glob("*.db"))


@pytest.mark.parametrize(("found", "said"), [("best.yaml", "-cd runs/tune/mine -cn best"), ("front/7.yaml", "mine/front -cn 7")])
def test_of_a_search_what_it_has_found_is_compared(sweep: Path, found: str, said: str) -> None:
    for number in range(2):
        trial = made_run(Path("runs/tune/mine") / str(number), SCORES, status={"job": str(number)})
        (trial / "test_metrics.json").rename(trial / "validation_metrics.json")
    (Path("runs/tune/mine") / found).parent.mkdir(exist_ok=True)
    (Path("runs/tune/mine") / found).touch()
    with pytest.raises(UserError, match="tune/mine: trials of a search never see the test part; .*" + said):
        select(Wanted(("tune/mine",)))
    assert select(Wanted(("runs/tune/mine", SWEEP))).notes == (
        "3 of 14 runs are left out: 2 of a search (no trial sees the test part), 1 failed.",
    )


def test_the_newest_sweep_is_the_last_that_began(sweep: Path) -> None:
    """Whatever the folders are called; a search is none, and a sweep that had nothing to run is one."""
    assert newest_sweep(Path("runs")) == sweep
    made_run(Path("runs/tune/mine/0"), SCORES, status={"started": "2026-11-25T08:00:00+00:00"})
    (Path("runs/tune/mine") / LOCK).touch()
    trial = made_run(Path("runs/tune/other/0"), SCORES, status={"started": "2026-11-25T08:00:00+00:00"})
    (trial / "test_metrics.json").rename(trial / "validation_metrics.json")
    made_run(Path("runs/zoo/old/0"), SCORES, status={"started": "2026-11-19T08:00:00+00:00"})
    assert newest_sweep(Path("runs")) == sweep
    late = made_run(Path("runs/a/new/0"), SCORES, status={"started": "2026-11-22T08:00:00+00:00"}).parent
    assert newest_sweep(Path("runs")) == late
    again = Path("runs/again")
    again.mkdir()
    (again / "sweep.json").write_text(json.dumps({"started": "2026-11-23T08:00:00+00:00", "jobs": []}))
    assert newest_sweep(Path("runs")) == again
    (again / "sweep.json").write_text("[1")
    (sweep / "0/status.json").write_text("[]")
    assert newest_sweep(Path("runs")) == late, "what cannot be read says nothing"


def test_address_of_the_compare_page() -> None:
    """As MLflow's own page makes it, with its JSON encoded."""
    route = mlflow_page.address(["a1", "b2"], ["7"])
    assert route == "/#/compare-runs?runs=%5B%22a1%22%2C%20%22b2%22%5D&experiments=%5B%227%22%5D&workflowType=machine_learning"


def test_mlflows_page_has_this_route() -> None:
    import importlib.util

    spec = importlib.util.find_spec("mlflow")
    assert spec and spec.origin
    pages = (Path(spec.origin).parent / "server/js/build/static/js").glob("*.js")
    made = "`?runs=${JSON.stringify(e)}&experiments=${JSON.stringify(t)}`"
    assert any('"/compare-runs"' in text and made in text for text in (path.read_text(errors="replace") for path in pages))


@pytest.mark.slow
def test_runs_that_mlflow_names(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"sqlite:///{Path('mlflow.db').absolute()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    identifiers = [sync(sweep / str(seed)) for seed in (0, 1, 2, 5)]
    known = select(Wanted(experiment="made"))
    assert {run.id for run in known.runs} == set(identifiers[:3]) and known.notes == ("1 of 4 runs are left out: 1 failed.",)
    assert {run.folder for run in known.runs} == {(sweep / str(seed)).absolute() for seed in (0, 1, 2)}, "read where they are"
    assert seeds(Wanted(sweep="2026-11-21/08-00-00", filter="params.seed = '1'")) == [1]
    assert seeds(Wanted((identifiers[2],))) == [2]
    with pytest.raises(UserError, match="did you mean 'made'"):
        select(Wanted(experiment="mde"))
    with pytest.raises(UserError, match="MLflow at"):
        select(Wanted(filter="nonsense"))

    shutil.rmtree(sweep / "2")  # as on another machine
    far = {run.seed: run for run in select(Wanted(experiment="made")).runs}[2]
    assert far.id == identifiers[2] and far.scores == SCORES and not (far.folder / "checkpoints").exists()

    page = mlflow_page.page(known.runs)
    assert page and page.splitlines()[0] == "mtl ui --port 5000" and all(run in page for run in identifiers[:3])
    Path("report").mkdir()
    (Path("report") / "table.csv").write_text("a,b\n")
    logged = mlflow_page.log(Path("report"), "made", known.runs)
    assert logged == mlflow_page.log(Path("report"), "made", known.runs), "the same comparison replaces its files"
    assert len(select(Wanted(experiment="made")).runs) == 3, "it is no run to compare"


def test_mlflow_that_is_away_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mtl_runner.analysis.results import read

    folder = made_run(tmp_path / "0", SCORES)
    journal.begin("http://127.0.0.1:9", "made").write(folder, run_id="a" * 32)
    runs = [read(folder)]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:8")
    assert mlflow_page.page(runs) is None and mlflow_page.log(tmp_path, "made", runs) is None
    assert not caplog.text, "a tracker that only a run folder names, perhaps a stranger's, is not asked"
    address = "http://127.0.0.1:9"
    assert mlflow_page.page(runs, address) is None and mlflow_page.log(tmp_path, "made", runs, address) is None
    assert "MLflow at http://127.0.0.1:9: connection refused" in caplog.text
    assert json.loads((folder / "tracker.json").read_text())["run_id"] == runs[0].id
