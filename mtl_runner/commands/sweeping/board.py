"""What has become of the jobs of a sweep: read from their folders, kept in ``sweep.json``, shown at the end."""

import json
import math
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mtl_runner.commands.lock import read_status
from mtl_runner.commands.sweeping.earlier import shown
from mtl_runner.commands.sweeping.grid import NOT_APPLICABLE, QUEUED, SAME, SKIPPED, GridJob, label, swept, value

FILE = "sweep.json"
WORDS = {
    "finished": "done", "failed": "failed", "killed": "killed", "interrupted": "interrupted", "running": "running",
    QUEUED: "not run", SKIPPED: "skipped", SAME: "same as", NOT_APPLICABLE: "not applicable",
}  # fmt: skip
FINE = ("finished", SKIPPED, SAME, NOT_APPLICABLE)
LEFT = (QUEUED, "running", "interrupted")
"""States of a job that its launcher has left unfinished."""
INTERVAL = 0.5
"""Seconds between two looks at the folders."""


@dataclass
class Board:
    """Looks at the folders of the jobs while they run.

    Args:
        sweep: the sweep's folder.
        jobs: all of the grid.
        tells: whether to print a line when a job ends, for jobs that print nothing themselves.
    """

    sweep: Path
    jobs: Sequence[GridJob]
    tells: bool = False
    before: dict[int, Any] = field(default_factory=dict)
    """What the status of each job was when it was launched."""
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def __enter__(self) -> "Board":
        self._over = threading.Event()
        self._turn = threading.Lock()
        self._keys = swept(self.jobs)
        self.write()
        self._thread = threading.Thread(target=self._watch, name="sweep", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.look()
        self.write()  # also what no folder says: who was passed over, or has left nothing

    def expect(self, jobs: Sequence[GridJob]) -> None:
        """These are launched now: what their folders say so far is of an earlier time."""
        with self._turn:
            for job in jobs:
                self.before[job.number] = read_status(job.folder)
                job.state, job.reason = QUEUED, ""

    def look(self) -> None:
        """Takes the states from the folders."""
        with self._turn:
            changed = [job for job in self.jobs if job.number in self.before and self._changed(job)]
            if changed:
                self.write()
        for job in changed:
            if self.tells and job.state not in LEFT:
                print(_line(job, label(job, self._keys)), flush=True)

    def _changed(self, job: GridJob) -> bool:
        status = read_status(job.folder) if job.state in LEFT else None
        if status is None or status == self.before[job.number] or status["state"] == job.state:
            return False
        job.state, job.reason = str(status["state"]), str(status.get("error") or "")
        return True

    def _watch(self) -> None:
        while not self._over.wait(INTERVAL):
            self.look()

    def write(self) -> None:
        """``sweep.json``, whole or not at all."""
        rows = [
            {
                "number": job.number, "overrides": job.overrides, "job": job.job, "state": job.state,
                "folder": str(job.folder) if job.state == SKIPPED or job.number in self.before else None,
                "reason": job.reason or None,
            }
            for job in self.jobs
        ]  # fmt: skip
        part = self.sweep / f".{FILE}.part"
        part.write_text(json.dumps({"started": self.started, "jobs": rows}, indent=1) + "\n", encoding="utf-8")
        part.replace(self.sweep / FILE)

    def show(self) -> None:
        """The table, and how many jobs are in which state."""
        from rich import box
        from rich.markup import escape
        from rich.table import Table

        from mtl_runner.console import Screen

        keys = swept(self.jobs)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in ("job", *keys, "state"):
            table.add_column(name, overflow="fold")
        table.add_column("validation\naverage", justify="right")
        table.add_column("seconds", justify="right")
        table.add_column("folder, or the reason", overflow="fold")
        for job in self.jobs:
            average, seconds = _figures(job)
            last = shown(job.folder) if job.state == "finished" else job.reason or shown(job.folder)
            cells = [str(job.number), *(value(job, key) for key in keys), WORDS.get(job.state, job.state), average, seconds, last]
            table.add_row(*map(escape, cells))
        console = Screen()
        (console if console.is_terminal else Screen(width=200)).print(table)
        counts = Counter(WORDS.get(job.state, job.state) for job in self.jobs)
        said = ", ".join(f"{number} {word}{' others' * (word == WORDS[SAME])}" for word, number in counts.items())
        print(f"{len(self.jobs)} jobs: {said} · {shown(self.sweep)}")
        sys.stdout.flush()


def _line(job: GridJob, said: str) -> str:
    average, seconds = _figures(job)
    figures = f" · validation average {average} · {seconds} s" if average else ""
    return f"job {job.number} {WORDS.get(job.state, job.state)}{figures} · {job.reason or said}"


def _figures(job: GridJob) -> tuple[str, str]:
    """Validation average and seconds of training of a job that has them."""
    if job.state not in ("finished", SKIPPED):
        return "", ""
    try:
        average = json.loads((job.folder / "test_metrics.json").read_text(encoding="utf-8"))["validation_average"]
    except (OSError, ValueError, KeyError):
        average = None
    seconds = (read_status(job.folder) or {}).get("train_seconds", math.nan)
    return "–" if average is None else f"{average:.4f}", f"{seconds:.1f}" if math.isfinite(seconds) else ""
