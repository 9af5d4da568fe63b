"""What an encoder is made of: a stem for each input stream, then stages."""

from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from mtl_runner.batch import Fields, StreamSpec
from mtl_runner.seeding import Draws


@dataclass(frozen=True)
class FeatureSpec:
    """What an encoder hands to the heads, per example."""

    shape: tuple[int, ...]


class Encoder(nn.Module, ABC):
    """``stage_n(… stage_1(stem(fields)))``.

    A stem turns one stream's fields into a tensor; every stream has its own, all of the same output shape. The
    stages are the same for all streams. A subclass fills ``stems``, ``stages`` and ``features`` in its constructor,
    which takes the streams first and its options as keywords.
    """

    needs: ClassVar[str | None] = None
    """The one field that it reads, where it does not take any."""
    stems: nn.ModuleDict
    stages: nn.ModuleList
    features: FeatureSpec

    def stem(self, stream: str, fields: Fields) -> Tensor:
        return self.stems[stream](fields)  # type: ignore[no-any-return]

    def forward(self, stream: str, fields: Fields) -> Tensor:
        """Features of one stream, [N, …]."""
        return run_stages(self.stages, self.stem(stream, fields))

    def train(self, mode: bool = True) -> Self:
        """A frozen stem or stage stays in evaluation mode: it drops nothing, and its batch statistics do not move."""
        super().train(mode)
        for part in (*self.stems.values(), *self.stages):
            parameters = list(part.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                part.eval()
        return self


def run_stages(stages: nn.ModuleList | Sequence[nn.Module], x: Tensor) -> Tensor:
    """The stages, one after the other."""
    for stage in stages:
        x = stage(x)
    return x


class EncoderFactory(Protocol):
    """Builds encoders of one architecture; the same ``name`` always gets the same initial weights."""

    def __call__(self, streams: Sequence[str], name: str) -> Encoder: ...


StreamSpecs = Mapping[str, StreamSpec]


class Dropout(Draws):
    """Sets entries to zero with probability ``p`` and scales the others by 1 / (1 - p), in training only.

    The masks of one network do not depend on which other networks run beside it, and a resumed run goes on with the mask
    that an uninterrupted one would have drawn.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        keep = torch.empty_like(x).bernoulli_(1 - self.p, generator=self.generator(x.device))
        return x * keep / (1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"
