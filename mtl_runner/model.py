"""The model: a sharing mode and the heads of the tasks."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from mtl_runner.batch import Fields
from mtl_runner.imbalance.base import Criterion
from mtl_runner.sharing.base import Boundary, Sharing
from mtl_runner.tasks.base import Task
from mtl_runner.tasks.group import TaskGroup


@dataclass(frozen=True)
class Network:
    """A part of the model that trains, stops and keeps its best weights on its own."""

    groups: tuple[str, ...]
    tasks: tuple[str, ...]
    modules: tuple[nn.Module, ...]

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
    """

    def __init__(
        self, sharing: Sharing, tasks: Sequence[Task], seed: int, criteria: Mapping[str, Callable[[], Criterion]]
    ) -> None:
        super().__init__()
        self.sharing = sharing
        self.tasks = list(tasks)
        self.groups = nn.ModuleDict()
        for number, members in enumerate(_grouped(tasks, sharing, criteria)):
            criterion = criteria.get(members[0].name)
            group = TaskGroup(members, sharing.features, seed, criterion() if criterion else None)
            self.groups[f"{number}_{members[0].kind}"] = group
        self.task_groups: dict[str, TaskGroup] = dict(self.groups.items())  # type: ignore[arg-type]
        self.order = [name for group in self.task_groups.values() for name in group.names]

    def outputs(self, inputs: Mapping[str, Fields], groups: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Outputs [T, N, …] of each group, or of the named ones."""
        boundary = self.sharing.trunk(inputs)
        chosen = self.task_groups if groups is None else groups
        return {
            key: self.task_groups[key](self.sharing.branch(self.task_groups[key].names[0], boundary, inputs)) for key in chosen
        }

    def outputs_apart(
        self, inputs: Mapping[str, Fields], groups: Iterable[str]
    ) -> tuple[dict[str, Tensor], Boundary, list[Boundary]]:
        """Outputs as above, the boundary, and the copy of it that each group reads: leaves [T, …], a slice for each task.

        The outputs' gradients reach the copies and not the trunk. Tasks that run as one read the boundary as it is, so their
        copies may have the further dimension; a group of one task gets its own without it.
        """
        boundary = self.sharing.trunk(inputs)
        outputs, copies = {}, []
        for key in groups:
            group = self.task_groups[key]
            own = tuple(value.detach().expand(len(group.names), *value.shape).requires_grad_() for value in boundary)
            apart = len(group.names) > 1
            features = self.sharing.branch(group.names[0], own if apart else tuple(copy[0] for copy in own), inputs)
            outputs[key] = group(features, apart)
            copies.append(own)
        return outputs, boundary, copies

    def forward(self, inputs: Mapping[str, Fields]) -> dict[str, Tensor]:
        """Outputs [N, …] of each task: logits, or standardised values."""
        outputs = self.outputs(inputs)
        return {name: outputs[key][i] for key, group in self.task_groups.items() for i, name in enumerate(group.names)}

    def networks(self) -> list[Network]:
        """One where tasks are coupled; one per task where nothing is shared."""
        if not self.sharing.independent:
            return [Network(tuple(self.task_groups), tuple(self.order), (self,))]
        return [
            Network((key,), group.names, (self.sharing.network(group.names[0]), group)) for key, group in self.task_groups.items()
        ]

    def sizes(self) -> dict[str, int]:
        """Number of parameters of each part: shared ones, heads, and the rest (each task's own encoder or stages)."""
        shared = sum(parameter.numel() for parameter in self.sharing.shared())
        heads = sum(parameter.numel() for parameter in self.groups.parameters())
        total = sum(parameter.numel() for parameter in self.parameters())
        return {"shared": shared, "task encoders": total - shared - heads, "heads": heads, "total": total}


def _grouped(tasks: Sequence[Task], sharing: Sharing, criteria: Mapping[str, object]) -> list[list[Task]]:
    """Tasks that may run as one, in the order of the first of each."""
    groups: dict[Hashable, list[Task]] = {}
    for task in tasks:
        key = (task.signature, sharing.together(task.name), id(criteria.get(task.name)))
        groups.setdefault(key, []).append(task)
    return list(groups.values())
