"""Stems: one stream's fields as one tensor."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from mtl_runner.batch import Fields, StreamSpec
from mtl_runner.encoders.base import SideBySide, StreamSpecs
from mtl_runner.errors import NotApplicable


def embedding_width(cardinality: int) -> int:
    """Size of a category's vector where none is given: 1.6 · cardinality^0.56, between 2 and 64 (fastai's rule)."""
    return max(2, min(64, round(1.6 * math.pow(cardinality, 0.56))))


class VectorStem(nn.Module):
    """All fields of a stream side by side, [N, width]: numbers as they are, categories embedded, images flattened."""

    def __init__(self, spec: StreamSpec, embedding_size: int | None = None) -> None:
        super().__init__()
        self.fields = tuple(spec.fields)
        sizes = [embedding_size or embedding_width(cardinality) for cardinality in spec.cardinalities]
        self.embeddings = SideBySide(
            # index 0 is a category that training does not know: no gradient would ever reach its vector, so it is zero
            nn.Embedding(cardinality, size, padding_idx=0)
            for cardinality, size in zip(spec.cardinalities, sizes, strict=True)
        )
        self.width = sum(sizes) + sum(torch.Size(shape).numel() for name, shape in spec.fields.items() if name != "categorical")

    def forward(self, fields: Fields) -> Tensor:
        parts = [part for name in self.fields for part in self._parts(name, fields[name])]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _parts(self, name: str, value: Tensor) -> list[Tensor]:
        if name == "categorical":
            return [embedding(value[:, column]) for column, embedding in enumerate(self.embeddings)]
        return [value.flatten(1)]


class ImageStem(nn.Module):
    """The image field as it is, [N, channels, height, width]."""

    def forward(self, fields: Fields) -> Tensor:
        return fields["image"]


class FittingImageStem(nn.Module):
    """The image field at another size and with another number of channels, [N, channels, height, width].

    Bilinear interpolation, then a convolution 1 × 1. In this order no gradient passes through the interpolation, whose
    backward pass on CUDA gives other last digits at every run.

    Args:
        shape: of one image, (channels, height, width).
        common: what it is to become; an image that has its number of channels is not convolved.
    """

    def __init__(self, shape: tuple[int, ...], common: tuple[int, int, int]) -> None:
        super().__init__()
        self.size = common[1:]
        self.mix = nn.Identity() if shape[0] == common[0] else nn.Conv2d(shape[0], common[0], 1)

    def forward(self, fields: Fields) -> Tensor:
        image = fields["image"]
        if image.shape[2:] != self.size:
            image = functional.interpolate(image, self.size, mode="bilinear", align_corners=False)
        return self.mix(image)  # type: ignore[no-any-return]


def image_stems(encoder: str, streams: StreamSpecs) -> tuple[nn.ModuleDict, tuple[int, int, int]]:
    """A stem for each stream, and the shape (channels, height, width) that all of them give.

    Where the streams' images differ, that is the largest number of channels, height and width among them. A stream of
    this shape is read as it is; any other is brought to it by a ``FittingImageStem``.

    Args:
        encoder: name of the option, for messages.
        streams: the input streams; each has a field ``image`` and no other.

    Raises:
        NotApplicable: a stream has other fields.
    """
    shapes = {name: _image_shape(encoder, spec) for name, spec in streams.items()}
    channels, height, width = (max(sizes) for sizes in zip(*shapes.values(), strict=True))
    common = channels, height, width
    stems = {name: ImageStem() if shape == common else FittingImageStem(shape, common) for name, shape in shapes.items()}
    return nn.ModuleDict(stems), common


def _image_shape(encoder: str, spec: StreamSpec) -> tuple[int, ...]:
    if set(spec.fields) != {"image"}:
        given = ", ".join(spec.fields) or "none"
        raise NotApplicable(
            f"encoder={encoder} reads one image per example, and the data set gives {given}; for these: encoder=mlp"
        )
    return tuple(spec.fields["image"])
