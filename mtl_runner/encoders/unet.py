"""U-shaped convolutional network for outputs per pixel."""

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional

from mtl_runner.encoders.base import Encoder, FeatureSpec, StreamSpecs
from mtl_runner.encoders.stems import image_stems
from mtl_runner.errors import NotApplicable

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": lambda channels: nn.GroupNorm(1, channels),
}


class Down(nn.Module):
    """[N, inputs + carried, H, W] to [N, outputs + 4 (inputs + carried), H/2, W/2].

    The first ``inputs`` channels are pooled (2 × 2, maximum) and convolved. The whole input goes along, for the way up: of
    each of its channels, the four pixels of every 2 × 2 square as four channels.
    """

    def __init__(self, inputs: int, outputs: int, norm: str) -> None:
        super().__init__()
        self.inputs = inputs
        self.layers = _convolutions(inputs, outputs, norm)

    def forward(self, x: Tensor) -> Tensor:
        deeper = self.layers(functional.max_pool2d(x[:, : self.inputs], 2))
        return torch.cat([deeper, _squares(x)], 1)


class Up(nn.Module):
    """[N, inputs + 4 (outputs + carried), H, W] to [N, outputs + carried, 2H, 2W]; undoes the rearrangement of ``Down``.

    The first ``inputs`` channels are upsampled (transposed convolution 2 × 2 with stride 2), put after the ``outputs``
    channels from the same height of the way down, and convolved.
    """

    def __init__(self, inputs: int, outputs: int, norm: str) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.up = nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
        _initialise(self.up, inputs)
        self.layers = _convolutions(2 * outputs, outputs, norm)

    def forward(self, x: Tensor) -> Tensor:
        deep, carried = x[:, : self.inputs], _pixels(x[:, self.inputs :])
        skip, rest = carried[:, : self.outputs], carried[:, self.outputs :]
        return torch.cat([self.layers(torch.cat([skip, self.up(deep)], 1)), rest], 1)


class UNet(Encoder):
    """A way down and a way up, joined at every height; features for each pixel, [N, channels, H, W].

    Ronneberger, Fischer and Brox, "U-Net: Convolutional networks for biomedical image segmentation", MICCAI 2015. With
    c = ``channels`` and D = ``depth``, the 1 + 2D stages are: the first (two convolutions 3 × 3 to c channels), D down
    (maximum of 2 × 2, two convolutions to twice the channels), D up (transposed convolution 2 × 2 to half of the channels,
    beside those from the same height of the way down, two convolutions); normalisation and ReLU after every convolution
    3 × 3. Initial weights are normal with variance 2 / (inputs of a unit), as in the paper.

    A stage takes one tensor and gives one, so what the way up needs goes along in further channels: where a stage down has
    x [C, H, W], the next one gets [2C + 4C, H/2, W/2] with x in the last 4C, each 2 × 2 square as four channels. This moves
    numbers and loses none; the network is the U-Net. A sharing mode thus also mixes what goes along, and the k-th stage
    down has 2^k · c channels of its own, and 2^(k+1) · (2^k - 1) · c go along.

    Departures from the paper, for small images: convolutions are padded, so that the output has the size of the input
    (one whose sides are no multiples of 2^D gets zeros around it, which the last stage removes); c = 32, D = 3 and BatchNorm
    are the defaults, the paper's are 64, 4 and none; no dropout.

    Args:
        streams: the input streams; each has a field ``image``. Images of different shape meet at the largest number of
            channels, height and width: bilinear interpolation, then a convolution 1 × 1 of each such stream's own.
        channels: of the first stage and of the features.
        depth: how often height and width are halved.
        norm: batch (BatchNorm), group (GroupNorm with one group: no batch statistics) or none.

    Raises:
        NotApplicable: the images are halved to less than a pixel.
    """

    needs = ("image",)

    def __init__(
        self,
        streams: StreamSpecs,
        *,
        channels: Annotated[int, Ge(1)] = 32,
        depth: Annotated[int, Ge(1)] = 3,
        norm: Literal["batch", "group", "none"] = "batch",
    ) -> None:
        super().__init__(streams)
        self.stems, (inputs, height, width) = image_stems("unet", streams)
        deepest = max((max(height, width) - 1).bit_length(), 1)
        if depth > deepest:
            raise NotApplicable(f"encoder.depth={depth}: images of {height} × {width} can be halved {deepest} times at most")
        around = (*_margins(width, 2**depth), *_margins(height, 2**depth))
        sizes = [channels * 2**level for level in range(depth + 1)]
        levels = range(depth)
        down = [Down(sizes[level], sizes[level + 1], norm) for level in levels]
        up = [Up(sizes[level + 1], sizes[level], norm) for level in reversed(levels)]
        first = nn.Sequential(nn.ZeroPad2d(around), _convolutions(inputs, channels, norm))
        last = nn.Sequential(up.pop(), nn.ZeroPad2d(tuple(-size for size in around)))  # type: ignore[arg-type]
        self.stages = nn.ModuleList([first, *down, *up, last])
        self.features = FeatureSpec((channels, height, width))


def _squares(x: Tensor) -> Tensor:
    """[N, 4 C, H/2, W/2] from [N, C, H, W], as torch's ``pixel_unshuffle``, which leaves the shape of no examples as it is."""
    return x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).permute(0, 1, 3, 5, 2, 4).flatten(1, 3)  # type: ignore[no-any-return]


def _pixels(x: Tensor) -> Tensor:
    """The way back, as torch's ``pixel_shuffle``."""
    return x.unflatten(1, (-1, 2, 2)).permute(0, 1, 4, 2, 5, 3).flatten(4).flatten(2, 3)  # type: ignore[no-any-return]


def _margins(size: int, multiple: int) -> tuple[int, int]:
    """What is to be added before and after a side of ``size`` pixels to make it a multiple."""
    more = -size % multiple
    return more // 2, more - more // 2


def _convolutions(inputs: int, outputs: int, norm: str) -> nn.Sequential:
    """Twice: convolution 3 × 3, normalisation, ReLU. BatchNorm takes the convolution's bias away, so there is none."""
    layers: list[nn.Module] = []
    for size in (inputs, outputs):
        layers.append(convolution := nn.Conv2d(size, outputs, 3, padding=1, bias=norm != "batch"))
        _initialise(convolution, 9 * size)
        layers += [NORMS[norm](outputs)] if norm != "none" else []
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def _initialise(layer: nn.Conv2d | nn.ConvTranspose2d, inputs: int) -> None:
    """Weights with variance 2 / ``inputs``, the number of values that one output sums up; biases 0."""
    nn.init.normal_(layer.weight, std=(2 / inputs) ** 0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
