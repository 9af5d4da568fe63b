"""One of several classes that have an order."""

from collections.abc import Sequence
from typing import Literal

import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_runner.batch import Fields, TargetSpec
from mtl_runner.encoders.base import FeatureSpec
from mtl_runner.errors import UserError
from mtl_runner.metrics.ordinal import ordinal, probabilities
from mtl_runner.tasks.base import Task, calibrated, chosen_option, named_classes


class Ordinal(Task):
    """One score s and rising thresholds θ: P(y > c) = σ(s - θ_c) for c = 0 … C - 2 (proportional odds; McCullagh, JRSS B 1980).

    ``loss: likelihood`` is -log P(y), P(y = c) = P(y > c - 1) - P(y > c); ``loss: binary`` is the mean over the thresholds of the
    cross-entropy of y > c (CORAL: Cao et al., Rank consistent ordinal regression, Pattern Recognition Letters 2020). The
    predicted class is the median of the distribution.

    Targets are [T, N] (integer), outputs the logits of P(y > c), [T, N, C - 1].
    """

    kind = "ordinal"
    width = 1

    def __init__(self, name: str, spec: TargetSpec, *, loss: Literal["likelihood", "binary"] = "likelihood") -> None:
        super().__init__(name, spec)
        chosen_option(name, "loss", loss, ("likelihood", "binary"))
        if len(spec.classes) < 2:
            raise UserError(f"dataset.tasks.{name}: an ordinal task needs two classes or more; there are {len(spec.classes)}")
        self._by_threshold = loss == "binary"

    def head(self, features: FeatureSpec, names: Sequence[str], seed: int) -> nn.Module:
        return OrderedHeads(super().head(features, names, seed), len(names), len(self.spec.classes))

    def no_outputs(self) -> Tensor:
        return torch.zeros(0, len(self.spec.classes) - 1)

    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self._by_threshold:
            above = targets[..., None] > torch.arange(outputs.shape[-1], device=targets.device)
            return F.binary_cross_entropy_with_logits(outputs, above.to(outputs.dtype), reduction="none").mean(-1)
        # -log(σ(a) - σ(b)) with a > b the logits on both sides of the class, infinite at the ends
        sides = F.pad(outputs, (1, 0), value=_FAR), F.pad(outputs, (0, 1), value=-_FAR)
        upper, lower = (side.gather(-1, targets[..., None])[..., 0] for side in sides)
        gap = (upper - lower).clamp(min=_CLOSE)
        return F.softplus(-upper) + F.softplus(lower) - torch.log(-torch.expm1(-gap))

    def evaluate(
        self, outputs: Tensor, targets: Tensor, specs: Sequence[TargetSpec], context: Fields | None = None
    ) -> dict[str, Tensor]:
        return ordinal(calibrated(outputs, specs), targets)

    def decide(self, outputs: Tensor, specs: Sequence[TargetSpec]) -> Tensor:
        return (outputs > 0).sum(-1)

    def predictions(self, outputs: Tensor, context: Fields | None = None) -> dict[str, pa.Array]:
        shares = probabilities(self.spec.decision.calibrated(outputs)).cpu().numpy()
        columns = {self.name: named_classes(self.decide(outputs[None], [self.spec])[0], self.spec.classes)}
        return columns | {f"{self.name}_probability_{name}": pa.array(shares[:, i]) for i, name in enumerate(self.spec.classes)}


_FAR, _CLOSE = 1e4, 1e-6
"""A logit that is as good as infinite, and the least difference of two logits that is told from none."""


class OrderedHeads(nn.Module):
    """The scores of T heads against thresholds of their own: θ_0, θ_0 + softplus(δ_1), θ_0 + softplus(δ_1) + softplus(δ_2) …

    All classes are equally probable at a score of 0 to begin with.

    Args:
        scores: heads with outputs [T, N, 1].
        tasks: T.
        classes: C.
    """

    def __init__(self, scores: nn.Module, tasks: int, classes: int) -> None:
        super().__init__()
        self.scores = scores
        start = torch.logit(torch.arange(1, classes) / classes)
        self.first = nn.Parameter(start[:1].repeat(tasks, 1))  # [T, 1]
        self.steps = nn.Parameter(start.diff().expm1().log().repeat(tasks, 1))  # [T, C - 2], softplus⁻¹ of the differences

    def forward(self, features: Tensor, apart: bool = False) -> Tensor:
        """Logits [T, N, C - 1]; the arguments as ``LinearHeads`` has them."""
        thresholds = torch.cat([self.first, F.softplus(self.steps)], 1).cumsum(1)
        logits: Tensor = self.scores(features, apart) - thresholds[:, None]
        return logits
