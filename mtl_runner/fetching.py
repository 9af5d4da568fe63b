"""Examples that are made into tensors only when a batch needs them: images in main memory as bytes, or in their files."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import tee
from typing import Any, Self, TypeGuard, cast

import torch
from torch import Tensor

from mtl_runner.batch import Batch, Fields


class Stored(ABC):
    """A field [N, …] that is not a tensor yet. Rows are chosen as of one, at no cost; ``fetch`` makes the tensor.

    ``Batch`` takes, slices and moves it as it does tensors; what runs a model asks ``fetched`` for batches of tensors.
    """

    device: torch.device

    @property
    @abstractmethod
    def shape(self) -> torch.Size:
        """Of the tensor."""

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    @abstractmethod
    def __getitem__(self, rows: slice | Tensor) -> Self:
        """These rows."""

    def index_select(self, dim: int, rows: Tensor) -> Self:
        return self[rows]

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """The same, to be fetched to ``device``."""

    @abstractmethod
    def same_as(self, other: object) -> bool:
        """Whether the other one has the same rows of the same source."""

    @abstractmethod
    def fetch(self) -> Tensor:
        """The tensor, on the device."""

    def fetch_all(self, pieces: Iterable[Self]) -> Iterator[Tensor]:
        """The tensors of some pieces of this field, in their order; a subclass may look ahead."""
        return (piece.fetch() for piece in pieces)


def is_stored(value: object) -> TypeGuard[Stored]:
    """Whether a field is no tensor yet, whatever its type says."""
    return isinstance(value, Stored)


def as_tensors(fields: Fields) -> Fields:
    """The fields of some rows of one stream, fetched."""
    return {name: value.fetch() if is_stored(value) else value for name, value in fields.items()}


def at_once(batch: Batch) -> Batch:
    """A batch with tensors in all fields."""
    return replace(batch, inputs={stream: as_tensors(fields) for stream, fields in batch.inputs.items()})


def fetched(split: Batch, batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches, which are pieces of ``split``, with tensors in all fields."""
    stored = [
        (stream, name, value) for stream, fields in split.inputs.items() for name, value in fields.items() if is_stored(value)
    ]
    if not stored:
        yield from batches
        return
    *copies, last = tee(batches, len(stored) + 1)  # a field that looks ahead takes its rows from a copy of its own
    tensors = [
        cast(Any, field).fetch_all(batch.inputs[stream][name] for batch in copy)
        for copy, (stream, name, field) in zip(copies, stored, strict=True)
    ]
    for batch in last:
        inputs = {stream: dict(fields) for stream, fields in batch.inputs.items()}
        for (stream, name, _), tensor in zip(stored, tensors, strict=True):
            inputs[stream][name] = next(tensor)
        yield replace(batch, inputs=inputs)
