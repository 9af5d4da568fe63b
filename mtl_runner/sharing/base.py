"""What a sharing mode is: a trunk that tasks compute together, and a branch of each task from there.

Shape legend: T tasks, N examples.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from mtl_runner.batch import Fields
from mtl_runner.encoders.base import Encoder, EncoderFactory, FeatureSpec
from mtl_runner.encoders.last import last_layer
from mtl_runner.encoders.stacked import Rows, chosen
from mtl_runner.errors import NotApplicable, choices
from mtl_runner.tasks.group import TaskGroup

Boundary = tuple[Tensor, ...]
"""What the trunk hands to the branches."""
Inputs = Mapping[str, Fields]


@dataclass(frozen=True)
class Table:
    """Something that a sharing mode has learned, as people look at it: a matrix with names."""

    title: str
    """What the numbers are, in a few words."""
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: Tensor
    """[rows, columns]; NaN where there is none."""


class Sharing(nn.Module, ABC):
    """Features for each task.

    A subclass takes the encoder factory and the tasks' streams first and its options as keywords.

    The trunk holds all parameters that two or more tasks reach, and may hold others; what a branch holds belongs to its task
    alone. A tensor of parameters [T, …] whose entries belong to one task each counts as theirs.

    Args:
        encoder: builds encoders of the chosen architecture.
        streams: the input stream of each task, in the order of the tasks.

    Raises:
        NotApplicable: there are several streams and the mode needs one, or fewer.
    """

    has_shared: ClassVar[bool] = True
    """Whether tasks have parameters in common at all; where not, there is nothing that gradients could conflict over."""
    independent: ClassVar[bool] = False
    """Whether nothing couples the tasks: each then trains, stops and keeps its best weights on its own."""
    one_stream: ClassVar[str] = ""
    """Why all tasks have to read one stream, where they have to."""
    affinity: Literal["", "cosine"] = ""
    """What ``after_epoch`` wants to know of the tasks: the mean cosine of each pair's gradients of what they share."""
    features: FeatureSpec

    def __init__(self, encoder: EncoderFactory, streams: Mapping[str, str]) -> None:
        super().__init__()
        self.streams = dict(streams)
        self.tasks = list(streams)
        self.place = {task: place for place, task in enumerate(streams)}
        self.order = sorted(set(streams.values()))
        if self.one_stream and len(self.order) > 1:
            option = type(self).__module__.rpartition(".")[2]
            raise NotApplicable(
                f"sharing={option}: the tasks read {len(self.order)} input streams ({choices(self.order)}), "
                f"and it needs one: {self.one_stream}; sharing=hard takes several"
            )

    # ---- the way from input to features ------------------------------------------------------------------------------

    @abstractmethod
    def trunk(self, inputs: Inputs) -> Boundary:
        """What tasks compute together."""

    @abstractmethod
    def branch(self, tasks: Sequence[str], boundary: Boundary, inputs: Inputs, apart: bool = False) -> Tensor:
        """Features of T tasks that run ``together``: [N, …] where they read the same, else [T, N, …].

        Args:
            tasks: some of those that are ``together``.
            boundary: what the trunk gave; where tasks are to be kept ``apart``, for each of them: every tensor with a first
                dimension T.
            inputs: for masks, and for modes in which a task has an encoder of its own.
            apart: see ``boundary``.
        """

    def together(self, task: str) -> Hashable:
        """Equal for tasks whose heads may run as one."""
        return self.streams[task]

    def level(self, task: str) -> int:
        """Heads of lower levels give their outputs first, where ``route`` hands them on."""
        return 0

    @property
    def outputs_feed(self) -> bool:
        """Whether the heads of some tasks read the outputs of others: whether ``route`` looks at them."""
        return False

    def route(self, tasks: Sequence[str], features: Tensor, outputs: Mapping[str, Tensor]) -> Tensor:
        """The features that the heads of tasks that run ``together`` read, which may depend on lower levels' outputs [N, …]."""
        return features

    def answers(self, group: TaskGroup, features: Tensor, boundary: Boundary, apart: bool = False) -> Tensor:
        """Outputs [T, N, …] of the heads of a group that reads ``features``; a mode may have them follow from others'."""
        return group(features)  # type: ignore[no-any-return]

    def meet(self, groups: Sequence[TaskGroup]) -> None:
        """Called once with the heads, for modes that look at them; they are not part of the mode."""

    def check_labels(self, targets: Fields) -> None:
        """Called once with the targets of the training part.

        Raises:
            NotApplicable: what the mode makes of these labels would be wrong.
        """

    def rows(self, tasks: Sequence[str], among: Sequence[str] | None = None) -> list[int] | None:
        """Where the tasks stand ``among`` others, by default all; None where they are the same."""
        others = self.tasks if among is None else list(among)
        return None if list(tasks) == others else [others.index(task) for task in tasks]

    def network(self, task: str) -> nn.Module:
        """The part that serves this task alone, where the mode is ``independent``."""
        raise NotImplementedError

    # ---- what it adds to the objective, and what gradients may conflict over -----------------------------------------

    def penalty(self) -> Tensor | None:
        """What the mode adds to the objective, a scalar, or nothing."""
        return None

    def shared(self) -> list[nn.Parameter]:
        """Exactly the parameters that the losses of two or more tasks reach; asked for again at the start of each epoch."""
        return []

    def grouping(self) -> tuple[int, ...]:
        """Which tasks share with which, in a code of the mode's own, where that changes in the course of training."""
        return ()

    def way(self) -> list[nn.Module]:
        """What features pass on their way, in this order; by default the stems and stages of the mode's encoders.

        It is there for ``last_layer``, and may hold what is not shared. What chooses or mixes features, as gates, stitches and
        edges do, is no part of it.
        """
        encoders = [part for part in self.children() if isinstance(part, Encoder)]
        return [part for encoder in encoders for part in (encoder.stems, encoder.stages)]

    def last_layer(self) -> list[nn.Parameter]:
        """What is trained and shared of the last layer on the ``way`` that has any; all that is shared where none has."""
        shared = [parameter for parameter in self.shared() if parameter.requires_grad]
        return last_layer(nn.ModuleList(self.way()), {id(parameter) for parameter in shared}) or shared

    # ---- in the course of training -----------------------------------------------------------------------------------

    def before_epoch(self, epoch: int) -> None:
        """Called before each epoch; the first is 1."""

    def after_epoch(self, epoch: int, affinity: Tensor | None) -> None:
        """Called after each epoch with the mean cosines [T, T] of the tasks' gradients, in the order of the tasks.

        Only where ``affinity`` asks for them; NaN for a pair that no step had.
        """

    def metrics(self) -> dict[str, float]:
        """Figures of the last epoch, logged as ``sharing/<name>``."""
        return {}

    def tables(self) -> dict[str, Table]:
        """What has been learned, by the name of its file."""
        return {}


def own(value: Tensor, rows: Rows, apart: bool) -> Tensor:
    """[T, …]: of each of T tasks its entry of a tensor [tasks, …] of the boundary; ``apart``, of its copy of that."""
    if not apart:
        return chosen(value, rows)
    return torch.stack([copy[row] for copy, row in zip(value, range(len(value)) if rows is None else rows, strict=True)])


def shared_by_several(encoder: Encoder, streams: Mapping[str, str]) -> list[nn.Parameter]:
    """The parameters of an encoder for all tasks that two or more of them reach: not the stem of a stream with one reader."""
    if len(streams) < 2:
        return []
    readers = list(streams.values())
    stems = [encoder.stems[stream] for stream in sorted(set(readers)) if readers.count(stream) > 1]
    return list(dict.fromkeys(parameter for module in (*stems, encoder.stages) for parameter in module.parameters()))
