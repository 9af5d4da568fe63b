"""What has to be known of Hydra's launchers: how many jobs they run at once on one machine, and what else they would run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from mtl_runner.commands.sweeping.orders import cores
from mtl_runner.errors import UserError

EXTRAS = {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit", "ray": "ray", "ray_aws": "ray"}
"""The extra of this package that brings each launcher."""

COMMANDS = ("setup", "additional_parameters", "ray.init.address", "ray.init.runtime_env")
"""Keys of launchers whose values are commands of a shell, or lead to a machine that is believed."""


def check_commands(launcher: DictConfig, typed: Sequence[str]) -> None:
    """Raises ``UserError`` where a file would have a launcher run something of its own; ``typed``: the overrides.

    Submitit writes its values into a script of which each line that is no comment is a command.
    """
    for key in COMMANDS:
        if not (value := OmegaConf.select(launcher, key)):
            continue
        places = [f"hydra.launcher.{key}.{name!s}" for name in value] if isinstance(value, DictConfig) else []
        known = {each.lstrip("+").partition("=")[0] for each in typed}
        if f"hydra.launcher.{key}" not in known and not (places and known.issuperset(places)):
            raise UserError(f"hydra.launcher.{key}: counts only when typed on the command line, not from a file")
    for text in _texts(OmegaConf.to_container(launcher, resolve=True)):
        if not text.isprintable():
            raise UserError(f"hydra.launcher: {text!r} is more than one line")


def keep_output_apart(launcher: DictConfig) -> None:
    """Ray would print what all jobs write, line by line as they come; it is in their ``run.log``."""
    if (init := OmegaConf.select(launcher, "ray.init")) is not None and "log_to_driver" not in init:
        with read_write(init), open_dict(init):
            init.log_to_driver = False


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield str(name)
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


@dataclass(frozen=True)
class Way:
    """How a launcher goes about its jobs."""

    together: int = 1
    """How many run at once on one machine."""
    at_once: int | None = None
    """How many it is to be given in one go; None: all."""
    elsewhere: bool = True
    """Whether jobs print to another place than the sweep's terminal, or all at once."""
    workers: bool = False
    """Whether other processes of this machine start the jobs."""


def way(config: DictConfig, jobs: int) -> Way:
    """Of the launcher that is configured, for so many jobs."""
    node: Any = OmegaConf.to_container(config.hydra.launcher, resolve=True)
    most = config.hydra.sweeper.max_batch_size or jobs
    found = _WAYS.get(str(node["_target_"]).rpartition(".")[2], _elsewhere)(node)
    at_once = min(most, found.at_once or jobs)
    return replace(found, together=min(found.together, at_once), at_once=at_once)


def _elsewhere(node: Mapping[str, Any]) -> Way:
    """On machines whose cores Slurm or Ray divides."""
    return Way()


def _basic(node: Mapping[str, Any]) -> Way:
    return Way(elsewhere=False)


def _joblib(node: Mapping[str, Any]) -> Way:
    wanted = int(node["n_jobs"])
    return Way(wanted if wanted > 0 else max(1, cores() + 1 + wanted), workers=True)


def _local(node: Mapping[str, Any]) -> Way:
    """Starts all that it is given, and so gets as many as there are cores."""
    return Way(cores(), cores())


_WAYS: Mapping[str, Callable[[Mapping[str, Any]], Way]] = {
    "BasicLauncher": _basic,
    "JoblibLauncher": _joblib,
    "LocalLauncher": _local,
}
