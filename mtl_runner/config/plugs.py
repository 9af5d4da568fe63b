"""Plug-in nodes: ``_target_`` names a class of its group, every other key a parameter of that class.

A configuration is data. It names a class below its group's base, in this package or in torch, and gives plain values to
its constructor; it never names a function and never another module, unless the user allowed that module on the command
line.
"""

import functools
import inspect
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mtl_runner.config.classes import below, locate
from mtl_runner.config.values import complaints, validate
from mtl_runner.errors import UserError, choices, nearest


@dataclass(frozen=True)
class Group:
    """What an option of a group may name."""

    base: str
    """The class that all of them derive from."""
    given: bool = True
    """Whether the program gives objects to the constructor: positionally, and then the configuration's keys are keyword-only."""
    optional: bool = False
    """Whether the node may be empty."""
    several: bool = False
    """Whether the node holds options by name, any number of them."""


GROUPS: Mapping[str, Group] = {
    "dataset": Group("mtl_runner.datasets.base.Dataset", given=False),
    "encoder": Group("mtl_runner.encoders.base.Encoder"),
    "sharing": Group("mtl_runner.sharing.base.Sharing"),
    "weighting": Group("mtl_runner.weighting.base.Weighting"),
    "imbalance": Group("mtl_runner.imbalance.base.Strategy", given=False, optional=True, several=True),
    "optimizer": Group("torch.optim.Optimizer"),
    "scheduler": Group("torch.optim.lr_scheduler.LRScheduler", optional=True),
    "tracker": Group("mtl_runner.tracking.base.Tracker", given=False),
}
"""The groups of a run."""
SEARCH = "search"
"""The group that a configuration of ``mtl tune`` has beside them."""
_KINDS: Mapping[str, Group] = {**GROUPS, SEARCH: Group("mtl_runner.tuning.base.Search", given=False)}
TRUSTED = ("mtl_runner", "torch.optim")
"""Packages whose classes a configuration may name."""


def plug(node: Mapping[str, Any], group: str, allowed: Iterable[str] = ()) -> functools.partial[Any]:
    """The class that ``node`` names, with its checked keywords; ``build`` adds the run-time objects and calls it.

    ``node`` is plain data (``OmegaConf.to_container``), ``allowed`` the modules that the user allowed on the command line.
    Raises ``UserError`` with everything that is wrong with it.
    """
    if wrong := plug_problems(node, group, group, allowed):
        raise UserError("\n".join(wrong))
    cls = locate(str(node["_target_"]), (*TRUSTED, *allowed))
    annotations = _annotations(cls)
    values = {str(key): value for key, value in node.items() if key != "_target_"}
    return functools.partial(cls, **{key: validate(value, annotations.get(key, Any)) for key, value in values.items()})


def group_problems(node: Any, group: str, allowed: Iterable[str] = ()) -> list[str]:
    """What is wrong with the node of ``group``, a line each."""
    kind = _KINDS[group]
    if not node and kind.optional:
        return []
    if not isinstance(node, Mapping):
        return [f"{group}={node}: a mapping with _target_ is expected, as in the files of conf/{group}"]
    if kind.several:
        nodes = {f"{group}.{name}": option for name, option in node.items() if option}
        return [line for key, option in nodes.items() for line in plug_problems(option, key, group, allowed)]
    return plug_problems(node, group, group, allowed)


def plug_problems(node: Any, key: str, group: str, allowed: Iterable[str] = ()) -> list[str]:
    """What is wrong with one plug-in node, which stands at ``key`` of the configuration."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        return [f"{key}: has no _target_, which names its class"]
    values = {str(name): value for name, value in node.items() if name != "_target_"}
    if nested := [f"{key}.{place}: a _target_ inside an option is not allowed" for place in _targets(values)]:
        return nested
    try:
        cls = locate(str(node["_target_"]), (*TRUSTED, *allowed))
        base = locate(_KINDS[group].base, TRUSTED)
    except UserError as error:
        return [f"{key}._target_={node['_target_']}: {error}"]
    if not issubclass(cls, base) or inspect.isabstract(cls):
        return [f"{key}._target_={node['_target_']}: is no {group}; a subclass of {_KINDS[group].base} is expected"]
    return _key_problems(cls, values, key, group) or _module_problems(cls, values, key, allowed)


def _module_problems(cls: type, values: Mapping[str, Any], key: str, allowed: Iterable[str]) -> list[str]:
    """Modules that the option's values would have it import (``modules_of``, by key): only those that the user allowed."""
    named: Mapping[str, str] = cls.modules_of(values) if hasattr(cls, "modules_of") else {}
    return [
        f"{key}.{name}={values[name]}: would import the module {module}; allow_modules=[{module}] on the command line allows it"
        for name, module in named.items()
        if not below(module, allowed)
    ]


def parameters(cls: type, group: str) -> dict[str, inspect.Parameter]:
    """The parameters of ``cls`` that a configuration may set, by name.

    torch's optimizers and schedulers take one object from the program, and everything else from the configuration.
    """
    named = [each for each in _signature(cls) if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]
    if below(cls.__module__, ["torch"]):
        named = named[1:]
    elif _KINDS[group].given:
        named = [each for each in named if each.kind is each.KEYWORD_ONLY]
    return {each.name: each for each in named}


def _key_problems(cls: type, values: Mapping[str, Any], key: str, group: str) -> list[str]:
    known, annotations, lines = parameters(cls, group), _annotations(cls), []
    for name, value in values.items():
        if name not in known:
            allowed = f"it has {choices(known)}" if known else "it has none"
            lines.append(f"{key}.{name}: {cls.__name__} has no such key; {allowed}{nearest(name, known)}")
        else:
            bare = _bare_types(value) if (key, name) == ("dataset", "tasks") else []
            lines += bare or complaints(f"{key}.{name}", value, annotations.get(name, Any))
    missing = [name for name, each in known.items() if each.default is each.empty and name not in values]
    return lines + [f"{key}.{name}: is missing; give {key}.{name}=…" for name in missing]


def _bare_types(tasks: Any) -> list[str]:
    """A line for ``{fraud:binary}``, the short form that one expects."""
    bare = {name: kind for name, kind in tasks.items() if isinstance(kind, str)} if isinstance(tasks, Mapping) else {}
    form = ",".join(f"{name}:{{type:{kind}}}" for name, kind in bare.items())
    return [f"dataset.tasks.{name}={kind}: must be a mapping: {{{form}}}" for name, kind in list(bare.items())[:1]]


def _signature(cls: type) -> list[inspect.Parameter]:
    """The parameters of the constructor, those that ``**options`` stands for included: the base class's, where it is this
    program's or a user's."""
    own = list(inspect.signature(cls).parameters.values())
    known = {each.name for each in own}
    if below(cls.__module__, ["torch"]) or not any(each.kind is each.VAR_KEYWORD for each in own):
        return own
    return own + [each for each in _signature(_constructed_by(cls)) if each.name not in known]


def _annotations(cls: type) -> dict[str, Any]:
    try:
        hints = typing.get_type_hints(cls.__init__, include_extras=True)  # type: ignore[misc]
    except NameError:  # names that only a type checker sees, as in some of torch's classes
        return {}
    if below(cls.__module__, ["torch"]) or not any(
        each.kind is each.VAR_KEYWORD for each in inspect.signature(cls).parameters.values()
    ):
        return hints
    return _annotations(_constructed_by(cls)) | hints


def _constructed_by(cls: type) -> type:
    """The next class to which the constructor of ``cls`` hands its ``**options``."""
    owner = next(index for index, each in enumerate(cls.__mro__) if "__init__" in vars(each))
    return next(each for each in cls.__mro__[owner + 1 :] if "__init__" in vars(each))


def _targets(value: Any, place: str = "") -> list[str]:
    """Where inside ``value`` a ``_target_`` stands."""
    if isinstance(value, Mapping):
        inside = [found for name, part in value.items() for found in _targets(part, f"{place}.{name}" if place else str(name))]
        return ([f"{place}._target_"] if "_target_" in value else []) + inside
    if isinstance(value, list):
        return [found for index, part in enumerate(value) for found in _targets(part, f"{place}.{index}")]
    return []
