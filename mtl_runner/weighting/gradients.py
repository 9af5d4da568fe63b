"""Each task's own gradient, from one pass through all heads and one pass through the trunk for each task."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtl_runner.weighting.base import Objectives

Cotangents = list[tuple[int, Tensor]]
"""The gradient of one task at those elements of the boundary that it reads."""


def at_the_boundary(objectives: Objectives) -> list[Cotangents]:
    """Each task's gradient at the boundary, once ``copies`` have theirs; T of them."""
    trained = [element for element, value in enumerate(objectives.boundary) if value.requires_grad]
    return [
        [(element, grad[i]) for element in trained if (grad := copies[element].grad) is not None]
        for part, copies in zip(objectives.parts, objectives.copies, strict=True)
        for i in range(len(part))
    ]


def through_the_trunk(
    objectives: Objectives, cotangents: Cotangents, parameters: Sequence[nn.Parameter]
) -> tuple[Tensor | None, ...]:
    """Gradients of ``parameters`` from those at the boundary; None for parameters that are not reached."""
    if not cotangents or not parameters:
        return (None,) * len(parameters)
    reached, values = zip(*((objectives.boundary[element], value) for element, value in cotangents), strict=True)
    return torch.autograd.grad(reached, list(parameters), values, retain_graph=True, allow_unused=True)


def combined(tasks: Sequence[Cotangents], weights: Tensor) -> Cotangents:
    """The sum of the tasks' gradients at the boundary, weighted with ``weights`` [T]."""
    total: dict[int, Tensor] = {}
    for weight, task in zip(weights, tasks, strict=True):
        for element, value in task:
            addend = weight.to(value.dtype) * value
            total[element] = addend if element not in total else total[element] + addend
    return list(total.items())


class TaskGradients(ABC):
    """The gradients of T tasks, as rows, and the way back from a combination of them to ``.grad``.

    Args:
        objectives: with ``copies`` that have their gradients.
    """

    matrix: Tensor
    """[T, P]"""

    def __init__(self, objectives: Objectives) -> None:
        self.objectives = objectives
        self.tasks = at_the_boundary(objectives)

    @abstractmethod
    def write(self, update: Tensor) -> None:
        """Make ``update`` [P] the gradient of the shared parameters."""

    def write_private(self, weights: Tensor) -> None:
        """Give what lies in the trunk but belongs to one task, as the stem of an input stream of its own, its gradient.

        ``weights`` [T] are those of the tasks.
        """
        write_through_the_trunk(self.objectives, combined(self.tasks, weights), self.objectives.private)


class ParameterGradients(TaskGradients):
    """Gradients with respect to the shared parameters: T passes through the trunk."""

    def __init__(self, objectives: Objectives) -> None:
        super().__init__(objectives)
        self.sizes = [parameter.numel() for parameter in objectives.shared]
        like = objectives.shared[0] if objectives.shared else objectives.losses  # a mode may end up with nothing shared
        self.matrix = like.new_empty(len(self.tasks), sum(self.sizes))
        self.inner: list[tuple[int, nn.Parameter, Tensor]] = []
        for t in range(len(self.tasks)):
            self._fill(t)

    def _fill(self, t: int) -> None:
        """The pass of task t; nothing but its row stays, so that the next one finds the memory in the processor's cache."""
        shared, private = self.objectives.shared, self.objectives.private
        gradients = through_the_trunk(self.objectives, self.tasks[t], [*shared, *private])
        if shared:
            torch.cat([_flat(*pair) for pair in zip(shared, gradients[: len(shared)], strict=True)], out=self.matrix[t])
        inner = zip(private, gradients[len(shared) :], strict=True)
        self.inner += [(t, parameter, gradient) for parameter, gradient in inner if gradient is not None]

    def write(self, update: Tensor) -> None:
        for parameter, piece in zip(self.objectives.shared, update.split(self.sizes), strict=True):
            parameter.grad = piece.view_as(parameter)

    def write_private(self, weights: Tensor) -> None:
        for t, parameter, gradient in self.inner:
            add_gradient(parameter, weights[t] * gradient)


class FeatureGradients(TaskGradients):
    """Gradients with respect to the trunk's outputs, so that one pass through the trunk serves all tasks.

    The norm of a combination of these bounds, up to a constant, that of the combination with respect to the parameters
    (Sener & Koltun 2018, MGDA-UB). P is the number of entries of the boundary, the rows of the batch included.
    """

    def __init__(self, objectives: Objectives) -> None:
        super().__init__(objectives)
        self.values = [(element, value) for element, value in enumerate(objectives.boundary) if value.requires_grad]
        read = [dict(task) for task in self.tasks]
        columns = [
            torch.stack([task[element] if element in task else torch.zeros_like(value) for task in read])
            for element, value in self.values
        ]
        self.matrix = torch.cat([column.flatten(1) for column in columns], 1).float()

    def write(self, update: Tensor) -> None:
        pieces = update.split([value.numel() for _, value in self.values])
        cotangents = [
            (element, piece.view_as(value).to(value.dtype)) for (element, value), piece in zip(self.values, pieces, strict=True)
        ]
        write_through_the_trunk(self.objectives, cotangents, self.objectives.shared)


def write_through_the_trunk(objectives: Objectives, cotangents: Cotangents, parameters: Sequence[nn.Parameter]) -> None:
    """One pass through the trunk."""
    for parameter, gradient in zip(parameters, through_the_trunk(objectives, cotangents, parameters), strict=True):
        if gradient is not None:
            add_gradient(parameter, gradient)


def _flat(parameter: nn.Parameter, gradient: Tensor | None) -> Tensor:
    return parameter.new_zeros(parameter.numel()) if gradient is None else gradient.reshape(-1)


def add_gradient(parameter: nn.Parameter, gradient: Tensor) -> None:
    """Add to ``.grad``, which may not be there; contiguous, as a penalty's backward pass wants to find it."""
    parameter.grad = gradient.contiguous() if parameter.grad is None else parameter.grad + gradient
