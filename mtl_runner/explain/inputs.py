"""What counts as one input of a task, and a model's outputs on inputs that were changed.

Shape legend: N rows, P values of a field side by side, I inputs of a stream, T tasks of one kind.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, prod

import torch
from torch import Tensor

from mtl_runner.batch import Fields, Split, StreamSpec
from mtl_runner.evaluate import predict
from mtl_runner.model import MultiTaskModel
from mtl_runner.tasks.base import Task
from mtl_runner.tasks.group import TaskGroup

MOST_BLOCKS = 64
"""Patches of an image, or runs of positions of a sequence, that are inputs of their own."""
AT_ONCE = 2**14
"""Rows that go through the model together."""


@dataclass(frozen=True)
class Input:
    """What is looked at as one thing: a column with its marker of missing values, a patch of an image, a run of positions."""

    name: str
    field: str
    places: tuple[int, ...]
    """Where it stands among the field's P values."""


def inputs_of(spec: StreamSpec) -> list[Input]:
    """The inputs of a stream, in its order; each value of each field belongs to one of them.

    Images are cut into the smallest square patches of which there are at most ``MOST_BLOCKS``, all channels together; sequences
    into runs of positions, alike.
    """
    found: list[Input] = []
    for field, shape in spec.fields.items():
        if field == "image":
            found += _patches(field, shape, spec.names.get(field, ()))
        elif field == "tokens":
            found += _runs(field, shape[0])
        else:
            found += _columns(field, prod(shape), spec.names.get(field, ()))
    return found


def _columns(field: str, count: int, names: Sequence[str]) -> list[Input]:
    known = set(names)
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names or [f"{field} {place}" for place in range(count)]):
        value = name.removesuffix(" is missing")
        places.setdefault(value if value in known else name, []).append(place)
    return [Input(name, field, tuple(own)) for name, own in places.items()]


def _patches(field: str, shape: Sequence[int], names: Sequence[str]) -> list[Input]:
    channels, height, width = shape
    side = next(side for side in range(1, max(height, width) + 1) if ceil(height / side) * ceil(width / side) <= MOST_BLOCKS)
    grid = torch.arange(channels * height * width).view(channels, height, width)
    found = []
    for top in range(0, height, side):
        for left in range(0, width, side):
            places = grid[:, top : top + side, left : left + side].flatten().tolist()
            down, right = (str(start) if side == 1 else f"{start}:{start + side}" for start in (top, left))
            name = names[places[0]] if names and len(places) == 1 else f"{field}[{down}, {right}]"
            found.append(Input(name, field, tuple(places)))
    return found


def _runs(field: str, length: int) -> list[Input]:
    size = ceil(length / MOST_BLOCKS)
    runs = [range(start, min(start + size, length)) for start in range(0, length, size)]
    return [Input(f"position {run[0] + 1}" + f"–{run[-1] + 1}" * (len(run) > 1), field, tuple(run)) for run in runs]


@dataclass(frozen=True)
class View:
    """The tasks that read one stream, on a packed split.

    Args:
        model: in evaluation mode.
        split: of this stream, packed.
        stream: its name.
        others: an example of each other stream, for modes that ask for all of them.
    """

    model: MultiTaskModel
    split: Split
    stream: str
    others: Mapping[str, Fields]

    @property
    def fields(self) -> Fields:
        return self.split.inputs[self.stream]

    @property
    def groups(self) -> dict[str, TaskGroup]:
        """Those that read the stream, and whose metric looks at all examples at once."""
        groups = self.model.task_groups.items()
        return {key: group for key, group in groups if group.stream == self.stream and not group.kind.streaming}

    @property
    def tasks(self) -> list[Task]:
        """Those of the groups, in the order of the run."""
        return [task for task in self.model.tasks if task.spec.stream == self.stream and not task.streaming]

    @property
    def order(self) -> list[int]:
        """Where the tasks stand among those of the groups, one group after the other."""
        names = [name for group in self.groups.values() for name in group.names]
        return [names.index(task.name) for task in self.tasks]

    def inputs(self, fields: Fields) -> dict[str, Fields]:
        """All streams, with ``fields`` in place of the stream's own."""
        return {**self.others, self.stream: fields}

    def outputs(self, fields: Fields) -> dict[str, Tensor]:
        """Outputs [T, N, …] of each group, without gradients."""
        targets = {key: self.split.targets[key] for key in self.groups}
        return predict(self.model, Split(self.inputs(fields), targets, self.split.streams), AT_ONCE)


def owners(inputs: Sequence[Input], field: str, count: int) -> Tensor:
    """[P]: the position among ``inputs`` of the one that each value of a field belongs to."""
    owner = torch.empty(count, dtype=torch.long)
    for position, each in enumerate(inputs):
        if each.field == field:
            owner[list(each.places)] = position
    return owner
