"""Hydra's exceptions in one or two lines: what was typed, what is allowed, the nearest match."""

import re
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from mtl_runner.commands.elsewhere import elsewhere
from mtl_runner.commands.sweeping.launchers import EXTRAS
from mtl_runner.config import config_dir
from mtl_runner.errors import UserError, choices, nearest

_KEY_OF_A_LIST = re.compile(r"Index '(.+)' \(str\) is not an int|invalid literal for int\(\) with base 10: '(.+)'")
"""What OmegaConf says where a list is asked for a name."""
_ODD_KEY = re.compile(r"""[{,]\s*("[^"]*"|'[^']*'|[^"'{}\[\],:]*[^\x00-\x7f"'{}\[\],:][^"'{}\[\],:]*)\s*:""")
"""A key in quotes, or with letters beyond a to z; Hydra's grammar has neither."""


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
    if match := _KEY_OF_A_LIST.search(f"{error} {cause}"):
        return _below_a_list(match[1] or match[2], args.overrides)
    numbers = isinstance(error, TypeError) or str(error).startswith("Config group override must be")
    if numbers and (groups := [each for each in args.overrides if _is_no_option(each)]):
        return f"{', '.join(groups)}: the name of an option is expected, or a list of names; `mtl options` lists them"
    if match := re.match(r"Could not override '([^']*)'\. No match", str(error)):
        return _no_group(match[1], args.overrides)
    if str(error).startswith("Ambiguous value"):
        return _ambiguous(next(each for each in args.overrides if f"'{each}'" in str(error)))
    if "Cannot merge DictConfig with ListConfig" in f"{error}{cause}":
        return _list_for_mapping(args.overrides)
    if isinstance(error, OmegaConfBaseException):
        return f"{error.full_key}: {first_line(error)}" if error.full_key else first_line(error)
    detail = f": {first_line(cause)}" if isinstance(cause, OmegaConfBaseException) else ""
    return first_line(error).removeprefix("Error merging override ") + detail


def _no_group(group: str, overrides: list[str]) -> str:
    """Hydra's words for a choice of an option where the primary configuration has no such group."""
    typed = next((each for each in overrides if each.lstrip("+~").partition("=")[0] == group), group)
    return elsewhere(typed) or f"{typed}: the configuration has no {group}; +{typed} adds it"


def _list_for_mapping(overrides: list[str]) -> str:
    lists = [each for each in overrides if each.partition("=")[2].startswith("[")]
    tasks = next((each for each in lists if each.startswith("dataset.tasks=")), None)
    if tasks:
        return f"{tasks}: its tasks have options here; name those to train with dataset.only={tasks.partition('=')[2]}"
    return f"{', '.join(lists)}: keys with values are expected, written {{key:value}}"


def _below_a_list(name: str, overrides: list[str]) -> str:
    """``dataset.tasks.spend.type=regression`` where ``dataset.tasks`` is a list, ``name`` being what it has been asked for."""
    typed = next((each for each in overrides if f".{name}" in each.partition("=")[0]), name)
    key, _, value = typed.lstrip("+~").partition("=")
    above, _, below = key.partition(f".{name}")
    if above != "dataset.tasks":
        return f"{typed}: {above} is a list, which has no key '{name}'"
    lists = [each.partition("=")[2] for each in overrides if each.lstrip("+").startswith(f"{above}=[")]
    tasks = [each.strip() for each in lists[-1].strip("[]").split(",")] if lists else []
    for part in reversed(below.split(".")[1:]):
        value = f"{{{part}:{value}}}"
    form = ",".join(f"{task}:{options}" for task, options in (dict.fromkeys(tasks, "{}") | {name: value}).items())
    return f"{typed}: {above} is a list here; where a task has options it is a mapping: '{above}={{{form}}}'"


def _is_no_option(override: str) -> bool:
    """Whether something else than names is chosen for a group."""
    key, _, value = override.lstrip("+~").partition("=")
    return (config_dir() / key).is_dir() and not re.fullmatch(r"[A-Za-z_][\w/-]*|\[([A-Za-z_][\w/-]*(, *)?)*\]", value)


def _unreadable(override: str) -> str:
    if "=" not in override:
        from mtl_runner.cli import SUBCOMMANDS

        return f"{override}: group=option, key=value or a command is expected{nearest(override, SUBCOMMANDS)}"
    names = [each.strip("\"' ") for each in _ODD_KEY.findall(override)]
    if odd := next((each for each in names if not re.fullmatch(r"[\w ./+-]+", each, re.ASCII)), None):
        return f"{override}: Hydra takes no key in quotes, and no '{odd}' without; such a name needs a YAML file (-cd, -cn)"
    if names:
        return f"{override}: Hydra takes no key in quotes; write {names[0]} without them"
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
    if parent._get_parent() is None and (said := elsewhere(shown)):
        return said
    known = [str(name) for name in parent if name not in ("hydra", "_target_")] if hasattr(parent, "keys") else []
    if known:
        return f"{shown}: there is no such key; there are {choices(known)}{nearest(str(cause.key), known)}"
    above = key.rpartition(".")[0]
    if (config_dir() / above).is_dir():
        return f"{shown}: {above} has no keys as it is; `mtl options {above}` lists what to choose"
    return f"{shown}: {above} is empty; give all of it at once: '{above}={{{key.rpartition('.')[2]}:…}}'"
