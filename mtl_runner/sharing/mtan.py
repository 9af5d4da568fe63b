"""Multi-task attention network."""

from collections.abc import Mapping, Sequence
from typing import Annotated, cast

import torch
from annotated_types import Ge
from torch import Tensor, nn

from mtl_runner.encoders.base import EncoderFactory
from mtl_runner.sharing.attention import Attention
from mtl_runner.sharing.base import Boundary, Inputs, Sharing, Table, shared_by_several


class MTAN(Sharing):
    """One encoder for all tasks, and for each task a mask on the output p_j of each of its stages:

    â_j = m_j ⊙ p_j,    m_j = sigmoid(h_j(g_j([p_j; f_j(â_{j-1})]))),    m_1 = sigmoid(h_1(g_1(p_1)))

    and the last â are the task's features. Liu, Johns and Davison, End-to-end multi-task learning with attention, CVPR 2019.
    f, g and h are linear at each position: convolutions 1 × 1 of maps, a matrix for the vectors of a sequence. f and g end in
    a normalisation and ReLU, h in a normalisation. f brings â_{j-1} to the shape of p_j: to its number of channels, and where
    the sides of the maps differ, by averages over the pixels that a pixel of p_j covers; where p_j is a vector, the input
    of f is the mean over pixels, or over the positions that are there.

    Departures: the authors look with g at the middle of a stage, which here is its output, as any encoder will do; their f is
    shared by the tasks and 3 × 3 (with a ResNet a bottleneck), followed by maximum pooling, here each task has its own, so
    that attention modules belong to one task each. Sequences are normalised by LayerNorm in place of BatchNorm, as padding
    would enter the latter's statistics.

    Cost: that of ``sharing=hard`` and for each task and stage, at C channels, at most 4 C² multiplications per position, which
    is less than an image's 9 C² per convolution 3 × 3, and as much as one or two layers of a perceptron.

    Args:
        encoder: builds encoders of the chosen architecture.
        streams: the input stream of each task.
        reduction: g has C // reduction outputs; 1 as in the authors' SegNet, 4 as in their ResNet.
        norm: whether f, g and h normalise.
    """

    sums: Tensor
    counts: Tensor

    def __init__(
        self, encoder: EncoderFactory, streams: Mapping[str, str], *, reduction: Annotated[int, Ge(1)] = 1, norm: bool = True
    ) -> None:
        super().__init__(encoder, streams)
        self.encoder = encoder(self.order, "shared")
        self.features = self.encoder.features
        shapes = self.encoder.shapes()[1:]
        count = len(streams)
        self.attention = nn.ModuleList()
        for number, shape in enumerate(shapes):
            before = shapes[number - 1] if number else None
            self.attention.append(Attention(count, before, shape, reduction, norm))
        self.register_buffer("sums", torch.zeros(count, len(shapes)))
        self.register_buffer("counts", torch.zeros(count, len(shapes)))

    def trunk(self, inputs: Inputs) -> Boundary:
        """What each stage gives: of the first stream, then of the next."""
        values = []
        for stream in self.order:
            x, mask = self.encoder.stem(stream, inputs[stream]), self.encoder.mask(inputs[stream])
            for stage in self.encoder.stages:
                x = stage(x) if mask is None else stage(x, mask)
                values.append(x)
        return tuple(values)

    def branch(self, tasks: Sequence[str], boundary: Boundary, inputs: Inputs, apart: bool = False) -> Tensor:
        stream, rows, depth = self.streams[tasks[0]], self.rows(tasks), len(self.attention)
        first, there = self.order.index(stream) * depth, self.encoder.mask(inputs[stream])
        attended, means = None, []
        for p, attention in zip(boundary[first : first + depth], self.attention, strict=True):
            mask = attention(p, attended, there, apart, rows)
            attended = mask * p
            means.append(_mean(mask.detach(), there))
        if self.training:
            places = slice(None) if rows is None else rows
            step = torch.stack(means, 1)
            fine = step.isfinite()  # a step that is skipped, as an input is not finite, leaves no trace
            self.sums[places] += step.masked_fill(~fine, 0)
            self.counts[places] += fine
        return cast(Tensor, attended)

    def shared(self) -> list[nn.Parameter]:
        return shared_by_several(self.encoder, self.streams)

    def before_epoch(self, epoch: int) -> None:
        self.sums.zero_()
        self.counts.zero_()

    def tables(self) -> dict[str, Table]:
        """The mean of each mask over the steps of the last epoch of training."""
        stages = tuple(f"stage {number}" for number in range(1, len(self.attention) + 1))
        return {
            "masks": Table("mean of the mask that each task puts on a stage", tuple(self.tasks), stages, self.sums / self.counts)
        }


def _mean(mask: Tensor, there: Tensor | None) -> Tensor:
    """[T]: of the masks [T, N, …] over examples and all else; of sequences, over the positions that are there."""
    if there is None or mask.ndim != 4:
        return mask.float().flatten(1).mean(1)
    return (mask.float() * there.unsqueeze(-1)).flatten(1).sum(1) / (there.sum() * mask.shape[-1]).clamp(min=1)
