"""Sweeps that run at the same time leave each other's jobs alone: a file for each job names the run folder that has it."""

from pathlib import Path

from filelock import FileLock

from mtl_runner.commands.sweeping.earlier import Earlier

PLACE = ".jobs"
"""In ``runs_dir``."""


def claim(runs: Path, job: str, folder: Path, yields: bool) -> Earlier | None:
    """Notes that ``job`` runs in ``folder``, whose lock this process holds.

    Nothing has to be taken back: what is noted counts while the lock of that folder is held, and once its run is finished.

    Args:
        runs: ``runs_dir``.
        job: the hash.
        folder: the run folder.
        yields: whether a run elsewhere that works on the job, or has finished it, keeps it: it is returned then.
    """
    (runs / PLACE).mkdir(parents=True, exist_ok=True)
    with FileLock(runs / PLACE / "lock"):  # for as long as it takes to look and to write
        other = claimed(runs, job)
        if yields and other is not None and other.folder != folder.absolute() and (other.finished or other.busy):
            return other
        (runs / PLACE / job).write_text(str(folder.absolute()), encoding="utf-8")
    return None


def claimed(runs: Path, job: str) -> Earlier | None:
    """The run that has the job, or had it last."""
    try:
        run = Earlier.of(Path((runs / PLACE / job).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
    return None if run.status.get("job", job) != job or run.extended else run  # with a larger budget it is another one
