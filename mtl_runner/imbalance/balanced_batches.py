"""Batches in which the classes are equally frequent."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mtl_runner.batch import Split, TargetSpec, labelled
from mtl_runner.imbalance.base import Sampler
from mtl_runner.imbalance.rows import has_label, labelled_on, on, passes, plain_sizes


class BalancedBatches(Sampler):
    """Fills the positions of an epoch's batches with the classes in turn, so that every batch has as many of each.

    For one task on a stream: the numbers of any two classes in a batch differ by at most 1, and so do those in the epoch.
    The rows of a class come in random order, each once before any comes again; those of a rare class therefore several times
    in an epoch, while a frequent class is not seen as a whole. Batches are as many and as large as without it.

    For T tasks on the same rows the positions are dealt to the tasks in turn, and those of a task to its classes in turn: of a
    batch of B rows each task chooses B / T (± 1), among them as many of each of its classes (± 1). Rows keep all their labels.
    So what is balanced for a task are the rows that it chose itself; those that the others chose come with its classes as they
    happen to be there, and over the whole batch its shares lie between balance and those of the data. With more tasks than rows
    in a batch, the turn of the rest comes in the next one.

    Classes without a row have no turn. Rows with no label of a served task, but one of another, keep their share of
    the positions; rows without any label are left out. Streams without a served task are gone through in random order.

    Args:
        tasks: balance these tasks only; all binary and multiclass tasks otherwise.
    """

    kinds = frozenset({"binary", "multiclass", "ranking"})

    def __init__(self, *, tasks: Sequence[str] | None = None) -> None:
        super().__init__(tasks)

    def plan(
        self, split: Split, targets: Mapping[str, TargetSpec], batch_size: int, generator: torch.Generator
    ) -> list[dict[str, Tensor]]:
        sizes = plain_sizes(split, batch_size)
        orders = {stream: _order(split, stream, targets, sum(sizes), generator).split(sizes) for stream in split.inputs}
        return [{stream: pieces[batch] for stream, pieces in orders.items()} for batch in range(len(sizes))]


def _order(split: Split, stream: str, targets: Mapping[str, TargetSpec], count: int, generator: torch.Generator) -> Tensor:
    """The rows at the ``count`` positions of an epoch."""
    served = labelled_on(split, stream, targets)
    if not served:
        return passes(torch.arange(split.size(stream)), count, generator)
    chosen = torch.stack([labelled(split.targets[name]) for name in served]).any(0)
    rest = torch.stack([has_label(split.targets[name]) for name in on(split, stream)]).any(0) & ~chosen
    share = int(rest.sum()) / int((chosen | rest).sum())
    ends = ((torch.arange(count + 1, dtype=torch.float64) + 0.5) * share).floor()
    of_rest = ends.diff() > 0  # spread evenly, so that each batch has them in the same share
    order = torch.empty(count, dtype=torch.long)
    order[of_rest] = passes(rest.nonzero().squeeze(1), int(of_rest.sum()), generator)
    groups = [_classes(split.targets[name], targets[name]) for name in served]
    order[~of_rest] = _in_turn(groups, int((~of_rest).sum()), generator)
    return order


def _classes(target: Tensor, spec: TargetSpec) -> list[Tensor]:
    rows = [(target == label).nonzero().squeeze(1) for label in range(len(spec.classes))]
    return [own for own in rows if len(own)]


def _in_turn(tasks: list[list[Tensor]], count: int, generator: torch.Generator) -> Tensor:
    """``count`` rows: each position belongs to the next task, each of a task's to its next class, in a random turn."""
    order = torch.empty(count, dtype=torch.long)
    for first, task in enumerate(torch.randperm(len(tasks), generator=generator).tolist()):
        classes = tasks[task]
        positions = torch.arange(count)[first :: len(tasks)]
        for turn, label in enumerate(torch.randperm(len(classes), generator=generator).tolist()):
            own = positions[turn :: len(classes)]
            order[own] = passes(classes[label], len(own), generator)
    return order
