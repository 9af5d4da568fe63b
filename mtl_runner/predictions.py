"""A model's outputs as the columns that a user reads."""

from collections.abc import Mapping

import pyarrow as pa
from torch import Tensor

from mtl_runner.batch import TargetSpec
from mtl_runner.tasks import make_tasks


def columns(outputs: Mapping[str, Tensor], targets: Mapping[str, TargetSpec]) -> dict[str, pa.Array]:
    """Every task's predictions, by column name.

    ``<task>`` is the class by its name or the value in its unit; ``<task>_probability`` the probability of the positive
    class, ``<task>_probability_<class>`` of each class; several values of one task are ``<task>_<column>``.

    Args:
        outputs: [N, …] of each task, as the model gives them.
        targets: of each task.
    """
    return {name: column for task in make_tasks(targets) for name, column in task.predictions(outputs[task.name]).items()}
