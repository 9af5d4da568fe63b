"""No sharing: the single-task baseline."""

from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn

from mtl_runner.batch import Fields
from mtl_runner.encoders.base import Encoder, EncoderFactory
from mtl_runner.sharing.base import Boundary, Sharing


class Separate(Sharing):
    """One network per task.

    Nothing is computed together, so the trunk is empty. Base of the modes in which every task has an encoder of its own.
    """

    has_shared = False

    def __init__(self, encoder: EncoderFactory, streams: Mapping[str, str]) -> None:
        super().__init__(encoder, streams)
        self.networks = nn.ModuleList(encoder([stream], task) for task, stream in streams.items())
        self.features = self.encoders()[0].features
        self._index = {task: i for i, task in enumerate(streams)}

    def trunk(self, inputs: Mapping[str, Fields]) -> Boundary:
        return ()

    def branch(self, task: str, boundary: Boundary, inputs: Mapping[str, Fields]) -> Tensor:
        stream = self.streams[task]
        return self.networks[self._index[task]](stream, inputs[stream])  # type: ignore[no-any-return]

    def encoders(self) -> list[Encoder]:
        return cast(list[Encoder], list(self.networks))


class NoSharing(Separate):
    """Single-task training of every task in one run.

    Weighting is ``equal``; clipping, learning-rate schedule, early stopping and best weights act per network, and each
    network's initial weights and dropout masks depend on its task's name: a task trains, bit for bit on the CPU,
    as it would in a run of its own.
    """

    independent = True

    def network(self, task: str) -> nn.Module:
        return self.networks[self._index[task]]
