"""Folders of strangers, and of other versions, are read or refused, whatever is in them."""

import json
from pathlib import Path

import pytest
from made_runs import ACCURACY, made_run

from mtl_runner.analysis.mlflow_search import on_disk
from mtl_runner.analysis.results import read

SCORES = {"a": {ACCURACY: 0.5}}
LAUGHS = "seed: 0\na: &a [x, x, x]\n" + "".join(
    f"{n}: &{n} [{', '.join([f'*{o}'] * 9)}]\n" for o, n in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("config.yaml", "a: [1"),
        ("config.yaml", "a: !!python/object/apply:os.mkdir [pwned]"),
        ("config.yaml", "3"),
        ("config.yaml", "[" * 9000 + "]" * 9000),
        ("config.yaml", "a: \x01"),
        ("config.yaml", LAUGHS),
        ("config.yaml", "seed: 0\na: &a [*a]"),
        ("status.json", "[]"),
        ("status.json", "[" * 100_000),
        ("test_metrics.json", '{"tasks": {"a": {"m": "x"}}, "primary": {}, "average": {}}'),
        ("data.json", '{"targets": {"a": {}}, "rows": {"train": 5}}'),
        ("metrics.jsonl", "[1]"),
        ("metrics.jsonl", '{"epoch": 1, "metrics": {"validation/average": "x"}}'),
    ],
)
def test_a_broken_file_is_one_unreadable_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    folder = made_run(Path("run"), SCORES)
    (folder / file).write_text(text)
    assert on_disk(folder).state == "unreadable" and not Path("pwned").exists()


def test_a_run_of_the_first_version_says_less(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "run", SCORES)
    (folder / "data.json").write_text(json.dumps({"targets": {"a": {}}}))
    (folder / "status.json").write_text(json.dumps({"state": "finished", "choices": {"sharing": "hard"}}))
    run = read(folder)
    assert run.looks is None and not run.rows and run.seconds != run.seconds and run.roles == {"a": "main"}


def test_names_move_no_cursor(tmp_path: Path) -> None:
    run = read(made_run(tmp_path / "run", {"a\x1b[2J\u202eb\nc": {ACCURACY: 0.5}}, {"sharing": "\x07x"}))
    assert list(run.scores) == list(run.primary) == list(run.roles) == ["a [2J b c"] and run.settings["sharing"] == " x"


def test_of_each_epoch_only_what_is_drawn_is_kept(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "run", SCORES)
    line = {"epoch": 1, "metrics": {"validation/average": None, "weight/a": 2, "train/a/loss": 3.0}}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    (kept,) = read(folder).history
    assert list(kept["metrics"]) == ["validation/average", "weight/a"] and kept["metrics"]["weight/a"] == 2


def test_a_run_whose_schedule_began_with_a_smaller_budget_is_no_job(tmp_path: Path) -> None:
    for name, planned, job in (("a", None, "1"), ("b", 30, "1"), ("c", 20, "")):
        status = {"job": "1"} | ({"planned": {"epochs": planned, "steps": None}} if planned else {})
        run = read(made_run(tmp_path / name, {"a": {"roc_auc": 0.8}}, status=status))
        assert (run.job, run.extended) == (job, not job)


def test_rows_of_all_streams_are_counted(tmp_path: Path) -> None:
    data = json.loads((made_run(tmp_path / "a", SCORES) / "data.json").read_text())
    (tmp_path / "a" / "data.json").write_text(json.dumps(data | {"rows": {"train": {"one": 80, "two": 20}}}))
    assert read(tmp_path / "a").rows == {"train": 100}
