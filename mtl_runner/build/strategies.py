"""Imbalance strategies from the configuration."""

import functools
from collections.abc import Collection, Mapping
from typing import cast

from mtl_runner.batch import StreamSpec, TargetSpec
from mtl_runner.build.words import Node
from mtl_runner.config import plug
from mtl_runner.errors import NotApplicable, UserError, choices, nearest
from mtl_runner.imbalance.base import Adjuster, Criterion, Mixer, Strategy


def one_per_place(places: Mapping[str, str]) -> None:
    taken: dict[str, str] = {}
    for name, place in places.items():
        if (other := taken.setdefault(place, name)) != name:
            raise NotApplicable(f"imbalance=[{other},{name}]: both act on the {place}, where only one can; choose one of them")


def make_strategies(config: Node) -> dict[str, Strategy]:
    """The imbalance strategies by name, fresh."""
    nodes = {name: node for name, node in (config["imbalance"] or {}).items() if node}
    return {name: cast(Strategy, plug(node, "imbalance", config["allow_modules"])()) for name, node in nodes.items()}


def check_strategies(config: Node, targets: Mapping[str, TargetSpec], streams: Mapping[str, StreamSpec]) -> list[str]:
    """What is to be said about the tasks that the imbalance strategies leave alone.

    Raises:
        UserError: two at one place, a task that does not exist, none that a strategy could serve, inputs that it cannot.
    """
    strategies, notes = make_strategies(config), []
    one_per_place({name: strategy.place for name, strategy in strategies.items()})
    for name, strategy in strategies.items():
        _check_tasks(name, strategy, targets)
        served = strategy.serves(targets)
        if not served:
            kinds = ", ".join(sorted(strategy.kinds))
            raise NotApplicable(f"imbalance={name}: none of the tasks {choices(targets)} can be served; it is for {kinds} tasks")
        strategy.check({task: targets[task] for task in served})
        for task in targets if isinstance(strategy, Mixer) else served:  # a mixture is one of all streams
            if strategy.needs and not (fields := set(streams[targets[task].stream].fields)) <= strategy.needs:
                raise NotApplicable(other_fields(name, strategy.needs, fields, f"the inputs of {task} have"))
        left = [task for task in targets if task not in served]
        if left:
            stay = "stays as it is" if len(left) == 1 else "stay as they are"
            notes.append(f"imbalance={name} acts on {', '.join(served)}; {', '.join(left)} {stay}")
    return notes


def _check_tasks(name: str, strategy: Strategy, targets: Mapping[str, TargetSpec]) -> None:
    """What a user may say in ``tasks``."""
    key, kinds = f"imbalance.{name}.tasks", " and ".join(sorted(strategy.kinds))
    if strategy.tasks is not None and not strategy.tasks:
        raise UserError(f"{key}: names no task; null means all that it can serve")
    for task in strategy.tasks or ():
        if task not in targets:
            raise UserError(f"{key}: there is no task {task}; the tasks are {choices(targets)}{nearest(task, targets)}")
        if targets[task].kind not in strategy.kinds:
            raise UserError(f"{key}: {task} is a {targets[task].kind} task, and imbalance={name} is for {kinds} tasks")


def other_fields(name: str, needs: Collection[str], fields: Collection[str], whose: str) -> str:
    return f"imbalance={name} works on {' and '.join(sorted(needs))} inputs, and {whose} {choices(sorted(fields))}"


def make_adjusters(config: Node, targets: Mapping[str, TargetSpec]) -> dict[str, Adjuster]:
    """What is to choose how the outputs of a task are read, by task."""
    adjusters = [each for each in make_strategies(config).values() if isinstance(each, Adjuster)]
    return {task: adjuster for adjuster in adjusters for task in adjuster.serves(targets)}


def make_criteria(config: Node, targets: Mapping[str, TargetSpec]) -> dict[str, functools.partial[Criterion]]:
    """The factory of each task's criterion: one object for all the tasks that a strategy serves."""
    strategies = make_strategies(config)
    factories: dict[str, functools.partial[Criterion]] = {}
    for name, strategy in strategies.items():
        if isinstance(strategy, Criterion):
            factory = plug(config["imbalance"][name], "imbalance", config["allow_modules"])
            factories |= dict.fromkeys(strategy.serves(targets), factory)
    return factories
