"""The run folder: everything about a run in plain files, whether or not a tracker listens."""

import csv
import io
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_type_hints

from mtl_runner.batch import Data, Decision, StreamSpec, TargetSpec
from mtl_runner.config import check
from mtl_runner.config.values import complaints
from mtl_runner.errors import UserError
from mtl_runner.tracking.record import read_yaml


@dataclass(frozen=True)
class Origin:
    """Where a run comes from; ``status.json`` has all of it."""

    choices: Mapping[str, str]
    """The option chosen for each group."""
    overrides: Sequence[str] = ()
    """As they were typed."""
    sweep: str | None = None
    """The folder of its sweep."""
    study: str | None = None
    """The name of its primary configuration, where that is not the project's own."""
    job: str | None = None
    """What identifies it: a hash of the resolved configuration without what changes no figure."""
    tuned: Mapping[str, Any] | None = None
    """The search that its configuration comes from: ``{"study": …, "trials": …, "found": …, "choices": …}``."""


class RunFolder:
    """Reads and writes the files of one run.

    ``config.yaml`` the resolved configuration · ``data.json`` streams, targets and the fitted preparation ·
    ``labels.csv`` classes and their shares · ``status.json`` state and origin · ``metrics.jsonl`` a line an epoch ·
    ``test_metrics.json`` · ``confusion.json`` · ``curves.json`` reliability, precision and recall · ``gradients.json``, where
    gradients were compared · ``skipped.txt`` what of the data could not be used · ``sharing/`` what a sharing mode has learned,
    as CSV · ``checkpoints/`` last and best · ``weights.safetensors`` · ``figures/`` · ``run.log``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def last(self) -> Path:
        return self.path / "checkpoints" / "last.pt"

    @property
    def best(self) -> Path:
        return self.path / "checkpoints" / "best.pt"

    def write_json(self, name: str, value: Any) -> None:
        """Whole or not at all, as the others who read it may come at any time."""
        write_text(self.path / name, json.dumps(value, indent=1, allow_nan=False) + "\n")

    def write_table(
        self, name: str, title: str, rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]]
    ) -> None:
        """A matrix with names as CSV, its title in the corner; NaN is an empty cell, and -0 has no sign."""
        lines = io.StringIO(newline="")
        writer = csv.writer(lines)
        writer.writerow([title, *columns])
        writer.writerows(
            [row, *("" if math.isnan(value) else f"{value:z.6g}" for value in line)]
            for row, line in zip(rows, values, strict=True)
        )
        write_text(self.path / name, lines.getvalue())

    def read_json(self, name: str) -> Any:
        path = self.path / name
        try:
            return json.loads(path.read_text())
        except FileNotFoundError:
            raise UserError(f"{self.path}: is no run folder, or not a complete one: {name} is missing") from None
        except json.JSONDecodeError as error:
            raise UserError(f"{path}: line {error.lineno}: not JSON ({error.msg})") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: cannot be read ({error})") from None

    def status(self, **changes: Any) -> None:
        """Change entries of ``status.json``."""
        path = self.path / "status.json"
        known = self.read_json("status.json") if path.exists() else {}
        self.write_json("status.json", known | changes)

    def write_data(self, data: Data) -> None:
        self.write_json(
            "data.json",
            {
                "streams": {name: asdict(spec) for name, spec in data.streams.items()},
                "targets": {name: asdict(spec) for name, spec in data.targets.items()},
                "preparation": data.preparation,
                "fingerprint": data.fingerprint,
                "rows": {part: {stream: split.size(stream) for stream in split.inputs} for part, split in data.splits.items()},
            },
        )
        if data.skipped:
            write_text(self.path / "skipped.txt", "\n".join(data.skipped) + "\n")

    def read_config(self, allowed: Sequence[str] = ()) -> dict[str, Any]:
        """The configuration, checked: the folder may be a stranger's.

        Args:
            allowed: modules that the user allows it to name, beside the project's own.
        """
        node = {str(key): value for key, value in read_yaml(self.path / "config.yaml").items()}
        check(node, allowed)
        return node

    def read_specs(self) -> tuple[dict[str, StreamSpec], dict[str, TargetSpec]]:
        """The streams and targets that the run was trained on."""
        try:
            return read_specs(self.read_json("data.json"))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            said = f"{type(error).__name__}: {error}"
            raise UserError(f"{self.path / 'data.json'}: no run writes such streams and targets ({said})") from None

    def append_metrics(self, epoch: int, step: int, metrics: Mapping[str, float], seconds: Mapping[str, float]) -> dict[str, Any]:
        """Add a line to ``metrics.jsonl`` and return it."""
        line = {"epoch": epoch, "step": step, "time": time.time(), "seconds": dict(seconds), "metrics": dict(metrics)}
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
        return line

    def train_seconds(self) -> float:
        """What training has taken so far, steps and validation, also before an interruption."""
        path = self.path / "metrics.jsonl"
        lines = [line for _, line in _lines(path)] if path.exists() else []
        return sum(sum(line.get("seconds", {}).values()) for line in lines)  # the first runs have none

    def cut_metrics(self, epoch: int) -> None:
        """Drop what a checkpoint does not know of: lines after ``epoch``, and a line that a kill left unfinished."""
        path = self.path / "metrics.jsonl"
        if path.exists():
            kept = [text for text, line in _lines(path) if line["epoch"] <= epoch]
            write_text(path, "".join(text + "\n" for text in kept))


def read_specs(known: Mapping[str, Any]) -> tuple[dict[str, StreamSpec], dict[str, TargetSpec]]:
    """Streams and targets from the content of a ``data.json``."""
    streams = {
        name: StreamSpec(
            {field: tuple(shape) for field, shape in spec["fields"].items()},
            tuple(spec["cardinalities"]),
            {field: tuple(names) for field, names in spec["names"].items()},
            spec.get("vocabulary", 0),
            spec.get("characters", 0),
        )
        for name, spec in known["streams"].items()
    }
    targets = {name: _target(spec) for name, spec in known["targets"].items()}
    for made in (streams, targets):
        for name, spec in made.items():
            _check_types(name, spec)
    return streams, targets


def _check_types(place: str, made: Any) -> None:
    """Raises ``ValueError`` where a field of a dataclass is not what it is said to be: what would be met far from here."""
    hints = get_type_hints(type(made), include_extras=True)
    for each in fields(made):
        value, name = getattr(made, each.name), f"{place}.{each.name}"
        if is_dataclass(value):
            _check_types(name, value)
        elif wrong := complaints(name, value, hints[each.name]):
            raise ValueError(wrong[0])


def _target(values: Mapping[str, Any]) -> TargetSpec:
    decision = Decision(**_tuples(values.get("decision", {})))  # runs of the first version have none
    return TargetSpec(**{**_tuples(values), "decision": decision})


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for text in path.read_text().splitlines():
        try:
            yield text, json.loads(text)
        except json.JSONDecodeError:
            return
