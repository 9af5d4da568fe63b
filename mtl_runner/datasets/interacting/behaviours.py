"""What users do with items, one task each, where one thing can only follow another."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mtl_runner.datasets.base import TaskOptions, known, task_options
from mtl_runner.errors import UserError

TASK_KEYS = ("type", "columns", "role", "metric", "positive", "classes", "after", "otherwise")
READ_AS = {"ranking": "binary", "rating": "regression"}
"""How the labels of a type are read, where another type's are read the same way."""
OTHERWISE: Mapping[str, float | None] = {"missing": None, "negative": 0.0}


@dataclass(frozen=True)
class After:
    """A behaviour that can only follow another: the label of rows where the other, or what that follows, did not happen."""

    task: str
    """The other."""
    otherwise: float | None
    """0, or None: there is no label."""


def behaviours(tasks: Any) -> tuple[dict[str, TaskOptions], dict[str, After]]:
    """The tasks' options, and of those with ``after`` what they follow."""
    options = task_options(tasks, TASK_KEYS, ("ranking", "rating", "binary", "multiclass", "regression", "count", "ordinal"))
    given = {name: each for name, each in tasks.items() if each} if isinstance(tasks, Mapping) else {}
    after = {}
    for name, each in given.items():
        place, earlier, otherwise = f"dataset.tasks.{name}", each.get("after"), each.get("otherwise")
        if earlier is None:
            if otherwise is not None:
                raise UserError(f"{place}.otherwise={otherwise} needs {place}.after, the behaviour that comes before")
            continue
        known(earlier, [task for task in options if task != name], f"{place}.after: task")
        known(otherwise or "missing", OTHERWISE, f"{place}.otherwise:")
        for task in (name, earlier):
            if options[task].type not in ("ranking", "binary"):
                kind = options[task].type or "not named"
                raise UserError(f"{place}.after={earlier}: {task} has to be of type ranking or binary; its type is {kind}")
        after[name] = After(str(earlier), OTHERWISE[otherwise or "missing"])
    for name in after:
        if name in (earlier := before(name, after)):
            raise UserError(f"dataset.tasks.{name}.after: no task can follow itself: {' after '.join([name, *earlier])}")
    return options, after


def before(task: str, after: Mapping[str, After]) -> list[str]:
    """All that has to happen before a task's behaviour, the nearest first: of a purchase cart and click."""
    found: list[str] = []
    while task in after and after[task].task not in found:
        task = after[task].task
        found.append(task)
    return found


def impossible(task: str, values: Mapping[str, Tensor], after: Mapping[str, After]) -> Tensor:
    """Rows [N] where something before the task did not happen, by the labels as the file has them.

    No filled label is looked at, as one that says "missing" would hide that the behaviour did not happen.
    """
    never = [values[earlier] == 0 for earlier in before(task, after)]
    return torch.stack(never).any(0) if never else torch.zeros_like(values[task], dtype=torch.bool)
