"""Equal weights."""

from torch import Tensor

from mtl_runner.weighting.base import DirectWeighting


class Equal(DirectWeighting):
    """Σ_t L_t, the sum over tasks; on the project's scale the shared part takes its T-th part.

    One backward pass; no memory.
    """

    def weights(self, losses: Tensor, active: Tensor) -> Tensor:
        return active.to(losses.dtype)
