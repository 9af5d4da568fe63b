"""Stems that give a sequence of vectors [N, length, width].

Shape legend: N examples, L positions.
"""

from collections.abc import Sequence
from math import ceil, prod

import torch
from torch import Tensor, nn

from mtl_runner.batch import Fields
from mtl_runner.encoders.base import Dropout, StreamSpecs
from mtl_runner.errors import NotApplicable, UserError, choices

SCALE = 0.02
"""Standard deviation of initial vectors of tokens and positions in BERT and ViT."""
GRID = 14
"""ViT-B/16 cuts an image of 224 pixels into 14 × 14 patches."""


def only_field(streams: StreamSpecs, allowed: Sequence[str], encoder: str, beside: Sequence[str] = ()) -> dict[str, str]:
    """The one field of each stream, those ``beside`` it left aside.

    Raises:
        NotApplicable: it is none of ``allowed``, or not the only one.
    """
    fields = {name: [field for field in spec.fields if field not in beside] for name, spec in streams.items()}
    for name, spec in streams.items():
        if len(fields[name]) != 1 or fields[name][0] not in allowed:
            given = f"encoder={encoder} reads {' or '.join(allowed)} alone, and the data set gives {choices(spec.fields)}"
            raise NotApplicable(f"{given}; for these: encoder=mlp")
    return {name: own for name, (own,) in fields.items()}


def token_mask(fields: Fields) -> Tensor | None:
    """[N, L]: where there is a token; None where the fields have none."""
    return fields["tokens"] != 0 if "tokens" in fields else None


def same_length(lengths: Sequence[int], encoder: str) -> int:
    """The length of all streams' sequences, which heads without pooling need to be one."""
    if len(set(lengths)) > 1:
        raise NotApplicable(
            f"encoder={encoder} encoder.pool=none: sequences need one length in all streams, and have {choices(lengths)}"
        )
    return lengths[0]


class TokenStem(nn.Module):
    """A vector for each token; that of padding is zero and stays so."""

    def __init__(self, vocabulary: int, width: int, scale: float = 1.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=0)
        with torch.no_grad():
            self.embedding.weight *= scale

    def forward(self, fields: Fields) -> Tensor:
        return self.embedding(fields["tokens"])  # type: ignore[no-any-return]


class RowStem(nn.Module):
    """An image row by row, [N, height, channels · width]."""

    def forward(self, fields: Fields) -> Tensor:
        return fields["image"].transpose(1, 2).flatten(2)


class PatchStem(nn.Module):
    """A linear image of each square patch, [N, patches, width]; zeros fill the last ones to the right and below."""

    def __init__(self, shape: Sequence[int], width: int, patch: int) -> None:
        super().__init__()
        channels, *sides = shape
        self.fill = [0, -sides[1] % patch, 0, -sides[0] % patch]
        self.length = prod(ceil(side / patch) for side in sides)
        self.project = nn.Conv2d(channels, width, patch, stride=patch)
        nn.init.xavier_uniform_(self.project.weight.flatten(1))
        nn.init.zeros_(self.project.bias)  # type: ignore[arg-type]

    def forward(self, fields: Fields) -> Tensor:
        image = fields["image"]
        if any(self.fill):
            image = nn.functional.pad(image, self.fill)
        return self.project(image).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


class Placed(nn.Module):
    """A sequence with learned positions, and a learned [CLS] vector before it if ``cls``: [N, L or L + 1, width].

    A sequence may be shorter than ``length``; a longer one is refused when it comes.
    """

    def __init__(self, stem: nn.Module, length: int, width: int, cls: bool, dropout: float) -> None:
        super().__init__()
        self.stem = stem
        self.cls = nn.Parameter(SCALE * torch.randn(width)) if cls else None
        self.positions = nn.Parameter(SCALE * torch.randn(length + cls, width))
        self.dropout = Dropout(dropout)

    def forward(self, fields: Fields) -> Tensor:
        x = self.stem(fields)
        if self.cls is not None:
            x = torch.cat([self.cls.expand(x.shape[0], 1, -1), x], 1)
        if x.shape[1] > len(self.positions):
            most = len(self.positions) - (self.cls is not None)
            raise UserError(
                f"encoder=transformer has learned {most} positions, and a sequence has more; a data set's max_length cuts them"
            )
        return self.dropout(x + self.positions[: x.shape[1]])  # type: ignore[no-any-return]
