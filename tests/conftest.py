"""What tests share."""

import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from composing import composed
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
        return composed(*small, *overrides)

    return make


@pytest.fixture
def figures_too() -> None:
    """Asked for by a test whose runs are to draw their figures, which takes longer than the training."""


@pytest.fixture
def train(
    make_config: Callable[..., DictConfig], tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """``train("sharing=soft", …)``: runs it and returns its run folder, without figures but with ``figures_too``."""
    from mtl_runner.folder import Origin
    from mtl_runner.run import run

    if "figures_too" not in request.fixturenames:
        monkeypatch.setattr("mtl_runner.figures.draw", lambda folder: None)
    count = 0

    def run_it(*overrides: str, folder: Path | None = None, choices: dict[str, str] | None = None) -> Path:
        nonlocal count
        count += 1
        folder = folder or tmp_path / f"run_{count}"
        folder.mkdir(parents=True, exist_ok=True)
        run(make_config(*overrides), folder, Origin(choices or {}, list(overrides)))
        return folder

    return run_it


@pytest.fixture(scope="session")
def _empty_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("empty")


@pytest.fixture(autouse=True)
def _own_working_folder(request: pytest.FixtureRequest, _empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test leaves anything in the folder that it is called from: it works in its own, or in one that has to stay empty."""
    monkeypatch.chdir(request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else _empty_folder)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    yield
    if left := [path.rename(path.with_name(f".{path.name}")).name for path in _empty_folder.glob("[!.]*")]:
        pytest.fail(f"a test that writes into its working folder asks for tmp_path; this one left {left}")


@pytest.fixture(autouse=True)
def _patient_tracking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow is given up on when a call takes five seconds; where that is not the question, a machine may stand still."""
    if request.path.stem != "test_tracking_outage":
        for module in ("sender", "session"):
            monkeypatch.setattr(f"mtl_runner.tracking.{module}.CALL", 60.0)
