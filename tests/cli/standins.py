"""Stand-ins that the tests of the command line share."""

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

    def run(self, config: DictConfig, folder: Path, origin: Origin) -> float:
        self.calls.append({"config": OmegaConf.to_container(config, resolve=True), "folder": folder} | asdict(origin))
        return self.act(self.calls[-1])

    def prepare(self, experiment: str) -> None:
        assert not self.calls, "the tracker is prepared before any job"
        self.prepared.append(experiment)
