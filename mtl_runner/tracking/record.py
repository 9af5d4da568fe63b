"""A run folder in MLflow's terms: names, parameters, tags and points within MLflow's limits. Nothing here calls MLflow."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast
from zlib import crc32

from mtl_runner.errors import UserError
from mtl_runner.tracking.base import Line, State

MARK = "step"
"""The metric that ends every line: where it has arrived, the whole line has. MLflow's own step is the epoch."""

_NAME_LENGTH, _VALUE_LENGTH = 250, 500
_IN_FEW_WORDS = 24
"""Characters of an override that fits in a run's name: a seed, a learning rate, no path and no list of tasks."""
_MOST_CLASSES = 20
"""Classes of a task up to which the recall of each is a metric of its own."""
_IN_NAME = ("dataset", "encoder", "sharing", "weighting", "imbalance")


class Point(NamedTuple):
    """One value of a metric; ``time`` in milliseconds. Sending the same point twice leaves one."""

    name: str
    value: float
    time: int
    epoch: int


@dataclass(frozen=True)
class Record:
    """Reads a run folder; every property reads its file once."""

    folder: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """``config.yaml``; ``UserError`` where it is none that a run writes."""
        return read_yaml(self.folder / "config.yaml")

    @cached_property
    def status(self) -> dict[str, Any]:
        """``status.json``."""
        return cast(dict[str, Any], _json(self.folder / "status.json"))

    @property
    def state(self) -> State:
        """Running, finished, failed or interrupted."""
        return cast(State, self.status["state"])

    @property
    def experiment(self) -> str:
        """The experiment's name."""
        return str(self.config["name"])

    @property
    def started(self) -> int:
        """Milliseconds since 1970."""
        return _milliseconds(self.status["started"])

    @property
    def ended(self) -> int | None:
        """Milliseconds since 1970, or None while it runs."""
        return _milliseconds(self.status["ended"]) if self.status.get("ended") else None

    @property
    def name(self) -> str:
        """The choices in short, and what else was changed in few words: ``digits-mlp-hard-equal seed=1``."""
        chosen = self.status["choices"]
        options = [chosen[group] for group in _IN_NAME if group in chosen and (group != "imbalance" or chosen[group] != "none")]
        others = [
            text
            for text in self.status.get("overrides", [])
            if text.split("=")[0].lstrip("+~") not in chosen and len(text) <= _IN_FEW_WORDS
        ]
        return " ".join(["-".join(options), *others])[:_NAME_LENGTH]

    @property
    def params(self) -> dict[str, str]:
        """The resolved configuration, flat, each value at most 500 characters; ``config.yaml`` has all of it."""
        return {safe(key): _short(value) for key, value in _flat(self.config)}

    @property
    def tags(self) -> dict[str, str]:
        """The chosen option of each group, the commit, the data's fingerprint, the sweep and the folder."""
        commit, sweep = self.status.get("commit"), self.status.get("sweep")
        data = self.folder / "data.json"
        tags = {
            **self.status["choices"],
            "git_commit": commit,
            "mlflow.source.git.commit": commit,
            "data_fingerprint": _json(data).get("fingerprint") if data.exists() else None,
            "sweep": "/".join(Path(sweep).parts[-2:]) if sweep else None,
            "study": self.status.get("study"),
            "job": self.status.get("job"),
            "mtl.folder": str(self.folder.absolute()),
        }
        return {safe(key): str(value) for key, value in tags.items() if value}

    def lines(self) -> Iterator[Line]:
        """The lines of ``metrics.jsonl``; one that was cut off in the middle is left out."""
        path = self.folder / "metrics.jsonl"
        for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                yield json.loads(text)
            except ValueError:
                return

    def test_points(self) -> list[Point]:
        """The test metrics, at the epoch and time of the last line; also as they were before decisions were adjusted."""
        path = self.folder / "test_metrics.json"
        if not path.exists():
            return []
        test, last = _json(path), next(reversed(list(self.lines())), {"time": 0.0, "epoch": 0})
        values = _of_tasks("test", test["tasks"]) | _of_tasks("test_unadjusted", test.get("unadjusted", {}))
        recall = {task: classes for task, classes in test.get("recall", {}).items() if len(classes) <= _MOST_CLASSES}
        values |= {f"test/{task}/recall/{name}": value for task, classes in recall.items() for name, value in classes.items()}
        means = test.get("average", {}).items()
        values |= {"test/average" if name == "primary" else f"test/average/{name}": value for name, value in means}
        values |= {f"cost/{name}": self.status.get(name) for name in ("train_seconds", "parameters")}
        return [point for point in _points(values, last) if point.value is not None]

    def artifacts(self) -> list[tuple[Path, str | None]]:
        """Each file to keep and its folder in MLflow, the largest last; no link that leads out of the run folder."""
        results = ("test_metrics.json", "validation_metrics.json", "curves.json", "gradients.json", "metrics.jsonl")
        files = [self.folder / name for name in ("config.yaml", "status.json", "data.json", "labels.csv", *results)]
        files += sorted((self.folder / "figures").glob("*.png")) + sorted((self.folder / "sharing").glob("*.csv"))
        files += sorted(path for path in (self.folder / "model").rglob("*") if path.is_file())
        files += [self.folder / "checkpoints" / "best.pt"]
        home = self.folder.resolve()
        kept = [path for path in files if path.exists() and path.resolve().is_relative_to(home)]
        return [(path, _parent(path.relative_to(self.folder))) for path in kept]


def read(folder: Path) -> Record:
    """The record of a run folder; ``UserError`` where it is none."""
    missing = [name for name in ("config.yaml", "status.json") if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder} is not a run folder: it has no {' and no '.join(missing)}")
    return Record(folder)


def points(line: Line) -> list[Point]:
    """What one line says, its mark last."""
    return [*_points(line["metrics"], line), *_points({MARK: line["step"]}, line)]


def safe(name: str) -> str:
    """``name`` as MLflow allows it; a changed name gets four hexadecimal digits, so that two names stay two."""
    kept = "/".join(part if part.strip(".") else "_" for part in re.sub(r"[^\w.\- :/]", "_", name).split("/"))[: _NAME_LENGTH - 5]
    return kept if kept == name else f"{kept}_{crc32(name.encode()) & 0xFFFF:04x}"


def _of_tasks(part: str, metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {f"{part}/{task}/{name}": value for task, row in metrics.items() for name, value in row.items()}


def _points(values: Mapping[str, Any], line: Line) -> list[Point]:
    return [Point(safe(name), value, round(line["time"] * 1000), line["epoch"]) for name, value in values.items()]


def _flat(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from _flat(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _VALUE_LENGTH else text[: _VALUE_LENGTH - 1] + "…"


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def extended(status: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether its first epochs followed a budget (``planned``, of runs for which this matters) that is not the one it has."""
    planned = status.get("planned") or {}
    return any(config["trainer"].get(key) != value for key, value in planned.items())


def read_yaml(path: Path) -> dict[str, Any]:
    """What OmegaConf wrote, many times faster than it reads that; no aliases, by which a short file stands for a huge one."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        text = path.read_text(encoding="utf-8")
        if "*" in text and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, loader)):
            raise UserError(f"{path}: has aliases, and no run writes any")
        values = yaml.load(text, loader)
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: is no configuration of a run")
    return values


def _milliseconds(moment: str) -> int:
    return round(datetime.fromisoformat(moment).timestamp() * 1000)


def _parent(path: Path) -> str | None:
    return path.parent.as_posix() if len(path.parts) > 1 else None
