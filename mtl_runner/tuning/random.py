"""Random search."""

from typing import TYPE_CHECKING

from mtl_runner.tuning.base import Search

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


class Random(Search):
    """Draws every value by itself, uniformly or log-uniformly (Bergstra & Bengio 2012)."""

    def sampler(self, seed: int) -> "BaseSampler":
        from optuna.samplers import RandomSampler

        return RandomSampler(seed=seed)
