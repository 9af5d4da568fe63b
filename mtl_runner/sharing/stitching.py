"""Networks side by side whose stages are mixed: what cross-stitch networks, sluice networks and learning to branch share.

Shape legend: T networks, N examples.
"""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from mtl_runner.encoders.base import EncoderFactory
from mtl_runner.encoders.stack import EncoderStack, run
from mtl_runner.encoders.stacked import Rows
from mtl_runner.sharing.base import Inputs, Sharing


class StitchedNetworks(Sharing):
    """A network for each task, whose stages run side by side, with a mixture of the tasks between two stages.

    Args:
        encoder: builds encoders of the chosen architecture.
        streams: the input stream of each task.
    """

    one_stream = "it mixes what the tasks' networks make of the same examples"

    def __init__(self, encoder: EncoderFactory, streams: Mapping[str, str]) -> None:
        super().__init__(encoder, streams)
        networks = [encoder(self.order, task) for task in streams]
        self.shapes = networks[0].shapes()[1:]
        """Of one example, after each stage."""
        self.networks = EncoderStack(networks, self.order[0])
        self.features = self.networks.features

    def mask(self, inputs: Inputs) -> Tensor | None:
        return self.networks.mask(inputs[self.order[0]])

    def through(self, inputs: Inputs, depth: int, mix: Callable[[int, Tensor], Tensor]) -> Tensor:
        """What the stage before ``depth`` gives, [T, N, …]; ``mix(k, x)`` mixes what stage k gives for the next one."""
        mask, count = self.mask(inputs), len(self.tasks)
        x, apart = run(self.networks.stem, inputs[self.order[0]], None, False)
        for number, stage in enumerate(self.networks.stages[:depth]):
            x = side_by_side(stage, mix(number - 1, x) if number else x, mask, apart, count)
            apart = True
        return x

    def of_the_networks(self, depth: int) -> list[nn.Parameter]:
        """The parameters of stem and stages before ``depth``."""
        return [parameter for part in (self.networks.stem, *self.networks.stages[:depth]) for parameter in part.parameters()]

    def way(self) -> list[nn.Module]:
        return [self.networks.stem, self.networks.stages]


def side_by_side(stage: nn.Module, x: Tensor, mask: Tensor | None, apart: bool, count: int, rows: Rows = None) -> Tensor:
    """[T, N, …] from what ``stack`` gave, also where this is the same for all T and so is ``x``."""
    x, apart = run(stage, x, mask, apart, rows)
    return x if apart else x.expand(count, *x.shape)


def mixed(weights: Tensor, x: Tensor) -> Tensor:
    """Σ_j weights_ij x_j for each i: [A, …] from [A, B] and [B, …]."""
    return (weights @ x.flatten(1)).view(len(weights), *x.shape[1:])
