"""What a weighting is: it turns the losses of a step into gradients."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

Needs = Literal["losses", "gramian", "jacobian", "trajectory"]


@dataclass(frozen=True)
class Objectives:
    """What one forward pass gives to the weighting."""

    parts: Sequence[Tensor]
    """The losses, a vector for each group of tasks that runs as one; apart, so that a backward pass walks only its own heads."""
    active: Tensor
    """[T] boolean: whether the task has any label in the batch; the loss of one that has none is not to be used."""
    shared: Sequence[nn.Parameter]
    """The parameters that two or more tasks reach; empty where nothing is shared."""

    @property
    def losses(self) -> Tensor:
        """[T], without a graph."""
        return torch.cat([part.detach() for part in self.parts])


class Weighting(nn.Module, ABC):
    """Fills ``.grad`` of the model's parameters, and of its own.

    Args:
        tasks: names of the T tasks, in the order of the losses.
    """

    needs: ClassVar[Needs]

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__()
        self.tasks = list(tasks)

    @abstractmethod
    def backward(self, objectives: Objectives) -> Tensor:
        """Back-propagate, and return the weight of each task, [T]; they sum to T where the method bounds them."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimizer groups for its own trained parameters, without the model's weight decay."""
        own = list(self.parameters())
        return [{"params": own, "weight_decay": 0.0}] if own else []


class LossWeighting(Weighting):
    """Weightings that look at the losses alone: one backward pass through ``combine(losses)``.

    One scale for all of them: the sum that ``combine`` returns (weights of 1 for equal weighting) is divided by T where
    tasks share parameters, so that T identical tasks move the shared part as one would; the objective is one scalar, so the
    heads' gradients are divided as well. Where nothing is shared nothing adds up, and each network gets its own task's
    gradient as it is.
    """

    needs = "losses"

    @abstractmethod
    def combine(self, losses: Tensor, active: Tensor) -> Tensor:
        """The objective, a scalar [...] from losses [..., T]; its derivatives are the weights.

        Entries that are not ``active`` must not reach it, nor the weights of the others.
        """

    def backward(self, objectives: Objectives) -> Tensor:
        share = 1 / len(objectives.active) if objectives.shared else 1.0
        weights = self.differentiate(objectives.losses, objectives.active, share)
        torch.autograd.backward(objectives.parts, (weights * share).split([len(part) for part in objectives.parts]))
        return weights

    def differentiate(self, losses: Tensor, active: Tensor, share: float) -> Tensor:
        """The weights [T], d combine / d losses; ``share`` of the derivatives of its own parameters goes to their ``.grad``."""
        losses.requires_grad_()
        (self.combine(losses, active) * share).backward()
        assert losses.grad is not None
        return losses.grad / share


class DirectWeighting(LossWeighting):
    """Loss weightings that know their weights without differentiation: Σ_t w_t L_t with w_t constant in the step."""

    @abstractmethod
    def weights(self, losses: Tensor, active: Tensor) -> Tensor:
        """[..., T] from the detached losses [..., T]; 0 where a task is not active."""

    def combine(self, losses: Tensor, active: Tensor) -> Tensor:
        return (self.weights(losses.detach(), active) * losses.where(active, 0)).sum(-1)

    def differentiate(self, losses: Tensor, active: Tensor, share: float) -> Tensor:
        return self.weights(losses, active)
