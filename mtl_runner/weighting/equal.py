"""Equal weights."""

from torch import Tensor

from mtl_runner.weighting.base import DirectWeighting


class Equal(DirectWeighting):
    """Σ_t L_t, the sum over the tasks with labels in the batch.

    ``scale: paper`` is this sum; ``comparable`` divides it by T, the number of tasks, where tasks share parameters.
    One backward pass; no memory.
    """

    def weights(self, losses: Tensor, active: Tensor) -> Tensor:
        return active.to(losses.dtype)
