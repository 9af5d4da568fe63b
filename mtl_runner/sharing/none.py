"""No sharing: the single-task baseline."""

from collections.abc import Hashable, Mapping, Sequence

from torch import Tensor, nn

from mtl_runner.encoders.base import EncoderFactory
from mtl_runner.sharing.base import Boundary, Inputs, Sharing


class NoSharing(Sharing):
    """One network per task: single-task training of every task in one run.

    Weighting is ``equal``; clipping, learning-rate schedule, early stopping and best weights act per network, and each
    network's initial weights and dropout masks depend on its task's name: a task trains, bit for bit on the CPU,
    as it would in a run of its own.

    Args:
        encoder: builds encoders of the chosen architecture.
        streams: the input stream of each task.
    """

    has_shared = False
    independent = True

    def __init__(self, encoder: EncoderFactory, streams: Mapping[str, str]) -> None:
        super().__init__(encoder, streams)
        networks = [encoder([stream], task) for task, stream in streams.items()]
        self.networks = nn.ModuleList(networks)
        self.features = networks[0].features

    def trunk(self, inputs: Inputs) -> Boundary:
        """Nothing is computed together."""
        return ()

    def branch(self, tasks: Sequence[str], boundary: Boundary, inputs: Inputs, apart: bool = False) -> Tensor:
        (task,) = tasks
        stream = self.streams[task]
        return self.network(task)(stream, inputs[stream])  # type: ignore[no-any-return]

    def together(self, task: str) -> Hashable:
        return task

    def network(self, task: str) -> nn.Module:
        return self.networks[self.place[task]]
