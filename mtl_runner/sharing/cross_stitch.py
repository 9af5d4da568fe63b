"""Cross-stitch networks."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from mtl_runner.encoders.base import EncoderFactory
from mtl_runner.encoders.stack import run
from mtl_runner.encoders.stacked import Rows, chosen
from mtl_runner.errors import NotApplicable
from mtl_runner.sharing.base import Boundary, Inputs, Table
from mtl_runner.sharing.channels import channel_axis
from mtl_runner.sharing.stitching import StitchedNetworks, mixed


class CrossStitch(StitchedNetworks):
    """One network per task; after each stage, every network goes on with a linear combination of all of them:

    x̃_i = Σ_j α_ij x_j

    with x_j [N, …] what the stage of task j's network gives, and α [T, T] of each stage trained with the rest. Misra et al.,
    Cross-stitch networks for multi-task learning, CVPR 2016. ``per_channel`` gives each channel (unit of a vector or a
    sequence, map of an image) an α of its own, [T, T, C], all of which start alike. There is a stitch after each stage, also
    after the last, as in the paper, which stitches AlexNet after every pooling and fully connected layer.

    Departures: networks start from their own random weights, or all from the same pretrained ones, and not from networks
    trained on single tasks; α has the learning rate of everything else, the paper's is larger by 10² to 10³.

    With ``own: 1`` the networks are at first those of ``sharing=none``, and with ``train_stitches: false`` they stay apart.
    A task alone has no stitch.

    Cost: that of T networks, and T² multiplications per number that a network's stage gives and T.

    Args:
        encoder: builds encoders of the chosen architecture.
        streams: the input stream of each task; they have to be the same.
        own: initial α_ii; the others share the rest, α_ij = (1 - own) / (T - 1).
        per_channel: an α for each channel.
        last: whether there is a stitch after the last stage, too. Without it the last stage of each network is its task's own.
        train_stitches: whether α is trained.
    """

    def __init__(
        self,
        encoder: EncoderFactory,
        streams: Mapping[str, str],
        *,
        own: Annotated[float, Ge(0), Le(1)] = 0.9,
        per_channel: bool = False,
        last: bool = True,
        train_stitches: bool = True,
    ) -> None:
        super().__init__(encoder, streams)
        tasks, stages = len(streams), len(self.shapes)
        self.depth = stages if last or tasks == 1 else stages - 1
        """Number of stages after which there is a stitch; the last of these stitches is in the branches."""
        if self.depth == 0:
            raise NotApplicable(
                "sharing.last=false: the encoder has one stage, after which there would be no stitch; true has one"
            )
        self.axes = [channel_axis(shape) for shape in self.shapes]
        self.stitches = nn.ParameterList()
        for shape, axis in zip(self.shapes[: self.depth], self.axes, strict=False):
            if tasks > 1:
                start = torch.full((tasks, tasks), (1 - own) / (tasks - 1)).fill_diagonal_(own)
                values = start.unsqueeze(-1).repeat(1, 1, shape[axis]) if per_channel else start
                self.stitches.append(nn.Parameter(values, train_stitches))

    def trunk(self, inputs: Inputs) -> Boundary:
        """What the last stage before a stitch gives, [T, N, …]."""
        return (self.through(inputs, self.depth, self._mix),)

    def branch(self, tasks: Sequence[str], boundary: Boundary, inputs: Inputs, apart: bool = False) -> Tensor:
        (x,), rows = boundary, self.rows(tasks)
        x = self._mix_apart(x, rows) if apart else self._mix(self.depth - 1, x, rows)
        for stage in self.networks.stages[self.depth :]:
            x, _ = run(stage, x, self.mask(inputs), True, rows)
        return x

    def _mix(self, number: int, x: Tensor, rows: Rows = None) -> Tensor:
        """The rows of x̃ after a stage, from x [T, N, …]."""
        if not self.stitches:
            return x
        weights, axis = chosen(self.stitches[number], rows), self.axes[number]
        if weights.ndim == 2:
            return mixed(weights, x)
        by_channel = x.movedim(axis, 0)
        product: Tensor = weights.movedim(2, 0) @ by_channel.flatten(2)
        return torch.unflatten(product, 2, by_channel.shape[2:]).movedim(0, axis)

    def _mix_apart(self, x: Tensor, rows: Rows) -> Tensor:
        """The same after the last stitch, for each row from a copy of its own, [rows, T, N, …]."""
        if not self.stitches:
            return x[:, 0]
        weights, axis = chosen(self.stitches[-1], rows), self.axes[self.depth - 1]
        if weights.ndim == 2:
            return torch.einsum("ij,ij...->i...", weights, x)
        return torch.einsum("ijc,ij...c->i...c", weights, x.movedim(axis, -1)).movedim(-1, axis)

    def shared(self) -> list[nn.Parameter]:
        """The rows of the last stitch belong to one task each, and so does a stage after it."""
        if len(self.tasks) == 1:
            return []
        stitches = [stitch for stitch in self.stitches[:-1] if stitch.requires_grad]
        return [*self.of_the_networks(self.depth), *stitches]

    def tables(self) -> dict[str, Table]:
        """α of each stage; where each channel has its own, their mean."""
        names = tuple(self.tasks)
        means = [stitch.detach() if stitch.ndim == 2 else stitch.detach().mean(2) for stitch in self.stitches]
        return {
            f"stitch_{number}": Table(f"what each task takes from each network after stage {number}", names, names, values)
            for number, values in enumerate(means, 1)
        }
