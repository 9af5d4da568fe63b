"""What earlier runs have done already of a sweep: ``skip_finished=true``."""

import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtl_runner.commands.lock import alive, held, read_status
from mtl_runner.commands.sweeping.grid import SKIPPED, GridJob
from mtl_runner.errors import UserError
from mtl_runner.tracking.record import extended, read_yaml
from mtl_runner.tuning.base import CLAIMS

DEPTH = 3
"""``DATE/TIME/JOB``."""


@dataclass(frozen=True)
class Earlier:
    """A run that is there."""

    folder: Path
    status: dict[str, Any]
    """Empty of one that has locked its folder and not said yet that it runs."""

    @classmethod
    def of(cls, folder: Path) -> "Earlier":
        """The run in ``folder``, as it is now."""
        return cls(folder, read_status(folder) or {})

    @property
    def finished(self) -> bool:
        """And has not lost its test metrics."""
        return self.status.get("state") == "finished" and (self.folder / "test_metrics.json").exists()

    @property
    def extended(self) -> bool:
        """Whether it has a larger budget than its schedule began with, and is not what a run of that budget is."""
        if "planned" not in self.status:
            return False
        try:
            return extended(self.status, read_yaml(self.folder / "config.yaml"))
        except (UserError, KeyError, TypeError, AttributeError):
            return True

    @property
    def busy(self) -> bool:
        """Whether a process is at work on it."""
        return held(self.folder) or alive(self.folder, self.status)

    @property
    def at_work(self) -> str:
        """Of one that is busy."""
        return f"is being trained on {self.status.get('host') or socket.gethostname()}: {shown(self.folder)}"

    @property
    def interrupted(self) -> bool:
        """Whether it can go on, unless it does."""
        return self.status.get("state") in ("running", "interrupted", "killed") and (self.folder / "checkpoints/last.pt").exists()


def skip_finished(jobs: Sequence[GridJob], places: Iterable[Path]) -> None:
    """Marks the jobs that a run below ``places`` has finished, or works on; those that one has begun go on there."""
    wanted = {job.job: job for job in jobs if job.pending}
    found: dict[str, list[Earlier]] = {}
    for earlier in {each.folder: each for place in places for each in _below(place.absolute(), DEPTH)}.values():
        if isinstance(job := earlier.status.get("job"), str) and job in wanted and not earlier.extended:
            found.setdefault(job, []).append(earlier)
    for job, runs in found.items():
        compare(wanted[job], sorted(runs, key=lambda each: str(each.status.get("started"))))


def compare(job: GridJob, runs: Sequence[Earlier]) -> None:
    """Marks the job by what ``runs`` of it, the oldest first, have come to."""
    if finished := [each for each in runs if each.finished]:
        job.folder, job.state, job.reason = finished[-1].folder, SKIPPED, f"finished earlier: {shown(finished[-1].folder)}"
    elif busy := [each for each in runs if each.busy]:
        job.folder, job.state, job.reason = busy[-1].folder, SKIPPED, busy[-1].at_work
    elif begun := [each for each in runs if each.interrupted]:
        job.folder, job.resume = begun[-1].folder, True


def shown(folder: Path) -> str:
    """From the working folder, where it is below that."""
    return str(folder.relative_to(Path.cwd())) if folder.is_relative_to(Path.cwd()) else str(folder)


def _below(folder: Path, depth: int) -> Iterator[Earlier]:
    """The runs in a folder and those below it, without the trials of searches: those never see the test part."""
    if (status := read_status(folder)) is not None:
        yield Earlier(folder, status)
    elif depth and folder.is_dir() and not (folder / CLAIMS).is_dir():
        for entry in sorted(os.scandir(folder), key=lambda each: each.name):
            if entry.is_dir(follow_symlinks=False):
                yield from _below(Path(entry.path), depth - 1)
