"""The jobs of a sweep: every combination of the values that were given."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from mtl_runner.commands.lock import held

QUEUED = "queued"
NOT_APPLICABLE, SAME, SKIPPED = "not_applicable", "same", "skipped"
"""States that only a job of a grid can have, beside those of a run."""
ALONE = "weighting=equal"
"""Of tasks that nothing couples: each of them trains alone, whatever the weighting."""


@dataclass
class GridJob:
    """One combination."""

    number: int
    overrides: list[str]
    """As they are in the grid."""
    launched: list[str]
    """As they are given to the launcher."""
    own: Path
    """Its folder in the sweep."""
    folder: Path
    """Its own, or that of the run that it goes on with, or that makes it needless."""
    job: str = ""
    state: str = QUEUED
    reason: str = ""
    resume: bool = False

    @property
    def pending(self) -> bool:
        """Whether there is something to run."""
        return self.state == QUEUED


def is_grid(config: DictConfig) -> bool:
    """Whether Hydra's own sweeper makes the jobs; others decide while they run."""
    return str(config.hydra.sweeper._target_) == f"{BasicSweeper.__module__}.{BasicSweeper.__qualname__}"


def combinations(master: DictConfig, parser: OverridesParser) -> list[list[str]]:
    """The overrides of each job, in Hydra's order."""
    typed = [f"{key}={value}" for key, value in (master.hydra.sweeper.params or {}).items()]
    parsed = parser.parse_overrides(typed + list(master.hydra.overrides.task))
    return [job for batch in BasicSweeper.split_arguments(parsed, None) for job in batch]


def alone(overrides: Iterable[str]) -> list[str]:
    """The same overrides without a choice of the weighting and without its keys."""
    group = ALONE.partition("=")[0]
    kept = [each for each in overrides if _key(each) != group and not _key(each).startswith(f"{group}.")]
    return [*kept, ALONE]


def run_once(jobs: Sequence[GridJob]) -> None:
    """Of jobs that are the same, all but the first stay out."""
    first: dict[str, int] = {}
    for job in jobs:
        if job.pending and (other := first.setdefault(job.job, job.number)) != job.number:
            job.state, job.reason = SAME, f"job {other}"


def swept(jobs: Sequence[GridJob]) -> list[str]:
    """The keys whose values vary."""
    values: dict[str, set[str]] = {}
    for job in jobs:
        for each in job.overrides:
            values.setdefault(_key(each), set()).add(each)
    return [key for key, found in values.items() if len(found) > 1]


def value(job: GridJob, key: str) -> str:
    """What the job has for a key."""
    return next((each.partition("=")[2] for each in job.overrides if _key(each) == key), "")


def label(job: GridJob, keys: Sequence[str]) -> str:
    """``sharing=hard seed=1``."""
    return " ".join(f"{key}={value(job, key)}" for key in keys)


def free(folder: Path) -> Path:
    """``folder``, or one beside it where an earlier run is in it, or one that begins."""
    count, found = 2, folder
    while os.path.lexists(found / "status.json") or held(found):
        found, count = folder.with_name(f"{folder.name}_{count}"), count + 1
    return found


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]
