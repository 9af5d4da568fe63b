"""How far tasks agree, as a matrix [T, T], and the clusters that follow from it.

Shape legend: T tasks, O outputs of a task, C features that a head reads.
"""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from mtl_runner.tasks.group import TaskGroup


class HeadChange:
    """What training has added to the initial weights of the heads.

    Heads start from independent random weights, whose products say nothing and stay in the weights for long; what has been
    added since is a matter of the tasks alone.

    Args:
        owner: keeps the initial weights as buffers.
        groups: the heads; they stay the model's. Those without a weight [T, O, C] take no part.
    """

    def __init__(self, owner: nn.Module, groups: Sequence[TaskGroup]) -> None:
        self.owner = owner
        self.parts = {f"head_{i}": group for i, group in enumerate(groups) if isinstance(_weight(group), nn.Parameter)}
        for name, group in self.parts.items():
            owner.register_buffer(name, _parameter(group).detach().clone())

    def by_task(self) -> dict[str, Tensor]:
        """[O, C] of each task."""
        values: dict[str, Tensor] = {}
        for name, group in self.parts.items():
            change = _parameter(group) - cast(Tensor, getattr(self.owner, name))
            values |= dict(zip(group.names, change, strict=True))
        return values

    @torch.no_grad()
    def undo(self) -> None:
        """Back to the initial weights."""
        for name, group in self.parts.items():
            _parameter(group).copy_(cast(Tensor, getattr(self.owner, name)))


def common_features(changes: Mapping[str, Tensor], tasks: Sequence[str]) -> Tensor:
    """[T, T]: how far the heads have learned to read the same features, from 0 to 1.

    With A_t the change [O_t, C] of a head's weight, entry (t, u) is the cosine of A_tᵀA_t and A_uᵀA_u as vectors, that is
    ‖A_t A_uᵀ‖² / (‖A_t A_tᵀ‖ ‖A_u A_uᵀ‖) in Frobenius norms: for one output each, the squared cosine of two vectors. It takes
    heads with different numbers of outputs, and neither the order nor the sign of the outputs matters. 0 for heads that read
    features of different widths, or have not changed.
    """
    relation = torch.zeros(len(tasks), len(tasks))
    for width in {change.shape[1] for change in changes.values()}:
        alike = [place for place, task in enumerate(tasks) if task in changes and changes[task].shape[1] == width]
        sizes = [len(changes[tasks[place]]) for place in alike]
        rows = torch.cat([_unit(changes[tasks[place]]) for place in alike])
        owner = torch.eye(len(alike)).repeat_interleave(torch.tensor(sizes), 0).to(rows)
        places = torch.tensor(alike)
        relation[places[:, None], places] = (owner.T @ (rows @ rows.T).square() @ owner).to(relation)
    return relation


def _unit(change: Tensor) -> Tensor:
    """A / ‖A Aᵀ‖^{1/2}."""
    norm = torch.linalg.matrix_norm(change @ change.T).sqrt()
    return change * torch.where(norm > 0, 1 / norm, 0)


def clusters_of(relation: Tensor, clusters: int | None, threshold: float) -> list[int]:
    """The cluster of each task, numbered by their first tasks: agglomerative clustering with average linkage.

    Args:
        relation: [T, T], larger for tasks that agree more.
        clusters: how many there are to be; None merges while the mean relation of two clusters is above ``threshold``.
    """
    tasks = len(relation)
    if clusters == 1 or tasks == 1:
        return [0] * tasks
    if clusters is not None and clusters >= tasks:
        return list(range(tasks))
    from sklearn.cluster import AgglomerativeClustering

    known = relation.detach().double().cpu()
    distances = (1 - (known + known.T) / 2).fill_diagonal_(0).numpy()
    limit = None if clusters is not None else 1 - threshold
    method = AgglomerativeClustering(n_clusters=clusters, distance_threshold=limit, metric="precomputed", linkage="average")
    return in_order(method.fit_predict(distances).tolist())


def moved(relation: Tensor, labels: Sequence[int]) -> list[int]:
    """Each task goes to the cluster with whose other tasks it agrees most; a task alone stays where it is."""
    result, values = list(labels), relation.detach().cpu()
    for task, mine in enumerate(labels):
        members = {label: [other for other, its in enumerate(result) if its == label and other != task] for label in result}
        if members[mine]:
            means = {label: float(values[task, others].mean()) for label, others in members.items()}
            result[task] = max(means, key=lambda label: (means[label], label == mine))
    return result


def in_order(labels: Sequence[int]) -> list[int]:
    """The same clusters, numbered by their first members."""
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    return [numbers[label] for label in labels]


def _weight(group: TaskGroup) -> object:
    return getattr(group.head, "weight", None)


def _parameter(group: TaskGroup) -> nn.Parameter:
    return cast(nn.Parameter, group.head.weight)
