"""Transformer encoder for tokens and images."""

from math import ceil
from typing import Annotated, Literal

from annotated_types import Ge, Lt
from torch import Tensor, nn

from mtl_runner.batch import Fields, StreamSpec
from mtl_runner.encoders import pooling
from mtl_runner.encoders.attention import Attention, Block, check_heads
from mtl_runner.encoders.base import Dropout, Encoder, FeatureSpec, StreamSpecs
from mtl_runner.encoders.pooling import Pooled
from mtl_runner.encoders.tokens import GRID, SCALE, PatchStem, Placed, only_field, same_length, token_mask
from mtl_runner.encoders.words import Words

POOLINGS: dict[str, pooling.Pooling] = {"cls": pooling.first, "mean": pooling.mean, "none": pooling.everywhere}


class Transformer(Encoder):
    """Each block is a stage: x + A(norm(x)), then x + F(norm(x)), with A multi-head self-attention, F(x) = W₂ gelu(W₁ x).

    Vaswani et al., "Attention is all you need", NeurIPS 2017; for images ViT: Dosovitskiy et al., "An image is worth 16×16
    words", ICLR 2021. Blocks normalise before and not after (ViT; in the paper of 2017 after), and the last stage ends in a
    normalisation and the pooling.

    ``tokens`` become learned vectors (with ``characters`` beside them, see ``words.py``), an image is cut into square patches,
    each of which a matrix maps to a vector; zeros fill the patches at the right and lower edge where the sides are no
    multiples. To these come learned positions, which set the greatest length, and for ``pool: cls`` a learned [CLS] vector in
    front. Nothing attends to padding; an example that is padding alone attends to that.

    Dropout acts where ViT has it: after the positions, after gelu and on what a block adds. Not on the attention's weights, as
    torch's fused attention would take that from the global generator. Initial matrices are Xavier uniform, biases zero,
    vectors of tokens and positions normal with standard deviation 0.02.

    Cost per block and example: 12 d² L multiplications for the matrices at ``feedforward: 4``, and 2 L² d for the attention;
    d the width, L the number of positions.

    Args:
        streams: the input streams; each has ``tokens`` or ``image``.
        width: d, a multiple of ``heads``.
        layers: number of blocks.
        heads: of the attention.
        feedforward: W₁ has ``feedforward`` · d rows.
        dropout: probability of setting an entry to zero in training.
        patch: side of a patch in pixels; null takes the smallest, from 2 on, that gives at most 14 × 14 patches.
        character_size: size of a letter's vector, where streams have ``characters`` beside their tokens.
        character_filters: numbers that are read off the letters of a token; a matrix maps them and its vector to the width.
        word_dropout: probability that a token is read as an unknown one, in training.
        pool: cls (the vector of [CLS]), mean (over all positions that are there) or none (all of them, zero at padding).
    """

    needs = ("tokens", "image")
    any_length = True

    def __init__(
        self,
        streams: StreamSpecs,
        *,
        width: Annotated[int, Ge(1)] = 128,
        layers: Annotated[int, Ge(1)] = 4,
        heads: Annotated[int, Ge(1)] = 4,
        feedforward: Annotated[int, Ge(1)] = 4,
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.1,
        patch: Annotated[int, Ge(1)] | None = None,
        character_size: Annotated[int, Ge(1)] = 32,
        character_filters: Annotated[int, Ge(1)] = 64,
        word_dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        pool: Literal["cls", "mean", "none"] = "cls",
    ) -> None:
        super().__init__(streams)
        only_field(streams, self.needs, "transformer", beside=("characters",))
        check_heads(width, heads)
        self.cls = pool == "cls"
        words = Words(character_size, character_filters, word_dropout)
        stems = {name: _stem(spec, width, patch, self.cls, dropout, words) for name, spec in streams.items()}
        self.stems = nn.ModuleDict(stems)
        self.stages = nn.ModuleList(_block(width, heads, feedforward * width, dropout) for _ in range(layers))
        self.stages[-1] = Pooled(self.stages[-1], POOLINGS[pool], before=nn.LayerNorm(width))
        lengths = [len(stem.positions) for stem in stems.values()]
        self.features = FeatureSpec((same_length(lengths, "transformer"), width) if pool == "none" else (width,))

    def mask(self, fields: Fields) -> Tensor | None:
        """With [CLS], which is always there, in front."""
        mask = token_mask(fields)
        return nn.functional.pad(mask, (1, 0), value=True) if mask is not None and self.cls else mask


def _stem(spec: StreamSpec, width: int, patch: int | None, cls: bool, dropout: float, words: Words) -> Placed:
    """The stem for the tokens or the image of a stream."""
    if "tokens" in spec.fields:
        vectors: nn.Module = words.stem(spec, width, SCALE)
        if "characters" in spec.fields:
            vectors = nn.Sequential(vectors, nn.Linear(width + words.filters, width))
        return Placed(vectors, spec.fields["tokens"][0], width, cls, dropout)
    shape = spec.fields["image"]
    stem = PatchStem(shape, width, patch or max(2, ceil(max(shape[1:]) / GRID)))
    return Placed(stem, stem.length, width, cls, dropout)


def _block(width: int, heads: int, hidden: int, dropout: float) -> Block:
    layers = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), Dropout(dropout), nn.Linear(hidden, width))
    block = Block(Attention(width, heads), layers, width, dropout)
    for module in block.modules():
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
            for square in module.weight.split(width) if module is block.attention.inward else [module.weight]:
                nn.init.xavier_uniform_(square)
    return block
