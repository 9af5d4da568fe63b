"""What is chosen on the validation part: the best epoch, by a score, and how outputs are read."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mtl_runner.batch import Split, labelled
from mtl_runner.evaluate import Report, predict, score
from mtl_runner.imbalance.base import Adjuster
from mtl_runner.model import MultiTaskModel
from mtl_runner.tasks.base import Task
from mtl_runner.tasks.group import TaskGroup


def watched(report: Report, tasks: Sequence[Task], monitor: str) -> float | None:
    """What early stopping looks at: the task that is named ``monitor``, else the main tasks, else all that there are."""
    monitored = [task for task in tasks if task.name == monitor]
    return score(report.metrics, monitored or [task for task in tasks if task.main] or tasks)


def adjust(
    model: MultiTaskModel, groups: Mapping[str, TaskGroup], validation: Split, adjusters: Mapping[str, Adjuster], batch_size: int
) -> None:
    """Choose how the outputs of the tasks that have an adjuster are to be read; ``validation`` has the targets of the groups."""
    asked = {key: group for key, group in groups.items() if any(name in adjusters for name in group.names)}
    part = replace(validation, targets={key: validation.targets[key] for key in asked}, weights={})
    outputs = predict(model, part, batch_size)  # of no others: maps are too large to be kept
    for key, group in asked.items():
        for i, task in enumerate(group.tasks):
            if (adjuster := adjusters.get(task.name)) and group.priors is not None:
                targets = validation.targets[key][:, i]
                mask = labelled(targets)
                decision = adjuster.fit(task.name, outputs[key][i][mask].cpu(), targets[mask].cpu(), group.priors[i].cpu())
                task.spec = replace(task.spec, decision=decision)
