"""``experiments/relatedness``: the study runs, and the recorded table is that of its recorded runs."""

import csv
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).resolve().parents[1] / "experiments" / "relatedness"


@pytest.fixture(scope="module")
def study() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield importlib.import_module("relatedness")


@pytest.fixture(scope="module")
def plan() -> Any:
    return yaml.safe_load((FOLDER / "study.yaml").read_text(encoding="utf-8"))


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_study_runs_every_setting_with_every_mode(
    study: ModuleType, plan: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["trainer.epochs=2", "dataset.test_rows=100", "dataset.validation_rows=50"]
    monkeypatch.setattr("sys.argv", ["x", "--seeds", "1", "--processes", "1", "--output", str(tmp_path / "new"), *small])
    study.main()
    rows = read(tmp_path / "new" / "results.csv")
    expected = [(setting, mode, str(seed)) for seed in range(1) for setting in plan["settings"] for mode in plan["modes"]]
    assert [(row["setting"], row["mode"], row["seed"]) for row in rows] == expected
    assert all(row["clusters"] == "1" for row in rows if "clustered" in row["mode"]), "they are in their warm-up"
    assert {row["mode"] for row in rows if row["rand"]} == {mode for mode in plan["modes"] if mode not in ("none", "hard")}
    table = (tmp_path / "new" / "README.md").read_text(encoding="utf-8")
    lines = [line.split(" | ") for line in table.splitlines() if line.startswith("| ")]
    assert len(lines) == 1 + len(plan["settings"]) * len(plan["modes"]) and len({len(line) for line in lines}) == 1
    assert "trainer.epochs=2" in table and "Seeds 0 to 0" in table and "commit" in table
    assert (tmp_path / "new" / "relatedness.png").stat().st_size > 5_000
    assert "adjusted Rand index" in capsys.readouterr().out


def test_intervals_are_students(study: ModuleType) -> None:
    """Two numbers: the mean, and 12.706 times the standard error."""
    mean, half = study.interval([1.0, 3.0])
    assert mean == 2 and half == pytest.approx(12.706, abs=1e-3)


def recorded() -> list[dict[str, Any]]:
    names = ("average", "clusters", "rand", "inside", "across")
    return [
        row | {"seed": int(row["seed"])} | {name: float(row[name]) if row[name] else None for name in names}
        for row in read(FOLDER / "results.csv")
    ]


def test_the_recorded_table_is_that_of_the_recorded_runs(study: ModuleType, plan: Any) -> None:
    rows = recorded()
    assert {(row["setting"], row["mode"], row["seed"]) for row in rows} == {
        (setting, mode, seed) for setting in plan["settings"] for mode in plan["modes"] for seed in range(10)
    }
    table = (FOLDER / "README.md").read_text(encoding="utf-8")
    for line in study.markdown(study.summary(rows)).splitlines():
        mine, theirs = line.split(" | ")[:4], [other.split(" | ")[:4] for other in table.splitlines()]
        assert mine in theirs


def test_what_the_recorded_runs_show(study: ModuleType) -> None:
    lines = {(line["setting"], line["mode"]): line for line in study.summary(recorded())}
    assert lines["one group", "hard"]["gain"][0] >= 0.03 and lines["unrelated", "hard"]["gain"][0] <= -0.02
    assert lines["unrelated", "clustered, learned"]["gain"][0] > lines["unrelated", "hard"]["gain"][0] + 0.02
    for mode in ("clustered, affinity", "clustered, learned", "task_relation"):
        assert lines["two groups", mode]["rand"][0] >= 0.9
