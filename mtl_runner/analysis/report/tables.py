"""A comparison as CSV with all its numbers, and as Markdown."""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite

from mtl_runner.analysis.comparison import Comparison, Estimate, Group, Paired
from mtl_runner.analysis.report.columns import Cell, Column, gains, higher_is_better, overall, scores
from mtl_runner.analysis.report.words import gain_of, legend, spread, summary

_TESTS = ("difference", "difference_half", "pairs", "p", "holm", "wilcoxon")
FIELDS = (
    "group", "task", "role", "metric", "higher_is_better", "mean", "half", "n", "gain", "gain_half", "gain_n", "suffers",
    *(f"baseline_{name}" for name in _TESTS), *(f"best_{name}" for name in _TESTS),
    "rank", "seconds", "seconds_half", "parameters", "is_baseline", "is_best",
)  # fmt: skip
"""The columns of ``table.csv``; between ``group`` and ``task`` stand the keys that differ, as ``by:sharing``."""


def as_csv(comparison: Comparison) -> str:
    """A line for each group and task, and one for each group's ``average``, whose gain is Δm; an empty cell is unknown."""
    out = io.StringIO()
    keys = [f"by:{key}" for key in comparison.by]
    writer = csv.DictWriter(out, ["group", *keys, *FIELDS[1:]], lineterminator="\n")
    writer.writeheader()
    for group in comparison.groups:
        same = {
            "group": group.name,
            **{f"by:{key}": group.settings.get(key, "") for key in comparison.by},
            "rank": _number(group.rank),
            "seconds": _number(group.seconds.mean),
            "seconds_half": _number(group.seconds.half),
            "parameters": _number(group.parameters),
            "is_baseline": group.is_baseline,
            "is_best": group.name == comparison.best.name,
        }
        writer.writerows({**same, **line} for line in _lines(comparison, group))
    return out.getvalue()


def _lines(comparison: Comparison, group: Group) -> Iterator[Mapping[str, object]]:
    yield {
        "task": "average",
        "role": "average",
        "metric": "primary",
        "higher_is_better": higher_is_better(comparison),
        **_estimate("", group.average),
        **_estimate("gain", group.delta_m),
        **_tests(group, "average"),
    }
    for task in comparison.tasks:
        yield {
            "task": task.name,
            "role": task.role,
            "metric": task.metric,
            "higher_is_better": task.higher_is_better,
            **_estimate("", group.scores.get(task.name)),
            **_estimate("gain", group.gains.get(task.name)),
            "suffers": task.name in group.suffers,
            **_tests(group, task.name),
        }


def _estimate(name: str, estimate: Estimate | None) -> dict[str, object]:
    if estimate is None:
        return {}
    before = f"{name}_" if name else ""
    return {name or "mean": _number(estimate.mean), f"{before}half": _number(estimate.half), f"{before}n": estimate.n}


def _tests(group: Group, key: str) -> dict[str, object]:
    return _test("baseline", group.against_baseline.get(key)) | _test("best", group.against_best.get(key))


def _test(reference: str, paired: Paired | None) -> dict[str, object]:
    if paired is None:
        return {}
    difference = paired.difference
    numbers = (difference.mean, difference.half, difference.n, paired.p, paired.holm, paired.wilcoxon)
    return {f"{reference}_{name}": _number(value) for name, value in zip(_TESTS, numbers, strict=True)}


def _number(value: float | None) -> object:
    """All digits of it; nothing for what is unknown."""
    return value if value is not None and isfinite(value) else ""


def as_markdown(comparison: Comparison) -> str:
    """What the comparison says, its groups × tasks, the gains, the findings and the notes."""
    parts = [f"# {_escaped(comparison.title)}", _points(summary(comparison)), _table(comparison, _first(comparison))]
    marks = [f"**bold**: {text}" if mark == "best" else f"{mark} {_escaped(text)}" for mark, text in legend(comparison)]
    parts.append("; ".join([_escaped(spread(comparison)), *marks]) + ".")
    if comparison.baseline:
        parts += [
            f"## {_escaped(gain_of(comparison).capitalize())}, in %",
            _table(comparison, gains(comparison, comparison.tasks)),
        ]
    parts.append("## Is the comparison fair?")
    parts.append(
        _points(
            [("checked: " if finding.fair else "**warning:** ") + _escaped(finding.text) for finding in comparison.findings],
            raw=True,
        )
    )
    if comparison.notes:
        parts += ["## Notes", _points(comparison.notes)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _first(comparison: Comparison) -> list[Column]:
    average, *others = overall(comparison)
    return [average, *scores(comparison, comparison.tasks), *others]


def _points(texts: Sequence[str], raw: bool = False) -> str:
    return "\n".join(f"- {text if raw else _escaped(text)}" for text in texts)


def _table(comparison: Comparison, columns: Sequence[Column]) -> str:
    titles = [_escaped(f"{column.title} ({column.unit})" if column.unit else column.title) for column in columns]
    lines = [["group", *titles], ["---", *("---:" for _ in columns)]]
    for row, group in enumerate(comparison.groups):
        name = _escaped(group.name) + (" (baseline)" if group.is_baseline else "")
        lines.append([name, *(_cell(column.cells[row]) for column in columns)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(cell: Cell) -> str:
    return (f"**{cell.text}**" if cell.top else cell.text) + " ≈" * cell.close + " †" * cell.suffers


def _escaped(text: str) -> str:
    """``text`` without what Markdown or HTML would read as anything but letters."""
    text = re.sub(r"([\\`*_\[\]#|$~])", r"\\\1", " ".join(text.split()))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
