"""MLflow as the tracker."""

import logging
from pathlib import Path

from mtl_runner.tracking.base import Line, State, Tracker
from mtl_runner.tracking.uri import database, resolve

_log = logging.getLogger(__name__)

PATIENCE = 10.0
"""Seconds that the start of a sweep waits for another process that makes the same database."""


class MlflowTracker(Tracker):
    """Mirrors the run folder to an MLflow run, in a thread of its own.

    Args:
        uri: ``http://…``, ``https://…`` or ``sqlite:///…``; None takes ``MLFLOW_TRACKING_URI``, and without that
            the file ``mlflow.db`` in the working folder, with the artifacts in ``mlartifacts`` beside it.

    Raises:
        UserError: ``uri`` is of another kind.
    """

    keeps_model = True
    imports = ("mtl_runner.tracking.warm", "mtl_runner.serving.warm")

    def __init__(self, *, uri: str | None = None) -> None:
        self.uri = resolve(uri)

    def prepare(self, experiment: str) -> None:
        """Creates the database file and the experiment, and waits a little for another process that does so.

        A server sorts out by itself who creates it first.
        """
        if database(self.uri) is None:
            return
        from mtl_runner.tracking.session import connect

        try:
            connect(self.uri, experiment, patience=PATIENCE)
        except Exception as error:  # noqa: BLE001 - the runs say so again, and go on without it
            _log.warning("MLflow at %s: %s", self.uri, error)

    def start(self, folder: Path) -> None:
        """Begins a thread; the MLflow run named in ``tracker.json``, if there is one, goes on."""
        from mtl_runner.tracking import journal
        from mtl_runner.tracking.sender import Sender

        known = journal.read(folder)
        self._sender = Sender(folder.absolute(), resolve(known.uri) if known else self.uri)

    def log_metrics(self, line: Line) -> None:
        """Queues the line."""
        self._sender.put(line)

    def finish(self, state: State) -> None:
        """Waits until MLflow has everything, or has not answered for five seconds."""
        self._sender.finish(state)
