"""``mtl explain``: what it prints, what it writes, and what it says to a mistake."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from standins import Command

FILES = {"importance.csv", "attributions.csv", "shared.csv", "inputs.csv", "importance.png", "attributions.png"}


@pytest.fixture
def two_tables(train: Callable[..., Path], folder: Path) -> Path:
    """A run on two files with different columns."""
    rows = range(60)
    (folder / "shop.csv").write_text("a,b,churn\n" + "".join(f"{n % 7},{n % 5},{'yes' if n % 7 > 3 else 'no'}\n" for n in rows))
    (folder / "mach.csv").write_text("zz,wear\n" + "".join(f"{n % 11},{3 * (n % 11)}.5\n" for n in rows))
    return train(
        "dataset=tables", "dataset.tables={shop:shop.csv,mach:mach.csv}", "dataset.tasks={churn:{table:shop},wear:{table:mach}}",
        "dataset.split={validation:0.4}", "trainer.epochs=1",
    )  # fmt: skip


def test_of_several_streams_one_is_explained_and_none_overwrites_another(mtl: Command, two_tables: Path, folder: Path) -> None:
    seen = {}
    for stream, inputs in (("shop", ("a", "b")), ("mach", ("zz",))):
        result = mtl("explain", str(two_tables), "--stream", stream, "--repeats", "2")
        assert result.code == 0 and "24 rows of the validation part" in result.out, result.err
        own = two_tables / "explain" / stream
        assert str(own) in result.out and {path.name for path in own.iterdir()} == FILES
        with (own / "importance.csv").open() as file:
            seen[stream] = [(row["task"], row["input"]) for row in csv.DictReader(file)]
        assert seen[stream] == [("churn" if stream == "shop" else "wear", name) for name in inputs]
    assert {path.name for path in (two_tables / "explain").iterdir()} == {"shop", "mach"}
    new = mtl("explain", str(two_tables), "--stream", "mach", "--input", "mach.csv", "--repeats", "2", "--output", "here")
    assert new.code == 0 and "60 rows of the mach.csv" in new.out and {path.name for path in (folder / "here").iterdir()} == FILES
    for arguments, said in (
        ((), "has several input streams, name one with --stream; there are shop, mach"),
        (("--stream", "shp"), "did you mean 'shop'"),
        (("--stream", "mach", "--input", "shop.csv"), "shop.csv has none of the columns zz, wear"),
    ):
        wrong = mtl("explain", str(two_tables), *arguments)
        assert wrong.code == 2 and said in wrong.err, (arguments, wrong.err)


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
