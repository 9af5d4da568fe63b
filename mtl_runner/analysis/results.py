"""What a comparison knows of one finished run, read from the files of its folder."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtl_runner.errors import UserError
from mtl_runner.tracking import journal, record

FILES = ("config.yaml", "status.json", "data.json", "test_metrics.json", "metrics.jsonl")
"""All that is read of a run."""
BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What reading raises where a file is not what a run writes."""
AVERAGED, WEIGHT = "validation/average", "weight/"
"""Of ``metrics.jsonl``, the validation average and what the names of the tasks' weights begin with."""
SPLIT_KEYS = ("dataset.split_seed", "dataset.fold")
"""The settings that move the split."""


@dataclass(frozen=True)
class Result:
    """One finished run."""

    id: str
    """MLflow's identifier of the run, or the folder's name."""
    folder: Path
    settings: Mapping[str, str]
    """The resolved configuration, flat, with the chosen options: ``{"sharing": "soft", "sharing.strength": "0.1"}``."""
    seed: int
    split: str
    """What moves the split: ``split_seed=0``, ``split_seed=0 fold=2``."""
    scores: Mapping[str, Mapping[str, float]]
    """Test metrics by task; NaN where undefined."""
    primary: Mapping[str, str]
    """The primary metric of each task."""
    average: float
    """Of the primary metrics of the main tasks, on the test part."""
    seconds: float
    """Time inside training."""
    parameters: float
    history: tuple[Mapping[str, Any], ...]
    """Of each line of ``metrics.jsonl`` the ``epoch`` and what figures show of its ``metrics``."""
    roles: Mapping[str, str] = field(default_factory=dict)
    """``main`` or ``auxiliary``, by task."""
    validation: float = math.nan
    """Average of the primary metrics of the main tasks on the validation part: what groups are chosen by."""
    fingerprint: str = ""
    """Of the data."""
    looks: int | None = None
    """How often it read the test part; None where it does not say."""
    rows: Mapping[str, int] = field(default_factory=dict)
    """Of each part, all streams together; empty where the run does not say."""
    job: str = ""
    """What identifies it, whenever it ran; empty where the run does not say, or is none that its budget makes."""
    extended: bool = False
    """Whether its first epochs followed the schedule of a smaller budget: it is not the job that has the larger one."""
    ended: str = ""
    """When, in UTC."""
    commit: str = ""
    """Of the code; with ``+`` where files differed from it; empty where it was not in a repository, or the run does not say."""
    version: str = ""
    """Of the package; empty where the run does not say."""
    host: str = ""
    tuned: Mapping[str, Any] | None = None
    """The search that its settings come from: ``study``, ``trials``, what it ``found`` by key, and its ``choices`` by group."""
    tracked: journal.Journal | None = None
    """Its run in MLflow."""

    @property
    def unit(self) -> tuple[int, str]:
        """What two runs have to have in common to be a pair."""
        return self.seed, self.split


def read(folder: Path) -> Result:
    """The result of a finished run.

    Raises:
        UserError: the folder is none of a finished run, or its files are not what a run writes.
    """
    try:
        return _read(folder)
    except FileNotFoundError as error:
        raise UserError(f"{folder}: is no folder of a finished run: {Path(str(error.filename)).name} is missing") from None
    except BROKEN as error:
        raise UserError(f"{folder}: its files are not those of a run ({type(error).__name__}: {error})") from None


def _read(folder: Path) -> Result:
    run = record.read(folder)
    config, status = run.config, run.status
    test, data = (_json(folder / name) for name in ("test_metrics.json", "data.json"))
    settings = flat(config, status.get("choices", {}))
    tracked, longer = journal.read(folder), record.extended(status, config)
    return Result(
        id=tracked.run_id if tracked and tracked.run_id else "/".join(folder.absolute().parts[-2:]),
        folder=folder,
        settings=settings,
        seed=int(config["seed"]),
        split=" ".join(f"{key.split('.')[1]}={value}" for key in SPLIT_KEYS if (value := settings.get(key, "null")) != "null"),
        scores={said(task): {name: _number(value) for name, value in row.items()} for task, row in test["tasks"].items()},
        primary={said(task): said(name) for task, name in test["primary"].items()},
        average=_number(test["average"].get("primary")),
        seconds=_number(status.get("train_seconds")),
        parameters=_number(status.get("parameters")),
        history=tuple(_drawn(line) for line in run.lines()),
        roles={said(task): str(spec.get("role", "main")) for task, spec in data["targets"].items()},
        validation=_number(test.get("validation_average")),
        fingerprint=said(data.get("fingerprint") or ""),
        looks=None if (looks := status.get("test_reads")) is None else int(looks),
        rows={part: int(sum(streams.values())) for part, streams in data.get("rows", {}).items()},
        job="" if longer else said(status.get("job") or ""),
        extended=longer,
        ended=said(status.get("ended") or ""),
        commit=said(status.get("commit") or ""),
        version=said(status.get("version") or ""),
        host=said(status.get("host") or ""),
        tuned=dict(tuned) if (tuned := status.get("tuned")) else None,
        tracked=tracked,
    )


def flat(config: Mapping[str, Any], choices: Mapping[str, str]) -> dict[str, str]:
    """``{"sharing": "soft", "sharing.strength": "0.1", "seed": "0"}``: values as JSON, texts without quotes.

    A group whose choice is not known is named by its class, and one that holds options by name by their names.
    """
    settings = {}
    for key, value in config.items():
        inner = dict(leaves(value, str(key)))
        target = inner.get(f"{key}._target_")
        if key in choices:
            settings[str(key)] = str(choices[key])
        elif target is not None:
            settings[str(key)] = target.rsplit(".", 1)[-1]
        elif isinstance(value, Mapping) and all(
            isinstance(option, Mapping) and "_target_" in option for option in value.values()
        ):
            settings[str(key)] = ",".join(map(str, value)) or "none"
        settings |= {name: text for name, text in inner.items() if name not in settings}
    return {said(key): said(value) for key, value in settings.items()}


def said(text: object) -> str:
    """``text`` on one line, without what moves a terminal's cursor or is no letter to a page."""
    text = str(text)
    return text if text.isprintable() else "".join(letter if letter.isprintable() else " " for letter in text)


def _drawn(line: Mapping[str, Any]) -> dict[str, Any]:
    """The validation average and the tasks' weights: all else of many long runs would fill the memory."""
    shown = {name: _number(value) for name, value in line["metrics"].items() if name == AVERAGED or name.startswith(WEIGHT)}
    return {"epoch": int(line["epoch"]), "metrics": {said(name): value for name, value in shown.items()}}


def leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """What is inside ``value``, with whole keys: values as JSON, texts without quotes."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}")
    else:
        yield path, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
