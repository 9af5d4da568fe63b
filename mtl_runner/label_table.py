"""The labels of all tasks as a table: ``labels.csv``, and what the terminal shows of it."""

import csv
import io
import math
from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from mtl_runner.console import Screen
from mtl_runner.labels import PARTS, TaskProfile

_SHOWN = 15
"""Tasks that the terminal shows; of more the most imbalanced ones."""
_NUMBERS = ("mean", "sd", "skewness", "min", "max")
_COLUMNS = (
    "task", "type", "class", "output", *PARTS, "share", "imbalance_ratio", *(f"labelled_{part}" for part in PARTS),
    *(f"missing_{part}" for part in PARTS), *_NUMBERS,
)  # fmt: skip


def as_csv(profiles: Sequence[TaskProfile]) -> str:
    """A row for each class of each task, and for each output of a regression.

    ``train``, ``validation`` and ``test`` count the labels of the row's class, ``share`` is its share of the training labels.
    What is said of a whole task (``imbalance_ratio``, ``labelled_…``, ``missing_…``) is the same in all of its rows.
    """
    lines = io.StringIO(newline="")
    writer = csv.DictWriter(lines, _COLUMNS)
    writer.writeheader()
    for each in profiles:
        task: dict[str, object] = {"task": each.name, "type": each.kind, "imbalance_ratio": _cell(each.imbalance_ratio)}
        for part in PARTS:
            task |= {f"labelled_{part}": each.labelled[part], f"missing_{part}": each.missing[part]}
        writer.writerows(task | row for row in _rows(each))
    return lines.getvalue()


def _rows(each: TaskProfile) -> list[dict[str, object]]:
    if each.classes:
        return [
            {"class": name, "share": _cell(each.shares[place]), **{part: each.counts[part][place] for part in PARTS}}
            for place, name in enumerate(each.classes)
        ]
    rows = [{"output": one.name} | {key: _cell(getattr(one, key)) for key in _NUMBERS} for one in each.outputs]
    return [{**each.labelled, **row} for row in rows or [{}]]


def _cell(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:z.6g}"


def print_labels(profiles: Sequence[TaskProfile]) -> None:
    """A table of the tasks with classes and one of the others; of many the most imbalanced ones, or the most skewed."""
    console = Screen()
    if not console.is_terminal:  # a file takes what a table needs
        console = Screen(width=160)
    for make, members in (
        (_class_table, [each for each in profiles if each.classes]),
        (_number_table, [each for each in profiles if each.outputs]),
    ):
        if members:
            shown = members if len(members) <= _SHOWN else sorted(members, key=_imbalance, reverse=True)[:_SHOWN]
            console.print(make(shown))
            if len(members) > _SHOWN:
                console.print(f"… and {len(members) - _SHOWN} more: labels.csv", highlight=False)


def _imbalance(each: TaskProfile) -> float:
    """What tasks are ranked by; those without a label come last."""
    if each.classes:
        return each.imbalance_ratio or 0.0
    return max((abs(one.skewness) for one in each.outputs if not math.isnan(one.skewness)), default=0.0)


def _class_table(profiles: Sequence[TaskProfile]) -> Table:
    missing = any(each.missing["train"] for each in profiles)
    table = _table("labels of the training part", missing, "classes")
    table.add_column("rarest\nclass", overflow="fold")
    for name in ("share", "in train /\nval. / test", "imbalance\nratio"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in profiles:
        cells = [f"{len(each.classes)}", "–", "–", "–", "–"]
        if (place := each.rarest) is not None and each.imbalance_ratio is not None:
            counts = " / ".join(f"{each.counts[part][place]:,}" for part in PARTS)
            ratio = "∞" if math.isinf(each.imbalance_ratio) else f"{each.imbalance_ratio:,.1f}"
            cells[1:] = [escape(each.classes[place]), f"{100 * each.shares[place]:.2g} %", counts, ratio]
        table.add_row(*_start(each, missing), *cells)
    return table


def _number_table(profiles: Sequence[TaskProfile]) -> Table:
    missing = any(each.missing["train"] for each in profiles)
    table = _table("numbers of the training part, in their unit", missing, *_NUMBERS)
    for each in profiles:
        start = _start(each, missing)
        if not each.outputs:
            table.add_row(*start, *["–"] * len(_NUMBERS))
        for one in each.outputs:
            name = escape(f"{each.name}: {one.name}") if one.name else start[0]
            table.add_row(name, *start[1:], *(_number(getattr(one, key)) for key in _NUMBERS))
    return table


def _table(title: str, missing: bool, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("task", overflow="fold")
    for name in ("labelled", *(["missing"] if missing else []), *columns):
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _start(each: TaskProfile, missing: bool) -> list[str]:
    return [escape(each.name), f"{each.labelled['train']:,}", *([f"{each.missing['train']:,}"] if missing else [])]


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:z.4g}"
