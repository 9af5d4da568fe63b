"""Whether a database holds what a search writes: anybody may have made it, or changed it."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from mtl_runner.errors import UserError
from mtl_runner.tuning.base import Search
from mtl_runner.tuning.domains import Choices, Range
from mtl_runner.tuning.space import Space

KILLS = "kills"
"""The attribute of a trial that counts how often its process was killed."""
_FIXED = "fixed_params"
"""Optuna's, of a trial that is to be tried again."""


@contextmanager
def usable(search: Search, *errors: type[Exception]) -> Iterator[None]:
    """Inside, a database that cannot be read or written, and any of ``errors``, ends in a ``UserError``."""
    caught: tuple[type[Exception], ...] = (SQLAlchemyError, StorageInternalError, *errors)
    try:
        yield
    except UserError:
        raise
    except caught as error:
        cause = error.__cause__ or error
        said = str(cause).strip().splitlines() or [type(cause).__name__]
        raise UserError(f"search.storage={search.storage}: cannot be used ({said[0]})") from error


def check_study(study: Study, search: Search) -> None:
    """Raises ``UserError`` where a study is none of this search: other directions, values that are no numbers, foreign keys.

    Optuna takes what is in its tables for granted, and fails on it with any error.
    """
    with usable(search, Exception):
        if wrong := next(_wrong(study, search), None):
            raise UserError(f"search.storage={search.storage}: cannot be used ({wrong})")


def _wrong(study: Study, search: Search) -> Iterator[str]:
    count = len(search.objectives)
    if study.directions != [StudyDirection.MAXIMIZE] * count:
        yield f"{count} objectives to maximise are expected"
    space = Space(search.space)
    for place, trial in enumerate(study.get_trials(deepcopy=False)):
        if trial.number != place:
            yield f"trial {place}: its number is {trial.number!r}"
        for problem in _wrong_in(trial, count, space):
            yield f"trial {place}: {problem}"


def _wrong_in(trial: FrozenTrial, count: int, space: Space) -> Iterator[str]:
    if trial.state == TrialState.COMPLETE and (len(trial.values or ()) != count or not all(map(_number, trial.values))):
        yield f"values={trial.values}: {count} numbers are expected"
    if not all(map(_number, trial.intermediate_values.values())):
        yield f"validation averages={list(trial.intermediate_values.values())}: numbers are expected"
    if not isinstance(trial.user_attrs.get(KILLS, 0), int):
        yield f"{KILLS}={trial.user_attrs[KILLS]!r}: a number is expected"
    domains = {each.key: each.domain for each in space.dimensions}
    for key, value in (*trial.params.items(), *trial.system_attrs.get(_FIXED, {}).items()):
        if key not in domains:
            yield f"{key}: is not in the search's space"
        elif not _within(domains[key], value):
            yield f"{key}={value!r}: is not in the search's space"


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _within(domain: Range | Choices, value: Any) -> bool:
    """But for rounding."""
    if isinstance(domain, Choices):
        return value in domain.probes()
    return _number(value) and (
        domain.low <= value <= domain.high or any(map(partial(math.isclose, value), (domain.low, domain.high)))
    )
