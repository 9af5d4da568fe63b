"""The tree-structured Parzen estimator."""

from typing import TYPE_CHECKING, Annotated, Unpack

from annotated_types import Ge

from mtl_runner.tuning.base import Options, Search

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


class TPE(Search):
    """Draws where good trials are dense and bad ones are not (Bergstra et al. 2011), in several dimensions at once.

    Trials are split by their objective into good and bad ones, with the densities l and g; of candidates drawn from l the one
    with the largest l / g is tried. What conditions tell apart has densities of its own. Trials that still run count as bad
    ones, so that processes side by side do not try the same. Several objectives: Ozaki et al. 2022.

    Args:
        startup_trials: drawn at random before.
    """

    def __init__(self, *, startup_trials: Annotated[int, Ge(1)] = 10, **options: Unpack[Options]) -> None:
        super().__init__(**options)
        self.startup_trials = startup_trials

    def sampler(self, seed: int) -> "BaseSampler":
        from optuna.samplers import TPESampler

        return TPESampler(
            n_startup_trials=self.startup_trials,
            multivariate=True,
            group=True,
            constant_liar=True,
            seed=seed,
        )
