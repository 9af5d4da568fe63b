"""``mtl compare``: groups of finished runs side by side, on the terminal, in files, and in MLflow."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import typer

from mtl_runner.analysis import mlflow_page, report
from mtl_runner.analysis.compare import compare as compared
from mtl_runner.analysis.comparison import Comparison
from mtl_runner.analysis.mlflow_search import Wanted
from mtl_runner.analysis.report import terminal
from mtl_runner.analysis.selection import select

HOME = Path("comparisons")


def compare(
    wanted: Wanted, by: Sequence[str], baseline: str | None, output: Path | None, title: str | None = None
) -> tuple[Comparison, list[Path]]:
    """Writes the report of the runs that are ``wanted``, shows it, and logs it to MLflow where the runs are there.

    Returns:
        The comparison, and the files of its report.

    Raises:
        UserError: there is nothing to compare by these names, keys or baseline; nothing is written then.
    """
    chosen = select(wanted)
    title = title or chosen.name
    comparison = compared(chosen.runs, title, [key for key in by if key], baseline, chosen.notes)
    runs = [run for group in comparison.groups for run in group.runs]
    comparison = replace(comparison, mlflow=mlflow_page.page(runs, wanted.uri))
    folder = output or HOME / (re.sub(r"[^\w.-]+", "_", title).strip("._") or "runs")
    folder.mkdir(parents=True, exist_ok=True)
    files = report.write(comparison, folder)
    terminal.show(comparison)
    typer.echo(f"report: {next((file for file in files if file.suffix == '.html'), folder)}")
    if run := mlflow_page.log(folder, title, runs, wanted.uri):
        typer.echo(f"in MLflow as the run 'comparison', {run}")
    return comparison, files
