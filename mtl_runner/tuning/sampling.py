"""A sampler without a memory of its own."""

from collections.abc import Callable, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState


class Afresh(BaseSampler):
    """A new sampler for each trial, with a seed of its place.

    What a trial draws depends on its place and on the trials in the database, and not on the process that asks: a study that
    goes on draws what it would have drawn without a pause, and nothing has to be kept for it.

    Args:
        place: how many trials are before one; its number, but for those that were broken off and are tried again.
        make: the sampler of the trial in a place.
    """

    def __init__(self, place: Callable[[Study, FrozenTrial], int], make: Callable[[int], BaseSampler]) -> None:
        self._place, self._make = place, make
        self._number = -1
        self._sampler: BaseSampler | None = None

    def _of(self, study: Study, trial: FrozenTrial) -> BaseSampler:
        if self._sampler is None or self._number != trial.number:
            self._number, self._sampler = trial.number, self._make(self._place(study, trial))
        return self._sampler

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._of(study, trial).infer_relative_search_space(study, trial)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        return self._of(study, trial).sample_relative(study, trial, search_space)

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        return self._of(study, trial).sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._of(study, trial).before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._of(study, trial).after_trial(study, trial, state, values)
