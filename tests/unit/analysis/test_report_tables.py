"""The tables of a report have the comparison's numbers, and names are only names in them."""

import csv
import io
import math
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from made_comparisons import made

from mtl_runner.analysis.comparison import Comparison, Estimate
from mtl_runner.analysis.report.columns import decimals, gains, scores, shown, telling
from mtl_runner.analysis.report.latex import as_latex, escaped
from mtl_runner.analysis.report.tables import as_csv, as_markdown
from mtl_runner.analysis.report.words import summary

NASTY = ("a_b % & #1 {x} ~^ \\ $y$", "<script>alert(1)</script>", "a | b `c` *d* [e](f)", '=1+1, "quoted"\nline')


def same(text: str, value: float | None) -> bool:
    return (not text) if value is None or math.isnan(value) else float(text) == value


@pytest.mark.parametrize(
    "comparison", [made(4, 3), made(3, NASTY, baseline=False), made(2, 1, seeds=1)], ids=("4", "nasty", "one seed")
)
def test_csv_has_every_number_in_full(comparison: Comparison) -> None:
    lines = list(csv.DictReader(io.StringIO(as_csv(comparison))))
    assert len(lines) == len(comparison.groups) * (1 + len(comparison.tasks))
    for group in comparison.groups:
        own = {line["task"]: line for line in lines if line["group"] == group.name}
        assert same(own["average"]["mean"], group.average.mean) and same(own["average"]["half"], group.average.half)
        assert same(own["average"]["gain"], group.delta_m.mean if group.delta_m else None)
        for task in comparison.tasks:
            line, score, gain = own[task.name], group.scores[task.name], group.gains.get(task.name)
            assert (line["metric"], line["role"]) == (task.metric, task.role)
            assert same(line["mean"], score.mean) and same(line["half"], score.half) and int(line["n"]) == score.n
            assert same(line["gain"], gain.mean if gain else None) and same(line["gain_half"], gain.half if gain else None)
            assert (line["suffers"] == "True") == (task.name in group.suffers)
            for reference, tests in (("baseline", group.against_baseline), ("best", group.against_best)):
                paired = tests.get(task.name)
                assert same(line[f"{reference}_difference"], paired.difference.mean if paired else None)
                assert same(line[f"{reference}_holm"], paired.holm if paired else None)
                assert same(line[f"{reference}_wilcoxon"], paired.wilcoxon if paired else None)
            assert same(line["rank"], group.rank) and same(line["parameters"], group.parameters)
    assert pd.read_csv(io.StringIO(as_csv(comparison)))["mean"].notna().all()


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_markdown_has_the_numbers_of_the_comparison() -> None:
    comparison = made(5, 4)
    header, _, *rows = [line for line in as_markdown(comparison).split("\n## ")[0].splitlines() if line.startswith("|")]
    assert len(rows) == len(comparison.groups)
    for group, row in zip(comparison.groups, rows, strict=True):
        by_title = dict(zip(cells(header), cells(row), strict=True))
        for task, column in zip(comparison.tasks, scores(comparison, comparison.tasks), strict=True):
            text = by_title[f"{task.name} ({task.metric} ↑)".replace("_", r"\_")]
            mean, half = re.findall(r"[\d.]+", text)
            digits = 10 ** -len(mean.split(".")[1])
            assert abs(float(mean) - group.scores[task.name].mean) <= 0.5001 * digits
            assert abs(float(half) - group.scores[task.name].half) <= 0.5001 * digits
            best = max(other.scores[task.name].mean for other in comparison.groups)
            assert text.startswith("**") == (group.scores[task.name].mean == best)
            assert ("†" in text) == (task.name in group.suffers)
            paired = group.against_best.get(task.name)
            assert ("≈" in text) == (paired is not None and paired.holm >= 0.05)
            assert text.count("±") == 1 and column.title == task.name


def test_names_break_no_markdown_table() -> None:
    text = as_markdown(made(3, NASTY, title="<b>title</b>\n\n# no heading"))
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(cells(line)) for line in tables} == {1 + 2 + 4 + 3, 1 + 4}
    assert "<" not in text.replace("p < 0.001", "") and text.count("\n# ") == 0
    assert r"a\_b % &amp; \#1 {x} \~^ \\ \$y\$" in text


def test_latex_has_no_bare_special_sign_and_rows_of_one_length() -> None:
    text = as_latex(made(3, (*NASTY, *(f"more_{place}" for place in range(6))), title="100 % _sure_"))
    plain = re.sub(r"\\textbackslash\{\}|\\[&%$#_{}]", "", text)
    body = plain.split("\n", 1)[1]  # the comment
    assert not re.search(r"[%#]", body)
    assert all(re.fullmatch(r"\$([^$]*)\$", part) for part in re.findall(r"\$[^$]*\$", body)) and body.count("$") % 2 == 0
    assert "_" not in body and not re.search(r"(?<!\$)\^(?!\{)", body)
    for environment in ("table", "tabular"):
        assert body.count(f"\\begin{{{environment}}}") == body.count(f"\\end{{{environment}}}") == 1 + 3 + 3
    for columns, rows in re.findall(r"\\begin\{tabular\}\{l(r+)\}\n(.*?)\\bottomrule", body, re.DOTALL):
        lines = [line for line in rows.splitlines() if line.rstrip().endswith("\\\\")]
        assert len(lines) == 2 + 3 and {line.count("&") for line in lines} == {len(columns)}
    depth = 0
    for sign in re.findall(r"[{}]", plain):
        depth += 1 if sign == "{" else -1
        assert depth >= 0
    assert depth == 0


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is absent")
def test_latex_sets_the_tables_no_wider_than_the_text(tmp_path: Path) -> None:
    (tmp_path / "table.tex").write_text(
        as_latex(made(3, (*NASTY, *(f"more_{place}" for place in range(6))), title="100 % _sure_"))
    )
    (tmp_path / "all.tex").write_text(
        r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}\input{table}\end{document}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert said.returncode == 0 and "Overfull" not in said.stdout, said.stdout


def test_latex_escapes() -> None:
    assert escaped("50 % of a_b & c#") == r"50 \% of a\_b \& c\#"
    assert escaped("x^2 ~ \\input{/etc/passwd}") == r"x\textasciicircum{}2 \textasciitilde{} \textbackslash{}input\{/etc/passwd\}"
    assert escaped("−1.2 ± 0.3") == r"$-$1.2 $\pm$ 0.3"
    assert escaped("[2em]*") == "{[}2em]{*}", "no argument of the end of the line before"


@pytest.mark.parametrize(
    ("mean", "half", "text"),
    [
        (0.83214, 0.0042, "0.832 ± 0.004"),
        (0.83214, 0.00142, "0.8321 ± 0.0014"),
        (1234.2, 56.0, "1234 ± 56"),
        (0.83214, math.nan, "0.8321"),
        (math.nan, math.nan, "–"),
        (-3.21, 0.9, "−3.2 ± 0.9"),
        (-0.0004, 0.05, "0.00 ± 0.05"),
        (0.3127, 1.4, "0.31 ± 1.40"),
        (0.8319, 0.42, "0.83 ± 0.42"),
    ],
)
def test_numbers_have_as_many_digits_as_are_known(mean: float, half: float, text: str) -> None:
    estimate = Estimate(mean, half, 3)
    assert shown(estimate, decimals([estimate])) == text


def test_lower_is_better_has_the_lowest_in_bold() -> None:
    comparison = made(4, 2, metric="rmse")
    for task, column in zip(comparison.tasks, scores(comparison, comparison.tasks), strict=True):
        best = min(group.scores[task.name].mean for group in comparison.groups)
        assert [cell.top for cell in column.cells] == [group.scores[task.name].mean == best for group in comparison.groups]
        assert column.unit == "rmse ↓"


def test_of_many_tasks_those_that_gain_or_suffer_most_are_told() -> None:
    comparison = made(4, 30)
    size = {task.name: max(abs(g.gains[task.name].mean) for g in comparison.groups if g.gains) for task in comparison.tasks}
    told = [task.name for task in telling(comparison, 6)]
    assert set(told) == set(sorted(size, key=lambda name: size[name])[-6:])
    assert told == [task.name for task in comparison.tasks if task.name in told]


def test_the_baseline_gains_nothing_over_itself() -> None:
    comparison = made(3, 2)
    place = next(place for place, group in enumerate(comparison.groups) if group.is_baseline)
    assert [column.cells[place].text for column in gains(comparison, comparison.tasks)] == ["0", "0"]


def test_summary_says_what_the_numbers_say() -> None:
    comparison = made(4, 3)
    said = " ".join(summary(comparison))
    paired = comparison.best.against_baseline["average"]
    assert f"'{comparison.best.name}'" in said
    assert ("It beats the baseline" in said) == (paired.holm < 0.05 and paired.difference.mean > 0)
    assert all((f"'{group.name}' in " in said) == bool(group.suffers) for group in comparison.groups)
    worse = replace(paired, holm=0.2)
    unsure = replace(comparison, best=replace(comparison.best, against_baseline={"average": worse}))
    assert "cannot be told apart from the baseline" in " ".join(summary(unsure))
    untested = replace(comparison, best=replace(comparison.best, against_baseline={"average": replace(paired, holm=math.nan)}))
    assert "could not be tested" in " ".join(summary(untested))


def test_nothing_is_said_that_one_group_cannot_say() -> None:
    comparison = made(1, 1, seeds=1)
    assert summary(comparison) == [
        f"Best by validation: 'all runs', with a test average of {comparison.best.average.mean:.4f} over 1 seed."
    ]
    assert "single runs: there is no interval" in as_markdown(comparison)
