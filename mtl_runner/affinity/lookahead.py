"""Does a step for one task lower another task's loss?

Shape legend: T tasks, P shared parameters.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mtl_runner.affinity.base import Probe
from mtl_runner.batch import Batch
from mtl_runner.trainer import Trainer
from mtl_runner.weighting.base import Objectives


class Lookahead(Probe):
    """Inter-task affinity, a mean over training of

        Z[t, u] = 1 - L_u(θ - η ∇L_t(θ)) / L_u(θ),

    θ being the shared parameters, while the heads stay as they are; both losses are those of one batch. Above 0: a step for t
    helps u. It has a direction, and depends on the scale of t's loss, as the length of the step does.

    Fifty et al., Efficiently identifying task groupings for multi-task learning, NeurIPS 2021. There η is the learning rate of
    the optimizer; here it is an option, as the step is a plain one, whatever optimizer trains.
    """

    title = "affinity by lookahead"
    directed = True

    def look(self, trainer: Trainer, batch: Batch, objectives: Objectives) -> Tensor:
        affinity = lookahead(trainer, batch, objectives, self.setting.step_size)
        return affinity.where(affinity.isfinite(), torch.nan)


def lookahead(trainer: Trainer, batch: Batch, objectives: Objectives, step_size: float) -> Tensor:
    """Z [T, T] on one batch, tasks in the order of the trainer; NaN where a task has no label, or no loss left.

    T backward and T forward passes, T × P numbers; the parameters are as before, bit for bit. ``objectives`` are those of the
    batch, and ``trainer.replay`` is marked where they were drawn.
    """
    before = objectives.losses.double().where(objectives.active, torch.nan)
    gradients = [  # all before the first step: a forward pass moves batch statistics, which the graph may have kept
        torch.autograd.grad(part, trainer.shared, only, retain_graph=True, materialize_grads=True)
        for part in objectives.parts
        for only in torch.eye(len(part), dtype=part.dtype, device=part.device)
    ]
    after = torch.stack([_after(trainer, batch, each, step_size) for each in gradients])
    return (1 - after / before).where(objectives.active[:, None], torch.nan)


@torch.no_grad()
def _after(trainer: Trainer, batch: Batch, gradients: Sequence[Tensor], step_size: float) -> Tensor:
    """The losses [T] with the shared parameters a step further."""
    kept = [parameter.clone() for parameter in trainer.shared]
    try:
        for parameter, gradient in zip(trainer.shared, gradients, strict=True):
            parameter.sub_(step_size * gradient)
        return trainer.losses_again(batch).double()
    finally:
        for parameter, value in zip(trainer.shared, kept, strict=True):
            parameter.copy_(value)
