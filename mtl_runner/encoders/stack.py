"""T modules of one architecture as one: layer by layer where that is faster, one after the other where it is not.

Where a layer is large nothing is won by a single call, and memory is walked in a worse order.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mtl_runner.batch import Fields
from mtl_runner.encoders.base import Dropout, Encoder, SideBySide, run_stages
from mtl_runner.encoders.mlp import ACTIVATIONS, Residual
from mtl_runner.encoders.stacked import (
    Rows,
    Stacked,
    StackedBatchNorm,
    StackedDropout,
    StackedLayerNorm,
    StackedLinear,
    StackedVectorStem,
)
from mtl_runner.encoders.stems import ImageStem, VectorStem

_LARGE = 2**15
"""Entries of a matrix beyond which T products in one call take longer than one by one."""
_ALIKE: tuple[type[nn.Module], ...] = (nn.Identity, *(type(make()) for make in ACTIVATIONS.values()))
"""Layers that keep nothing and look at each number by itself."""


class StackedSequence(Stacked):
    """T chains of layers; a layer that is the same for all, as an activation, is there once."""

    def __init__(self, chains: Sequence[nn.Sequential]) -> None:
        super().__init__(len(chains))
        self.layers = nn.ModuleList(stack(layers) for layers in zip(*chains, strict=True))

    def forward(self, x: Any, mask: Tensor | None = None, apart: bool = False, rows: Rows = None) -> Tensor:
        for layer in self.layers:
            if isinstance(layer, Stacked):
                x, apart = layer(x, mask, apart, rows), True
            else:
                x = layer(x)
        return x if apart else x.expand(self.length(rows), *x.shape)  # type: ignore[no-any-return]

    def each(self) -> list[Tensor]:
        return [values for layer in self.layers for values in each(layer)]


class StackedResidual(Stacked):
    """T residual layers, x + layers(x)."""

    def __init__(self, layers: Sequence[Residual]) -> None:
        super().__init__(len(layers))
        self.layers = StackedSequence([layer.layers for layer in layers])

    def forward(self, x: Tensor, mask: Tensor | None = None, apart: bool = False, rows: Rows = None) -> Tensor:
        return x + self.layers(x, mask, apart, rows)  # type: ignore[no-any-return]

    def each(self) -> list[Tensor]:
        return self.layers.each()


class OneByOne(Stacked):
    """T modules one after the other."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__(len(parts))
        self.parts = SideBySide(parts)

    def forward(self, x: Any, mask: Tensor | None = None, apart: bool = False, rows: Rows = None) -> Tensor:
        parts = self.parts if rows is None else [self.parts[row] for row in rows]
        inputs = x.unbind() if apart else [x] * len(parts)
        more = () if mask is None else (mask,)
        return torch.stack([part(value, *more) for part, value in zip(parts, inputs, strict=True)])

    def each(self) -> list[Tensor]:
        return [torch.stack(same) for same in zip(*(part.parameters() for part in self.parts), strict=True)]


_FORMS: dict[type[nn.Module], Callable[..., Stacked]] = {
    nn.Linear: StackedLinear,
    nn.LayerNorm: StackedLayerNorm,
    nn.BatchNorm1d: StackedBatchNorm,
    Dropout: StackedDropout,
    VectorStem: StackedVectorStem,
    nn.Sequential: StackedSequence,
    Residual: StackedResidual,
}


def stack(modules: Sequence[nn.Module]) -> nn.Module:
    """T modules of one architecture as one ``Stacked``; a layer that is the same for all as itself.

    The modules are used up: their parameters are copied, or they become part of the result.
    """
    first = modules[0]
    if _alike(first):
        return first
    return _FORMS[type(first)](modules) if _small(first) else OneByOne(modules)


def each(module: nn.Module) -> list[Tensor]:
    """The T values [T, …] of each parameter, of what ``stack`` gave."""
    return module.each() if isinstance(module, Stacked) else []


def run(module: nn.Module, x: Any, mask: Tensor | None, apart: bool, rows: Rows = None) -> tuple[Tensor, bool]:
    """What ``stack`` gave on ``x``, and whether the result is [T, N, …]."""
    if isinstance(module, Stacked):
        return module(x, mask, apart, rows), True
    return module(x), apart


def _alike(module: nn.Module) -> bool:
    if isinstance(module, VectorStem | ImageStem):
        return not list(module.parameters())
    return isinstance(module, _ALIKE)


def _small(module: nn.Module) -> bool:
    """Whether every layer has a stacked form that is worth it."""
    if type(module) in (nn.Sequential, Residual):
        return all(_alike(layer) or _small(layer) for layer in module.children())
    return type(module) in _FORMS and not (isinstance(module, nn.Linear) and module.weight.numel() > _LARGE)


def emptied(encoder: Encoder) -> Encoder:
    """The encoder without its layers, for what else it knows."""
    encoder.stems, encoder.stages = nn.ModuleDict(), nn.ModuleList()
    return encoder


class EncoderStack(nn.Module):
    """T encoders of one architecture that read one stream.

    Args:
        encoders: made for the stream alone; they are used up.
        stream: its name.
    """

    def __init__(self, encoders: Sequence[Encoder], stream: str) -> None:
        super().__init__()
        self.stream = stream
        self.count = len(encoders)
        self.features = encoders[0].features
        self.stem = stack([encoder.stems[stream] for encoder in encoders])
        self.stages = nn.ModuleList(stack(stages) for stages in zip(*(encoder.stages for encoder in encoders), strict=True))
        self.architecture = emptied(encoders[0])

    def mask(self, fields: Fields) -> Tensor | None:
        return self.architecture.mask(fields)

    def forward(self, fields: Fields) -> Tensor:
        """Features [T, N, …]."""
        mask = self.mask(fields)
        if self.apart_all_the_way:
            return self._one_by_one(fields, mask)
        x, apart = run(self.stem, fields, None, False)
        for stage in self.stages:
            x, apart = run(stage, x, mask, apart)
        return x if apart else x.expand(self.count, *x.shape)

    @property
    def apart_all_the_way(self) -> bool:
        """Whether each network may run from its first stage to its last before the next begins, which caches like."""
        return all(isinstance(stage, OneByOne) for stage in self.stages)

    def _one_by_one(self, fields: Fields, mask: Tensor | None) -> Tensor:
        x, apart = run(self.stem, fields, None, False)
        inputs = x.unbind() if apart else [x] * self.count
        chains = zip(*(stage.parts for stage in self.stages), strict=True)
        return torch.stack([run_stages(chain, value, mask) for chain, value in zip(chains, inputs, strict=True)])

    def each_stage(self) -> list[list[Tensor]]:
        """For each stage the T values [T, …] of each of its parameters."""
        return [each(stage) for stage in self.stages]

    def each_stem(self) -> list[Tensor]:
        """The T values [T, …] of each parameter of the stem."""
        return each(self.stem)
