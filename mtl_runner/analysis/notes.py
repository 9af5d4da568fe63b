"""What a reader of a comparison has to know."""

from collections.abc import Iterator, Sequence
from math import isfinite

from mtl_runner.analysis import statistics
from mtl_runner.analysis.comparison import Comparison, Group, Paired
from mtl_runner.analysis.report.columns import shown
from mtl_runner.analysis.report.words import p_is
from mtl_runner.analysis.tables import Tables
from mtl_runner.analysis.values import AVERAGE, differences
from mtl_runner.errors import choices

_MOST = 5


def notes(comparison: Comparison, tables: Tables, without: Sequence[str]) -> Iterator[str]:
    """A sentence or two each."""
    yield from _power(comparison, tables)
    yield from _chosen(comparison, tables)
    yield from _baseline(comparison, tables, without)
    yield from _repeats(comparison, tables)
    yield from _left_out(comparison, tables)
    if tables.grouping.along:
        yield f"{choices(tables.grouping.along, _MOST)} differ too, together with what names the groups."


def _power(comparison: Comparison, tables: Tables) -> Iterator[str]:
    """Whether the repeats are enough to tell the best from the baseline, or from the next where it is the baseline itself."""
    repeat, fewest = tables.design.repeat, min(group.n for group in comparison.groups)
    if fewest < 2:
        yield f"A group has {fewest} {repeat}{'s' * (fewest != 1)}: too few for an interval or a test; run at least 2, better 5."
    group, reference = _pair(comparison)
    if group is None or reference is None:
        return
    family = "against_best" if reference == comparison.best.name else "against_baseline"
    paired = getattr(group, family).get(AVERAGE)
    if paired is None or not isfinite(paired.holm) or paired.holm < statistics.LEVEL:
        return
    apart = differences(tables.of[group.name].average, tables.of[reference].average, tables.rises(AVERAGE))
    values = tables.design.values(apart)
    tests = sum(isfinite(test.p) for each in comparison.groups for test in getattr(each, family).values())
    yield (
        f"{len(values)} {repeat}s are too few to tell '{group.name}' from '{reference}' on average: {_said(paired)}, "
        f"{p_is(paired.holm)} after the correction for {tests} tests{_needed(values, tests, tables)}."
    )


def _pair(comparison: Comparison) -> tuple[Group | None, str | None]:
    best = comparison.best
    if best.reference:
        return best, best.reference
    others = [group for group in comparison.groups if group.name != best.name]
    return (others[0], best.name) if others else (None, None)


def _said(paired: Paired) -> str:
    return f"{shown(paired.difference, 4, signed=True)}, {p_is(paired.p)}"


def _needed(values: Sequence[float], tests: int, tables: Tables) -> str:
    if tables.design.resampled:
        return ""
    count = statistics.seeds_needed(values, statistics.LEVEL / tests)
    few = f"; if that is the true difference, {count} seeds would find it with a probability of 80 %"
    return few if count else f"; more than {statistics.MOST_SEEDS} seeds would be needed for a difference of this size"


def _chosen(comparison: Comparison, tables: Tables) -> Iterator[str]:
    top = comparison.groups[0]
    if not any(isfinite(group.validation) for group in comparison.groups):
        yield f"No run has a validation average: '{comparison.best.name}' is the first group, not the best."
    elif top.name != comparison.best.name and isfinite(top.average.mean) and top.average.mean != comparison.best.average.mean:
        yield f"Best by validation is '{comparison.best.name}'; the test average of '{top.name}' is better, and chooses nothing."
    if not tables.main:
        yield "No main task has a value: there is no average, no ranking and no Δm."
    elif len({task.higher_is_better for task in tables.tasks if task.name in tables.main}) > 1:
        yield "Of some tasks' metrics more is better, of others less: there is no average."


def _baseline(comparison: Comparison, tables: Tables, without: Sequence[str]) -> Iterator[str]:
    if comparison.baseline is None:
        yield "There is no single-task baseline among these runs (sharing=none): no gains, no Δm."
        return
    if len({group.reference for group in comparison.groups if group.reference}) > 1:
        yield "Each group is compared with the baseline that has its other settings, where there is one."
    if without:
        yield (
            f"No gain in % for {choices(without, _MOST)}, where a value is below 0 or the baseline's not surely above: "
            "Δm is over the other tasks; differences in units of the metric are there for all."
        )
    if missing := [
        group.name
        for group in comparison.groups
        if group.reference and not any(paired.difference.n for paired in group.against_baseline.values())
    ]:
        yield f"No seed in common with the baseline, or no value: {_quoted(missing)}."


def _repeats(comparison: Comparison, tables: Tables) -> Iterator[str]:
    design = tables.design
    if design.resampled and design.overlap:
        yield (
            "Splits differ and have rows in common: n is the number of splits, and intervals and t tests are corrected "
            f"(Nadeau and Bengio 2003, {design.overlap:.2f} test rows for each training row); where a split_seed draws all rows "
            "anew, as that of synthetic does, they are more careful than they need be. Wilcoxon's test is left out, as no such "
            "correction of it is known; Friedman's and the critical difference are uncorrected, and may find too much."
        )
    elif design.resampled:
        yield "Splits differ, and the runs do not say how large their parts are: intervals and p are uncorrected, and too small."
    if double := [group.name for group in comparison.groups if len({run.unit for run in group.runs}) < len(group.runs)]:
        yield f"Several runs of one seed count as one, by their mean: {_quoted(double)}."


def _left_out(comparison: Comparison, tables: Tables) -> Iterator[str]:
    every = dict.fromkeys(task for group in comparison.groups for run in group.runs for task in run.primary)
    if others := [task for task in every if task not in {task.name for task in tables.tasks}]:
        yield f"Not all runs have the tasks {choices(others, _MOST)}: they are left out, and averages are over the others."
    for name, own in tables.of.items():
        lost = {task.name: sum(not isfinite(value) for value in own.scores[task.name].values()) for task in tables.tasks}
        units = len(own.average)
        if few := [f"{task} in {count} of {units}" for task, count in lost.items() if count]:
            yield f"'{name}' has no value of {choices(few, _MOST)} seeds and splits: undefined, or diverged."
    if not comparison.ranking and tables.main and len(comparison.groups) > 2:
        yield "There is no ranking: fewer than two seeds and tasks for which all groups have a value."


def _quoted(groups: Sequence[str]) -> str:
    return choices([f"'{name}'" for name in groups], _MOST)
