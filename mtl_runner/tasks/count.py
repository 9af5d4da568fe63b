"""How many."""

from collections.abc import Sequence

import pyarrow as pa
import torch
from torch import Tensor

from mtl_runner.batch import Fields, TargetSpec
from mtl_runner.metrics.count import count
from mtl_runner.tasks.base import Task


class Count(Task):
    """The logarithm z of the mean of a Poisson distribution: half the deviance, y log y - y z - y + exp(z).

    Its gradient is that of the negative log-likelihood exp(z) - y z; it is 0 for a perfect prediction and never below. Counts are
    divided by their mean in the training part, so that a task of thousands weighs no more than one of ones; that changes
    neither what is the best mean nor D².

    Targets and outputs are [T, N].
    """

    kind = "count"
    width = 1

    def outputs(self, raw: Tensor) -> Tensor:
        return raw.squeeze(-1)

    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = torch.special.xlogy(targets, targets) - targets * outputs - targets + outputs.exp()
        return loss

    def evaluate(
        self, outputs: Tensor, targets: Tensor, specs: Sequence[TargetSpec], context: Fields | None = None
    ) -> dict[str, Tensor]:
        scale = torch.tensor([(spec.scale or (1.0,))[0] for spec in specs], device=outputs.device)
        return count(outputs, targets, scale)

    def predictions(self, outputs: Tensor, context: Fields | None = None) -> dict[str, pa.Array]:
        """The mean count."""
        return {self.name: pa.array((outputs.cpu().double().exp() * (self.spec.scale or (1.0,))[0]).numpy())}
