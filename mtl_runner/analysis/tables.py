"""All figures that a comparison is made of: groups, tasks, and which baseline belongs to which group."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan

from mtl_runner.analysis.choice import Choice, choose
from mtl_runner.analysis.comparison import TaskInfo
from mtl_runner.analysis.groups import BASELINE, Grouping, RunGroup, baselines, conditions, grouped, own_baseline
from mtl_runner.analysis.results import Result
from mtl_runner.analysis.values import AVERAGE, Design, Table, table, tasks_of
from mtl_runner.errors import UserError, choices, nearest


@dataclass(frozen=True)
class Tables:
    """Everything that the statistics are made of."""

    grouping: Grouping
    tasks: tuple[TaskInfo, ...]
    main: tuple[str, ...]
    """The main tasks that have a value in any run: those of averages, ranks and Δm."""
    of: Mapping[str, Table]
    """By group."""
    design: Design
    references: Mapping[str, RunGroup]
    """Each group's own baseline; empty without a baseline."""
    baseline: RunGroup | None
    choice: Choice
    """Of the best group."""

    @property
    def names(self) -> tuple[str, ...]:
        """What is tested: the average, and each task."""
        return (AVERAGE, *(task.name for task in self.tasks))

    def rises(self, name: str) -> bool:
        """Whether higher is better. An average over metrics of both directions has no value."""
        return all(task.higher_is_better for task in self.tasks if task.name in (self.main if name == AVERAGE else (name,)))


def tabulate(runs: Sequence[Result], by: Sequence[str], baseline: str | None) -> Tables:
    """Runs in groups ``by`` some settings, or by all that differ; ``baseline`` as ``KEY=VALUE,…``.

    Raises:
        UserError: no task that all runs have, no such setting, or no group that is the baseline asked for.
    """
    tasks = tasks_of(runs)
    if not tasks:
        every = dict.fromkeys(task for run in runs for task in run.primary)
        raise UserError(f"there is no task that all of the {len(runs)} runs have; of {choices(every)} each lacks a run")
    main = [
        task
        for task in tasks
        if task.role == "main" and any(isfinite(run.scores[task.name].get(task.metric, nan)) for run in runs)
    ]
    averaged = [task.name for task in main] if len({task.higher_is_better for task in main}) == 1 else []
    grouping = grouped(runs, by)
    of = {group.name: table(group.runs, tasks, averaged) for group in grouping.groups}
    wanted = conditions(baseline or BASELINE)
    candidates = baselines(grouping.groups, wanted)
    if baseline and not candidates:
        raise UserError(f"--baseline {baseline}: no group has this alone{_instead(grouping, wanted)}")
    overall = _preferred(candidates, of)
    own = {group.name: own_baseline(group, candidates, overall, wanted) for group in grouping.groups} if overall else {}
    references = {name: reference for name, reference in own.items() if name not in {each.name for each in candidates}}
    choice = choose({name: own.validation for name, own in of.items()})
    return Tables(grouping, tasks, tuple(task.name for task in main), of, Design.of(runs), references, overall, choice)


def _preferred(candidates: Sequence[RunGroup], of: Mapping[str, Table]) -> RunGroup | None:
    """The one that validation prefers."""
    if not candidates:
        return None
    best = choose({group.name: of[group.name].validation for group in candidates}).best
    return next(group for group in candidates if group.name == best)


def _instead(grouping: Grouping, wanted: Mapping[str, str]) -> str:
    settings = dict.fromkeys(f"{key}={run.settings[key]}" for group in grouping.groups for run in group.runs
                             for key in (wanted.keys() & run.settings.keys() or grouping.by) if key in run.settings)  # fmt: skip
    typed = ",".join(f"{key}={value}" for key, value in wanted.items())
    return f"; there are {choices(settings)}{nearest(typed, settings)}" if settings else ""
