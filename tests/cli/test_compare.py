"""``mtl compare``: what it shows and writes, on made runs."""

from pathlib import Path

import pytest
from standins import Command, finished_run


@pytest.fixture
def sweep(folder: Path) -> Path:
    for sharing, values in {"none": (0.5, 0.6), "hard": (0.6, 0.75)}.items():
        for seed, value in enumerate(values):
            finished_run(folder / f"runs/2026-11-21/08-00-00/{sharing}_{seed}", sharing, seed, value)
    return folder / "runs/2026-11-21/08-00-00"


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes seconds, and has tests of its own."""
    monkeypatch.setattr("mtl_runner.analysis.report.figures.draw", lambda *_: [])


def test_the_newest_sweep_is_compared(mtl: Command, sweep: Path) -> None:
    result = mtl("compare")
    assert result.code == 0, result.err
    assert "hard" in result.out and "none" in result.out and "report: comparisons/2026-11-21_08-00-00/report.html" in result.out
    assert (Path("comparisons/2026-11-21_08-00-00") / "table.csv").read_text().count("\n") > 2
    assert not list(Path().glob("*.db")), "MLflow is not asked about runs that it does not have"


def test_folders_baseline_groups_and_output(mtl: Command, sweep: Path) -> None:
    result = mtl("compare", str(sweep), "--baseline", "sharing=hard", "--by", "sharing", "--output", "out")
    assert result.code == 0 and (Path("out") / "report.html").exists() and not Path("comparisons").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing",), "nothing: there is no such folder"),
        (("--by", "sharin"), "did you mean 'sharing'?"),
        (("--baseline", "sharing"), "KEY=VALUE is expected"),
        (("--baseline", "sharing=sft"), "no group has this alone"),
        (("--experiment", "x"), "there is no MLflow database"),
    ],
)
def test_mistakes_leave_nothing(mtl: Command, sweep: Path, arguments: tuple[str, ...], words: str) -> None:
    result = mtl("compare", *arguments)
    assert result.code == 2 and words in result.err and "Traceback" not in result.err
    assert not Path("comparisons").exists() and not list(Path().glob("*.db"))
