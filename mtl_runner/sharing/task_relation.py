"""A learned covariance of the tasks that steers a penalty."""

from collections.abc import Mapping, Sequence
from typing import Annotated, cast

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from mtl_runner.encoders.base import EncoderFactory
from mtl_runner.encoders.stack import each
from mtl_runner.sharing.base import Table
from mtl_runner.sharing.hard import Hard
from mtl_runner.sharing.relation import HeadChange
from mtl_runner.tasks.group import TaskGroup


class TaskRelation(Hard):
    """Hard sharing, and a penalty on what is the tasks' own that a learned covariance Ω of the tasks steers.

    Let w_t be all that training has added to the parameters of one layer of task t, W = (w_1 … w_T) [P, T]. The penalty is

        λ / T · Σ_layers tr(W Ω⁻¹ Wᵀ),   Ω = (1 - ε) S / tr(S) + ε I / T,   S = (WᵀW)^{1/2}.

    For ε = 0 this Ω is the one that minimises the penalty over all covariances of trace 1, where it comes to the squared nuclear
    norm λ / T · ‖W‖_*²; ε keeps Ω invertible, also at the start, where W = 0. For tasks that have nothing in common and change
    equally, Ω = I / T and the penalty is the weight decay λ Σ_t ‖w_t‖²; where tasks are alike, what they have in common is
    penalised up to T times less, what sets them apart up to 1 / ε times more. Ω is computed in closed form at the start of each
    epoch, without gradient.

    Zhang & Yeung, A convex formulation for learning task relationships in multi-task learning, UAI 2010, have one linear layer.
    Long et al., Learning multiple tasks with multilinear relationship networks, NIPS 2017, have a covariance for each of the
    task-specific layers over a shared network, as it is here; theirs has two more factors, for the inputs and outputs of a
    layer, which are the identity here. In both W are the parameters; here it is their change, as initial weights are random and
    say nothing. Layers are the weight of the heads, whose bias is free as in the first paper, and each stage of the tasks' own;
    heads of different shapes are not compared.

    Cost: hard sharing's, and the eigenvalues of a matrix [T, T] for each layer once an epoch.

    Args:
        encoder: builds encoders of the chosen architecture.
        streams: the input stream of each task.
        shared_stages: proportion of the encoder's stages that is shared, as in hard sharing.
        strength: λ.
        floor: ε.
    """

    def __init__(
        self,
        encoder: EncoderFactory,
        streams: Mapping[str, str],
        *,
        shared_stages: Annotated[float, Ge(0), Le(1)] = 1.0,
        strength: Annotated[float, Ge(0)] = 1e-2,
        floor: Annotated[float, Gt(0), Le(1)] = 0.05,
    ) -> None:
        super().__init__(encoder, streams, shared_stages=shared_stages)
        self.strength, self.floor = strength, floor
        for number, value in enumerate(self._stages()):
            self.register_buffer(f"stage_{number}", value.detach().clone())
        self.heads: HeadChange | None = None

    def meet(self, groups: Sequence[TaskGroup]) -> None:
        self.heads = HeadChange(self, groups)
        for number, (names, _) in enumerate(self.layers()):
            self.register_buffer(f"inverse_{number}", torch.eye(len(names)) * len(names))

    def _stages(self) -> list[Tensor]:
        """The parameters of the tasks' own stages, [T, …] each."""
        return [value for stage in self.own for value in each(stage)]

    def layers(self) -> list[tuple[list[str], Tensor]]:
        """Of each layer the tasks that have it, and Wᵀ [T, P]: what training has added."""
        if self.heads is None or len(self.tasks) < 2:
            return []
        changes = [(value - getattr(self, f"stage_{number}")).flatten(1) for number, value in enumerate(self._stages())]
        sizes = [len(each(stage)) for stage in self.own]
        parts = [changes[sum(sizes[:i]) : sum(sizes[: i + 1])] for i in range(len(sizes))]
        shapes: dict[torch.Size, dict[str, Tensor]] = {}
        for task, change in self.heads.by_task().items():
            shapes.setdefault(change.shape, {})[task] = change.flatten()
        heads = [(list(own), torch.stack(list(own.values()))) for own in shapes.values() if len(own) > 1]
        return [(self.tasks, torch.cat(part, 1)) for part in parts if part] + heads

    @torch.no_grad()
    def before_epoch(self, epoch: int) -> None:
        for number, (_, change) in enumerate(self.layers()):
            cast(Tensor, getattr(self, f"inverse_{number}")).copy_(covariance(change, self.floor)[1])

    def penalty(self) -> Tensor | None:
        terms = [
            (getattr(self, f"inverse_{number}") * (change @ change.T)).sum() / len(change)
            for number, (_, change) in enumerate(self.layers())
            if change.requires_grad
        ]
        return self.strength * torch.stack(terms).sum() if terms and self.strength else None

    @torch.no_grad()
    def tables(self) -> dict[str, Table]:
        """The correlations that Ω stands for, on average over the layers that two tasks have in common; else NaN."""
        total, count = torch.zeros(2, len(self.tasks), len(self.tasks))
        for names, change in self.layers():
            rows = torch.tensor([self.place[name] for name in names])
            total[rows[:, None], rows] += correlation(covariance(change, self.floor)[0]).cpu()
            count[rows[:, None], rows] += 1
        names_of_all = tuple(self.tasks)
        relation = (total / count).fill_diagonal_(1)
        return {"relation": Table("learned correlation of the tasks", names_of_all, names_of_all, relation)}


def covariance(change: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """Ω and its inverse, [T, T], from Wᵀ [T, P], in closed form."""
    tasks = len(change)
    values, vectors = torch.linalg.eigh((change @ change.T).double().cpu())
    roots = values.clamp_min(0).sqrt()
    shares = roots / roots.sum() if roots.sum() > 0 else torch.full_like(roots, 1 / tasks)
    spectrum = (1 - floor) * shares + floor / tasks
    return (vectors * spectrum @ vectors.T).to(change), (vectors / spectrum @ vectors.T).to(change)


def correlation(covariance: Tensor) -> Tensor:
    """With ones on the diagonal."""
    scale = covariance.diagonal().rsqrt()
    return covariance * scale[:, None] * scale
