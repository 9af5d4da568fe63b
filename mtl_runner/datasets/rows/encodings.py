"""In which encoding a file is written: what its first bytes say, and what to try where it is not the one that was named."""

import codecs
import re
import unicodedata
from pathlib import Path

import pyarrow as pa

from mtl_runner.errors import UserError, nearest

_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
CODE_PAGES = {"cp1252": "Western", "cp1253": "Greek", "cp1250": "Central European", "cp1251": "Cyrillic"}
_BLOCK = 1 << 20
_WORD = re.compile(rb"[^\s,;|\"]{0,20}[\x80-\xff][^\s,;|\"]{0,20}")


def marked(path: Path) -> str | None:
    """UTF-16 or UTF-32, where the file begins with the byte order mark of one: that is then its encoding, whatever was named."""
    with pa.input_stream(str(path), compression="detect") as stream:
        start = stream.read(4)
    return next((name for mark, name in _MARKS.items() if start.startswith(mark)), None)


def mark_notes(path: Path) -> list[str]:
    """A line on a file that is read by its byte order mark."""
    mark = marked(path)
    return [f"{path} is read as {mark}, as its byte order mark says"] if mark else []


def unreadable(path: Path, encoding: str) -> UserError:
    """What to say of a file that cannot be read in an encoding: those in which all of its bytes are characters, with a word."""
    if mark := marked(path):
        return UserError(f"{path} begins with the byte order mark of {mark}, and is not written in it")
    try:
        codecs.lookup(encoding)
    except LookupError:
        known = ("utf-8", "utf-16", "latin-1", *CODE_PAGES)
        return UserError(f"dataset.encoding={encoding}: there is no such encoding{nearest(encoding, known)}")
    used, word = _beyond_ascii(path)
    fitting = [f"{name} ({what}: {word.decode(name, 'replace')})" for name, what in CODE_PAGES.items() if _fits(used, name)]
    advice = f"name the one in which its words are right: {', '.join(fitting)}" if fitting else "name another"
    return UserError(f"{path} is not written in {encoding}; dataset.encoding=… has to {advice}")


def _beyond_ascii(path: Path) -> tuple[bytes, bytes]:
    """The bytes of a file that are not ASCII, each once, and the first word with one."""
    used: set[int] = set()
    word = b""
    with pa.input_stream(str(path), compression="detect") as stream:
        while block := stream.read(_BLOCK):
            found = _WORD.search(block)
            word = word or (found.group() if found else b"")
            used |= {byte for byte in set(block) if byte >= 0x80}
    return bytes(sorted(used)), word


def _fits(used: bytes, encoding: str) -> bool:
    try:
        return all(unicodedata.category(character) != "Cc" for character in used.decode(encoding))
    except UnicodeDecodeError:
        return False
