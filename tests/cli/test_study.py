"""``mtl study``: runs what is missing, and writes the report of all jobs beside the study."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from standins import Command, finished_run

STUDY = """defaults: [config, _self_]
hydra: {mode: MULTIRUN, sweeper: {params: {sharing: "none,hard", seed: "0,1"}}}
"""


@pytest.fixture(autouse=True)
def _study(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtl_runner.analysis.report.figures.draw", lambda *_: [])
    (folder / "experiments").mkdir()
    (folder / "experiments" / "mine.yaml").write_text(STUDY)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The arguments of each sweep, in place of which two jobs are made; two others were finished by an earlier one."""
    calls: list[list[str]] = []

    def launch(arguments: Sequence[str]) -> int:
        calls.append(list(arguments))
        sweep = Path(next(each.partition("=")[2] for each in arguments if each.startswith("hydra.sweep.dir=")))
        earlier = Path("runs/earlier")
        folders = [earlier / "0", earlier / "1", sweep / "2", sweep / "3"]
        for place, sharing, seed, value in zip(
            folders, ("none", "none", "hard", "hard"), (0, 1, 0, 1), (0.5, 0.6, 0.7, 0.9), strict=True
        ):
            if not place.exists():
                finished_run(place, sharing, seed, value)
        jobs = [{"number": number, "folder": str(place.absolute())} for number, place in enumerate(folders)]
        (sweep / "sweep.json").write_text(json.dumps({"jobs": [*jobs, {"number": 4, "folder": None}]}))
        return 1

    monkeypatch.setattr("mtl_runner.commands.launch.launch", launch)
    return calls


def test_runs_what_is_missing_and_reports_on_all(mtl: Command, launched: list[list[str]]) -> None:
    page = Path("experiments/mine/README.md")
    page.parent.mkdir()
    page.write_text("# Of my own\n\nRead this.\n")
    for _ in range(2):
        result = mtl("study", "mine", "encoder.dropout=0.1", "data_dir=/somewhere")
        assert result.code == 1, "a job has failed; the report is of the others"
    for arguments in launched:
        assert {"-m", "skip_finished=true", "encoder.dropout=0.1", "data_dir=/somewhere"} < set(arguments)
        assert arguments[:4] == ["--config-dir", "experiments", "--config-name", "mine"]
    text = page.read_text()
    assert text.startswith("# Of my own\n\nRead this.\n") and text.count("written by mtl study") == 1
    assert "\n# mine" not in text, "the page has a title of its own"
    mtl("study", "mine", "-cd", "experiments/../experiments", "-o", "elsewhere")
    assert "`mtl study mine -cd experiments/../experiments -o elsewhere`" in Path("elsewhere/README.md").read_text()
    assert "`mtl study mine encoder.dropout=0.1`" in text and "seeds: 0, 1; 4 runs in 2 groups" in text and STUDY.strip() in text
    lines = list(csv.DictReader(Path("experiments/mine/runs.csv").read_text().splitlines()))
    assert {(line["group"].split()[0], line["seed"], line["digit"]) for line in lines} == {
        ("none", "0", "0.5"), ("none", "1", "0.6"), ("hard", "0", "0.7"), ("hard", "1", "0.9"),
    }  # fmt: skip


def test_a_sweep_that_is_there_is_not_run_again(mtl: Command, launched: list[list[str]]) -> None:
    for seed in (0, 1):
        finished_run(Path(f"runs/day/time/{seed}"), "none", seed, 0.5)
    assert mtl("study", "mine", "--sweep", "runs/day/time", "--output", "there").code == 0
    assert not launched and (Path("there") / "report.html").exists() and not Path("experiments/mine").exists()


def test_runs_lie_where_they_are_looked_for(mtl: Command, launched: list[list[str]]) -> None:
    assert mtl("study", "mine", "runs_dir=mine/runs").code == 1
    assert any(argument.startswith("hydra.sweep.dir=mine/runs/") for argument in launched[0])


def test_names_that_are_no_study(mtl: Command, launched: list[list[str]]) -> None:
    result = mtl("study", "mien")
    assert result.code == 2 and "there are mine (did you mean 'mine'?)" in result.err
    said = mtl("study", "mine", "-cd", "elsewhere").err
    assert f"study mine: there is no folder {Path('elsewhere').absolute()}; -cd DIR names" in said
    Path("empty").mkdir()
    assert "there is none in empty" in mtl("study", "mine", "-cd", "empty").err
    assert not launched and not Path("runs").exists()


def test_a_wrong_configuration_leaves_nothing(mtl: Command) -> None:
    result = mtl("study", "mine", "shering=hard")
    assert result.code == 2 and "shering" in result.err
    assert not Path("runs").exists() and not Path("experiments/mine").exists()
