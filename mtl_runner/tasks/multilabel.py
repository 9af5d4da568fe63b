"""Any number of labels."""

from collections.abc import Sequence
from math import prod

import pyarrow as pa
from torch import Tensor
from torch.nn import functional as F

from mtl_runner.batch import Fields, TargetSpec
from mtl_runner.metrics.multilabel import multilabel
from mtl_runner.tasks.base import Task, calibrated, shifted


class Multilabel(Task):
    """A logit for each label; loss: the mean over the labels of -[y log σ(z) + (1 - y) log(1 - σ(z))].

    Targets and outputs are [T, N, K]; a label that is missing is left out by itself.
    """

    kind = "multilabel"

    @property
    def width(self) -> int:
        return prod(self.spec.shape)

    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs, targets, reduction="none")

    def evaluate(
        self, outputs: Tensor, targets: Tensor, specs: Sequence[TargetSpec], context: Fields | None = None
    ) -> dict[str, Tensor]:
        return multilabel(calibrated(outputs, specs), targets, shifted(outputs, specs))

    def predictions(self, outputs: Tensor, context: Fields | None = None) -> dict[str, pa.Array]:
        """Of each label whether it is predicted, and its probability."""
        chosen = (self.spec.decision.shifted(outputs) > 0).cpu().numpy()
        shares = self.spec.decision.calibrated(outputs).sigmoid().cpu().numpy()
        columns = {f"{self.name}_{name}": pa.array(chosen[:, i]) for i, name in enumerate(self.spec.columns)}
        return columns | {f"{self.name}_probability_{name}": pa.array(shares[:, i]) for i, name in enumerate(self.spec.columns)}
