"""``mtl explain``: what it prints, what it writes, and what it says to a mistake."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from standins import Command

FILES = {"importance.csv", "attributions.csv", "shared.csv", "inputs.csv", "importance.png", "attributions.png"}


def test_a_run_is_explained_beside_its_files(
    mtl: Command, train: Callable[..., Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtl_runner.figures.draw", lambda folder: None)
    small = ("dataset.dimension=5", "dataset.n_tasks=3", "dataset.rows=500", "dataset.validation_rows=200", "trainer.epochs=4")
    run = train("dataset=synthetic", *small, "dataset.tasks={task_1:{role:auxiliary}}")
    result = mtl("explain", str(run), "--repeats", "3", "--rows", "150")
    assert result.code == 0, result.err
    assert "150 rows of the validation part, each input shuffled 3 times" in result.out
    assert "surely used by several tasks" in result.out and str(run / "explain") in result.out
    assert {path.name for path in (run / "explain").iterdir()} == FILES
    with (run / "explain" / "importance.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["task"], row["input"]) for row in rows] == [(f"task_{t}", f"x_{i}") for t in range(3) for i in range(5)]
    assert all(float(row["low"]) <= float(row["drop"]) <= float(row["high"]) for row in rows)

    before = {path.name: path.read_bytes() for path in (run / "explain").glob("*.csv")}
    assert mtl("explain", str(run), "--repeats", "3", "--rows", "150", "--output", "again/here").code == 0
    assert {path.name: path.read_bytes() for path in (folder / "again" / "here").glob("*.csv")} == before

    shutil.rmtree(run / "explain")
    (folder / "new.csv").write_text("x_0,x_1\n1,2\n")
    for arguments, said in (
        (("--part", "test"), "is read once, at the end of a run"),
        (("--repeats", "1"), "--repeats"),
        (("--input", "nowhere.csv"), "nowhere.csv"),
        (("--input", "new.csv"), "has no column 'x_2'"),
        (("--output", "new.csv"), "--output new.csv: is a file"),
    ):
        wrong = mtl("explain", str(run), *arguments)
        assert wrong.code == 2 and said in wrong.err, (arguments, wrong.err)
    assert mtl("explain", "nothing_here").code == 2
    assert not (run / "explain").exists()
