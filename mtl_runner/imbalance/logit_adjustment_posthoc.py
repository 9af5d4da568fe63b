"""Post-hoc logit adjustment."""

from collections.abc import Sequence
from math import log
from typing import Annotated

from annotated_types import Ge
from torch import Tensor

from mtl_runner.batch import Decision
from mtl_runner.imbalance.base import Adjuster


class LogitAdjustmentPosthoc(Adjuster):
    """The predicted class is argmax_c z_c - τ log π_c, π_c the share of class c in the training part as the model saw it.

    With τ = 1 and a model that knows p(c | x), it has the highest balanced accuracy that there is. A binary task is positive
    where z - τ (log π_1 - log π_0) > 0. Probabilities stay as they are. Equal shares, and τ = 0, change nothing, bit for bit.

    A class without a training example has no log π_c: it is treated as the most frequent one, the choice that favours it the
    least, where the formula would predict nothing but it. The same number is added to all c, so that the most frequent class
    has 0.

    Menon et al., Long-Tail Learning via Logit Adjustment, ICLR 2021.

    Args:
        tau: τ.
        tasks: limit it to these tasks; all binary and multiclass tasks otherwise.
    """

    kinds = frozenset({"binary", "multiclass"})

    def __init__(self, *, tau: Annotated[float, Ge(0)] = 1.0, tasks: Sequence[str] | None = None) -> None:
        super().__init__(tasks)
        self.tau = tau

    def fit(self, name: str, outputs: Tensor, targets: Tensor, prior: Tensor) -> Decision:
        shares = prior.tolist()
        largest = max(shares)
        offsets = [self.tau * (log(largest) - log(share)) if share > 0 else 0.0 for share in shares]
        if not any(offsets):
            return Decision()
        return Decision(offsets=(offsets[1] - offsets[0],) if outputs.ndim == 1 else tuple(offsets))
