"""Files of rows that a user names: where they are, and of which format, by the ends of their names."""

from collections.abc import Sequence
from pathlib import Path

from mtl_runner.datasets.rows.jsonl import JSONL_SUFFIXES
from mtl_runner.errors import UserError, choices, nearest

TEXT_SUFFIXES = (".csv", ".tsv", ".tab", ".txt", ".data", ".test", ".dat")
PARQUET_SUFFIXES = (".parquet", ".pq")
SUFFIXES = TEXT_SUFFIXES + PARQUET_SUFFIXES + JSONL_SUFFIXES
COMPRESSED_SUFFIXES = (".gz", ".bz2")


def find(path: str) -> Path:
    """As ``existing``, of one of the formats that are read here."""
    found = existing(path, SUFFIXES)
    if _suffix(found) not in SUFFIXES:
        raise UserError(f"{found} has an unknown extension; allowed: {choices(SUFFIXES)}, also with .gz")
    return found


def existing(path: str, suffixes: Sequence[str] = ()) -> Path:
    """The file; also the one with ``.gz`` added or taken away, where only that is there.

    Raises ``UserError`` with the files of the folder whose names end in one of ``suffixes`` (none: all).
    """
    typed = Path(path).expanduser()
    other = typed.with_suffix("") if typed.suffix == ".gz" else typed.with_name(typed.name + ".gz")
    found = next((candidate for candidate in (typed, other) if candidate.is_file()), None)
    if found is None:
        if typed.is_dir():
            raise UserError(f"{typed} is a folder; name a file in it: {choices(_names_in(typed, suffixes), 5)}")
        beside = _names_in(typed.parent, suffixes) if typed.parent.is_dir() else []
        place = f"in {typed.parent}: {choices(beside, 5)}" if beside else f"in {typed.parent} is no file that can be read"
        place = place if typed.parent.is_dir() else f"there is no folder {typed.parent}"
        raise UserError(f"there is no file {typed}{nearest(typed.name, beside)}; {place}")
    return found


def _names_in(folder: Path, suffixes: Sequence[str]) -> list[str]:
    """The files of these formats, by name; of all formats without any."""
    return sorted(file.name for file in folder.iterdir() if file.is_file() and (not suffixes or _suffix(file) in suffixes))


def is_parquet(path: Path) -> bool:
    """By its extension."""
    return _suffix(path) in PARQUET_SUFFIXES


def is_jsonl(path: Path) -> bool:
    """By its extension."""
    return _suffix(path) in JSONL_SUFFIXES


def is_text(path: Path) -> bool:
    """Neither of the others: all of its cells are texts, whose notation there is something to find out about."""
    return not (is_parquet(path) or is_jsonl(path))


def _suffix(path: Path) -> str:
    return Path(path.stem).suffix.lower() if path.suffix.lower() in COMPRESSED_SUFFIXES else path.suffix.lower()
