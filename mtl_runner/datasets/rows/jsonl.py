"""JSON Lines: an object on each line, whose values are read as if they stood in a CSV file."""

import io
import json
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from mtl_runner.datasets.rows.layout import opened
from mtl_runner.errors import UserError

JSONL_SUFFIXES = (".jsonl", ".ndjson")


def jsonl_tables(path: Path, size: int | None = None, texts: Collection[str] = ()) -> Iterator[pa.Table]:
    """The objects in order, at most ``size`` at a time (None: all), as columns of texts; null where a key is not there.

    Numbers are spelt as in the file, true and false as these words, lists and objects as JSON.

    Raises:
        UserError: with the line, what is no object, or has a list or an object in one of the columns ``texts``.
    """
    objects = _objects(path)
    names: dict[str, None] = {}
    while block := list(islice(objects, size)):
        names.update(dict.fromkeys(key for _, value in block for key in value))
        for number, value in block:
            if odd := [name for name in texts if isinstance(value.get(name), list | dict)]:
                kind = "a list" if isinstance(value[odd[0]], list) else "an object"
                raise UserError(f"{path}, line {number}, column '{odd[0]}': {kind}, where one text is expected (join its parts)")
        yield pa.table({name: pa.array([_text(value.get(name)) for _, value in block], pa.string()) for name in names})


def jsonl_line(path: Path, row: int) -> int:
    """The line of an object, both counted from where people and programs do: 1 and 0."""
    return next(islice(_objects(path), row, None))[0]


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with io.TextIOWrapper(io.BufferedReader(opened(path, None)), encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, _object(f"{path}, line {number}", line)
    except (OSError, EOFError, UnicodeDecodeError, pa.ArrowInvalid) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def _object(place: str, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line, parse_float=str, parse_int=str)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{place}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f'{place}: not a JSON object, such as {{"text": "…", "topic": "…"}}')
    return value


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
