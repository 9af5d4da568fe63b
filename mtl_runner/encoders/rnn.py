"""Recurrent networks for tokens and for images that are read row by row."""

import functools
from typing import Annotated, Literal, cast

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn

from mtl_runner.batch import Fields, StreamSpec
from mtl_runner.encoders import pooling
from mtl_runner.encoders.base import Dropout, Encoder, FeatureSpec, SideBySide, StreamSpecs
from mtl_runner.encoders.pooling import Pooled, Pooling
from mtl_runner.encoders.tokens import RowStem, only_field, same_length, token_mask
from mtl_runner.encoders.words import Words

CELLS: dict[str, type[nn.GRU] | type[nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}


class RNN(Encoder):
    """Each layer is a stage: a GRU or an LSTM over the whole sequence, one way or both ways side by side.

    LSTM: Hochreiter & Schmidhuber, "Long short-term memory", Neural Computation 1997; GRU: Cho et al., "Learning phrase
    representations using RNN encoder–decoder", EMNLP 2014; both ways: Schuster & Paliwal, "Bidirectional recurrent neural
    networks", IEEE Transactions on Signal Processing 1997.

    ``tokens`` become learned vectors, that of padding zero; where a stream has ``characters``, too, what is read off a token's
    letters stands beside them (``words.py``). An image is a sequence of rows with channels · width numbers each.
    Both directions skip padding, wherever it stands, so that an example's features are those it has without it; the output at
    padding is zero. The last stage ends in the pooling. Initial weights are torch's: uniform within ±1 / √width, also the biases
    (an LSTM's forget gate starts half open).

    Cost per layer, example and direction: L · 3 · width · (inputs + width) multiplications (LSTM: 4 in place of 3), one position
    after the other; L positions. With padding each layer sorts the positions, which costs little beside this.

    Args:
        streams: the input streams; each has ``tokens`` or ``image``.
        cell: gru or lstm.
        layers: number of layers.
        width: units of a layer in one direction.
        bidirectional: read each sequence in both directions; the output is then twice as wide.
        dropout: probability of setting an output of a layer to zero before the next one reads it, in training.
        embedding_size: size of a token's vector; also of a row's where streams have rows of different width, or tokens beside.
        character_size: size of a letter's vector, where streams have ``characters`` beside their tokens.
        character_filters: numbers that are read off the letters of a token, beside its own vector.
        word_dropout: probability that a token is read as an unknown one, in training.
        input_dropout: probability of setting an entry of what the first layer reads to zero, in training; of tokens only.
        pool: last (the last state of each direction), mean or max over the positions, none (all of them, zero at padding).
    """

    needs = ("tokens", "image")
    any_length = True

    def __init__(
        self,
        streams: StreamSpecs,
        *,
        cell: Literal["gru", "lstm"] = "gru",
        layers: Annotated[int, Ge(1)] = 2,
        width: Annotated[int, Ge(1)] = 128,
        bidirectional: bool = True,
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        embedding_size: Annotated[int, Ge(1)] = 128,
        character_size: Annotated[int, Ge(1)] = 32,
        character_filters: Annotated[int, Ge(1)] = 64,
        word_dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        input_dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        pool: Literal["last", "mean", "max", "none"] = "last",
    ) -> None:
        super().__init__(streams)
        field = only_field(streams, self.needs, "rnn", beside=("characters",))
        self.stems = nn.ModuleDict()
        rows = {spec.fields["image"][0] * spec.fields["image"][2] for spec in streams.values() if "image" in spec.fields}
        inputs = rows.pop() if len(rows) == 1 and "tokens" not in field.values() else embedding_size
        inputs += character_filters * any("characters" in spec.fields for spec in streams.values())
        words = Words(character_size, character_filters, word_dropout, input_dropout)
        for name, spec in streams.items():
            self.stems[name] = _word_stem(spec, inputs, words) if "tokens" in spec.fields else _row_stem(spec, inputs)
        directions = 2 if bidirectional else 1
        self.stages = nn.ModuleList()
        for layer in range(layers):
            before = inputs if layer == 0 else directions * width
            self.stages.append(Recurrent(cell, before, width, directions, dropout if layer else 0.0))
        self.stages[-1] = Pooled(self.stages[-1], _pooling(pool, width))
        lengths = [spec.fields[field[name]][-2 if field[name] == "image" else 0] for name, spec in streams.items()]
        shape = (directions * width,)
        self.features = FeatureSpec((same_length(lengths, "rnn"), *shape) if pool == "none" else shape)

    def mask(self, fields: Fields) -> Tensor | None:
        return token_mask(fields)


class Recurrent(nn.Module):
    """One layer: x [N, L, inputs] to [N, L, directions · width]."""

    def __init__(self, cell: str, inputs: int, width: int, directions: int, dropout: float) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.ways = SideBySide(CELLS[cell](inputs, width, batch_first=True) for _ in range(directions))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.dropout(x)
        if mask is None:
            outputs = [_run(way, x.flip(1)).flip(1) if backward else _run(way, x) for backward, way in enumerate(self.ways)]
            return torch.cat(outputs, -1)
        outputs = []
        for backward, way in enumerate(self.ways):
            order = reading_order(mask, backward=bool(backward))
            outputs.append(_reordered(_run(way, _reordered(x, order)), order.argsort(1)))
        return pooling.everywhere(torch.cat(outputs, -1), mask)


def reading_order(mask: Tensor, backward: bool) -> Tensor:
    """[N, L]: the positions that are there from the first to the last, or ``backward``, then the others."""
    position = torch.arange(mask.shape[1], device=mask.device)
    key = torch.where(mask, -position if backward else position, mask.shape[1])
    return key.argsort(1)


def _reordered(x: Tensor, order: Tensor) -> Tensor:
    return x.gather(1, order.unsqueeze(-1).expand(-1, -1, x.shape[2]))


def _run(cell: nn.Module, x: Tensor) -> Tensor:
    """The outputs at all positions.

    The fused forms on GPUs have no backward pass in evaluation mode, which a frozen layer above a trained one needs.
    """
    assert isinstance(cell, nn.GRU | nn.LSTM)
    if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):  # torch's LSTM with 16 bits fails on CPUs without instructions for them
            return _run(cell, x.float())
    weights = cast(list[Tensor], cell.all_weights[0])
    start = x.new_zeros(1, x.shape[0], cell.hidden_size)
    options = (weights, True, 1, 0.0, torch.is_grad_enabled(), False, True)
    return torch.lstm(x, (start, start), *options)[0] if isinstance(cell, nn.LSTM) else torch.gru(x, start, *options)[0]


def _word_stem(spec: StreamSpec, width: int, words: Words) -> nn.Module:
    """Beside a stream whose tokens have letters, the vectors of one without them are as large as both."""
    return words.stem(spec, width - words.filters * ("characters" in spec.fields))


def _row_stem(spec: StreamSpec, width: int) -> nn.Module:
    channels, _, row = spec.fields["image"]
    return RowStem() if channels * row == width else nn.Sequential(RowStem(), nn.Linear(channels * row, width))


def _pooling(pool: str, width: int) -> Pooling:
    if pool == "last":
        return functools.partial(_last, width=width)
    return {"mean": pooling.mean, "max": pooling.largest, "none": pooling.everywhere}[pool]


def _last(x: Tensor, mask: Tensor | None, width: int) -> Tensor:
    """The forward half at the last position that is there, the backward half at the first."""
    forward, backward = x[..., :width], x[..., width:]
    if mask is None:
        return torch.cat([forward[:, -1], backward[:, 0]], -1)
    position = torch.arange(mask.shape[1], device=mask.device)
    end, start = torch.where(mask, position, 0).amax(1), torch.where(mask, position, len(position) - 1).amin(1)
    return torch.cat([pooling.at(forward, end), pooling.at(backward, start)], -1)
