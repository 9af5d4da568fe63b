"""Which of several groups is best: by validation, over the seeds and splits that they have in common."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, nan

from mtl_runner.analysis.values import Series, Unit, mean


@dataclass(frozen=True)
class Choice:
    """The best group, and what it was chosen by."""

    best: str
    values: Mapping[str, float]
    """By group: mean of the validation averages over ``units``; NaN of a group that takes no part."""
    units: frozenset[Unit]
    """The seeds and splits that all groups have that take part."""
    most: int
    """How many of them the first group to take part has."""

    @property
    def left_out(self) -> tuple[str, ...]:
        """The groups that take no part."""
        return tuple(name for name, value in self.values.items() if not isfinite(value)) if self.units else ()


def choose(validation: Mapping[str, Series]) -> Choice:
    """The group with the highest mean of the validation averages, the first of several; ``validation`` is by group.

    Groups take part one by one, those first whose seeds and splits most others have, as long as at least half of the first one's
    remain in common: means over different splits compare the splits, and one group of few runs would leave the others no split.
    """
    known = {name: {unit for unit, value in series.items() if isfinite(value)} for name, series in validation.items()}
    having = Counter(unit for units in known.values() for unit in units)
    first, *others = sorted(known, key=lambda name: -sum(having[unit] for unit in known[name]))
    units, part = known[first], [first]
    for name in others:
        if units and 2 * len(units & known[name]) >= len(known[first]):
            units, part = units & known[name], [*part, name]
    means = {name: mean([validation[name][unit] for unit in sorted(units)]) if name in part else nan for name in validation}
    best = max(part, key=lambda name: (means[name], -list(validation).index(name))) if units else next(iter(validation))
    return Choice(best, means, frozenset(units), len(known[first]))
