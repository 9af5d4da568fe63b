"""Stems: one stream's fields as one tensor."""

import math

import torch
from torch import Tensor, nn

from mtl_runner.batch import Fields, StreamSpec


def embedding_width(cardinality: int) -> int:
    """Size of a category's vector where none is given: 1.6 · cardinality^0.56, between 2 and 64 (fastai's rule)."""
    return max(2, min(64, round(1.6 * math.pow(cardinality, 0.56))))


class VectorStem(nn.Module):
    """All fields of a stream side by side, [N, width]: numbers as they are, categories embedded, images flattened."""

    def __init__(self, spec: StreamSpec, embedding_size: int | None = None) -> None:
        super().__init__()
        self.fields = tuple(spec.fields)
        sizes = [embedding_size or embedding_width(cardinality) for cardinality in spec.cardinalities]
        self.embeddings = nn.ModuleList(
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
