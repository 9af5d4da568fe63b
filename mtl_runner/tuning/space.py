"""What a search draws from: a range or a list of choices for each key or group, some only where others have a given value."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from mtl_runner.config.schema import mapping_problems
from mtl_runner.errors import UserError, choices, nearest
from mtl_runner.tuning.domains import Choices, Range, text

if TYPE_CHECKING:
    from optuna.trial import Trial

_EXPECTED = "{low: …, high: …} or {choices: […]} is expected"


@dataclass(frozen=True)
class Dimension:
    """One key or group of the space."""

    key: str
    domain: Range | Choices
    when: Mapping[str, Sequence[str]]
    """The choices of earlier keys at which this one is drawn."""


class Space:
    """All that a search draws.

    Args:
        node: of the configuration, by key or group, ``{low, high, log, step, when}`` or ``{choices, when}``; a condition names a
            key above it.

    Raises:
        UserError: with everything that is wrong with it, a line each.
    """

    def __init__(self, node: Mapping[str, Any]) -> None:
        if not node:
            raise UserError(
                "search.space={}: is empty; name what to search: 'search.space={optimizer.lr:{low:1e-4,high:1e-2,log:true}}'"
            )
        self.dimensions: list[Dimension] = []
        lines: list[str] = []
        for key, values in node.items():
            place = f"search.space.{key}"
            wrong = _problems(values, place) or self._add(str(key), _domain(values), place)
            lines += wrong
        if lines:
            raise UserError("\n".join(lines))

    def _add(self, key: str, domain: Range | Choices, place: str) -> list[str]:
        if problem := domain.problem():
            return [f"{place}: {problem}"]
        when = {str(name): _texts(value) for name, value in domain.when.items()}
        earlier = {each.key: each.domain.probes() for each in self.dimensions if isinstance(each.domain, Choices)}
        lines = []
        for name, values in when.items():
            if name not in earlier:
                known = (
                    f"a key above it with choices is expected: {choices(earlier)}" if earlier else "no key above it has choices"
                )
                lines.append(f"{place}.when.{name}: {known}{nearest(name, earlier)}")
                continue
            unknown = [value for value in values if value not in earlier[name]]
            lines += [
                f"{place}.when.{name}={value}: choose from {choices(earlier[name])}{nearest(value, earlier[name])}"
                for value in unknown
            ]
        self.dimensions.append(Dimension(key, domain, when))
        return lines

    def draw(self, trial: "Trial") -> dict[str, str]:
        """The values of a trial by key, as the command line has them."""
        drawn: dict[str, str] = {}
        for each in self.dimensions:
            if _holds(each.when, drawn):
                drawn[each.key] = each.domain.draw(each.key, trial)
        return drawn

    def drawn(self, params: Mapping[str, Any]) -> dict[str, str]:
        """As ``draw`` returned it, from the values that the study has of a trial."""
        domains = {each.key: each.domain for each in self.dimensions}
        return {key: value if isinstance(domains[key], Choices) else text(value) for key, value in params.items()}

    def contexts(self, dimension: Dimension) -> Iterator[dict[str, str]]:
        """Choices of earlier keys under which a dimension has to make sense, all that it is drawn at.

        Those are what its conditions allow and, of a key inside a group that is searched, every option of the group; the first
        option of a condition's own conditions stands for them all.
        """
        places: dict[str, Sequence[str]] = {}
        for each in self.dimensions[: self.dimensions.index(dimension)]:
            if isinstance(each.domain, Choices) and dimension.key.startswith(f"{each.key}."):
                places[each.key] = each.domain.probes()
        asked = dict(dimension.when)
        for name in [each.key for each in reversed(self.dimensions) if each.key in asked]:
            above = next(each for each in self.dimensions if each.key == name)
            asked |= {key: values[:1] for key, values in above.when.items() if key not in asked}
        yield from _product({**places, **asked})


def _domain(values: Mapping[str, Any]) -> Range | Choices:
    return Choices(**values) if "choices" in values else Range(**values)


def _problems(values: Any, place: str) -> list[str]:
    if not isinstance(values, Mapping):
        return [f"{place}={text(values)}: {_EXPECTED}"]
    if not {"choices", "low", "high"} & set(values):
        if any(isinstance(each, Mapping) for each in values.values()):
            whole = f"{place.removeprefix('search.space.')}.{next(iter(values))}"
            return [f"{place}: {_EXPECTED}; a key with dots is written in one piece: {whole}"]
        return [f"{place}: {_EXPECTED}{nearest(next(iter(values), ''), ('choices', 'low', 'high'))}"]
    return mapping_problems(values, Choices if "choices" in values else Range, f"{place}.")


def _texts(value: Any) -> list[str]:
    return [text(each) for each in value] if isinstance(value, list) else [text(value)]


def _holds(when: Mapping[str, Sequence[str]], drawn: Mapping[str, str]) -> bool:
    return all(drawn.get(key) in values for key, values in when.items())


def _product(places: Mapping[str, Sequence[str]]) -> Iterator[dict[str, str]]:
    for values in product(*places.values()):
        yield dict(zip(places, values, strict=True))
