"""Where the matrices and the proposed groups go: files, pictures, and the terminal."""

from collections.abc import Sequence
from pathlib import Path

import yaml
from rich import box
from rich.markup import escape
from rich.table import Table

from mtl_runner.affinity.figure import picture
from mtl_runner.affinity.grouping import Groups, proposed, score
from mtl_runner.affinity.measuring import Affinity
from mtl_runner.console import Screen
from mtl_runner.folder import RunFolder, write_text

_SHOWN = 12
"""Tasks up to which the terminal shows a matrix; the files have them all."""


def option_name(measure: str) -> str:
    """What the proposal is called as an option: ``sharing=grouped_by_gradients``."""
    return f"grouped_by_{measure}"


def write(folder: Path, each: Affinity, networks: int) -> Groups | None:
    """``<measure>.csv``, ``<measure>.png`` and ``sharing/grouped_by_<measure>.yaml``; returns the proposed groups.

    Where nothing tells one pair of tasks from another there is the table, and nothing else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    corner = f"{each.title}: row on column" if each.directed else each.title
    RunFolder(folder).write_table(f"{each.name}.csv", corner, each.tasks, each.tasks, each.values.tolist())
    if not each.tells:
        return None
    groups = proposed(each.values.numpy(), networks)
    write_text(folder / "sharing" / f"{option_name(each.name)}.yaml", as_option(each, groups, networks))
    picture(each, groups).savefig(folder / f"{each.name}.png")
    return groups


def as_option(each: Affinity, groups: Groups, networks: int) -> str:
    """An option of the group ``sharing``: ``clustered`` with these groups."""
    names = [[each.tasks[task].replace("${", "\\${") for task in group] for group in groups]  # a name, not an interpolation
    said = f"# Tasks in {len(groups)} of at most {networks} networks, proposed by mtl affinity: {each.title}\n"
    keys = {"defaults": ["clustered", "_self_"], "groups": names}
    text: str = yaml.safe_dump(keys, default_flow_style=None, sort_keys=False, allow_unicode=True, width=130)
    return said + text


def show(each: Affinity, groups: Groups | None) -> None:
    """The matrix, where it is not too large, and the groups."""
    console = Screen()
    if not console.is_terminal:  # a file takes what a table needs
        console = Screen(width=160)
    if not each.tells:
        console.print(f"{each.name}: nothing tells one pair of tasks from another", highlight=False)
        return
    assert groups is not None
    if len(each.tasks) <= _SHOWN:
        console.print(_table(each))
    else:
        console.print(f"{each.name}: {each.title}, in {each.name}.csv", highlight=False)
    said = " | ".join(", ".join(each.tasks[task] for task in group) for group in groups)
    console.print(f"proposed groups: {escape(said)} (score {score_of(each, groups):.4g})\n", highlight=False)


def score_of(each: Affinity, groups: Sequence[Sequence[int]]) -> float:
    """What the groups are proposed for; a pair without a value counts as 0."""
    return score(each.values.nan_to_num(nan=0.0).numpy(), groups)


def _number(value: float) -> str:
    said = f"{value:z.3g}"
    return f"\N{MINUS SIGN}{said[1:]}" if said.startswith("-") else said


def _table(each: Affinity) -> Table:
    title = f"{each.name}: {each.title}" + (", of rows on columns" if each.directed else "")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("task", overflow="fold")
    for name in each.tasks:
        table.add_column(escape(name), justify="right", overflow="fold")
    for place, (name, row) in enumerate(zip(each.tasks, each.values.tolist(), strict=True)):
        cells = ("" if other == place else "–" if value != value else _number(value) for other, value in enumerate(row))
        table.add_row(escape(name), *cells)
    return table
