"""One Arrow column as numbers or as categories, the same for a typed column and for its text.

Rules, version 1 (``RULES`` is stored with a preparation):

- text is stripped of surrounding white space; a text on the ``missing`` list, a null and a NaN are missing;
- a category that looks like a plain decimal number is written in its shortest form, so ``2``, ``2.0`` and ``" 2"`` are one
  category; leading zeros (``007``) and exponents are kept as they are; ``True`` and ``true`` are one category.
"""

import re
from collections.abc import Collection
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

RULES = 1
MISSING_TEXTS = ("", "?", "NA", "N/A", "NaN", "nan", "NULL", "null", "None")
_PIECE = 4096
_COMMA = re.compile(r"[+-]?[0-9]*,[0-9]+")
_DECIMAL = re.compile(r"[+-]?(0|[1-9][0-9]*)(\.[0-9]*)?")

Column: TypeAlias = pa.Array | pa.ChunkedArray


class BadValueError(Exception):
    """A cell that is not what its column should hold: ``row`` counts from 0 within the column."""

    def __init__(self, row: int, problem: str) -> None:
        super().__init__(problem)
        self.row = row


def numbers(column: Column, missing: Collection[str]) -> NDArray[np.float64]:
    """The column's numbers, [N]; NaN where missing.

    Raises ``BadValueError`` at the first text that is not a number and at the first infinite value.
    """
    array = _plain(column)
    if _is_text(array.type):
        array = _parsed(array, missing)
    elif not (pa.types.is_integer(array.type) or pa.types.is_floating(array.type) or pa.types.is_decimal(array.type)):
        if not pa.types.is_boolean(array.type):
            raise BadValueError(0, f"values of type {array.type} are not numbers")
        array = array.cast(pa.uint8())
    values = array.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy(zero_copy_only=False)
    infinite = np.isinf(values)
    if infinite.any():
        row = int(infinite.argmax())
        raise BadValueError(row, f"{values[row]} is not a finite number")
    return np.asarray(values)


def _parsed(array: pa.Array, missing: Collection[str]) -> pa.Array:
    """Text as float64, null where missing."""
    stripped = pc.utf8_trim_whitespace(array)
    absent = pc.is_in(stripped, value_set=pa.array(missing, pa.string()).cast(stripped.type))
    stripped = pc.if_else(absent, pa.scalar(None, stripped.type), stripped)
    if pc.any(pc.starts_with(stripped, "+")).as_py():
        stripped = pc.replace_substring_regex(stripped, r"^\+", "")
    values = pa.concat_arrays(
        [_cast(stripped, start) for start in range(0, len(stripped), _PIECE)] or [pa.array([], pa.float64())]
    )
    nans = pc.is_nan(values)
    if pc.any(nans).as_py():  # Arrow reads "nan" as a number; whether it means missing is for the list to say
        row = pc.index(nans, True).as_py()
        raise BadValueError(row, _no_number(stripped[row].as_py()))
    return values


def _no_number(text: str) -> str:
    advice = " (with a decimal comma it is: 'dataset.decimal=\",\"', in training)" if _COMMA.fullmatch(text) else ""
    return f"{text!r} is not a number{advice}"


def _cast(array: pa.Array, start: int) -> pa.Array:
    """The piece of the array at ``start`` as float64: in pieces, as Arrow is slow to notice that a long array does not cast."""
    piece = array.slice(start, _PIECE)
    try:
        return piece.cast(pa.float64())
    except pa.ArrowInvalid:
        row = next(row for row in range(len(piece)) if not _casts(piece.slice(row, 1)))
        raise BadValueError(start + row, _no_number(piece[row].as_py())) from None


def _casts(array: pa.Array) -> bool:
    try:
        array.cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def categories(column: Column, missing: Collection[str]) -> tuple[list[str | None], NDArray[np.int64]]:
    """The column's distinct spellings in their canonical form (None where missing), and each row's position among them.

    Two spellings of one category stay two entries: work is done per distinct spelling, never per row.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_floating(array.type):
        array = pc.if_else(pc.is_nan(array), pa.scalar(None, array.type), array)
    encoded = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
    spellings = encoded.dictionary.cast(pa.string()).to_pylist()
    tokens = frozenset(missing)
    values = [canonical(text, tokens) for text in spellings]
    rows = encoded.indices.cast(pa.int64()).fill_null(len(values)).to_numpy(zero_copy_only=False)
    return [*values, None], rows


def canonical(text: str | None, missing: Collection[str]) -> str | None:
    """One way to write a category: see the rules above."""
    if text is None:
        return None
    text = text.strip()
    if text in missing:
        return None
    if _DECIMAL.fullmatch(text):
        shortened = text.removeprefix("+")
        if "." in shortened:
            shortened = shortened.rstrip("0").removesuffix(".")
        return "0" if shortened == "-0" else shortened
    return text.lower() if text in ("True", "False", "TRUE", "FALSE") else text


def order(values: Collection[str]) -> list[str]:
    """Numbers first, by value, then texts by spelling: independent of the order of the rows."""

    def key(text: str) -> tuple[bool, float, str]:
        number = float(text) if _DECIMAL.fullmatch(text) else None
        return (number is None, number or 0.0, text)

    return sorted(values, key=key)


def is_nested(column: Column) -> bool:
    """Lists, structures and bytes hold no single number or category."""
    return bool(pa.types.is_nested(column.type) or pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type))


def _plain(column: Column) -> pa.Array:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    array = array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
    return array.cast(pa.string()) if pa.types.is_string_view(array.type) or pa.types.is_null(array.type) else array


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
