"""What tests share."""

import copy
import os
from collections.abc import Callable, Generator
from functools import cache
from pathlib import Path

import pytest
from omegaconf import DictConfig

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data sets beside the project; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"real data are absent: there is no {SHARED}")
    return SHARED


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where the real data are there, a test on them may not skip."""
    report = yield
    if report.skipped and "shared_data" in getattr(item, "fixturenames", ()) and SHARED.is_dir():
        report.outcome = "failed"
        report.longrepr = f"skipped although {SHARED} is there: {report.longrepr}"
    return report


@pytest.fixture
def make_config() -> Callable[..., DictConfig]:
    """``make_config("sharing=soft", …)``: the configuration of a small quick run on the CPU without a tracker."""

    def make(*overrides: str) -> DictConfig:
        small = ["tracker=none", "trainer.epochs=2", "trainer.device=cpu", "trainer.progress=false", "encoder.hidden=[32,16]"]
        if any(override.startswith("encoder=") for override in overrides):
            small.pop()
        return copy.deepcopy(_composed((*small, *overrides)))

    return make


@cache
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    """A tenth of a second each; the same ones are composed again and again."""
    from hydra import compose, initialize_config_dir

    from mtl_runner.config import config_dir

    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose("config", list(overrides))


@pytest.fixture
def train(make_config: Callable[..., DictConfig], tmp_path: Path) -> Callable[..., Path]:
    """``train("sharing=soft", …)``: runs it and returns its run folder."""
    from mtl_runner.folder import Origin
    from mtl_runner.run import run

    count = 0

    def run_it(*overrides: str, folder: Path | None = None, choices: dict[str, str] | None = None) -> Path:
        nonlocal count
        count += 1
        folder = folder or tmp_path / f"run_{count}"
        folder.mkdir(parents=True, exist_ok=True)
        run(make_config(*overrides), folder, Origin(choices or {}, list(overrides)))
        return folder

    return run_it


@pytest.fixture(autouse=True)
def _own_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test leaves anything in the folder that it is called from."""
    monkeypatch.chdir(tmp_path)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
