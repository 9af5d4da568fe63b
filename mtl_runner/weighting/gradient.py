"""Weightings that look at the gradient of each task."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Unpack

import torch
from annotated_types import Ge
from torch import Tensor

from mtl_runner.weighting.base import Objectives, Options, Weighting, equal_share, every, mean_losses, mean_weight
from mtl_runner.weighting.gradients import FeatureGradients, ParameterGradients, TaskGradients
from mtl_runner.weighting.tasks import Tasks, present

Gradients = Literal["parameters", "features"]
Heads = Literal["own", "weighted"]
Normalize = Literal["none", "l2", "loss", "loss+"]


class GradientOptions(Options, total=False):
    """Keys of every gradient-based weighting."""

    gradients: Gradients
    normalize: Normalize
    heads: Heads


class GramianOptions(GradientOptions, total=False):
    """Keys of the weightings that look at inner products of gradients."""

    every: int


class GradientWeighting(Weighting):
    """Weightings that look at the tasks' gradients g_t with respect to what they share.

    The boundary between trunk and branches is copied for each task, so that one backward pass through all heads gives every
    task's gradient there; then comes one pass through the trunk for each task. A task without labels in the batch is left
    out. So is one whose loss or gradient is not finite: its weight is NaN, and the trainer skips the step.

    Args:
        tasks: names of the T tasks.
        scale: comparable or paper.
        gradients: g_t with respect to the shared parameters, or to the shared features, the trunk's outputs: one pass through
            the trunk in all, and an approximation.
        normalize: what the method works on in place of g_t: none (g_t itself), l2 (g_t / ‖g_t‖), loss (g_t / L_t) or loss+
            (g_t / (L_t ‖g_t‖)), each times the mean of these divisors, so that the update keeps its unit. Sener & Koltun
            2018 have them, and apply the weights to the g_t as they are; their sum may then harm a task.
        heads: what belongs to one task, its head above all, takes its own gradient (own), or that times the weight (weighted).
    """

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        gradients: Gradients = "parameters",
        normalize: Normalize = "none",
        heads: Heads = "own",
        **options: Unpack[Options],
    ) -> None:
        super().__init__(tasks, **options)
        self.gradients = self.gramian_of = gradients
        self.normalize = normalize
        self.heads = heads

    @property
    def apart(self) -> bool:
        return True

    def unit(self, weights: Tensor, active: Tensor) -> Tensor | float:
        """1 / n: the weights are those of a mean."""
        return equal_share(active)

    def task_gradients(self, objectives: Objectives) -> TaskGradients:
        """The tasks' gradients, once the boundary's copies have theirs."""
        return ParameterGradients(objectives) if self.gradients == "parameters" else FeatureGradients(objectives)

    def coefficients(self, shown: Tensor) -> Tensor:
        """What the tasks' gradients are multiplied by, from the weights as they are reported."""
        return shown if self.scale == "paper" else shown / len(self.tasks)

    def normalizer(self, tasks: Tasks, gramian: Tensor) -> Tensor | None:
        """What g_t is multiplied by, [T], 1 for each of identical tasks; so it is for a gradient or a loss of zero."""
        if self.normalize == "none":
            return None
        divisor = torch.ones_like(tasks.losses) if self.normalize == "l2" else tasks.losses
        if self.normalize != "loss":
            divisor = divisor * tasks.only_usable(gramian).diagonal().sqrt()
        mean = mean_weight(divisor.masked_fill(~tasks.usable, 0), tasks.usable)
        return mean / torch.where(divisor == 0, mean, divisor)

    def backward_to_the_boundary(self, draws: Sequence[Objectives]) -> None:
        """Give the boundary's copies their gradients, and private parameters theirs where these are the tasks' own."""
        once = self.at_once(draws)
        for draw in draws:
            leaves = None if once else [copy for copies in draw.copies for copy in copies]
            draw.backward(torch.ones_like(draw.losses), leaves, retain_graph=not once)

    def backward_to_the_private(self, draws: Sequence[Objectives], gradients: Sequence[TaskGradients], weights: Tensor) -> None:
        """Give private parameters their tasks' gradients times ``weights`` [T], as a mean over the draws."""
        shares = weights if len(draws) == 1 else weights / present(draws)
        own = [each.grad for each in draws[0].private if each.grad is not None]
        if len(draws) > 1 and own and self.at_once(draws):
            torch._foreach_div_(own, len(draws))
        for draw, each in zip(draws, gradients, strict=True):
            each.write_private(shares)
            if draw.private and not self.at_once(draws):
                draw.backward(shares, draw.private)

    def at_once(self, draws: Sequence[Objectives]) -> bool:
        """Whether private parameters take exactly what reaches them on the way to the boundary, as a mean over the draws."""
        return self.heads == "own" and (len(draws) == 1 or all(every(draw.active) for draw in draws))


class GramianWeighting(GradientWeighting):
    """Σ_t w_t g_t with weights that depend on the gradients through their inner products ⟨g_s, g_t⟩ alone.

    Args:
        tasks: names of the T tasks.
        every: the weights are computed in one of so many steps and reused in the others, which then cost one backward pass; a
            task that had no labels when they were computed takes the mean weight.
        options: those of every gradient-based weighting.
    """

    needs = "gramian"
    last: Tensor

    def __init__(self, tasks: Sequence[str], *, every: Annotated[int, Ge(1)] = 1, **options: Unpack[GradientOptions]) -> None:
        super().__init__(tasks, **options)
        self.every = every
        self.steps = 0
        self.register_buffer("last", torch.ones(len(tasks)))

    @property
    def apart(self) -> bool:
        return self.steps % self.every == 0

    @abstractmethod
    def weights(self, gramian: Tensor, losses: Tensor, active: Tensor) -> Tensor:
        """The paper's weights, [..., T].

        Args:
            gramian: [..., T, T] in float64; 0 in the rows and columns of tasks that are not active.
            losses: [..., T] in float64; 1 for tasks that are not active.
            active: [..., T] boolean; the others weigh 0, and do not move the weights of the active.
        """

    def statistic(self, jacobians: Sequence[Tensor], draws: Sequence[Objectives]) -> tuple[Tensor, Tensor]:
        """What the method sees, [T, T], and the gradients that it weighs, [T, P], from the gradients of each draw."""
        (jacobian,) = jacobians
        return jacobian @ jacobian.T, jacobian

    def backward(self, objectives: Objectives, *further: Objectives) -> Tensor:
        compute = self._compute if self.apart else self._reuse
        self.steps += 1
        return compute((objectives, *further))

    def _compute(self, draws: Sequence[Objectives]) -> Tensor:
        self.backward_to_the_boundary(draws)
        gradients = self.all_gradients(draws)
        seen, rows = self.statistic([each.matrix for each in gradients], draws)
        self.gramian = seen if len(draws) == 1 else rows @ rows.T
        tasks = Tasks.of(self.gramian.diagonal(), draws)
        seen = tasks.only_usable(seen)
        if (normalizer := self.normalizer(tasks, self.gramian)) is not None:
            seen = normalizer[:, None] * seen * normalizer
        shown = self.shown(self.weights(seen, tasks.losses, tasks.usable), tasks.usable)
        if normalizer is not None:
            shown = shown * normalizer
        if self.every > 1:
            self._keep(shown, tasks)
        shares = self.coefficients(shown).to(rows.dtype)
        self.write(gradients, rows, shares)
        self.backward_to_the_private(draws, gradients, self._private(shares))
        return tasks.reported(shown)

    def _keep(self, shown: Tensor, tasks: Tasks) -> None:
        """The weights of the next steps: these, unless this step is one that the trainer skips."""
        fine = tasks.usable.any() & ~tasks.broken.any()
        self.last = shown.where(tasks.usable, mean_weight(shown, tasks.usable)).float().where(fine, self.last)

    def all_gradients(self, draws: Sequence[Objectives]) -> list[TaskGradients]:
        """The tasks' gradients on each draw."""
        return [self.task_gradients(draw) for draw in draws]

    def write(self, gradients: Sequence[TaskGradients], rows: Tensor, weights: Tensor) -> None:
        """Make the weighted sum of the tasks' gradients that of the shared parameters."""
        gradients[0].write(weights @ rows)

    def _reuse(self, draws: Sequence[Objectives]) -> Tensor:
        self.gramian = None
        _, active = mean_losses(draws)
        shown = self.last if every(active) else self.last * active
        shares = self.coefficients(shown)
        own = torch.ones_like(shares)
        if len(draws) > 1:
            shares, own = (each / present(draws) for each in (shares, own))
        for draw in draws:
            if self.heads == "own":
                draw.backward(own, draw.private, retain_graph=True)
            draw.backward(shares, draw.shared if self.heads == "own" else None)
        return shown

    def _private(self, weights: Tensor) -> Tensor:
        return torch.ones_like(weights) if self.heads == "own" else weights

    def get_extra_state(self) -> dict[str, int]:
        return {"steps": self.steps}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]


class JacobianWeighting(GradientWeighting):
    """Gradient-based methods whose update is more than a combination with weights from inner products."""

    needs = "jacobian"

    @abstractmethod
    def aggregate(self, jacobian: Tensor, losses: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        """The paper's update [P], and the weights [T] to be shown, 0 for tasks that are not active.

        A method without weights shows another finite number, such as the share of the task's gradient that is in the update.

        Args:
            jacobian: [T, P]; rows of tasks that are not active are 0.
            losses: [T] in float64; 1 for tasks that are not active.
            active: [T] boolean; the others neither move the update nor any memory.
        """

    def private(self, weights: Tensor, losses: Tensor, active: Tensor) -> Tensor:
        """What the gradients of the tasks' private parameters are multiplied by, [T]."""
        return torch.ones_like(weights) if self.heads == "own" else weights

    def backward(self, objectives: Objectives, *further: Objectives) -> Tensor:
        draws = (objectives,)
        self.backward_to_the_boundary(draws)
        gradients = self.task_gradients(objectives)
        self.gramian = gradients.matrix @ gradients.matrix.T
        tasks = Tasks.of(self.gramian.diagonal(), draws)
        jacobian = gradients.matrix if tasks.whole else gradients.matrix.masked_fill(~tasks.usable[:, None], 0)
        if (normalizer := self.normalizer(tasks, self.gramian)) is not None:
            jacobian = normalizer[:, None].to(jacobian.dtype) * jacobian
        update, weights = self.aggregate(jacobian, tasks.losses, tasks.usable)
        factor = torch.as_tensor(self.factor(weights, tasks.usable)).to(update)
        gradients.write(update * factor)
        shown = self.shown(weights, tasks.usable)
        if normalizer is not None:
            shown = shown * normalizer
        private = self.private(self.coefficients(shown), tasks.losses, tasks.usable)
        self.backward_to_the_private(draws, [gradients], private.to(jacobian.dtype))
        return tasks.reported(shown)
