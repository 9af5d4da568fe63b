"""What a user may say about a task with a value at each pixel."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mtl_runner.datasets.base import TaskOptions, Tasks, known, task_options
from mtl_runner.datasets.maps.pixelwise import IGNORED, Map
from mtl_runner.errors import UserError, choices

KINDS = tuple(IGNORED)
KEYS = ("type", "columns", "role", "metric", "classes")
_OWN = {"segmentation": ("ignore",), "depth": ("ignore", "factor"), "normals": ()}


@dataclass(frozen=True)
class MapTask:
    """A task's options, and how its maps are read."""

    options: TaskOptions
    map: Map


def map_tasks(tasks: Tasks) -> dict[str, MapTask]:
    """The tasks as the user wrote them, checked.

    Beside the usual keys there are ``ignore`` (values of the map at pixels without a label) and, for depth, ``factor``;
    ``classes`` are names, or their number.
    """
    if not isinstance(tasks, Mapping):
        raise UserError(f"dataset.tasks={list(tasks)}: the type of each is needed, as in {{label: {{type: segmentation}}}}")
    return {str(name): _task(str(name), options or {}) for name, options in tasks.items()}


def _task(name: str, options: Mapping[str, Any]) -> MapTask:
    kind = options.get("type")
    if kind is None:
        raise UserError(f"dataset.tasks.{name}.type is missing; allowed: {choices(KINDS)}")
    known(kind, KINDS, f"dataset.tasks.{name}.type")
    mine = _OWN[str(kind)]
    own = {key: value for key, value in options.items() if key in mine and value is not None}
    rest = {key: value for key, value in options.items() if key not in mine}
    checked = task_options({name: rest}, (*KEYS, *mine), KINDS)[name]
    return MapTask(checked, _map(name, checked, own))


def _map(name: str, options: TaskOptions, own: Mapping[str, Any]) -> Map:
    if len(options.columns) > 1:
        raise UserError(f"dataset.tasks.{name}.columns={list(options.columns)}: a map is in one folder or column")
    kind, classes = str(options.type), options.classes
    if classes and kind != "segmentation":
        raise UserError(f"dataset.tasks.{name}.classes: a {kind} task has no classes")
    if len(classes) == 1:
        if not classes[0].isdigit() or int(classes[0]) < 2:
            raise UserError(f"dataset.tasks.{name}.classes={classes[0]}: names, or their number, of two classes or more")
        classes = tuple(map(str, range(int(classes[0]))))
    ignore = own.get("ignore", IGNORED[kind])
    values = ignore if isinstance(ignore, Sequence) and not isinstance(ignore, str) else [ignore]
    if not all(_number(value) for value in values):
        raise UserError(f"dataset.tasks.{name}.ignore={ignore}: it has to be a number or a list of numbers")
    factor = own.get("factor", 1.0)
    if not _number(factor) or not factor > 0:
        raise UserError(f"dataset.tasks.{name}.factor={factor}: it has to be a number above 0")
    return Map(kind, (options.columns or (name,))[0], classes, tuple(map(float, values)), float(factor))


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
