"""What the terminal shows of a run; plain lines where it is no terminal.

A terminal that goes away (``mtl-run … | head``) ends what is shown, never the run.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.tree import Tree

from mtl_runner.evaluate import Metrics
from mtl_runner.metrics import METRICS
from mtl_runner.tasks.base import Task

log = logging.getLogger("mtl_runner")
HEADERS = {**{name: f"macro\n{name}" for name in ("precision", "recall", "f1")}, "g_mean": "g_mean"}
"""What a table calls a metric, where its name alone says too little, or is better left in one piece."""
TABLES = {"classes": "predicted classes", "probabilities": "ranking and probabilities", "values": "predicted values"}
"""What the tables are called."""
NARROWEST = 10
"""A table leaves a task's name at least so many columns, and is split where it cannot."""


class Screen(Console):
    """Standard output that may be closed by the other side."""

    def on_broken_pipe(self) -> None:
        go_silent()


class ScreenHandler(logging.StreamHandler[TextIO]):
    """Messages on what standard output is at that moment: a progress bar puts itself in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stdout
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            go_silent()
        else:
            super().handleError(record)


def go_silent() -> None:
    """From here on standard output leads nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.__stdout__.fileno() if sys.__stdout__ else 1)
    os.close(nowhere)


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Messages go to the terminal as they are and, with the time, to ``path``."""
    screen = ScreenHandler()
    screen.setFormatter(logging.Formatter("%(message)s"))
    file = logging.FileHandler(path, delay=True)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level, propagate = log.level, log.propagate
    log.setLevel(logging.INFO)
    log.propagate = False
    for handler in (screen, file):
        log.addHandler(handler)
    try:
        yield
    finally:
        log.setLevel(level)
        log.propagate = propagate
        for handler in (screen, file):
            log.removeHandler(handler)
            handler.close()


class Display:
    """Progress: a bar on a terminal, otherwise one plain line an epoch.

    Args:
        epochs: planned number.
        steps: steps in an epoch.
        wanted: whether a bar is wanted at all.
    """

    def __init__(self, epochs: int, steps: int, wanted: bool) -> None:
        self.epochs = epochs
        self.steps = steps
        console = Screen()
        self.bar = _bar(console) if wanted and console.is_terminal else None
        self.task = TaskID(0)

    def __enter__(self) -> "Display":
        if self.bar:
            self.bar.start()
            self.task = self.bar.add_task("training", total=self.epochs * self.steps, said="")
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    def step(self) -> None:
        if self.bar:
            self.bar.advance(self.task)

    def epoch(self, number: int, metrics: Mapping[str, float]) -> None:
        said = f"epoch {number}/{self.epochs}  {_summary(metrics)}"
        if self.bar:
            self.bar.update(self.task, completed=number * self.steps, said=said)
        else:
            log.info(said)


def _bar(console: Console) -> Progress:
    columns = (TextColumn("{task.fields[said]}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)


def _summary(metrics: Mapping[str, float]) -> str:
    losses = [value for name, value in metrics.items() if name.startswith("train/") and name.endswith("/loss")]
    parts = [f"loss {sum(losses) / len(losses):.4f}"] if losses else []
    if "validation/average" in metrics:
        parts.append(f"validation average {metrics['validation/average']:.4f}")
    return "  ".join(parts)


def print_tree(config: Mapping[str, Any]) -> None:
    """The resolved configuration."""
    tree = Tree("configuration")
    _grow(tree, config)
    Screen().print(tree)


def _grow(tree: Tree, node: Mapping[str, Any]) -> None:
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            _grow(tree.add(f"[bold]{escape(key)}[/bold]"), value)
        else:
            tree.add(escape(f"{key}: {value}"), highlight=True)


def sizes_line(sizes: Mapping[str, int]) -> str:
    """Number of parameters of each part, in one line."""
    parts = ", ".join(f"{name} {number:,}" for name, number in sizes.items() if number and name != "total")
    return f"parameters: {sizes['total']:,} ({parts})"


def print_results(metrics: Metrics, means: Mapping[str, float], tasks: Sequence[Task], title: str) -> None:
    """Task × metric, a table for what looks at the same of a prediction, and the average of the primary metrics.

    The primary metric of a task is marked; the last row of a table has the averages over its main tasks, of metrics without a
    unit. The cell of a metric that a task's kind does not have is empty.
    """
    console = Screen()
    if not console.is_terminal:  # a file takes what a table needs
        console = Screen(width=160)
    # the kind with the most metrics first, so that one that only it has stands where it has it
    of_kind = {task.kind: METRICS[task.kind] for task in tasks}
    for task in tasks:  # an option of a task may give it more metrics than its kind has
        of_kind[task.kind] += tuple(metric for metric in task.metrics if metric not in of_kind[task.kind])
    kinds = sorted(of_kind.values(), key=len, reverse=True)
    for of in dict.fromkeys(metric.of for each in kinds for metric in each):
        names = list(dict.fromkeys(metric.name for each in kinds for metric in each if metric.of == of))
        members = [task for task in tasks if any(metric.of == of for metric in task.metrics)]
        for table in fitting(console, partial(_table, metrics, means, members, f"{title}: {TABLES[of]}"), names):
            console.print(table)
    console.print(
        f"{title}: average of the primary metrics (*) of the main tasks: [bold]{_number(means.get('primary'))}[/bold]",
        highlight=False,
    )


def fitting(console: Console, make: Callable[[Sequence[str]], Table], names: Sequence[str]) -> list[Table]:
    """``make(names)``, in as few tables as it takes to cut no number short; only the tasks' names are folded."""
    free = console.options.update(width=10_000)
    for size in range(len(names), 0, -1):
        tables = [make(names[start : start + size]) for start in range(0, len(names), size)]
        if all(Measurement.get(console, free, table).minimum <= console.width for table in tables):
            break
    return tables


def _table(metrics: Metrics, means: Mapping[str, float], tasks: Sequence[Task], title: str, names: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("task", overflow="fold", min_width=min(NARROWEST, max(len(task.name) for task in tasks)))
    for name in names:
        table.add_column(HEADERS.get(name, name.replace("_", "\n")), justify="right", no_wrap=True)
    for task in tasks:
        values = metrics[task.name]
        cells = [_number(values[name]) + ("*" if name == task.primary.name else " ") if name in values else "" for name in names]
        table.add_row(escape(task.name if task.main else f"{task.name} (auxiliary)"), *cells)
    if sum(task.main for task in tasks) > 1:
        averaged = {metric.name for task in tasks for metric in task.metrics if metric.averaged}
        if averaged.intersection(names):
            table.add_section()
            table.add_row("average", *(_number(means.get(name)) + " " if name in averaged else "" for name in names))
    return table


def _number(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.4f}".replace("-", "\N{MINUS SIGN}")
