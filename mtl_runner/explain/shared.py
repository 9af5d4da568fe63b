"""Which inputs tasks have in common.

Shape legend: T tasks, I inputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from mtl_runner.explain.permutation import Floats


@dataclass(frozen=True)
class Pair:
    """Two tasks, and how alike their use of the inputs is."""

    one: str
    other: str
    importance: float
    """Cosine of the drops that shuffling causes, those below 0 as 0; NaN where a task has none."""
    attribution: float
    """Cosine of the mean absolute attributions."""
    jaccard: float
    """Inputs that both surely use / inputs that one of them surely uses; NaN where neither uses any."""
    both: tuple[str, ...]
    only_one: tuple[str, ...]
    only_other: tuple[str, ...]


def pairs(tasks: Sequence[str], names: Sequence[str], drop: Floats, strength: Floats, used: NDArray[np.bool_]) -> list[Pair]:
    """Every two tasks, in their order.

    Args:
        tasks: T names.
        names: of the I inputs.
        drop: of the primary metric, [T, I].
        strength: mean absolute attribution, [T, I].
        used: which inputs a task surely uses, [T, I].
    """

    def named(which: NDArray[np.bool_]) -> tuple[str, ...]:
        return tuple(name for name, yes in zip(names, which, strict=True) if yes)

    def pair(a: int, b: int) -> Pair:
        either = int((used[a] | used[b]).sum())
        return Pair(
            tasks[a],
            tasks[b],
            cosine(drop[a].clip(min=0), drop[b].clip(min=0)),
            cosine(strength[a], strength[b]),
            float((used[a] & used[b]).sum()) / either if either else np.nan,
            named(used[a] & used[b]),
            named(used[a] & ~used[b]),
            named(used[b] & ~used[a]),
        )

    return [pair(a, b) for a, b in combinations(range(len(tasks)), 2)]


def cosine(a: Floats, b: Floats) -> float:
    """Of two vectors, entries that are NaN in either left out; NaN where one of them has no length."""
    there = ~(np.isnan(a) | np.isnan(b))
    lengths = float(np.linalg.norm(a[there]) * np.linalg.norm(b[there]))
    return float(a[there] @ b[there]) / lengths if lengths else np.nan
