"""Checkpoints: whole or not at all, and no code from a file."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from mtl_runner import checkpoint
from mtl_runner.errors import UserError

STATE: dict[str, Any] = {"model": {"w": torch.arange(6.0).view(2, 3)}, "progress": {"epoch": 3, "best": None}, "rng": [b"x", 0.5]}


class Harmful:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "last.pt"
    checkpoint.save(STATE, path)
    loaded = checkpoint.load(path)
    assert torch.equal(loaded["model"]["w"], STATE["model"]["w"])
    assert loaded["progress"] == STATE["progress"] and loaded["rng"] == STATE["rng"]
    assert [file.name for file in path.parent.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    path, trace = tmp_path / "last.pt", tmp_path / "it ran"
    torch.save({"model": Harmful(trace)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match="not a readable checkpoint"):
        checkpoint.load(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)  # the file would do it, if it could
    assert trace.exists()


def test_a_save_that_breaks_off_leaves_the_last_one_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(STATE, path)

    def half(state: Any, file: Any) -> None:
        file.write(b"half of it")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save({"model": {}}, path)
    assert torch.equal(checkpoint.load(path)["model"]["w"], STATE["model"]["w"])


def test_a_new_checkpoint_is_never_seen_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "last.pt", []
    checkpoint.save({"epoch": 1}, path)
    real = torch.save

    def spy(state: Any, file: Any) -> None:
        real(state, file)
        seen.append(checkpoint.load(path))

    monkeypatch.setattr(torch, "save", spy)
    checkpoint.save({"epoch": 2}, path)
    assert seen == [{"epoch": 1}] and checkpoint.load(path) == {"epoch": 2}


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 half of a zip"])
def test_a_file_that_is_no_checkpoint_has_its_message_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a readable checkpoint") as caught:
        checkpoint.load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0.3, 0.9])
def test_a_truncated_checkpoint_has_its_message(tmp_path: Path, size: float) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(STATE, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(size * len(content))])
    with pytest.raises(UserError, match="not a readable checkpoint"):
        checkpoint.load(path)


def test_no_file_has_its_message(tmp_path: Path) -> None:
    for path in (tmp_path / "best.pt", tmp_path):
        with pytest.raises(UserError, match="no such checkpoint"):
            checkpoint.load(path)
