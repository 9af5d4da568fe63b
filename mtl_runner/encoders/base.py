"""What an encoder is made of: a stem for each input stream, then stages."""

from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from mtl_runner.batch import Fields, StreamSpec, example
from mtl_runner.seeding import Draws

StreamSpecs = Mapping[str, StreamSpec]


@dataclass(frozen=True)
class FeatureSpec:
    """What an encoder hands to the heads, per example."""

    shape: tuple[int, ...]
    """(width,) of a vector, (length, width) of a sequence, (channels, height, width) of a map."""


class Encoder(nn.Module, ABC):
    """``stage_n(… stage_1(stem(fields)))``.

    A stem turns one stream's fields into a tensor; every stream has its own, all of the same output shape. The
    stages are the same for all streams. A subclass fills ``stems``, ``stages`` and ``features`` in its constructor,
    which takes the streams first and its options as keywords.

    A stage takes one tensor and gives one, with the examples along the first dimension, so that a sharing mode may put
    anything between two stages; where ``mask`` gives a mask, stages take it as a second argument.

    Args:
        streams: the input streams.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    """The fields of which it reads one or several, where it does not take any."""
    any_length: ClassVar[bool] = False
    """Whether sequences may come without the padding that all examples of a batch end in: their features are the same."""
    initial: ClassVar[tuple[str, ...]] = ()
    """Options that name files of initial weights, which a model that was trained can do without."""
    stems: nn.ModuleDict
    stages: nn.ModuleList
    features: FeatureSpec

    def __init__(self, streams: StreamSpecs) -> None:
        super().__init__()
        self.streams = dict(streams)

    def stem(self, stream: str, fields: Fields) -> Tensor:
        return self.stems[stream](fields)  # type: ignore[no-any-return]

    def forward(self, stream: str, fields: Fields) -> Tensor:
        """Features of one stream, [N, …]."""
        return run_stages(self.stages, self.stem(stream, fields), self.mask(fields))

    def mask(self, fields: Fields) -> Tensor | None:
        """Boolean [N, length]: which positions of a sequence are there; None where all are, or there are none."""
        return None

    def shapes(self) -> list[tuple[int, ...]]:
        """Shape of one example after the stem and after each stage; one more than there are stages."""
        stream, spec = next(iter(self.streams.items()))
        fields = {name: value.to(next(self.parameters(), value).device) for name, value in example(spec).items()}
        training = self.training
        with torch.no_grad():
            self.eval()
            values = [self.stem(stream, fields)]
            for stage in self.stages:
                values.append(run_stages([stage], values[-1], self.mask(fields)))
            self.train(training)
        return [tuple(value.shape[1:]) for value in values]

    def train(self, mode: bool = True) -> Self:
        """A frozen stem or stage stays in evaluation mode: it drops nothing, and its batch statistics do not move."""
        super().train(mode)
        for part in (*self.stems.values(), *self.stages):
            parameters = list(part.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                part.eval()
        return self


class SideBySide(nn.ModuleList):
    """Modules none of which reads what another gives; in a list of any other kind each comes after the one before."""


def run_stages(stages: nn.ModuleList | Sequence[nn.Module], x: Tensor, mask: Tensor | None = None) -> Tensor:
    """The stages, one after the other."""
    for stage in stages:
        x = stage(x) if mask is None else stage(x, mask)
    return x


class EncoderFactory(Protocol):
    """Builds encoders of one architecture; the same ``name`` always gets the same initial weights."""

    def __call__(self, streams: Sequence[str], name: str) -> Encoder: ...


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
