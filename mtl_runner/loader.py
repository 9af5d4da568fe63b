"""The rows of an epoch and its batches, by index.

Small data lives on the device, so that a batch is one gather and no worker stands in the way.
"""

from collections.abc import Iterator, Mapping
from math import ceil

import torch
from torch import Tensor

from mtl_runner.batch import Batch, Split, TargetSpec
from mtl_runner.imbalance.base import Resampler
from mtl_runner.seeding import generator


class TrainingRows:
    """The training part, chosen anew in each epoch where a resampler does so.

    Args:
        split: as it was read, with the tasks that are to be trained.
        targets: these tasks.
        resamplers: by name; each acts on the tasks that it serves, in turn.
        seed: of the run.
    """

    def __init__(self, split: Split, targets: Mapping[str, TargetSpec], resamplers: Mapping[str, Resampler], seed: int) -> None:
        self.split = split
        self.seed = seed
        served = {name: {task: targets[task] for task in resampler.serves(targets)} for name, resampler in resamplers.items()}
        self.acting = {name: (resampler, served[name]) for name, resampler in resamplers.items() if served[name]}

    def epoch(self, number: int) -> Split:
        """The rows of one epoch; they depend on seed and epoch alone."""
        split = self.split
        for name, (resampler, served) in self.acting.items():
            split = resampler(split, served, generator(self.seed, name, number))
        return split


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
