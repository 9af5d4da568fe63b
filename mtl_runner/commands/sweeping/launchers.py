"""What has to be known of Hydra's launchers: how many jobs they run at once on one machine."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mtl_runner.commands.sweeping.orders import cores

EXTRAS = {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit", "ray": "ray", "ray_aws": "ray"}
"""The extra of this package that brings each launcher."""


@dataclass(frozen=True)
class Way:
    """How a launcher goes about its jobs."""

    together: int = 1
    """How many run at once on one machine."""
    at_once: int | None = None
    """How many it is to be given in one go; None: all."""
    elsewhere: bool = True
    """Whether jobs print to another place than the sweep's terminal, or all at once."""


def way(config: DictConfig, jobs: int) -> Way:
    """Of the launcher that is configured, for so many jobs."""
    node: Any = OmegaConf.to_container(config.hydra.launcher, resolve=True)
    most = config.hydra.sweeper.max_batch_size or jobs
    found = _WAYS.get(str(node["_target_"]).rpartition(".")[2], _elsewhere)(node)
    at_once = min(most, found.at_once or jobs)
    return Way(min(found.together, at_once), at_once, found.elsewhere)


def _elsewhere(node: Mapping[str, Any]) -> Way:
    """On machines whose cores Slurm or Ray divides."""
    return Way()


def _basic(node: Mapping[str, Any]) -> Way:
    return Way(elsewhere=False)


def _joblib(node: Mapping[str, Any]) -> Way:
    wanted = int(node["n_jobs"])
    return Way(wanted if wanted > 0 else max(1, cores() + 1 + wanted))


def _local(node: Mapping[str, Any]) -> Way:
    """Starts all that it is given, and so gets as many as there are cores."""
    return Way(cores(), cores())


_WAYS: Mapping[str, Callable[[Mapping[str, Any]], Way]] = {
    "BasicLauncher": _basic,
    "JoblibLauncher": _joblib,
    "LocalLauncher": _local,
}
