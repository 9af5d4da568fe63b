"""The shape of a text file of rows: separator, header, comments; and on which line a row stands, for messages."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from mtl_runner.datasets.rows.encodings import marked, unreadable
from mtl_runner.errors import UserError, choices

SEPARATORS = (",", "\t", ";", "|")
_SAMPLE = 20


@dataclass(frozen=True)
class Layout:
    """What the first lines say."""

    separator: str
    raw: tuple[str, ...]
    """Column names as the file spells them (or as the user gave them)."""
    header: bool
    """Whether the first line names the columns."""
    quoted: bool = True
    """Whether quotation marks may stand around a value; else they are part of it."""

    @property
    def names(self) -> tuple[str, ...]:
        """Without white space around them; a column without a name is called by its position, from 1 on."""
        return tuple(name.strip() or f"column_{place}" for place, name in enumerate(self.raw, start=1))

    @property
    def given(self) -> list[str] | None:
        """Names for the reader, where the file has none."""
        return None if self.header else list(self.raw)


def layout(
    path: Path, separator: str | None, encoding: str, names: Sequence[str], comment: str | None, quoted: bool = True
) -> Layout:
    """Look at the first lines.

    Raises ``UserError`` for an empty file and where ``names`` does not fit.
    """
    try:
        with _decoded(path, encoding, comment) as lines:
            sample = list(islice((line for line in lines if line.strip()), _SAMPLE))
    except (UnicodeDecodeError, LookupError):
        raise unreadable(path, encoding) from None
    except (OSError, EOFError, pa.ArrowInvalid) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if not sample:
        raise UserError(f"{path} is empty")
    separator = separator or _sniffed(sample)
    first = next(csv.reader(sample, delimiter=separator, quoting=_quoting(quoted)))
    header = not names or {cell.strip() for cell in first} <= set(names)
    if not header and len(first) != len(names):
        raise UserError(f"{path} has {len(first)} columns and dataset.names {len(names)}; the first line: {choices(first, 5)}")
    return Layout(separator, tuple(first) if header else tuple(names), header, quoted)


def opened(path: Path, comment: str | None) -> Any:
    """The file's bytes, decompressed; comment lines are empty, so that lines keep their numbers.

    What begins with a byte order mark of UTF-16 or UTF-32 becomes UTF-8: see ``written_in``.
    """
    mark, stream = marked(path), pa.input_stream(str(path), compression="detect")
    stream = pa.transcoding_input_stream(stream, mark, "utf-8") if mark else stream
    return stream if comment is None else pa.PythonFile(_Uncommented(stream, comment.encode()), "r")


def written_in(path: Path, encoding: str) -> str:
    """The encoding of the bytes that ``opened`` gives, where that of the file should be ``encoding``."""
    if marked(path):
        return "utf-8"
    return "utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding


def line_of(path: Path, row: int, shape: Layout, encoding: str, comment: str | None) -> int:
    """The line on which the row (from 0, without the header) starts."""
    records = _records(path, shape, encoding, comment)
    return next(islice(records, row, None))[0]


def explained(path: Path, shape: Layout, encoding: str, comment: str | None, error: Exception) -> UserError:
    """What is wrong with a file that could not be parsed: the first line with too few or too many values, if that is it."""
    try:
        for line, cells in _records(path, shape, encoding, comment):
            if len(cells) != len(shape.raw):
                return UserError(f"{path}, line {line}: {len(cells)} values, but there are {len(shape.raw)} columns")
    except UnicodeDecodeError:
        return unreadable(path, encoding)
    except csv.Error as problem:
        error = problem
    return UserError(f"{path} cannot be read: {error}")


def _records(path: Path, shape: Layout, encoding: str, comment: str | None) -> Iterator[tuple[int, list[str]]]:
    with _decoded(path, encoding, comment) as lines:
        reader = csv.reader(lines, delimiter=shape.separator, quoting=_quoting(shape.quoted))
        end, skip = 0, shape.header
        for cells in reader:
            start, end = end + 1, reader.line_num
            if cells and not skip:
                yield start, cells
            skip = skip and not cells


def _quoting(quoted: bool) -> Literal[0, 3]:
    return csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE


def _decoded(path: Path, encoding: str, comment: str | None) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedReader(opened(path, comment)), encoding=written_in(path, encoding), newline="")


def _sniffed(sample: Sequence[str]) -> str:
    """The separator that cuts most lines into as many values as the first, and then into most values."""

    def score(separator: str) -> tuple[float, int]:
        widths = [len(cells) for cells in csv.reader(sample, delimiter=separator)]
        return (widths.count(widths[0]) / len(widths) if widths[0] > 1 else 0.0, widths[0])

    return max(SEPARATORS, key=score)


class _Uncommented(io.RawIOBase):
    """A stream in which each line that starts with ``mark`` is empty."""

    def __init__(self, stream: Any, mark: bytes) -> None:
        self._lines = io.BufferedReader(stream)
        self._mark = mark
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            lines = self._lines.readlines(len(buffer))
            self._rest = b"".join(b"\n" if line.startswith(self._mark) else line for line in lines)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def close(self) -> None:
        self._lines.close()
        super().close()
