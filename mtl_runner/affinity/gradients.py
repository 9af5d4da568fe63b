"""How far the tasks' gradients agree while they share an encoder."""

import torch
from torch import Tensor

from mtl_runner.affinity.base import Probe
from mtl_runner.batch import Batch
from mtl_runner.gradient_statistics import gramian
from mtl_runner.trainer import Trainer
from mtl_runner.weighting.base import Objectives


class Gradients(Probe):
    """Mean over training of cos(∇L_t, ∇L_u), the gradients of the shared parameters.

    Each task's loss is over its own labels, so that no row needs to have both. What the rows of a look add to a gradient by
    chance makes cosines smaller, in absolute value, than those of the expected gradients: compare them with each other, not
    with 1.

    Yu et al., Gradient surgery for multi-task learning, NeurIPS 2020; Sattler et al., Clustered federated learning, 2019.
    """

    title = "cosine of the gradients"

    def look(self, trainer: Trainer, batch: Batch, objectives: Objectives) -> Tensor:
        products = gramian(objectives).double()
        norms = products.diagonal().sqrt().where(objectives.active, torch.nan)
        return (products / norms[:, None] / norms).clamp(-1, 1)
