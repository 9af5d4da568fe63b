"""``experiments/imbalance``: the study runs, its intervals are SciPy's, and the recorded page is that of the recorded table."""

import csv
import importlib
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from scipy import stats
from sklearn.metrics import recall_score

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "imbalance"
SMALL = {
    "common": ["encoder.hidden=[8]", "trainer.epochs=2", "trainer.device=cpu", "tracker=none"],
    "data": {
        "digits": {"test_share": 0.3, "overrides": ["dataset=digits", "dataset.long_tail=20"], "without": {"hard": ["smote"]}},
        "ctg": {"test_share": 0.2, "overrides": ["dataset=ctg"]},
    },
    "sharing": {"hard": ["sharing=hard"]},
    "trained": {
        "none": ["imbalance=none"],
        "class_weights": ["imbalance=class_weights"],
        "threshold, trained": ["imbalance=threshold"],
        "smote": ["imbalance=smote"],
    },
    "decided": {"threshold": ["imbalance=threshold"], "temperature": ["imbalance=temperature"]},
}


@pytest.fixture(scope="module")
def study() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield importlib.import_module("imbalance")


@pytest.fixture(scope="module")
def plan() -> Any:
    return yaml.safe_load((FOLDER / "study.yaml").read_text(encoding="utf-8"))


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# ---- from runs to the table -------------------------------------------------------------------------------------------


def made_up(study: ModuleType) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Ten seeds of two strategies on two tasks, in no order."""
    draws = np.random.default_rng(0)
    rows = [
        {"data": "d", "sharing": "hard", "strategy": strategy, "seed": str(seed), "task": task}
        | {metric: draws.normal(task == "a", 1 + (strategy == "other")) for metric in study.METRICS}
        for strategy in ("other", "none")
        for seed in draws.permutation(10)
        for task in ("a", "b")
    ]
    return rows, {
        "data": {"d": {"test_share": 0.25}},
        "sharing": {"hard": []},
        "trained": {"none": [], "other": []},
        "decided": {},
    }


def values(rows: list[dict[str, Any]], strategy: str, metric: str) -> list[float]:
    """The mean of the tasks for each seed."""
    own = [row for row in rows if row["strategy"] == strategy]
    return [float(np.mean([row[metric] for row in own if row["seed"] == str(seed)])) for seed in range(10)]


def test_differences_and_intervals_are_those_of_a_paired_t_test(study: ModuleType) -> None:
    rows, small = made_up(study)
    none, other = study.summary(rows, small)
    assert (none["strategy"], other["strategy"], none["seeds"], other["seeds"]) == ("none", "other", 10, 10)
    for metric in study.METRICS:
        mine, base = values(rows, "other", metric), values(rows, "none", metric)
        low, high = stats.ttest_rel(mine, base).confidence_interval(0.95)
        assert other[metric] - other[f"{metric}_half"] == pytest.approx(low)
        assert other[metric] + other[f"{metric}_half"] == pytest.approx(high)
        assert (none[metric] - none[f"{metric}_half"], none[metric] + none[f"{metric}_half"]) == pytest.approx(
            stats.t.interval(0.95, 9, np.mean(base), stats.sem(base))
        )
        assert other[f"{metric}_wide"] == pytest.approx(other[f"{metric}_half"] * math.sqrt((1 / 10 + 0.25) / (1 / 10)))


def test_only_what_both_runs_have_is_compared(study: ModuleType) -> None:
    """A task without a value in one run counts in neither; a seed of one strategy alone does not count."""
    base = {"0": {"a": 1.0, "b": 5.0}, "1": {"a": 2.0}, "2": {"a": 3.0}}
    runs = {"0": {"a": 1.5, "b": 7.0, "c": 9.0}, "1": {"a": 1.0, "b": 100.0}, "3": {"a": 4.0}, "2": {"b": 1.0}}
    assert study.differences(runs, base) == [1.25, -1.0]
    rows = [
        {"data": "d", "sharing": "s", "strategy": "x", "seed": "0", "task": task, "f1": value}
        for task, value in {"a": "0.5", "b": "nan"}.items()
    ]
    assert study.averaged(rows, "f1") == {("d", "s", "x"): {"0": {"a": 0.5}}}


def test_a_difference_is_sure_where_the_wide_interval_leaves_out_zero(study: ModuleType) -> None:
    signs = [study.sure({"f1": mean, "f1_half": 0.01, "f1_wide": 0.1}, "f1") for mean in (0.2, 0.05, -0.05, -0.2)]
    assert signs == [1, 0, 0, -1] and study.sure({"f1": 0.0, "f1_wide": 0.0}, "f1") == 0


def test_recall_of_a_class_is_scikit_learns(study: ModuleType) -> None:
    from sklearn.metrics import confusion_matrix

    draws = np.random.default_rng(1)
    true, predicted = draws.integers(0, 3, 50), draws.integers(0, 3, 50)
    matrix = confusion_matrix(true, predicted).tolist()
    recalls = [study.recall_of(matrix, label) for label in range(3)]
    assert recalls == pytest.approx(recall_score(true, predicted, average=None))
    assert math.isnan(study.recall_of([[0, 0], [1, 2]], 0))


def test_the_rarest_class_is_that_with_the_fewest_labels(study: ModuleType) -> None:
    labels = torch.tensor([2, 2, -100, 0, 0, 0, 1, 1, 1, -100, -100])
    assert study.rarest(labels, 3) == 2
    floats = torch.where(labels < 0, torch.nan, (labels == 0).float())
    assert study.rarest(floats, 2) == 1 and study.rarest(1 - floats, 2) == 0


def test_the_table_goes_between_the_marks(study: ModuleType) -> None:
    first, last = study.MARKS
    page = study.between_marks(f"before\n{first}\nold\n{last}\nafter\n", "new")
    assert page == f"before\n{first}\n\nnew\n{last}\nafter\n" and study.between_marks(page, "new") == page
    assert study.between_marks("before\n", "new").startswith(f"before\n{first}\n\nnew")


# ---- the study --------------------------------------------------------------------------------------------------------


def test_a_small_study_from_end_to_end(
    study: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Absent data are left out with a line, what is recorded is not run again, and a strategy that only reads the outputs in
    another way comes out as in a training of its own."""
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(SMALL, sort_keys=False))
    words = ["--study", tmp_path / "study.yaml", "--runs", tmp_path / "raw" / "runs.csv", "--output", tmp_path / "out"]
    words += ["--data-dir", tmp_path / "nowhere", "--seeds", 2, "--jobs", 1]
    monkeypatch.setattr("sys.argv", ["x", *map(str, words)])
    study.main()
    assert f"ctg is left out: there is no {tmp_path}/nowhere/ctg/" in capsys.readouterr().out
    rows = read(tmp_path / "raw" / "runs.csv")
    strategies = ["none", "threshold", "temperature", "class_weights", "threshold, trained"]
    expected = [("digits", s, str(seed), task) for seed in range(2) for s in strategies for task in ("digit", "parity")]
    assert sorted((row["data"], row["strategy"], row["seed"], row["task"]) for row in rows) == sorted(expected)
    by = {(row["strategy"], row["seed"], row["task"]): [row[metric] for metric in study.METRICS] for row in rows}
    for seed, task in (("0", "digit"), ("1", "parity")):
        assert by["threshold", seed, task] == by["threshold, trained", seed, task] != by["none", seed, task]
        assert by["class_weights", seed, task] != by["none", seed, task] != by["temperature", seed, task]
    assert by["none", "0", "digit"] != by["none", "1", "digit"]

    page, table = tmp_path / "out" / "README.md", (tmp_path / "out" / "results.csv").read_text()
    assert "### digits" in page.read_text() and (tmp_path / "out" / study.FIGURE).stat().st_size > 5_000
    monkeypatch.setattr(study, "run", lambda job: pytest.fail(f"{job} is run again"))
    study.main()
    assert read(tmp_path / "raw" / "runs.csv") == rows and (tmp_path / "out" / "results.csv").read_text() == table


def test_a_run_that_fails_does_not_end_the_study(
    study: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(job: Any) -> list[dict[str, Any]]:
        if job.strategy == "class_weights":
            raise ValueError("no such thing")
        return [
            dict(zip(study.KEYS, job.key, strict=False), settings=job.settings, task="t", **dict.fromkeys(study.METRICS, 0.5))
        ]

    monkeypatch.setattr(study, "run", run)
    work = [job for job in study.jobs(SMALL, 1, [], ["digits"]) if "threshold" not in job.strategy]
    failures = study.run_all(work, 1, tmp_path / "runs.csv")
    assert failures == ["digits, hard, class_weights, 0: ValueError: no such thing"] and failures[0] in capsys.readouterr().out
    assert [row["strategy"] for row in read(tmp_path / "runs.csv")] == ["none"]


def test_other_overrides_are_another_run_and_the_place_of_the_data_is_none(study: ModuleType) -> None:
    def settings(*more: str) -> list[str]:
        return [job.settings for job in study.jobs(SMALL, 2, more)]

    assert len(set(settings())) == len(settings()) == 14
    assert settings("data_dir=x") == settings() and not set(settings("trainer.epochs=3")) & set(settings())
    fewer = SMALL | {"decided": {}}
    changed = {job.strategy for job in study.jobs(fewer, 1, []) if job.settings not in settings()}
    assert changed == {"none"}


def test_the_study_compares_strategies_at_all_places(study: ModuleType, plan: Any) -> None:
    places = study.places_of(plan)
    assert set(places.values()) == {"data", "loss", "representation", "decision"}
    assert set(places) == (plan["trained"] | plan["decided"]).keys() - {"none"}
    assert {name for name, place in places.items() if place == "decision"} == set(plan["decided"])


def test_every_data_set_of_the_study_can_be_configured(study: ModuleType, plan: Any) -> None:
    for data in plan["data"]:
        job = next(study.jobs(plan, 1, ["data_dir=nowhere"], [data]))
        node = study.configured(*job.overrides)
        assert node["dataset"]["split_seed"] == node["seed"] == 0
        assert (study.missing(job) is None) == (data == "digits")


# ---- what was recorded ------------------------------------------------------------------------------------------------


def test_the_recorded_table_is_complete(study: ModuleType, plan: Any) -> None:
    lines = study.results(FOLDER / "results.csv")
    expected = {
        (data, mode, strategy)
        for data, its in plan["data"].items()
        for mode in plan["sharing"]
        for strategy in plan["trained"] | plan["decided"]
        if strategy not in its.get("without", {}).get(mode, ())
    }
    assert {(line["data"], line["sharing"], line["strategy"]) for line in lines} == expected and len(lines) == len(expected)
    assert {line["seeds"] for line in lines} == {10}


def test_the_recorded_page_is_that_of_the_recorded_table(study: ModuleType) -> None:
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert study.between_marks(page, study.tables(study.results(FOLDER / "results.csv"))) == page


def test_the_ways_of_reading_outputs_move_no_ranking(study: ModuleType) -> None:
    """A threshold or an offset leaves the probabilities as they are; one temperature leaves a binary task's order."""
    for line in study.results(FOLDER / "results.csv"):
        if line["strategy"] in ("logit_adjustment_posthoc", "threshold (f1)", "threshold (balanced)"):
            assert line["roc_auc"] == line["average_precision"] == line["calibration_error"] == 0
        if (line["data"], line["strategy"]) == ("ai4i2020", "temperature"):
            assert line["roc_auc"] == line["average_precision"] == line["balanced_accuracy"] == 0
