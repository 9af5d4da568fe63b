"""A distance at each pixel."""

from collections.abc import Sequence
from typing import Literal

import pyarrow as pa
import torch
from torch import Tensor

from mtl_runner.batch import Fields, TargetSpec
from mtl_runner.errors import UserError
from mtl_runner.metrics import dense
from mtl_runner.tasks.base import Summary, counted
from mtl_runner.tasks.dense import Dense, as_maps

Loss = Literal["l1", "l2", "silog"]
LOSSES: tuple[Loss, ...] = ("l1", "l2", "silog")


class Depth(Dense):
    """One number z at each pixel, [T, N, H, W], for the target y = depth / scale; missing depths are left out.

    - ``l1``: |z - y|, and ``l2``: (z - y)², their means over the labelled pixels of a batch; the predicted depth is scale · z;
    - ``silog``: with d = z - log y, mean(d²) - λ mean(d)² over the labelled pixels of an image, and its mean over the images
      that have any; the predicted depth is scale · exp(z), which is above 0. λ = 1 does not see an error by the same factor
      everywhere. Eigen, Puhrsch and Fergus, Depth map prediction from a single image using a multi-scale deep network,
      NIPS 2014, whose λ is 1/2.

    Args:
        name: of the task.
        spec: its target; ``scale`` is the mean depth of the training part.
        loss: l1, l2 or silog.
        variance_focus: λ of ``silog``, from 0 to 1.
    """

    kind = "depth"
    width = 1

    def __init__(self, name: str, spec: TargetSpec, *, loss: Loss = "l1", variance_focus: float = 0.5) -> None:
        super().__init__(name, spec)
        if loss not in LOSSES:
            raise UserError(f"dataset.tasks.{name}.loss={loss}: allowed are {', '.join(LOSSES)}")
        if isinstance(variance_focus, bool) or not isinstance(variance_focus, int | float) or not 0 <= variance_focus <= 1:
            raise UserError(f"dataset.tasks.{name}.variance_focus={variance_focus}: it has to be a number from 0 to 1")
        self.form, self.variance_focus = loss, variance_focus

    def outputs(self, raw: Tensor) -> Tensor:
        return raw.squeeze(-1)

    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        error = outputs - targets
        return error.abs() if self.form == "l1" else error.square()

    def loss(self, outputs: Tensor, targets: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.form != "silog":
            return super().loss(outputs, targets, weights)
        counts = torch.ones_like(outputs) if weights is None else weights
        logs = torch.where(targets > 0, targets, 1).log()
        return _scale_invariant(outputs - logs, counts, self.variance_focus), counted(targets, weights)

    def summarise(
        self, outputs: Tensor, targets: Tensor, specs: Sequence[TargetSpec], context: Fields | None = None
    ) -> dict[str, Tensor]:
        scale = outputs.new_tensor([spec.scale or (1.0,) for spec in specs])[..., None, None]  # [T, 1, 1, 1]
        return dense.depth_summary(self._depths(outputs) * scale, targets * scale)

    def evaluated(self, summary: Summary, specs: Sequence[TargetSpec]) -> dict[str, Tensor]:
        return dense.depth(summary)

    def predictions(self, outputs: Tensor, context: Fields | None = None) -> dict[str, pa.Array]:
        """The depth at each pixel in the user's unit, a list of rows."""
        (scale,) = self.spec.scale or (1.0,)
        return {self.name: as_maps((self._depths(outputs) * scale).float())}

    def _depths(self, outputs: Tensor) -> Tensor:
        return outputs.exp() if self.form == "silog" else outputs


def _scale_invariant(errors: Tensor, weights: Tensor, focus: float) -> Tensor:
    """[T] from errors of the logarithm and weights, [T, N, H, W]: of each image, then the mean over images with a weight."""
    errors, weights = errors.flatten(2), weights.flatten(2)
    total = weights.sum(2)
    shares = weights / torch.where(total > 0, total, 1)[..., None]
    images = (shares * errors.square()).sum(2) - focus * (shares * errors).sum(2).square()
    there = (total > 0).to(images.dtype)
    return (images * there).sum(1) / there.sum(1).clamp(min=1)
