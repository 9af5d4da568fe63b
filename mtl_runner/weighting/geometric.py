"""Geometric loss strategy (GLS)."""

from torch import Tensor

from mtl_runner.weighting.base import DirectWeighting, equal_share
from mtl_runner.weighting.scale_invariant import FLOOR


class GLS(DirectWeighting):
    """(Π_t L_t)^(1/n), the geometric mean of the losses of the n tasks with labels in the batch; weights GLS / (n L_t).

    Chennupati et al., MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss Strategy for Multi-Task Learning,
    CVPR Workshops 2019. Losses have to be positive. The direction of the update is that of Σ_t log L_t, its size that of
    the losses. Weights of unequal losses add up to more than 1, and that of a loss near 0 is large: 1e-20 is added to losses,
    and weights are cut at e^80.

    Identical tasks weigh 1 / n each; heads get the weights too. One backward pass; no memory.
    """

    def unit(self, weights: Tensor, active: Tensor) -> Tensor | float:
        """1 / n: the objective is a mean."""
        return equal_share(active)

    def weights(self, losses: Tensor, active: Tensor) -> Tensor:
        share = active * equal_share(active)
        logs = (losses + FLOOR).log()
        mean = (logs * share).sum(-1, keepdim=True)
        return (mean - logs).clamp_max(80).exp() * share
