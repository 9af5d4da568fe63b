"""The files that a preset expects: they are looked for before anything is read, and all that is missing is named at once."""

import gzip
import hashlib
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from mtl_runner.errors import UserError, choices


@dataclass(frozen=True)
class Expected:
    """A file or a folder, relative to the preset's folder."""

    name: str
    md5: str | None = None
    """Of its contents, where the publisher's file is known."""
    size: int | None = None
    """In bytes, where it is known."""
    folder: bool = False
    files: int | None = None
    """How many files the folder has, where it is known."""
    others: tuple[str, ...] = ()
    """Other names under which it is found: without ``.gz``, for example. Their checksum is not known."""


def expect(
    preset: str, folder: str | Path, files: Sequence[Expected], where: str, licence: str, verify: bool = True
) -> dict[str, Path]:
    """Where the files are, by their names.

    Args:
        preset: what they belong to, for messages.
        folder: where they are looked for.
        files: what is needed.
        where: the public gets them.
        licence: or the terms under which they are used.
        verify: compare sizes and checksums, where they are known, with those of the publisher's files.

    Raises:
        UserError: files that are missing, all of them at once; files that are not the publisher's.
    """
    root = Path(folder).expanduser()
    found = {file.name: _found(root, file) for file in files}
    if missing := [file for file in files if found[file.name] is None]:
        names = choices([f"{file.name}{'/' if file.folder else ''}" for file in missing])
        raise UserError(
            f"dataset={preset}: in {root} {'is' if len(missing) == 1 else 'are'} missing: {names}\n"
            f"get {'it' if len(missing) == 1 else 'them'} from {where}; licence: {licence}"
        )
    there = {name: path for name, path in found.items() if path is not None}
    if verify and (wrong := [said for file in files if (said := _difference(there[file.name], file))]):
        raise UserError(
            f"dataset={preset}: not the published files: {'; '.join(wrong)}\n"
            f"those are at {where}; dataset.verify=false uses these all the same"
        )
    return there


def _found(root: Path, file: Expected) -> Path | None:
    candidates = [root / name for name in (file.name, *file.others)]
    return next((path for path in candidates if (path.is_dir() if file.folder else path.is_file())), None)


def _difference(path: Path, file: Expected) -> str | None:
    """In what it differs from the publisher's file; nothing where that is not known."""
    if file.folder:
        count = sum(1 for _ in path.iterdir()) if file.files is not None else None
        return None if count == file.files else f"{path} has {count:,} files and not {file.files:,}"
    if path.name != Path(file.name).name:
        return None
    if file.size is not None and path.stat().st_size != file.size:
        return f"{path} has {path.stat().st_size:,} bytes and not {file.size:,}"
    if file.md5 is None:
        return None
    found = md5(path)
    return None if found == file.md5 else f"{path} has the MD5 checksum {found} and not {file.md5}"


def md5(path: Path) -> str:
    """Checksum of a file's contents; it tells a file that is broken or another one, and protects from nobody."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def unpacked(path: Path) -> Iterator[gzip.GzipFile | BufferedReader]:
    """A file to be read from, unpacked where its name ends in ``.gz``.

    Raises:
        UserError: it is cut off or is not packed.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            yield stream
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be {'unpacked' if path.suffix == '.gz' else 'read'}: {error}") from None
