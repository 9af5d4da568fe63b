"""PolyLoss."""

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge
from torch import Tensor

from mtl_runner.imbalance.base import Criterion, cross_entropy
from mtl_runner.imbalance.closed_form import with_slopes
from mtl_runner.imbalance.focal import polynomial


class Poly(Criterion):
    """Poly-1: -log p + ε (1 - p), or with γ the focal form (1 - p)^γ (-log p) + ε (1 - p)^(γ + 1).

    p is the probability given to the true class. The cross-entropy is Σ_j (1 - p)^j / j; ε changes the coefficient of its first
    term from 1 to 1 + ε. ε = 0 is the cross-entropy, or the focal loss. Leng et al., PolyLoss: A Polynomial Expansion
    Perspective of Classification Loss Functions, ICLR 2022.

    Size: between 1 and 1 + ε times the cross-entropy (or the focal loss), 1 + 0.72 ε where p = 1/2.
    Cost: about ten element-wise operations per label, its derivative included, 14 with γ.

    Args:
        epsilon: ε; from -1, as examples would be pushed away from their class below.
        gamma: γ, how much less the well-classified examples count; 0 for the cross-entropy's form.
        tasks: limit it to these tasks; all binary and multiclass tasks otherwise.
    """

    kinds = frozenset({"binary", "multiclass", "ranking"})

    def __init__(
        self,
        *,
        epsilon: Annotated[float, Ge(-1)] = 1.0,
        gamma: Annotated[float, Ge(0)] = 0.0,
        tasks: Sequence[str] | None = None,
    ) -> None:
        super().__init__(tasks)
        self.epsilon = epsilon
        self.gamma = gamma

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        loss = cross_entropy(outputs, targets)
        return with_slopes(loss, *polynomial(loss.detach(), self.gamma, self.epsilon))
