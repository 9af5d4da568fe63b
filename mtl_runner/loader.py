"""The rows of an epoch and its batches, by index.

Small data lives on the device, so that a batch is one gather and no worker stands in the way.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import ceil

import torch
from torch import Tensor

from mtl_runner.batch import Augmentation, Batch, Split, TargetSpec
from mtl_runner.fetching import fetched
from mtl_runner.imbalance.base import Mixer, Resampler, Sampler, Strategy
from mtl_runner.imbalance.rows import plain_sizes, same_rows
from mtl_runner.seeding import generator

BatchRows = Sequence[Mapping[str, Tensor]]
"""Of each batch of an epoch, the rows of each stream."""


POOL = 16
"""Batches whose rows are sorted by length together."""


class TrainingRows:
    """The training part: what a resampler makes of it, in the batches that a sampler plans, mixed by a mixer. On the CPU.

    Args:
        split: as it was read, with the tasks that are to be trained.
        targets: these tasks.
        strategies: by name; each acts on the tasks that it serves. At most one chooses rows, and at most one mixes.
        seed: of the run.
        augmentation: what the data set does to the examples of a batch.
    """

    def __init__(
        self,
        split: Split,
        targets: Mapping[str, TargetSpec],
        strategies: Mapping[str, Strategy],
        seed: int,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.split = split
        self.seed = seed
        self.augmentation = augmentation
        self.targets = targets
        self._resampler: tuple[str, Resampler] | None = None
        self._sampler: tuple[str, Sampler] | None = None
        self._mixer: tuple[str, Mixer] | None = None
        for name, strategy in strategies.items():
            if not strategy.serves(targets):
                continue
            if isinstance(strategy, Resampler):
                self._resampler = name, strategy
            elif isinstance(strategy, Sampler):
                self._sampler = name, strategy
            elif isinstance(strategy, Mixer):
                self._mixer = name, strategy
        self._made: tuple[int, Split] | None = None

    @property
    def renewed(self) -> bool:
        """Whether the rows of an epoch may be others than those of the epoch before."""
        return self._resampler is not None and self._resampler[1].renewed

    def epoch(self, number: int) -> Split:
        """The rows of one epoch; they depend on seed and epoch alone."""
        if self._resampler is None:
            return self.split
        name, resampler = self._resampler
        key = number if resampler.renewed else 0
        if self._made is None or self._made[0] != key:
            self._made = key, resampler(self.split, self._served(resampler), generator(self.seed, name, key))
        return self._made[1]

    def plan(self, number: int, batch_size: int) -> BatchRows | None:
        """The rows of each batch of an epoch, where a sampler chooses them."""
        if self._sampler is None:
            return None
        name, sampler = self._sampler
        return sampler.plan(self.split, self._served(sampler), batch_size, generator(self.seed, name, number))

    def sizes(self) -> tuple[int, int]:
        """Rows of all streams before and after resampling; equal, too, where it finds nothing to do."""
        made = self.epoch(0)
        return tuple(sum(split.size(stream) for stream in split.inputs) for split in (self.split, made))  # type: ignore[return-value]

    def unchanged(self) -> bool:
        """Whether a resampler leaves every row as it is."""
        return self._resampler is not None and same_rows(self.epoch(0), self.split)

    def seen(self, batch_size: int) -> Split:
        """What an epoch of training is made of, each example as often as it comes up."""
        split, plan = self.epoch(0), self.plan(0, batch_size)
        return (
            split if plan is None else split.take({stream: torch.cat([rows[stream] for rows in plan]) for stream in split.inputs})
        )

    def fit(self, packed: Split, names: Mapping[str, Sequence[str]]) -> None:
        """Show the training targets, by group, to the mixer; ``names`` are the tasks of each group."""
        if self._mixer is not None:
            served = self._served(self._mixer[1])
            chosen = {key: torch.tensor([name in served for name in group]) for key, group in names.items()}
            classes = {key: len(self.targets[group[0]].classes) for key, group in names.items()}
            self._mixer[1].fit(packed.targets, chosen, classes)

    def mixed(self, batch: Batch, step: int, part: int = 0) -> Batch:
        """What a step trains on, or a part of it; what is drawn depends on seed, step and part alone."""
        if self._mixer is None:
            return batch
        name, mixer = self._mixer
        return mixer(batch, generator(self.seed, name, step, part))

    def augmented(self, batch: Batch, step: int) -> Batch:
        """The batch of a step, by task, as the data set augments it; what is drawn depends on seed and step alone."""
        return self.augmentation(batch, generator(self.seed, "augmentation", step)) if self.augmentation else batch

    def _served(self, strategy: Strategy) -> dict[str, TargetSpec]:
        return {task: self.targets[task] for task in strategy.serves(self.targets)}


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

    def batches(self, split: Split, plan: BatchRows | None = None) -> int:
        """Number of batches in an epoch."""
        if plan is not None:
            return len(plan)
        return len(plain_sizes(split, self.batch_size))

    def epoch(self, split: Split, number: int, plan: BatchRows | None = None) -> Iterator[Batch]:
        """The batches of one epoch: those of ``plan``, where there is one."""
        orders = self._orders(split, number) if plan is None else plan
        yield from fetched(split, (split.take({name: rows.to(self.device) for name, rows in order.items()}) for order in orders))

    def _orders(self, split: Split, number: int) -> Iterator[dict[str, Tensor]]:
        longest = max(split.size(stream) for stream in split.inputs)
        orders = {stream: self._order(stream, split, longest, number).split(self.batch_size) for stream in split.inputs}
        for i in range(self.batches(split)):
            yield {stream: pieces[i] for stream, pieces in orders.items()}

    def _order(self, stream: str, split: Split, longest: int, number: int) -> Tensor:
        draws, rows = generator(self.seed, "order", stream, number), split.size(stream)
        passes = [torch.randperm(rows, generator=draws) for _ in range(ceil(longest / rows))]
        order = torch.cat(passes)[:longest]
        if "tokens" in split.inputs[stream]:
            lengths = (split.inputs[stream]["tokens"] != 0).sum(1).cpu()
            order = alike(order, lengths[order], self.batch_size, draws)
        return order.to(self.device)


def alike(order: Tensor, lengths: Tensor, batch_size: int, draws: torch.Generator) -> Tensor:
    """The same rows so that those of a batch are about as long as each other: less of it is padding.

    Each ``POOL`` batches in a row are sorted by length, cut into batches again, and these shuffled; which rows can meet is still
    a matter of chance. What is left for a last, smaller batch stays there.

    Args:
        order: rows in the order of an epoch, [N].
        lengths: of the sequence of each, [N].
        batch_size: rows of a batch.
        draws: of the shuffling.
    """
    whole = len(order) // batch_size * batch_size
    pieces = []
    for pool, sizes in zip(order[:whole].split(POOL * batch_size), lengths[:whole].split(POOL * batch_size), strict=True):
        batches = pool[sizes.argsort(stable=True)].view(-1, batch_size)
        pieces.append(batches[torch.randperm(len(batches), generator=draws)].flatten())
    return torch.cat([*pieces, order[whole:]])
