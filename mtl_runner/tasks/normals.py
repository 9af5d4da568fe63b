"""The direction of the surface at each pixel."""

from collections.abc import Sequence

import pyarrow as pa
from torch import Tensor
from torch.nn import functional as F

from mtl_runner.batch import Fields, TargetSpec
from mtl_runner.imbalance.base import weighted_mean
from mtl_runner.metrics import dense
from mtl_runner.tasks.base import Summary, counted
from mtl_runner.tasks.dense import Dense, as_maps


class Normals(Dense):
    """A vector v at each pixel, [T, N, H, W, 3], of any length; loss 1 - cos(v, n), its mean over the labelled pixels of a batch.

    Targets n have length 1. A pixel where one of the three numbers is missing has no label.
    """

    kind = "normals"
    width = 3

    def loss(self, outputs: Tensor, targets: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        away = 1 - F.cosine_similarity(outputs, targets, dim=-1)
        each = None if weights is None else weights.amin(-1)
        return weighted_mean(away, each), counted(targets, each)

    def summarise(
        self, outputs: Tensor, targets: Tensor, specs: Sequence[TargetSpec], context: Fields | None = None
    ) -> dict[str, Tensor]:
        return dense.normals_summary(outputs, targets)

    def evaluated(self, summary: Summary, specs: Sequence[TargetSpec]) -> dict[str, Tensor]:
        return dense.normals(summary)

    def predictions(self, outputs: Tensor, context: Fields | None = None) -> dict[str, pa.Array]:
        """The unit vector (x, y, z) at each pixel, a list of rows."""
        return {self.name: as_maps(F.normalize(outputs, dim=-1).float())}
