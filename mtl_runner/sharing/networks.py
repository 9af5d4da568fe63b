"""A network for each task, side by side; what modes with a penalty between networks have in common."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from mtl_runner.encoders.base import Encoder, EncoderFactory
from mtl_runner.encoders.stack import EncoderStack
from mtl_runner.errors import NotApplicable
from mtl_runner.sharing.base import Boundary, Inputs, Sharing, Table, own

Strength = Annotated[float, Ge(0)] | Sequence[Annotated[float, Ge(0)]]
"""The weight of a penalty: one number, or one for each stage of the encoder."""


class Networks(Sharing):
    """One network per task. Those of a stream run as one operation where that is faster.

    Args:
        encoder: builds encoders of the chosen architecture.
        streams: the input stream of each task.
        start: name that decides a network's initial weights; by default that of its task, so that they differ.
    """

    has_shared = False

    def __init__(self, encoder: EncoderFactory, streams: Mapping[str, str], start: str | None = None) -> None:
        super().__init__(encoder, streams)
        self.readers = {stream: [task for task in self.tasks if streams[task] == stream] for stream in self.order}
        self.stacks = nn.ModuleList()
        for stream, tasks in self.readers.items():
            self.stacks.append(EncoderStack([self._alike(encoder, start or task, stream) for task in tasks], stream))
        self.features = self.stack_list()[0].features

    def _alike(self, encoder: EncoderFactory, name: str, stream: str) -> Encoder:
        """Made for all streams, as their stems may end in another shape where there are several: stages are to compare."""
        network = encoder(self.order, name)
        network.stems = nn.ModuleDict({stream: network.stems[stream]})
        return network

    def stack_list(self) -> list[EncoderStack]:
        return [stack for stack in self.stacks if isinstance(stack, EncoderStack)]

    def trunk(self, inputs: Inputs) -> Boundary:
        """The features of all tasks: of each stream those of its tasks, [tasks, N, …]."""
        return tuple(stack(inputs[stack.stream]) for stack in self.stack_list())

    def branch(self, tasks: Sequence[str], boundary: Boundary, inputs: Inputs, apart: bool = False) -> Tensor:
        stream = self.streams[tasks[0]]
        return own(boundary[self.order.index(stream)], self.rows(tasks, self.readers[stream]), apart)

    def matched(self) -> list[list[Tensor]]:
        """The same parameter of the networks that have it, [their number, …]: of each stage, and at last of the stems.

        Stages are those of all networks, in the order of ``by_stream``, stems those of a stream.
        """
        stacks = self.stack_list()
        stages = [_side_by_side(same) for same in zip(*(stack.each_stage() for stack in stacks), strict=True)]
        return [*stages, [values for stack in stacks if stack.count > 1 for values in stack.each_stem()]]

    def by_stream(self) -> list[str]:
        """The tasks, those of a stream one after the other."""
        return [task for tasks in self.readers.values() for task in tasks]

    def vectors(self) -> Tensor:
        """All parameters of each network's stages, [tasks, P], in the order of the tasks."""
        stages = [_side_by_side(same) for same in zip(*(stack.each_stage() for stack in self.stack_list()), strict=True)]
        flat = torch.cat([values.flatten(1) for stage in stages for values in stage], 1)
        names = self.by_stream()
        return flat if names == self.tasks else flat[[names.index(task) for task in self.tasks]]

    def tables(self) -> dict[str, Table]:
        """How far the networks are from each other."""
        with torch.no_grad():
            vectors = self.vectors()
            names = tuple(self.tasks)
            return {"distances": Table("distance of the task networks' parameters", names, names, torch.cdist(vectors, vectors))}


def _side_by_side(stacks: Sequence[list[Tensor]]) -> list[Tensor]:
    """The parameters of one stage, [tasks of the stream, …] from each stack, as [tasks, …]."""
    return list(stacks[0]) if len(stacks) == 1 else [torch.cat(same) for same in zip(*stacks, strict=True)]


def per_stage(strength: Strength, stages: int) -> list[float]:
    """λ of each stage.

    Raises:
        NotApplicable: there are not as many as stages, nor one.
    """
    strengths = list(strength) if isinstance(strength, Sequence) else [strength] * stages
    if len(strengths) != stages:
        raise NotApplicable(f"sharing.strength={strengths}: this encoder has {stages} stages, and needs as many numbers, or one")
    return strengths
