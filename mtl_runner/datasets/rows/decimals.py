"""Numbers with a decimal comma, 75,01: in which columns they are, and the same cells with a point.

What is a number with a comma here is a text elsewhere, a list of two (``1,2``) or a name. So cells are changed in columns of
numbers only, and which these are is decided once, over the whole file that was trained on, and kept.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

Column: TypeAlias = pa.Array | pa.ChunkedArray

_EXPONENT = r"([eE][+-]?\d+)?"
_WHOLE = rf"[+-]?\d+{_EXPONENT}"
_COMMA = rf"[+-]?\d*,\d+{_EXPONENT}"
_POINT = rf"[+-]?\d*\.\d+{_EXPONENT}"
_MARKS = "'\u2019 \u00a0\u202f"
_THOUSANDS = r"[+-]?[1-9]\d{0,2}(\.\d{3})+"
"""1.234, which is also a number with a point."""
_GROUPED = rf"[+-]?[1-9]\d{{0,2}}([.{_MARKS}]\d{{3}})+,\d*|[+-]?[1-9]\d{{0,2}}([{_MARKS}]\d{{3}})+"
"""1.234,5 or 1 234, which is no number in any other notation."""
_NEARLY_ALL = 0.9


@dataclass(frozen=True)
class Found:
    """What the cells of a file say."""

    columns: tuple[str, ...] = ()
    """Columns of numbers, if some of them have a decimal comma."""
    note: str = ""


def look(table: pa.Table, separator: str, asked: str | None, missing: Collection[str], apart: Collection[str]) -> Found:
    """Which columns hold numbers that may have a decimal comma.

    Unless the user ``asked`` for it, the file has decimal commas where its separator is none, a column has nearly nothing but
    numbers, at least half of them with a comma, and no column of numbers has points.

    Args:
        table: of texts.
        separator: of the file.
        asked: ``,`` or, where it is not known, None.
        missing: texts that mean no value.
        apart: columns of texts.
    """
    names = [name for name in table.schema.names if name not in apart and pa.types.is_string(table.schema.field(name).type)]
    if asked is None and (separator == "," or not any(pc.any(pc.match_substring(table[name], ",")).as_py() for name in names)):
        return Found()
    shares = {name: _Shares.of(table[name], missing) for name in names}
    columns = tuple(name for name, each in shares.items() if each.numbers >= _NEARLY_ALL)
    commas = [name for name in columns if shares[name].commas]
    if asked == "," or not commas:
        return Found(columns if asked == "," else ())
    pointed = [name for name, each in shares.items() if each.points and each.numbers + each.points >= _NEARLY_ALL]
    if pointed or max(shares[name].commas for name in commas) < 0.5:
        but = f", but column '{pointed[0]}' has points" if pointed else ""
        return Found(note=f"column '{commas[0]}' may hold numbers with a decimal comma{but}: 'dataset.decimal=\",\"' reads them")
    said = f"numbers are read with a decimal comma, as in column '{commas[0]}' (dataset.decimal=. says otherwise)"
    return Found(columns, said)


@dataclass(frozen=True)
class _Shares:
    """Of the cells of a column that are not empty."""

    numbers: float
    """Numbers as they are written with a decimal comma, whole ones and those with marks of thousands among them."""
    commas: float
    points: float
    """Numbers with a point that is no mark of thousands."""

    @classmethod
    def of(cls, column: Column, missing: Collection[str]) -> "_Shares":
        there = pc.filter(column, pc.invert(_absent(column, missing)))
        total = max(1, len(there))
        commas = _count(there, f"{_COMMA}|{_GROUPED}")
        thousands = _count(there, _THOUSANDS)
        points = _count(there, _POINT) - _count(there, r"[+-]?[1-9]\d{0,2}\.\d{3}")
        return cls((_count(there, _WHOLE) + commas + thousands) / total, commas / total, points / total)


def refused(column: Column, separator: str, missing: Collection[str]) -> int | None:
    """The first row of a column of numbers whose point may be a mark of thousands, or that has another such mark.

    A point alone, 1.234, is one beside numbers with a comma, and in any file whose separator is no comma.
    """
    pattern = rf"{_GROUPED}|{_POINT}|{_THOUSANDS}" if _count(column, _COMMA) else _GROUPED
    pattern = pattern if separator == "," else f"{pattern}|{_THOUSANDS}"
    bad = pc.and_(_fits(column, pattern), pc.invert(_absent(column, missing)))
    place = pc.index(bad, True).as_py()
    return None if place < 0 else int(place)


def with_points(column: Column, missing: Sequence[str]) -> Column:
    """The same cells, those that are numbers with a decimal comma with a point."""
    changed = pc.replace_substring_regex(column, rf"^(\s*[+-]?\d*),(\d+{_EXPONENT}\s*)$", r"\1.\2")
    return pc.if_else(_absent(column, missing), column, changed)


def _absent(column: Column, missing: Collection[str]) -> Column:
    return pc.or_(pc.is_in(pc.utf8_trim_whitespace(column), value_set=pa.array(list(missing), pa.string())), pc.is_null(column))


def _fits(column: Column, pattern: str) -> Column:
    return pc.fill_null(pc.match_substring_regex(column, rf"^\s*({pattern})\s*$"), False)


def _count(column: Column, pattern: str) -> int:
    return int(pc.sum(_fits(column, pattern)).as_py() or 0)
