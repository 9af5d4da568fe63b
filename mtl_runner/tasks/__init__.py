"""Task types, one file each: a type ``binary`` is the class in ``tasks/binary.py`` whose ``kind`` is that word."""

import importlib
import pkgutil
from collections.abc import Mapping

from mtl_runner.batch import TargetSpec
from mtl_runner.errors import UserError, choices, nearest
from mtl_runner.tasks.base import Task


def task_kinds() -> list[str]:
    """The types that there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in ("base", "dense", "group"))


def make_tasks(targets: Mapping[str, TargetSpec]) -> list[Task]:
    """One task per target, in their order.

    Raises:
        UserError: a type that does not exist.
    """
    return [task_class(name, spec.kind)(name, spec, **spec.options) for name, spec in targets.items()]


def task_class(name: str, kind: str) -> type[Task]:
    """The class of the type ``kind``, which the task ``name`` is said to have."""
    if kind not in task_kinds():
        raise UserError(f"dataset.tasks.{name}.type={kind}: allowed are {choices(task_kinds())}{nearest(kind, task_kinds())}")
    module = importlib.import_module(f"{__name__}.{kind}")
    return next(value for value in vars(module).values() if isinstance(value, type) and getattr(value, "kind", None) == kind)


__all__ = ["Task", "make_tasks", "task_class", "task_kinds"]
