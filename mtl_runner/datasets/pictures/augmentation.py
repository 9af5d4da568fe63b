"""Random changes to the images of a training batch, and the same to what their labels say about places in them.

Shape legend: N images of H × W pixels, K points, M boxes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mtl_runner.batch import MISSING, Batch, TargetSpec
from mtl_runner.datasets.base import known
from mtl_runner.errors import UserError
from mtl_runner.geometry import point_names, swapped

VISIBLE = 0.25
"""Share of a box that has to be in the image for it to stay."""
MAPS = ("segmentation", "depth", "normals")


@dataclass(frozen=True)
class Changes:
    """What is drawn for each image, independently of the others."""

    flip: bool = False
    """Left becomes right in half of the images."""
    shift: float = 0.0
    """The image moves by up to this share of its width and height."""
    crop: float = 1.0
    """The side of the window that is shown, from this share up to all, anywhere in the image."""
    brightness: float = 0.0
    """Added to all pixels: up to so much more or less."""
    contrast: float = 0.0
    """Differences from the image's mean times 1 ± up to this."""

    @classmethod
    def of(cls, options: Mapping[str, Any] | None) -> "Changes":
        """From the configuration's ``augmentation``."""
        place = "dataset.augmentation"
        for key, value in (options or {}).items():
            known(str(key), cls.__dataclass_fields__, f"{place}: option")
            if key == "flip":
                if not isinstance(value, bool):
                    raise UserError(f"{place}.flip={value!r}: allowed are true and false")
            elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise UserError(f"{place}.{key}={value!r} is not a number from 0 to 1")
        made = cls(**{str(key): value for key, value in (options or {}).items()})
        if made.crop <= 0:
            raise UserError(f"{place}.crop={made.crop}: the smallest side of the window is above 0")
        return made

    @property
    def any(self) -> bool:
        """Whether anything changes."""
        return self != Changes()


class Augmentation:
    """Changes the images of every stream, and with them maps, points, boxes and reconstructions; other labels stay.

    A window of each image is stretched to its size again: left + u · width for u from 0 to 1, with a negative width for a
    mirror image; colours change after that. Pixels come from the four nearest ones, labels of maps from the nearest; beyond the
    edge the image repeats its last pixels, and maps have no label. A point outside has none either, a box is cut at the edge
    and goes where less than a quarter of it is left. In a mirror image paired points change places (``keypoints``: ``pairs``)
    and normals the sign of x. Depths stay, as with a lens of another focal length. A reconstruction is asked of the image
    before its colours change.

    Args:
        changes: what is drawn.
        targets: of the tasks.
    """

    def __init__(self, changes: Changes, targets: Mapping[str, TargetSpec]) -> None:
        self.changes = changes
        self.targets = targets
        self.orders = {
            name: swapped(name, point_names(spec), spec.options.get("pairs"))
            for name, spec in targets.items()
            if spec.kind == "keypoints"
        }

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        inputs, targets = {stream: dict(fields) for stream, fields in batch.inputs.items()}, dict(batch.targets)
        for stream, fields in inputs.items():
            if "image" not in fields:
                continue
            image = fields["image"]
            draws = torch.rand(len(image), 8, generator=generator)
            window = self.windows(draws, *image.shape[-2:])
            fields["image"] = colours(shown(image, window), draws[:, 6:].to(image.device), self.changes)
            for name in (task for task, read in batch.streams.items() if read == stream):
                targets[name] = self.moved(name, targets[name], window, image)
        return replace(batch, inputs=inputs, targets=targets)

    def windows(self, draws: Tensor, height: int, width: int) -> Tensor:
        """Left, top, width and height of what is shown of each image, in shares of it, [N, 4]; shifts by whole pixels."""
        side = 1 - (1 - self.changes.crop) * draws[:, 3:4]
        size = draws.new_tensor([width, height])
        shift = ((2 * draws[:, 1:3] - 1) * self.changes.shift * size).round() / size
        corner = draws[:, 4:6] * (1 - side) + shift
        mirror = (draws[:, :1] < 0.5) & self.changes.flip
        left = torch.where(mirror, corner[:, :1] + side, corner[:, :1])
        return torch.cat([left, corner[:, 1:], torch.where(mirror, -side, side), side], 1)

    def moved(self, name: str, target: Tensor, window: Tensor, image: Tensor) -> Tensor:
        """A task's targets as the windows show them."""
        spec = self.targets[name]
        if spec.kind == "reconstruction" and target[0].numel() == image[0].numel():
            return shown(target.view(image.shape), window).view(target.shape)
        window = window.to(target.device)
        if spec.kind == "keypoints":
            return points(target, window, self.orders[name])
        if spec.kind == "detection":
            return boxes(target, window)
        if spec.kind in MAPS:
            moved = labels(target, window)
            return mirrored_normals(moved, window) if spec.kind == "normals" else moved
        return target


def shown(image: Tensor, window: Tensor) -> Tensor:
    """The windows [N, 4], on the CPU, of images [N, C, H, W], stretched to the same size."""
    plain = window.new_tensor([0.0, 0, 1, 1])
    if bool((window == plain).all()):
        return image
    mirror = window.new_tensor([1.0, 0, -1, 1])
    if bool(((window == plain) | (window == mirror)).all(1).all()):
        return torch.where((window[:, 2] < 0).to(image.device)[:, None, None, None], image.flip(-1), image)
    across, down = _places(window.to(image.device), *image.shape[-2:])
    grid = torch.stack([across[:, None, :].expand(-1, image.shape[-2], -1), down[:, :, None].expand(-1, -1, image.shape[-1])], -1)
    return F.grid_sample(image, 2 * grid - 1, mode="bilinear", padding_mode="border", align_corners=False)


def _places(window: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Where the middles of the columns [N, W] and rows [N, H] of what is shown lie in the image, in shares of it."""
    u = (torch.arange(width, device=window.device) + 0.5) / width
    v = (torch.arange(height, device=window.device) + 0.5) / height
    return window[:, :1] + window[:, 2:3] * u, window[:, 1:2] + window[:, 3:4] * v


def labels(target: Tensor, window: Tensor) -> Tensor:
    """Maps [N, H, W, …] as the windows show them, each label that of the nearest pixel; missing beyond the edge."""
    height, width = target.shape[1:3]
    across, down = _places(window, height, width)
    columns, rows = (across * width).floor().long(), (down * height).floor().long()
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    each = torch.arange(len(target), device=target.device)[:, None, None]
    moved = target[each, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None, :]]
    missing = torch.nan if target.is_floating_point() else MISSING
    return moved.masked_fill(~inside.view(*inside.shape, *(1,) * (target.ndim - 3)), missing)


def mirrored_normals(target: Tensor, window: Tensor) -> Tensor:
    """Normals [N, H, W, 3] with the sign of x that they have in the mirror image."""
    sign = torch.where(window[:, 2:3] < 0, -1.0, 1.0)
    return target * torch.cat([sign, torch.ones_like(sign), torch.ones_like(sign)], 1)[:, None, None]


def points(target: Tensor, window: Tensor, order: list[int]) -> Tensor:
    """Points [N, K, 2] as the windows show them, NaN outside; in a mirror image in the order ``order``."""
    moved = (target - window[:, None, :2]) / window[:, None, 2:]
    moved = torch.where((window[:, 2] < 0)[:, None, None], moved[:, order], moved)
    outside = ((moved < 0) | (moved > 1)).any(-1, keepdim=True)
    return moved.masked_fill(outside, torch.nan)


def boxes(target: Tensor, window: Tensor) -> Tensor:
    """Boxes and classes [N, M, 5] as the windows show them, cut at the edge; class -1 where too little is left."""
    corners = (target[..., :4].unflatten(-1, (2, 2)) - window[:, None, None, :2]) / window[:, None, None, 2:]
    low, high = corners.amin(-2), corners.amax(-2)
    whole = (high - low).prod(-1)
    cut = torch.cat([low.clamp(0, 1), high.clamp(0, 1)], -1)
    gone = ((cut[..., 2:] - cut[..., :2]).prod(-1) < VISIBLE * whole) | (target[..., 4] < 0)
    moved = torch.cat([cut, target[..., 4:]], -1)
    empty = moved.new_tensor([0.0, 0, 0, 0, -1])
    return torch.where(target.isnan(), torch.nan, torch.where(gone.unsqueeze(-1), empty, moved))


def colours(image: Tensor, draws: Tensor, changes: Changes) -> Tensor:
    """Images [N, C, H, W], 0 … 1, with brightness and contrast by the draws [N, 2], 0 … 1."""
    if not changes.brightness and not changes.contrast:
        return image
    shift, factor = ((2 * draws - 1) * draws.new_tensor([changes.brightness, changes.contrast])).view(-1, 2, 1, 1, 1).unbind(1)
    mean = image.mean((1, 2, 3), keepdim=True)
    return ((image - mean) * (1 + factor) + mean + shift).clamp(0, 1)
