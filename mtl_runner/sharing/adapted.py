"""The parts of a shared encoder that are each task's own.

Shape legend: T tasks, N examples; rows [T · N, …] are those of one task after the other.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mtl_runner.encoders.stacked import Rows, Stacked, StackedBatchNorm, chosen, stacked_parameter
from mtl_runner.sharing.channels import ChannelMaps, channels


class Bottleneck(Stacked):
    """x + U σ(D x + c) + b for each of T tasks; U and b are zero at the start.

    Args:
        count: T.
        shape: of one example.
        width: rows of D.
    """

    def __init__(self, count: int, shape: Sequence[int], width: int) -> None:
        super().__init__(count)
        self.down = ChannelMaps(count, shape, width)
        inner = (width, 1, 1) if len(shape) == 3 else (*shape[:-1], width)
        self.up = ChannelMaps(count, inner, channels(shape))
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor, mask: Tensor | None = None, apart: bool = False, rows: Rows = None) -> Tensor:
        inner = functional.gelu(self.down(x, None, apart, rows))
        return x + self.up(inner, None, True, rows)  # type: ignore[no-any-return]

    def size(self) -> Tensor:
        return squared_norm(self.up.weight, self.down.weight)


class LowRank(nn.Module):
    """A linear layer W that is W + scale · B_t A_t for the rows of task t; B is zero at the start, A as torch's layers.

    Args:
        layer: W and its bias.
        count: T.
        rank: of B_t A_t.
        scale: α / r.
    """

    def __init__(self, layer: nn.Linear, count: int, rank: int, scale: float) -> None:
        super().__init__()
        self.layer = layer
        self.scale = scale
        self.rows: Rows = None
        """The tasks whose rows come in, one task after the other."""
        self.A = stacked_parameter([nn.Linear(layer.in_features, rank, bias=False).weight for _ in range(count)])
        self.B = nn.Parameter(torch.zeros(count, layer.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        down, up = chosen(self.A, self.rows), chosen(self.B, self.rows)
        lines = x.reshape(len(down), -1, x.shape[-1])
        change = torch.bmm(torch.bmm(lines, down.mT), up.mT).flatten(0, 1)
        y = self.layer(x)
        return y + self.scale * change.view(y.shape)  # type: ignore[no-any-return]

    def private(self) -> list[nn.Parameter]:
        return [self.A, self.B]

    def size(self) -> Tensor:
        return self.scale**2 * squared_norm(self.B, self.A)


def squared_norm(up: Tensor, down: Tensor) -> Tensor:
    """‖U_t D_t‖², [T], from U [T, out, r] and D [T, r, in]."""
    return ((up.mT @ up) * (down @ down.mT)).sum((1, 2))


class TaskNorm(nn.Module):
    """Batch normalisation of each task's rows, with statistics, scale and shift of its own.

    Args:
        layer: that all start from.
        count: T.
    """

    def __init__(self, layer: nn.Module, count: int) -> None:
        super().__init__()
        self.norm = StackedBatchNorm([cast(nn.BatchNorm1d, layer)] * count)
        self.rows: Rows = None
        """The tasks whose rows come in, one task after the other."""

    def forward(self, x: Tensor) -> Tensor:
        """From x [T · N, C] or [T · N, C, …], where positions count as rows."""
        each = x.unflatten(0, (self.norm.length(self.rows), -1)).movedim(2, -1)
        normal: Tensor = self.norm(each.flatten(1, -2), None, True, self.rows)
        return normal.view(each.shape).movedim(-1, 2).flatten(0, 1)

    def private(self) -> list[nn.Parameter]:
        return list(self.parameters())


def low_rank(part: nn.Module) -> list[LowRank]:
    """Those inside a part of an encoder."""
    return [module for module in part.modules() if isinstance(module, LowRank)]


def replace(module: nn.Module, kind: type[nn.Module], make: Callable[[Any], nn.Module]) -> None:
    """Put what is made of it in the place of each layer of a kind below the module."""
    for name, child in list(module.named_children()):
        if isinstance(child, kind):
            setattr(module, name, make(child))
        else:
            replace(child, kind, make)
