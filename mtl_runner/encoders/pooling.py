"""From a sequence [N, L, width] to one vector per example, [N, width].

``mask`` [N, L] says which positions are there; None: all.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Pooling = Callable[[Tensor, Tensor | None], Tensor]


def first(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """The vector at the first position, that of [CLS]."""
    return x[:, 0]


def mean(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over the positions that are there; zero where there are none."""
    if mask is None:
        return x.mean(1)
    return everywhere(x, mask).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def largest(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """The largest value of each unit over the positions that are there; zero where there are none."""
    if mask is None:
        return x.amax(1)
    low = x.masked_fill(~mask.unsqueeze(-1), torch.finfo(x.dtype).min)
    return low.amax(1).masked_fill(~mask.any(1, keepdim=True), 0)


def everywhere(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """All positions, [N, L, width]; zero where there is none."""
    return x if mask is None else x.masked_fill(~mask.unsqueeze(-1), 0)


def at(x: Tensor, position: Tensor) -> Tensor:
    """The vector of each example at a position of its own, [N]."""
    return x.gather(1, position.view(-1, 1, 1).expand(-1, 1, x.shape[2])).squeeze(1)


class Pooled(nn.Module):
    """A stage that ends in a pooling: after(pooling(before(stage(x))))."""

    def __init__(
        self, stage: nn.Module, pooling: Pooling, *, before: nn.Module | None = None, after: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.stage = stage
        self.before = before or nn.Identity()
        self.pooling = pooling
        self.after = after or nn.Identity()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.before(self.stage(x) if mask is None else self.stage(x, mask))
        return self.after(self.pooling(x, mask))  # type: ignore[no-any-return]
