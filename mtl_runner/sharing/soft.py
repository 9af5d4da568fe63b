"""Soft parameter sharing."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from mtl_runner.encoders.base import EncoderFactory
from mtl_runner.sharing.networks import Networks, Strength, per_stage

Norm = Literal["l1", "l2", "group"]
_SMALL = 2**17
"""Entries of a tensor beyond which copying it takes longer than the calls that are saved."""


class Soft(Networks):
    """One network per task, and a penalty that pulls the encoders' parameters θ_1 … θ_T together.

    ========== ==================================================
    ``to``     penalty, for ``norm: l2``
    ========== ==================================================
    centroid   λ Σ_i ‖θ_i - θ̄‖², θ̄ the mean of the θ_i
    center     λ Σ_i ‖θ_i - θ_0‖², θ_0 trained with the rest
    pairs      λ Σ_{i<j} ‖θ_i - θ_j‖²; for two tasks λ ‖θ_A - θ_B‖²
    ========== ==================================================

    ``norm: l1`` has Σ |·| in place of ‖·‖², and ``norm: group`` the norm ‖·‖ of each tensor of parameters, so that some tensors
    become equal in all networks while others differ. Stages are compared across all tasks, stems among the tasks of a stream;
    heads are never pulled. Evgeniou & Pontil, Regularized multi-task learning, KDD 2004; Duong et al., Low resource dependency
    parsing, ACL 2015.

    Cost: that of T networks; those that are small run as one.

    Args:
        encoder: builds encoders of the chosen architecture.
        streams: the input stream of each task.
        strength: λ, or one for each stage of the encoder; the stem takes the first.
        norm: l2, l1 or group.
        to: what the parameters are pulled to: centroid, center or pairs.
    """

    def __init__(
        self,
        encoder: EncoderFactory,
        streams: Mapping[str, str],
        *,
        strength: Strength = 1e-3,
        norm: Norm = "l2",
        to: Literal["centroid", "center", "pairs"] = "centroid",
    ) -> None:
        super().__init__(encoder, streams)
        self.strengths = per_stage(strength, len(self.stack_list()[0].stages))
        self.norm: Norm = norm
        self.target = to
        self.center = nn.ParameterList()
        if to == "center":  # it starts in the middle of the networks
            self.center.extend(nn.Parameter(values.detach().mean(0)) for stage in self.matched() for values in stage)

    def penalty(self) -> Tensor | None:
        if not any(self.strengths) or len(self.tasks) < 2:
            return None
        terms = [strength * self._term(values, centers) for strength, values, centers in self._pulled()]
        return torch.stack(terms).sum() if terms else None

    def _pulled(self) -> list[tuple[float, list[Tensor], list[Tensor]]]:
        """Strength, values [T, P] and centres [P], where there are any, of what is pulled: of each tensor of parameters.

        Small tensors of one strength come together where the penalty is a sum over entries: a fifth of the calls.
        """
        strengths = [*self.strengths, self.strengths[0]]
        each = [(strength, values) for strength, stage in zip(strengths, self.matched(), strict=True) for values in stage]
        found: dict[object, tuple[float, list[Tensor], list[Tensor]]] = {}
        for place, (strength, values) in enumerate(each):
            if strength and values.requires_grad:  # what is frozen cannot be pulled
                joins = self.norm != "group" and values.numel() <= _SMALL
                _, beside, centers = found.setdefault((strength, len(values)) if joins else place, (strength, [], []))
                beside.append(values.flatten(1))
                centers.extend(center.flatten() for center in self.center[place : place + 1])
        return list(found.values())

    def _term(self, values: list[Tensor], centers: list[Tensor]) -> Tensor:
        """The penalty of parameters that each have T values [T, P]."""
        if self.norm == "l2" and self.target != "center":
            return spread(values) * (len(values[0]) if self.target == "pairs" else 1)
        joined = _joined(values, 1)
        if self.target == "pairs":
            return _pairs(joined, self.norm)
        difference = joined - (_joined(centers, 0) if centers else joined.mean(0))
        if self.norm == "group":
            return cast(Tensor, torch.norm(difference, dim=1).sum())  # whose gradient at 0 is 0
        return difference.abs().sum() if self.norm == "l1" else _squares(difference)


class _Spread(torch.autograd.Function):
    """Σ_i ‖v_i - v̄‖² of values that come as several [T, P]; its derivative 2 (v_i - v̄) needs none of what led to it.

    The derivative takes the place of the differences, so that there is one, as the penalty of a step: new memory of their size
    takes longer than all else.
    """

    @staticmethod
    def forward(ctx: Any, *values: Tensor) -> Tensor:
        difference = torch.cat(values, 1)
        difference -= difference.mean(0)
        ctx.save_for_backward(difference)
        ctx.widths = [part.shape[1] for part in values]
        return _squares(difference)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, ...]:
        (difference,) = ctx.saved_tensors
        return torch.split(difference.mul_(2 * upstream[0]), ctx.widths, 1)


def spread(values: Sequence[Tensor]) -> Tensor:
    """Σ_i ‖v_i - v̄‖² of v_i that come as several [T, P], in half of the time of its formula: it is in every step."""
    return cast(Tensor, _Spread.apply(*values))  # type: ignore[no-untyped-call]


def _squares(values: Tensor) -> Tensor:
    """Their sum."""
    flat = values.flatten()
    return flat @ flat


def _joined(values: Sequence[Tensor], dim: int) -> Tensor:
    return values[0] if len(values) == 1 else torch.cat(list(values), dim)


def _pairs(values: Tensor, norm: Norm) -> Tensor:
    """Σ_{i<j} of |v_i - v_j| or ‖v_i - v_j‖ of [T, P]; the first without the T² differences.

    In ascending order, the k-th of T values enters the sum of absolute differences 2k - T + 1 times (k from 0). The
    squares, which are not here, sum to T Σ_i ‖v_i - v̄‖².
    """
    if norm == "group":
        return torch.pdist(values).sum()
    tasks = len(values)
    ranks = torch.arange(tasks, dtype=values.dtype, device=values.device)
    return ((2 * ranks - tasks + 1) @ values.sort(0).values).sum()
