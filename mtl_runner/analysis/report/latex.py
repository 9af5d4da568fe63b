"""A comparison as tables for LaTeX, with booktabs and graphicx."""

from collections.abc import Iterable, Sequence

from mtl_runner.analysis.comparison import Comparison
from mtl_runner.analysis.report.columns import Cell, Column, gains, overall, scores
from mtl_runner.analysis.report.words import gain_of, legend, spread

_ACROSS = 4
"""Tasks in a table: so many fit the width of a page in small print."""
_NO_WIDER = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}"
_SPECIAL = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"{\char34}", "`": r"{\char96}", "±": r"$\pm$", "−": "$-$", "≈": r"$\approx$", "†": r"$\dagger$",
    "Δ": r"$\Delta$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "≥": r"$\geq$", "≤": r"$\leq$", "×": r"$\times$", "–": "--",
    "…": r"\ldots{}", "[": "{[}", "*": "{*}",
}  # fmt: skip


def as_latex(comparison: Comparison) -> str:
    r"""One ``table`` of the averages and one for each few tasks, to be read with ``\input``; needs booktabs and graphicx.

    A table that is wider than the page's text is made as small as that.
    """
    blocks: list[tuple[str, Sequence[Column]]] = [(f"{comparison.title}: averages", overall(comparison))]
    for title, columns in _by_task(comparison):
        chunks = [columns[start : start + _ACROSS] for start in range(0, len(columns), _ACROSS)]
        for number, chunk in enumerate(chunks, start=1):
            part = f" ({number} of {len(chunks)})" if len(chunks) > 1 else ""
            blocks.append((f"{comparison.title}: {title}{part}", chunk))
    notes = _notes(comparison)
    tables = [_table(comparison, title, columns, notes) for title, columns in blocks]
    return "% needs \\usepackage{booktabs,graphicx}\n" + "\n".join(tables)


def _by_task(comparison: Comparison) -> Iterable[tuple[str, Sequence[Column]]]:
    yield "primary metric of each task", scores(comparison, comparison.tasks)
    if comparison.baseline:
        yield f"{gain_of(comparison)}, in %", gains(comparison, comparison.tasks)


def _table(comparison: Comparison, caption: str, columns: Sequence[Column], notes: str) -> str:
    rows = []
    for row, group in enumerate(comparison.groups):
        name = f"{group.name} (baseline)" if group.is_baseline else group.name
        rows.append(_line([escaped(name), *(_cell(column.cells[row]) for column in columns)]))
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering\small",
            f"  \\caption{{{escaped(caption)}.}}",
            r"  \par\smallskip",
            f"  {_NO_WIDER}{{\\begin{{tabular}}{{l{'r' * len(columns)}}}",
            r"    \toprule",
            _line(["group", *(escaped(column.title) for column in columns)]),
            _line(["", *(escaped(column.unit) for column in columns)]),
            r"    \midrule",
            *rows,
            r"    \bottomrule",
            r"  \end{tabular}}",
            f"  \\par\\smallskip\\footnotesize {notes}",
            r"\end{table}",
            "",
        ]
    )


def _line(cells: Sequence[str]) -> str:
    return f"    {' & '.join(cells)} \\\\"


def _cell(cell: Cell) -> str:
    text = escaped(cell.text)
    marks = r"\approx" * cell.close + r"\dagger" * cell.suffers
    return (f"\\textbf{{\\boldmath {text}}}" if cell.top else text) + (f"$^{{{marks}}}$" if marks else "")


def _notes(comparison: Comparison) -> str:
    marks = [f"{'bold' if mark == 'best' else mark}: {text}" for mark, text in legend(comparison)]
    return escaped("; ".join([spread(comparison), *marks]) + ".")


def escaped(text: str) -> str:
    """``text`` as LaTeX sets it, on one line; signs beyond Latin letters and those of the tables are left to the font."""
    return "".join(_SPECIAL.get(letter, letter) for letter in " ".join(text.split()))
