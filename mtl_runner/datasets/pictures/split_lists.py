"""Published splits of images by domain: text files whose lines are the path of an image and its label."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mtl_runner.errors import UserError

ENDINGS = {"train": "_train.txt", "validation": "_val.txt", "test": "_test.txt"}
"""Of the lists of a domain, by part; that of validation may be missing."""


@dataclass(frozen=True)
class DomainImages:
    """The images of a domain, one after the other."""

    paths: Sequence[str]
    labels: Sequence[str]
    """Names of classes."""
    places: Sequence[str]
    """Where each is from, for messages."""
    parts: Sequence[str] = ()
    """The part of each, where lists say so."""


def domains_of(lists: Path) -> list[str]:
    """Those with a list of training images."""
    ending = ENDINGS["train"]
    return sorted(file.name.removesuffix(ending) for file in lists.glob(f"*{ending}"))


def read_lists(files: Mapping[str, Mapping[str, Path]], root: Path) -> dict[str, DomainImages]:
    """By domain; paths are relative to ``root``, and a class is called as the folder of its images.

    Args:
        files: by domain and part.
        root: the folder of the data set.

    Raises:
        UserError: with file and line, one that is no path and label, an image that is listed twice, or a label whose images are
            in two folders, or a folder with two labels.
    """
    seen: dict[str, str] = {}
    names: dict[str, tuple[str, str]] = {}
    found = {}
    for domain, parts in files.items():
        rows = [(part, place, *pair) for part, file in parts.items() for place, pair in _lines(file)]
        for _, place, image, label in rows:
            if image in seen:
                raise UserError(f"{place}: {image} is listed twice, also at {seen[image]}")
            seen[image] = place
            folder = PurePosixPath(image).parent.name
            for one, other, what in ((f"label {label}", folder, "folder"), (f"folder {folder}", label, "label")):
                known, first = names.setdefault(one, (other, place))
                if known != other:
                    raise UserError(f"{place}: {one} has the {what} '{other}', and '{known}' at {first}")
        found[domain] = DomainImages(
            paths=[str(root / image) for _, _, image, _ in rows],
            labels=[PurePosixPath(image).parent.name for _, _, image, _ in rows],
            places=[place for _, place, _, _ in rows],
            parts=[part for part, _, _, _ in rows],
        )
    return found


def _lines(file: Path) -> list[tuple[str, tuple[str, str]]]:
    """The place of each line, and its path and label; a path may have blanks in it."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {error}") from None
    found = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            if len(words := line.rsplit(maxsplit=1)) != 2:
                raise UserError(f"{file}, line {number}: '{line.strip()}' is not the path of an image and its label")
            found.append((f"{file}, line {number}", (words[0].strip(), words[1])))
    if not found:
        raise UserError(f"{file} lists no image")
    return found
