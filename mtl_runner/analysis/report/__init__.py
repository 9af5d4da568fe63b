"""What a comparison looks like: on the terminal, and as files for a paper, a page and a spreadsheet."""

from pathlib import Path

from mtl_runner.analysis.comparison import Comparison

__all__ = ["write"]


def write(comparison: Comparison, folder: Path) -> list[Path]:
    """``table.csv``, ``table.md``, ``table.tex``, ``figures/`` and ``report.html``, which holds all of it.

    Returns:
        The files, the page last. The same comparison gives the same bytes.
    """
    from mtl_runner.analysis.report import figures
    from mtl_runner.analysis.report.latex import as_latex
    from mtl_runner.analysis.report.page import as_html
    from mtl_runner.analysis.report.tables import as_csv, as_markdown

    folder.mkdir(parents=True, exist_ok=True)
    drawn = figures.draw(comparison, folder / "figures")
    texts = {
        "table.csv": as_csv(comparison),
        "table.md": as_markdown(comparison),
        "table.tex": as_latex(comparison),
        "report.html": as_html(comparison, drawn),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    *tables, page = texts
    return [*(folder / name for name in tables), *(path for each in drawn for path in each.paths), folder / page]
