"""The run folder in MLflow's terms, judged by MLflow's own validation."""

import json
from pathlib import Path

import pytest
from conftest_tracking import RunFolder, line

from mtl_runner.errors import UserError
from mtl_runner.tracking import record
from mtl_runner.tracking.uri import resolve

NAMES = [
    "train/digit/loss",
    "train/spend (€)/loss",
    "train/spend ($)/loss",
    "a//b",
    "../up",
    "/root",
    ".",
    "x" * 300,
    "Größe",
    "tab\there",
    "",
]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_one_that_mlflow_takes(name: str) -> None:
    from mlflow.utils.validation import _validate_metric, _validate_param, _validate_tag

    _validate_metric(record.safe(name), 1.0, 0, 0)
    _validate_param(record.safe(name), "value")
    _validate_tag(record.safe(name), "value")


def test_names_stay_apart_and_good_ones_stay_as_they_are() -> None:
    assert len({record.safe(name) for name in NAMES}) == len(NAMES)
    assert record.safe("validation/my task.v-2: x/roc_auc") == "validation/my task.v-2: x/roc_auc"


def test_parameters_are_the_flat_configuration(run_folder: RunFolder) -> None:
    params = record.read(run_folder.path).params
    assert params["dataset.tasks.digit.type"] == "multiclass"
    assert params["dataset.names"] == '["a", "b"]'
    assert params["dataset.long"] == "null"
    assert params["trainer.monitor"] == ""
    assert params["seed"] == "0"


def test_long_values_are_shortened(run_folder: RunFolder) -> None:
    config = run_folder.path / "config.yaml"
    config.write_text(config.read_text().replace("long: null", f"long: {'y' * 9000}"))
    assert len(record.read(run_folder.path).params["dataset.long"]) == 500


def test_tags_name_the_choices_the_commit_the_data_and_the_sweep(run_folder: RunFolder) -> None:
    tags = record.read(run_folder.path).tags
    expected = {"sharing": "hard", "imbalance": "none", "git_commit": "c0ffee", "data_fingerprint": "f00d"}
    assert expected.items() <= tags.items()
    assert tags["sweep"] == "2026-11-21/08-00-00"
    assert tags["mtl.folder"] == str(run_folder.path)


def test_the_name_says_what_was_chosen_and_changed(run_folder: RunFolder) -> None:
    assert record.read(run_folder.path).name == "digits-mlp-hard-equal seed=1"


def test_a_line_becomes_points_with_its_own_time_and_epoch() -> None:
    points = record.points(line(3, time=1700000000.1234))
    assert {(point.time, point.epoch) for point in points} == {(1700000000123, 3)}
    assert points[-1][:2] == (record.MARK, 30)


def test_a_line_cut_off_by_a_kill_is_left_out(run_folder: RunFolder) -> None:
    run_folder.write(line(1), line(2))
    with (run_folder.path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line(3))[:40])
    assert [each["epoch"] for each in record.read(run_folder.path).lines()] == [1, 2]


def test_undefined_test_metrics_are_left_out(run_folder: RunFolder) -> None:
    run_folder.write(line(2))
    run_folder.end()
    points = {point.name: (point.value, point.epoch) for point in record.read(run_folder.path).test_points()}
    assert points == {"test/digit/accuracy": (0.5, 2), "test/average": (0.5, 2)}


def test_only_a_run_folder_is_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a run folder: it has no config\.yaml and no status\.json"):
        record.read(tmp_path)


@pytest.mark.parametrize("uri", ["databricks", "mlruns", "file:///tmp/runs", "http://", "sqlite:///", "postgres://x/y", ""])
def test_other_places_are_refused(uri: str) -> None:
    with pytest.raises(UserError, match="no place for MLflow runs; allowed: http"):
        resolve(uri)


def test_where_mlflow_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve(None) == f"sqlite:///{tmp_path}/mlflow.db"
    assert resolve("sqlite:///here.db") == f"sqlite:///{tmp_path}/here.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000/")
    assert resolve(None) == "http://tracker:5000"
    assert resolve("https://other") == "https://other"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense")
    with pytest.raises(UserError, match=r"^MLFLOW_TRACKING_URI=nonsense"):
        resolve(None)


def test_a_folder_that_mlflow_would_misread_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "50%").mkdir()
    monkeypatch.chdir(tmp_path / "50%")
    with pytest.raises(UserError, match=r"no % or \? in the path"):
        resolve(None)
