"""The typed skeleton of a run, and the check of a whole configuration."""

import dataclasses
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mtl_runner.config.plugs import GROUPS, SEARCH, group_problems
from mtl_runner.config.values import Matches, complaints
from mtl_runner.errors import UserError, choices, nearest

Count = Annotated[int, Ge(1)]
Device = Annotated[str, Matches(r"auto|cpu|mps|cuda(:\d+)?", "auto, cpu, cuda, cuda:N, mps")]
WITHOUT_EFFECT = (
    "tracker", "name", "data_dir", "runs_dir", "resume", "skip_finished", "allow_modules", "print_config", "tuned",
    "trainer.progress", "trainer.threads", "trainer.device", "trainer.eval_batch_size",
)  # fmt: skip
"""Keys that change no figure of a run beyond rounding. ``data_dir`` is part of the paths that data sets make of it."""


@dataclass(frozen=True)
class EarlyStopping:
    """When training ends before its budget does."""

    patience: Count | None = 10
    """Epochs without an improvement; null: never."""
    monitor: str = "average"
    """``average`` over the main tasks, or the name of a task."""
    min_delta: Annotated[float, Ge(0)] = 0.0
    """What counts as an improvement of the monitored metric."""


@dataclass(frozen=True)
class TrainerConfig:
    """How long and how to train."""

    epochs: Count | None = 30
    steps: Count | None = None
    """The number of steps, instead of ``epochs``; null: as many as the epochs have."""
    batch_size: Count = 128
    eval_batch_size: Count = 8192
    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)
    clip_norm: Annotated[float, Gt(0)] | None = None
    """Largest norm of the gradient, per network where nothing is shared; null: not clipped."""
    l1: Annotated[float, Ge(0)] = 0.0
    """Weight of the L1 penalty; L2 is the optimizer's weight decay."""
    precision: Literal["fp32", "bf16"] = "fp32"
    device: Device = "auto"
    deterministic: bool = False
    threads: Count | None = None
    """Threads of the CPU; null: torch's own choice."""
    progress: bool = True
    max_skipped: Annotated[int, Ge(0)] = 10
    """A step whose loss is not finite is skipped; more than this many in a row end the run."""
    log_gradients_every: Count | None = None
    """Where the weighting looks at losses alone: how often the tasks' gradients are computed for the statistics; null: never."""


@dataclass(frozen=True)
class InitFrom:
    """Where the shared part starts from."""

    run: str
    """A run folder or an MLflow run id."""
    frozen: bool = False


@dataclass(frozen=True)
class Tuned:
    """The search that a configuration comes from."""

    study: str
    trials: Count
    """How many were finished in it."""
    found: dict[str, Any] | None = None
    """The values of the searched keys; null where an older search has not written them."""
    choices: dict[str, str] | None = None
    """The options of the groups that they were found with."""


@dataclass(frozen=True)
class Config:
    """The keys of a run; the groups' own keys are those of the classes that they name."""

    dataset: Any
    encoder: Any
    sharing: Any
    weighting: Any
    optimizer: Any
    imbalance: Any
    scheduler: Any
    trainer: TrainerConfig
    tracker: Any
    name: str
    """Of the experiment in the tracker."""
    seed: Annotated[int, Ge(0)]
    data_dir: str
    init_from: InitFrom | None
    allow_modules: list[str]
    print_config: bool
    resume: None = None
    """Only on the command line, which takes it out."""
    skip_finished: bool = False
    """In a sweep: run only what no earlier run has finished, and go on with what was interrupted."""
    runs_dir: str = "runs"
    """Where run folders are made, and looked for."""
    tuned: Tuned | None = None
    """Written by ``mtl tune``; changes nothing of a run but what is said of it."""


def check(config: DictConfig | Mapping[str, Any], allowed: Iterable[str] = ()) -> None:
    """Raises ``UserError`` with everything that is wrong with ``config``, a line each.

    ``allowed``: the modules that the user allowed on the command line; ``allow_modules`` from a file counts for nothing.
    """
    if wrong := problems(config, allowed):
        raise UserError("\n".join(wrong))


def problems(config: DictConfig | Mapping[str, Any], allowed: Iterable[str] = ()) -> list[str]:
    """What is wrong with ``config``, a line each."""
    allowed = list(allowed)
    try:
        values = plain(config)
    except OmegaConfBaseException as error:
        return [f"{error.full_key or error.key}: {str(error.msg or error).splitlines()[0]}"]
    if missing := _missing(values):
        return [f"{key}: is missing; give {key}=…" for key in missing]
    if SEARCH in values:
        return [f"{SEARCH}: this configuration is one of a search; `mtl tune` takes the same arguments"]
    lines = mapping_problems(values, Config)
    if listed := [module for module in values.get("allow_modules") or [] if module not in allowed]:
        lines.append(f"allow_modules={listed}: counts only when typed on the command line, not from a file")
    return lines + [line for group in GROUPS if group in values for line in group_problems(values[group], group, allowed)]


def plain(config: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """``config`` as plain data, interpolations resolved; values that are missing stay ``"???"``."""
    values = OmegaConf.to_container(config, resolve=True) if isinstance(config, DictConfig) else dict(config)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def mapping_problems(values: Mapping[str, Any], schema: type, prefix: str = "") -> list[str]:
    """What is wrong with ``values`` as the fields of the dataclass ``schema``, a line each."""
    types = typing.get_type_hints(schema, include_extras=True)
    fields = {each.name: each for each in dataclasses.fields(schema)}
    lines = []
    for name, value in values.items():
        key = prefix + name
        if name not in fields:
            lines.append(f"{key}: no such key; there are {choices(fields)}{nearest(name, fields)}")
        elif (inner := _dataclass(types[name])) is not None and isinstance(value, Mapping):
            lines += mapping_problems(value, inner, f"{key}.")
        elif inner is not None and isinstance(value, str) and (first := _first_required(inner)):
            lines.append(f"{key}={value}: must be a mapping: {{{first}:{value}}}")
        else:
            lines += complaints(key, value, types[name])
    required = [name for name, each in fields.items() if _required(each) and name not in values]
    return lines + [f"{prefix}{name}: is missing" for name in required]


def _missing(value: Any, key: str = "") -> list[str]:
    """The keys inside ``value`` that a file leaves to the user (``???``)."""
    if isinstance(value, Mapping):
        return [found for name, part in value.items() for found in _missing(part, f"{key}.{name}" if key else str(name))]
    return [key] if value == "???" else []


def _dataclass(annotation: Any) -> type | None:
    """The dataclass that ``annotation`` is, or that it allows beside null."""
    types = (each for each in (annotation, *typing.get_args(annotation)) if isinstance(each, type))
    return next(filter(dataclasses.is_dataclass, types), None)


def _first_required(schema: type) -> str | None:
    """The field that a text in place of the whole is most likely meant for."""
    return next((each.name for each in dataclasses.fields(schema) if _required(each)), None)


def _required(each: dataclasses.Field[Any]) -> bool:
    return each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
