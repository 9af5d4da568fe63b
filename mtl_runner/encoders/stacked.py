"""T layers of one kind as one operation.

Twenty small networks one after the other spend their time on calls, not on arithmetic: their matrices as one tensor
[T, out, in] need one call for all.

Shape legend: T modules, N examples.
"""

from collections.abc import Sequence
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mtl_runner.batch import Fields
from mtl_runner.encoders.base import Dropout
from mtl_runner.encoders.stems import VectorStem

Rows = Sequence[int] | None
"""Which of the T modules are to run; all of them for None."""


class Stacked(nn.Module):
    """T modules as one.

    Args:
        count: T.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Any, mask: Tensor | None = None, apart: bool = False, rows: Rows = None) -> Tensor:
        """[T, N, …] from x [N, …] that all read, or, ``apart``, from x [T, N, …]; with ``rows`` T is their number."""
        raise NotImplementedError

    def each(self) -> list[Tensor]:
        """The T values [T, …] of each parameter of one module, in the order that it has them."""
        return list(self.parameters())

    def length(self, rows: Rows) -> int:
        return self.count if rows is None else len(rows)

    def train(self, mode: bool = True) -> Self:
        """What is frozen stays in evaluation mode, as in an encoder."""
        parameters = list(self.parameters())
        return super().train(mode and (not parameters or any(parameter.requires_grad for parameter in parameters)))


def chosen(values: Tensor, rows: Rows) -> Tensor:
    """The entries of ``rows`` along the first dimension; a view where they follow each other."""
    if rows is None:
        return values
    first, count = rows[0], len(rows)
    return values[first : first + count] if list(rows) == list(range(first, first + count)) else values[list(rows)]


def stacked_parameter(values: Sequence[Tensor]) -> nn.Parameter:
    """[T, …]; trained if any is."""
    return nn.Parameter(torch.stack([value.detach() for value in values]), any(value.requires_grad for value in values))


class StackedLinear(Stacked):
    """T linear layers."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__(len(layers))
        self.weight = stacked_parameter([layer.weight for layer in layers])  # [T, out, in]
        self.bias = None if layers[0].bias is None else stacked_parameter([layer.bias for layer in layers])  # [T, out]

    def forward(self, x: Tensor, mask: Tensor | None = None, apart: bool = False, rows: Rows = None) -> Tensor:
        weight, bias = chosen(self.weight, rows), None if self.bias is None else chosen(self.bias, rows)
        count, outputs, _ = weight.shape
        if not apart and x.ndim == 2 and not x.requires_grad:  # the input itself: the same matrix T times is the faster way
            x, apart = x.expand(count, *x.shape), True
        if not apart:
            flat = functional.linear(x, weight.flatten(0, 1), None if bias is None else bias.flatten())
            return cast(Tensor, flat.unflatten(-1, (count, outputs))).movedim(-2, 0)
        lines = x.flatten(1, -2)
        product = lines @ weight.mT if bias is None else torch.baddbmm(bias[:, None], lines, weight.mT)
        return product.view(*x.shape[:-1], outputs)


class StackedLayerNorm(Stacked):
    """T normalisations over the last dimensions, each with its scale and shift."""

    def __init__(self, layers: Sequence[nn.LayerNorm]) -> None:
        super().__init__(len(layers))
        self.shape, self.eps = list(layers[0].normalized_shape), layers[0].eps
        self.weight = stacked_parameter([layer.weight for layer in layers])
        self.bias = stacked_parameter([layer.bias for layer in layers])

    def forward(self, x: Tensor, mask: Tensor | None = None, apart: bool = False, rows: Rows = None) -> Tensor:
        normal = functional.layer_norm(x, self.shape, eps=self.eps)
        inner = (1,) * (x.ndim - int(apart) - len(self.shape))
        weight, bias = (chosen(values, rows).view(-1, *inner, *self.shape) for values in (self.weight, self.bias))
        return torch.addcmul(bias, normal, weight)


class StackedBatchNorm(Stacked):
    """T batch normalisations of vectors."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, layers: Sequence[nn.BatchNorm1d]) -> None:
        super().__init__(len(layers))
        self.eps, self.momentum = layers[0].eps, cast(float, layers[0].momentum)
        self.weight = stacked_parameter([layer.weight for layer in layers])
        self.bias = stacked_parameter([layer.bias for layer in layers])
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, torch.stack([cast(Tensor, getattr(layer, name)) for layer in layers]))

    def forward(self, x: Tensor, mask: Tensor | None = None, apart: bool = False, rows: Rows = None) -> Tensor:
        count = self.length(rows)
        side_by_side = x.transpose(0, 1).flatten(1) if apart else x.repeat(1, count)
        mean, variance = chosen(self.running_mean, rows), chosen(self.running_var, rows)
        if rows is not None:
            mean, variance = mean.clone(), variance.clone()
        weight, bias = chosen(self.weight, rows).flatten(), chosen(self.bias, rows).flatten()
        normal = functional.batch_norm(
            side_by_side, mean.flatten(), variance.flatten(), weight, bias, self.training, self.momentum, self.eps
        )
        if self.training:
            self._keep(mean, variance, rows)
        return cast(Tensor, normal.unflatten(1, (count, -1))).transpose(0, 1)

    def _keep(self, mean: Tensor, variance: Tensor, rows: Rows) -> None:
        """The statistics of some of the T, which were copies; where all run ``batch_norm`` has moved them in place."""
        if rows is None:
            self.num_batches_tracked += 1
        else:
            self.running_mean[list(rows)], self.running_var[list(rows)] = mean, variance
            self.num_batches_tracked[list(rows)] += 1


class StackedDropout(Stacked):
    """T dropouts, each with the masks that its network would draw alone."""

    def __init__(self, layers: Sequence[Dropout]) -> None:
        super().__init__(len(layers))
        self.layers = nn.ModuleList(layers)
        self.p = layers[0].p

    def forward(self, x: Tensor, mask: Tensor | None = None, apart: bool = False, rows: Rows = None) -> Tensor:
        x = x if apart else x.expand(self.length(rows), *x.shape)
        if not self.training or self.p == 0:
            return x
        keep = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        layers = self.layers if rows is None else [self.layers[row] for row in rows]
        for layer, part in zip(layers, keep, strict=True):
            part.bernoulli_(1 - self.p, generator=cast(Dropout, layer).generator(x.device))
        return x * keep / (1 - self.p)


class StackedVectorStem(Stacked):
    """T stems of the same columns, each with its own vectors of the categories."""

    def __init__(self, stems: Sequence[VectorStem]) -> None:
        super().__init__(len(stems))
        self.fields = stems[0].fields
        tables = zip(*([table.weight for table in stem.embeddings] for stem in stems), strict=True)
        self.embeddings = nn.ParameterList(stacked_parameter(cast(list[Tensor], list(table))) for table in tables)

    def forward(self, x: Fields, mask: Tensor | None = None, apart: bool = False, rows: Rows = None) -> Tensor:
        parts = [part for name in self.fields for part in self._parts(name, x[name], rows)]
        return torch.cat(parts, -1)

    def _parts(self, name: str, value: Tensor, rows: Rows) -> list[Tensor]:
        if name != "categorical":
            return [value.flatten(1).expand(self.length(rows), -1, -1)]
        return [self._vectors(table, value[:, column], rows) for column, table in enumerate(self.embeddings)]

    def _vectors(self, table: Tensor, index: Tensor, rows: Rows) -> Tensor:
        """[T, N, size]; the vector of index 0, a category that training does not know, stays zero."""
        vectors = chosen(table, rows).index_select(1, index)
        return vectors * (index != 0).unsqueeze(-1)
