"""One of two classes."""

from collections.abc import Sequence

import pyarrow as pa
from torch import Tensor
from torch.nn import functional as F

from mtl_runner import metrics
from mtl_runner.batch import Fields, TargetSpec
from mtl_runner.tasks.base import Task, calibrated, named_classes, shifted


class Binary(Task):
    """Logit of the positive class; loss -[y log σ(z) + (1 - y) log(1 - σ(z))]."""

    kind = "binary"
    width = 1

    def outputs(self, raw: Tensor) -> Tensor:
        return raw.squeeze(-1)

    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs, targets, reduction="none")

    def evaluate(
        self, outputs: Tensor, targets: Tensor, specs: Sequence[TargetSpec], context: Fields | None = None
    ) -> dict[str, Tensor]:
        return metrics.binary(calibrated(outputs, specs), targets, shifted(outputs, specs))

    def decide(self, outputs: Tensor, specs: Sequence[TargetSpec]) -> Tensor:
        return (shifted(outputs, specs) > 0).long()

    def predictions(self, outputs: Tensor, context: Fields | None = None) -> dict[str, pa.Array]:
        return {
            self.name: named_classes(self.decide(outputs[None], [self.spec])[0], self.spec.classes),
            f"{self.name}_probability": pa.array(self.spec.decision.calibrated(outputs).sigmoid().cpu().numpy()),
        }
