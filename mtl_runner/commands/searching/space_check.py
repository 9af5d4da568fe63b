"""A search's space against the configuration: every key is there, and takes the values that may be drawn."""

import re
from collections.abc import Iterator, Mapping

from omegaconf import DictConfig

from mtl_runner.commands.searching.drawn import CommandLine
from mtl_runner.config import GROUPS, problems
from mtl_runner.errors import UserError, choices, nearest
from mtl_runner.tuning.space import Dimension, Space

_SEARCHED = (*(group for group in GROUPS if group != "tracker"), "trainer", "seed", "init_from")
"""The keys and groups that change what a run finds."""


def space_problems(space: Space, line: CommandLine) -> list[str]:
    """What is wrong, a line each: all ends of ranges and all choices are put into the configuration once.

    Combinations are not tried: what only shows in them is a trial that is not applicable.
    """
    lines: dict[str, None] = {}
    for dimension in space.dimensions:
        found = [_key_problem(dimension.key)] if _key_problem(dimension.key) else _value_problems(dimension, space, line)
        lines.update(dict.fromkeys(f"search.space: {line}" for line in found))
    return list(lines)


def _key_problem(key: str) -> str | None:
    head = key.lstrip("+").partition(".")[0]
    if not re.fullmatch(r"\+?[A-Za-z_][\w.]*", key) or head not in _SEARCHED:
        return f"{key}: is nothing to search; allowed are keys and options of {choices(_SEARCHED)}{nearest(head, _SEARCHED)}"
    return None


def _value_problems(dimension: Dimension, space: Space, line: CommandLine) -> Iterator[str]:
    for context in space.contexts(dimension):
        at = ", ".join(f"{key}={value}" for key, value in context.items())
        for value in dimension.domain.probes():
            if wrong := _wrong({**context, dimension.key: value}, dimension.key, line):
                yield f"{wrong}{f' (at {at})' if at else ''}"
                break


def _wrong(drawn: Mapping[str, str], key: str, line: CommandLine) -> str | None:
    """The first thing that is wrong with a configuration and comes of the value of one key of it."""
    try:
        task = line(drawn).task
    except UserError as error:
        return str(error).splitlines()[0]
    head, wrong = key.lstrip("+").partition(".")[0], problems(task, line.allowed)
    if wrong or key in GROUPS:
        return next((each for each in wrong if each.startswith(head)), None)
    return _refused(task, drawn, key, line)


def _refused(task: DictConfig, drawn: Mapping[str, str], key: str, line: CommandLine) -> str | None:
    """What a value makes impossible: a negative learning rate, say, which only the optimizer knows of."""
    from mtl_runner.build import check_combination

    try:
        check_combination(task)
    except UserError as error:
        try:
            check_combination(line({name: value for name, value in drawn.items() if name != key}).task)
        except UserError:  # not this key's fault
            return None
        return f"{key}={drawn[key]}: {error}"
    return None
