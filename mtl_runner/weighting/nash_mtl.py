"""Multi-task learning as a bargaining game (Nash-MTL)."""

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge
from torch import Tensor

from mtl_runner.weighting.base import Scale, mean_weight
from mtl_runner.weighting.gradient import Gradients, GramianWeighting, Heads, Normalize
from mtl_runner.weighting.proportional import proportional


class NashMTL(GramianWeighting):
    """Σ_t α_t g_t with G α = 1/α, α > 0: the bargain at which the product of the tasks' gains ⟨g_t, Δ⟩ is largest.

    Navon et al., Multi-Task Learning as a Bargaining Game, ICML 2022, Algorithm 1. α minimises the convex
    ½ αᵀGα - Σ_t log α_t, and Newton steps find it; the authors' code solves a sequence of convex approximations, and stops
    after 20. For two tasks α_t ∝ 1/‖g_t‖. Every task gains: ⟨g_t, Δ⟩ = 1/α_t. G has 1e-6 ‖g_t‖² added to its diagonal, without
    which α is infinite where the gradients are opposed. A task whose gradient is zero takes the mean of the other weights.

    As in the authors' code the weights are scaled down where ‖Δ‖ > max_norm, which is nearly always so as ‖Δ‖² = αᵀGα = T. Here
    that holds for the heads too. Since α depends on the unit of the gradients, the comparable scale divides by the mean weight,
    and ``max_norm`` matters for ``scale: paper`` alone. ``every`` is update_weights_every. Heads take their gradients times the
    weight, as the authors back-propagate Σ_t α_t L_t. T backward passes through the trunk; T × P numbers.

    Args:
        tasks: names of the tasks.
        max_norm: largest norm of the shared parameters' gradient; 0 for none.
        gradients, every, normalize, heads, scale: as in every Gramian-based weighting.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        max_norm: Annotated[float, Ge(0)] = 1.0,
        gradients: Gradients = "parameters",
        every: Annotated[int, Ge(1)] = 1,
        normalize: Normalize = "none",
        heads: Heads = "weighted",
        scale: Scale = "comparable",
    ) -> None:
        super().__init__(tasks, gradients=gradients, every=every, normalize=normalize, heads=heads, scale=scale)
        self.max_norm = max_norm

    def unit(self, weights: Tensor, active: Tensor) -> Tensor | float:
        """Their mean: the weights have the unit 1 / ‖g_t‖."""
        return mean_weight(weights, active)

    def weights(self, gramian: Tensor, losses: Tensor, active: Tensor) -> Tensor:
        weights = proportional(gramian, active)
        if not self.max_norm or self.scale == "comparable":
            return weights
        square = (weights * (gramian @ weights.unsqueeze(-1)).squeeze(-1)).sum(-1, keepdim=True)
        return weights * (self.max_norm * square.clamp_min(self.max_norm**2).rsqrt())
