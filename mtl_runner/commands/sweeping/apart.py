"""A function called in a process of its own, forked from one that has imported already what takes seconds."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection, reduction
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

METHOD = "forkserver" if sys.platform == "linux" else "spawn"
"""What Apple's libraries start when they are imported does not survive a fork."""
BEFORE, AFTER = "mtl_runner.commands.sweeping.importing", "mtl_runner.commands.sweeping.imported"
IMPORTED = (
    "mtl_runner.run",
    "mtl_runner.figures.warm",
    "mtl_runner.commands.sweeping.apart",
    "mtl_runner.commands.sweeping.work",
)
PATIENCE = 60.0
"""Seconds that a process has for its last words once nobody waits for it any more."""
_TURN = threading.Lock()
"""Of two threads that ask at once how a process has ended, one would take the answer from the other."""


def warm_up(modules: Sequence[str] = ()) -> None:
    """Starts the process that others are forked from, which imports meanwhile; the first call decides what."""
    if METHOD == "forkserver":
        from multiprocessing import forkserver

        forkserver.set_forkserver_preload([BEFORE, *IMPORTED, *modules, AFTER])
        forkserver.ensure_running()


def apart(function: Callable[..., Any], *args: Any, log: Path | None = None) -> int:
    """Calls ``function(*args)`` in a process of its own, waits, and returns its exit code: minus the signal that killed it.

    Ctrl-C, and the end of this process, interrupt it once.

    Args:
        function: of a module, as it is found there again by name.
        args: what can be pickled.
        log: where its standard error goes, and then its standard output nowhere; None: both go where this process's go.
    """
    return Apart(function, args, log).end()


@dataclass(frozen=True)
class Surroundings:
    """What a process has from the one that asks for it."""

    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    place: str = field(default_factory=os.getcwd)


class Apart:
    """A process that begins to call ``function(*args)``.

    Args:
        function, args, log: as above.
        surroundings: those of this process by default.
        hands_over: whether the function gets one argument more, which it calls as soon as another one may begin beside it.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        args: Sequence[Any],
        log: Path | None = None,
        surroundings: Surroundings | None = None,
        hands_over: bool = False,
    ) -> None:
        warm_up()
        if multiprocessing.get_start_method() not in multiprocessing.get_all_start_methods():
            multiprocessing.set_start_method(METHOD, force=True)  # joblib's workers hand on a method that no other process knows
        context: BaseContext = multiprocessing.get_context(METHOD)
        streams = _Streams() if METHOD == "forkserver" and log is None else None
        self._handed_over, writer = context.Pipe(duplex=False)
        told = (function, args, surroundings or Surroundings(), streams, log, writer if hands_over else None)
        self._process = context.Process(target=_called, args=told)  # type: ignore[attr-defined]
        with _TURN, writer:
            self._process.start()

    @property
    def ends(self) -> int:
        """What can be waited for with ``multiprocessing.connection.wait``."""
        return int(self._process.sentinel)

    def interrupt(self) -> None:
        """As Ctrl-C does."""
        if not connection.wait([self.ends], 0):
            os.kill(self._process.pid, signal.SIGINT)

    def hand_over(self) -> None:
        """Waits until another one may begin: at the end, at the latest."""
        self._wait(self._handed_over)

    def end(self) -> int:
        """Waits for the end, and returns the exit code."""
        self._wait(self.ends)
        with _TURN:
            self._process.join()
            return int(self._process.exitcode)

    def _wait(self, what: Any) -> None:
        try:
            connection.wait([what])
        except KeyboardInterrupt:
            self.interrupt()
            connection.wait([self.ends])
            raise


class _Streams:
    """Standard output and error of this process, for one that was forked from another."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (reduction.DupFd(1), reduction.DupFd(2))


def _received(*streams: Any) -> list[int]:
    return [stream.detach() for stream in streams]


def _called(
    function: Callable[..., Any],
    args: Sequence[Any],
    surroundings: Surroundings,
    streams: Sequence[int] | None,
    log: Path | None,
    writer: "connection.Connection | None",
) -> None:
    signal.signal(signal.SIGINT, _once)
    threading.Thread(target=_follow_parent, daemon=True).start()
    os.environ.clear()
    os.environ.update(surroundings.environment)
    os.chdir(surroundings.place)
    if log is not None:
        streams = os.open(os.devnull, os.O_WRONLY), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for number, stream in enumerate(streams or (), start=1):
        os.dup2(stream, number)
        os.close(stream)
    for text in (sys.stdout, sys.stderr):
        text.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        function(*args, *([writer.close] if writer else []))
    except KeyboardInterrupt:
        sys.exit(130)


def _once(*_: Any) -> None:
    """A terminal interrupts this process and the one that waits for it, which does so too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(PATIENCE)
    os._exit(1)
