"""Each task's gradient with respect to a part of what is shared, for methods that need no more to find their weights."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtl_runner.weighting.base import Objectives
from mtl_runner.weighting.gradients import TaskGradients, combined, through_the_trunk, write_through_the_trunk


class PartGradients(TaskGradients):
    """Gradients with respect to ``parameters``, some of the shared: T passes that stop there, and one through the whole trunk.

    Args:
        objectives: with ``copies`` that have their gradients.
        parameters: those that the rows are about; may be none.
    """

    def __init__(self, objectives: Objectives, parameters: Sequence[nn.Parameter]) -> None:
        super().__init__(objectives)
        flat = [
            parameter.new_zeros(parameter.numel()) if gradient is None else gradient.reshape(-1)
            for task in self.tasks
            for parameter, gradient in zip(parameters, through_the_trunk(objectives, task, parameters), strict=True)
        ]
        count = len(self.tasks)
        self.matrix = torch.cat(flat).view(count, -1) if flat else objectives.losses.new_zeros(count, 0)

    def write(self, update: Tensor) -> None:
        raise NotImplementedError("an update of a part says nothing about the rest: write_sum does")

    def write_sum(self, weights: Tensor) -> None:
        """Make the sum of the tasks' gradients, weighted with ``weights`` [T], that of all shared parameters."""
        write_through_the_trunk(self.objectives, combined(self.tasks, weights), self.objectives.shared)
