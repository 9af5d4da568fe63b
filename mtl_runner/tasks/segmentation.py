"""One of several classes at each pixel."""

from collections.abc import Sequence

import pyarrow as pa
from torch import Tensor
from torch.nn import functional as F

from mtl_runner.batch import Fields, TargetSpec
from mtl_runner.metrics import dense
from mtl_runner.tasks.base import Summary, shifted
from mtl_runner.tasks.dense import Dense, as_maps


class Segmentation(Dense):
    """C logits at each pixel, [T, N, H, W, C]; loss -log softmax(z)_y, its mean over the labelled pixels of a batch."""

    kind = "segmentation"

    @property
    def width(self) -> int:
        return len(self.spec.classes)

    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs.movedim(-1, 1), targets.long(), reduction="none")

    def summarise(
        self, outputs: Tensor, targets: Tensor, specs: Sequence[TargetSpec], context: Fields | None = None
    ) -> dict[str, Tensor]:
        return dense.segmentation_summary(shifted(outputs, specs), targets)

    def evaluated(self, summary: Summary, specs: Sequence[TargetSpec]) -> dict[str, Tensor]:
        return dense.segmentation(summary)

    def predictions(self, outputs: Tensor, context: Fields | None = None) -> dict[str, pa.Array]:
        """The number of the class at each pixel, a list of rows."""
        return {self.name: as_maps(self.spec.decision.shifted(outputs).argmax(-1).short())}
