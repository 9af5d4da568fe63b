"""The attention of a multi-task attention network: the masks of T tasks on the output of one stage.

Shape legend: T tasks, N examples, C channels.
"""

from typing import cast

import torch
from torch import Tensor, nn

from mtl_runner.encoders.stack import run, stack
from mtl_runner.encoders.stacked import Rows
from mtl_runner.errors import NotApplicable
from mtl_runner.sharing.channels import channels
from mtl_runner.sharing.vectors import averages

Shape = tuple[int, ...]


class Attention(nn.Module):
    """The masks of T tasks on the output of one stage.

    Args:
        count: T.
        before: shape of an example after the stage before, None for the first stage.
        shape: after the stage.
        reduction: g has C // reduction outputs.
        norm: whether f, g and h normalise.
    """

    def __init__(self, count: int, before: Shape | None, shape: Shape, reduction: int, norm: bool) -> None:
        super().__init__()
        size = channels(shape)
        width = max(1, size // reduction)
        kind = (nn.LayerNorm if len(shape) == 2 else nn.BatchNorm1d) if norm else nn.Identity
        joint = [nn.Linear(size if before is None else 2 * size, width) for _ in range(count)]
        self.shape = shape
        self.g = stack([_columns(layer, 0, size) for layer in joint])
        self.h = stack([nn.Sequential(kind(width), nn.ReLU(), nn.Linear(width, size), kind(size)) for _ in range(count)])
        if before is not None:
            self.fit = Fit(before, shape)
            # g([p; f]) as the sum of a part for p, which is the same for all tasks, and one for f
            self.g_of_f = stack([_columns(layer, size, 2 * size) for layer in joint])
            inputs = channels(before)
            self.f = stack([nn.Sequential(nn.Linear(inputs, size), kind(size), nn.ReLU()) for _ in range(count)])

    def forward(self, p: Tensor, attended: Tensor | None, there: Tensor | None, apart: bool, rows: Rows) -> Tensor:
        """[T, N, …] from p [N, …], or, ``apart``, [T, N, …], and from what the stage before was left with, [T, N, …]."""
        lines = _lines(p, self.shape)
        hidden, _ = run(self.g, lines, None, apart, rows)
        if attended is not None:
            carried = self.fit(attended, self.f, there, rows)
            hidden = hidden + run(self.g_of_f, carried, None, True, rows)[0]
        mask, _ = run(self.h, hidden, None, True, rows)
        return _from_lines(mask.sigmoid(), self.shape, p)


class Fit(nn.Module):
    """Applies f to what a stage was left with and brings it to the positions of the next one, as lines [T, N · positions, C].

    Args:
        before: shape of an example after the stage.
        after: after the next one.
    """

    def __init__(self, before: Shape, after: Shape) -> None:
        super().__init__()
        self.before, self.after = before, after
        self.pooled = len(after) == 1 and len(before) > 1
        if not self.pooled and (len(before) != len(after) or (len(before) == 2 and before[0] != after[0])):
            raise NotApplicable(
                f"sharing=mtan: a stage of this encoder makes {list(after)} of {list(before)}, which attention cannot follow"
            )
        sides = zip(before[1:], after[1:], strict=True) if len(before) == len(after) == 3 and before[1:] != after[1:] else ()
        for name, (size, fields) in zip(("rows", "columns"), sides, strict=False):
            self.register_buffer(name, averages(size, fields), persistent=False)
        self.resized = bool(sides)

    def forward(self, x: Tensor, f: nn.Module, there: Tensor | None, rows: Rows) -> Tensor:
        if self.pooled:
            return run(f, _to_vectors(x, there), None, True, rows)[0]
        lines, _ = run(f, _lines(x, self.before), None, True, rows)
        if not self.resized:
            return lines
        maps = _from_lines(lines, self.before, x)
        resized: Tensor = (maps.mT @ cast(Tensor, self.rows)).mT @ cast(Tensor, self.columns)
        return _lines(resized, self.after)


def _columns(layer: nn.Linear, first: int, end: int) -> nn.Linear:
    """The part of a layer that reads some of its inputs; the bias goes with the first."""
    part = nn.Linear(end - first, layer.out_features, bias=first == 0)
    part.weight = nn.Parameter(layer.weight[:, first:end].detach().clone())
    if first == 0:
        part.bias = layer.bias
    return part


def _lines(x: Tensor, shape: Shape) -> Tensor:
    """[…, N · positions, C] from […, N, *shape]."""
    if len(shape) == 1:
        return x
    return (x.movedim(-3, -1).flatten(-4, -2) if len(shape) == 3 else x.flatten(-3, -2)).contiguous()


def _from_lines(lines: Tensor, shape: Shape, like: Tensor) -> Tensor:
    """The positions as in another tensor: sequences of another stream may have another length."""
    if len(shape) == 1:
        return lines
    if len(shape) == 2:
        return torch.unflatten(lines, -2, (-1, like.shape[-2]))
    return torch.unflatten(lines, -2, (-1, *like.shape[-2:])).movedim(-1, -3)


def _to_vectors(x: Tensor, there: Tensor | None) -> Tensor:
    """[T, N, C]: means over the pixels of maps [T, N, C, H, W], or the positions of sequences [T, N, L, C] that are there."""
    if x.ndim == 5:
        return x.flatten(-2).mean(-1)
    if there is None:
        return x.mean(-2)
    return x.masked_fill(~there.unsqueeze(-1), 0).sum(-2) / there.sum(-1, keepdim=True).clamp(min=1)
