"""Equal weights."""

from torch import Tensor

from mtl_runner.weighting.base import LossWeighting


class Equal(LossWeighting):
    """Σ_t L_t, the sum over tasks; on the project's scale the shared part takes its T-th part.

    One backward pass; no memory.
    """

    def combine(self, losses: Tensor, active: Tensor) -> Tensor:
        return (losses * active).sum(-1)
