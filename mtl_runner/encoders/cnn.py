"""Small convolutional network."""

from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Ge, Lt, MinLen
from torch import nn

from mtl_runner.encoders.base import Dropout, Encoder, FeatureSpec, StreamSpecs
from mtl_runner.encoders.stems import image_stems


class CNN(Encoder):
    """Convolution stages (3 × 3, normalisation, ReLU, 2 × 2 max pooling), then one fully connected stage.

    Once a side has a single pixel, nothing is pooled any more.

    Args:
        streams: the input streams; each has a field ``image``. Images of different shape meet at the largest number of
            channels, height and width: bilinear interpolation, then a convolution 1 × 1 of each such stream's own.
        channels: output channels of each convolution stage.
        width: size of the fully connected stage.
        norm: batch (BatchNorm), group (GroupNorm with one group: no batch statistics) or none.
        dropout: probability of setting a unit of the last stage to zero in training.
        features: vector, or map: without the fully connected stage, for outputs at each pixel [channels, height, width].
    """

    needs = ("image",)

    def __init__(
        self,
        streams: StreamSpecs,
        *,
        channels: Annotated[Sequence[Annotated[int, Ge(1)]], MinLen(1)] = (32, 64),
        width: Annotated[int, Ge(1)] = 128,
        norm: Literal["batch", "group", "none"] = "batch",
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        features: Literal["vector", "map"] = "vector",
    ) -> None:
        super().__init__(streams)
        self.stems, (depth, height, breadth) = image_stems("cnn", streams)
        self.stages = nn.ModuleList()
        for size in channels:
            layers: list[nn.Module] = [nn.Conv2d(depth, size, 3, padding=1)]
            if norm != "none":
                layers.append(nn.BatchNorm2d(size) if norm == "batch" else nn.GroupNorm(1, size))
            layers.append(nn.ReLU())
            if min(height, breadth) >= 2:
                layers.append(nn.MaxPool2d(2))
                height, breadth = height // 2, breadth // 2
            self.stages.append(nn.Sequential(*layers))
            depth = size
        if features == "map":
            self.features = FeatureSpec((depth, height, breadth))
            return
        last: list[nn.Module] = [nn.Flatten(), nn.Linear(depth * height * breadth, width), nn.ReLU()]
        if dropout:
            last.append(Dropout(dropout))
        self.stages.append(nn.Sequential(*last))
        self.features = FeatureSpec((width,))
