"""What earlier runs have done already of a sweep: ``skip_finished=true``."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtl_runner.commands.lock import alive, read_status
from mtl_runner.commands.sweeping.grid import SKIPPED, GridJob
from mtl_runner.tuning.base import CLAIMS

DEPTH = 3
"""``DATE/TIME/JOB``."""


@dataclass(frozen=True)
class _Earlier:
    folder: Path
    status: dict[str, Any]

    @property
    def finished(self) -> bool:
        """And has not lost its test metrics."""
        return self.status.get("state") == "finished" and (self.folder / "test_metrics.json").exists()

    @property
    def interrupted(self) -> bool:
        """Whether it can go on, unless it does."""
        return self.status.get("state") in ("running", "interrupted", "killed") and (self.folder / "checkpoints/last.pt").exists()


def skip_finished(jobs: Sequence[GridJob], places: Iterable[Path]) -> None:
    """Marks the jobs that a run below ``places`` has finished, or works on; those that one has begun go on there."""
    wanted = {job.job: job for job in jobs if job.pending}
    found: dict[str, list[_Earlier]] = {}
    for earlier in {each.folder: each for place in places for each in _below(place.absolute(), DEPTH)}.values():
        if isinstance(job := earlier.status.get("job"), str) and job in wanted:
            found.setdefault(job, []).append(earlier)
    for job, runs in found.items():
        _compare(wanted[job], sorted(runs, key=lambda each: str(each.status.get("started"))))


def _compare(job: GridJob, runs: Sequence[_Earlier]) -> None:
    if finished := [each for each in runs if each.finished]:
        job.folder = finished[-1].folder
        job.state, job.reason = SKIPPED, f"finished earlier: {shown(job.folder)}"
    elif busy := [each for each in runs if alive(each.folder, each.status)]:
        job.folder = busy[-1].folder
        job.state, job.reason = SKIPPED, f"is being trained on {busy[-1].status.get('host')}: {shown(job.folder)}"
    elif begun := [each for each in runs if each.interrupted]:
        job.folder, job.resume = begun[-1].folder, True


def shown(folder: Path) -> str:
    """From the working folder, where it is below that."""
    return str(folder.relative_to(Path.cwd())) if folder.is_relative_to(Path.cwd()) else str(folder)


def _below(folder: Path, depth: int) -> Iterator[_Earlier]:
    """The runs in a folder and those below it, without the trials of searches: those never see the test part."""
    if (status := read_status(folder)) is not None:
        yield _Earlier(folder, status)
    elif depth and folder.is_dir() and not (folder / CLAIMS).is_dir():
        for entry in sorted(os.scandir(folder), key=lambda each: each.name):
            if entry.is_dir(follow_symlinks=False):
                yield from _below(Path(entry.path), depth - 1)
