"""Files with a token on each line, its values in columns, and an empty line behind each sentence.

- Columns stand apart by tabs where the first line of a token has one, else by white space.
- Their names come from ``# global.columns = …`` (CoNLL-U Plus), from a first line ``# form<tab>upos<tab>…``, from the ten columns
  of CoNLL-U in a file whose name ends so, or they are ``column_1`` … .
- A line that starts with ``#`` is a comment, unless it has the columns of a token: a tab, or, where white space is between the
  columns, as many values as there are columns and no ``key = value``.
- Of a column ``id``, ranges and empty nodes (``3-4``, ``8.1``: CoNLL-U) are no tokens. ``-DOCSTART-`` is no sentence.
"""

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa

from mtl_runner.datasets.rows.encodings import unreadable
from mtl_runner.datasets.rows.finding import existing
from mtl_runner.datasets.rows.layout import opened, written_in
from mtl_runner.datasets.skipping import Skipping
from mtl_runner.errors import UserError, choices

CONLLU = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
LINE = "line"
"""The column of tables of sentences that says on which line each begins."""
_NO_TOKEN = re.compile(r"\d+[-.]\d+")
_SAID = re.compile(r"#\s*\S+\s*=")


@dataclass(frozen=True)
class Format:
    """How the files are written."""

    names: tuple[str, ...] = ()
    """Of the columns; empty: as the file says."""
    encoding: str = "utf-8"
    known: tuple[str, ...] = ()
    """Names of as many columns where neither the user nor the file names them: those of the files of training."""
    word: str | None = None
    """What the only column of a file is, when a trained model is used: words alone need no header."""


@dataclass(frozen=True)
class Columns:
    """What a file's first lines say."""

    names: tuple[str, ...]
    separator: str | None
    """A tab; None: any white space."""
    header: str = ""
    """The line that names them, where it has tabs as those of tokens have."""

    def values(self, line: str) -> list[str] | None:
        """Those of a line, None where it is a comment."""
        if line == self.header:
            return None
        cells = [cell.strip() for cell in line.rstrip("\r\n").split("\t")] if self.separator else line.split()
        if line.startswith("#"):
            if self.separator and len(cells) == 1:
                return None
            if not self.separator and (len(cells) != len(self.names) or _SAID.match(line)):
                return None
        return cells


def columns(path: Path, how: Format) -> Columns:
    """Of a file.

    Raises:
        UserError: it is empty, cannot be read, or has another number of columns than was said.
    """
    said: tuple[str, ...] = ()
    header = ""
    for _, line in _lines(path, how.encoding):
        if not line.strip():
            continue
        if line.startswith("#") and "global.columns" in line:
            said = tuple(line.partition("=")[2].split())
        elif line.startswith("# ") and "\t" in line and not said:
            said, header = tuple(name.strip() for name in line.lstrip("#").strip().split("\t")), line
        elif not line.startswith("#") or "\t" in line:
            return replace(_of_first_token(path, how, said, line), header=header)
    raise UserError(f"{path} has no token")


def _of_first_token(path: Path, how: Format, said: tuple[str, ...], line: str) -> Columns:
    separator = "\t" if "\t" in line else None
    width = len(line.rstrip("\r\n").split(separator))
    if width == 1 and how.word is not None:
        return Columns((how.word,), separator)
    conllu = CONLLU if ".conllu" in path.suffixes else ()
    known = how.known if len(how.known) == width else ()
    names = how.names or said or conllu or known or tuple(f"column_{place}" for place in range(1, width + 1))
    if len(names) != width:
        raise UserError(f"{path}: the first token has {width} columns, and there are {len(names)} names: {choices(names)}")
    return Columns(names, separator)


def read_sentences(path: str | Path, how: Format, skipping: Skipping, size: int | None = None) -> Iterator[pa.Table]:
    """Tables of at most ``size`` sentences (None: one of all): a list of texts per column and sentence, and the ``line``.

    Raises:
        UserError: no such file; unless skipped, with the line, a token with too few or too many values, or without a word.
    """
    found = existing(str(path))
    layout = columns(found, how)
    read = _sentences(found, layout, how.encoding, skipping)
    some = False
    while block := list(islice(read, size)):
        some = True
        yield _table(layout, block)
    if not some:
        yield _table(layout, [])


def _table(layout: Columns, sentences: Sequence[tuple[int, list[list[str]]]]) -> pa.Table:
    offsets = pa.array([0, *_running(len(tokens) for _, tokens in sentences)], pa.int32())
    arrays = {LINE: pa.array([line for line, _ in sentences], pa.int64())}
    for place, name in enumerate(layout.names):
        flat = pa.array([token[place] for _, tokens in sentences for token in tokens], pa.string())
        arrays[name] = pa.ListArray.from_arrays(offsets, flat)
    return pa.table(arrays)


def _running(sizes: Iterator[int]) -> Iterator[int]:
    total = 0
    for size in sizes:
        yield (total := total + size)


def _sentences(path: Path, layout: Columns, encoding: str, skipping: Skipping) -> Iterator[tuple[int, list[list[str]]]]:
    """The first line of each sentence, and its tokens' values; where it may be, one with an error is left out as a whole."""
    tokens: list[list[str]] = []
    begun, broken = 0, False
    names = tuple(name.lower() for name in layout.names)
    for number, line in chain(_lines(path, encoding), [(0, "")]):
        if not line.strip():
            if tokens and not broken and tokens[0][0] != "-DOCSTART-":
                yield begun, tokens
            tokens, broken = [], False
            continue
        values = layout.values(line)
        if values is None or (names[0] == "id" and _NO_TOKEN.fullmatch(values[0])):
            continue
        if len(values) != len(names) and not broken:
            skipping(UserError(f"{path}, line {number}: {len(values)} values, but there are {len(names)} columns"))
            broken = True
        begun = begun if tokens else number
        tokens.append(values)


def _lines(path: Path, encoding: str) -> Iterator[tuple[int, str]]:
    """With their numbers, from 1."""
    try:
        with io.TextIOWrapper(io.BufferedReader(opened(path, None)), encoding=written_in(path, encoding)) as lines:
            yield from enumerate(lines, start=1)
    except (UnicodeDecodeError, LookupError):
        raise unreadable(path, encoding) from None
    except (OSError, EOFError, pa.ArrowInvalid) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
