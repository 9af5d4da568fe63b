"""The loop of one process of a search: draw, train, tell."""

import math
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from mtl_runner.errors import UserError
from mtl_runner.folder import write_text
from mtl_runner.run import Pruned, Watch
from mtl_runner.tuning.base import Search
from mtl_runner.tuning.space import Space
from mtl_runner.tuning.study import ERROR, REASON, next_trial, quiet, repeat

Objective = Callable[[Mapping[str, str], Path, Watch], Sequence[float]]
"""Trains with the values of a trial, by key, in a folder; returns a value for each objective."""


def work(
    search: Search,
    study: Study,
    objective: Objective,
    say: Callable[[FrozenTrial], None],
    go_on: Callable[[], bool] = lambda: True,
) -> None:
    """Try until the study has its trials, the time is over, or ``go_on`` says no.

    Args:
        search: what is searched.
        study: where it is kept.
        objective: raises ``UserError`` where values do not go together, which is no failure, and ``Pruned``.
        say: told of each trial when it is done with.
        go_on: asked before each trial.
    """
    space, end = Space(search.space), time.monotonic() + (search.timeout or math.inf)
    while time.monotonic() < end and go_on():
        with next_trial(study, search.folder, search.trials) as trial:
            if trial is None:
                return
            _try(study, trial, space, objective, search.folder / str(trial.number))
            say(study.get_trials(deepcopy=False)[trial.number])


def _try(study: Study, trial: Trial, space: Space, objective: Objective, folder: Path) -> None:
    """One trial, of which the study is told whatever happens."""
    try:
        with quiet():
            drawn = space.draw(trial)
        values = objective(drawn, folder, _watch(trial))
    except Pruned:
        study.tell(trial, state=TrialState.PRUNED)
    except UserError as error:
        trial.set_user_attr(REASON, str(error))
        study.tell(trial, state=TrialState.PRUNED)
    except KeyboardInterrupt:
        repeat(study, study.get_trials(deepcopy=False)[trial.number])
        raise
    except Exception as error:  # noqa: BLE001 - one trial's failure is none of the others', and its folder has all of it
        folder.mkdir(exist_ok=True)
        write_text(folder / "traceback.txt", traceback.format_exc())
        _fail(study, trial, f"{type(error).__name__}: {error}")
    else:
        if all(map(math.isfinite, values)):
            study.tell(trial, list(values))
        else:
            _fail(study, trial, "an objective has no value on the validation part")


def _fail(study: Study, trial: Trial, why: str) -> None:
    trial.set_user_attr(ERROR, why)
    study.tell(trial, state=TrialState.FAIL)


def _watch(trial: Trial) -> Watch:
    """Reports the validation average of each epoch, and ends what has no promise."""

    several = len(trial.study.directions) > 1

    def watch(epoch: int, metrics: Mapping[str, float]) -> None:
        value = metrics.get("validation/average")
        if value is None or several:
            return
        trial.report(value, epoch)
        if trial.should_prune():
            raise Pruned

    return watch
