"""Points in an image."""

from collections.abc import Sequence
from math import prod
from typing import Annotated, Literal, get_args

import pyarrow as pa
import torch
from annotated_types import Gt
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_runner.batch import Fields, TargetSpec
from mtl_runner.encoders.base import FeatureSpec
from mtl_runner.errors import NotApplicable, UserError, choices
from mtl_runner.geometry import WINDOW, place_of, point_names, swapped, to_source
from mtl_runner.heads import LinearHeads, MapHeads
from mtl_runner.metrics.keypoints import extent, interpoint, keypoints, keypoints_summary
from mtl_runner.tasks.base import Summary, Task, chosen_option, positive_option

Loss = Literal["mae", "mse", "wing"]
Form = Literal["auto", "coordinates", "heatmap"]
Normaliser = Literal["image", "box", "points"]
WING, CURVATURE = 0.1, 0.02
"""Of the wing loss, as shares of the image: 10 and 2 pixels of about 100."""


class Keypoints(Task):
    """Coordinates (x, y) of K points, 0 … 1 from the left and the top edge of the image; loss over all coordinates.

    ``heatmap``: a map of scores z for each point, of the height and width of the features, and the mean of the positions under
    softmax(z) (soft-argmax; Sun et al., "Integral human pose regression", ECCV 2018). ``coordinates``: a linear layer on all
    features. Errors are measured in pixels of the image as it was read, where the data set says how large it was.

    Args:
        form: of the head; auto: heat maps where the features are a map.
        loss: mae |z - y|, mse (z - y)², or wing (Feng et al., "Wing loss", CVPR 2018): w ln(1 + |z - y| / ε) below w, here 0.1
            with ε 0.02, then |z - y| plus the constant that joins them.
        normaliser: the distance that counts as 1: the diagonal of the image as it was read, all of it whatever the network
            sees, √(width · height) of the box around its true points, or the distance between the two true points ``between``.
        between: names of two points, ``[left_eye, right_eye]``.
        threshold: in normalisers, up to which a point counts as found (PCK).
        pairs: names of points that change places when the image is flipped: ``[[left_eye, right_eye]]``; None: those whose
            names differ in ``left`` and ``right`` alone.
    """

    kind = "keypoints"
    streaming = True

    def __init__(
        self,
        name: str,
        spec: TargetSpec,
        *,
        form: Form = "auto",
        loss: Loss = "mae",
        normaliser: Normaliser = "image",
        between: Sequence[str] | None = None,
        threshold: Annotated[float, Gt(0)] = 0.1,
        pairs: Sequence[Sequence[str]] | None = None,
    ) -> None:
        super().__init__(name, spec)
        self.form = chosen_option(name, "form", form, get_args(Form))
        self.loss_name = chosen_option(name, "loss", loss, get_args(Loss))
        self.normaliser = chosen_option(name, "normaliser", normaliser, get_args(Normaliser))
        self.threshold = positive_option(name, "threshold", threshold)
        points = point_names(spec)
        self.between = _between(name, normaliser, between, points)
        swapped(name, points, pairs)

    @property
    def width(self) -> int:
        return prod(self.spec.shape)

    def head(self, features: FeatureSpec, names: Sequence[str], seed: int) -> nn.Module:
        """Heat maps of a map of features, else a linear layer on all of them."""
        is_map = len(features.shape) == 3
        if self.form == "heatmap" and not is_map:
            raise NotApplicable(
                f"dataset.tasks.{self.name}.form=heatmap needs an encoder whose features are a map (encoder.features=map), "
                f"these have the shape {features.shape}"
            )
        if is_map and self.form != "coordinates":
            return HeatMaps(features, self.width // 2, names, seed)
        return LinearHeads(prod(features.shape), self.width, names, seed)

    def outputs(self, raw: Tensor) -> Tensor:
        """[T, N, K, 2]."""
        points: Tensor = raw.unflatten(-1, self.spec.shape)
        return points

    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.loss_name == "mse":
            return (outputs - targets).square()
        error = (outputs - targets).abs()
        if self.loss_name == "mae":
            return error
        near = WING * torch.log1p(error / CURVATURE)
        return torch.where(error < WING, near, error + (WING * torch.log1p(error.new_tensor(WING / CURVATURE)) - WING))

    def summarise(
        self, outputs: Tensor, targets: Tensor, specs: Sequence[TargetSpec], context: Fields | None = None
    ) -> dict[str, Tensor]:
        outputs, targets = to_source(outputs, context), to_source(targets, context)
        return keypoints_summary(outputs, targets, self._normaliser(targets, context), self.threshold)

    def evaluated(self, summary: Summary, specs: Sequence[TargetSpec]) -> dict[str, Tensor]:
        return keypoints(summary)

    def _normaliser(self, targets: Tensor, context: Fields | None) -> Tensor:
        if self.normaliser == "box":
            return extent(targets)
        if self.between is not None:
            return interpoint(targets, *self.between)
        return source_size(targets, context).square().sum(-1).sqrt().expand(targets.shape[:2])

    def predictions(self, outputs: Tensor, context: Fields | None = None) -> dict[str, pa.Array]:
        """``<task>_<column>`` in pixels of the image as it was read; as shares of it where its size is not known."""
        values = to_source(outputs.cpu(), context).reshape(-1, self.width).double().numpy()
        return {f"{self.name}_{column}": pa.array(values[:, i]) for i, column in enumerate(self.spec.columns)}


class HeatMaps(nn.Module):
    """K maps of scores and the mean position under each one's softmax: [T, N, 2 K], 0 … 1, from features [N, C, H, W].

    Position j of W stands for the middle of its column, (j + 0.5) / W. Points beyond the middle of the outermost columns and
    rows cannot be reached.
    """

    def __init__(self, features: FeatureSpec, points: int, names: Sequence[str], seed: int) -> None:
        super().__init__()
        channels, self.height, self.breadth = features.shape
        self.points = points
        self.maps = MapHeads(channels, points, names, seed)

    def forward(self, features: Tensor, apart: bool = False) -> Tensor:
        scores = self.maps(features, apart).unflatten(-1, (self.points, self.height, self.breadth)).float()
        shares = F.softmax(scores.flatten(-2), -1).view_as(scores)
        x = (torch.arange(self.breadth, device=scores.device) + 0.5) / self.breadth
        y = (torch.arange(self.height, device=scores.device) + 0.5) / self.height
        return torch.stack([shares.sum(-2) @ x, shares.sum(-1) @ y], -1).flatten(-2)


def source_size(targets: Tensor, context: Fields | None) -> Tensor:
    """Width and height [N, 2] of the images as they were read, of targets [T, N, …]; 1 where the data do not say the windows.

    A window lies in the middle of its image (``Look.window``): beside it there is as much on the right as on the left, less
    than nothing where it is padded. So the whole is the window and twice its distance from the edge.
    """
    if context is None or WINDOW not in context:
        return targets.new_ones(targets.shape[1], 2)
    window = context[WINDOW].to(targets)
    return window[:, 2:] + 2 * window[:, :2]


def _between(name: str, normaliser: str, between: Sequence[str] | None, points: Sequence[str]) -> tuple[int, int] | None:
    if (normaliser == "points") != (between is not None):
        raise UserError(
            f"dataset.tasks.{name}: normaliser=points goes with between=[POINT,POINT], and no other normaliser does; "
            f"points: {choices(points)}"
        )
    if between is None:
        return None
    named = [] if isinstance(between, str) or not isinstance(between, Sequence) else list(map(str, between))
    if len(named) != 2 or named[0] == named[1]:
        raise UserError(f"dataset.tasks.{name}.between={between} does not name two points; points: {choices(points)}")
    first, second = (place_of(point, points, f"dataset.tasks.{name}.between") for point in named)
    return first, second
