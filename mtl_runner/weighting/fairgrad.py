"""Fair resource allocation in multi-task learning (FairGrad)."""

from collections.abc import Sequence
from typing import Annotated, Unpack

from annotated_types import Gt, Le
from torch import Tensor

from mtl_runner.weighting.base import mean_weight
from mtl_runner.weighting.gradient import GramianOptions, GramianWeighting
from mtl_runner.weighting.proportional import proportional


class FairGrad(GramianWeighting):
    """Σ_t w_t g_t with (G w)_t = w_t^(-1/α), w > 0: the α-fair allocation of the tasks' gains ⟨g_t, Δ⟩.

    Ban & Ji, Fair Resource Allocation in Multi-Task Learning, ICML 2024, equation 4: Δ maximises Σ_t ⟨g_t, Δ⟩^(1-α) / (1-α)
    in a ball. α = 1 is proportional fairness, the direction of Nash-MTL; the larger α, the nearer to max-min fairness. The
    authors' code hands the equation to a least-squares solver; here w minimises the convex function whose gradient it is, by
    Newton steps. Every task gains. G has 1e-6 ‖g_t‖² added to its diagonal, without which w is infinite where the gradients
    are opposed. A task whose gradient is zero takes the mean of the other weights.

    The weights depend on the unit of the gradients, so the comparable scale divides by their mean. ``scale: paper`` leaves
    them as they are; the authors' code multiplies them by T and cuts the norm of the update to 1. Heads take their own
    gradients, as there. T backward passes through the trunk; T × P numbers.

    Args:
        tasks: names of the tasks.
        alpha: α; the authors' default is 1, and they use 2 on QM9. Beyond 20 float64 does not hold the weights.
        options: those of the Gramian-based weightings.
    """

    def __init__(
        self, tasks: Sequence[str], *, alpha: Annotated[float, Gt(0), Le(20)] = 1.0, **options: Unpack[GramianOptions]
    ) -> None:
        super().__init__(tasks, **options)
        self.alpha = alpha

    def unit(self, weights: Tensor, active: Tensor) -> Tensor | float:
        """Their mean: the weights have a power of the gradients' unit."""
        return mean_weight(weights, active)

    def weights(self, gramian: Tensor, losses: Tensor, active: Tensor) -> Tensor:
        return proportional(gramian, active, self.alpha)
