"""Which runs are compared: those of folders, or those that MLflow names."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mtl_runner.analysis import results
from mtl_runner.analysis.mlflow_search import TRIAL, TRIAL_FILE, Candidate, Wanted, on_disk, searched
from mtl_runner.analysis.results import Result
from mtl_runner.errors import UserError
from mtl_runner.tracking import locate

HOME = Path("runs")
SWEEP = "sweep.json"
"""What a sweep writes of its jobs."""
SEARCH_LOCK = "study.lock"
"""What a search has in its folder from its begin on."""
_STATES = {"running": "running or killed", TRIAL: "of a search (no trial sees the test part)"}
"""What a killed run cannot write of itself, and what has no word of its own."""
_RUN_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Selection:
    """The runs of a comparison."""

    name: str
    runs: tuple[Result, ...]
    """Finished ones, the newest of each job."""
    notes: tuple[str, ...]
    """What was left out."""


def select(wanted: Wanted) -> Selection:
    """The finished runs that are ``wanted``.

    Raises:
        UserError: nothing is there by these names, nothing of it is finished, or MLflow cannot be asked.
    """
    what = wanted.what if wanted.what or wanted.searched else (str(newest_sweep(HOME)),)
    found = [candidate for each in what for candidate in _named(each, wanted.uri)]
    if wanted.searched:
        found += searched(wanted)
    name = wanted.study or wanted.sweep or wanted.experiment or "/".join(Path(what[0]).parts[-2:] if what else ["runs"])
    if not found:
        raise UserError(f"{name}: there is no run to compare")
    if not any(each.result for each in found) and any(each.state == TRIAL for each in found):
        raise UserError(f"{name}: trials of a search never see the test part; {_instead_of_trials(wanted)}")
    return _selection(name, found)


def _instead_of_trials(wanted: Wanted) -> str:
    """What of a search can be compared; its folder is named where that is the one that was given."""
    place = next((place for each in wanted.what for place in (Path(each), HOME / each) if place.is_dir()), HOME / "tune" / "NAME")
    front = sorted((place / "front").glob("*.yaml"))
    folder, name = (front[0].parent, front[0].stem) if front else (place, "best")
    return f"run what it has found, and compare these runs: mtl-run -cd {folder} -cn {name} -m 'seed=range(5)'"


def _selection(name: str, found: Sequence[Candidate]) -> Selection:
    runs = {_identity(candidate.result): candidate.result for candidate in found if candidate.result}
    newest: dict[str, Result] = {}
    for identity, run in sorted(runs.items(), key=lambda item: item[1].ended):
        newest[run.job or identity] = run
    missing = Counter(each.state for each in found if each.result is None and (not each.job or each.job not in newest))
    states = ", ".join(f"{count} {_STATES.get(state, state.replace('_', ' '))}" for state, count in missing.items())
    if not newest:
        raise UserError(f"{name}: none of its runs is finished ({states})")
    notes = []
    if again := len(runs) - len(newest):
        notes.append(f"{again} run{'s' * (again != 1)} of jobs that ran again later: only the newest of each job counts.")
    if states:
        notes.append(f"{missing.total()} of {len(newest) + missing.total()} runs are left out: {states}.")
    kept = {_identity(run) for run in newest.values()}
    return Selection(name, tuple(run for identity, run in runs.items() if identity in kept), tuple(notes))


def _identity(run: Result) -> str:
    """A run may be named twice: by its folder, and by MLflow."""
    return run.tracked.run_id if run.tracked and run.tracked.run_id else str(run.folder.absolute())


def newest_sweep(home: Path) -> Path:
    """The last that began, wherever it lies; ``UserError`` where there is none. A search is none."""
    sweeps = {path.parent.parent for path in home.glob("*/*/*/status.json")}
    sweeps |= {path.parent for pattern in (f"*/{SWEEP}", f"*/*/{SWEEP}") for path in home.glob(pattern)}
    began = {sweep: _began(sweep) for sweep in sweeps if not _is_search(sweep)}
    if not began:
        raise UserError(
            f"there is no sweep in {home.absolute()}; name run folders, sweep folders, MLflow run ids or --experiment"
        )
    return max(began, key=lambda sweep: (began[sweep], str(sweep)))


def _is_search(place: Path) -> bool:
    """Whether its runs are trials, which see no test part; the lock is there before the first has ended."""
    return (place / SEARCH_LOCK).exists() or any(place.glob(f"*/{TRIAL_FILE}"))


def _began(sweep: Path) -> str:
    """When, as UTC in ISO format: what it says itself, or else its first run; empty where neither can be read."""
    if said := _says_start(sweep / SWEEP):
        return said
    return min(filter(None, (_says_start(file) for file in sweep.glob("*/status.json"))), default="")


def _says_start(file: Path) -> str:
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["started"])
    except results.BROKEN:
        return ""


def _named(what: str, uri: str | None) -> Iterator[Candidate]:
    for place in (Path(what), HOME / what):
        if place.is_dir():
            folders = list(_of_sweep(place) or run_folders(place))
            if not folders:
                raise UserError(f"{place}: has no run folder in it")
            yield from map(on_disk, folders)
            return
    if _RUN_ID.fullmatch(what):
        yield on_disk(locate(what, uri, results.FILES))
        return
    if not (tagged := searched(Wanted(sweep=what, uri=uri), what)):
        raise UserError(f"{what}: there is no such folder, no MLflow run with this id, and no sweep with this tag")
    yield from tagged


def _of_sweep(place: Path) -> list[Path]:
    """The run folders that belong to a sweep, also those of an earlier one that made a job needless; none if it is no sweep."""
    try:
        jobs = json.loads((place / SWEEP).read_text(encoding="utf-8"))["jobs"]
        folders = [Path(job["folder"]) for job in jobs if job["folder"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [folder for folder in folders if (folder / "status.json").is_file()]


def run_folders(place: Path) -> Iterator[Path]:
    """All run folders at or below ``place``, numbered ones in order."""
    for folder, inner, files in os.walk(place):
        if "status.json" in files:
            inner.clear()
            yield Path(folder)
        inner.sort(key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name))
