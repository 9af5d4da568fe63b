"""Hard parameter sharing."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from annotated_types import Ge, Le
from torch import Tensor, nn

from mtl_runner.encoders.base import EncoderFactory
from mtl_runner.encoders.stack import run, stack
from mtl_runner.sharing.base import Boundary, Inputs, Sharing, shared_by_several


class Hard(Sharing):
    """One encoder for all tasks up to some stage, then each task's own stages, then the heads.

    Caruana, Multitask Learning, Machine Learning 28, 1997.

    Args:
        encoder: builds encoders of the chosen architecture.
        streams: the input stream of each task.
        shared_stages: proportion of the encoder's stages that is shared, rounded to whole stages; 1 shares them all, 0
            only the stem (the embeddings of a table).
    """

    def __init__(
        self, encoder: EncoderFactory, streams: Mapping[str, str], *, shared_stages: Annotated[float, Ge(0), Le(1)] = 1.0
    ) -> None:
        super().__init__(encoder, streams)
        self.encoder = encoder(self.order, "shared")
        self.features = self.encoder.features
        depth = round(shared_stages * len(self.encoder.stages))
        # made for all streams, as their stems may end in another shape where there are several
        rest = [encoder(self.order, task).stages[depth:] for task in streams] if depth < len(self.encoder.stages) else []
        self.encoder.stages = self.encoder.stages[:depth]
        self.own = nn.ModuleList(stack(stages) for stages in zip(*rest, strict=True))

    def trunk(self, inputs: Inputs) -> Boundary:
        return tuple(self.encoder(stream, inputs[stream]) for stream in self.order)

    def branch(self, tasks: Sequence[str], boundary: Boundary, inputs: Inputs, apart: bool = False) -> Tensor:
        stream = self.streams[tasks[0]]
        x, mask = boundary[self.order.index(stream)], self.encoder.mask(inputs[stream])
        for stage in self.own:
            x, apart = run(stage, x, mask, apart, self.rows(tasks))
        return x

    def shared(self) -> list[nn.Parameter]:
        return shared_by_several(self.encoder, self.streams)
