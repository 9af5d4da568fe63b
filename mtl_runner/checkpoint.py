"""Checkpoints that a kill cannot spoil."""

import os
from pathlib import Path
from typing import Any

import torch

from mtl_runner.errors import UserError


def save(state: Any, path: Path) -> None:
    """Write ``state`` (tensors and plain values) under a temporary name, then give it its own: whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")  # one that a kill leaves behind is replaced by the next
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load(path: Path, device: torch.device | str = "cpu") -> Any:
    """What ``save`` wrote; runs no code from the file.

    Raises:
        UserError: there is no such file, or it is not a checkpoint of plain tensors and values.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"{path}: not a readable checkpoint ({type(error).__name__}: {reason})") from error
