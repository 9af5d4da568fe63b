"""Linear maps along the channels of what a stage gives.

Shape legend: T tasks, N examples; an example is a vector [C], a sequence [L, C] or a map [C, H, W], with C channels.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from mtl_runner.encoders.stacked import Rows, Stacked, chosen, stacked_parameter


def channels(shape: Sequence[int]) -> int:
    """C, from the shape of one example."""
    return shape[channel_axis(shape)]


def channel_axis(shape: Sequence[int]) -> int:
    """Where the channels are, counted from the last dimension."""
    return -3 if len(shape) == 3 else -1


def widened(shape: Sequence[int], factor: int) -> tuple[int, ...]:
    """The shape with ``factor`` times as many channels."""
    axis = channel_axis(shape) + len(shape)
    return tuple(size * factor if place == axis else size for place, size in enumerate(shape))


def mixed(x: Tensor, weight: Tensor, bias: Tensor | None, maps: bool) -> Tensor:
    """[T, N, …] with ``out`` channels, from x [T, N, …] with ``in``, ``weight`` [T, out, in] and ``bias`` [T, out]."""
    if maps:
        y = weight[:, None] @ x.flatten(3)
        return cast(Tensor, (y if bias is None else y + bias[:, None, :, None]).unflatten(-1, x.shape[3:]))
    lines = x.flatten(1, -2)
    y = lines @ weight.mT if bias is None else torch.baddbmm(bias[:, None], lines, weight.mT)
    return y.view(*x.shape[:-1], weight.shape[1])


class ChannelMaps(Stacked):
    """T linear layers along the channels; for maps these are convolutions 1 × 1. They start as torch's linear layers do.

    Args:
        count: T.
        shape: of one example, as it comes in.
        outputs: channels that go out.
    """

    def __init__(self, count: int, shape: Sequence[int], outputs: int) -> None:
        super().__init__(count)
        layers = [nn.Linear(channels(shape), outputs) for _ in range(count)]
        self.maps = len(shape) == 3
        self.weight = stacked_parameter([layer.weight for layer in layers])  # [T, out, in]
        self.bias = stacked_parameter([layer.bias for layer in layers])  # [T, out]

    def forward(self, x: Tensor, mask: Tensor | None = None, apart: bool = False, rows: Rows = None) -> Tensor:
        x = x if apart else x.expand(self.length(rows), *x.shape)
        return mixed(x, chosen(self.weight, rows), chosen(self.bias, rows), self.maps)
