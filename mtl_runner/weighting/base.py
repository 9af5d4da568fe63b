"""What a weighting is: it turns the losses of a step into gradients.

Shape legend: T tasks, P shared parameters, ``…`` leading dimensions that run as a batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, TypedDict

import torch
from torch import Tensor, nn

Needs = Literal["losses", "gramian", "jacobian", "trajectory"]
Scale = Literal["comparable", "paper"]


@dataclass(frozen=True)
class Objectives:
    """What one forward pass gives to the weighting."""

    parts: Sequence[Tensor]
    """The losses, a vector for each group of tasks that runs as one; apart, so that a backward pass walks only its own heads."""
    active: Tensor
    """[T] boolean: whether the task has any label in the batch; the loss of one that has none is not to be used."""
    shared: Sequence[nn.Parameter]
    """The parameters that two or more tasks reach; empty where nothing is shared."""
    private: Sequence[nn.Parameter] = ()
    """The others that are trained: heads, and whatever else belongs to one task."""
    boundary: Sequence[Tensor] = ()
    """What the trunk hands to the branches, with its graph; empty unless the weighting asked for the tasks ``apart``."""
    copies: Sequence[Sequence[Tensor]] = ()
    """For each part the boundary as its k tasks read it: leaves [k, …], whose gradients are those of each task alone."""
    factors: Tensor | None = None
    """[T]: what the losses in ``parts`` are to be multiplied by; None: 1."""
    last_layer: Sequence[nn.Parameter] = ()
    """Of ``shared`` the weights and biases of the last layer that features pass; empty where it has no layers."""

    @cached_property
    def losses(self) -> Tensor:
        """[T], without a graph."""
        losses = torch.cat([part.detach() for part in self.parts])
        return losses if self.factors is None else losses * self.factors

    def backward(self, weights: Tensor, inputs: Sequence[Tensor] | None = None, retain_graph: bool = False) -> None:
        """Add the gradient of Σ_t w_t L_t to ``.grad`` of all that can have one, or of ``inputs``."""
        if inputs is not None and not inputs:
            return
        if self.factors is not None:
            weights = weights * self.factors
        torch.autograd.backward(
            self.parts, weights.split([len(part) for part in self.parts]), retain_graph=retain_graph, inputs=inputs
        )


class Options(TypedDict, total=False):
    """Keys of every weighting."""

    scale: Scale


class Weighting(nn.Module, ABC):
    """Fills ``.grad`` of the model's parameters, and of its own.

    One scale, as papers mix sums and means: with ``comparable``, T identical tasks move the shared part as one would, that is
    as ``equal``, the sum over tasks divided by T, does. T is the number of tasks of the run, not of those with labels in
    the batch, so that a task's missing labels do not make the others' steps larger. ``paper`` takes the paper's weights.

    Args:
        tasks: names of the T tasks, in the order of the losses.
        scale: comparable or paper.
    """

    needs: ClassVar[Needs]
    """What it looks at: losses; inner products or whole gradients of the tasks; or the losses after the step as well."""
    draws: ClassVar[int] = 1
    """Independent batches that it wants in a step; the step's batch is divided into so many."""
    gramian: Tensor | None = None
    """[T, T]: inner products of the tasks' gradients in the last step; None where they were not computed."""
    gramian_of: str = "parameters"
    """Which of what is shared these gradients are with respect to, in a word or two."""

    def __init__(self, tasks: Sequence[str], *, scale: Scale = "comparable") -> None:
        super().__init__()
        self.tasks = list(tasks)
        self.scale = scale

    @property
    def apart(self) -> bool:
        """Whether the next step needs each task's own gradient: ``Objectives.copies`` are made then."""
        return False

    @abstractmethod
    def backward(self, objectives: Objectives, *further: Objectives) -> Tensor:
        """Back-propagate, and return the weight of each task, [T]; of one whose gradient is not finite NaN.

        ``further`` are those of the other draws, where there are several.
        """

    def unit(self, weights: Tensor, active: Tensor) -> Tensor | float:
        """The paper's weight of each of n identical active tasks, [..., 1]: what the comparable scale divides by.

        ``equal_share`` where weights are those of a mean, as they are in gradient-based weightings; ``mean_weight`` where they
        have no scale of their own, as they depend on the unit of losses or gradients.
        """
        return 1.0

    def regroup(self, grouping: tuple[str, ...]) -> None:
        """Called before each epoch with the names of what is shared, and what else tells this grouping of tasks from others."""

    def after_step(self, recompute: Callable[[], Tensor]) -> None:
        """Called after the optimizer's step. ``recompute()`` gives the losses [T] of the same batch with the new parameters."""

    def after_epoch(self, losses: Tensor) -> None:
        """Called after an epoch with the mean training losses [T]; NaN for a task without any."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimizer groups for its own trained parameters, without the model's weight decay."""
        own = list(self.parameters())
        return [{"params": own, "weight_decay": 0.0}] if own else []

    def shown(self, weights: Tensor, active: Tensor) -> Tensor:
        """The paper's ``weights`` as they are reported: 1 for each of identical tasks on the comparable scale."""
        unit = 1.0 if self.scale == "paper" else self.unit(weights, active)
        return weights if isinstance(unit, float) and unit == 1 else weights / unit

    def factor(self, weights: Tensor, active: Tensor, shared: bool = True) -> Tensor | float:
        """What the paper's ``weights`` are multiplied by to become the coefficients of the tasks' gradients."""
        if self.scale == "paper":
            return 1.0
        return 1 / (self.unit(weights, active) * (weights.shape[-1] if shared else 1))


def mean_losses(draws: Sequence[Objectives]) -> tuple[Tensor, Tensor]:
    """The losses [T], means over the draws in which a task has labels, and whether it has any."""
    if len(draws) == 1:
        return draws[0].losses, draws[0].active
    active = torch.stack([draw.active for draw in draws])
    losses = torch.stack([draw.losses for draw in draws]).where(active, 0)
    return losses.sum(0) / active.sum(0).clamp_min(1), active.any(0)


def equal_share(active: Tensor) -> Tensor | float:
    """1 / n, [..., 1], or one number where all are active: the unit of methods whose weights are those of a mean."""
    return 1 / active.shape[-1] if every(active) else at_least_one(active).reciprocal()


def mean_weight(weights: Tensor, active: Tensor) -> Tensor:
    """[..., 1] over the active tasks, 1 where there are none or all weigh 0: the unit of methods that have none of their own."""
    mean = weights.sum(-1, keepdim=True) / at_least_one(active)
    return mean.masked_fill(mean == 0, 1)


def every(mask: Tensor) -> bool:
    """Whether all are true, as far as looking is free: on the CPU. For a few; an operation takes longer to begin with."""
    return mask.device.type == "cpu" and all(mask.tolist() if mask.ndim == 1 else mask.flatten().tolist())


def at_least_one(active: Tensor) -> Tensor:
    """The number of active tasks, [..., 1]; 1 where there are none."""
    return active.sum(-1, keepdim=True).clamp_min_(1)


class LossWeighting(Weighting):
    """Weightings that look at the losses alone: one backward pass through ``combine(losses)``.

    The objective is one scalar, so the heads' gradients carry the weights and the scale too. Where nothing is shared nothing
    adds up, and on the comparable scale each network gets its own task's gradient times its weight.
    """

    needs: ClassVar[Needs] = "losses"

    @abstractmethod
    def combine(self, losses: Tensor, active: Tensor) -> Tensor:
        """The objective as in the paper, a scalar [...] from losses [..., T]; its derivatives are the weights.

        Entries that are not ``active`` must not reach it, nor the weights of the others.
        """

    def backward(self, objectives: Objectives, *further: Objectives) -> Tensor:
        weights, own = self.differentiate(objectives.losses, objectives.active)
        for parameter, gradient in own:
            parameter.grad = gradient * self.factor(weights, objectives.active, shared=bool(objectives.shared))
        shown = self.shown(weights, objectives.active)
        shares = shown / len(self.tasks) if objectives.shared and self.scale == "comparable" else shown
        objectives.backward(shares)
        return shown

    def differentiate(self, losses: Tensor, active: Tensor) -> tuple[Tensor, Sequence[tuple[nn.Parameter, Tensor]]]:
        """The weights [T], d combine / d losses, and the derivatives of its own parameters."""
        own = list(self.parameters())
        losses = losses.detach().requires_grad_()
        weights, *gradients = torch.autograd.grad(self.combine(losses, active), [losses, *own])
        return weights, list(zip(own, gradients, strict=True))


class DirectWeighting(LossWeighting):
    """Loss weightings that know their weights without differentiation: Σ_t w_t L_t with w_t constant in the step."""

    @abstractmethod
    def weights(self, losses: Tensor, active: Tensor) -> Tensor:
        """[..., T] from the detached losses [..., T], as in the paper; 0 where a task is not active."""

    def combine(self, losses: Tensor, active: Tensor) -> Tensor:
        return (self.weights(losses.detach(), active) * losses.where(active, 0)).sum(-1)

    def differentiate(self, losses: Tensor, active: Tensor) -> tuple[Tensor, Sequence[tuple[nn.Parameter, Tensor]]]:
        return self.weights(losses, active), ()
