"""The figures that statistics are made of, by hand."""

from dataclasses import replace
from math import nan
from pathlib import Path

import pytest
from made_runs import ACCURACY, ERROR, table, worked

from mtl_runner.analysis.compare import compare
from mtl_runner.analysis.tables import tabulate
from mtl_runner.analysis.values import Design, common, differences, tasks_of


def test_two_splits_are_resampled_and_the_largest_overlap_counts(tmp_path: Path) -> None:
    one, other = table(tmp_path, {"hard": [0.5, 0.6]})
    assert Design.of([one, other]) == Design(False)
    runs = [replace(one, split="fold=0"), replace(other, split="fold=1", rows={"train": 50, "test": 20})]
    assert Design.of(runs) == Design(True, 0.4), "20 / 50, not 20 / 80"


def test_a_task_is_judged_as_most_runs_judge_it(tmp_path: Path) -> None:
    runs = table(tmp_path, {"hard": [0.5, 0.6, 0.7]})
    odd = replace(runs[0], primary={"sort": ERROR}, roles={"sort": "auxiliary"})
    (task,) = tasks_of([odd, *runs[1:]])
    assert (task.metric, task.higher_is_better, task.role) == (ACCURACY, True, "main")


def test_differences_of_rounding_are_none() -> None:
    unit = (0, "")
    assert differences({unit: 0.1 + 0.2}, {unit: 0.3}, True) == {unit: 0.0}
    assert differences({unit: 0.5}, {unit: 0.25}, False) == {unit: -0.25}
    assert common({unit: 0.5}, {unit: nan}) == [] == common({unit: nan}, {unit: 0.5})


@pytest.mark.parametrize(("name", "rises"), [("sort", True), ("size", False)])
def test_each_task_has_its_own_direction(tmp_path: Path, name: str, rises: bool) -> None:
    assert tabulate(worked(tmp_path), (), None).rises(name) == rises


def test_a_task_without_any_value_is_in_no_average(tmp_path: Path) -> None:
    runs = [replace(run, scores={**run.scores, "size": {ERROR: nan}}) for run in worked(tmp_path)]
    tables = tabulate(runs, (), None)
    assert tables.main == ("sort",) and tables.of["hard"].average[0, "split_seed=0"] == 0.84


def test_a_run_without_a_validation_average_leaves_that_of_another_with_its_seed(tmp_path: Path) -> None:
    (run,) = table(tmp_path, {"hard": [0.5]}, hard=0.75)
    tables = tabulate([run, replace(run, validation=nan)], (), None)
    assert list(tables.of["all runs"].validation.values()) == [0.75]


def test_a_task_without_scores_is_none_that_all_have(tmp_path: Path) -> None:
    runs = worked(tmp_path)
    runs[0] = replace(runs[0], scores={"sort": runs[0].scores["sort"]})
    assert [task.name for task in tasks_of(runs)] == ["sort"]


def test_a_group_counts_the_seeds_of_its_average(tmp_path: Path) -> None:
    group = compare(table(tmp_path, {"hard": [0.5, 0.6, 0.7]}), "made").best
    assert replace(group, average=replace(group.average, n=2)).n == 2
    assert replace(group, average=replace(group.average, n=0)).n == 3, "of the task that has most"
