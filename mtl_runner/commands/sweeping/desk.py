"""Where the workers of a launcher ask for processes: all are forked from the one that the sweep itself has warmed up."""

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener, wait
from pathlib import Path
from threading import Event, Thread
from typing import Any

from mtl_runner.commands.sweeping.apart import METHOD, Apart, Surroundings, apart

_AWAY = (OSError, EOFError, AuthenticationError)


@dataclass(frozen=True)
class Desk:
    """What a worker is told."""

    address: str
    key: bytes = field(repr=False)
    """Nobody is listened to without it."""

    def apart(self, function: Callable[..., Any], *args: Any, log: Path | None = None) -> int:
        """As ``apart`` does, which steps in where nobody is at the desk."""
        try:
            visit = Client(self.address, authkey=self.key)
        except _AWAY:
            return apart(function, *args, log=log)
        with visit:
            visit.send((function, args, log, Surroundings()))
            try:
                return int(visit.recv())
            except KeyboardInterrupt:
                visit.send(None)
                visit.recv()
                raise


@contextmanager
def desk() -> Iterator[Desk | None]:
    """Inside, processes can be asked for; None where each is a new interpreter anyway."""
    if METHOD != "forkserver":
        yield None
        return
    key, over = secrets.token_bytes(32), Event()
    with Listener(family="AF_UNIX", authkey=key) as listener:
        Thread(target=_open, args=(listener, over), name="desk", daemon=True).start()
        try:
            yield Desk(str(listener.address), key)
        finally:
            over.set()
            with suppress(*_AWAY):
                Client(listener.address, authkey=key).close()  # else the thread waits for a visitor for ever


def _open(listener: Listener, over: Event) -> None:
    while not over.is_set():
        with suppress(*_AWAY):
            Thread(target=_serve, args=(listener.accept(),), name="desk", daemon=True).start()


def _serve(visitor: "Connection[Any, Any]") -> None:
    """Starts what is asked for and says how it has ended; a visitor who says a word before that, or leaves, interrupts it."""
    with visitor, suppress(*_AWAY):
        process = Apart(*visitor.recv())
        if visitor in wait([visitor, process.ends]):
            process.interrupt()
        visitor.send(process.end())
