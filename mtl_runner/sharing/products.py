"""Events that happen only after others: probabilities as products along a graph of tasks.

Shape legend: T tasks of a group, K tasks whose outputs others read, N examples.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from mtl_runner.batch import labelled
from mtl_runner.encoders.stacked import Rows
from mtl_runner.errors import NotApplicable, UserError
from mtl_runner.sharing.base import own
from mtl_runner.tasks.binary import Binary
from mtl_runner.tasks.group import TaskGroup


def both(logit: Tensor, *others: Tensor) -> Tensor:
    """The logit of the product of the probabilities of all these logits.

    σ(a) σ(b) has the odds 1 / (e⁻ᵃ + e⁻ᵇ + e⁻ᵃ⁻ᵇ): nothing is rounded to 0 or 1 on the way, and no gradient to 0.
    """
    for other in others:
        a, b = logit.float(), other.float()
        logit = -torch.stack([-a, -b, -a - b]).logsumexp(0)
    return logit


class Products:
    """Heads whose outputs are logits of an event, given that the events of the task's predecessors have happened.

    Args:
        groups: the heads of all tasks, predecessors first.
        edges: of a task its predecessors.

    Raises:
        UserError: a task with an edge has no probability of its own.
    """

    def __init__(self, groups: Sequence[TaskGroup], edges: Mapping[str, Sequence[str]]) -> None:
        self.edges = edges
        before = {name for names in edges.values() for name in names}
        for group in groups:
            for name in group.names:
                if (name in before or edges.get(name)) and not isinstance(group.kind, Binary):
                    raise UserError(
                        f"sharing.through=product multiplies probabilities, and {name} is a {group.kind.kind} task; "
                        "allowed in sharing.edges are binary and ranking tasks"
                    )
        self.groups = [group for group in groups if before & set(group.names)]
        """Those with a task that others come after."""
        self.names = [name for group in self.groups for name in group.names]

    def check_labels(self, targets: Mapping[str, Tensor]) -> None:
        """Refuse an event without any label where what comes before it did not happen: P_p P_t would be fitted to P_t / P_p.

        Args:
            targets: of each task [N], NaN or negative where there is no label.

        Raises:
            NotApplicable: with the task, and the option that gives these rows a label.
        """
        for name, before in self.edges.items():
            there = labelled(targets[name])
            for other in before:
                without = targets[other] == 0
                if there.any() and without.any() and not there[without].any():
                    raise NotApplicable(
                        f"sharing.through=product: none of the {int(without.sum()):,} training rows without {other} has a label "
                        f"of {name}, which has to be 0 there (dataset.tasks.{name}: {{after: {other}, otherwise: negative}}, or "
                        "in the file); sharing.through=features and outputs take labels as they are"
                    )

    @property
    def heads(self) -> list[nn.Module]:
        """Those that the losses of other tasks reach."""
        return [group.head for group in self.groups]

    def events(self, features: Callable[[Sequence[str]], Tensor]) -> Tensor:
        """Logits [K, N] of the tasks ``names``, from a function that gives the features [T, N, …] of tasks."""
        known = torch.empty(0)
        for group in self.groups:
            given = self._after(group, group(features(group.names)), known)
            known = torch.cat([known, given]) if len(known) else given
        return known

    def answers(self, group: TaskGroup, features: Tensor, known: Tensor, apart: bool) -> Tensor:
        """Logits [T, N] of the events of a group, from what ``events`` gave, [K, N], or, ``apart``, from T copies of that."""
        if group in self.groups:
            rows: Rows = [self.names.index(name) for name in group.names]
            return own(known, rows, apart)
        return self._after(group, group(features), known, apart)

    def _after(self, group: TaskGroup, logits: Tensor, known: Tensor, apart: bool = False) -> Tensor:
        copies = known if apart else [known] * len(logits)
        before = [[self.names.index(name) for name in self.edges.get(task, ())] for task in group.names]
        return torch.stack([both(x, *(y[k] for k in places)) for x, places, y in zip(logits, before, copies, strict=True)])
