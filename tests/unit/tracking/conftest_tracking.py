"""A run folder as training leaves it, and ways to write on in it."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CONFIG = """\
dataset: {_target_: mtl_runner.datasets.digits.Digits, tasks: {digit: {type: multiclass}}, names: [a, b], long: null}
tracker: {_target_: mtl_runner.tracking.mlflow_tracker.MlflowTracker, uri: null}
trainer: {epochs: 3, monitor: ''}
name: a study
seed: 0
"""


def line(epoch: int, time: float | None = None, **metrics: float) -> dict[str, Any]:
    """A line of metrics.jsonl; a tenth of a second apart unless ``time`` says otherwise."""
    values = {"train/digit/loss": 1 / epoch, "validation/digit/accuracy": 1 - 1 / epoch, **metrics}
    return {"epoch": epoch, "step": 10 * epoch, "time": 1.7e9 + epoch / 10 if time is None else time, "metrics": values}


class RunFolder:
    """What training does to its folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        (path / "config.yaml").write_text(CONFIG)
        (path / "data.json").write_text(json.dumps({"fingerprint": "f00d"}))
        self.status("running")

    def status(self, state: str) -> None:
        ended = None if state == "running" else "2026-11-21T08:00:30+00:00"
        choices = {"dataset": "digits", "encoder": "mlp", "sharing": "hard", "weighting": "equal", "imbalance": "none"}
        status = {"state": state, "started": "2026-11-21T08:00:00+00:00", "ended": ended, "epoch": 3, "error": None}
        more = {
            "choices": choices,
            "commit": "c0ffee",
            "name": "a study",
            "sweep": "runs/2026-11-21/08-00-00",
            "overrides": ["seed=1"],
        }
        (self.path / "status.json").write_text(json.dumps({**status, **more}))

    def write(self, *lines: dict[str, Any]) -> None:
        with (self.path / "metrics.jsonl").open("a") as file:
            file.writelines(json.dumps(each) + "\n" for each in lines)

    def end(self, state: str = "finished") -> None:
        for name in ("figures", "checkpoints", "model/data"):
            (self.path / name).mkdir(parents=True, exist_ok=True)
        for name in (
            "figures/learning_curves.png",
            "checkpoints/best.pt",
            "checkpoints/last.pt",
            "model/MLmodel",
            "model/data/net.pt2",
        ):
            (self.path / name).write_bytes(name.encode())
        test = {
            "tasks": {"digit": {"accuracy": 0.5, "roc_auc": None}},
            "average": {"primary": 0.5},
            "primary": {},
            "undefined": [],
        }
        (self.path / "test_metrics.json").write_text(json.dumps(test))
        self.status(state)


@pytest.fixture
def run_folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "runs" / "0")


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new database; making one takes seconds, copying it does not."""
    from mtl_runner.tracking.session import connect

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    connect(f"sqlite:///{path}", "another study")
    return path


@pytest.fixture
def uri(tmp_path: Path, empty_database: Path) -> str:
    """The address of a new database."""
    (tmp_path / "mlflow.db").write_bytes(empty_database.read_bytes())
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = dict(os.environ)
    yield
    for name in set(os.environ) - set(before):
        del os.environ[name]


@pytest.fixture
def stored() -> Callable[[str, str], dict[tuple[str, int], list[float]]]:
    """Every point that MLflow has of a run, read by MLflow's own client: values by metric and step."""

    def read(uri: str, run_id: str) -> dict[tuple[str, int], list[float]]:
        from mlflow import MlflowClient

        client, points = MlflowClient(uri), dict[tuple[str, int], list[float]]()
        for name in client.get_run(run_id).data.metrics:
            for metric in client.get_metric_history(run_id, name):
                points.setdefault((name, metric.step), []).append(metric.value)
        return points

    return read
