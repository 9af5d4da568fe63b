"""One process at a time trains in a run folder, or runs the jobs of a sweep."""

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mtl_runner.errors import UserError

FILE = ".lock"


class Busy(UserError):
    """Another process is at work there."""


@contextmanager
def only_here(folder: Path) -> Iterator[None]:
    """Inside, no other process gets to work in ``folder``; the lock goes with the process, however that ends."""
    try:
        lock = FileLock(folder / FILE).acquire(timeout=0)
    except Timeout:
        raise Busy(f"{folder}: another process is at work in this folder") from None
    with lock:
        yield


def read_status(folder: Path) -> dict[str, Any] | None:
    """``status.json``, or None where there is none that can be read."""
    try:
        status = json.loads((folder / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return status if isinstance(status, dict) else None


def alive(folder: Path, status: Mapping[str, Any] | None) -> bool:
    """Whether a process trains there. Where one of another machine said so last, it is believed."""
    if status is None or status.get("state") != "running":
        return False
    if status.get("host") not in (None, socket.gethostname()):
        return True
    return held(folder) if (folder / FILE).exists() else _exists(status.get("pid"))


def held(folder: Path) -> bool:
    """Whether a process has the lock of the folder."""
    if not (folder / FILE).exists():
        return False
    try:
        with only_here(folder):
            return False
    except Busy:
        return True


def _exists(pid: Any) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, TypeError, ValueError):
        return False
    except PermissionError:
        return True
    return True
