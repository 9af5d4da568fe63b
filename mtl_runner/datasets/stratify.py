"""Iterative stratification (Sechidis, Tsoumakas & Vlahavas, "On the stratification of multi-label data", 2011).

Divides rows among parts so that each label of each task keeps its share in each part, the rarest labels first. Three additions:

- rows with the same labels throughout are dealt out in proportion first, so that only the remainders (fewer than one row per
  part and pattern) take the iterative way; where these are too many, most rows without a rare label are dealt out by the labels
  of some tasks, and the iterative way evens out the others: a million rows in seconds;
- after the paper's loop, rows move to other parts while that brings the labels nearer to their shares (least squares): with many
  tasks, the loop alone is a few times further off;
- last, a label that is missing from a part although enough rows carry it is moved there from where it can be spared.

Shape legend: N rows, T tasks, L labels (a class of a task), P parts.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
_CLOSE = 1e-9
_MOST_ITERATED = 50_000
_COMMON = 10_000


def stratify(labels: Ints, shares: Sequence[float], generator: np.random.Generator, groups: Ints | None = None) -> Ints:
    """The part of each row, [N].

    ``labels`` [N, T]: class of each row in each task, from 0; negative: no label. ``shares`` [P]: relative sizes of the parts.
    ``groups`` [N]: rows with the same number stay together. Deterministic given the generator's state.
    """
    share = np.asarray(shares, np.float64) / np.sum(shares)
    columns = _numbered(labels)
    if groups is None:
        return _rows(columns, share, generator)
    members, group = np.unique(groups, return_inverse=True)
    return _groups(columns, group.reshape(-1), len(members), share, generator)[group.reshape(-1)]


def _rows(columns: Ints, share: Floats, generator: np.random.Generator) -> Ints:
    parts = _in_proportion(columns, share, generator)
    if (parts < 0).sum() > _MOST_ITERATED:
        parts = _dealt_coarsely(columns, share, generator)
    left = generator.permutation(np.flatnonzero(parts < 0))
    given = _given(columns, parts, len(share))
    parts[left] = _assigned([[(label, 1) for label in row if label >= 0] for row in columns[left].tolist()], share, given)
    _spread(columns, parts, len(share), np.ones(len(parts), np.int64))
    return parts


def _groups(columns: Ints, group: Ints, groups: int, share: Floats, generator: np.random.Generator) -> Ints:
    """The part of each group."""
    counts = _group_counts(columns, group, groups)
    order = generator.permutation(groups)
    parts = np.empty(groups, np.int64)
    parts[order] = _assigned([counts[item] for item in order], share, np.zeros((_size(columns), len(share))))
    carried = np.full((groups, max(map(len, counts))), -1)
    for item, labels in enumerate(counts):
        carried[item, : len(labels)] = [label for label, _ in labels]
    _spread(carried, parts, len(share), np.bincount(group, minlength=groups))
    return parts


def bins(values: Floats, count: int = 5) -> Ints:
    """Numbers as labels: the quantile bin of each, from 0; -1 where it is NaN."""
    present = values[~np.isnan(values)]
    if not len(present):
        return np.full(len(values), -1)
    edges = np.unique(np.quantile(present, np.arange(1, count) / count))
    return np.where(np.isnan(values), -1, np.searchsorted(edges, values, side="right"))


def _numbered(labels: Ints) -> Ints:
    """Labels numbered across tasks, [N, T + 1]: the last column is one label that every row carries, so that the sizes of the
    parts, rows without any label and parts that would stay empty need no rule of their own."""
    sizes = labels.max(axis=0, initial=-1) + 1
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    numbered = np.where(labels >= 0, labels + offsets[:-1], -1)
    return np.column_stack([numbered, np.full(len(labels), offsets[-1])])


def _size(columns: Ints) -> int:
    return int(columns.max(initial=0)) + 1


def _in_proportion(columns: Ints, share: Floats, generator: np.random.Generator) -> Ints:
    """Per pattern of labels, the whole rows of each part's share, drawn at random; -1 for the remainders."""
    order = generator.permutation(len(columns))
    pattern = _patterns(columns)[order]
    by_pattern = np.argsort(pattern, kind="stable")
    _, start, size = np.unique(pattern[by_pattern], return_index=True, return_counts=True)
    position = np.arange(len(columns)) - np.repeat(start, size)
    ends = np.cumsum(np.floor(size[:, None] * share + _CLOSE), axis=1)
    parts = (position[:, None] >= np.repeat(ends, size, axis=0)).sum(axis=1)
    result = np.empty(len(columns), np.int64)
    result[order[by_pattern]] = np.where(parts == len(share), -1, parts)
    return result


def _dealt_coarsely(columns: Ints, share: Floats, generator: np.random.Generator) -> Ints:
    """As ``_in_proportion``, by the labels of as many tasks as leave few remainders, and only for rows that carry no rare label
    and are not among those held back: the iterative way has these to even out the labels of the other tasks."""
    carriers = np.bincount(columns[columns >= 0], minlength=_size(columns))
    rows = generator.permutation(len(columns))[_MOST_ITERATED:]
    rows = rows[carriers[columns[rows]].min(axis=1) >= _COMMON]  # -1, no label, looks up the label that every row carries
    parts = np.full(len(columns), -1)
    tasks = columns.shape[1] - 1
    while (parts[rows] < 0).sum() > _MOST_ITERATED and tasks:
        tasks //= 2
        parts[rows] = _in_proportion(columns[rows][:, [*range(tasks), -1]], share, generator)
    return parts


def _patterns(columns: Ints) -> Ints:
    """A number per row, equal for rows with equal labels."""
    key = np.zeros(len(columns), np.int64)
    for column in columns.T[:-1]:
        _, codes = np.unique(column, return_inverse=True)
        _, key = np.unique(key * (codes.max(initial=0) + 1) + codes, return_inverse=True)
        key = key.reshape(-1)
    return key


def _given(columns: Ints, parts: Ints, count: int) -> Floats:
    """Rows of each label that each part has, [L, P]."""
    cells = np.zeros(_size(columns) * count)
    for column in columns.T:
        known = (column >= 0) & (parts >= 0)
        cells += np.bincount(column[known] * count + parts[known], minlength=len(cells))
    return cells.reshape(-1, count)


def _group_counts(columns: Ints, group: Ints, groups: int) -> list[list[tuple[int, int]]]:
    """Labels of each group with the number of rows that carry them."""
    counts: list[list[tuple[int, int]]] = [[] for _ in range(groups)]
    labels = _size(columns)
    for column in columns.T:
        known = column >= 0
        pairs, sizes = np.unique(group[known] * labels + column[known], return_counts=True)
        for pair, size in zip(pairs.tolist(), sizes.tolist(), strict=True):
            counts[pair // labels].append((pair % labels, size))
    return counts


Items = Sequence[Sequence[tuple[int, int]]]
"""Rows, or groups of rows, each as a list of (label, rows that carry it)."""


def _assigned(items: Items, share: Floats, given: Floats) -> Ints:
    """The part of each item; ``given`` [L, P]: rows of each label that the parts have already."""
    carried = np.zeros(len(given))
    for labels in items:
        for label, size in labels:
            carried[label] += size
    wanted: list[list[float]] = ((given.sum(axis=1) + carried)[:, None] * share - given).tolist()
    parts = _iterated(items, wanted, carried.tolist())
    _settle(items, wanted, parts)
    return np.array(parts, np.int64)


def _iterated(items: Items, wanted: list[list[float]], carried: Sequence[float]) -> list[int]:
    """The paper's loop; ``wanted`` [L][P] is left as what the parts still want, below 0 where they have too much.

    Takes the label with the fewest rows left; hands out its items, the largest first, each to the part that wants most of this
    label, then most rows at all; until none is left.
    """
    carriers: dict[int, list[tuple[int, int]]] = {}
    for item, labels in enumerate(items):
        for label, size in labels:
            carriers.setdefault(label, []).append((size, item))
    remaining = {label: carried[label] for label in carriers}
    room = wanted[-1]
    parts = [-1] * len(items)
    while remaining:
        label = min(remaining, key=lambda one: (remaining[one], one))
        for _, item in sorted(carriers[label], key=lambda one: -one[0]):
            if parts[item] >= 0:
                continue
            parts[item] = part = _neediest(wanted[label], room)
            for other, size in items[item]:
                wanted[other][part] -= size
                remaining[other] -= size
        remaining = {one: rows for one, rows in remaining.items() if rows and one != label}
    return parts


def _settle(items: Items, wanted: list[list[float]], parts: list[int]) -> None:
    """Move items, in place, as long as a move makes the sum of the squares of ``wanted`` smaller."""
    moved = True
    while moved:
        moved = False
        for item, labels in enumerate(items):
            source = parts[item]
            change, part = min(
                (sum((wanted[label][source] - wanted[label][other] + size) * size for label, size in labels), other)
                for other in range(len(wanted[0]))
                if other != source
            )
            if change < -_CLOSE:
                moved, parts[item] = True, part
                for label, size in labels:
                    wanted[label][part] -= size
                    wanted[label][source] += size


def _neediest(wanted: Sequence[float], room: Sequence[float]) -> int:
    best = 0
    for part in range(1, len(wanted)):
        more = wanted[part] - wanted[best]
        if more > _CLOSE or (more > -_CLOSE and room[part] > room[best] + _CLOSE):
            best = part
    return best


def _spread(carried: Ints, parts: Ints, count: int, size: Ints) -> None:
    """Moves items, in place, until each label that enough items carry is in each part, where that costs no other label its own.

    ``carried`` [items, any]: the labels of each item, -1 as padding. An item of about the same size moves back for each.
    """
    have = _given(carried, parts, count)
    needed = have.sum(axis=1) >= count
    for label, part in zip(*np.nonzero(needed[:, None] & (have == 0)), strict=True):
        if have[label, part]:
            continue
        carriers = np.flatnonzero((carried == label).any(axis=1))
        carriers = carriers[_spare(carried[carriers], parts[carriers], have, needed)]
        if not len(carriers):
            continue
        item = carriers[np.lexsort((-have[label, parts[carriers]], size[carriers]))[0]]
        source = parts[item]
        _move(item, part, carried, parts, have)
        back = np.flatnonzero((parts == part) & (size <= size[item]))
        back = back[_spare(carried[back], parts[back], have, needed) & (back != item)]
        if len(back):
            alike = (carried[back] == carried[item]).sum(axis=1) + size[back] / size[item]
            _move(back[alike.argmax()], source, carried, parts, have)


def _spare(carried: Ints, parts: Ints, have: Floats, needed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Items whose part keeps each of their labels without them."""
    enough = (have[carried, parts[:, None]] >= 2) | ~needed[carried]
    return np.asarray((enough | (carried < 0)).all(axis=1))


def _move(item: int, part: int, carried: Ints, parts: Ints, have: Floats) -> None:
    labels = carried[item][carried[item] >= 0]
    have[labels, parts[item]] -= 1
    have[labels, part] += 1
    parts[item] = part
