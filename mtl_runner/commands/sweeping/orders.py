"""What the processes that start the jobs of a grid are told; it is pickled with each job."""

import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mtl_runner.commands.lock import held
from mtl_runner.commands.sweeping.desk import Desk

LAUNCH = ".launch"
"""The file in a sweep's folder that says which launch counts; empty: none, it was stopped."""


@dataclass(frozen=True)
class Order:
    """One job."""

    number: int
    """In the grid."""
    label: str
    """What is varied."""
    resume: Path | None = None
    """The run folder to go on with."""


@dataclass(frozen=True)
class Orders:
    """The jobs of one launch."""

    sweep: Path
    total: int
    """Of the grid."""
    together: int
    """How many run at once on one machine."""
    jobs: Mapping[str, Order]
    """By folder."""
    imports: Sequence[str] = ()
    """Modules that take long to import, and that every job will."""
    desk: Desk | None = None
    """Where to ask for processes."""
    overlap: bool = False
    """Whether a job may begin while the one before it is written down."""
    launch: str = field(default_factory=lambda: secrets.token_hex(8))
    """Its name, unlike that of any other one in this folder, also of an earlier sweep."""
    host: str = field(default_factory=socket.gethostname)
    """Of the sweep."""

    def of(self, folder: Path) -> Order:
        return self.jobs[str(folder)]

    def announce(self) -> None:
        """From here on this launch counts, and none before."""
        _say(self.sweep, self.launch)

    def count(self) -> bool:
        """Whether its jobs may still begin.

        A cluster may come to them after the sweep was stopped, or has launched them anew; its workers outlive a killed sweep.
        """
        if self.host == socket.gethostname() and not held(self.sweep):
            return False
        return (self.sweep / LAUNCH).read_text() == self.launch


def stop(sweep: Path) -> None:
    """No job of the sweep begins any more."""
    _say(sweep, "")


def _say(sweep: Path, launch: str) -> None:
    part = sweep / f"{LAUNCH}.part"
    part.write_text(launch)
    part.replace(sweep / LAUNCH)


def cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads(together: int) -> int | None:
    """Of each of the jobs that run at once; None, torch's own choice, for one that has the machine to itself."""
    return None if together == 1 else max(1, cores() // together)
