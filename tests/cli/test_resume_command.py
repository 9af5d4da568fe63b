"""``mtl-run resume=RUN_DIR``."""

import json
from pathlib import Path
from typing import Any

import pytest
from composing import composed
from omegaconf import OmegaConf
from standins import Command, Jobs

import mtl_runner.run


@pytest.fixture
def resumed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What training was asked to resume."""
    calls: list[Any] = []
    monkeypatch.setattr(mtl_runner.run, "resume", lambda folder, **given: calls.append((folder, *given.values())))
    return calls


@pytest.fixture
def run_folder(folder: Path) -> Path:
    """Looks like a run folder."""
    (folder / "a run" / "checkpoints").mkdir(parents=True)
    (folder / "a run" / "config.yaml").write_text(OmegaConf.to_yaml(composed("scheduler=cosine"), resolve=True))
    (folder / "a run" / "status.json").write_text('{"state": "interrupted"}')
    return folder / "a run"


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        ([], (None, None, [])),
        (["trainer.epochs=50"], (50, None, [])),
        (["trainer.steps=900"], (None, 900, [])),
        (["allow_modules=[mine]"], (None, None, ["mine"])),
    ],
)
def test_resuming(mtl_run: Command, run_folder: Path, resumed: list[Any], budget: list[str], expected: tuple[Any, Any]) -> None:
    assert mtl_run(*budget, f"resume={run_folder}").code == 0
    assert resumed == [(run_folder, *expected)]
    assert [path.name for path in Path.cwd().iterdir()] == ["a run"], "no second run folder"


def test_a_folder_is_called_as_that_of_a_new_run(mtl_run: Command, run_folder: Path, resumed: list[Any]) -> None:
    assert mtl_run("resume='a run'").code == 0 and resumed[0][0] == run_folder.absolute()


def test_what_a_schedule_was_planned_for_is_kept(mtl_run: Command, run_folder: Path, resumed: list[Any]) -> None:
    """That of its first epochs, however often its budget grows."""

    def planned() -> Any:
        return json.loads((run_folder / "status.json").read_text()).get("planned")

    assert mtl_run(f"resume={run_folder}").code == 0 and planned() is None
    assert mtl_run(f"resume={run_folder}", "trainer.epochs=50").code == 0 and planned() == {"epochs": 30, "steps": None}
    (run_folder / "config.yaml").write_text(OmegaConf.to_yaml(composed("scheduler=cosine", "trainer.epochs=50"), resolve=True))
    assert mtl_run(f"resume={run_folder}", "trainer.epochs=90").code == 0 and planned() == {"epochs": 30, "steps": None}


@pytest.mark.parametrize(
    "typed",
    [
        "seed=3",
        "sharing=soft",
        "-m",
        "trainer.batch_size=3",
        "trainer.epochs=0",
        "trainer.epochs=more",
        "trainer.epochs=²",
        "trainer.epochs=٣",
        "+trainer.epochs=3",
    ],
)
def test_nothing_else_goes_with_it(mtl_run: Command, run_folder: Path, resumed: list[Any], typed: str) -> None:
    result = mtl_run(f"resume={run_folder}", typed)
    assert result.code == 2 and typed in result.err and len(result.err.splitlines()) == 1
    assert not resumed


@pytest.mark.parametrize("typed", ["resume=nowhere", "resume=.", "resume="])
def test_what_is_no_run_folder(mtl_run: Command, resumed: list[Any], typed: str) -> None:
    result = mtl_run(typed)
    assert result.code == 2 and typed in result.err and not resumed


def test_null_resumes_nothing(mtl_run: Command, jobs: Jobs) -> None:
    assert mtl_run("resume=null").code == 0
    assert len(jobs.calls) == 1


def test_interrupted_again(mtl_run: Command, run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    (run_folder / "checkpoints" / "last.pt").touch()
    monkeypatch.setattr(mtl_runner.run, "resume", interrupt)
    result = mtl_run(f"resume={run_folder}")
    assert result.code == 130 and f"resume={run_folder}" in result.err
