"""``mtl explain``: what the tasks of a run use, in the terminal and as files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich import box
from rich.markup import escape
from rich.table import Table

from mtl_runner.console import Screen
from mtl_runner.errors import UserError
from mtl_runner.explain import Explanation, explain, write
from mtl_runner.tracking import locate

SHOWN = 8
"""Inputs of a task in the terminal, and pairs of tasks; the files have all."""


def show(
    run: str,
    part: str = "validation",
    input: Path | None = None,
    repeats: int = 10,
    rows: int | None = None,
    output: Path | None = None,
    allowed: Sequence[str] = (),
    stream: str | None = None,
) -> None:
    """Explains a run, writes the files, and prints the most of it."""
    folder = locate(run)
    if output is None and not Path(run).is_dir() and not (folder / "run.log").exists():  # fetched for this process only
        raise UserError(f"the folder of run {run} is not on this machine; say where to write with --output DIR")
    output = output or folder / "explain" / (stream or "")  # one stream's files beside another's
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output}: is a file; name a folder")
    found = explain(folder, part, input, repeats, rows, allowed, stream)
    write(found, output)
    console = Screen()
    if not console.is_terminal:
        console = Screen(width=160)
    console.print(f"{found.rows:,} rows of the {escape(found.of)}, each input shuffled {repeats} times", highlight=False)
    console.print(_uses(found))
    if len(found.tasks) > 1:
        console.print(_pairs(found))
        console.print(_summary(found), highlight=False)
    for note in found.notes:
        console.print(f"note: {escape(note)}", highlight=False)
    console.print(f"files: {output}", highlight=False, soft_wrap=True)


def _uses(found: Explanation) -> Table:
    table = _table(f"what each task uses: its {min(SHOWN, len(found.inputs))} most important inputs of {len(found.inputs)}")
    for name in ("task", "input", "drop of metric", "± 95 %", "attribution", "share", "surely"):
        table.add_column(name, justify="left" if name in ("task", "input") else "right", overflow="fold")
    drop, half, strength = found.importance.drop, found.importance.half, found.attributions.strength()
    for t, task in enumerate(found.tasks):
        labels = (task, f"{found.metrics[t]} {_number(found.importance.baseline[t])}")
        order = np.argsort(-np.nan_to_num(drop[t]), kind="stable")[:SHOWN]
        total = strength[t].sum()
        for place, i in enumerate(order):
            share = f"{strength[t, i] / total:.0%}" if total else "–"
            cells = [_number(drop[t, i]), _number(half[t, i]), _number(strength[t, i]), share, "yes" if found.used[t, i] else ""]
            table.add_row(escape(labels[place]) if place < len(labels) else "", escape(found.inputs[i]), *cells)
        table.add_section()
    return table


def _pairs(found: Explanation) -> Table:
    table = _table("what tasks have in common (cosine 1: they use the same inputs alike)")
    for name in ("task", "other", "cosine of drops", "cosine of attributions", "inputs both use", "only task", "only other"):
        table.add_column(name, justify="left" if name in ("task", "other") else "right", overflow="fold")
    ranked = sorted(found.pairs, key=lambda pair: -np.nan_to_num(pair.importance, nan=-1))
    for pair in ranked if len(ranked) <= 2 * SHOWN else [*ranked[:SHOWN], *ranked[-SHOWN:]]:
        counts = (str(len(names)) for names in (pair.both, pair.only_one, pair.only_other))
        table.add_row(escape(pair.one), escape(pair.other), _number(pair.importance), _number(pair.attribution), *counts)
    return table


def _summary(found: Explanation) -> str:
    """Inputs by how many tasks surely use them."""
    users = {name: found.users(place) for place, name in enumerate(found.inputs)}
    several = sorted((name for name in users if len(users[name]) > 1), key=lambda name: -len(users[name]))
    lines = [f"surely used by several tasks: {_listed([f'{name} ({len(users[name])})' for name in several])}"]
    alone = {task: [name for name, own in users.items() if own == (task,)] for task in found.tasks}
    lines += [f"surely used by {task} alone: {_listed(names)}" for task, names in alone.items()]
    lines.append(f"surely used by none: {_listed([name for name, own in users.items() if not own])}")
    return escape("\n".join(lines))


def _listed(names: Sequence[str]) -> str:
    more = len(names) - 2 * SHOWN
    return ", ".join(names[: 2 * SHOWN]) + (f" and {more} more" if more > 0 else "") if names else "–"


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.4f}"
