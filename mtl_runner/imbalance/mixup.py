"""Mixup, with shares of the labels that know how frequent their classes are."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from mtl_runner.batch import Batch
from mtl_runner.imbalance.base import Mixer, class_counts


class Mixup(Mixer):
    """Trains on pairs: x̃ = λ x_i + (1 - λ) x_j, with the loss λ_y L(y_i) + (1 - λ_y) L(y_j).

    λ ~ Beta(α, α), drawn for each pair; j is a permutation of the batch. The share λ_y of the first label is λ but for pairs
    whose classes differ in frequency (n_i, n_j training examples) by κ and more:

    ================================ =====
    n_i / n_j ≥ κ     and λ < τ      0
    n_i / n_j ≤ 1 / κ and 1 - λ < τ  1
    otherwise                        λ
    ================================ =====

    so that a mixture counts as one of the rarer class unless little of it is. Each task has its own λ_y, as its classes have
    their own frequencies; a task that is not served, or has no classes, has λ_y = λ. ``kappa: null`` is mixup without that.
    (A network whose tasks are all not served, as one of ``sharing=none`` may be, trains on its rows as they are.)
    A missing label adds nothing, and leaves its pair the share of the other one.

    A categorical cell cannot be mixed: it is that of i with probability λ, else that of j. Rows of a stream are mixed with rows
    of that stream.

    Zhang et al., mixup: beyond empirical risk minimization, ICLR 2018; Chou et al., Remix: rebalanced mixup, ECCV workshops 2020.
    Cost: one pass of the network for N mixtures, the loss of 2 N labels.

    Args:
        alpha: α of the Beta distribution; the larger, the nearer to one half is λ.
        kappa: κ, from which ratio of frequencies on the rarer label takes over; null: never.
        tau: τ, the share of the input up to which the rarer label does not give way.
        tasks: limit the rule of κ and τ to these tasks; all binary and multiclass tasks otherwise.
    """

    kinds = frozenset({"binary", "multiclass"})
    needs = frozenset({"numeric", "categorical", "image"})

    def __init__(
        self,
        *,
        alpha: Annotated[float, Gt(0)] = 1.0,
        kappa: Annotated[float, Ge(1)] | None = 3.0,
        tau: Annotated[float, Ge(0), Le(1)] = 0.5,
        tasks: Sequence[str] | None = None,
    ) -> None:
        super().__init__(tasks)
        self.alpha = alpha
        self.kappa = kappa
        self.tau = tau
        self._counts: dict[str, Tensor] = {}

    def fit(self, targets: Mapping[str, Tensor], served: Mapping[str, Tensor], classes: Mapping[str, int]) -> None:
        """Count the classes; those of a task that is not served are all the same."""
        if self.kappa is None:
            return
        for key, values in targets.items():
            if classes[key]:
                counts = class_counts(values.transpose(0, 1), classes[key])
                self._counts[key] = torch.where(served[key].to(counts.device)[:, None], counts, 1)

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        pairs = {stream: self._pairs(batch.size(stream), generator) for stream in batch.inputs}
        inputs = {}
        targets: dict[str, Tensor] = {}
        weights: dict[str, Tensor] = {}
        for stream, fields in batch.inputs.items():
            device = next(iter(fields.values())).device
            other, share = (tensor.to(device) for tensor in pairs[stream])
            pairs[stream] = other, share
            inputs[stream] = {name: _mixed(value, other, share, generator) for name, value in fields.items()}
        for key, first in batch.targets.items():
            other, share = pairs[batch.streams[key]]
            second = first.index_select(0, other)
            known = batch.weights.get(key, torch.ones((), device=first.device)).expand(first.shape)
            known_second = known.index_select(0, other)
            both = (known * known_second).flatten(2).any(-1) if known.ndim > 2 else known * known_second > 0
            shares = self._shares(key, first, second, share, both).view(first.shape[:2] + (1,) * (first.ndim - 2))
            targets[key] = torch.cat([first, second])
            weights[key] = torch.cat([shares * known, (1 - shares) * known_second])
        return replace(batch, inputs=inputs, targets=targets, weights=weights)

    def _pairs(self, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Of each row, the other one of its pair, and λ."""
        share = torch._sample_dirichlet(torch.full((rows, 2), self.alpha), generator=generator)[:, 0]
        return torch.randperm(rows, generator=generator), share

    def _shares(self, key: str, first: Tensor, second: Tensor, share: Tensor, both: Tensor) -> Tensor:
        """λ_y of each pair and task, [N, T]; ``both`` says where the two labels are known."""
        shares = share[:, None].expand(first.shape[:2])
        if self.kappa is None or key not in self._counts:
            return shares
        counts = self._counts[key]
        n_first, n_second = (counts.gather(1, labels.long().T).T for labels in (first, second))
        differ = both & (n_first != n_second)
        rarer_second = differ & (n_first >= self.kappa * n_second) & (shares < self.tau)
        rarer_first = differ & (n_second >= self.kappa * n_first) & (1 - shares < self.tau)
        return torch.where(rarer_second, 0.0, torch.where(rarer_first, 1.0, shares))


def _mixed(value: Tensor, other: Tensor, share: Tensor, generator: torch.Generator) -> Tensor:
    second = value.index_select(0, other)
    shares = share.view(-1, *(1,) * (value.ndim - 1))
    if value.is_floating_point():
        return torch.lerp(second, value, shares.to(value.dtype))
    first = torch.rand(value.shape, generator=generator).to(value.device) < shares
    return torch.where(first, value, second)
