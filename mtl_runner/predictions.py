"""A model's outputs as the columns that a user reads."""

from collections.abc import Mapping

import pyarrow as pa
from torch import Tensor

from mtl_runner.batch import Fields, TargetSpec
from mtl_runner.errors import UserError
from mtl_runner.tasks import make_tasks


def columns(
    outputs: Mapping[str, Tensor], targets: Mapping[str, TargetSpec], context: Fields | None = None
) -> dict[str, pa.Array]:
    """Every task's predictions, by column name.

    ``<task>`` is the class by its name or the value in its unit; ``<task>_probability`` the probability of the positive
    class, ``<task>_probability_<class>`` of each class; several values of one task are ``<task>_<column>``.

    Args:
        outputs: [N, …] of each task, as the model gives them.
        targets: of each task.
        context: of the N examples: ``length`` of sequences.
    """
    return {
        name: column for task in make_tasks(targets) for name, column in task.predictions(outputs[task.name], context).items()
    }


def check_names(targets: Mapping[str, TargetSpec]) -> None:
    """Refuse tasks whose predictions would have a column of the same name, and one named as the mean over tasks is.

    Raises:
        UserError: there are such tasks.
    """
    if "average" in targets:
        raise UserError("dataset.tasks: average is what the mean over the tasks is called; give the task another name")
    owners: dict[str, str] = {}
    for task in make_tasks(targets):
        for column in task.predictions(task.no_outputs(), {}):
            if (other := owners.setdefault(column, task.name)) != task.name:
                raise UserError(f"dataset.tasks: {other} and {task.name} both predict a column {column}; rename one of them")
