"""The sum of the losses' logarithms."""

from torch import Tensor

from mtl_runner.weighting.base import DirectWeighting, mean_weight

FLOOR = 1e-20
"""Added to losses, so that those of 0 have a logarithm."""


class ScaleInvariant(DirectWeighting):
    """Σ_t log L_t, with weights 1 / L_t: multiplying a task's loss by a constant changes nothing.

    The baseline of Navon et al., Multi-Task Learning as a Bargaining Game, ICML 2022. Losses have to be positive; 1e-20 is added
    to them. The weights have no scale of their own, as they are in the unit of 1 / L, so that ``scale: comparable`` divides
    by their mean in the step: this is then ``dynamic`` with alpha 1. ``paper`` takes 1 / L_t itself, and the steps of the shared
    part grow as losses fall.

    Heads get the weights too. One backward pass; no memory.
    """

    def unit(self, weights: Tensor, active: Tensor) -> Tensor | float:
        return mean_weight(weights, active)

    def weights(self, losses: Tensor, active: Tensor) -> Tensor:
        return active / (losses + FLOOR)

    def combine(self, losses: Tensor, active: Tensor) -> Tensor:
        return (losses + FLOOR).log().where(active, 0).sum(-1)
