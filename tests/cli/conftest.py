"""The two commands, called in this process: a start of Python with torch takes seconds."""

import copy
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from standins import Command, Jobs, Result

import mtl_runner.run
from mtl_runner import cli
from mtl_runner.commands import job, precheck
from mtl_runner.commands.sweeping import running
from mtl_runner.tracking.mlflow_tracker import MlflowTracker


@pytest.fixture(scope="session", autouse=True)
def _each_text_is_parsed_once() -> Iterator[None]:
    """Twenty files for each call, and the same ones for all: parsing took a quarter of the time of these tests."""
    known: dict[str, Any] = {}
    parse = OmegaConf.load

    def load(file: Any) -> Any:
        if isinstance(file, str | Path):
            return parse(file)
        start = file.tell()
        text = file.read()
        if text not in known:
            file.seek(start)
            known[text] = parse(file)
        return copy.deepcopy(known[text])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OmegaConf, "load", load)
        yield


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    hydra, root = logging.getLogger("hydra"), logging.getLogger()
    hydra.setLevel(logging.NOTSET)
    hydra.handlers, hydra.propagate = [], True  # they hold this test's standard output
    root.handlers = [each for each in root.handlers if type(each) is not logging.StreamHandler]  # so do those of --info
    root.setLevel(logging.WARNING)
    for name in [name for name, module in sys.modules.items() if str(tmp_path) in str(getattr(module, "__file__", ""))]:
        del sys.modules[name]


def _command(name: str, main: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    def call(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return Result(int(ended.value.code or 0), out, err)

    return call


@pytest.fixture
def mtl_run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """``mtl-run ARGUMENTS``."""
    return _command("mtl-run", cli.run_main, monkeypatch, capfd)


@pytest.fixture
def mtl(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """``mtl ARGUMENTS``."""
    return _command("mtl", cli.app_main, monkeypatch, capfd)


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Jobs:
    """Replaces training and the tracker's preparation."""
    fake = Jobs()
    monkeypatch.setattr(mtl_runner.run, "run", fake.run)
    monkeypatch.setattr(job, "apart", lambda function, *args, log=None: function(*args) and 0)
    monkeypatch.setattr(job, "warm_up", lambda modules: None)
    monkeypatch.setattr(precheck, "warm_up", lambda modules: None)
    monkeypatch.setattr(running, "cores", lambda: 1)
    monkeypatch.setattr(MlflowTracker, "prepare", lambda tracker, experiment: fake.prepare(experiment))
    return fake
