"""Which tasks should share a network, when there is a budget of networks.

Shape legend: T tasks, K networks.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Groups = list[list[int]]
EXACT = 12
"""Tasks up to which the best of all partitions is found; in 3^T steps for each network."""


def score(affinity: NDArray[np.float64], groups: Iterable[Sequence[int]]) -> float:
    """Σ over tasks u of the mean of affinity[t, u] over the other tasks t of u's group; 0 for a task alone.

    The objective of Standley et al., Which tasks should be learned together in multi-task learning?, ICML 2020, with the gains
    of larger groups predicted from those of pairs, as Fifty et al., NeurIPS 2021, do. Here each task is in one group.
    """
    total = 0.0
    for group in groups:
        inside = affinity[np.ix_(group, group)]
        total += (inside.sum() - inside.trace()) / max(len(group) - 1, 1)
    return float(total)


def proposed(affinity: NDArray[np.float64], networks: int) -> Groups:
    """The partition of the T tasks into at most ``networks`` groups with the highest ``score``, by their first tasks.

    Exact for up to ``EXACT`` tasks; of more, the best of average linkage's partitions, from which single tasks are moved as long
    as that helps. A pair without a value counts as 0: it neither helps nor harms.
    """
    known = np.nan_to_num(np.asarray(affinity, dtype=np.float64), nan=0.0)
    networks = min(networks, len(known))
    groups = _best(known, networks) if len(known) <= EXACT else _improved(known, _linked(known, networks), networks)
    return sorted(sorted(group) for group in groups)


def symmetric(affinity: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of both directions, divided by the largest absolute value between two tasks; unknown pairs are 0."""
    both = (np.nan_to_num(affinity, nan=0.0) + np.nan_to_num(affinity.T, nan=0.0)) / 2
    np.fill_diagonal(both, 0)
    both /= np.abs(both).max() or 1.0
    np.fill_diagonal(both, 1)
    return both


def linkage(affinity: NDArray[np.float64]) -> NDArray[np.float64]:
    """scipy's matrix of average linkage on 1 - ``symmetric(affinity)``, leaves in their optimal order."""
    from scipy.cluster import hierarchy
    from scipy.spatial.distance import squareform

    distances = squareform(1 - symmetric(affinity), checks=False)
    return np.asarray(hierarchy.linkage(distances, "average", optimal_ordering=True))


def _best(affinity: NDArray[np.float64], networks: int) -> Groups:
    """By dynamic programming over the sets of tasks, as bits; the lowest task of a set is in the group that is split off."""
    count = len(affinity)
    members = [[task for task in range(count) if subset >> task & 1] for subset in range(1 << count)]
    values = [score(affinity, [group]) for group in members]
    known, taken = values, [list(range(1 << count))]  # with one group: the whole set
    for _ in range(networks - 1):
        best, choice = values[:], list(range(1 << count))
        for subset in range(1, 1 << count):
            others = rest = subset & (subset - 1)  # without the lowest task
            while rest:  # what is left for the further groups
                value = values[subset ^ rest] + known[rest]
                if value > best[subset] + 1e-12:
                    best[subset], choice[subset] = value, subset ^ rest
                rest = (rest - 1) & others
        known = best
        taken.append(choice)
    groups, subset = [], (1 << count) - 1
    while subset:
        group = taken.pop()[subset]
        groups.append(members[group])
        subset ^= group
    return groups


def _linked(affinity: NDArray[np.float64], networks: int) -> Groups:
    """The best of the partitions that average linkage passes through."""
    from scipy.cluster.hierarchy import cut_tree

    labels = cut_tree(linkage(affinity), range(1, networks + 1)).T
    partitions = [[np.flatnonzero(row == label).tolist() for label in np.unique(row)] for row in labels]
    return max(partitions, key=lambda groups: score(affinity, groups))


def _improved(affinity: NDArray[np.float64], groups: Groups, networks: int) -> Groups:
    """Single tasks go where the score grows most, until it grows no more."""
    groups = [*groups, *([] for _ in range(networks - len(groups)))]
    while True:
        gains = [
            (_gain(affinity, groups, task, mine, other), task, mine, other)
            for mine, group in enumerate(groups)
            for task in group
            for other in range(networks)
            if other != mine
        ]
        gain, task, mine, other = max(gains, default=(0.0, 0, 0, 0))
        if gain <= 1e-12:
            return [group for group in groups if group]
        groups[mine].remove(task)
        groups[other].append(task)


def _gain(affinity: NDArray[np.float64], groups: Groups, task: int, mine: int, other: int) -> float:
    before = groups[mine], groups[other]
    after = [each for each in groups[mine] if each != task], [*groups[other], task]
    return score(affinity, after) - score(affinity, before)
