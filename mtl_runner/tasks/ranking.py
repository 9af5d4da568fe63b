"""How likely a user is to click, buy or watch an item: what lists are ordered by."""

from collections.abc import Sequence

import pyarrow as pa
from torch import Tensor

from mtl_runner.batch import Fields, TargetSpec
from mtl_runner.metrics.ranking import ranking
from mtl_runner.tasks.base import calibrated
from mtl_runner.tasks.binary import Binary


class Ranking(Binary):
    """Logit of the event, loss as of a binary task: -[y log σ(z) + (1 - y) log(1 - σ(z))].

    It has no predicted class: what counts is the order of the items, overall (ROC-AUC) and for each user (GAUC, where the
    data set says which rows are whose), and the probability.
    """

    kind = "ranking"

    def evaluate(
        self, outputs: Tensor, targets: Tensor, specs: Sequence[TargetSpec], context: Fields | None = None
    ) -> dict[str, Tensor]:
        return ranking(calibrated(outputs, specs), targets, (context or {}).get("user"))

    def decide(self, outputs: Tensor, specs: Sequence[TargetSpec]) -> None:  # type: ignore[override]
        return None

    def predictions(self, outputs: Tensor, context: Fields | None = None) -> dict[str, pa.Array]:
        return {f"{self.name}_probability": pa.array(self.spec.decision.calibrated(outputs).sigmoid().cpu().numpy())}
