"""Batches by index: small data lives on the device, so that a batch is one gather and no worker stands in the way."""

from collections.abc import Iterator
from math import ceil

import torch
from torch import Tensor

from mtl_runner.batch import Batch, Split
from mtl_runner.seeding import generator


class IndexLoader:
    """Batches of a split that is already on the device, in an order that depends on seed and epoch alone.

    An epoch passes once through the longest stream; a shorter one begins anew, in another order, as often as needed. A
    last batch of a single row is left out where there are others: batch normalisation cannot take it.

    Args:
        batch_size: rows of each stream in a batch.
        seed: of the run.
        device: where the split is.
    """

    def __init__(self, batch_size: int, seed: int, device: torch.device) -> None:
        self.batch_size = batch_size
        self.seed = seed
        self.device = device

    def batches(self, split: Split) -> int:
        """Number of batches in an epoch."""
        longest = max(split.size(stream) for stream in split.inputs)
        return max(1, ceil(longest / self.batch_size) - (longest % self.batch_size == 1))

    def epoch(self, split: Split, number: int) -> Iterator[Batch]:
        """The batches of one epoch."""
        count = self.batches(split)
        longest = max(split.size(stream) for stream in split.inputs)
        orders = {
            stream: self._order(stream, split.size(stream), longest, number).split(self.batch_size) for stream in split.inputs
        }
        for i in range(count):
            yield split.take({stream: pieces[i] for stream, pieces in orders.items()})

    def _order(self, stream: str, rows: int, longest: int, number: int) -> Tensor:
        draws = generator(self.seed, "order", stream, number)
        passes = [torch.randperm(rows, generator=draws) for _ in range(ceil(longest / rows))]
        return torch.cat(passes)[:longest].to(self.device)
