"""``mtl ui``: MLflow's page on the runs of the working folder."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import IO, Any

import typer

from mtl_runner.errors import UserError

HOST = "127.0.0.1"
START_SECONDS = 120.0
RUNS = "/#/experiments/{}/runs?workflowType=machine_learning"
"""Where the page lists the runs of an experiment; from version 3 on it begins with traces of language models elsewhere."""
NAMED = 5
"""Experiments whose address is printed, those with the latest runs."""


def serve(port: int, uri: str | None) -> int:
    """Starts the page, prints its address once it answers, and stays until Ctrl-C; returns the exit code."""
    from mtl_runner.tracking.uri import database, resolve

    place = resolve(uri)
    file = database(place)
    if file is None:
        typer.echo(f"the tracker is a server with a page of its own: {place}")
        return 0
    if not file.exists():
        raise UserError(f"there is no {file}; `mtl-run` makes it, or name another tracker with --uri")
    port = _free(port)
    with tempfile.TemporaryFile() as log:
        server = _start(place, port, log)
        try:
            return _attend(server, port, file, log)
        except KeyboardInterrupt:
            return 0
        finally:
            _end(server)


def _start(place: str, port: int, log: IO[bytes]) -> "subprocess.Popen[bytes]":
    """MLflow's server, in a process group of its own, which Ctrl-C does not reach: this process ends it."""
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", place, "--host", HOST, "--port", str(port)]
    # without the processes for background jobs, which only the evaluation of language models needs
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return subprocess.Popen([*command, "--workers", "1"], env=environment, stdout=log, stderr=log, start_new_session=True)


def _attend(server: "subprocess.Popen[bytes]", port: int, file: Path, log: IO[bytes]) -> int:
    signal.signal(signal.SIGTERM, _interrupt)
    if _answers(server, port):
        typer.echo(f"MLflow: http://{HOST}:{port} (Ctrl-C ends it)")
        for number, name in _experiments(file):
            typer.echo(f"  {name}: http://{HOST}:{port}{RUNS.format(number)}")
        server.wait()
    log.seek(0)
    sys.stderr.write(log.read().decode(errors="replace"))
    return server.returncode or 1


def _experiments(file: Path) -> list[tuple[str, str]]:
    """Number and name of those with runs, the latest first; read from the file, as importing mlflow takes seconds."""
    question = (
        "SELECT e.experiment_id, e.name FROM experiments e JOIN runs r ON r.experiment_id = e.experiment_id "
        "WHERE e.lifecycle_stage = 'active' AND r.lifecycle_stage = 'active' "
        "GROUP BY e.experiment_id ORDER BY MAX(r.start_time) DESC LIMIT ?"
    )
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as connection:
            return [(str(number), str(name)) for number, name in connection.execute(question, (NAMED,))]
    except sqlite3.Error:  # not MLflow's, or of another version of it; the page has them all
        return []


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _end(server: "subprocess.Popen[bytes]") -> None:
    try:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(10)
    except ProcessLookupError:
        return
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)


def _free(port: int) -> int:
    """``port`` if nothing listens there; for 0, any free one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            raise UserError(f"--port {port}: is taken; leave --port away for a free one") from None
        return int(probe.getsockname()[1])


def _answers(server: "subprocess.Popen[bytes]", port: int) -> bool:
    """Waits until something listens at ``port``; False where the server ended before or did not begin in time."""
    end = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < end:
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex((HOST, port)) == 0:
                return True
        time.sleep(0.1)
    return False
