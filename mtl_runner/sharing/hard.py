"""Hard parameter sharing."""

from collections.abc import Hashable, Mapping
from typing import Annotated

from annotated_types import Ge, Le
from torch import Tensor, nn

from mtl_runner.batch import Fields
from mtl_runner.encoders.base import Encoder, EncoderFactory, run_stages
from mtl_runner.sharing.base import Boundary, Sharing


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
        self.order = sorted(set(streams.values()))
        self.encoder = encoder(self.order, "shared")
        stages = len(self.encoder.stages)
        self.depth = round(shared_stages * stages)
        self.features = self.encoder.features
        self.own = nn.ModuleList()
        if self.depth < stages:
            # made for all streams, as their stems may end in another shape where there are several
            self.own.extend(encoder(self.order, task).stages[self.depth :] for task in streams)
            self.encoder.stages = self.encoder.stages[: self.depth]
        self._index = {task: i for i, task in enumerate(streams)}

    def trunk(self, inputs: Mapping[str, Fields]) -> Boundary:
        return tuple(self.encoder(stream, inputs[stream]) for stream in self.order)

    def branch(self, task: str, boundary: Boundary, inputs: Mapping[str, Fields]) -> Tensor:
        x = boundary[self.order.index(self.streams[task])]
        return run_stages(self.own[self._index[task]], x) if len(self.own) else x  # type: ignore[arg-type]

    def together(self, task: str) -> Hashable:
        return task if len(self.own) else self.streams[task]

    def shared(self) -> list[nn.Parameter]:
        if len(self.streams) < 2:
            return []
        readers = list(self.streams.values())
        stems = [self.encoder.stems[stream] for stream in self.order if readers.count(stream) > 1]
        return [parameter for module in (*stems, self.encoder.stages) for parameter in module.parameters()]

    def encoders(self) -> list[Encoder]:
        return [self.encoder]
