"""What the terminal shows of a comparison fits it, and is plain text in a file."""

import re

import pytest
from made_comparisons import made

from mtl_runner.analysis.report.terminal import TASKS, show
from mtl_runner.analysis.report.words import summary

ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    for name, value in {"FORCE_COLOR": "1", "COLUMNS": str(columns), "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize(("groups", "tasks"), [(4, 3), (6, 6), (3, 40), (1, 1)])
def test_no_number_is_cut(
    columns: int, groups: int, tasks: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal(monkeypatch, columns)
    comparison = made(groups, tasks)
    show(comparison)
    lines = [ESCAPES.sub("", line) for line in capsys.readouterr().out.splitlines()]
    assert all(len(line.rstrip()) <= columns for line in lines if not line.startswith("MLflow:"))
    numbers = [match for line in lines for match in re.findall(r"[+−]?[\d.]+±[\d.]+", line)]
    shown, gained = min(tasks, TASKS), sum(bool(group.gains) for group in comparison.groups)
    assert len(numbers) == groups * (1 + shown) + gained * (1 + shown)


def test_a_file_gets_plain_text(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    comparison = made(4, 3, title="[red]title[/red]")
    show(comparison)
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert text.startswith("[red]title[/red]")
    assert all(line in text.replace("\n", " ") for line in summary(comparison))
    assert f"MLflow: {comparison.mlflow}\n" in text
    assert text.index("! search") < text.index("✓ data")


def test_many_tasks_are_said_to_be_some_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    show(made(3, 40))
    assert f"({TASKS} of 40, those that differ most)" in capsys.readouterr().out
