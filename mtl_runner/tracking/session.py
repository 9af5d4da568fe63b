"""The calls to MLflow: one run of it mirrors one run folder. The only module of tracking that imports mlflow."""

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mtl_runner.tracking import journal as journals
from mtl_runner.tracking import record as records
from mtl_runner.tracking.base import Line, State
from mtl_runner.tracking.record import MARK, Point
from mtl_runner.tracking.uri import database

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

T = TypeVar("T")
Beat = Callable[[float], None]
"""Called before each call to MLflow with the seconds that the call may take."""

CALL = 4.5
"""Seconds for one call while somebody waits: with all the rest, less than five."""
SETUP = 120.0
"""Seconds for what happens on this machine only: importing mlflow, creating a database (3 s when nothing else runs)."""
_BYTES_A_SECOND = 1e6
_POINTS, _PARAMS = 1000, 100
_STATUS: Mapping[State, str] = {
    "running": "RUNNING", "finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "killed": "KILLED",
    "pruned": "KILLED", "not_applicable": "FAILED",
}  # fmt: skip


class Session:
    """Sends a run folder to MLflow. What MLflow has already is not sent again: everything here may be repeated.

    The points of an epoch stay as they were first sent, also where the run was cut back and trained that epoch again.
    """

    def __init__(self, folder: Path, uri: str, beat: Beat) -> None:
        self.folder, self.uri, self.beat = folder, uri, beat
        self.record = records.read(folder)
        known = journals.read(folder)
        self._new = known is None or known.uri != uri
        self.journal = journals.begin(uri, self.record.experiment) if known is None or self._new else known
        self._sent: set[int] = set()

    @property
    def run_id(self) -> str:
        """The run's identifier, once it is open."""
        assert self.journal.run_id is not None
        return self.journal.run_id

    def open(self, running: bool) -> None:
        """Finds or creates the MLflow run and sends the lines it lacks; ``running`` marks a finished one as running again."""
        self.beat(SETUP)
        load()
        self.client, experiment = connect(self.uri, self.journal.experiment, self.beat)
        self.journal = self.journal.write(self.folder)
        if (known := self._known_run(experiment)) and running:
            self._call(self.client.update_run, known.info.run_id, status="RUNNING")
        run = known or self._create(experiment)
        finished = self.journal.finished and known is not None and not running
        self.journal = self.journal.write(self.folder, run_id=run.info.run_id, finished=finished)
        self._configure(run)
        history = self._call(self.client.get_metric_history, self.run_id, MARK)
        self._sent = {metric.step for metric in history}
        self.send(self.record.lines())

    def send(self, lines: Iterable[Line]) -> None:
        """Sends the lines whose epoch MLflow does not have, as many in one call as fit."""
        fresh = [line for line in lines if line["epoch"] not in self._sent]
        self._log([point for line in fresh for point in records.points(line)])
        self._sent.update(line["epoch"] for line in fresh)

    def close(self, state: State) -> None:
        """Sends what exists only at the end, then the state."""
        self.record = records.read(self.folder)
        self._log(self.record.test_points())
        for path, parent in self.record.artifacts():
            self.beat(CALL + path.stat().st_size / _BYTES_A_SECOND)
            self.client.log_artifact(self.run_id, str(path), parent)
        if state != "running":
            self._call(self.client.set_terminated, self.run_id, _STATUS[state], self.record.ended)
            self.journal = self.journal.write(self.folder, finished=True)

    def _known_run(self, experiment: str) -> "Run | None":
        """The run of an earlier session, unless it was deleted since."""
        from mlflow.exceptions import MlflowException

        if self._new:
            return None
        if self.journal.run_id is None:
            found = self._call(self.client.search_runs, [experiment], f"tags.`mtl.key` = '{self.journal.key}'")
            return found[0] if found else None
        try:
            run = self._call(self.client.get_run, self.journal.run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return run if run.info.lifecycle_stage == "active" else None

    def _create(self, experiment: str) -> "Run":
        tags: dict[str, Any] = {**self.record.tags, "mtl.key": self.journal.key}
        return self._call(self.client.create_run, experiment, self.record.started, tags, self.record.name)

    def _configure(self, run: "Run") -> None:
        """Sends the parameters; MLflow keeps the first value of each, so that a changed one (a larger budget) becomes a tag."""
        from mlflow.entities import Param, RunTag

        known, params = run.data.params, self.record.params
        for some in _chunks([Param(name, value) for name, value in params.items() if name not in known], _PARAMS):
            self._call(self.client.log_batch, self.run_id, params=some, synchronous=True)
        changed = [RunTag(f"resumed.{name}"[:250], value) for name, value in params.items() if known.get(name, value) != value]
        for tags in _chunks(changed, _PARAMS):
            self._call(self.client.log_batch, self.run_id, tags=tags, synchronous=True)

    def _log(self, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        for some in _chunks([Metric(*point) for point in points], _POINTS):
            self._call(self.client.log_batch, self.run_id, metrics=some, synchronous=True)

    def _call(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        self.beat(CALL)
        return call(*args, **kwargs)


def connect(uri: str, experiment: str, beat: Beat = lambda _: None, patience: float = SETUP) -> "tuple[MlflowClient, str]":
    """A client and the identifier of the experiment, made if need be; one process at a time makes a new database.

    Raises:
        TimeoutError: the database is not there yet, and another process has kept others from making it for ``patience``
            seconds.
    """
    if (path := database(uri)) is None:
        beat(CALL)
        client = silent_client(uri)
        return client, _experiment(client, experiment, None)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _turn(path, beat, patience):
        beat(SETUP)
        client = silent_client(uri)
        return client, _experiment(client, experiment, str(path.parent / "mlartifacts"))


def _turn(path: Path, beat: Beat, patience: float) -> AbstractContextManager[object]:
    """Nothing where the database is complete, else the lock of the process that makes it, held.

    While another process holds it, each change of the file is a beat.
    """
    from filelock import FileLock, Timeout

    lock, seen, end = FileLock(f"{path}.lock"), _changed(path), time.monotonic() + patience
    beat(CALL)
    while not _complete(path):
        try:
            return lock.acquire(timeout=0.1)
        except Timeout:
            if time.monotonic() > end:
                raise TimeoutError(f"another process holds {path}.lock") from None
        if (now := _changed(path)) != seen:
            seen = now
            beat(CALL)
    return nullcontext()


def _changed(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def _complete(path: Path) -> bool:
    """Whether MLflow has made all of the database: the first experiment comes last."""
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", timeout=0.1, uri=True)) as connection:
            return connection.execute("SELECT 1 FROM experiments LIMIT 1").fetchone() is not None
    except sqlite3.Error:
        return False


def silent_client(uri: str) -> "MlflowClient":
    """A client that does not try again and says nothing by itself, unless the environment says otherwise."""
    load()
    from mlflow import MlflowClient

    return MlflowClient(uri)


def load() -> None:
    """Imports mlflow, which reads its environment then: two seconds of this machine's time, none of the server's."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import_module("mlflow")


_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
_TIMEOUT_IS_OURS = _TIMEOUT not in os.environ


@contextmanager
def hurry(seconds: int = 3) -> Iterator[None]:
    """Inside, a server has so many seconds for each answer, unless the environment says otherwise; outside half a minute.

    MLflow reads this from the environment at every request and takes it from nowhere else.
    """
    if _TIMEOUT_IS_OURS:
        os.environ[_TIMEOUT] = str(seconds)
    try:
        yield
    finally:
        if _TIMEOUT_IS_OURS:
            os.environ[_TIMEOUT] = _ENVIRONMENT[_TIMEOUT]


_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    _TIMEOUT: "30",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


_KIND, _TRAINING = "mlflow.experimentKind", "custom_model_development"
_GUESSED = (None, "", "no_inferred_type", "genai_development_inferred")
"""Kinds that nobody chose: none, and what MLflow's page takes an experiment for that has no runs yet."""


def _experiment(client: "MlflowClient", name: str, artifacts: str | None) -> str:
    """The identifier of the experiment, made if need be, and one whose page opens on its training runs.

    Without a kind, MLflow's page guesses one, and may show traces of language models first. A kind that a person chose stays.
    """
    from mlflow.exceptions import MlflowException

    if (found := client.get_experiment_by_name(name)) is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifacts, tags={_KIND: _TRAINING}))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)
    assert found is not None
    if found.lifecycle_stage != "active":
        raise ValueError(f"the experiment {name} was deleted there; restore it or choose another name")
    if found.tags.get(_KIND) in _GUESSED:
        client.set_experiment_tag(found.experiment_id, _KIND, _TRAINING)
    return str(found.experiment_id)


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[at : at + size] for at in range(0, len(items), size))
