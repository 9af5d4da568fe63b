"""What a sharing mode is: a trunk that tasks compute together, and a branch of each task from there."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from mtl_runner.batch import Fields
from mtl_runner.encoders.base import Encoder, EncoderFactory, FeatureSpec

Boundary = tuple[Tensor, ...]
"""What the trunk hands to the branches."""


class Sharing(nn.Module, ABC):
    """Features for each task.

    A subclass takes the encoder factory and the tasks' streams first and its options as keywords.

    Args:
        encoder: builds encoders of the chosen architecture.
        streams: the input stream of each task, in the order of the tasks.
    """

    has_shared: ClassVar[bool] = True
    """Whether tasks have parameters in common at all; where not, there is nothing that gradients could conflict over."""
    independent: ClassVar[bool] = False
    """Whether nothing couples the tasks: each then trains, stops and keeps its best weights on its own."""
    features: FeatureSpec

    def __init__(self, encoder: EncoderFactory, streams: Mapping[str, str]) -> None:
        super().__init__()
        self.streams = dict(streams)

    @abstractmethod
    def trunk(self, inputs: Mapping[str, Fields]) -> Boundary:
        """What tasks compute together."""

    @abstractmethod
    def branch(self, task: str, boundary: Boundary, inputs: Mapping[str, Fields]) -> Tensor:
        """The task's own way from the boundary to its features [N, …].

        It also sees the inputs, for modes in which a task has an encoder of its own. For tasks that run ``together`` it only
        selects from the boundary.
        """

    @abstractmethod
    def encoders(self) -> Sequence[Encoder]:
        """The encoders inside; a shared one first. A pretrained encoder is loaded into each."""

    def network(self, task: str) -> nn.Module:
        """The part that serves this task alone, where the mode is ``independent``."""
        raise NotImplementedError

    def together(self, task: str) -> Hashable:
        """Equal for tasks whose features are the same tensor."""
        return task

    def penalty(self) -> Tensor | None:
        """What the mode adds to the objective, a scalar, or nothing."""
        return None

    def shared(self) -> list[nn.Parameter]:
        """Exactly the parameters that the losses of two or more tasks reach."""
        return []

    def after_load(self) -> None:
        """Called when the encoders have been given other weights than their initial ones."""
