"""Transformer over the columns of a table."""

from typing import Annotated

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn

from mtl_runner.batch import Fields, StreamSpec
from mtl_runner.encoders import pooling
from mtl_runner.encoders.attention import Attention, Block, check_heads
from mtl_runner.encoders.base import Dropout, Encoder, FeatureSpec, StreamSpecs
from mtl_runner.encoders.pooling import Pooled
from mtl_runner.errors import NotApplicable, choices


class FTTransformer(Encoder):
    """FT-Transformer: each column becomes a vector, and Transformer blocks, which are the stages, run over the columns.

    Column j with the number x becomes x · w_j + b_j, with the category c the vector of c, plus b_j; in front comes a learned
    vector [CLS]. A block is x + A(norm(x)), then x + F(norm(x)): A multi-head self-attention, F(x) = W₂ reglu(W₁ x) with
    reglu(a, b) = a · relu(b); the first block's attention reads what is not normalised. The last stage ends in
    relu(norm([CLS])), which the heads read. Gorishniy et al., "Revisiting deep learning models for tabular data", NeurIPS 2021.

    Defaults are those of the paper (Appendix E) for 3 blocks. It differs from it in that a category that training does not know
    has the vector 0, to which no gradient goes; and the last block computes all columns, where [CLS] would do.

    Cost per block and example: d (4 d + 3 · hidden) (K + 1) multiplications for the matrices and 2 (K + 1)² d for the
    attention; d the width, K the number of columns.

    Args:
        streams: the input streams; each has ``numeric`` or ``categorical`` or both.
        width: d, a multiple of ``heads``.
        layers: number of blocks.
        heads: of the attention.
        hidden: width inside F; the paper has 4/3 · d.
        attention_dropout: probability of setting an attention weight to zero in training.
        hidden_dropout: the same after reglu.
        dropout: the same on what a block adds.
    """

    needs = ("numeric", "categorical")

    def __init__(
        self,
        streams: StreamSpecs,
        *,
        width: Annotated[int, Ge(1)] = 192,
        layers: Annotated[int, Ge(1)] = 3,
        heads: Annotated[int, Ge(1)] = 8,
        hidden: Annotated[int, Ge(1)] = 256,
        attention_dropout: Annotated[float, Ge(0), Lt(1)] = 0.2,
        hidden_dropout: Annotated[float, Ge(0), Lt(1)] = 0.1,
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
    ) -> None:
        super().__init__(streams)
        check_heads(width, heads)
        self.stems = nn.ModuleDict({name: FeatureTokenizer(spec, width) for name, spec in streams.items()})
        self.stages = nn.ModuleList()
        for layer in range(layers):
            attention = Attention(width, heads, attention_dropout)
            for part in (attention.inward, attention.outward):
                nn.init.zeros_(part.bias)
            gated = nn.Sequential(nn.Linear(width, 2 * hidden), ReGLU(), Dropout(hidden_dropout), nn.Linear(hidden, width))
            self.stages.append(Block(attention, gated, width, dropout, normalize=layer > 0))
        self.stages[-1] = Pooled(self.stages[-1], pooling.first, after=nn.Sequential(nn.LayerNorm(width), nn.ReLU()))
        self.features = FeatureSpec((width,))


class FeatureTokenizer(nn.Module):
    """[CLS], then a vector for each column: numbers first, then categories; [N, 1 + K, width]."""

    offsets: Tensor

    def __init__(self, spec: StreamSpec, width: int) -> None:
        super().__init__()
        self.numbers = spec.fields.get("numeric", (0,))[0]
        categories = len(spec.cardinalities)
        if set(spec.fields) - set(FTTransformer.needs) or not self.numbers + categories:
            given = choices(spec.fields) if set(spec.fields) - set(FTTransformer.needs) else "no column"
            raise NotApplicable(
                f"encoder=ft_transformer reads columns of a table, and the data set gives {given}; see encoder=mlp"
            )
        first = torch.tensor([0, *spec.cardinalities]).cumsum(0)
        self.register_buffer("offsets", first[:-1].clone(), persistent=False)
        self.cls = _vectors(1, width)
        self.weight = _vectors(self.numbers, width) if self.numbers else None
        self.table = _vectors(int(first[-1]), width) if categories else None
        self.bias = _vectors(self.numbers + categories, width)

    def forward(self, fields: Fields) -> Tensor:
        columns = []
        if self.weight is not None:
            columns.append(fields["numeric"].unsqueeze(-1) * self.weight)
        if self.table is not None:
            index = fields["categorical"]
            columns.append(nn.functional.embedding(index + self.offsets, self.table) * (index != 0).unsqueeze(-1))
        x = torch.cat(columns, 1) + self.bias
        return torch.cat([self.cls.expand(x.shape[0], 1, -1), x], 1)


class ReGLU(nn.Module):
    """The first half of the numbers times the positive part of the second: Shazeer, "GLU variants improve Transformer", 2020."""

    def forward(self, x: Tensor) -> Tensor:
        value, gate = x.chunk(2, -1)
        return value * gate.relu()


def _vectors(count: int, width: int) -> nn.Parameter:
    """Uniform within ±1 / √width."""
    return nn.Parameter(torch.empty(count, width).uniform_(-(width**-0.5), width**-0.5))
