"""One of several classes."""

from collections.abc import Sequence

import pyarrow as pa
from torch import Tensor
from torch.nn import functional as F

from mtl_runner import metrics
from mtl_runner.batch import Fields, TargetSpec
from mtl_runner.tasks.base import Task, calibrated, named_classes, shifted


class Multiclass(Task):
    """One logit per class; loss -log softmax(z)_y."""

    kind = "multiclass"

    @property
    def width(self) -> int:
        return len(self.spec.classes)

    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs.movedim(-1, 1), targets, reduction="none")

    def evaluate(
        self, outputs: Tensor, targets: Tensor, specs: Sequence[TargetSpec], context: Fields | None = None
    ) -> dict[str, Tensor]:
        return metrics.multiclass(calibrated(outputs, specs), targets, shifted(outputs, specs))

    def decide(self, outputs: Tensor, specs: Sequence[TargetSpec]) -> Tensor:
        return shifted(outputs, specs).argmax(-1)

    def predictions(self, outputs: Tensor, context: Fields | None = None) -> dict[str, pa.Array]:
        shares = self.spec.decision.calibrated(outputs).softmax(-1).cpu().numpy()
        columns = {self.name: named_classes(self.decide(outputs[None], [self.spec])[0], self.spec.classes)}
        return columns | {f"{self.name}_probability_{name}": pa.array(shares[:, i]) for i, name in enumerate(self.spec.classes)}
