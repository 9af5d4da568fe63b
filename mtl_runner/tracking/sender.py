"""The thread that talks to MLflow while training goes on."""

import logging
import shlex
import threading
import time
from pathlib import Path

from mtl_runner.tracking.base import Line, State
from mtl_runner.tracking.session import CALL, Session, hurry

_log = logging.getLogger(__name__)

INTERVAL = 1.0
"""Seconds between two batches while training runs, at least: epochs that take milliseconds share one."""
REST = 20
"""Between two batches it rests for so many times the processor's time for the last one: training loses a twentieth at most."""


class GivenUp(Exception):
    """Nobody waits for this thread any more."""


class Sender:
    """One daemon thread per run; after the first call that fails it makes none.

    ``put`` never waits. ``finish`` waits while calls come back, and at most five seconds for one that does not (longer
    for a large file, by its size: a server that stops answering in the middle of it fails by itself after three).
    """

    def __init__(self, folder: Path, uri: str) -> None:
        self._folder, self._uri = folder, uri
        self._changed = threading.Condition()
        self._lines: list[Line] = []
        self._state: State | None = None
        self._deadline = time.monotonic() + CALL
        self._over = self._given_up = False
        threading.Thread(target=self._run, name="mlflow", daemon=True).start()

    def put(self, line: Line) -> None:
        """Has ``line`` sent soon."""
        with self._changed:
            if not self._over:
                self._lines.append(line)
                self._changed.notify()

    def finish(self, state: State) -> None:
        """Has everything sent and waits for it."""
        with self._changed:
            self._state = state
            self._deadline = max(self._deadline, time.monotonic() + CALL)
            self._changed.notify()
            try:
                while not self._over:
                    if (rest := self._deadline - time.monotonic()) <= 0:
                        self._give_up("no answer")
                    else:
                        self._changed.wait(rest)
            except KeyboardInterrupt:
                self._give_up("interrupted")
                raise

    def _run(self) -> None:
        try:
            session = Session(self._folder, self._uri, self._beat)
            session.open(running=True)
            rest = INTERVAL
            while (lines := self._next(rest)) is not None:
                began = time.thread_time()
                session.send(lines)
                rest = max(INTERVAL, REST * (time.thread_time() - began))
            assert self._state is not None
            with hurry():
                session.close(self._state)
        except GivenUp:
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, training must not notice
            with self._changed:
                self._give_up(reason(error))
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()

    def _next(self, rest: float) -> list[Line] | None:
        """The lines that wait, some seconds after the first, or None when there are none and there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._state)
            self._changed.wait_for(lambda: self._state, rest)
            lines, self._lines = self._lines, []
            return lines or None

    def _beat(self, seconds: float) -> None:
        with self._changed:
            if self._given_up:
                raise GivenUp
            self._deadline = time.monotonic() + seconds
            self._changed.notify_all()

    def _give_up(self, why: str) -> None:
        if not self._given_up:
            sync = f"mtl sync {shlex.quote(str(self._folder))}"
            _log.warning("MLflow at %s: %s. The run goes on without it; `%s` sends it later.", self._uri, why, sync)
        self._given_up = self._over = True
        self._lines.clear()


def reason(error: Exception) -> str:
    """The first line of what went wrong, without the objects' addresses that connection errors are full of."""
    text = (str(error) or type(error).__name__).splitlines()[0]
    for sign, words in (("refused", "connection refused"), ("timed out", "no answer"), ("Name or service", "unknown host")):
        if sign in text:
            return words
    return text.rstrip(".")[:200]
