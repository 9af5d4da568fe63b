"""Stand-ins that the tests of the command line share."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mtl_runner.folder import Origin


@dataclass
class Result:
    """What a command did."""

    code: int
    out: str
    err: str


Command = Callable[..., Result]


@dataclass
class Jobs:
    """Stands for training: notes what it was asked for."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    prepared: list[str] = field(default_factory=list)
    act: Callable[[dict[str, Any]], float] = lambda call: 0.5

    def run(self, config: DictConfig, folder: Path, origin: Origin, trained: Callable[[], None] | None = None) -> float:
        self.calls.append({"config": OmegaConf.to_container(config, resolve=True), "folder": folder} | asdict(origin))
        value = self.act(self.calls[-1])
        if origin.sweep:
            (folder / "status.json").write_text(json.dumps({"state": "finished", "train_seconds": 1.0, "job": origin.job}))
            (folder / "test_metrics.json").write_text(json.dumps({"validation_average": value}))
        return value

    def prepare(self, experiment: str) -> None:
        assert not self.calls, "the tracker is prepared before any job"
        self.prepared.append(experiment)


def finished_run(folder: Path, sharing: str, seed: int, value: float) -> Path:
    """The folder of a run that has ended so, as far as a comparison reads it."""
    folder.mkdir(parents=True)
    config = {"dataset": {"split_seed": 0}, "sharing": {}, "trainer": {"epochs": 3, "batch_size": 8}, "seed": seed}
    files = {
        "config.yaml": config,
        "status.json": {"state": "finished", "choices": {"dataset": "digits", "sharing": sharing}, "train_seconds": 1.0},
        "data.json": {"targets": {"digit": {"role": "main"}}, "fingerprint": "f00d"},
        "test_metrics.json": {
            "tasks": {"digit": {"balanced_accuracy": value}},
            "primary": {"digit": "balanced_accuracy"},
            "average": {"primary": value},
            "validation_average": value,
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder
