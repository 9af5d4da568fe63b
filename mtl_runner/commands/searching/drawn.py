"""The configuration of a trial: that of the command line with the values that were drawn."""

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from mtl_runner.commands.allowed import allowed_modules
from mtl_runner.commands.composed import hydra_of, searchpath, task_config
from mtl_runner.commands.job import choices_of
from mtl_runner.commands.messages import explained
from mtl_runner.commands.safety import check_hydra_node, check_searchpath
from mtl_runner.config.plugs import SEARCH


@dataclass(frozen=True)
class Drawn:
    """A configuration, taken apart."""

    task: DictConfig
    """What a run gets."""
    search: Mapping[str, Any]
    """The node of the search; empty without one."""
    choices: Mapping[str, str]
    """The option of each group of a run."""
    whole: DictConfig
    """With Hydra's own node."""

    @property
    def raw(self) -> dict[str, Any]:
        """The task as plain data, before interpolation."""
        values = OmegaConf.to_container(self.task, resolve=False)
        assert isinstance(values, dict)
        return {str(key): value for key, value in values.items()}


class CommandLine:
    """What a command line makes of the values of a trial.

    Args:
        config_name: the primary configuration.
        config_dir: a folder of further options, as ``--config-dir`` names it.
        overrides: as typed.
    """

    def __init__(self, config_name: str, config_dir: str | None, overrides: list[str]) -> None:
        self.config_name, self.config_dir, self.overrides = config_name, config_dir, overrides
        self.allowed = allowed_modules(overrides)

    def __call__(self, drawn: Mapping[str, str] | None = None) -> Drawn:
        """The configuration with the values ``drawn``, by key.

        Raises:
            UserError: it cannot be composed, or would have Hydra do more than it may.
        """
        overrides = [*self.overrides, *(f"{key}={value}" for key, value in (drawn or {}).items())]
        args = Namespace(config_name=self.config_name, config_dir=self.config_dir, config_path=None, overrides=overrides)
        with explained(args), hydra_of(args) as hydra:
            check_searchpath(searchpath(hydra, self.config_name), self.overrides)
            whole = hydra.compose_config(self.config_name, overrides, run_mode=RunMode.RUN)
            check_hydra_node(whole.hydra, self.allowed, self.overrides)
            task = task_config(whole)
            node = OmegaConf.to_container(task[SEARCH], resolve=True) if SEARCH in task else {}
        with open_dict(task):
            task.pop(SEARCH, None)
        chosen = {group: option for group, option in choices_of(whole, whole.hydra).items() if group != SEARCH}
        assert isinstance(node, dict)
        return Drawn(task, {str(key): value for key, value in node.items()}, chosen, whole)
