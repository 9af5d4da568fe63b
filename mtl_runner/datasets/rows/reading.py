"""Files of rows: CSV and its relatives and JSON Lines (as text) and Parquet (typed), gzip or not, whole or in batches."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.csv as arrow_csv
from pyarrow import parquet

from mtl_runner.datasets.rows.columns import MISSING_TEXTS
from mtl_runner.datasets.rows.decimals import look, refused, with_points
from mtl_runner.datasets.rows.encodings import mark_notes
from mtl_runner.datasets.rows.finding import find, is_jsonl, is_parquet, is_text
from mtl_runner.datasets.rows.jsonl import jsonl_line, jsonl_tables
from mtl_runner.datasets.rows.layout import Layout, explained, layout, line_of, opened, written_in
from mtl_runner.errors import UserError, choices

Rows: TypeAlias = pa.Table | pa.RecordBatch

_BLOCK = 4 << 20
_BUFFER = 1 << 18
_SOURCE = b"mtl_runner.source"


@dataclass(frozen=True)
class Reading:
    """How to read the files."""

    separator: str | None = None
    """Between the values of a line; None: found out from the first lines."""
    encoding: str = "utf-8"
    missing: tuple[str, ...] = MISSING_TEXTS
    """Texts that mean there is no value."""
    names: tuple[str, ...] = ()
    """Column names of a text file without a header line; a first line that holds only such names is a header all the same."""
    comment: str | None = None
    """Lines that start with it are skipped."""
    quoted: bool = True
    """Whether quotation marks may stand around a value; else they are part of it."""
    texts: tuple[str, ...] = ()
    """Columns of texts: lists and objects of JSON Lines, which are read as they are written elsewhere, are errors there."""
    decimal: str | None = "."
    """Before the decimals of numbers in text files, point or comma; None: found out from each file as a whole."""
    commas: tuple[str, ...] = ()
    """The columns of numbers that may have a decimal comma, once they are known; a point is read in them as well."""

    def __post_init__(self) -> None:
        if self.decimal not in (None, ".", ","):
            raise UserError(f"dataset.decimal={self.decimal}: a point or a comma, or null: found out from the file")

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Reading":
        """From ``dataclasses.asdict``, also after a trip through a file."""
        lists = {name: tuple(stored.get(name, ())) for name in ("missing", "names", "texts", "commas")}
        return cls(**{**stored, **lists})


def read(paths: str | Sequence[str], reading: Reading) -> pa.Table:
    """All rows of one file, or of several one after the other (same column names, in any order).

    Raises ``UserError`` for a file that is not there, is empty, is malformed or holds no row.
    """
    files = [paths] if isinstance(paths, str) else list(paths)
    if not files:
        raise UserError("dataset.path names no file")
    return concatenated([_whole(find(path), reading) for path in files])


def concatenated(tables: Sequence[pa.Table]) -> pa.Table:
    """One table of the rows of several with the same column names, in the first one's order."""
    if len(tables) == 1:
        return tables[0]
    names = tables[0].schema.names
    for table in tables[1:]:
        if odd := set(table.schema.names) ^ set(names):
            together = f"{where(tables[0])} and {where(table)}"
            raise UserError(f"{together} do not have the same columns; only one of them has {choices(sorted(odd))}")
    tables = [table.select(names) for table in tables]
    mixed = [name for name in names if len({str(table.schema.field(name).type) for table in tables}) > 1]
    aligned = [_as_text(table, mixed) for table in tables]
    return _sourced(pa.concat_tables(aligned), [source for table in tables for source in _sources(table)])


def read_batches(
    path: str | Path, columns: Sequence[str] | None = None, rows_per_batch: int = 65536, reading: Reading | None = None
) -> Iterator[pa.RecordBatch]:
    """The file's rows in order, at most ``rows_per_batch`` at a time; memory does not grow with the file.

    Only the named ``columns`` are read (None: all), and those that are not there are left out: ``Preparation.inputs`` names them.
    """
    found = find(str(path))
    reading = reading or Reading()
    first = 0
    for batch in _batches(found, columns, rows_per_batch, reading):
        for start in range(0, batch.num_rows, rows_per_batch):
            piece = batch.slice(start, rows_per_batch)
            source = {"path": str(found), "first": first, "rows": piece.num_rows, "reading": asdict(reading)}
            yield _pointed(_sourced(piece, [source]), found, reading)
            first += piece.num_rows


def _batches(path: Path, columns: Sequence[str] | None, rows: int, reading: Reading) -> Iterator[Rows]:
    if is_parquet(path):
        return _parquet_batches(path, columns, rows)
    return jsonl_tables(path, rows, reading.texts) if is_jsonl(path) else _text_batches(path, columns, reading)


def column_names(path: str | Path, reading: Reading | None = None) -> tuple[str, ...]:
    """The names of a file's columns."""
    found = find(str(path))
    if is_parquet(found):
        return tuple(_parquet(found).schema_arrow.names)
    if is_jsonl(found):
        return tuple(next(jsonl_tables(found, 1), pa.table({})).schema.names)
    return _layout(found, reading or Reading()).names


def where(rows: Rows, row: int | None = None) -> str:
    """``file, line 12`` of a row of a table that was read here, or the file alone; lines count from 1, the header included."""
    sources = _sources(rows)
    if row is None:
        return " and ".join(source["path"] for source in sources) or "the table"
    for source in sources:
        if row < source["rows"]:
            path, number = Path(source["path"]), source["first"] + row
            if is_parquet(path):
                return f"{path}, row {number + 1}"
            if is_jsonl(path):
                return f"{path}, line {jsonl_line(path, number)}"
            reading = Reading.from_json(source["reading"])
            return f"{path}, line {line_of(path, number, _layout(path, reading), reading.encoding, reading.comment)}"
        row -= source["rows"]
    return f"row {row + 1}"


def folders(rows: Rows) -> list[Path]:
    """Of each row the folder of the file that it is from, against which file names in its cells are meant."""
    found = [Path(source["path"]).parent for source in _sources(rows) for _ in range(source["rows"])]
    return found or [Path()] * rows.num_rows


def as_read(reading: Reading, *tables: Rows) -> Reading:
    """The same, with the columns of numbers that turned out to have a decimal comma: other files are then read like these."""
    found = (name for rows in tables for source in _sources(rows) for name in source["reading"]["commas"])
    commas = tuple(dict.fromkeys(found))
    return replace(reading, decimal="," if commas else ".", commas=commas)


def file_notes(*tables: Rows) -> list[str]:
    """What was found out of the files that the tables were read from, a line each."""
    return [line for rows in tables for source in _sources(rows) for line in source.get("notes", ())]


def picked(rows: Rows, places: Sequence[int]) -> Rows:
    """The rows at rising places, which still know their lines."""
    sources, first = [], 0
    for source in _sources(rows):
        own = [place - first for place in places if first <= place < first + source["rows"]]
        sources += [{**source, "first": source["first"] + place, "rows": 1} for place in own]
        first += source["rows"]
    return _sourced(rows.take(pa.array(places, pa.int64())), sources)


def _whole(path: Path, reading: Reading) -> pa.Table:
    if is_parquet(path):
        table = _parquet(path).read()
        _unique(path, table.schema.names)
    elif is_jsonl(path):
        table = next(jsonl_tables(path, None, reading.texts), pa.table({}))
    else:
        shape = _layout(path, reading)
        parse, convert = _options(shape)
        with opened(path, reading.comment) as stream:
            options = arrow_csv.ReadOptions(
                block_size=_BLOCK, encoding=written_in(path, reading.encoding), column_names=shape.given
            )
            try:
                table = arrow_csv.read_csv(stream, options, parse, convert)
            except (pa.ArrowInvalid, UnicodeDecodeError) as error:
                raise explained(path, shape, reading.encoding, reading.comment, error) from None
        table = table.rename_columns(list(shape.names))
    if not table.num_rows:
        raise UserError(f"{path} has a header and no rows")
    notes = [] if is_parquet(path) else mark_notes(path)
    if is_text(path) and reading.decimal != "." and not reading.commas:
        found = look(table, _layout(path, reading).separator, reading.decimal, reading.missing, reading.texts)
        reading = replace(reading, commas=found.columns)
        notes += [f"{path}: {found.note}"] if found.note else []
    source = {"path": str(path), "first": 0, "rows": table.num_rows, "reading": asdict(reading), "notes": notes}
    return _pointed(_sourced(table, [source]), path, reading)


def _pointed(rows: Any, path: Path, reading: Reading) -> Any:
    """The rows of a text file with a decimal point in the columns that may have a comma."""
    columns = [name for name in reading.commas if name in rows.schema.names]
    if not columns or not is_text(path):
        return rows
    separator, metadata = _layout(path, reading).separator, rows.schema.metadata
    for name in columns:
        place = rows.schema.get_field_index(name)
        column = rows.column(place)
        if (row := refused(column, separator, reading.missing)) is not None:
            raise UserError(
                f"{where(rows, row)}, column '{name}': '{column[row].as_py()}' among numbers with a decimal comma: "
                "marks of thousands are not read, write it without"
            )
        rows = rows.set_column(place, name, with_points(column, reading.missing))
    return rows.replace_schema_metadata(metadata)


def _text_batches(path: Path, columns: Sequence[str] | None, reading: Reading) -> Iterator[pa.RecordBatch]:
    shape = _layout(path, reading)
    parse, convert = _options(shape, columns)
    if columns is not None and not convert.include_columns:
        raise UserError(f"{path} has none of the columns {choices(columns)}; it has: {choices(shape.names)}")
    renamed = dict(zip(shape.raw, shape.names, strict=True))
    with opened(path, reading.comment) as stream:
        encoding = written_in(path, reading.encoding)
        options = arrow_csv.ReadOptions(block_size=_BLOCK, encoding=encoding, column_names=shape.given, use_threads=False)
        try:
            for batch in arrow_csv.open_csv(stream, options, parse, convert):
                yield batch.rename_columns([renamed[name] for name in batch.schema.names])
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            raise explained(path, shape, reading.encoding, reading.comment, error) from None


def _options(shape: Layout, columns: Sequence[str] | None = None) -> tuple[arrow_csv.ParseOptions, arrow_csv.ConvertOptions]:
    """Every cell as it is written: what it means is for ``columns.py`` to say, the same for all kinds of files."""
    quotes = {"quote_char": '"' if shape.quoted else False, "newlines_in_values": shape.quoted}
    parse = arrow_csv.ParseOptions(delimiter=shape.separator, **quotes)
    kept = [raw for raw, name in zip(shape.raw, shape.names, strict=True) if columns is None or name in columns]
    convert = arrow_csv.ConvertOptions(
        column_types=dict.fromkeys(shape.raw, pa.string()), strings_can_be_null=False, include_columns=kept
    )
    return parse, convert


def _parquet_batches(path: Path, columns: Sequence[str] | None, rows: int) -> Iterator[pa.RecordBatch]:
    file = _parquet(path)
    names = file.schema_arrow.names
    _unique(path, names)
    kept = names if columns is None else [name for name in names if name in columns]
    if not kept:
        raise UserError(f"{path} has none of the columns {choices(columns or ())}; it has: {choices(names)}")
    yield from file.iter_batches(rows, columns=kept, use_threads=False)


def _parquet(path: Path) -> parquet.ParquetFile:
    try:
        # Read piece by piece: as it comes, a whole row group (often the whole file) is in memory at once.
        return parquet.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False)
    except pa.ArrowInvalid:
        raise UserError(f"{path} is not a Parquet file") from None


def _layout(path: Path, reading: Reading) -> Layout:
    found = layout(path, reading.separator, reading.encoding, reading.names, reading.comment, reading.quoted)
    _unique(path, found.names)
    return found


def _unique(path: Path, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{path} has several columns of the same name: {choices(twice)}")


def _as_text(table: pa.Table, names: Sequence[str]) -> pa.Table:
    for name in names:
        table = table.set_column(table.schema.get_field_index(name), name, table.column(name).cast(pa.string()))
    return table.replace_schema_metadata(None)


def _sourced(rows: Any, sources: list[dict[str, Any]]) -> Any:
    """Rows that remember where they come from: the metadata travel with them at no cost."""
    return rows.replace_schema_metadata({_SOURCE: json.dumps(sources).encode()})


def _sources(rows: Rows) -> list[dict[str, Any]]:
    stored = (rows.schema.metadata or {}).get(_SOURCE)
    return list(json.loads(stored)) if stored else []
