"""A comparison from runs: groups, their estimates, and each beside the baseline and beside the best."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf, isfinite, nan

from mtl_runner.analysis import fairness, notes, statistics
from mtl_runner.analysis.comparison import Comparison, Estimate, Group, Paired
from mtl_runner.analysis.groups import RunGroup
from mtl_runner.analysis.results import Result
from mtl_runner.analysis.tables import Tables, tabulate
from mtl_runner.analysis.values import AVERAGE, Design, Series, differences, gains, mean
from mtl_runner.errors import UserError

NEAR_ZERO = 0.01
"""Of a metric that is better the higher: a baseline below this is nothing to be a percentage of."""


def compare(
    runs: Sequence[Result], title: str, by: Sequence[str] = (), baseline: str | None = None, said: Sequence[str] = ()
) -> Comparison:
    """Groups of runs side by side.

    Args:
        runs: finished ones, each job once.
        title: what is compared.
        by: the settings that make groups; all that differ, if empty.
        baseline: ``KEY=VALUE,…``, what makes a group the baseline; ``sharing=none`` where there is such a group, if omitted.
        said: notes of the selection, which come first.

    Raises:
        UserError: no runs, no task that all have, or a baseline that none is.
    """
    if not runs:
        raise UserError(f"{title}: there is no finished run to compare")
    tables = tabulate(runs, by, baseline)
    against = {key: _tests(tables, references) for key, references in _references(tables).items()}
    blocks = _blocks(tables)
    ranks = dict(zip(tables.of, statistics.mean_ranks(blocks), strict=True)) if blocks else dict.fromkeys(tables.of, nan)
    without = _without_percentage(tables)
    groups = [_group(group, tables, against, ranks[group.name], without) for group in tables.grouping.groups]
    sign = 1 if tables.rises(AVERAGE) else -1
    groups.sort(key=lambda group: -sign * group.average.mean if isfinite(group.average.mean) else inf)
    named = {group.name: group for group in groups}
    comparison = Comparison(
        title=title,
        by=tables.grouping.by,
        tasks=tables.tasks,
        groups=tuple(groups),
        baseline=named[tables.baseline.name] if tables.baseline else None,
        best=named[tables.choice.best],
        ranking=statistics.ranking(blocks),
        findings=fairness.findings(tables.grouping.groups, tables.baseline, tables.choice),
        notes=(),
        mlflow=None,
    )
    return replace(comparison, notes=(*said, *notes.notes(comparison, tables, without)))


def _references(tables: Tables) -> dict[str, dict[str, str]]:
    """Whom each group is tested against."""
    return {
        "baseline": {name: reference.name for name, reference in tables.references.items()},
        "best": {name: tables.choice.best for name in tables.of if name != tables.choice.best},
    }


def _tests(tables: Tables, references: Mapping[str, str]) -> dict[str, dict[str, Paired]]:
    """Of all groups beside one reference (each its own baseline), by group and task: one family for Holm's correction."""
    overlap = tables.design.overlap
    found: dict[tuple[str, str], Paired] = {}
    for group, reference in references.items():
        for name in tables.names:
            apart = differences(tables.of[group].series(name), tables.of[reference].series(name), tables.rises(name))
            values = tables.design.values(apart)
            p, wilcoxon = statistics.t_test(values, overlap), statistics.wilcoxon(values, tables.design.resampled)
            found[group, name] = Paired(statistics.estimate(values, overlap), p, nan, wilcoxon)
    corrected = statistics.holm([paired.p for paired in found.values()])
    tests: dict[str, dict[str, Paired]] = {group: {} for group in references}
    for ((group, name), paired), holm in zip(found.items(), corrected, strict=True):
        tests[group][name] = replace(paired, holm=holm)
    return tests


def _without_percentage(tables: Tables) -> tuple[str, ...]:
    """Tasks with values that are no ratios: a baseline of about 0, below, or not to be told from 0, or any value below 0."""
    found = []
    for task in tables.tasks:
        least = NEAR_ZERO if task.higher_is_better else 0.0
        of = {name: tables.design.values(own.scores[task.name]) for name, own in tables.of.items()}
        known = [(of[name], _estimate(tables.of[name].scores[task.name], tables.design)) for name in _baselines(tables)]
        unsure = any(values and (min(values) <= least or its.mean - its.half <= 0) for values, its in known)
        if unsure or any(value < 0 for values in of.values() for value in values):
            found.append(task.name)
    return tuple(found)


def _baselines(tables: Tables) -> set[str]:
    return {reference.name for reference in tables.references.values()}


def _group(
    group: RunGroup,
    tables: Tables,
    against: Mapping[str, Mapping[str, Mapping[str, Paired]]],
    rank: float,
    without: Sequence[str],
) -> Group:
    own, design = tables.of[group.name], tables.design
    reference = tables.references.get(group.name)
    by_task = _gains(group.name, reference.name, tables, without) if reference else {}
    percent = {name: statistics.estimate(design.values(series), design.overlap) for name, series in by_task.items()}
    beside = against["baseline"].get(group.name, {})
    certain = percent | {name: paired.difference for name, paired in beside.items() if name in without}
    return Group(
        name=group.name,
        settings=group.settings,
        runs=group.runs,
        scores={name: _estimate(series, design) for name, series in own.scores.items()},
        average=_estimate(own.average, design),
        gains=percent,
        delta_m=_delta_m(by_task, tables) if reference else None,
        rank=rank,
        seconds=statistics.estimate([run.seconds for run in group.runs]),
        parameters=mean([run.parameters for run in group.runs]),
        against_baseline=beside,
        against_best=against["best"].get(group.name, {}),
        suffers=tuple(task.name for task in tables.tasks if _below_zero(certain.get(task.name))),
        is_baseline=tables.baseline is not None and reference is None,
        reference=reference.name if reference else None,
        validation=tables.choice.values[group.name],
    )


def _estimate(series: Series, design: Design) -> Estimate:
    return statistics.estimate(design.values(series), design.overlap)


def _gains(name: str, reference: str, tables: Tables, without: Sequence[str]) -> dict[str, Series]:
    """By task."""
    mine, theirs = tables.of[name].scores, tables.of[reference].scores
    return {
        task.name: gains(mine[task.name], theirs[task.name], task.higher_is_better)
        for task in tables.tasks
        if task.name not in without
    }


def _delta_m(by_task: Mapping[str, Series], tables: Tables) -> Estimate | None:
    """Δm = 100 / T · Σ_t (−1)^(l_t) (M_t − B_t) / B_t for each seed and split, l_t = 1 where lower is better.

    M are the group's values, B its baseline's; over the main tasks. Maninis et al., Attentive single-tasking of multiple tasks,
    CVPR 2019; Vandenhende et al., Multi-task learning for dense prediction tasks: a survey, TPAMI 2021.
    """
    main = [by_task[name] for name in tables.main if name in by_task]
    if not main:
        return None
    units = [unit for unit in main[0] if all(unit in series for series in main)]
    return _estimate({unit: mean([series[unit] for series in main]) for unit in units}, tables.design)


def _below_zero(gain: Estimate | None) -> bool:
    """Whether the whole interval is; one without width, but for rounding, comes of equal values and says nothing."""
    return gain is not None and gain.mean + gain.half < 0 and gain.half > 1e-9 * abs(gain.mean)


def _blocks(tables: Tables) -> list[list[float]]:
    """What is ranked, [tasks × seeds or splits, groups], higher is better; of main tasks, where all groups have a value."""
    blocks = []
    for task in tables.tasks:
        if task.name in tables.main:
            columns = [tables.design.by_repeat(own.scores[task.name]) for own in tables.of.values()]
            shared = [repeat for repeat in columns[0] if all(repeat in column for column in columns)]
            sign = 1 if task.higher_is_better else -1
            blocks += [[sign * column[repeat] for column in columns] for repeat in shared]
    return blocks
