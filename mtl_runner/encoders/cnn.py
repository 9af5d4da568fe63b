"""Small convolutional network."""

from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Ge, Lt, MinLen
from torch import nn

from mtl_runner.encoders.base import Dropout, Encoder, FeatureSpec, StreamSpecs
from mtl_runner.encoders.stems import ImageStem
from mtl_runner.errors import UserError


class CNN(Encoder):
    """Convolution stages (3 × 3, normalisation, ReLU, 2 × 2 max pooling), then one fully connected stage.

    Once a side has a single pixel, nothing is pooled any more.

    Args:
        streams: the input streams; each needs a field ``image``, all of the same shape.
        channels: output channels of each convolution stage.
        width: size of the fully connected stage.
        norm: batch (BatchNorm), group (GroupNorm with one group: no batch statistics) or none.
        dropout: probability of setting a unit of the last stage to zero in training.
    """

    needs = "image"

    def __init__(
        self,
        streams: StreamSpecs,
        *,
        channels: Annotated[Sequence[Annotated[int, Ge(1)]], MinLen(1)] = (32, 64),
        width: Annotated[int, Ge(1)] = 128,
        norm: Literal["batch", "group", "none"] = "batch",
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
    ) -> None:
        super().__init__()
        shape = _image_shape(streams)
        self.stems = nn.ModuleDict({name: ImageStem() for name in streams})
        self.stages = nn.ModuleList()
        depth, height, breadth = shape
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
        last: list[nn.Module] = [nn.Flatten(), nn.Linear(depth * height * breadth, width), nn.ReLU()]
        if dropout:
            last.append(Dropout(dropout))
        self.stages.append(nn.Sequential(*last))
        self.features = FeatureSpec((width,))


def _image_shape(streams: StreamSpecs) -> tuple[int, int, int]:
    shapes = {name: spec.fields.get("image") for name, spec in streams.items()}
    for name, shape in shapes.items():
        if shape is None or len(streams[name].fields) > 1:
            fields = ", ".join(streams[name].fields)
            raise UserError(f"encoder=cnn reads one image per example, and the data set gives {fields}; for these: encoder=mlp")
    if len(set(shapes.values())) > 1:
        raise UserError(f"encoder=cnn needs images of one shape in all streams, and has {shapes}")
    channels, height, width = next(shape for shape in shapes.values() if shape is not None)
    return channels, height, width
