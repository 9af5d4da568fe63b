"""Heads: from features to the outputs of the tasks that run as one.

Shape legend: T tasks, N examples, O outputs of a task (per position, where there are positions), C channels, H × W positions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtl_runner.seeding import seeded


class LinearHeads(nn.Module):
    """T linear layers of the same size as one matrix: 139 heads cost about as much as two.

    Args:
        width: size of the features.
        outputs: numbers per example and task, O.
        tasks: names of the T tasks; the initial weights of a head depend on its task's name and ``seed`` alone.
        seed: of the run.
        positions: dimensions of the features, counted from the last one (-1), whose mean is taken first; of a sequence's, that
            over the positions that are there.
    """

    def __init__(self, width: int, outputs: int, tasks: Sequence[str], seed: int, positions: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.positions = positions
        layers = [_linear(width, outputs, name, seed) for name in tasks]
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))  # [T, O, width]
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers]))  # [T, O]

    def forward(self, features: Tensor, apart: bool = False) -> Tensor:
        """Outputs [T, N, O] from features [N, …] that all T tasks share, or, ``apart``, from features [T, N, …] of each."""
        if self.positions:
            features = features.mean(self.positions) if len(self.positions) > 1 else _mean_of_positions(features)
        if apart:
            return torch.baddbmm(self.bias[:, None], features.flatten(2), self.weight.transpose(1, 2))
        tasks, outputs, _ = self.weight.shape
        flat = nn.functional.linear(features.flatten(1), self.weight.flatten(0, 1), self.bias.flatten())
        return flat.view(-1, tasks, outputs).transpose(0, 1)


class MapHeads(nn.Module):
    """T convolutions 1 × 1 as one: O outputs for each position of a map, [T, N, O · H · W] in the order O, H, W.

    Args:
        channels: of the map, C.
        outputs: numbers per position and task, O.
        tasks: names of the T tasks; the initial weights of a head depend on its task's name and ``seed`` alone.
        seed: of the run.
    """

    def __init__(self, channels: int, outputs: int, tasks: Sequence[str], seed: int) -> None:
        super().__init__()
        layers = [_linear(channels, outputs, name, seed) for name in tasks]
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))  # [T, O, C]
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers]))  # [T, O]

    def forward(self, features: Tensor, apart: bool = False) -> Tensor:
        """Outputs from a map [N, C, H, W] that all T tasks share, or, ``apart``, from maps [T, N, C, H, W] of each."""
        if apart:
            each: Tensor = self.weight[:, None] @ features.flatten(3)  # [T, N, O, H · W]
            return each.add(self.bias[:, None, :, None].to(each.dtype)).flatten(2)
        kernels = self.weight.flatten(0, 1)[..., None, None]
        flat = nn.functional.conv2d(features, kernels, self.bias.flatten())
        together: Tensor = flat.unflatten(1, self.bias.shape)  # [N, T, O, H, W]; ``len`` would fix N in an exported program
        return together.transpose(0, 1).flatten(2)


class DenseHeads(MapHeads):
    """``MapHeads``, then bilinear interpolation to the height and width of the target: [T, N, H, W, O].

    Pixels are squares whose centres are interpolated between (torch's ``align_corners=False``); beyond the outermost centres
    the value stays. Written as two products with fixed matrices, whose backward pass has the same last digits on every run;
    that of torch's interpolation on CUDA does not.

    Args:
        features: shape of the map, (C, height, width).
        outputs: numbers per pixel and task, O.
        size: H and W of the target.
        tasks: names of the T tasks; the initial weights of a head depend on its task's name and ``seed`` alone.
        seed: of the run.
    """

    rows: Tensor | None
    columns: Tensor | None

    def __init__(self, features: tuple[int, ...], outputs: int, size: tuple[int, int], tasks: Sequence[str], seed: int) -> None:
        channels, *self.shape = features
        super().__init__(channels, outputs, tasks, seed)
        larger = tuple(self.shape) != size
        for name, before, after in zip(("rows", "columns"), self.shape, size, strict=True):
            self.register_buffer(name, _interpolation(before, after) if larger else None, persistent=False)

    def forward(self, features: Tensor, apart: bool = False) -> Tensor:
        flat = super().forward(features, apart)
        maps: Tensor = flat.unflatten(2, (-1, *self.shape))  # [T, N, O, height, width]
        if self.rows is not None and self.columns is not None:
            maps = self.rows.to(maps.dtype) @ (maps @ self.columns.T.to(maps.dtype))
        return maps.movedim(2, -1)


def _interpolation(before: int, after: int) -> Tensor:
    """The matrix [after, before] that brings a line of ``before`` pixels to ``after``."""
    line = torch.eye(before)[None]
    return nn.functional.interpolate(line, size=after, mode="linear", align_corners=False)[0].T.contiguous()


def _mean_of_positions(features: Tensor) -> Tensor:
    """Mean [..., width] over the positions of sequences [..., L, width] that are there: at padding encoders give zeros."""
    there = (features != 0).any(-1, keepdim=True)
    return features.sum(-2) / there.sum(-2).clamp(min=1)


def _linear(width: int, outputs: int, name: str, seed: int) -> nn.Linear:
    with seeded(seed, "head", name):
        return nn.Linear(width, outputs)
