"""Weights that stay on the simplex: non-negative, with the sum 1."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def project(values: Tensor, active: Tensor) -> Tensor:
    """The point of the simplex over the active entries that is closest to ``values``, [..., T]; 0 for the others."""
    return closest(values.masked_fill(~active, -torch.inf), inverse_ranks(values)).masked_fill_(~active, 0)


def closest(values: Tensor, inverses: Tensor) -> Tensor:
    """The same over all entries; entries far below the others become 0. ``inverses`` are the ``inverse_ranks``.

    It is max(v - θ, 0) with θ = max_k (v₁ + … + v_k - 1) / k over the k largest entries (Held, Wolfe & Crowder 1974).
    """
    # entries that are more than 1 below the largest are 0 in any case; without them nothing cancels, however large they are
    values = (values - values.amax(-1, keepdim=True)).clamp_min_(-1)
    sums = values.sort(-1, descending=True).values.cumsum(-1)
    return values.sub_(sums.sub_(1).mul_(inverses).amax(-1, keepdim=True)).clamp_min_(0)


def inverse_ranks(like: Tensor) -> Tensor:
    """1, 1/2, …, 1/T."""
    return 1 / torch.arange(1, like.shape[-1] + 1, device=like.device, dtype=like.dtype)


class OnSimplex(nn.Module):
    """Weights λ of T tasks that are carried from step to step, 1/T each at first.

    A task that is not active keeps its λ, and the others share the rest among them.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.values = torch.full((count,), 1 / count, dtype=torch.float64)

    def start(self, like: Tensor, active: Tensor) -> Tensor:
        """λ over the active tasks, with the sum 1; equal weights for a batch of problems, which know no earlier steps."""
        kept = self.values.to(like) if active.dim() == 1 else torch.ones_like(like)
        kept = kept.masked_fill(~active, 0)
        nothing = kept.sum(-1, keepdim=True) == 0
        kept = torch.where(nothing, active.to(like), kept)
        return kept / kept.sum(-1, keepdim=True).masked_fill(nothing & ~active.any(-1, keepdim=True), 1)

    def keep(self, weights: Tensor, active: Tensor) -> None:
        """Go on from ``weights``; nothing is kept of a batch of problems."""
        if active.dim() == 1:
            values = self.values.to(weights)
            self.values = torch.where(active, weights * values.masked_fill(~active, 0).sum(), values)

    def get_extra_state(self) -> dict[str, Tensor]:
        return {"values": self.values}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        self.values = state["values"].clone()
