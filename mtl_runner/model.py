"""The model: a sharing mode and the heads of the tasks."""

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from mtl_runner.batch import Batch, Fields
from mtl_runner.encoders.base import Encoder
from mtl_runner.imbalance.base import Criterion
from mtl_runner.seeding import seeded
from mtl_runner.sharing.base import Boundary, Sharing
from mtl_runner.tasks.base import Task
from mtl_runner.tasks.group import TaskGroup


@dataclass(frozen=True)
class Network:
    """A part of the model that trains, stops and keeps its best weights on its own."""

    groups: tuple[str, ...]
    tasks: tuple[str, ...]
    modules: tuple[nn.Module, ...]
    shares: bool = True
    """Whether the sharing mode takes part: its penalty, and what it does before and after an epoch."""

    def parameters(self) -> list[nn.Parameter]:
        """Those that are to be trained."""
        return [parameter for module in self.modules for parameter in module.parameters() if parameter.requires_grad]


class MultiTaskModel(nn.Module):
    """Tasks of one kind with the same features form a group, which runs as one operation.

    Args:
        sharing: gives each task its features.
        tasks: all tasks.
        seed: of the run.
        criteria: the imbalance criterion of a task, where it has one; a fresh object for each group is made by calling it.
        later: the tasks whose heads train in a second phase; they are in groups of their own.
    """

    def __init__(
        self,
        sharing: Sharing,
        tasks: Sequence[Task],
        seed: int,
        criteria: Mapping[str, Callable[[], Criterion]],
        later: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.sharing = sharing
        self.tasks = list(tasks)
        self.groups = nn.ModuleDict()
        for number, members in enumerate(_grouped(tasks, sharing, criteria, later)):
            criterion = criteria.get(members[0].name)
            group = TaskGroup(members, sharing.features, seed, criterion() if criterion else None)
            self.groups[f"{number}_{members[0].kind}"] = group
        self.task_groups: dict[str, TaskGroup] = dict(self.groups.items())  # type: ignore[arg-type]
        self.order = [name for group in self.task_groups.values() for name in group.names]
        self.positioned = [key for key, group in self.task_groups.items() if group.kind.per_position]
        encoders = [module for module in self.modules() if isinstance(module, Encoder)]
        self.any_length = bool(encoders) and all(encoder.any_length for encoder in encoders)
        self.routed = type(sharing).route is not Sharing.route
        with seeded(seed, "sharing", "heads"):
            sharing.meet(list(self.task_groups.values()))

    def outputs(self, inputs: Mapping[str, Fields], groups: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Outputs [T, N, …] of each group, or of the named ones."""
        boundary = self.sharing.trunk(inputs)
        outputs: dict[str, Tensor] = {}
        for key in self.task_groups if groups is None else groups:
            names = self.task_groups[key].names
            outputs[key] = self._heads(key, self.sharing.branch(names, boundary, inputs), boundary, outputs)
        return outputs

    def outputs_apart(
        self, inputs: Mapping[str, Fields], groups: Iterable[str]
    ) -> tuple[dict[str, Tensor], Boundary, list[Boundary]]:
        """Outputs as above, the boundary, and the copy of it that each group reads: leaves [T, …], a slice for each task.

        The outputs' gradients reach the copies and not the trunk. A group of one task gets its own without the first dimension.
        """
        boundary = self.sharing.trunk(inputs)
        outputs: dict[str, Tensor] = {}
        copies = []
        for key in groups:
            names = self.task_groups[key].names
            own = tuple(value.detach().expand(len(names), *value.shape).requires_grad_() for value in boundary)
            apart = len(names) > 1
            read = own if apart else tuple(copy[0] for copy in own)
            outputs[key] = self._heads(key, self.sharing.branch(names, read, inputs, apart), read, outputs, apart)
            copies.append(own)
        return outputs, boundary, copies

    def _heads(
        self, key: str, features: Tensor, boundary: Boundary, outputs: Mapping[str, Tensor], apart: bool = False
    ) -> Tensor:
        """The outputs of a group; ``outputs`` are those of the groups before it."""
        group = self.task_groups[key]
        if self.routed:
            features = self.sharing.route(group.names, features, self.by_task(outputs))
        return self.sharing.answers(group, features, boundary, apart)

    def trimmed(self, batch: Batch) -> Batch:
        """A packed batch without the padding that all of its sequences end in, where the encoder does not count positions."""
        return batch.trimmed(self.positioned) if self.any_length else batch

    def by_task(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs [N, …] of each task, from those of each group."""
        return {name: values[i] for key, values in outputs.items() for i, name in enumerate(self.task_groups[key].names)}

    def forward(self, inputs: Mapping[str, Fields]) -> dict[str, Tensor]:
        """Outputs [N, …] of each task: logits, or standardised values."""
        return self.by_task(self.outputs(inputs))

    def networks(self) -> list[Network]:
        """One where tasks are coupled; one per task where nothing is shared."""
        if not self.sharing.independent:
            return [Network(tuple(self.task_groups), tuple(self.order), (self,))]
        return [
            Network((key,), group.names, (self.sharing.network(group.names[0]), group)) for key, group in self.task_groups.items()
        ]

    def second_networks(self, later: Collection[str]) -> list[Network]:
        """The heads of these tasks, in networks as above."""
        keys = [key for key, group in self.task_groups.items() if set(group.names) & set(later)]
        parts = [[key] for key in keys] if self.sharing.independent else [keys]
        return [self._heads_of(part) for part in parts]

    def _heads_of(self, keys: Sequence[str]) -> Network:
        groups = [self.task_groups[key] for key in keys]
        return Network(tuple(keys), tuple(name for group in groups for name in group.names), tuple(groups), shares=False)

    def sizes(self) -> dict[str, int]:
        """Number of parameters of each part: shared ones, heads, and the rest (each task's own encoder or stages)."""
        known = self.sharing.shared()
        ids = {id(parameter) for parameter in known}
        shared = sum(parameter.numel() for parameter in known)
        heads = sum(parameter.numel() for parameter in self.groups.parameters() if id(parameter) not in ids)
        total = sum(parameter.numel() for parameter in self.parameters())
        return {"shared": shared, "task encoders": total - shared - heads, "heads": heads, "total": total}


def _grouped(tasks: Sequence[Task], sharing: Sharing, criteria: Mapping[str, object], later: Collection[str]) -> list[list[Task]]:
    """Tasks that may run as one, lower levels first, in the order of the first of each."""
    groups: dict[Hashable, list[Task]] = {}
    for task in tasks:
        key = (task.signature, sharing.together(task.name), id(criteria.get(task.name)), task.name in later)
        groups.setdefault(key, []).append(task)
    return sorted(groups.values(), key=lambda members: sharing.level(members[0].name))
