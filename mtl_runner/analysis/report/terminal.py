"""A comparison on the terminal."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mtl_runner.analysis.comparison import Comparison
from mtl_runner.analysis.report.columns import Column, gains, overall, scores, telling
from mtl_runner.analysis.report.words import gain_of, legend, spread, summary
from mtl_runner.console import NARROWEST, Screen, fitting

TASKS = 6
"""Tasks that are shown; the files have all."""
_PIPED = 120
"""Columns of a file, which takes what a table needs."""


def show(comparison: Comparison) -> None:
    """Averages, the tasks, gains over the baseline, what that says, whether it is fair, and where to read on.

    Of many tasks it shows those that gain or suffer most. Where a terminal is too narrow for a table, there are several.
    """
    console = Screen()
    if not console.is_terminal:
        console = Screen(width=_PIPED)
    tasks = telling(comparison, TASKS)
    which = f" ({len(tasks)} of {len(comparison.tasks)}, those that differ most)" if len(tasks) < len(comparison.tasks) else ""
    _print(console, comparison, comparison.title, overall(comparison))
    _print(console, comparison, f"primary metric of each task{which}", scores(comparison, tasks))
    if comparison.baseline:
        _print(console, comparison, f"{gain_of(comparison)}, in %{which}", gains(comparison, tasks))
    marks = [f"{'*' if mark == 'best' else mark} {text}" for mark, text in legend(comparison)]
    console.print(escape("; ".join([spread(comparison), *marks])), style="dim", highlight=False)
    console.print()
    for line in summary(comparison):
        console.print(escape(line), style="bold", highlight=False)
    console.print()
    for finding in sorted(comparison.findings, key=lambda finding: finding.fair):
        _point(console, "[green]✓[/green]" if finding.fair else "[yellow]![/yellow]", finding.text)
    for note in comparison.notes:
        _point(console, "·", note)
    if comparison.mlflow:
        console.print()
        console.print(escape(f"MLflow: {comparison.mlflow}"), highlight=False, soft_wrap=True)


def _point(console: Console, mark: str, text: str) -> None:
    """A line with a hanging indent."""
    grid = Table.grid(padding=(0, 1))
    grid.add_row(mark, escape(text))
    console.print(grid, highlight=False)


def _print(console: Console, comparison: Comparison, title: str, columns: Sequence[Column]) -> None:
    by_title = {column.title: column for column in columns}

    def make(titles: Sequence[str]) -> Table:
        return _table(comparison, title, [by_title[each] for each in titles])

    for table in fitting(console, make, list(by_title)):
        console.print(table)


def _table(comparison: Comparison, title: str, columns: Sequence[Column]) -> Table:
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    longest = max(len(group.name) for group in comparison.groups)
    table.add_column("group", overflow="fold", min_width=min(NARROWEST, longest))
    for column in columns:
        table.add_column(f"{escape(_short(column.title))}\n[dim]{escape(column.unit)}[/dim]", justify="right", no_wrap=True)
    for row, group in enumerate(comparison.groups):
        name = escape(f"{group.name} (baseline)" if group.is_baseline else group.name)
        best = group.name == comparison.best.name
        table.add_row(f"[bold]{name}[/bold]" if best else name, *(_cell(column, row) for column in columns))
    return table


def _cell(column: Column, row: int) -> str:
    """Marks have their own places behind the number, so that numbers stay in line."""
    cell = column.cells[row]
    marked = [("*", [each.top for each in column.cells])]
    marked += [("≈", [each.close for each in column.cells]), ("†", [each.suffers for each in column.cells])]
    marks = "".join(mark if has[row] else " " for mark, has in marked if any(has))
    text = cell.text.replace(" ± ", "±")
    return f"[{'bold' if cell.top else 'red' if cell.suffers else 'default'}]{text}{marks}[/]"


def _short(name: str, length: int = 16) -> str:
    return name if len(name) <= length else f"{name[: length // 2]}…{name[-(length - 1 - length // 2) :]}"
