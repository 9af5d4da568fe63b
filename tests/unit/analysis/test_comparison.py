"""A comparison of a few made runs, against figures worked by hand and against scipy."""

import math
from pathlib import Path

import numpy as np
import pytest
from made_runs import ACCURACY, ERROR, WORKED, made_run, table, worked
from scipy import stats

from mtl_runner.analysis.compare import compare
from mtl_runner.analysis.comparison import Comparison, Group
from mtl_runner.analysis.report.words import spread, summary
from mtl_runner.analysis.results import Result, read
from mtl_runner.errors import UserError


def group(comparison: Comparison, name: str) -> Group:
    return next(each for each in comparison.groups if each.name == name)


def one(folder: Path, value: float, choices: dict[str, str], seed: int, fold: int | None = None) -> Result:
    """A run of one task ``a``."""
    return read(made_run(folder, {"a": {ACCURACY: value}}, choices, {"dataset": {"fold": fold}}, seed))


def said(comparison: Comparison, words: str) -> bool:
    return any(words in note for note in comparison.notes)


def test_gains_of_both_directions_by_hand(tmp_path: Path) -> None:
    hard = group(compare(worked(tmp_path), "by hand"), "hard")
    assert hard.gains["sort"].mean == pytest.approx((5 - 4 + 10) / 3)
    assert hard.gains["size"].mean == pytest.approx((10 + 20 - 25) / 3), "a smaller error is a gain"
    assert hard.delta_m and hard.delta_m.mean == pytest.approx((7.5 + 8 - 7.5) / 3)
    assert hard.delta_m.half == pytest.approx(4.302652729911275 * math.sqrt(77.58333333333333 / 3))
    assert hard.against_baseline["size"].difference.mean == pytest.approx((0.2 + 0.5 - 1) / 3)


def test_an_average_has_one_direction(tmp_path: Path) -> None:
    both = compare(worked(tmp_path / "both"), "both")
    assert all(math.isnan(each.average.mean) for each in both.groups) and said(both, "there is no average")
    values = {"none": [2.0, 2.5, 4.0], "hard": [1.8, 2.0, 3.0]}
    errors = compare(table(tmp_path / "errors", values, ERROR), "errors")
    assert [each.name for each in errors.groups] == ["hard", "none"], "the smallest first"
    assert errors.groups[0].against_baseline["average"].difference.mean == pytest.approx(1.7 / 3)


VALUES = {
    "none": [0.70, 0.72, 0.69, 0.74, 0.71, 0.73],
    "hard": [0.75, 0.76, 0.70, 0.79, 0.73, 0.78],
    "soft": [0.71, 0.75, 0.66, 0.78, 0.70, 0.72],
}


def test_tests_are_scipys(tmp_path: Path) -> None:
    known = compare(table(tmp_path, VALUES, none=0.1, soft=0.9), "three")
    p = {name: stats.ttest_rel(VALUES[name], VALUES["none"]).pvalue for name in ("hard", "soft")}
    for name in p:
        paired = group(known, name).against_baseline["sort"]
        assert paired.p == pytest.approx(p[name])
        assert paired.wilcoxon == pytest.approx(stats.wilcoxon(np.round(np.subtract(VALUES[name], VALUES["none"]), 12)).pvalue)
        # two groups × (a task and the average, which is the same): four tests
        assert paired.holm == pytest.approx(min(1, 4 * p["hard"] if name == "hard" else 2 * p["soft"]))
    low, high = stats.t.interval(0.95, 5, np.mean(VALUES["hard"]), stats.sem(VALUES["hard"]))
    assert group(known, "hard").scores["sort"].half == pytest.approx((high - low) / 2)
    assert known.best.name == "soft", "chosen by validation, whatever the test says"
    assert said(known, "Best by validation is 'soft'") and known.groups[0].name == "hard"
    assert known.best.against_best == {} and known.baseline and known.baseline.against_baseline == {}
    assert group(known, "none").against_best["sort"].p == pytest.approx(p["soft"])


def test_ranks_are_scipys(tmp_path: Path) -> None:
    known = compare(table(tmp_path, VALUES), "three")
    ranks = stats.rankdata(-np.array(list(VALUES.values())), axis=0).mean(1)
    assert [group(known, name).rank for name in VALUES] == pytest.approx(ranks.tolist())
    assert known.ranking and known.ranking.blocks == 6
    assert known.ranking.friedman_p == pytest.approx(stats.friedmanchisquare(*VALUES.values()).pvalue)


def test_pairs_are_of_the_same_seed(tmp_path: Path) -> None:
    """The order of runs, and a seed that only one group has, change no difference."""
    runs = table(tmp_path, {"none": [0.5, 0.6, 0.7], "hard": [0.51, 0.62]})
    known = group(compare([*reversed(runs)], "pairs"), "hard").against_baseline["sort"]
    assert known.difference.mean == pytest.approx(0.015) and known.difference.n == 2


def test_splits_that_differ_are_corrected_and_seeds_of_one_are_averaged(tmp_path: Path) -> None:
    """The test part is a quarter of the training part; two seeds of a split see the same rows and are no two values."""
    values = {"none": [[0.5, 0.52], [0.6, 0.6], [0.55, 0.53]], "hard": [[0.53, 0.55], [0.61, 0.66], [0.56, 0.58]]}
    runs = [
        one(tmp_path / f"{name}{fold}{seed}", value, {"sharing": name}, seed, fold)
        for name, folds in values.items()
        for fold, seeds in enumerate(folds)
        for seed, value in enumerate(seeds)
    ]
    known = compare(runs, "folds")
    apart = np.subtract(values["hard"], values["none"]).mean(1)
    paired = group(known, "hard").against_baseline["a"]
    t = apart.mean() / math.sqrt(apart.var(ddof=1) * (1 / 3 + 0.25))
    assert paired.difference.n == 3 and paired.p == pytest.approx(2 * stats.t.sf(t, 2)) and paired.wilcoxon is None
    assert said(known, "Nadeau and Bengio 2003, 0.25 test rows") and runs[0].split == "split_seed=0 fold=0"


@pytest.mark.parametrize(
    ("metric", "none", "hard"),
    [
        ("r2", [0.5, 0.51], [0.4, -0.1]),
        ("r2", [-0.1, 0.6], [0.4, 0.5]),
        ("mcc", [0.0, 0.3], [0.4, 0.5]),
        ("log_loss", [0.001, 0.02], [0.4, 0.5]),
    ],
)
def test_no_percentage_where_there_is_no_ratio(tmp_path: Path, metric: str, none: list[float], hard: list[float]) -> None:
    known = compare(table(tmp_path, {"none": none, "hard": hard}, metric), "no ratio")
    hard_group = group(known, "hard")
    assert hard_group.gains == {} and hard_group.delta_m is None and said(known, "No gain in % for sort")
    sign = -1 if metric == "log_loss" else 1
    assert hard_group.against_baseline["sort"].difference.mean == pytest.approx(sign * (np.mean(hard) - np.mean(none)))


def test_negative_transfer_is_marked_where_it_is_sure(tmp_path: Path) -> None:
    values = {"none": [0.80, 0.82, 0.81], "hard": [0.70, 0.73, 0.71], "soft": [0.70, 0.95, 0.75]}
    known = compare(table(tmp_path, values), "transfer")
    assert {each.name: each.suffers for each in known.groups} == {"none": (), "hard": ("sort",), "soft": ()}
    constant = compare(table(tmp_path / "constant", {"none": [0.8] * 3, "hard": [0.7] * 3}), "no spread to judge by")
    assert group(constant, "hard").suffers == () and math.isnan(group(constant, "hard").against_baseline["sort"].p)
    negative = compare(table(tmp_path / "r2", {"none": [0.1, 0.12, 0.11], "hard": [-0.5, -0.4, -0.6]}, "r2"), "without %")
    assert group(negative, "hard").suffers == ("sort",)


def test_few_seeds_are_said(tmp_path: Path) -> None:
    single = compare(table(tmp_path / "one", {"none": [0.5], "hard": [0.6]}), "one seed")
    assert said(single, "A group has 1 seed") and math.isnan(single.groups[0].average.half)
    three = compare(table(tmp_path / "three", {"none": [0.5, 0.6, 0.7], "hard": [0.53, 0.59, 0.75]}, hard=1), "three seeds")
    assert said(three, "3 seeds are too few to tell 'hard' from 'none' on average: +0.0233") and said(
        three, "a probability of 80 %"
    )
    fewer = compare(table(tmp_path / "fewer", {"none": [0.5, 0.6, 0.7], "hard": [0.47, 0.61, 0.65]}, hard=1), "a loss")
    assert said(fewer, "on average: −0.0233 ± ") and not said(fewer, "-0.0233"), "the minus sign of all other texts"


def test_what_is_undefined_is_said_and_left_out(tmp_path: Path) -> None:
    known = compare(table(tmp_path, {"none": [0.5, 0.6, 0.7], "hard": [0.6, None, 0.75]}), "undefined")
    assert group(known, "hard").scores["sort"].n == 2 and said(known, "'hard' has no value of sort in 1 of 3 seeds")


def test_tasks_that_not_all_have_and_auxiliary_ones(tmp_path: Path) -> None:
    scores = {"a": {"roc_auc": 0.8}, "b": {"roc_auc": 0.6}, "c": {"roc_auc": 0.1}}
    three = read(made_run(tmp_path / "three", scores, {"sharing": "hard"}, auxiliary=("c",)))
    two = read(made_run(tmp_path / "two", {name: scores[name] for name in ("a", "c")}, {"sharing": "none"}, auxiliary=("c",)))
    known = compare([three, two], "tasks")
    assert [task.name for task in known.tasks] == ["a", "c"] and known.groups[0].average.mean == pytest.approx(0.8)
    assert said(known, "Not all runs have the tasks b")
    assert compare([three], "alone").groups[0].average.mean == pytest.approx(three.average)
    with pytest.raises(UserError, match="no task that all of the 2 runs have"):
        compare([two, read(made_run(tmp_path / "other", {"b": {"roc_auc": 0.5}}))], "apart")


def test_several_runs_of_a_seed_count_once(tmp_path: Path) -> None:
    runs = [
        one(tmp_path / f"{weighting}{seed}", value, {"sharing": "none", "weighting": weighting}, seed)
        for weighting, values in {"equal": [0.5, 0.6], "dynamic": [0.7, 0.6]}.items()
        for seed, value in enumerate(values)
    ]
    known = compare(runs, "twice")
    assert known.groups[0].average.n == 2 and known.groups[0].average.mean == pytest.approx(0.6) and said(known, "count as one")


def test_other_baselines(tmp_path: Path) -> None:
    runs = table(tmp_path, VALUES)
    known = compare(runs, "other", baseline="sharing=hard")
    assert known.baseline and known.baseline.name == "hard" and group(known, "none").gains["sort"].mean < 0
    with pytest.raises(UserError, match=r"--baseline sharing=hrd: no group has this alone; .*did you mean 'sharing=hard'"):
        compare(runs, "typo", baseline="sharing=hrd")
    without = compare([run for run in runs if run.settings["sharing"] != "none"], "without")
    assert without.baseline is None and said(without, "no single-task baseline") and without.groups[0].delta_m is None


def test_worked_runs_are_as_written(tmp_path: Path) -> None:
    run = worked(tmp_path)[4]
    assert (run.seed, run.scores["sort"][ACCURACY], run.scores["size"][ERROR]) == (1, *WORKED["hard"][1])
    assert run.seconds == 3 and run.parameters == 100 and run.roles == {"sort": "main", "size": "main"}


def test_without_an_average_seeds_are_counted_all_the_same(tmp_path: Path) -> None:
    runs = [
        read(made_run(tmp_path / f"{sharing}{seed}", {"sort": {ACCURACY: 0.5 + seed / 10}}, {"sharing": sharing}, seed=seed,
                      auxiliary=["sort"]))
        for sharing in ("none", "hard") for seed in (0, 1)
    ]  # fmt: skip
    known = compare(runs, "auxiliary")
    assert [each.n for each in known.groups] == [2, 2] and "over 2 seeds" in spread(known)
    assert said(known, "No main task has a value") and not said(known, "too few for an interval") and not said(known, "in common")


def test_of_equal_test_averages_none_is_better(tmp_path: Path) -> None:
    known = compare(table(tmp_path, {"none": [0.5, 0.6], "hard": [0.5, 0.6]}, none=0.1, hard=0.2), "equal")
    assert known.best.name == "hard" and not said(known, "chooses nothing")


def test_of_single_runs_nothing_is_said_of_negative_transfer(tmp_path: Path) -> None:
    assert not any("loses surely" in line for line in summary(compare(table(tmp_path, {"none": [0.5], "hard": [0.4]}), "single")))


def folds(home: Path, validation: dict[str, dict[int, float]]) -> list[Result]:
    """A run for each sharing and fold, with its validation average; the test part says 0.5 of all."""
    return [
        read(made_run(home / f"{name}_{fold}", {"a": {ACCURACY: 0.5}}, {"sharing": name}, {"dataset": {"fold": fold}},
                      validation=value))
        for name, values in validation.items() for fold, value in values.items()
    ]  # fmt: skip


HARD_FOLDS = {"none": {0: 0.9, 1: 0.5, 2: 0.5}, "soft": {0: 0.91, 1: 0.51, 2: 0.51}, "hard": {0: 0.7}}


def test_the_best_is_chosen_over_what_groups_have_in_common(tmp_path: Path) -> None:
    """``hard`` has the fold alone in which all are good, and is the worst there."""
    known = compare(folds(tmp_path, HARD_FOLDS), "folds")
    assert known.best.name == "soft" and known.best.validation == pytest.approx((0.91 + 0.51 + 0.51) / 3)
    assert math.isnan(group(known, "hard").validation)
    (found,) = [each for each in known.findings if each.text.startswith("choice:")]
    assert not found.fair and "'hard'" in found.text and "fewer than half of the 3" in found.text


def test_a_group_that_lacks_little_takes_part_over_what_is_left(tmp_path: Path) -> None:
    values = {"none": {0: 0.9, 1: 0.5, 2: 0.1}, "hard": {0: 0.8, 1: 0.4}}
    known = compare(folds(tmp_path, values), "folds")
    assert known.best.name == "none" and known.best.validation == pytest.approx(0.7), "over folds 0 and 1"
    (found,) = [each for each in known.findings if each.text.startswith("choice:")]
    assert found.fair and "the 2 of 3 seeds and splits" in found.text


def test_the_baseline_is_chosen_over_what_baselines_have_in_common(tmp_path: Path) -> None:
    """As with the best: two baselines, of which the worse one has the easy fold alone."""
    runs = [
        read(made_run(tmp_path / f"{encoder}{fold}{sharing}", {"a": {ACCURACY: 0.5}}, {"sharing": sharing, "encoder": encoder},
                      {"dataset": {"fold": fold}, "encoder": {}}, validation=value))
        for sharing, encoder, values in (
            ("none", "mlp", {0: 0.9, 1: 0.5, 2: 0.5}), ("none", "cnn", {0: 0.7}), ("hard", "rnn", {0: 0.6, 1: 0.5, 2: 0.5})
        )
        for fold, value in values.items()
    ]  # fmt: skip
    known = compare(runs, "baselines")
    assert known.baseline and known.baseline.name == "none mlp" and group(known, "hard rnn").reference == "none mlp"


def test_groups_with_nothing_in_common_are_not_chosen_between(tmp_path: Path) -> None:
    known = compare(folds(tmp_path, {"none": {0: 0.9}, "hard": {1: 0.5}, "soft": {1: 0.6}}), "apart")
    assert known.best.name == "soft" and math.isnan(group(known, "none").validation)
