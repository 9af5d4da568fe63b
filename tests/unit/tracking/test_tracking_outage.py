"""An MLflow that is down: it never stops a run, and never holds it up for more than five seconds in all."""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from clocks import AwakeClock
from conftest_tracking import RunFolder, line

from mtl_runner.tracking import journal, sync
from mtl_runner.tracking.mlflow_tracker import MlflowTracker
from mtl_runner.tracking.session import Session

Server = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
def black_hole() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


class Held(NamedTuple):
    """Seconds; a machine that stands still adds to ``at_least`` alone."""

    at_least: float
    at_most: float


def train(run: RunFolder, uri: str, epochs: range, pause: float = 0.0, between: Callable[[int], object] = lambda _: None) -> Held:
    """A run of which only the tracking takes time; returns for how long that held it up."""
    wall, awake, clock = 0.0, 0.0, AwakeClock()
    began, woke = time.monotonic(), clock.now
    tracker = MlflowTracker(uri=uri)
    tracker.start(run.path)
    for epoch in epochs:
        run.write(line(epoch))
        tracker.log_metrics(line(epoch))
        wall, awake = wall + time.monotonic() - began, awake + clock.now - woke
        time.sleep(pause)
        between(epoch)
        began, woke = time.monotonic(), clock.now
    run.end()
    tracker.finish("finished")
    return Held(wall + time.monotonic() - began, awake + clock.now - woke)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        entry.getMessage() for entry in caplog.records if entry.name.startswith("mtl_runner") and entry.levelno >= logging.WARNING
    ]


def test_connection_refused(run_folder: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    held = train(run_folder, "http://127.0.0.1:1", range(1, 50))
    assert held.at_most < 3
    assert said(caplog) == [
        "MLflow at http://127.0.0.1:1: connection refused. The run goes on without it; "
        f"`mtl sync {run_folder.path}` sends it later."
    ]
    known = journal.read(run_folder.path)
    assert known is None or known.run_id is None


def test_a_server_that_never_answers(run_folder: RunFolder, black_hole: str, caplog: pytest.LogCaptureFixture) -> None:
    held = train(run_folder, black_hole, range(1, 50))
    assert held.at_least > 1 and held.at_most < 5
    assert [text.split(". ")[0] for text in said(caplog)] == [f"MLflow at {black_hole}: no answer"]


def test_a_call_that_does_not_come_back(
    run_folder: RunFolder, uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    released = threading.Event()
    monkeypatch.setattr(Session, "send", lambda self, lines: self._call(released.wait, 60))
    held = train(run_folder, uri, range(1, 50), pause=0.02)
    released.set()
    assert held.at_least > 4 and held.at_most < 5.5
    assert len(said(caplog)) == 1


def test_finish_waits_for_as_long_as_calls_come_back(
    run_folder: RunFolder, uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("mtl_runner.tracking.sender.CALL", 0.5)
    monkeypatch.setattr("mtl_runner.tracking.session.CALL", 0.5)
    slow = Session.close
    monkeypatch.setattr(
        Session, "close", lambda self, state: ([self._call(time.sleep, 0.3) for _ in range(6)], slow(self, state))
    )
    assert train(run_folder, uri, range(1, 3)).at_least > 1.8
    assert said(caplog) == []
    known = journal.read(run_folder.path)
    assert known is not None
    assert known.finished


def test_any_error_at_all_is_one_line(
    run_folder: RunFolder, uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise OSError("the disk is full\nand more")

    monkeypatch.setattr(Session, "close", broken)
    assert train(run_folder, uri, range(1, 3)).at_most < 5
    assert len(said(caplog)) == 1
    assert ": the disk is full. The run goes on" in said(caplog)[0]


def test_interrupted_while_it_waits(run_folder: RunFolder, black_hole: str, caplog: pytest.LogCaptureFixture) -> None:
    tracker = MlflowTracker(uri=black_hole)
    tracker.start(run_folder.path)
    run_folder.end()
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    clock = AwakeClock()
    with pytest.raises(KeyboardInterrupt):
        tracker.finish("interrupted")
    assert clock.now < 1.5
    assert "mtl sync" in said(caplog)[0]


@pytest.fixture
def held_lock(tmp_path: Path) -> Iterator[Path]:
    """The lock of a database, held by another process that does nothing with it."""
    path = tmp_path / "mlflow.db.lock"
    script = "import sys, filelock; held = filelock.FileLock(sys.argv[1]).acquire(); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield path
        process.kill()


def test_a_lock_on_a_database_that_is_there_holds_nothing_up(
    run_folder: RunFolder, uri: str, held_lock: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert train(run_folder, uri, range(1, 3)).at_most < 5
    assert said(caplog) == []


def test_a_lock_on_a_database_that_nobody_makes(
    run_folder: RunFolder, held_lock: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow  # noqa: F401 - two seconds that are not the lock's

    address = f"sqlite:///{held_lock.with_suffix('')}"
    held = train(run_folder, address, range(1, 3))
    assert held.at_least > 4 and held.at_most < 5.5
    assert len(said(caplog)) == 1
    monkeypatch.setattr("mtl_runner.tracking.mlflow_tracker.PATIENCE", 0.5)
    clock = AwakeClock()
    MlflowTracker(uri=address).prepare("a study")
    assert clock.now < 2
    assert said(caplog)[1:] == [f"MLflow at {address}: another process holds {held_lock}"]


def test_while_another_process_makes_the_database_finish_waits(
    run_folder: RunFolder, held_lock: Path, uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """For longer than for one call, and no longer than until the database is there."""
    monkeypatch.setattr("mtl_runner.tracking.sender.CALL", 1.0)
    monkeypatch.setattr("mtl_runner.tracking.session.CALL", 1.0)
    database = held_lock.with_suffix("")
    complete = database.read_bytes()
    database.write_bytes(b"")

    def make() -> None:
        for _ in range(5):
            time.sleep(0.5)
            database.touch()
        database.write_bytes(complete)

    maker = threading.Thread(target=make)
    maker.start()
    held = train(run_folder, uri, range(1, 3))
    assert held.at_least > 2 and held.at_most < 5
    maker.join()
    assert said(caplog) == []


@pytest.fixture
def server(tmp_path: Path, uri: str) -> Iterator[tuple[str, Server]]:
    """The address of an MLflow server, and how to start it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        uri,
        "--artifacts-destination",
        str(tmp_path / "kept"),
    ]
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        options = ["--port", str(port), "--workers", "1"]
        started.append(
            subprocess.Popen([*command, *options], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return started[-1]
            except OSError:
                time.sleep(0.1)
        raise TimeoutError("the MLflow server does not start")

    yield f"http://127.0.0.1:{port}", start
    for process in started:
        send(process, signal.SIGKILL)


def send(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    """To the server and its workers."""
    if process.poll() is None:
        os.killpg(process.pid, number)
        if number == signal.SIGKILL:
            process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_server_that_goes_in_the_middle_and_comes_back(
    run_folder: RunFolder, server: tuple[str, Server], number: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow import MlflowClient

    address, start = server
    process = start()

    def between(epoch: int) -> None:
        while epoch == 5 and ((known := journal.read(run_folder.path)) is None or known.run_id is None):
            time.sleep(0.1)
        if epoch == 5:
            send(process, number)

    held = train(run_folder, address, range(1, 9), 0.2, between)
    assert held.at_most < 5
    assert len(said(caplog)) == 1
    known = journal.read(run_folder.path)
    assert known is not None
    assert known.run_id is not None
    assert not known.finished
    if number == signal.SIGKILL:
        start()
    else:
        send(process, signal.SIGCONT)
    assert sync(run_folder.path) == known.run_id
    client = MlflowClient(address)
    history = client.get_metric_history(known.run_id, "validation/digit/accuracy")
    assert [metric.step for metric in history] == list(range(1, 9))
    assert client.get_run(known.run_id).info.status == "FINISHED"
    assert {file.path for file in client.list_artifacts(known.run_id, "checkpoints")} == {"checkpoints/best.pt"}


@pytest.mark.slow
def test_the_process_ends_at_once(run_folder: RunFolder, black_hole: str) -> None:
    """No thread, pool or exit handler of MLflow's holds the process once finish has given up."""
    script = (
        "import sys, time; from pathlib import Path; from mtl_runner.tracking.mlflow_tracker import MlflowTracker;"
        "tracker = MlflowTracker(uri=sys.argv[2]); tracker.start(Path(sys.argv[1])); import mlflow; time.sleep(1);"
        "tracker.finish('finished'); print(flush=True)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}
    command = [sys.executable, "-c", script, run_folder.path, black_hole]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        clock = AwakeClock()
        _, said = process.communicate()
    assert clock.now < 1
    assert process.returncode == 0
    assert said.count("mtl sync") == 1
