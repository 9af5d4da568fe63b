"""Of which code a run says that it was: that of the package, wherever the shell stands."""

import subprocess
from pathlib import Path

import pytest

from mtl_runner import run


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a package in it whose ``run.py`` stands for the real one's; the shell stands in another repository."""
    for name, file in (("code", "package/run.py"), ("elsewhere", "notes.txt")):
        (tmp_path / name / file).parent.mkdir(parents=True)
        (tmp_path / name / file).write_text("1\n")
        git(tmp_path / name, "init", "-q")
        git(tmp_path / name, "add", ".")
        git(tmp_path / name, "commit", "-q", "-m", name)
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(run, "__file__", str(tmp_path / "code" / "package" / "run.py"))
    return tmp_path / "code" / "package"


def test_the_commit_is_that_of_the_package(package: Path) -> None:
    assert run._commit() == git(package, "rev-parse", "HEAD")
    (package.parent / "package" / "run.py").write_text("2\n")
    assert run._commit() == git(package, "rev-parse", "HEAD") + "+"


def test_a_package_that_is_only_installed_inside_a_repository_has_no_commit(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = package.parent / "venv" / "package"
    installed.mkdir(parents=True)
    (installed / "run.py").write_text("1\n")
    monkeypatch.setattr(run, "__file__", str(installed / "run.py"))
    assert run._commit() is None
    monkeypatch.setattr(run, "__file__", str(package.parents[1] / "nowhere" / "run.py"))
    assert run._commit() is None
