"""What is printed can be read: on a terminal of 80 columns, in a file, and whatever the names are."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mtl_runner.batch import TargetSpec
from mtl_runner.console import HEADERS, Display, log, logging_to, print_results, print_tree, sizes_line
from mtl_runner.evaluate import averages
from mtl_runner.tasks import Task, make_tasks

Run = Callable[[], str]

TASKS = make_tasks(
    {
        "digit": TargetSpec("multiclass", classes=("0", "1")),
        "a task with quite a long name": TargetSpec("multiclass", classes=("0", "1"), metric="mcc"),
        "parity": TargetSpec("binary", classes=("0", "1")),
        "speed [rpm]": TargetSpec("regression", columns=("s",)),
        "reconstruction": TargetSpec("reconstruction", role="auxiliary", shape=(3,)),
    }
)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes rich take standard output for a terminal of so many columns."""

    def make(columns: int) -> None:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.delenv("NO_COLOR", raising=False)

    return make


@pytest.fixture
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().out)


def scores(tasks: list[Task]) -> dict[str, dict[str, float]]:
    """A number of its own for every task and metric."""
    numbers = iter(range(1000, 9999, 7))
    return {task.name: {metric.name: next(numbers) / 10_000 for metric in task.metrics} for task in tasks}


def show(tasks: list[Task], values: dict[str, dict[str, float]]) -> None:
    print_results(values, averages(values, tasks), tasks, "test")


@pytest.mark.parametrize("columns", [80, 120])
def test_every_number_and_name_is_there_in_80_columns(
    terminal: Callable[[int], None], capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    terminal(columns)
    values = scores(TASKS)
    show(TASKS, values)
    out = said(capsys)
    assert max(map(len, out.splitlines())) <= columns and "…" not in out
    for task in TASKS:
        for metric in task.metrics:
            mark = r"\*" if metric == task.primary else "(?!\\*)"
            assert re.search(rf"\b{values[task.name][metric.name]:.4f}{mark}", out), (task.name, metric.name)
    words = set(re.findall(r"[\w\[\]()]+", out))
    assert {word for task in TASKS for word in task.name.split()} <= words
    named = {HEADERS.get(metric.name, metric.name.replace("_", "\n")) for task in TASKS for metric in task.metrics}
    assert {word for name in named for word in name.split("\n")} <= words
    assert "(auxiliary)" in words


def test_a_name_longer_than_the_terminal_is_folded_and_the_numbers_stay(
    terminal: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    terminal(80)
    tasks = make_tasks({"x" * 100: TargetSpec("binary", classes=("0", "1"))})
    values = scores(tasks)
    show(tasks, values)
    out = said(capsys)
    assert max(map(len, out.splitlines())) <= 80 and "…" not in out
    assert all(f"{value:.4f}" in out for value in values["x" * 100].values())


def test_in_a_file_a_task_has_a_row_to_itself_in_a_table_of_classes_and_one_of_probabilities(
    no_terminal: None, capsys: pytest.CaptureFixture[str]
) -> None:
    show(TASKS, scores(TASKS))
    out = capsys.readouterr().out
    for task in TASKS:
        name = task.name if task.main else f"{task.name} (auxiliary)"
        rows = [line for line in out.splitlines() if line.strip().startswith(f"{name} ")]
        shown = [len(re.findall(r"\d\.\d{4}", row)) for row in rows]
        assert sorted(shown) == sorted(Counter(metric.of for metric in task.metrics).values())
    assert "\x1b" not in out


@pytest.mark.parametrize("count", [1, 4])
def test_tasks_with_names_of_some_length_need_one_table_each_in_100_columns(
    terminal: Callable[[int], None], capsys: pytest.CaptureFixture[str], count: int
) -> None:
    terminal(100)
    tasks = make_tasks({f"complication_{i}_in_3_days": TargetSpec("binary", classes=("0", "1")) for i in range(count)})
    show(tasks, scores(tasks))
    out = said(capsys)
    assert len(re.findall("^test: (?!average)", out, re.MULTILINE)) == 2
    assert len(re.findall(r"^ *complication_0_in_3_days ", out, re.MULTILINE)) == 2  # not folded


def test_prevalence_stands_beside_average_precision_and_has_no_average_and_no_cell_where_it_makes_no_sense(
    no_terminal: None, capsys: pytest.CaptureFixture[str]
) -> None:
    values = scores(TASKS)
    show(TASKS, values)
    assert "prevalence" not in averages(values, TASKS)
    lines = capsys.readouterr().out.splitlines()
    table = lines[next(i for i, line in enumerate(lines) if "ranking and probabilities" in line) :]
    header = next(line for line in table if "prevalence" in line)
    assert re.search(r"precision +prevalence +loss", header)
    last = header.index("prevalence") + len("prevalence")
    cells = {line.split()[0]: line[last - 7 : last].strip() for line in table[:12] if line.strip()}
    assert cells["parity"] == f"{values['parity']['prevalence']:.4f}"
    assert cells["digit"] == cells["average"] == ""


def test_the_averages_are_those_of_the_main_tasks(no_terminal: None, capsys: pytest.CaptureFixture[str]) -> None:
    values = scores(TASKS)
    show(TASKS, values)
    out = capsys.readouterr().out
    primary = [values[task.name][task.primary.name] for task in TASKS if task.main]
    assert f"main tasks: {sum(primary) / len(primary):.4f}" in out
    assert len(re.findall(r"^ *average ", out, re.MULTILINE)) == 2  # of the two tables with several main tasks
    for name in ("mcc", "brier"):
        assert f"{sum(values[task.name][name] for task in TASKS[:3]) / 3:.4f}" in out


def test_the_average_of_what_has_units_is_an_empty_cell(no_terminal: None, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = make_tasks({name: TargetSpec("regression", columns=(name,)) for name in ("price", "rooms")})
    values = scores(tasks)
    values["price"] |= {"r2": -0.5, "mae": 8000.0, "rmse": 9000.0}
    show(tasks, values)
    lines = capsys.readouterr().out.splitlines()
    price, average = (next(line for line in lines if line.strip().startswith(name)) for name in ("price ", "average "))
    assert price.split()[1:4] == ["−0.5000*", "8000.0000", "9000.0000"], "one minus sign in all that people read"
    assert len(average.split()) == len(price.split()) - 2
    assert not average[price.index("8000") : price.index("9000") + 9].strip()


def test_a_table_of_units_alone_has_no_row_of_averages(
    terminal: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    terminal(24)
    tasks = make_tasks({name: TargetSpec("regression", columns=(name,)) for name in ("price", "rooms")})
    show(tasks, scores(tasks))
    tables = [table for table in said(capsys).split("test: predicted") if "mae" in table]
    assert tables and all(("average " in table) == ("r2" in table or "pearson" in table) for table in tables)


def test_what_is_undefined_is_a_dash(no_terminal: None, capsys: pytest.CaptureFixture[str]) -> None:
    task = TASKS[:1]
    values = {task[0].name: {metric.name: float("nan") for metric in task[0].metrics}}
    show(task, values)
    out = capsys.readouterr().out
    assert "nan" not in out and out.count("–") == len(task[0].metrics) + 1


def test_the_tree_has_every_key_and_value_whatever_brackets_are_in_them(
    no_terminal: None, capsys: pytest.CaptureFixture[str]
) -> None:
    config: dict[str, Any] = {
        "a": {"b [bold]": {"c": "[/red] x"}, "empty": {}},
        "list": [64, 32],
        "path": "/data/[old]/x.csv",
        "n": None,
    }
    print_tree(config)
    out = capsys.readouterr().out
    for text in ("b [bold]", "c: [/red] x", "empty: {}", "list: [64, 32]", "path: /data/[old]/x.csv", "n: None"):
        assert text in out
    depth = {line.split("── ")[-1]: line.index("── ") for line in out.splitlines() if "── " in line}
    assert depth["a"] == depth["n: None"] < depth["b [bold]"] < depth["c: [/red] x"]


def test_sizes_are_in_one_line_without_parts_that_are_not_there() -> None:
    line = sizes_line({"shared": 1234567, "task encoders": 0, "heads": 10, "total": 1234577})
    assert line == "parameters: 1,234,577 (shared 1,234,567, heads 10)"


METRICS_OF_AN_EPOCH = {"train/a/loss": 0.2, "train/b/loss": 0.4, "validation/a/loss": 9.0, "validation/average": 0.75}


@pytest.mark.parametrize("wanted", [True, False])
def test_without_a_terminal_an_epoch_is_one_plain_line(
    no_terminal: None, capsys: pytest.CaptureFixture[str], tmp_path: Path, wanted: bool
) -> None:
    with logging_to(tmp_path / "run.log"), Display(12, 3, wanted) as display:
        for _ in range(3):
            display.step()
        display.epoch(1, METRICS_OF_AN_EPOCH)
        display.epoch(2, {})
    assert capsys.readouterr().out.splitlines() == ["epoch 1/12  loss 0.3000  validation average 0.7500", "epoch 2/12  "]


def test_on_a_terminal_the_bar_counts_steps_and_is_gone_in_the_end(
    terminal: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    terminal(100)
    with Display(2, 3, wanted=True) as display:
        assert display.bar is not None
        display.step()
        assert display.bar.tasks[0].completed == 1 and display.bar.tasks[0].total == 6
        display.epoch(1, METRICS_OF_AN_EPOCH)  # also where an epoch had fewer steps than planned
        assert display.bar.tasks[0].completed == 3
        display.bar.refresh()
    assert "epoch 1/2  loss 0.3000" in said(capsys)
    assert Display(2, 3, wanted=False).bar is None


def test_messages_go_to_the_terminal_as_they_are_and_with_the_time_into_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.log"
    before = (log.level, log.propagate, list(log.handlers))
    with logging_to(path):
        log.info("note: α = %s", 0.5)
    log.info("not this one")
    assert capsys.readouterr().out == "note: α = 0.5\n"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO note: α = 0\.5\n", path.read_text(encoding="utf-8"))
    assert (log.level, log.propagate, log.handlers) == before


def test_the_log_is_put_back_after_an_error_too(tmp_path: Path) -> None:
    handlers = list(log.handlers)
    with pytest.raises(KeyError), logging_to(tmp_path / "run.log"):
        raise KeyError
    assert log.handlers == handlers


def test_where_nothing_is_said_there_is_no_log_file(tmp_path: Path) -> None:
    with logging_to(tmp_path / "run.log"):
        pass
    assert not list(tmp_path.iterdir())
