"""Several CSV or Parquet files: tasks with rows and columns of their own."""

from collections.abc import Mapping
from typing import Annotated, Any

from annotated_types import Ge

from mtl_runner.batch import Data
from mtl_runner.datasets.base import Dataset, known
from mtl_runner.datasets.side_by_side import side_by_side
from mtl_runner.datasets.table import Table
from mtl_runner.errors import UserError, choices, nearest

TABLE_KEYS = (
    "path", "test_path", "inputs", "ignore", "numeric", "categorical", "weights", "split", "separator", "encoding",
    "missing", "names", "comment", "decimal",
)  # fmt: skip


class Tables(Dataset):
    """Files with the same or different columns; each is an input stream with a feature space of its own.

    A task belongs to one file, and a file may hold several tasks. An epoch passes once through the longest training part; the
    shorter ones begin anew as often as needed.

    Args:
        tables: by name, the path of a file or its options: ``path`` and the keys of ``dataset=table`` that are about a file
            (``inputs``, ``ignore``, ``separator`` …).
        tasks: by name, their options as in ``dataset=table``, and ``table``: the name of the file; without it the file of the
            task's name, or the only one. Or just a list of names.
        only: train only these tasks.
        split: of each file, where it has none of its own.
        fold: test on this one of ``folds`` parts; ``split.test`` is not used then.
        split_seed: moves the splits.
    """

    provides = frozenset({"numeric", "categorical"})

    def __init__(
        self,
        tables: dict[str, str | dict[str, Any]],
        tasks: dict[str, dict[str, Any] | None] | list[str],
        only: list[str] | None = None,
        split: dict[str, Any] | None = None,
        fold: Annotated[int, Ge(0)] | None = None,
        folds: Annotated[int, Ge(2)] = 5,
        split_seed: int = 0,
    ) -> None:
        common: dict[str, Any] = {"fold": fold, "folds": folds, "split_seed": split_seed}
        files = {str(name): _options(str(name), options) for name, options in tables.items()}
        named = {str(name): tasks[name] if isinstance(tasks, dict) else None for name in tasks}
        if not named:
            raise UserError("dataset.tasks names no task")
        homes = {name: _home(name, options, files) for name, options in named.items()}
        if idle := [name for name in files if name not in homes.values()]:
            raise UserError(f"dataset.tables: no task reads {choices(idle)}; a task names its table: dataset.tasks.NAME.table=…")
        self.order, self.only = list(named), only
        self.tables = {}
        for name, options in files.items():
            read = {task: _without_table(each) for task, each in named.items() if homes[task] == name}
            own: dict[str, dict[str, Any] | None] | list[str] = {**read} if isinstance(tasks, Mapping) else list(read)
            self.tables[name] = Table(**{"split": split, **options}, **common, tasks=own, stream=name)

    def load(self) -> Data:
        """Each file read, split and prepared by itself."""
        return side_by_side({name: _loaded(name, table) for name, table in self.tables.items()}, self.order, self.only)


def _options(name: str, options: object) -> dict[str, Any]:
    if isinstance(options, str):
        return {"path": options}
    if not isinstance(options, Mapping) or "path" not in options:
        raise UserError(f"dataset.tables.{name}: the path of a file is expected, or options with a path")
    for key in options:
        known(str(key), TABLE_KEYS, f"dataset.tables.{name}: option")
    return {key: value for key, value in options.items() if value is not None or key not in ("encoding", "split")}


def _home(task: str, options: Mapping[str, Any] | None, files: Mapping[str, Any]) -> str:
    """The file that a task belongs to."""
    if options is not None and not isinstance(options, Mapping):
        raise UserError(f"dataset.tasks.{task}: {options!r} is not a mapping of options")
    table = (options or {}).get("table") or (task if task in files else None)
    if table is None and len(files) == 1:
        return next(iter(files))
    if table not in files:
        said = f".table={table}{nearest(table, files)}" if table is not None else ": says not which table it belongs to, .table=…"
        raise UserError(f"dataset.tasks.{task}{said}; there are {choices(files)}")
    return str(table)


def _without_table(options: Mapping[str, Any] | None) -> dict[str, Any]:
    return {key: value for key, value in (options or {}).items() if key != "table"}


def _loaded(name: str, table: Table) -> Data:
    try:
        return table.load()
    except UserError as error:
        raise type(error)(f"dataset.tables.{name}: {error}") from None
