"""What Hydra itself would import, call and write to by its own part of the configuration.

Hydra instantiates ``hydra.callbacks``, the launcher and the sweeper, configures logging and sets environment variables, all
from files that may be a stranger's (``--config-dir``). Only classes of Hydra and of its plug-ins are instantiated, logging
writes to the terminal and to the run folder, and the environment stays; more only by the user's word on the command line.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mtl_runner.config.classes import below, locate
from mtl_runner.errors import UserError, choices

TRUSTED = ("hydra", "hydra_plugins")
CALLED = ("callbacks", "launcher", "sweeper")
CONFIGURED = ("hydra_logging", "job_logging")
FACTORIES = ("()", "class", "queue", "listener")
HARMLESS = (
    "logging.Formatter",
    "logging.Filter",
    "logging.NullHandler",
    "logging.StreamHandler",
    "logging.FileHandler",
    "rich.logging.RichHandler",
)
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
LOG_FILE = re.compile(r"(\$\{hydra\.runtime\.output_dir\}/[\w-]*|hydra-)(\$\{hydra\.job\.name\})?\.log")
ENVIRONMENT = "hydra.job.env_set"


def check_hydra_node(node: DictConfig, allowed: Sequence[str] = (), typed: Sequence[str] = ()) -> None:
    """Raises ``UserError`` where Hydra's configuration does more than it may; ``typed``: the overrides on the command line."""
    for part in CALLED:
        for key, value in _texts(OmegaConf.select(node, part), f"hydra.{part}"):
            if key.endswith("._target_"):
                _require_class(key, value, (*TRUSTED, *allowed))
    raw = OmegaConf.to_container(node, resolve=False)
    job = raw["job"] if isinstance(raw, dict) else None
    if not isinstance(raw, dict) or not isinstance(job, dict):
        raise UserError(f"hydra.job={job}: a mapping is expected, not interpolated")
    for part in CONFIGURED:
        _check_logging(raw.get(part), f"hydra.{part}", str(job["name"]), allowed)
    _check_environment(job.get("env_set"), typed)


def check_searchpath(searchpath: Any, typed: Sequence[str]) -> None:
    """Raises ``UserError`` where a file adds a Python package to the search path: looking there would import it."""
    for place in searchpath or []:
        if str(place).startswith("pkg://") and not any(str(place) in override for override in typed):
            raise UserError(f"hydra.searchpath: {place} would import a Python package; a file may name file:// folders only")


def _check_logging(value: Any, key: str, job: str, allowed: Sequence[str]) -> None:
    """Checks what was not interpolated yet: in the job it could become something else than it is now."""
    if isinstance(value, Mapping):
        if "." in value:
            raise UserError(f"{key}: what stands below '.' would become attributes of logging's objects; it is not allowed")
        for name, part in value.items():
            _check_logging(part, f"{key}.{name}", job, allowed)
    elif isinstance(value, list):
        for index, part in enumerate(value):
            _check_logging(part, f"{key}.{index}", job, allowed)
    elif isinstance(value, str):
        _check_logging_text(value, key, job, allowed)


def _check_logging_text(value: str, key: str, job: str, allowed: Sequence[str]) -> None:
    name = key.rpartition(".")[2]
    if name in FACTORIES and value not in HARMLESS:
        module = value.rpartition(".")[0]
        if not below(module, allowed):
            added = f"allow_modules=[{module}] on the command line adds one"
            raise UserError(f"{key}={value}: only {choices(HARMLESS)} may be named here; {added}")
        _require_class(key, value, allowed)
    elif name == "filename":
        if not below("logging", allowed) and not (LOG_FILE.fullmatch(value) and re.fullmatch(r"[\w.-]+", job)):
            raise UserError(f"{key}={value}: a log is written to ${{hydra.runtime.output_dir}}/NAME.log only")
    elif "${" in value:
        raise UserError(f"{key}={value}: nothing but the name of a file may be interpolated here")
    elif re.match("[a-z]+://", value) and value not in STREAMS:  # as logging reads it, in any text
        raise UserError(f"{key}={value}: only {' and '.join(STREAMS)} may be named here")


def _check_environment(variables: Any, typed: Sequence[str]) -> None:
    """What the program starts, such as git, obeys the environment. ``hydra.job.env_copy`` changes nothing here."""
    if isinstance(variables, str):
        raise UserError(f"{ENVIRONMENT}={variables}: a mapping is expected, not interpolated")
    known = _typed_variables(typed)
    for name, value in (variables or {}).items():
        if name not in known and value != os.environ.get(name):
            raise UserError(f"{ENVIRONMENT}.{name}: counts only when typed on the command line, not from a file")


def _typed_variables(typed: Sequence[str]) -> set[str]:
    names = set[str]()
    for override in OverridesParser.create().parse_overrides(list(typed)):
        key, value = override.key_or_group, override.value()
        if key == ENVIRONMENT and isinstance(value, Mapping):
            names.update(map(str, value))
        names.add(key.removeprefix(f"{ENVIRONMENT}."))
    return names


def _texts(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """Every text inside ``node`` with its key, interpolations resolved."""
    if isinstance(node, str):
        yield key, node
    elif isinstance(node, DictConfig):
        for name in node:
            yield from _texts(_value(node, name), f"{key}.{name!s}")
    elif isinstance(node, ListConfig):
        for index in range(len(node)):
            yield from _texts(_value(node, index), f"{key}.{index}")


def _value(node: Any, name: Any) -> Any:
    try:
        return node[name]
    except OmegaConfBaseException:  # missing, or interpolated from what is not known before the job: never a class to call
        return OmegaConf.to_container(node, resolve=False)[name]  # type: ignore[index]


def _require_class(key: str, path: str, trusted: Sequence[str]) -> None:
    try:
        locate(path, trusted)
    except UserError as error:
        raise UserError(f"{key}={path}: {error}") from None
