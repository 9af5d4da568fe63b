"""What arrives in MLflow, read back by its own client."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from conftest_tracking import RunFolder, line

from mtl_runner.errors import UserError
from mtl_runner.tracking import journal, locate, sync
from mtl_runner.tracking.mlflow_tracker import MlflowTracker
from mtl_runner.tracking.session import Session

Stored = Callable[[str, str], dict[tuple[str, int], list[float]]]


def track(run: RunFolder, uri: str, epochs: range, state: str = "finished") -> None:
    """What the trainer does with a tracker."""
    tracker = MlflowTracker(uri=uri)
    tracker.start(run.path)
    for epoch in epochs:
        run.write(line(epoch))
        tracker.log_metrics(line(epoch))
    run.end(state)
    tracker.finish(state)  # type: ignore[arg-type]


def run_id(run: RunFolder) -> str:
    known = journal.read(run.path)
    assert known is not None
    assert known.run_id is not None
    return known.run_id


def expected(epochs: range) -> dict[tuple[str, int], list[float]]:
    """One point for each value of each line, and no other."""
    lines = [line(epoch) for epoch in epochs]
    points = {(name, each["epoch"]): [value] for each in lines for name, value in each["metrics"].items()}
    points |= {("step", each["epoch"]): [float(each["step"])] for each in lines}
    last = lines[-1]["epoch"]
    return points | {("test/digit/accuracy", last): [0.5], ("test/average", last): [0.5]}


def test_a_run_arrives_whole(run_folder: RunFolder, uri: str, stored: Stored, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    track(run_folder, uri, range(1, 4))
    client = MlflowClient(uri)
    run = client.get_run(run_id(run_folder))
    assert stored(uri, run.info.run_id) == expected(range(1, 4))
    assert run.info.status == "FINISHED"
    assert run.info.end_time - run.info.start_time == 30_000
    assert run.data.params["trainer.epochs"] == "3"
    assert run.data.tags["sharing"] == "hard"
    assert "mlflow.parentRunId" not in run.data.tags
    assert client.get_experiment(run.info.experiment_id).name == "a study"
    kept = {
        str(path.relative_to(tmp_path / "mlartifacts" / run.info.run_id / "artifacts"))
        for path in (tmp_path / "mlartifacts").rglob("*.*")
    }
    assert {
        "config.yaml",
        "test_metrics.json",
        "checkpoints/best.pt",
        "figures/learning_curves.png",
        "model/data/net.pt2",
    } <= kept
    assert "checkpoints/last.pt" not in kept


@pytest.mark.parametrize(("state", "status"), [("failed", "FAILED"), ("interrupted", "KILLED")])
def test_how_it_ended(run_folder: RunFolder, uri: str, state: str, status: str) -> None:
    from mlflow import MlflowClient

    track(run_folder, uri, range(1, 2), state)
    assert MlflowClient(uri).get_run(run_id(run_folder)).info.status == status


def test_sending_again_changes_nothing(run_folder: RunFolder, uri: str, stored: Stored) -> None:
    track(run_folder, uri, range(1, 4))
    before = journal.read(run_folder.path)
    assert before is not None
    assert sync(run_folder.path) == before.run_id
    before.write(run_folder.path, finished=False)
    assert sync(run_folder.path) == before.run_id
    assert stored(uri, run_id(run_folder)) == expected(range(1, 4))


def test_a_resumed_run_goes_on_in_the_same_one_with_nothing_doubled(run_folder: RunFolder, uri: str, stored: Stored) -> None:
    """Killed after epoch 4, cut back to the checkpoint of epoch 2, trained on with a larger budget at another time."""
    from mlflow import MlflowClient

    track(run_folder, uri, range(1, 5), "interrupted")
    first = run_id(run_folder)
    (run_folder.path / "metrics.jsonl").write_text("")
    run_folder.write(line(1), line(2))
    config = run_folder.path / "config.yaml"
    config.write_text(config.read_text().replace("epochs: 3", "epochs: 6"))
    (run_folder.path / "test_metrics.json").unlink()
    tracker = MlflowTracker(uri="http://127.0.0.1:1")
    tracker.start(run_folder.path)
    for epoch in range(3, 7):
        later = line(epoch, time=1.8e9 + epoch)
        run_folder.write(later)
        tracker.log_metrics(later)
    run_folder.status("finished")
    tracker.finish("finished")
    assert run_id(run_folder) == first
    points = stored(uri, first)
    assert {key: value for key, value in points.items() if key[0].partition("/")[0] != "test"} == {
        key: value for key, value in expected(range(1, 7)).items() if key[0].partition("/")[0] != "test"
    }
    run = MlflowClient(uri).get_run(first)
    assert (run.data.params["trainer.epochs"], run.data.tags["resumed.trainer.epochs"]) == ("3", "6")
    assert run.info.status == "FINISHED"


def test_what_changed_while_it_ran_is_read_again(run_folder: RunFolder, uri: str) -> None:
    session = Session(run_folder.path, uri, lambda _: None)
    session.open(running=True)
    run_folder.end()
    session.close("finished")
    run = session.client.get_run(session.run_id)
    assert (run.info.status, run.info.end_time - run.info.start_time) == ("FINISHED", 30_000)


def test_a_run_is_marked_running_again_when_it_goes_on(run_folder: RunFolder, uri: str) -> None:
    track(run_folder, uri, range(1, 3), "interrupted")
    session = Session(run_folder.path, uri, lambda _: None)
    session.open(running=True)
    assert session.client.get_run(session.run_id).info.status == "RUNNING"
    assert not session.journal.finished


def test_sync_of_a_run_that_was_never_tracked(
    run_folder: RunFolder, uri: str, stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_folder.write(*(line(epoch) for epoch in range(1, 4)))
    run_folder.end()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert stored(uri, sync(run_folder.path)) == expected(range(1, 4))


def test_epochs_that_end_at_the_same_step_all_arrive(run_folder: RunFolder, uri: str, stored: Stored) -> None:
    """Where each task has a network of its own, the step is that of the furthest one."""
    lines = [line(epoch) | {"step": 10} for epoch in range(1, 4)]
    run_folder.write(*lines[:2])
    run_folder.end("interrupted")
    identifier = sync(run_folder.path, uri)
    run_folder.write(lines[2])
    known = journal.read(run_folder.path)
    assert known is not None
    known.write(run_folder.path, finished=False)
    assert sync(run_folder.path) == identifier
    points = stored(uri, identifier)
    assert [points["train/digit/loss", epoch] for epoch in range(1, 4)] == [[1 / epoch] for epoch in range(1, 4)]
    assert [points["step", epoch] for epoch in range(1, 4)] == [[10.0]] * 3


def test_sync_sends_nothing_from_outside_the_folder(run_folder: RunFolder, uri: str, tmp_path: Path) -> None:
    run_folder.end()
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "home").mkdir()
    (tmp_path / "home/key").write_text("secret")
    (run_folder.path / "figures/x.png").symlink_to(tmp_path / "secret.txt")
    (run_folder.path / "figures/again.png").symlink_to("learning_curves.png")
    (run_folder.path / "model/home").symlink_to(tmp_path / "home")
    (run_folder.path / "checkpoints/best.pt").unlink()
    (run_folder.path / "checkpoints/best.pt").symlink_to(tmp_path / "secret.txt")
    sync(run_folder.path, uri)
    kept = [path for path in (tmp_path / "mlartifacts").rglob("*") if path.is_file()]
    assert {"learning_curves.png", "again.png", "net.pt2"} <= {path.name for path in kept}
    assert not [path for path in kept if path.read_bytes() == b"secret"]


@pytest.mark.parametrize("place", ["databricks", "postgresql://host/db", "file:///tmp/runs"])
def test_a_folder_cannot_name_another_kind_of_place(run_folder: RunFolder, place: str) -> None:
    journal.begin(place, "a study").write(run_folder.path)
    with pytest.raises(UserError, match="no place for MLflow runs"):
        sync(run_folder.path)
    with pytest.raises(UserError, match="no place for MLflow runs"):
        MlflowTracker(uri="http://127.0.0.1:1").start(run_folder.path)


def test_sync_sends_again_what_was_deleted(run_folder: RunFolder, uri: str, stored: Stored) -> None:
    from mlflow import MlflowClient

    track(run_folder, uri, range(1, 3))
    first = run_id(run_folder)
    MlflowClient(uri).delete_run(first)
    second = sync(run_folder.path)
    assert second != first
    assert stored(uri, second) == expected(range(1, 3))


def test_the_answer_to_the_creation_was_lost(run_folder: RunFolder, uri: str) -> None:
    """The run exists, its identifier is not known: it is found again by its key."""
    track(run_folder, uri, range(1, 3))
    known, first = journal.read(run_folder.path), run_id(run_folder)
    assert known is not None
    known.write(run_folder.path, run_id=None, finished=False)
    assert sync(run_folder.path) == first


def test_more_than_a_thousand_metrics_and_odd_names(run_folder: RunFolder, uri: str, stored: Stored) -> None:
    many = line(1, **{f"validation/task {index} (%)/loss": index / 7 for index in range(1500)})
    run_folder.write(many)
    run_folder.end()
    points = stored(uri, sync(run_folder.path, uri))
    assert sorted(value for (name, _), [value] in points.items() if "task" in name) == [index / 7 for index in range(1500)]


def test_sync_says_what_is_wrong(run_folder: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run folder"):
        sync(tmp_path)
    with pytest.raises(UserError, match=r"MLflow at http://127\.0\.0\.1:1: connection refused"):
        sync(run_folder.path, "http://127.0.0.1:1")


def test_a_deleted_experiment_is_named(run_folder: RunFolder, uri: str) -> None:
    from mlflow import MlflowClient

    track(run_folder, uri, range(1, 2))
    client = MlflowClient(uri)
    client.delete_experiment(client.get_run(run_id(run_folder)).info.experiment_id)
    with pytest.raises(UserError, match="the experiment a study was deleted there"):
        sync(run_folder.path)


def test_a_run_is_found_by_its_identifier(
    run_folder: RunFolder, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_exit: list[Callable[[], object]] = []
    monkeypatch.setattr("atexit.register", lambda call, *args, **kwargs: at_exit.append(partial(call, *args, **kwargs)))
    track(run_folder, uri, range(1, 2))
    identifier = run_id(run_folder)
    assert locate(identifier, uri) == run_folder.path
    assert locate(run_folder.path) == run_folder.path
    run_folder.path.rename(tmp_path / "elsewhere")
    fetched = locate(identifier, uri)
    assert (fetched / "checkpoints/best.pt").read_bytes() == b"checkpoints/best.pt"
    assert json.loads((fetched / "data.json").read_text()) == {"fingerprint": "f00d"}
    for call in at_exit:
        call()
    assert not fetched.exists()
    with pytest.raises(UserError, match="not found"):
        locate("0" * 32, uri)
    with pytest.raises(UserError, match="not a run folder"):
        locate(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no MLflow database"):
        locate("0" * 32, f"sqlite:///{tmp_path}/none.db")
    assert not (tmp_path / "none.db").exists()


@pytest.mark.slow
def test_four_processes_on_a_new_database(tmp_path: Path) -> None:
    """Without the lock, three of four crash."""
    script = (
        "import sys; from pathlib import Path; from mtl_runner.tracking.mlflow_tracker import MlflowTracker;"
        "from mtl_runner.tracking import journal; tracker = MlflowTracker(); folder = Path(sys.argv[1]);"
        "tracker.start(folder); tracker.finish('finished'); assert journal.read(folder).finished"
    )
    folders = [RunFolder(tmp_path / "runs" / str(number)) for number in range(4)]
    for folder in folders:
        folder.end()
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    processes = [
        subprocess.Popen([sys.executable, "-c", script, folder.path], cwd=tmp_path, env=environment) for folder in folders
    ]
    assert [process.wait(120) for process in processes] == [0] * 4
    assert len({run_id(folder) for folder in folders}) == 4
