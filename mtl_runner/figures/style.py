"""What the pictures have in common."""

import re
from zlib import crc32

TRAIN, VALIDATION, INK, PALE = "#9aa5b1", "#1f6fb4", "#2f3a45", "#e4e8ec"

MOST_TASKS = 40
"""Tasks with panels or pictures of their own, the first ones; the files that these are drawn from have all."""


def shortened(text: str, length: int) -> str:
    """``text`` as matplotlib shows it, cut to ``length`` characters in the middle: names often differ in their ends alone."""
    end = (length - 1) // 2
    text = text if len(text) <= length else text[: length - 1 - end] + "…" + text[-end:]
    return text.replace("$", r"\$")  # else matplotlib reads a formula


def ems(name: str) -> float:
    """About how long a name is, in its font's size."""
    return sum(0.62 if letter.isascii() and not letter.isupper() else 0.9 for letter in name)


def file_name(task: str) -> str:
    """``task`` as part of a file's name; a changed one gets four hexadecimal digits, so that two names stay two."""
    kept = re.sub(r"[^\w.\-]", "_", task)[:100]
    return kept if kept == task else f"{kept}_{crc32(task.encode()) & 0xFFFF:04x}"
