"""Residual convolutional networks."""

from typing import Annotated, ClassVar, Literal

from annotated_types import Ge
from torch import Tensor, nn

from mtl_runner.encoders.base import Encoder, FeatureSpec, StreamSpecs
from mtl_runner.encoders.stems import image_stems
from mtl_runner.encoders.weights import fill, read_state


class Block(nn.Module):
    """ReLU(shortcut(x) + f(x)); the shortcut is x, or a convolution 1 × 1 with BatchNorm where the shape changes."""

    expansion: ClassVar[int]
    downsample: nn.Sequential | None

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        if stride == 1 and inputs == outputs:
            self.downsample = None
        else:
            self.downsample = nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
        self.relu = nn.ReLU()

    def residual(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(shortcut + self.residual(x))  # type: ignore[no-any-return]


class BasicBlock(Block):
    """f: convolution 3 × 3, BatchNorm, ReLU, convolution 3 × 3, BatchNorm."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__(inputs, width, stride)
        self.conv1, self.bn1 = _conv(inputs, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3), nn.BatchNorm2d(width)

    def residual(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))  # type: ignore[no-any-return]


class Bottleneck(Block):
    """f: convolutions 1 × 1, 3 × 3 and 1 × 1 to four times the width, BatchNorm after each, ReLU between them."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__(inputs, width, stride)
        self.conv1, self.bn1 = _conv(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = _conv(width, 4 * width, 1), nn.BatchNorm2d(4 * width)

    def residual(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))
        return self.bn3(self.conv3(x))  # type: ignore[no-any-return]


BLOCKS: dict[int, tuple[type[Block], tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
}


class ResNet(Encoder):
    """Five stages: stem convolution; three groups of residual blocks; a fourth one with global average pooling.

    He, Zhang, Ren and Sun, "Deep residual learning for image recognition", CVPR 2016. With w = ``width``, the groups have
    w, 2w, 4w and 8w channels (four times as many outputs for depth 50), and the last three of them halve height and width.
    Features: a vector of 8w (depth 50: 32w). An image may have any size: what has one row or column keeps it.

    Layers, sizes and initial weights (normal with variance 2 / (k² · output channels), k × k the kernel) are torchvision's,
    whose depth 50 differs from the paper's in one place: a bottleneck halves the size in its 3 × 3 convolution and not in the
    first one. Without the last fully connected layer, which the heads replace, there are 11,176,512, 21,284,672 or 23,508,032
    parameters (``stem=imagenet``, three channels). BatchNorm needs two examples in a training batch.

    Args:
        streams: the input streams; each has a field ``image``. Images of different shape meet at the largest number of
            channels, height and width: bilinear interpolation, then a convolution 1 × 1 of each such stream's own.
        depth: 18, 34 or 50 layers.
        stem: cifar (convolution 3 × 3, for small images; Chen et al., "A simple framework for contrastive learning of visual
            representations", ICML 2020, B.9) or imagenet (convolution 7 × 7 with stride 2, max pooling 3 × 3 with stride 2;
            the paper's).
        width: channels of the stem and the first group; the paper's is 64.
        weights: a file with the weights of torchvision's network of this depth, by torchvision's names: safetensors if its
            name ends so, else a state dict of torch. Those of the last fully connected layer (``fc``) are left out; all
            others must be there. They need ``stem=imagenet`` and ``width=64``. For images of one channel the first kernel is
            summed over its three, which equals three copies of the channel. A stream's own convolution 1 × 1 is not in it.
        features: vector, or map: without the average pooling, for outputs at each pixel.
    """

    needs = ("image",)
    initial = ("weights",)

    def __init__(
        self,
        streams: StreamSpecs,
        *,
        depth: Literal[18, 34, 50] = 18,
        stem: Literal["cifar", "imagenet"] = "cifar",
        width: Annotated[int, Ge(1)] = 64,
        weights: str | None = None,
        features: Literal["vector", "map"] = "vector",
    ) -> None:
        super().__init__(streams)
        self.stems, (channels, height, breadth) = image_stems("resnet", streams)
        self.stages = nn.ModuleList([_entry(channels, width, stem)])
        block, counts = BLOCKS[depth]
        inputs = width
        for group, count in enumerate(counts):
            size = width * 2**group
            blocks = [block(inputs, size, 1 if group == 0 else 2)]
            inputs = size * block.expansion
            blocks += [block(inputs, size, 1) for _ in range(count - 1)]
            self.stages.append(nn.Sequential(*blocks))
        if features == "map":
            halved = 2**3 if stem == "cifar" else 2**5
            self.features = FeatureSpec((inputs, -(-height // halved), -(-breadth // halved)))
        else:
            self.stages[-1].extend([nn.AdaptiveAvgPool2d(1), nn.Flatten()])  # type: ignore[operator]
            self.features = FeatureSpec((inputs,))
        if weights is not None:
            self._start_from(weights, f"encoder.weights={weights} for depth={depth} stem={stem} width={width}")

    def _start_from(self, weights: str, place: str) -> None:
        state = {name: value for name, value in read_state(weights, "encoder.weights").items() if not name.startswith("fc.")}
        own = {torchvision_name(name): value for name, value in self.state_dict().items() if name.startswith("stages.")}
        first = state.get("conv1.weight")
        if first is not None and own["conv1.weight"].shape[1] == 1 and first.dim() == 4:
            state["conv1.weight"] = first.sum(1, keepdim=True)
        fill(own, state, place)


def torchvision_name(name: str) -> str:
    """torchvision's name of a parameter: ``layer2.0.conv1.weight`` of ``stages.2.0.conv1.weight``."""
    _, stage, part, *rest = name.split(".")
    return ".".join([("conv1", "bn1")[int(part)], *rest] if stage == "0" else [f"layer{stage}", part, *rest])


def _entry(channels: int, width: int, stem: str) -> nn.Sequential:
    size, stride = (7, 2) if stem == "imagenet" else (3, 1)
    layers = [_conv(channels, width, size, stride), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, *([nn.MaxPool2d(3, 2, padding=1)] if stem == "imagenet" else []))


def _conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer
