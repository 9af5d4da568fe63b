"""The database of a search: opened, checked, shared by several processes, and taken up again after any of them was killed.

Optuna's tables hold numbers, texts and JSON; nothing in them is unpickled. (Its journal files and its CMA-ES sampler would be;
neither can be chosen.)
"""

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from mtl_runner.errors import UserError
from mtl_runner.folder import RunFolder, now
from mtl_runner.seeding import derive
from mtl_runner.tuning.base import CLAIMS, LOCK, Search
from mtl_runner.tuning.sampling import Afresh
from mtl_runner.tuning.trust import KILLS, check_study, usable

ERROR, REASON = "error", "not_applicable"
"""Attributes of a trial: why it failed, and why its values do not go together."""
_BEGUN = "search"
"""The attribute of a study: what it was begun with."""
MOST_KILLS = 3
"""A trial whose process was killed so often is not tried again."""
_PATIENCE = 60
"""Seconds that a process waits for another one's write."""


def open_study(search: Search, configuration: Mapping[str, Any], epochs: int | None = None) -> Study:
    """The study, made if need be.

    Args:
        search: what is searched.
        configuration: what else there is, as plain data; like space and objectives it may not change while the study goes on.
        epochs: the budget of a trial, where it is known.

    Raises:
        UserError: the database cannot be used, or the study was begun with something else.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    search.folder.mkdir(parents=True, exist_ok=True)
    begun = {"search": {"space": search.space, "objectives": list(search.objectives)}, **configuration}
    sqlite = {"connect_args": {"timeout": _PATIENCE}} if search.storage.startswith("sqlite") else {}
    with usable(search, Exception), quiet(), FileLock(search.folder / LOCK):
        study = optuna.create_study(
            storage=RDBStorage(search.storage, engine_kwargs=sqlite),
            sampler=sampler(search),
            pruner=search.pruner(epochs),
            study_name=search.name,
            directions=["maximize"] * len(search.objectives),
            load_if_exists=True,
        )
        known = study.user_attrs.get(_BEGUN)
        if known is None:
            study.set_user_attr(_BEGUN, begun)
    if known is not None and (changed := _difference(known, json.loads(json.dumps(begun)))):
        raise UserError(
            f"{changed}: is not what the study {search.name} was begun with; take another search.name, or delete {search.folder}"
        )
    check_study(study, search)
    return study


def sampler(search: Search) -> Afresh:
    """That of a study; each trial has a seed of its own."""

    def made(place: int) -> BaseSampler:
        with quiet():
            return search.sampler(derive(search.seed, "trial", place) % 2**32)

    return Afresh(_place, made)


def _place(study: Study, trial: FrozenTrial) -> int:
    """Of those that a study without interruptions has: a trial that is tried again leaves its place to the next."""
    earlier = study.get_trials(deepcopy=False)[: trial.number]
    return sum(each.state != TrialState.FAIL or failure(study, each) is not None for each in earlier)


def counted(study: Study) -> list[FrozenTrial]:
    """The trials that are done with: all but those that run, wait or were interrupted."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
    return [trial for trial in done if trial.state != TrialState.FAIL or failure(study, trial)]


def failure(study: Study, trial: FrozenTrial) -> str | None:
    """Why a trial has failed; nothing where it was interrupted, and its values are tried again."""
    why = trial.user_attrs.get(ERROR) or study.user_attrs.get(f"{ERROR} {trial.number}")
    return None if why is None else str(why)


@contextmanager
def next_trial(study: Study, folder: Path, trials: int) -> Iterator[Trial | None]:
    """The next trial, claimed inside; None where ``trials`` are done with or under way.

    A trial is claimed by a lock on a file, which the system lifts when its process is gone: what runs without it was killed.
    """
    with FileLock(folder / LOCK):
        alive = _living(study, folder)
        trial = None
        if len(counted(study)) + alive < trials:
            with quiet():
                trial = study.ask()
            claim = _claim(folder, trial.number)
            claim.acquire()
    if trial is None:
        yield None
        return
    try:
        yield trial
    except BaseException:  # what was not told yet is found like what was killed
        claim.release()
        raise
    claim.release()
    Path(claim.lock_file).unlink(missing_ok=True)


def under_way(study: Study, folder: Path) -> int:
    """How many trials are being trained by other processes."""
    with FileLock(folder / LOCK):
        return _living(study, folder)


def leave_claims(folder: Path) -> None:
    """Removes the folder of the claims where no process has one; the next trial makes it again."""
    with FileLock(folder / LOCK), suppress(OSError):
        (folder / CLAIMS).rmdir()


def repeat(study: Study, trial: FrozenTrial, kills: int = 0) -> None:
    """Mark an interrupted trial as failed, and try its values again next."""
    study.tell(trial.number, state=TrialState.FAIL)
    if trial.params:
        study.enqueue_trial(trial.params, user_attrs={KILLS: kills})


@contextmanager
def quiet() -> Iterator[None]:
    """Some of what is used here may change in Optuna's later versions, as it says each time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def _living(study: Study, folder: Path) -> int:
    """How many trials run; those whose process was killed are repeated."""
    alive = 0
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        claim = _claim(folder, trial.number)
        if not os.path.exists(claim.lock_file):  # another machine's, or killed within the moment before it was claimed
            continue
        try:
            claim.acquire(timeout=0)
        except Timeout:
            alive += 1
            continue
        if study.get_trials(deepcopy=False)[trial.number].state == TrialState.RUNNING:  # it may have ended since
            _bury(study, trial, folder)
        claim.release()
        Path(claim.lock_file).unlink(missing_ok=True)
    return alive


def _bury(study: Study, trial: FrozenTrial, folder: Path) -> None:
    run = RunFolder(folder / str(trial.number))
    if (run.path / "status.json").exists():
        run.status(state="killed", ended=now())
    kills = trial.user_attrs.get(KILLS, 0) + 1
    if kills < MOST_KILLS:
        repeat(study, trial, kills)
    else:
        study.set_user_attr(f"{ERROR} {trial.number}", f"its process was killed, {kills} times")
        study.tell(trial.number, state=TrialState.FAIL)


def _claim(folder: Path, number: int) -> FileLock:
    (folder / CLAIMS).mkdir(exist_ok=True)
    return FileLock(folder / CLAIMS / f"{number}.lock")


def _difference(known: Any, asked: Any, key: str = "") -> str | None:
    """The first key at which two configurations differ."""
    if isinstance(known, Mapping) and isinstance(asked, Mapping):
        keys = [*asked, *(name for name in known if name not in asked)]
        inside = (_difference(known.get(name), asked.get(name), f"{key}.{name}" if key else str(name)) for name in keys)
        return next((found for found in inside if found), None)
    return None if known == asked else f"{key}={json.dumps(asked)}"
