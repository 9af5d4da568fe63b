"""Hydra's exceptions in one or two lines: what was typed, what is allowed, the nearest match."""

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from mtl_runner.commands.sweeping.launchers import EXTRAS
from mtl_runner.config import config_dir
from mtl_runner.errors import UserError, choices, nearest


@contextmanager
def explained(args: Namespace) -> Iterator[None]:
    """Inside, where a configuration is composed or shown and nothing else is done, errors become ``UserError``."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError, TypeError) as error:
        raise UserError(_explain(error, args)) from error


def first_line(error: BaseException) -> str:
    """The first line of an exception's message and what it announces with a colon; its name where it has no message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])


def _explain(error: Exception, args: Namespace) -> str:
    cause = error.__cause__
    if not str(error) and cause is not None:
        error = cause  # type: ignore[assignment]
    if isinstance(error, YAMLError):
        return " ".join(str(error).split())
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    if isinstance(error, MissingConfigException):
        return _missing(error, args)
    if isinstance(cause, ConfigAttributeError | ConfigKeyError):
        return _unknown_key(cause, args.overrides)
    if isinstance(error, TypeError) or str(error).startswith("Config group override must be"):  # a list of numbers
        groups = [each for each in args.overrides if (config_dir() / each.lstrip("+~").partition("=")[0]).is_dir()]
        return f"{', '.join(groups)}: the name of an option is expected, or a list of names; `mtl options` lists them"
    if str(error).startswith("Ambiguous value"):
        return _ambiguous(next(each for each in args.overrides if f"'{each}'" in str(error)))
    if "Cannot merge DictConfig with ListConfig" in f"{error}{cause}":
        return _list_for_mapping(args.overrides)
    if isinstance(error, OmegaConfBaseException):
        return f"{error.full_key}: {first_line(error)}" if error.full_key else first_line(error)
    detail = f": {first_line(cause)}" if isinstance(cause, OmegaConfBaseException) else ""
    return first_line(error).removeprefix("Error merging override ") + detail


def _list_for_mapping(overrides: list[str]) -> str:
    lists = [each for each in overrides if each.partition("=")[2].startswith("[")]
    tasks = next((each for each in lists if each.startswith("dataset.tasks=")), None)
    if tasks:
        return f"{tasks}: its tasks have options here; name those to train with dataset.only={tasks.partition('=')[2]}"
    return f"{', '.join(lists)}: keys with values are expected, written {{key:value}}"


def _unreadable(override: str) -> str:
    if "=" not in override:
        from mtl_runner.cli import SUBCOMMANDS

        return f"{override}: group=option, key=value or a command is expected{nearest(override, SUBCOMMANDS)}"
    return f"{override}: cannot be read as key=value; quote a value with spaces, commas, colons or brackets: 'key=\"…\"'"


def _ambiguous(override: str) -> str:
    key, _, value = override.partition("=")
    return f"{override}: several values need -m, for a sweep; a list is written {key}=[{value}]"


def _missing(error: MissingConfigException, args: Namespace) -> str:
    """A file that is not there: an option of a group, or the primary configuration."""
    name = str(error.missing_cfg_file)
    group, _, option = name.rpartition("/")
    known = error.options or sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))
    if name == args.config_name:
        known = sorted(
            {path.stem for folder in filter(None, (config_dir(), args.config_dir)) for path in Path(folder).glob("*.yaml")}
        )
        return f"--config-name {name}: there is no such file in the configuration folders{nearest(name, known)}"
    if group == "hydra/launcher" and option in EXTRAS:
        return f"{group}={option}: is not installed; install it with: pip install 'mtl-runner[{EXTRAS[option]}]'"
    if group and known:
        return f"{group}={option}: there is no such option; choose from {choices(known, 50)}{nearest(option, known)}"
    return first_line(error)


def _unknown_key(cause: Any, overrides: list[str]) -> str:
    parent, key = cause.parent_node, str(cause.full_key or cause.key)
    typed = {each.lstrip("+~").partition("=")[0]: each for each in overrides}
    shown = next((override for name, override in typed.items() if name == key or name.startswith(f"{key}.")), key)
    known = [str(name) for name in parent if name != "hydra"] if hasattr(parent, "keys") else []
    if known:
        return f"{shown}: there is no such key; there are {choices(known)}{nearest(str(cause.key), known)}"
    above = key.rpartition(".")[0]
    if (config_dir() / above).is_dir():
        return f"{shown}: {above} has no keys as it is; `mtl options {above}` lists what to choose"
    return f"{shown}: {above} is empty; give all of it at once: '{above}={{{key.rpartition('.')[2]}:…}}'"
