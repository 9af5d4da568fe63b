"""Training parts with further or fewer examples. Further ones come last; their tasks say for themselves which of them count.

An example that is there for the sake of one task need not count for the others: without their labels it changes nothing for
them. That is how several tasks on the same rows are balanced at once, each exactly.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import ceil

import torch
from torch import Tensor

from mtl_runner.batch import MISSING, Fields, Split, labelled
from mtl_runner.fetching import Stored


def on(split: Split, stream: str) -> list[str]:
    """The tasks that read a stream."""
    return [task for task, read in split.streams.items() if read == stream]


def labelled_on(split: Split, stream: str, tasks: Iterable[str]) -> list[str]:
    """Those of ``tasks`` that read a stream and have any label."""
    return [task for task in tasks if split.streams[task] == stream and bool(labelled(split.targets[task]).any())]


def repeated(split: Split, stream: str, further: Mapping[str, Tensor], alone: bool = True) -> Split:
    """The split with rows of ``stream`` once more: ``further`` has those that each task asks for.

    ``alone``: such an example has the labels of the tasks that asked for it only, and a row that several asked for is there as
    often as the one that wants most of it. Else each wish is a row of its own, with the labels of all tasks.
    """
    size = split.size(stream)
    untouched = {name: torch.arange(split.size(name)) for name in split.inputs}
    if not alone:
        return split.take({**untouched, stream: torch.cat([untouched[stream], *further.values()])})
    wanted = {task: torch.bincount(rows, minlength=size) for task, rows in further.items()}
    most = torch.stack(list(wanted.values())).amax(0) if wanted else torch.zeros(size, dtype=torch.long)
    copies = torch.repeat_interleave(untouched[stream], most)
    number = torch.arange(len(copies)) - (most.cumsum(0) - most)[copies]  # of the copy, among those of its row
    grown = split.take({**untouched, stream: torch.cat([untouched[stream], copies])})
    targets = dict(grown.targets)
    original = torch.zeros(size, dtype=torch.bool)
    for task in on(split, stream):
        asked = number < wanted[task][copies] if task in wanted else torch.zeros_like(copies, dtype=torch.bool)
        targets[task] = unlabelled_at(targets[task], torch.cat([original, ~asked]))
    return replace(grown, targets=targets)


def with_examples(
    split: Split, stream: str, fields: Fields, labels: Mapping[str, Tensor], weights: Mapping[str, Tensor] | None = None
) -> Split:
    """The split with new examples of ``stream``; a task that is not in ``labels`` has none for them, and ``row`` is -1.

    ``weights``, by task: those of the new examples, where the task has weights; 1 if not given.
    """
    count = len(next(iter(fields.values())))
    inputs = {name: torch.cat([value, fields[name].to(value.dtype)]) for name, value in split.inputs[stream].items()}
    targets, known_weights = dict(split.targets), dict(split.weights)
    for task in on(split, stream):
        known = targets[task]
        new = labels[task].to(known.dtype) if task in labels else unlabelled_at(known.new_empty(count, *known.shape[1:]))
        targets[task] = torch.cat([known, new])
        if task in known_weights:
            given = known_weights[task].new_ones(count) if weights is None or task not in weights else weights[task]
            known_weights[task] = torch.cat([known_weights[task], given])
    context = {
        name: torch.cat([value, torch.full((count, *value.shape[1:]), -1).to(value.dtype)])
        for name, value in split.context.get(stream, {}).items()
    }
    return replace(
        split,
        inputs={**split.inputs, stream: inputs},
        targets=targets,
        weights=known_weights,
        context={**split.context, **({stream: context} if context else {})},
    )


def without(split: Split, stream: str, lost: Mapping[str, Tensor]) -> Split:
    """The split in which tasks have lost their labels at the rows of ``stream`` marked in ``lost``, a mask [N] for each task.

    A row that thereby loses its last label is taken out.
    """
    tasks = on(split, stream)
    targets = {**split.targets, **{task: unlabelled_at(split.targets[task], mask) for task, mask in lost.items()}}
    keep = torch.ones(split.size(stream), dtype=torch.bool)
    if tasks:
        before, after = (torch.stack([has_label(of[task]) for task in tasks]).any(0) for of in (split.targets, targets))
        keep = after | ~before
    masked = replace(split, targets=targets)
    if keep.all():
        return masked
    rows = {name: torch.arange(split.size(name)) for name in split.inputs}
    return masked.take({**rows, stream: keep.nonzero().squeeze(1)})


def unlabelled_at(targets: Tensor, where: Tensor | None = None) -> Tensor:
    """Targets without a label at the rows ``where`` (None: at all)."""
    nothing = torch.full_like(targets, float("nan") if targets.is_floating_point() else MISSING)
    if where is None:
        return nothing
    return torch.where(where.view(-1, *(1,) * (targets.ndim - 1)), nothing, targets)


def has_label(targets: Tensor) -> Tensor:
    """Mask [N] of the rows with any label, for targets [N, …]."""
    return labelled(targets).flatten(1).any(1) if targets.ndim > 1 else labelled(targets)


def same_rows(one: Split, other: Split) -> bool:
    """Whether inputs and targets are the same, missing labels included."""
    sizes = [[split.size(stream) for stream in split.inputs] for split in (one, other)]
    return sizes[0] == sizes[1] and all(_same(a, b) for a, b in zip(_tensors(one), _tensors(other), strict=True))


def _same(one: Tensor | Stored, other: Tensor | Stored) -> bool:
    if isinstance(one, Stored):
        return one.same_as(other)
    assert isinstance(other, Tensor)
    return torch.equal(one.nan_to_num(), other.nan_to_num()) if one.is_floating_point() else torch.equal(one, other)


def _tensors(split: Split) -> list[Tensor]:
    return [*(value for fields in split.inputs.values() for value in fields.values()), *split.targets.values()]


def plain_sizes(split: Split, batch_size: int) -> list[int]:
    """How many rows of each stream the batches of an epoch have where nothing chooses them: once through the longest stream.

    A last batch of one row is left out where there are others.
    """
    longest = max(split.size(stream) for stream in split.inputs)
    count = max(1, ceil(longest / batch_size) - (longest % batch_size == 1))
    return [min(batch_size, longest - batch * batch_size) for batch in range(count)]


def passes(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` of the rows in random order: each comes once before any comes again."""
    times = ceil(count / len(rows)) if count else 0
    orders = [rows[torch.randperm(len(rows), generator=generator)] for _ in range(times)]
    return torch.cat([rows[:0], *orders])[:count]
